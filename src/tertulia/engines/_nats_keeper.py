"""Keeping the rolls of mailboxes: markers of settled messages go once a roll covers them, and what came back is buried.

Any handle that settles messages keeps the roll of their mailbox from time to time. Of several the one that writes first
has done it, for the roll is written by compare-and-set on what was read before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from math import ceil

from msgspec import Struct, field
from msgspec.structs import replace

from tertulia._background import Background, logger
from tertulia.engines._nats_boxes import Registry
from tertulia.engines._nats_format import GONE, LIVE, ROLL, MailState, encode
from tertulia.engines._nats_mail import Mail
from tertulia.engines._nats_mailbox import View
from tertulia.engines._nats_roll import MOST, ROOM, Roll, read_roll
from tertulia.engines._nats_store import Store
from tertulia.engines._nats_stream import Write, WrongSequence
from tertulia.engines._nats_views import records_of
from tertulia.errors import AccessDeniedError, TertuliaError

DEDUP_WINDOW = 3_600.0  # seconds; a sender that retries for longer than an hour is no longer retrying
KEEP_SETTLED = 60  # seconds that it is kept that a message was settled: longer than any try at settling it
KEEP_ANSWERED = 600  # the same where an answer lies in its place
ROUND = 60.0  # seconds between two rounds of a mailbox: as long as a marker stays anyway
SHARE = 20  # a round may take one part in so many of the time until the next one
AT_ONCE = 200  # markers retired in one batch: other writes wait for it, some 20 ms
BURIED_AT_ONCE = 64  # messages buried at a time: a connection's worth


class _Book(Struct):
    """What is known of a mailbox by reading it to the end, again and again: `sure` is how far."""

    epoch: int
    sure: int = 0
    alive: dict[str, int] = field(default_factory=dict[str, int])
    lasting: dict[str, tuple[int, MailState]] = field(default_factory=dict[str, tuple[int, MailState]])
    roll: Roll = field(default_factory=Roll)
    roll_seq: int = 0
    next_round: float = 0.0


class Keeper:
    """Keeps the rolls of the mailboxes that one handle has views of."""

    def __init__(
        self, store: Store, registry: Registry, mail: Mail, background: Background, new_op: Callable[[], str]
    ) -> None:
        self._store = store
        self._subjects = store.subjects
        self._registry = registry
        self._mail = mail
        self._background = background
        self._new_op = new_op
        self._books: dict[str, _Book] = {}
        self._burying: set[str] = set()
        self._going = False
        mail.on_revived = self._bury_soon

    # --- rounds ---

    async def go_round(self) -> None:
        """Do what is due: bury what came back, and let markers go that are no longer needed."""
        if self._going:
            return
        self._going = True
        try:
            for mailbox in [one for one in self._books if self._mail.known(one) is None]:
                del self._books[mailbox]
            for view in self._mail.all_views():
                if view.revived:
                    self._bury_soon(view)
                if view.lasting:
                    await self._keep(view)
        finally:
            self._going = False

    async def _keep(self, view: View) -> None:
        now = asyncio.get_running_loop().time
        started = now()
        if not self._store.exact:
            view.lasting = False
            return
        book = self._books.get(view.mailbox)
        if book is not None and started < book.next_round:
            return
        epoch = self._store.wire.epoch
        if book is None or book.epoch != epoch:
            book = self._books[view.mailbox] = _Book(epoch)
        try:
            await self.keep(view, book)
        except AccessDeniedError:  # whose mailbox it is may do it
            view.lasting = False
        except WrongSequence:
            logger.debug("another handle keeps the roll of %r", view.mailbox)
        except TertuliaError:
            logger.warning("the roll of %r cannot be kept now", view.mailbox, exc_info=True)
        book.next_round = now() + max(ROUND, SHARE * (now() - started))

    async def keep(self, view: View, book: _Book) -> None:
        """Write a mailbox's roll, if that lets any marker go, and let those go. Raises WrongSequence."""
        await self._read(view.mailbox, book)
        now = self._mail.time.now()
        ripe = [(message_id, one) for message_id, one in book.lasting.items() if self._is_ripe(one[1], now)]
        if ripe:
            await self._let_go(view.mailbox, book, ripe)
        view.lasting = bool(book.lasting)

    async def finish(self, mailbox: str) -> None:
        """Do the same for a mailbox that was closed, whatever the age of its markers: nobody may come after."""
        if not self._store.exact:
            return
        book = _Book(self._store.wire.epoch)
        try:
            await self._read(mailbox, book)
            if book.lasting:
                await self._let_go(mailbox, book, list(book.lasting.items()))
        except (TertuliaError, WrongSequence):
            logger.warning("markers of settled messages stay in %r, which was closed", mailbox, exc_info=True)

    async def _let_go(self, mailbox: str, book: _Book, markers: Sequence[tuple[str, tuple[int, MailState]]]) -> None:
        await self._write_roll(mailbox, book)
        now = self._mail.time.now()
        covered = [one for one in markers if one[1][0] <= book.roll.upto + 1]
        for start in range(0, len(covered), AT_ONCE):
            await self._retire(mailbox, covered[start : start + AT_ONCE], now)
            for message_id, _ in covered[start : start + AT_ONCE]:
                del book.lasting[message_id]

    def _is_ripe(self, marker: MailState, now: float) -> bool:
        return marker.at + KEEP_SETTLED <= now

    async def _read(self, mailbox: str, book: _Book) -> None:
        """Take in all that was stored since the last time. What stands at a sequence then is found there, or later."""
        found = await self._store.after(book.sure, self._subjects.messages(mailbox))
        read = records_of(self._subjects, found)
        for _, seq, state in read:
            if state.kind == ROLL:
                book.roll, book.roll_seq = read_roll(state), seq
        for message_id, seq, state in read:
            book.sure = max(book.sure, seq)
            book.alive.pop(message_id, None)
            book.lasting.pop(message_id, None)
            if state.kind == LIVE and not book.roll.is_over(seq):
                book.alive[message_id] = seq
            elif state.kind == GONE and state.lasting:
                book.lasting[message_id] = seq, state

    async def _write_roll(self, mailbox: str, book: _Book) -> None:
        roll = book.roll.next(book.sure, book.alive.values(), min(MOST, self._store.wire.max_payload // ROOM))
        op = self._new_op()
        state = roll.state(op, book.roll_seq, self._mail.time.now())
        write = Write(self._subjects.roll(mailbox), encode(state), op, book.roll_seq)
        book.roll_seq = await self._store.write(write)
        book.roll = roll

    async def _retire(self, mailbox: str, markers: Sequence[tuple[str, tuple[int, MailState]]], now: float) -> None:
        """Let markers go when their time is over."""
        op = self._new_op()
        writes: list[Write] = []
        for message_id, (seq, state) in markers:
            subject = self._subjects.message(mailbox, message_id)
            mortal = replace(state, op=op, prev=seq, lasting=False)
            writes.append(Write(subject, encode(mortal), op, seq, ttl=time_to_live(state, now)))
        await self._store.write_all(writes, op)

    # --- burying ---

    def _bury_soon(self, view: View) -> None:
        if view.mailbox not in self._burying:
            self._burying.add(view.mailbox)
            self._background.start(self._bury(view), "tertulia nats burying")

    async def _bury(self, view: View) -> None:
        """Put markers in the place of messages that a server has brought back."""
        buried = 0
        try:
            while view.revived:
                some = list(view.revived.items())[:BURIED_AT_ONCE]
                buried += sum(await asyncio.gather(*[self._bury_one(view, name, *one) for name, one in some]))
        except AccessDeniedError:  # whose mailbox it is may do it
            view.revived.clear()
        except TertuliaError:
            logger.warning("settled messages of %r that came back are not removed yet", view.mailbox, exc_info=True)
        finally:
            self._burying.discard(view.mailbox)
        if buried:
            logger.warning("the server brought back settled messages of %r; %d were removed", view.mailbox, buried)

    async def _bury_one(self, view: View, message_id: str, seq: int, mail: MailState) -> bool:
        """Return whether it was there: what was read may have been settled a moment later."""
        op = self._new_op()
        box = self._registry.known(view.mailbox)
        state = MailState(
            GONE, op, seq, mail.origin, mail.first or seq, self._mail.time.now(), dedupe=mail.dedupe,
            box=0 if box is None else box.created, remembered=mail.dedupe, lasting=self._store.exact,
        )  # fmt: skip
        ttl = 0 if state.lasting else time_to_live(state, state.at)
        write = Write(self._subjects.message(view.mailbox, message_id), encode(state), op, seq, ttl=ttl)
        try:
            view.learn(message_id, await self._store.write(write), state)
        except WrongSequence:
            was_there = False
        else:
            was_there = True
        view.revived.pop(message_id, None)
        return was_there


def time_to_live(state: MailState, now: float) -> int:
    """Return how many seconds a marker is still needed for what it says beside the message's end."""
    keep = DEDUP_WINDOW if state.remembered else KEEP_ANSWERED if state.letters else 0.0
    return max(KEEP_SETTLED, ceil(state.at + keep - now))
