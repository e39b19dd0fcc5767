"""A lease that is held: its renewal, its loss and its release. A Grant is how users see it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from msgspec import Struct

from tertulia._background import Background, logger
from tertulia.engines.base import Check, CheckFailed, Commit, Delete, Engine, Put, Record
from tertulia.errors import EngineError, LockLostError, SpaceClosedError
from tertulia.messaging.leases import RENEW_AT
from tertulia.patterns._keeper import Keeper

EXPIRED = "its lease ran out, or another agent took it over"
RELEASED = "it was released"
CLOSED = "the space was closed"


class Claim(Struct, frozen=True, kw_only=True):
    """What an agent asks for: all of the names, for `lease` seconds at a time.

    `slots`: how many may hold a name at once. `token` tells the grant apart.
    """

    kind: str
    names: tuple[str, ...]
    agent_id: str
    lease: float
    slots: int
    token: str


class HeldLease:
    """All names of a claim, held under one lease. `records` are theirs, in the order of the names."""

    def __init__(self, claim: Claim, records: tuple[Record, ...], began: float, engine: Engine, keeper: Keeper) -> None:
        self.agent_id = claim.agent_id
        self.kind = claim.kind
        self.names = claim.names
        self.token = claim.token
        self.fences = {name: record.created_revision for name, record in zip(claim.names, records, strict=True)}
        self.checks = tuple(Check(record.key, created_revision=record.created_revision) for record in records)
        self.lost = asyncio.Event()
        self.on_loss: Callable[[], object] | None = None
        self.over = ""  # why it is not held any more
        self.due = began + claim.lease * RENEW_AT
        self._until = began + claim.lease
        self._seconds = claim.lease
        self._records = records
        self._engine = engine
        self._keeper = keeper
        self._background: Background = keeper.background

    @property
    def held(self) -> bool:
        """Whether it is held, as far as is known here."""
        return not self.over

    # --- renewal ---

    def look(self) -> Awaitable[None] | None:
        """Find that the lease is over, or return its renewal; see Kept."""
        if self.over:
            return None
        if self._keeper.clock.monotonic() >= self._until:
            self._lose(EXPIRED)
            return None
        self.due = self._until
        return self._renew()

    async def _renew(self) -> None:
        began = self._keeper.clock.monotonic()
        puts = tuple(Put(record.key, record.body, record.owner, self._seconds) for record in self._records)
        try:
            await self._engine.commit(Commit(checks=self.checks, puts=puts))
        except CheckFailed:
            self._lose(EXPIRED)
        except SpaceClosedError:
            self._lose(CLOSED)
        except EngineError as error:  # there is time for another attempt, or the lease ends
            logger.warning("could not renew the lease on %s %s: %s", self.kind, ", ".join(self.names), error)
            self.due = min(self._keeper.clock.monotonic() + self._seconds * RENEW_AT, self._until)
        else:
            self._until = began + self._seconds
            self.due = began + self._seconds * RENEW_AT

    # --- the end ---

    async def release(self) -> None:
        """Give it back; see Grant.release."""
        if self.over == RELEASED:
            return
        if self.over:
            raise self.loss()
        self._end(RELEASED)
        try:
            await self._delete()
        except CheckFailed:
            self.over = EXPIRED
            self.lost.set()
            raise self.loss() from None
        except asyncio.CancelledError:
            self._background.start(self._delete_quietly(), "tertulia release of a lease")
            raise

    async def end(self) -> None:
        """Release it because the space closes; whoever still holds it is told."""
        self._lose(CLOSED)
        await self._delete_quietly()

    def refuse(self) -> LockLostError:
        """Take note that the space refused a commit for want of this lease; return the error for it."""
        self._lose(EXPIRED)
        return self.loss()

    def loss(self) -> LockLostError:
        """Return the error for what is done after the end."""
        return LockLostError(self.kind, self.names, self.agent_id, self.over or EXPIRED)

    # --- inside ---

    def _end(self, why: str) -> None:
        self.over = why
        self._keeper.drop(self)

    def _lose(self, why: str) -> None:
        if self.over:
            return
        self._end(why)
        level = logging.DEBUG if why is CLOSED else logging.WARNING
        logger.log(level, "%r lost %s %s: %s", self.agent_id, self.kind, ", ".join(self.names), why)
        self.lost.set()
        if self.on_loss is not None:
            self.on_loss()

    async def _delete(self) -> None:
        deletes = tuple(Delete(record.key) for record in self._records)
        await self._engine.commit(Commit(checks=self.checks, deletes=deletes))

    async def _delete_quietly(self) -> None:
        try:
            await self._delete()
        except (CheckFailed, SpaceClosedError):
            return  # it is gone, or goes with the engine
        except EngineError as error:
            logger.warning("%s %s was not released and has to run out: %s", self.kind, ", ".join(self.names), error)
