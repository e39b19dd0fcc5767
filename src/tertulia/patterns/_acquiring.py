"""Getting a lease: at once where it is free and nobody waits, else in line."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from tertulia._background import logger
from tertulia.engines.base import Check, CheckFailed, Commit, Delete, Put, Record
from tertulia.errors import AlreadyHeldError, EngineError, LockTimeoutError, OutcomeUnknownError, SpaceClosedError
from tertulia.patterns._bell import Ear
from tertulia.patterns._carried import CarriedCommits
from tertulia.patterns._flow import handling_here, held_here, nodes_held_up, remember
from tertulia.patterns._held import Claim, HeldLease
from tertulia.patterns._kept import (
    RENEW_WAIT,
    SEMAPHORE,
    Holding,
    Waiting,
    encode_kept,
    holder_key,
    holders_of,
    holding_of,
    line_key,
)
from tertulia.patterns._leases import Leases
from tertulia.patterns._line import Place
from tertulia.patterns._waits import KeptWait, finish
from tertulia.patterns.deadlock import DeadlockCheck
from tertulia.records import new_id

MAX_RACES = 10  # lost in a row, before the others are let go on; each loss is somebody else's success

Condition = Callable[[Ear], Awaitable[tuple[tuple[Check, ...], tuple[Put, ...]]]]


class Acquiring:
    """One agent's attempt to get all that it claims.

    `condition`, asked before each try, returns what has to be committed with the grant besides, or raises; the ear is
    to ring when its answer may change.
    """

    def __init__(self, claim: Claim, leases: Leases, condition: Condition | None = None) -> None:
        handling = handling_here()
        self._claim = claim
        self._leases = leases
        self._engine = leases.engine
        self._condition = condition
        waiting = Waiting(
            id=new_id(),
            kind=claim.kind,
            agent_id=claim.agent_id,
            names=claim.names,
            since=leases.clock.time(),
            slots=claim.slots,
            owes=handling is not None and not handling.answered,
        )
        kept = KeptWait(waiting, nodes_held_up(claim.agent_id), leases.held_up, leases.engine)
        self._kept = kept
        self._commits = CarriedCommits(leases.engine, leases.background)
        self._place = Place(kept, leases.engine, self._commits)

    async def at_once(self) -> HeldLease | None:
        """Return the grant if everything is free and nobody waits for it, else None."""
        ear = self._leases.bell.enter()  # which nobody waits for
        try:
            return await self._try_blindly() or await self._try_in_turn(ear)
        except BaseException:
            await self._clean_up()
            raise
        finally:
            self._leases.bell.leave(ear)

    async def wait(self, timeout: float | None) -> HeldLease:
        """Return the grant, after waiting for up to `timeout` seconds.

        Raises LockTimeoutError, DeadlockError, AlreadyHeldError, LineFullError.
        """
        self._check_own_grants()
        grant = await self.at_once()
        if grant is not None:
            return grant
        ear = self._leases.bell.enter()
        try:
            return await self._wait_in_line(ear, self._limit(timeout))
        except BaseException:
            await self._clean_up()
            raise
        finally:
            self._leases.bell.leave(ear)

    # --- waiting ---

    async def _wait_in_line(self, ear: Ear, limit: float) -> HeldLease:
        clock = self._leases.clock
        began = clock.monotonic()
        async with self._turn():
            await self._place.join()
        renew_at = began + RENEW_WAIT
        check = DeadlockCheck(self._engine, clock, self._kept.waiting) if self._kept.nodes else None
        while True:
            ear.forget()
            await self._leases.bell.tune()
            grant = await self._try_in_turn(ear)
            if grant is not None:
                return grant
            now = clock.monotonic()
            if now >= began + limit:
                claim = self._claim
                raise LockTimeoutError(claim.kind, claim.names, claim.agent_id, limit, await self._holders())
            if check is not None and now >= check.due and (error := await check.look()) is not None:
                raise error
            if now >= renew_at:
                async with self._turn():
                    await self._place.keep(clock.time())
                renew_at = now + RENEW_WAIT
            next_look = renew_at if check is None else min(renew_at, check.due)
            await ear.wait(min(next_look, began + limit) - now)

    def _limit(self, timeout: float | None) -> float:
        """Return the seconds to wait: no longer than the requester of what is being handled does."""
        limit = float("inf") if timeout is None else timeout
        handling = handling_here()
        if handling is None or handling.deadline is None:
            return limit
        return min(limit, max(0.0, handling.deadline - self._leases.clock.time()))

    # --- trying ---

    async def _try_blindly(self) -> HeldLease | None:
        """Take everything in one commit without a look: the usual case is that it is free."""
        claim = self._claim
        if self._condition is not None or claim.slots > 1:
            return None
        nobody = [Check(line_key(claim.kind, name), absent=True) for name in claim.names]
        checks, puts = self._taking(dict.fromkeys(claim.names, 0))
        return await self._take(Commit(checks=(*nobody, *checks), puts=puts))

    async def _try_in_turn(self, ear: Ear) -> HeldLease | None:
        async with self._turn():
            return await self._try(ear)

    async def _try(self, ear: Ear) -> HeldLease | None:
        """Take everything if it is this one's turn and all is free; else the ear rings when that may have changed."""
        for _ in range(MAX_RACES):
            more_checks, more_puts = ((), ()) if self._condition is None else await self._condition(ear)
            if not await self._place.is_first(ear) or (slots := await self._free_slots(ear)) is None:
                return None
            checks, puts = self._taking(slots)
            commit = self._place.leaving((*checks, *more_checks), (*puts, *more_puts))
            grant = await self._take(commit)
            if grant is not None:
                return grant
        return None

    async def _free_slots(self, ear: Ear) -> dict[str, int] | None:
        """Return a free slot of each name, or None if there is not one of each."""
        claim = self._claim
        found: dict[str, int] = {}
        for name in claim.names:
            start = random.randrange(claim.slots)  # noqa: S311 - so that those who come at once try different ones
            for number in range(claim.slots):
                slot = (start + number) % claim.slots
                key = holder_key(claim.kind, name, slot)
                ear.listens(key)
                if await self._engine.get(key) is None:
                    found[name] = slot
                    break
            else:
                return None
        return found

    def _taking(self, slots: dict[str, int]) -> tuple[tuple[Check, ...], tuple[Put, ...]]:
        claim = self._claim
        checks: list[Check] = []
        puts: list[Put] = []
        since = self._leases.clock.time()
        for name, slot in slots.items():
            key = holder_key(claim.kind, name, slot)
            body = encode_kept(Holding(claim.token, claim.agent_id, name, since))
            checks.append(Check(key, absent=True))
            puts.append(Put(key, body, claim.agent_id, claim.lease))
        return tuple(checks), tuple(puts)

    async def _take(self, commit: Commit) -> HeldLease | None:
        """Commit; return the grant, or None if somebody else was faster. Raises OutcomeUnknownError."""
        began = self._leases.clock.monotonic()
        try:
            committed = await self._commits.commit(commit)
        except CheckFailed:
            return None
        except OutcomeUnknownError:
            mine = await self._mine()
            if len(mine) < len(self._claim.names):
                raise
            return self._granted(mine, began)
        return self._granted(committed.records[: len(self._claim.names)], began)

    def _granted(self, records: tuple[Record, ...], began: float) -> HeldLease:
        leases = self._leases
        lease = HeldLease(self._claim, records, began, self._engine, leases.keeper)
        leases.keeper.hold(lease)
        remember(lease)
        if self._place.joined and self._kept.nodes:
            leases.background.start(self._kept.close(), "tertulia end of a wait")
        return lease

    # --- inside ---

    def _turn(self) -> AbstractAsyncContextManager[None]:
        return self._leases.turns.at(self._place.keys)

    def _check_own_grants(self) -> None:
        claim = self._claim
        if claim.kind == SEMAPHORE:
            return  # an agent may hold several permits; if it waits for itself alone, that is a deadlock
        for grant in held_here(claim.agent_id):
            both = [name for name in claim.names if name in grant.names]
            if grant.kind == claim.kind and both:
                raise AlreadyHeldError(claim.kind, both, claim.agent_id)

    async def _holdings(self) -> list[Record]:
        claim = self._claim
        held = [await holders_of(self._engine, claim.kind, name, claim.slots) for name in claim.names]
        return [record for slots in held for _, record in slots if record is not None]

    async def _holders(self) -> tuple[str, ...]:
        return tuple([record.owner for record in await self._holdings()])

    async def _mine(self) -> tuple[Record, ...]:
        """Return the records that bear this attempt's token, in the order of the names."""
        return tuple([record for record in await self._holdings() if holding_of(record).token == self._claim.token])

    async def _clean_up(self) -> None:
        """Leave nothing behind: no place in a line, and no grant of a commit that was cancelled on its way."""
        await finish(self._leases.background, self._leave(), "tertulia leave of a line")

    async def _leave(self) -> None:
        try:
            await self._commits.settled()
            if self._place.joined:
                async with self._turn():
                    await self._place.leave()
            mine = await self._mine()
            if mine:
                checks = tuple(Check(record.key, created_revision=record.created_revision) for record in mine)
                await self._engine.commit(Commit(checks=checks, deletes=tuple(Delete(record.key) for record in mine)))
        except (CheckFailed, SpaceClosedError):
            return  # it ran out, or goes with the engine
        except EngineError as error:
            logger.warning("what %r waited for, or its place, has to run out: %s", self._claim.agent_id, error)
