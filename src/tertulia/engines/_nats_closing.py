"""Closing a mailbox: its messages go to an heir, or are gone, in the same batch as far as a batch goes."""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec.structs import replace

from tertulia._background import logger
from tertulia.engines._nats_boxes import Box
from tertulia.engines._nats_commit_draft import Parts
from tertulia.engines._nats_format import (
    GONE,
    LIVE,
    WAITING,
    BoxState,
    MailState,
    bounded_notes,
    box_state,
    encode,
    mail_state,
)
from tertulia.engines._nats_keeper import KEEP_SETTLED
from tertulia.engines._nats_mailbox import Item, items_of
from tertulia.engines._nats_stream import Write, WrongSequence, pause_for
from tertulia.engines._nats_views import records_of
from tertulia.errors import TertuliaError, UnknownAgentError

AT_ONCE = 400  # messages that move in one batch: each takes two of its thousand members
LINGER = 0.5  # seconds after which it is looked for messages that were sent while the mailbox closed


class Closing:
    """Removes mailboxes.

    Where a mailbox holds more than 400 messages the oldest move ahead, in batches of their own, while it is still open.
    """

    def __init__(self, parts: Parts) -> None:
        self._ = parts

    async def close(self, mailbox: str, heir: str | None, note: bytes) -> int:
        """Remove a mailbox; return how many messages it held. Raises UnknownAgentError for the heir."""
        count = attempt = 0
        while True:
            attempt += 1
            to = None if heir is None else await self._heir(heir)
            box = await self._.registry.look_up(mailbox)
            if box is None:
                return count
            items = await self._items(mailbox)
            try:
                if len(items) > AT_ONCE:
                    await self._move(box, items[:AT_ONCE], to, note, last=False)
                    count += AT_ONCE
                    continue
                await self._move(box, items, to, note, last=True)
            except WrongSequence as wrong:
                await asyncio.sleep(pause_for(wrong, attempt))
                continue
            return count + len(items)

    async def sweep(self, mailbox: str, heir: str | None, note: bytes) -> None:
        """Move what was sent at the very moment when the mailbox closed; a new one of its name keeps what it has."""
        await asyncio.sleep(LINGER)
        subjects = self._.subjects
        try:
            found = await self._.store.get(subjects.box(mailbox))
            if found is not None and box_state(mailbox, found.data).kind == LIVE:
                return
            closed = Write(subjects.check, b"", expected=found.seq if found else 0, check=subjects.box(mailbox))
            items = await self._items(mailbox)
            if items:
                to = None if heir is None else await self._.registry.look_up(heir)
                box = Box(mailbox, 0, BoxState(GONE, "", 0))
                await self._move(box, items[:AT_ONCE], to, note, last=False, guards=(closed,))
        except WrongSequence:
            logger.debug("%r was made anew while it was swept", mailbox)
        except TertuliaError:
            logger.warning("messages sent to %r while it closed stay there", mailbox, exc_info=True)

    async def _heir(self, name: str) -> Box:
        box = await self._.registry.look_up(name)
        if box is None:
            raise UnknownAgentError(name)
        return box

    async def _items(self, mailbox: str) -> list[Item]:
        subjects = self._.subjects
        found, _ = await self._.store.many((subjects.messages(mailbox),))
        return items_of(records_of(subjects, found))

    async def _move(
        self,
        box: Box,
        items: list[Item],
        heir: Box | None,
        note: bytes,
        *,
        last: bool,
        guards: tuple[Write, ...] = (),
    ) -> None:
        """Write one batch; with `last` the mailbox goes with it. Raises WrongSequence, also for what a guard finds."""
        op, lasting = self._.new_op(), self._.store.exact
        writes: list[Write] = []
        learnt: list[tuple[str, str, MailState]] = []
        for item in items:
            gone = MailState(
                GONE,
                op,
                item.seq,
                item.mail.origin,
                item.first,
                self._.mail.time.now(),
                box=box.created,
                lasting=lasting,
            )
            learnt.append((box.name, item.message_id, gone))
            writes.append(self._write(box.name, item.message_id, gone, 0 if lasting else KEEP_SETTLED))
        if heir is not None:
            learnt += await self._inherited(items, heir, note, op)
            writes += [self._write(name, message_id, state, 0) for name, message_id, state in learnt[len(items) :]]
        closed = BoxState(GONE, op, box.seq)
        if last:
            writes += self._.registry.writes(box.name, closed, box.seq)
        if not writes:
            return
        end = await self._.store.write_all([*guards, *writes], op)
        for number, (mailbox, message_id, state) in enumerate(learnt, start=end - len(writes) + 1):
            if (view := self._.mail.known(mailbox)) is not None:
                view.learn(message_id, number, replace(state))
        if last:
            self._.registry.wrote(box.name, closed, end)

    def _write(self, mailbox: str, message_id: str, state: MailState, ttl: int) -> Write:
        return Write(self._.subjects.message(mailbox, message_id), encode(state), state.op, state.prev, ttl=ttl)

    async def _inherited(self, items: list[Item], heir: Box, note: bytes, op: str) -> list[tuple[str, str, MailState]]:
        """Return the messages as the heir gets them; under a new id where it has one of that id."""
        taken = await self._taken(items, heir)
        new: list[tuple[str, str, MailState]] = []
        for item in items:
            message_id, (expected, is_there) = item.message_id, taken.get(item.message_id, (0, False))
            if is_there:
                message_id, expected = f"{message_id}#{item.first}", 0
            notes = item.mail.notes_at(item.first)
            notes = bounded_notes((*notes, note)) if note else notes
            now = self._.mail.time.now()
            new.append(
                (
                    heir.name,
                    message_id,
                    MailState(LIVE, op, expected, op, 0, now, item.mail.body, state=WAITING, notes=notes),
                )
            )
        return new

    async def _taken(self, items: list[Item], heir: Box) -> dict[str, tuple[int, bool]]:
        """Return what the heir's subjects of these ids hold: sequence, and whether a message is there."""
        subjects = self._.subjects
        found: list[Any] = []
        if items:
            found, _ = await self._.store.many([subjects.message(heir.name, item.message_id) for item in items])
        taken: dict[str, tuple[int, bool]] = {}
        for one in found:
            _, message_id = subjects.message_of(one.subject)
            taken[message_id] = (one.seq, mail_state(message_id, one.data).kind == LIVE)
        return taken
