"""One commit: planned with what this handle knows, carried out by compare-and-set, planned anew where it was wrong.

A plan is a list of writes, each of which states what it takes its subject to be at. One write is one message; several
are one atomic batch, in which members that only check come first. A commit is refused only after everything that it
concerns was read anew: what this handle remembers may be old.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec.structs import replace

from tertulia.engines._nats_boxes import Box, Registry
from tertulia.engines._nats_format import (
    DELAYED,
    EXPIRED,
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
from tertulia.engines._nats_history import History
from tertulia.engines._nats_keeper import DEDUP_WINDOW, KEEP_SETTLED
from tertulia.engines._nats_keys import Keys
from tertulia.engines._nats_live import Live
from tertulia.engines._nats_mail import Mail
from tertulia.engines._nats_mailbox import Item
from tertulia.engines._nats_store import Store
from tertulia.engines._nats_stream import Found, Write, WrongSequence, pause_for
from tertulia.engines.base import REPLIES, CheckFailed, Commit, Committed, Publish, Record, Send, Sent, Settle
from tertulia.errors import (
    AccessDeniedError,
    AlreadySettledError,
    EngineUnavailableError,
    MailboxFullError,
    OutcomeUnknownError,
    UnknownAgentError,
)
from tertulia.records import WhenFull

TRIES = 1_000  # times that a commit is tried against others: a minute of them
READ_AT_ONCE = 500  # subjects read in one request

_STORED = Sent(1)
_DUPLICATE = Sent(0, duplicate=True)
_NOBODY = Sent(0)


class Outdated(Exception):  # noqa: N818 - a signal between functions of this module
    """A plan fails on what may be old knowledge."""


class Committer:
    """Carries out the commits of one handle."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        registry: Registry,
        mail: Mail,
        live: Live,
        history: History,
        new_op: Callable[[], str],
    ) -> None:
        self.store = store
        self.subjects = store.subjects
        self.keys = keys
        self.registry = registry
        self.mail = mail
        self.live = live
        self.history = history
        self.new_op = new_op

    async def commit(self, commit: Commit) -> Committed:
        """Apply all of a commit, or nothing of it."""
        if self.live.setting_up:
            await self.live.ready()
        fresh = False
        for attempt in range(1, TRIES + 1):
            plan = _Plan(self, commit, fresh=fresh)
            try:
                await plan.make()
                revision = await plan.carry_out()
            except Outdated:
                fresh = True
            except WrongSequence as wrong:
                fresh = True
                await asyncio.sleep(pause_for(wrong, attempt))
            else:
                return await self._finish(plan, revision)
        raise EngineUnavailableError("what the commit concerns is written by too many others at once")

    async def _finish(self, plan: _Plan, revision: int) -> Committed:
        """Do what follows from what was written. Where that cannot be done, it is not as if nothing had happened."""
        try:
            return await plan.finish(revision)
        except EngineUnavailableError as error:
            raise OutcomeUnknownError(f"it was written, but perhaps not to all whom it concerns: {error}") from error


