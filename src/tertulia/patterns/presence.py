"""Presence: who is really there, told by leases that end with the process that renews them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tertulia._arguments import check_seconds
from tertulia._background import logger
from tertulia._clock import sleep
from tertulia._names import check_name
from tertulia.engines.base import Check, CheckFailed, Commit, Delete, Put, Record
from tertulia.errors import EngineError, TertuliaError
from tertulia.records import new_id
from tertulia.space import Space

DEFAULT_PRESENCE = (
    30.0  # seconds; as long as a delivery's lease: longer than any pause, short enough to wait out a crash
)
RENEW_AT = 1 / 3  # of the lease: two more chances before it runs out
GOODBYE = 1.0  # seconds that a closing handle spends on saying so; the lease would do the same, later

Guard = Callable[[], Awaitable[tuple[Check, ...]]]
Tick = Callable[[], Awaitable[object]]


async def _nothing_to_guard() -> tuple[Check, ...]:
    return ()


class Presence:
    """The agents that are at one place of a space, named by a prefix of keys.

    An agent that entered through this object is there until it leaves, this handle of the space closes, or its process
    ends: its lease is renewed in the background, and runs out after `lease` seconds without renewal. Several
    processes may enter as the same agent; it is there as long as one of them is.

    An agent whose lease ran out although its process lives (it was stopped for a while) enters again by itself. One
    that somebody else has let leave does not.

    `guard` returns the checks under which one can be here, or raises; `on_tick` is called after each renewal.
    """

    def __init__(
        self,
        space: Space,
        prefix: str,
        *,
        lease: float = DEFAULT_PRESENCE,
        guard: Guard = _nothing_to_guard,
        on_tick: Tick | None = None,
    ) -> None:
        self._engine = space.engine
        self._clock = space.clock
        self._background = space.background
        self._prefix = prefix
        self._lease = check_seconds("lease", lease)
        self._guard = guard
        self._on_tick = on_tick
        self._token = new_id()  # tells this object's leases from those of other processes
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()  # one coming or going at a time, so that each agent has one keeper

    # --- coming and going ---

    async def enter(self, agent_id: str, *, puts: tuple[Put, ...] = ()) -> bool:
        """Be there from now on, with `puts` in the same commit; return whether the agent was not there before.

        Raises what the guard raises, and CheckFailed where its checks were overtaken: nothing was changed then.
        Cancelled, it either happened or did not; a lease that was taken then ends when its time is over.
        """
        async with self._turn:
            leases = await self._leases(agent_id)
            keeper = self._keepers.get(agent_id)
            kept = keeper is not None and not keeper.done()
            if not kept or all(lease.key != self._key(agent_id) for lease in leases):
                await self._stop_keeping(agent_id)
                fence = await self._take(agent_id, puts)
                keeping = self._keep(agent_id, fence)
                self._keepers[agent_id] = self._background.start(keeping, f"tertulia presence of {agent_id}")
                await asyncio.sleep(0)  # a task that is cancelled before its first step would not say goodbye
            return not leases

    async def leave(self, agent_id: str) -> bool:
        """Be gone, in all processes that entered as this agent; return whether it was there."""
        async with self._turn:
            await self._stop_keeping(agent_id)
            deletes = tuple(Delete(lease.key) for lease in await self._leases(agent_id))
            return bool(deletes) and any((await self._engine.commit(Commit(deletes=deletes))).deleted)

    async def _stop_keeping(self, agent_id: str) -> None:
        keeper = self._keepers.pop(agent_id, None)
        if keeper is not None and not keeper.done():
            keeper.cancel()
            await asyncio.wait([keeper])

    # --- looking ---

    async def there(self) -> list[str]:
        """Return the agents that are there, in the order in which they came."""
        _, leases = await self._engine.scan(self._prefix, bodies=False)
        leases.sort(key=lambda lease: lease.created_revision)
        return list(dict.fromkeys(lease.owner for lease in leases))

    async def is_there(self, agent_id: str) -> bool:
        """Tell whether the agent is there."""
        return bool(await self._leases(agent_id))

    async def check_of(self, agent_id: str) -> Check | None:
        """Return a check that holds as long as the agent stays, for a commit; None if it is not there.

        Of several leases it is the one that lasts longest. When that ends although another one lives, look again.
        """
        leases = await self._leases(agent_id)
        if not leases:
            return None
        longest = max(leases, key=lambda lease: lease.expires or 0.0)
        return Check(longest.key, created_revision=longest.created_revision)

    async def _leases(self, agent_id: str) -> list[Record]:
        _, leases = await self._engine.scan(f"{self._prefix}{check_name(agent_id)}:", bodies=False)
        return leases

    # --- keeping ---

    def _key(self, agent_id: str) -> str:
        return f"{self._prefix}{agent_id}:{self._token}"

    def _put(self, agent_id: str) -> Put:
        return Put(self._key(agent_id), b"", agent_id, self._lease)

    async def _take(self, agent_id: str, puts: tuple[Put, ...] = ()) -> Check:
        """Take the lease; return the check that it is still the same one."""
        commit = Commit(checks=await self._guard(), puts=(self._put(agent_id), *puts))
        lease = (await self._engine.commit(commit)).records[0]
        return Check(lease.key, created_revision=lease.created_revision)

    async def _keep(self, agent_id: str, fence: Check) -> None:
        """Renew the lease until this handle closes or the agent has left."""
        expires = self._clock.time() + self._lease
        try:
            while True:
                await sleep(self._clock, self._lease * RENEW_AT)
                started = self._clock.time()
                try:
                    kept = await self._renew(agent_id, fence, ran_out=started >= expires)
                except EngineError:
                    logger.exception("could not renew the presence of %r; trying again", agent_id)
                    continue
                if kept is None:
                    return
                fence, expires = kept, started + self._lease
                await self._tick()
        except asyncio.CancelledError:
            if self._keepers.get(agent_id) is asyncio.current_task():  # this handle closes
                await self._say_goodbye(fence)
            raise

    async def _renew(self, agent_id: str, fence: Check, *, ran_out: bool) -> Check | None:
        """Renew the lease, or take a new one if it ran out; return its check, or None when the agent is gone."""
        try:
            guards = await self._guard()
            await self._engine.commit(Commit(checks=(*guards, fence), puts=(self._put(agent_id),)))
        except EngineError:
            raise
        except TertuliaError as end:
            logger.info("agent %r is not kept here any longer: %s", agent_id, end)
            return None
        except CheckFailed:
            if not ran_out:
                logger.info("agent %r was let leave", agent_id)
                return None
            logger.warning("the presence of %r was not renewed in time and ran out; it enters again", agent_id)
            return await self._return(agent_id)
        return fence

    async def _return(self, agent_id: str) -> Check | None:
        try:
            return await self._take(agent_id)
        except EngineError:
            raise
        except (CheckFailed, TertuliaError) as refused:
            logger.info("agent %r cannot enter again: %s", agent_id, refused)
            return None

    async def _tick(self) -> None:
        if self._on_tick is None:
            return
        try:
            await self._on_tick()
        except TertuliaError:
            logger.exception("what was due could not be done; trying again at the next renewal")

    async def _say_goodbye(self, fence: Check) -> None:
        """Give the lease back before its time, if that is quickly done."""
        try:
            async with asyncio.timeout(GOODBYE):
                await self._engine.commit(Commit(checks=(fence,), deletes=(Delete(fence.key),)))
        except (CheckFailed, TertuliaError, TimeoutError) as error:
            logger.info("the presence %r ends when its lease does: %s", fence.key, error)
