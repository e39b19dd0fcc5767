"""The part of a commit that concerns messages: what it settles and sends, and what has to go for that."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from tertulia.engines._nats_boxes import Box
from tertulia.engines._nats_commit_draft import Draft, Outdated
from tertulia.engines._nats_format import (
    DELAYED,
    GONE,
    LIVE,
    WAITING,
    KeyState,
    Letter,
    MailState,
    bounded_notes,
    encode,
    mail_state,
)
from tertulia.engines._nats_keeper import DEDUP_WINDOW, time_to_live
from tertulia.engines._nats_mailbox import Item
from tertulia.engines._nats_stream import Write
from tertulia.engines.base import REPLIES, Publish, Send, Sent, Settle
from tertulia.errors import AlreadySettledError, MailboxFullError, UnknownAgentError
from tertulia.records import WhenFull

NOBODY = Sent(0)
_STORED = Sent(1)
_DUPLICATE = Sent(0, duplicate=True)


class MailPlan:
    """Plans in a draft what becomes of messages.

    `sent` has an outcome for each that is sent. `letters` are for listeners of this handle, `embedded` lie in requests
    that are settled, `lone` (place, letter, whether it may be for nobody) is handed over after there was nothing to
    write. `growth` is by how much mailboxes grow, `topics` whether subscribers were looked up.
    """

    def __init__(self, draft: Draft) -> None:
        self._ = draft.parts
        self._draft = draft
        self.commit = draft.commit
        self.fresh = draft.fresh
        self.op = draft.op
        self.planned: dict[str, tuple[str, str, MailState, Write]] = {}  # by subject: mailbox, id, state
        self.sent: list[Sent] = []
        self.letters: list[Letter] = []
        self.lone: list[tuple[int, Letter, bool]] = []
        self.embedded: list[Letter] = []
        self.growth: dict[str, int] = {}
        self.boxes: dict[str, Box] = {}
        self.topics = False
        self._read: dict[str, tuple[int, MailState]] = {}
        self._stamped: list[tuple[str, int]] = []  # subject of a message, and the place of the put it is about

    async def plan(self, put: Sequence[tuple[str, KeyState, Write]]) -> None:
        """Plan what is sent; settles come before, so that an id may come anew. `put`: the puts of the same commit.

        Raises MailboxFullError, UnknownAgentError, Outdated.
        """
        for send in self.commit.sends:
            self.sent.append(await self._publish(send) if isinstance(send, Publish) else await self._send(send))
        await self._make_room()
        if self._stamped:
            self._stamp(put)

    async def load(self) -> None:
        """Read anew what the settles and sends concern."""
        subjects = self._.subjects
        await self._.registry.load()
        wanted = [subjects.message(one.mailbox, one.message_id) for one in self.commit.settles]
        for send in self.commit.sends:
            if isinstance(send, Publish):
                names = await self._.registry.subscribers(send.topic, fresh=True)
                wanted += [subjects.message(name, send.message_id) for name in names]
            else:
                wanted.append(subjects.message(send.mailbox, send.message_id))
        for found in await self._draft.read_all(list(dict.fromkeys(wanted))):
            mailbox, message_id = subjects.message_of(found.subject)
            state = mail_state(message_id, found.data)
            if (view := self._.mail.known(mailbox)) is not None:
                view.learn(message_id, found.seq, replace(state))
                if state.kind == LIVE and view.is_gone(message_id, found.seq):
                    state = replace(state, kind=GONE)  # a server has brought it back
            self._read[found.subject] = (found.seq, state)

    async def settle(self, settle: Settle) -> None:
        """Plan that a message is settled. Raises AlreadySettledError, Outdated."""
        item = await self._stored(settle.mailbox, settle.message_id)
        if item is None or (settle.sequence and item.first != settle.sequence):
            if not self.fresh:
                raise Outdated
            raise AlreadySettledError(settle.mailbox, settle.message_id)
        await self._.registry.load()
        box = self._.registry.known(settle.mailbox)
        self.growth[settle.mailbox] = self.growth.get(settle.mailbox, 0) - 1
        self._write_gone(settle.mailbox, item, 0 if box is None else box.created, remembered=item.mail.dedupe)

    async def _stored(self, mailbox: str, message_id: str) -> Item | None:
        """Return a message, if it is there."""
        if not self.fresh:
            view = self._.mail.known(mailbox)
            item = None if view is None else view.items.get(message_id)
            if item is not None:
                return item
        read = self._read.get(self._.subjects.message(mailbox, message_id)) if self._read else None
        if read is None or read[1].kind != LIVE:
            return None
        return Item(message_id, read[0], read[1].first or read[0], read[1])

    def _write_gone(self, mailbox: str, item: Item, box: int, *, remembered: bool) -> None:
        """Plan that a message goes; with it go letters to the listener that looks for them there."""
        letters: tuple[Letter, ...] = ()
        settles = [(one.mailbox, one.message_id) for one in self.commit.settles]
        if item.mail.home and settles == [(mailbox, item.message_id)]:
            letters = self._letters_for(item.mail.home, mailbox, self._.subjects.message(mailbox, item.message_id))
        mail = item.mail
        state = MailState(
            GONE, self.op, item.seq, mail.origin, item.first, self._.mail.time.now(), dedupe=mail.dedupe, box=box,
            remembered=remembered, letters=letters, lasting=self._.store.exact,
        )  # fmt: skip
        self.embedded += letters
        ttl = 0 if state.lasting else time_to_live(state, state.at)
        self._write_mail(mailbox, item.message_id, state, item.seq, ttl)

    def _letters_for(self, home: str, mailbox: str, subject: str) -> tuple[Letter, ...]:
        """Return the commit's letters to a listener that waits for an answer at a subject.

        Whoever reads them there takes them for the mailbox's owner's, so no others are put there.
        """
        sends = [one for one in self.commit.sends if isinstance(one, Send) and one.mailbox == home]
        if home in self._.live.listeners or sum(len(one.body) for one in sends) > self._.store.wire.max_payload // 2:
            return ()
        if any(one.author not in ("", mailbox) for one in sends):
            return ()
        return tuple([Letter(one.mailbox, one.message_id, one.body, 0, False, subject, one.author) for one in sends])  # noqa: FBT003

    def _write_mail(self, mailbox: str, message_id: str, state: MailState, expected: int, ttl: int = 0) -> None:
        subject = self._.subjects.message(mailbox, message_id)
        planned = self.planned.get(subject)
        if planned is not None:  # settled by this very commit, and stored anew: the latter says both
            self._draft.writes = [one for one in self._draft.writes if one is not planned[3]]
        write = Write(subject, encode(state), self.op, expected, ttl=ttl)
        self._draft.writes.append(write)
        self.planned[subject] = (mailbox, message_id, state, write)

    async def _send(self, send: Send) -> Sent:
        live = self._.live
        if send.mailbox in live.listeners:
            self.letters.append(Letter(send.mailbox, send.message_id, send.body, author=send.author))
            return _STORED
        if any(one.message_id == send.message_id and one.mailbox == send.mailbox for one in self.embedded):
            return _STORED
        if send.mailbox.startswith(REPLIES):
            return await self._send_letter(send)
        box = self.boxes.get(send.mailbox)
        if box is None:
            find = self._.registry.look_up if self.fresh else self._.registry.find
            box = await find(send.mailbox)
        return await self._send_letter(send) if box is None else await self._store(box, send)

    async def _send_letter(self, send: Send) -> Sent:
        """Plan a message to what is no mailbox: a listener of another handle, or nobody."""
        letter = Letter(send.mailbox, send.message_id, send.body, author=send.author)
        if len(self.commit.sends) == 1 and not (self.commit.settles or self.commit.puts or self.commit.deletes):
            self.lone.append((len(self.sent), letter, send.optional))
            return _STORED
        if await self._.live.is_listened_to(send.mailbox):
            self._draft.writes.append(self._.live.letter_write(letter, self.op))
            return _STORED
        if send.optional:
            return NOBODY
        raise UnknownAgentError(send.mailbox)

    async def _publish(self, publish: Publish) -> Sent:
        self.topics = True
        names = await self._.registry.subscribers(publish.topic, fresh=False)
        if not names and not self.fresh:
            raise Outdated
        outcomes: list[Sent] = []
        for name in names:
            box = self._.registry.known(name)
            if box is not None:
                outcomes.append(await self._store(box, publish))
        return Sent(sum(one.delivered for one in outcomes), bool(outcomes) and all(one.duplicate for one in outcomes))

    async def _store(self, box: Box, send: Send | Publish) -> Sent:
        """Plan that a message is stored, unless its id is known."""
        subject = self._.subjects.message(box.name, send.message_id)
        self.boxes[box.name] = box
        planned = self.planned.get(subject)
        if planned is not None:
            old = planned[2]
            if old.kind == LIVE or (send.dedupe and old.dedupe):
                return _DUPLICATE
            expected = old.prev
        else:
            item = await self._stored(box.name, send.message_id)
            read = self._read.get(subject)
            if item is not None or (read is not None and self._is_remembered(read[1], box, send)):
                self._draft.checks[subject] = item.seq if item is not None else read[0] if read is not None else 0
                return _DUPLICATE
            expected = 0 if read is None else read[0]
        self._write_mail(box.name, send.message_id, self._new_mail(send, expected), expected)
        if send.stamp is not None:
            self._stamped.append((subject, send.stamp))
        self.growth[box.name] = self.growth.get(box.name, 0) + 1
        return _STORED

    def _is_remembered(self, state: MailState, box: Box, send: Send | Publish) -> bool:
        young = state.at + DEDUP_WINDOW > self._.mail.time.now()
        return send.dedupe and state.remembered and state.box == box.created and young

    def _new_mail(self, send: Send | Publish, expected: int) -> MailState:
        now = self._.mail.time.now()
        state, due = (DELAYED, now + send.delay) if send.delay > 0.0 else (WAITING, 0.0)
        home = "" if isinstance(send, Publish) else send.answer_to
        return MailState(
            LIVE, self.op, expected, self.op, 0, now, send.body, send.dedupe, state, due,
            notes=bounded_notes(send.notes), home=home if home in self._.live.listeners else "",
        )  # fmt: skip

    def _stamp(self, puts: Sequence[tuple[str, KeyState, Write]]) -> None:
        """Write into messages how far before them the puts that they are about come."""
        place = {id(write): number for number, write in enumerate(self._draft.writes)}
        for subject, number in self._stamped:
            _, _, state, write = self.planned[subject]
            _, put, put_write = puts[number]
            state.stamp = (place[id(write)] - place[id(put_write)], put.version)
            write.data = encode(state)

    async def _make_room(self) -> None:
        """Drop what has to go, or raise MailboxFullError."""
        for name, box in self.boxes.items():
            growth = self.growth.get(name, 0)
            if growth <= 0:
                continue
            free, view = await self._.mail.room(box, growth)
            if free >= growth:
                continue
            if box.when_full is not WhenFull.DROP_OLDEST:
                raise MailboxFullError(name, len(view.items), waits=box.when_full is WhenFull.WAIT)
            settled = {one.message_id for one in self.commit.settles if one.mailbox == name}
            goes = [
                item for item in view.droppable(growth - free + len(settled), self._.mail.time.now())
                if item.message_id not in settled
            ][: growth - free]  # fmt: skip
            if len(goes) < growth - free:
                raise MailboxFullError(name, len(view.items))
            self._drop(box, goes)

    def _drop(self, box: Box, goes: list[Item]) -> None:
        for item in goes:
            self._write_gone(box.name, item, box.created, remembered=False)
        dropped = tuple([(box.name, item.message_id) for item in goes])
        for number, send in enumerate(self.commit.sends):
            mine = isinstance(send, Publish) or send.mailbox == box.name
            if mine and self.sent[number].delivered and dropped:
                self.sent[number] = Sent(
                    self.sent[number].delivered, self.sent[number].duplicate, (*self.sent[number].dropped, *dropped)
                )
                dropped = ()
