"""Claiming messages, keeping and giving up leases, room in mailboxes: what this handle's views are for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from msgspec.structs import replace

from tertulia._background import Background, logger
from tertulia._clock import Clock
from tertulia.engines._nats_boxes import Box, Registry
from tertulia.engines._nats_format import (
    DELAYED,
    LEASED,
    LIVE,
    WAITING,
    MailState,
    bounded_notes,
    encode,
    mail_state,
)
from tertulia.engines._nats_mailbox import Item, View, items_of, wake_one
from tertulia.engines._nats_store import Store
from tertulia.engines._nats_stream import Write, WrongSequence, pause_for
from tertulia.engines._nats_time import SharedTime
from tertulia.engines._nats_views import Views, records_of
from tertulia.engines.base import Claimed, Stored
from tertulia.errors import LeaseLostError, SpaceClosedError, TertuliaError

LOOK_EVERY = 10.0  # seconds that a sender trusts what it knows of a mailbox with room
LOOK_OFTEN = 1.0  # the same for one that is more than half full
LOOK_LEFT_OUT = 1.0  # seconds between looks of who claims for what the feed left out, where it may
GIVE_UP = 1.0  # seconds that a claim that was cancelled may take to give back what it has got just then
SPARE = 4  # a sender looks again after as many messages as a quarter of the room that it last saw


T = TypeVar("T")


class _Attempt:
    """A try at claiming: whether whoever wanted it has gone, and whether what was claimed was given back."""

    __slots__ = ("abandoned", "returned")

    def __init__(self) -> None:
        self.abandoned = False
        self.returned = False


class Mail(Views):
    """The mailboxes that this handle claims from and sends to."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        clock: Clock,
        time: SharedTime,
        background: Background,
        new_op: Callable[[], str],
    ) -> None:
        super().__init__(store, registry, clock, time, background)
        self._new_op = new_op
        self._claims: set[asyncio.Task[Any]] = set()

    async def key_of(self, mailbox: str, message_id: str) -> str:
        """Return what the oldest message of an id is kept under, whoever sent it; the id itself where there is none."""
        stored = await self.browse(mailbox, 1, message_id)
        return stored[0].message_id if stored else message_id

    # --- claiming ---

    async def claim(self, mailbox: str, limit: int, lease: float, wait: float | None) -> list[Claimed]:
        """Take up to `limit` messages under a lease, oldest first; wait for the first. Raises UnknownAgentError."""
        box = await self._registry.require(mailbox)
        view = await self.live(mailbox)
        if taken := await self._take(view, box, limit, lease):
            return taken
        if wait == 0.0:
            await asyncio.gather(self.look(view), self._registry.look_up(mailbox))
            return await self._take(view, await self._registry.require(mailbox), limit, lease)
        deadline = None if wait is None else self._clock.monotonic() + wait
        try:
            while await self._wait_in(view, view.claimants, deadline):
                box = await self._registry.require(mailbox)
                view = await self.live(mailbox)
                if taken := await self._take(view, box, limit, lease):
                    return taken
        except asyncio.CancelledError:
            wake_one(view.claimants)
            raise
        return []

    async def _take(self, view: View, box: Box, limit: int, lease: float) -> list[Claimed]:
        """Claim what can be claimed now."""
        ordered = box.state.ordered
        if view.transients and not (ordered and view.items):
            taken = [view.transients.popleft() for _ in range(min(limit, len(view.transients)))]
            if view.transients:
                wake_one(view.claimants)
            return taken
        while chosen := await self._choose(view, limit, ordered=ordered):
            attempt = _Attempt()
            work = self._counted(self._claim_all(view, box, chosen, lease, attempt))
            try:
                claims = await asyncio.shield(work)
            except asyncio.CancelledError:
                await self._give_up(attempt, work)
                raise
            if attempt.returned:
                raise SpaceClosedError
            taken = sorted([one for one in claims if one is not None], key=lambda one: one.sequence)
            if taken:
                if view.has_claimable(self.time.now(), ordered=ordered):
                    wake_one(view.claimants)
                return taken
        if view.claimants:
            self._wait_for_due(view)
        return []

    async def _choose(self, view: View, limit: int, *, ordered: bool) -> list[Item]:
        """Choose from all that is stored, as far as is known; the feed of several replicas may leave something out."""
        if not view.live:
            await self.live(view.mailbox)
        elif not self._store.single and asyncio.get_running_loop().time() > view.looked + LOOK_LEFT_OUT:
            await self.look(view)
        return view.choose(limit, self.time.now(), ordered=ordered)

    async def _claim_all(
        self, view: View, box: Box, chosen: list[Item], lease: float, attempt: _Attempt
    ) -> list[Claimed | None]:
        """Try to claim messages; what nobody waits for any more is given back at once."""
        work = [self._claim_one(view, box, item, lease) for item in chosen]
        results = await asyncio.gather(*work, return_exceptions=True)
        claims = [one for one in results if not isinstance(one, BaseException)]
        if self.closed or attempt.abandoned:
            attempt.returned = True
            await self._unclaim(claims)
        failed = [one for one in results if isinstance(one, BaseException)]
        if failed and not any(claims):
            raise failed[0]
        return claims

    async def _give_up(self, attempt: _Attempt, work: asyncio.Task[list[Claimed | None]]) -> None:
        """See that a claim that was cancelled holds nothing, before its end is told; for a moment, not for ever."""
        attempt.abandoned = True
        await asyncio.wait([work], timeout=GIVE_UP)
        if work.done() and not attempt.returned and not work.cancelled() and work.exception() is None:
            await asyncio.wait([self._counted(self._unclaim(work.result()))], timeout=GIVE_UP)

    def _counted(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something that has to come to its end before the handle closes."""
        task = asyncio.get_running_loop().create_task(work, name="tertulia nats claim")
        self._claims.add(task)
        task.add_done_callback(self._claims.discard)
        return task

    async def at_rest(self) -> None:
        """Wait until no claim is under way."""
        while self._claims:
            await asyncio.wait(self._claims)

    async def _claim_one(self, view: View, box: Box, item: Item, lease: float) -> Claimed | None:
        """Try to claim a message; what becomes of it is learnt either way."""
        mail = item.mail
        if item.bare:
            fresh = await self._read(view, item.message_id)
            if fresh is None or fresh.seq != item.seq:
                item.taken = False
                return None
            mail = fresh.mail
        now = self.time.now()
        new = replace(
            mail, state=LEASED, due=now + lease, attempt=mail.attempt + 1, failures=item.failures, first=item.first
        )
        try:
            await self._rewrite(view, item.message_id, item.seq, new)
        except WrongSequence as wrong:
            await asyncio.sleep(pause_for(wrong, 1))
            await self._read(view, item.message_id)
            view.put_back(item)
            return None
        except BaseException:
            view.put_back(item)
            raise
        return Claimed(
            view.mailbox, item.message_id, new.body, item.first, new.attempt, new.failures, new.notes_at(item.first),
            False,  # noqa: FBT003 - transient
            self._clock.monotonic() + lease, box.state.max_attempts,
        )  # fmt: skip

    async def _rewrite(self, view: View, message_id: str, expected: int, mail: MailState) -> int:
        """Replace a message's state. Raises WrongSequence."""
        op = self._new_op()
        mail = replace(mail, op=op, prev=expected)
        subject = self._subjects.message(view.mailbox, message_id)
        seq = await self._store.write(Write(subject, encode(mail), op, expected))
        view.learn(message_id, seq, mail)
        return seq

    async def _read(self, view: View, message_id: str) -> Item | None:
        """Read a message anew; return it if it is still there, with its body."""
        found = await self._store.get(self._subjects.message(view.mailbox, message_id))
        if found is None:
            view.drop(message_id)
            view.live = view.live and self._store.single  # perhaps it is there, and others, and that server is behind
            return None
        mail = mail_state(message_id, found.data)
        view.learn(message_id, found.seq, replace(mail))
        if mail.kind != LIVE or view.is_gone(message_id, found.seq):
            return None
        return Item(message_id, found.seq, mail.first or found.seq, mail)

    async def _unclaim(self, claims: Sequence[Claimed | None]) -> None:
        """Give claims back as if they had never been: the attempts do not count."""
        for claimed in claims:
            view = None if claimed is None else self._views.get(claimed.mailbox)
            item = None if claimed is None or view is None else self._held(view, claimed)
            if claimed is None or view is None or item is None:
                continue
            mail = replace(item.mail, body=claimed.body, state=WAITING, due=0.0, attempt=claimed.attempt - 1)
            try:
                await self._rewrite(view, claimed.message_id, item.seq, mail)
            except (WrongSequence, TertuliaError):
                logger.warning("a claim could not be given back; its lease has to run out", exc_info=True)

    # --- leases ---

    def _held(self, view: View, claimed: Claimed) -> Item | None:
        """Return the message if, as far as is known, this attempt still holds its lease."""
        item = view.items.get(claimed.message_id)
        if item is None or item.first != claimed.sequence or item.mail.attempt != claimed.attempt:
            return None
        return item if item.mail.state == LEASED and item.mail.due > self.time.now() else None

    async def _change(self, claimed: Claimed, note: bytes = b"", **fields: Any) -> bool:
        """Rewrite a message that this attempt holds; return False if it does not hold it any more."""
        view = self.view(claimed.mailbox)
        for _ in range(2):
            item = self._held(view, claimed)
            if item is not None:
                notes = bounded_notes((*item.mail.notes, note)) if note else item.mail.notes
                mail = replace(item.mail, body=claimed.body, notes=notes, **fields)
                try:
                    await self._rewrite(view, claimed.message_id, item.seq, mail)
                except WrongSequence:
                    pass  # others were faster, or the view is behind: look
                else:
                    return True
            await self._read(view, claimed.message_id)
        return False

    async def extend(self, claimed: Claimed, lease: float) -> None:
        """Make the lease end `lease` seconds from now. Raises LeaseLostError."""
        if not await self._change(claimed, due=self.time.now() + lease):
            raise LeaseLostError(claimed.message_id)

    async def release(self, claimed: Claimed, delay: float, note: bytes, *, counted: bool) -> bool:
        """Give the message back; return False if the lease was lost or settled."""
        return await self._change(
            claimed,
            note,
            state=DELAYED if delay > 0.0 else WAITING,
            due=self.time.now() + delay if delay > 0.0 else 0.0,
            failures=claimed.failures + counted,
        )

    # --- room ---

    async def room(self, box: Box, growth: int) -> tuple[int, View]:
        """Return how many more messages than there are fit into a mailbox, as far as this handle must know.

        It looks when it has not for a while, has sent a good part of the room it saw, or sees none.
        """
        view = self.view(box.name)
        if not view.live:
            age = asyncio.get_running_loop().time() - view.looked
            free = box.max_size - len(view.items)
            often = free * 2 < box.max_size
            if not view.looked or age > (LOOK_OFTEN if often else LOOK_EVERY) or view.sent + growth > free // SPARE:
                await self.look(view)
        if box.max_size - len(view.items) < growth:
            await self.look(view)
        return box.max_size - len(view.items), view

    async def wait_for_room(self, mailbox: str, timeout: float) -> bool:
        """Wait until the mailbox can take a message; return False after `timeout` s. Raises UnknownAgentError."""
        deadline = self._clock.monotonic() + timeout
        while True:
            box = await self._registry.require(mailbox)
            view = await self.live(mailbox)
            if (await self.room(box, 1))[0] > 0:
                return True
            if not await self._wait_in(view, view.senders, deadline):
                return False

    # --- looking ---

    async def browse(self, mailbox: str, limit: int, message_id: str | None) -> list[Stored]:
        """Show stored messages, oldest first."""
        now = self.time.now()
        subjects = self._subjects
        wanted = subjects.messages(mailbox) if message_id is None else subjects.messages_called(mailbox, message_id)
        found, _ = await self._store.many((wanted,))
        items = items_of(records_of(subjects, found))
        if (view := self.known(mailbox)) is not None:
            items = [one for one in items if not view.is_gone(one.message_id, one.seq)]
        return [item.shown(mailbox, now) for item in items[:limit]]