class _Plan:
    """What a commit is to write. Made and carried out once."""

    def __init__(self, committer: Committer, commit: Commit, *, fresh: bool) -> None:
        self._ = committer
        self.commit = commit
        self.fresh = fresh
        self.op = committer.new_op()
        self.checks: dict[str, int] = {}
        self.writes: list[Write] = []
        self._keys: dict[str, tuple[int, KeyState | None]] = {}
        self._put: list[tuple[str, KeyState, Write]] = []
        self._deleted: list[bool] = []
        self._mail: dict[str, tuple[str, str, MailState, Write]] = {}  # by subject: mailbox, id, state
        self._read: dict[str, tuple[int, MailState]] = {}
        self._sent: list[Sent] = []
        self._letters: list[Letter] = []
        self._lone: list[tuple[int, Letter, bool]] = []
        self._embedded: list[Letter] = []
        self._growth: dict[str, int] = {}
        self._dropped: set[str] = set()
        self._boxes: dict[str, Box] = {}
        self._topics = False
        self._stamped: list[tuple[str, int]] = []  # subject of a message, and the place of the put it is about

    async def make(self) -> None:
        """Judge everything, and gather the writes. Raises what the contract says, or Outdated."""
        commit = self.commit
        if commit.checks or commit.puts or commit.deletes:
            await self._load_keys()
            self._judge_checks()
        if self.fresh and (commit.settles or commit.sends):
            await self._load_mail()
        for settle in commit.settles:
            await self._settle(settle)
        self._plan_keys()
        for send in commit.sends:
            self._sent.append(await self._publish(send) if isinstance(send, Publish) else await self._send(send))
        await self._make_room()
        if self._stamped:
            self._stamp()

    # --- keys ---

    async def _load_keys(self) -> None:
        keys, commit = self._.keys, self.commit
        wanted = dict.fromkeys(
            [one.key for one in commit.checks] + [one.key for one in commit.puts] + [one.key for one in commit.deletes]
        )
        unknown = [key for key in wanted if self.fresh or keys.known(key) is None]
        for found in await self._read_all([self._.subjects.key(key) for key in unknown]):
            key, state = keys.found(found)
            self._keys[key] = (found.seq, state)
        for key in wanted:
            if key not in self._keys:
                known = None if key in unknown else keys.known(key)
                self._keys[key] = (0, None) if known is None else known
        for key, (seq, state) in list(self._keys.items()):
            if state is not None and state.kind == LIVE and keys.is_over(state):
                try:
                    await keys.end(key, seq)  # watchers see its end before anything else becomes of it
                except AccessDeniedError:  # whoever may write it does that
                    self._keys[key] = seq, replace(state, kind=EXPIRED)
                    continue
                known = keys.known(key)
                if known is None or known[1].kind == LIVE:
                    raise Outdated
                self._keys[key] = known

    async def _read_all(self, subjects: list[str]) -> list[Found]:
        """Return what these subjects hold; all at one moment where they are not too many."""
        if len(subjects) == 1:
            one = await self._.store.get(subjects[0])
            return [] if one is None else [one]
        found: list[Found] = []
        for start in range(0, len(subjects), READ_AT_ONCE):
            found += (await self._.store.many(subjects[start : start + READ_AT_ONCE]))[0]
        return found

    def _live(self, key: str) -> tuple[int, KeyState | None]:
        seq, state = self._keys[key]
        return seq, state if state is not None and state.kind == LIVE else None

    def _judge_checks(self) -> None:
        for check in self.commit.checks:
            seq, state = self._live(check.key)
            try:
                check.judge(None if state is None else state.record(check.key, seq))
            except CheckFailed:
                if not self.fresh:
                    raise Outdated from None
                raise

    def _plan_keys(self) -> None:
        keys, subjects, commit = self._.keys, self._.subjects, self.commit
        for put in commit.puts:
            seq, old = self._live(put.key)
            self._write_key(put.key, keys.put_state(put, seq, old, self.op))
        for delete in commit.deletes:
            seq, old = self._live(delete.key)
            self._deleted.append(old is not None)
            if old is not None:
                self._write_key(delete.key, keys.gone_state(seq, self.op))
            else:
                self.checks[subjects.key(delete.key)] = seq
        written = {key for key, _, _ in self._put}
        for check in commit.checks:
            if check.key not in written:
                self.checks[subjects.key(check.key)] = self._keys[check.key][0]

    def _write_key(self, key: str, state: KeyState) -> None:
        write = self._.keys.write_of(key, state)
        self._put.append((key, state, write))
        self.writes.append(write)

    # --- messages ---

    async def _load_mail(self) -> None:
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
        for found in await self._read_all(list(dict.fromkeys(wanted))):
            mailbox, message_id = subjects.message_of(found.subject)
            state = mail_state(message_id, found.data)
            if (view := self._.mail.known(mailbox)) is not None:
                view.learn(message_id, found.seq, replace(state))
                if state.kind == LIVE and view.is_gone(message_id, found.seq):
                    state = replace(state, kind=GONE)  # a server has brought it back
            self._read[found.subject] = (found.seq, state)

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

    async def _settle(self, settle: Settle) -> None:
        item = await self._stored(settle.mailbox, settle.message_id)
        if item is None or (settle.sequence and item.first != settle.sequence):
            if not self.fresh:
                raise Outdated
            raise AlreadySettledError(settle.mailbox, settle.message_id)
        await self._.registry.load()
        box = self._.registry.known(settle.mailbox)
        self._growth[settle.mailbox] = self._growth.get(settle.mailbox, 0) - 1
        self._write_gone(settle.mailbox, item, 0 if box is None else box.created, remembered=item.mail.dedupe)

    def _write_gone(self, mailbox: str, item: Item, box: int, *, remembered: bool) -> None:
        """Plan that a message goes; with it go letters to the listener that looks for them there."""
        letters: tuple[Letter, ...] = ()
        settles = [(one.mailbox, one.message_id) for one in self.commit.settles]
        if item.mail.home and settles == [(mailbox, item.message_id)]:
            letters = self._letters_for(item.mail.home, mailbox, self._.subjects.message(mailbox, item.message_id))
        mail = item.mail
        state = MailState(
            GONE, self.op, item.seq, mail.origin, item.first, self._.mail.time.now(), dedupe=mail.dedupe, box=box,
            remembered=remembered, letters=letters, lasting=True,
        )  # fmt: skip
        self._embedded += letters
        self._write_mail(mailbox, item.message_id, state, item.seq)

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

    def _write_mail(self, mailbox: str, message_id: str, state: MailState, expected: int) -> None:
        subject = self._.subjects.message(mailbox, message_id)
        planned = self._mail.get(subject)
        if planned is not None:  # settled by this very commit, and stored anew: the latter says both
            self.writes = [one for one in self.writes if one is not planned[3]]
        write = Write(subject, encode(state), self.op, expected)
        self.writes.append(write)
        self._mail[subject] = (mailbox, message_id, state, write)

    async def _send(self, send: Send) -> Sent:
        live = self._.live
        if send.mailbox in live.listeners:
            self._letters.append(Letter(send.mailbox, send.message_id, send.body, author=send.author))
            return _STORED
        if any(one.message_id == send.message_id and one.mailbox == send.mailbox for one in self._embedded):
            return _STORED
        if send.mailbox.startswith(REPLIES):
            return await self._send_letter(send)
        box = self._boxes.get(send.mailbox)
        if box is None:
            find = self._.registry.look_up if self.fresh else self._.registry.find
            box = await find(send.mailbox)
        return await self._send_letter(send) if box is None else await self._store(box, send)

    async def _send_letter(self, send: Send) -> Sent:
        """Plan a message to what is no mailbox: a listener of another handle, or nobody."""
        letter = Letter(send.mailbox, send.message_id, send.body, author=send.author)
        if len(self.commit.sends) == 1 and not (self.commit.settles or self.commit.puts or self.commit.deletes):
            self._lone.append((len(self._sent), letter, send.optional))
            return _STORED
        if await self._.live.is_listened_to(send.mailbox):
            self.writes.append(self._.live.letter_write(letter, self.op))
            return _STORED
        if send.optional:
            return _NOBODY
        raise UnknownAgentError(send.mailbox)

    async def _publish(self, publish: Publish) -> Sent:
        self._topics = True
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
        self._boxes[box.name] = box
        planned = self._mail.get(subject)
        if planned is not None:
            old = planned[2]
            if old.kind == LIVE or (send.dedupe and old.dedupe):
                return _DUPLICATE
            expected = old.prev
        else:
            item = await self._stored(box.name, send.message_id)
            read = self._read.get(subject)
            if item is not None or (read is not None and self._is_remembered(read[1], box, send)):
                self.checks[subject] = item.seq if item is not None else read[0] if read is not None else 0
                return _DUPLICATE
            expected = 0 if read is None else read[0]
        self._write_mail(box.name, send.message_id, self._new_mail(send, expected), expected)
        if send.stamp is not None:
            self._stamped.append((subject, send.stamp))
        self._growth[box.name] = self._growth.get(box.name, 0) + 1
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

    def _stamp(self) -> None:
        """Write into messages how far before them the puts that they are about come."""
        place = {id(write): number for number, write in enumerate(self.writes)}
        for subject, number in self._stamped:
            _, _, state, write = self._mail[subject]
            _, put, put_write = self._put[number]
            state.stamp = (place[id(write)] - place[id(put_write)], put.version)
            write.data = encode(state)

    async def _make_room(self) -> None:
        """Drop what has to go, or raise MailboxFullError."""
        for name, box in self._boxes.items():
            growth = self._growth.get(name, 0)
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
            if mine and self._sent[number].delivered and dropped:
                self._sent[number] = Sent(
                    self._sent[number].delivered, self._sent[number].duplicate, (*self._sent[number].dropped, *dropped)
                )
                dropped = ()

    # --- carrying out ---

    async def carry_out(self) -> int:
        """Write everything; return the sequence of the last write. Raises WrongSequence."""
        store, subjects = self._.store, self._.subjects
        if not self.writes:
            if self.checks and not self.fresh:
                raise Outdated  # nothing to write is only right if all is as it seems
            return await store.last_sequence()
        if len(self.writes) == 1 and not self.checks:
            return await store.write(self.writes[0])
        written = {one.subject for one in self.writes}
        guards = {subject: seq for subject, seq in self.checks.items() if subject not in written}
        if self._topics:
            guards[subjects.registry] = self._.registry.seq
        for name, box in self._boxes.items():
            if self._growth.get(name, 0) > 0:
                guards[subjects.box(name)] = box.seq
        members = [Write(subjects.check, b"", expected=seq, check=subject) for subject, seq in guards.items()]
        return await store.write_all([*members, *self.writes], self.op)

    async def finish(self, last: int) -> Committed:
        """Take in what was written, and tell whom it concerns; return the outcome."""
        first = last - len(self.writes) + 1
        place = {one.subject: first + number for number, one in enumerate(self.writes)}
        records: list[Record] = []
        for key, state, write in self._put:
            seq = place[write.subject]
            self._.keys.wrote(key, seq, state)
            self._.history.add(key, seq, write.data)
            if state.kind == LIVE:
                records.append(state.record(key, seq))
        for subject, (mailbox, message_id, state, _) in self._mail.items():
            self._learn_mail(mailbox, message_id, state, place[subject])
        for letter in self._letters:
            self._.live.listeners[letter.mailbox].take(replace(letter, sequence=last))
        self._.live.deliver_soon(self._embedded)
        for number, letter, optional in self._lone:
            await self._deliver(number, replace(letter, sequence=last), optional=optional)
        if len(self.writes) == 1 and self._boxes:
            await self._check_boxes(last)
        return Committed(last, tuple(records), tuple(self._deleted), tuple(self._sent))

    def _learn_mail(self, mailbox: str, message_id: str, state: MailState, seq: int) -> None:
        mail = self._.mail
        if (view := mail.known(mailbox)) is not None:
            view.learn(message_id, seq, state)
            view.sent += state.kind == LIVE
        if state.kind == LIVE and state.home:
            self._.live.expect_answer(self._.subjects.message(mailbox, message_id))

    async def _deliver(self, number: int, letter: Letter, *, optional: bool) -> None:
        if await self._.live.deliver(letter):
            return
        if not optional:
            raise UnknownAgentError(letter.mailbox)
        self._sent[number] = _NOBODY

    async def _check_boxes(self, last: int) -> None:
        """See that a single message was stored where it should be.

        What changed of mailboxes before it was stored is known by now: the feed comes before the acknowledgement.
        """
        registry = self._.registry
        for name, box in self._boxes.items():
            now = registry.known(name)
            if now is None or now.created != box.created:
                await self._undo(name, box, last)
        if self._topics and registry.seq < last:
            await self._reach_new_subscribers()

    async def _undo(self, name: str, box: Box, last: int) -> None:
        [(_, message_id, state, _)] = [one for one in self._mail.values() if one[0] == name]
        item = Item(message_id, last, last, state)
        gone = MailState(GONE, self.op, last, state.origin, last, self._.mail.time.now(), box=box.created)
        subject = self._.subjects.message(name, item.message_id)
        try:
            await self._.store.write(Write(subject, encode(gone), self.op, last, ttl=KEEP_SETTLED))
        except WrongSequence:
            return  # it went to the heir
        raise UnknownAgentError(name)

    async def _reach_new_subscribers(self) -> None:
        """Store a publication for who subscribed between its planning and its storing."""
        for number, publish in enumerate(self.commit.sends):
            if not isinstance(publish, Publish):
                continue
            for name in await self._.registry.subscribers(publish.topic, fresh=False):
                if name not in self._boxes:
                    send = Send(
                        name,
                        publish.message_id,
                        publish.body,
                        publish.delay,
                        publish.dedupe,
                        publish.notes,
                        optional=True,
                    )
                    more = (await self._.commit(Commit(sends=(send,)))).sent[0]
                    sent = self._sent[number]
                    self._sent[number] = Sent(
                        sent.delivered + more.delivered,
                        sent.duplicate and more.duplicate,
                        (*sent.dropped, *more.dropped),
                    )
