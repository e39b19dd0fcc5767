"""Presence: who is really there, told by leases that end with the process that renews them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import inf

import msgspec

from tertulia._arguments import check_seconds
from tertulia._background import logger
from tertulia._clock import sleep
from tertulia._codec import decoder_for
from tertulia._names import check_name
from tertulia.engines.base import Check, CheckFailed, Commit, Delete, Put, Record
from tertulia.errors import EngineError, TertuliaError
from tertulia.patterns._races import MAX_RACES, lost
from tertulia.records import new_id
from tertulia.space import Space

DEFAULT_PRESENCE = (
    30.0  # seconds; as long as a delivery's lease: longer than any pause, short enough to wait out a crash
)
RENEW_AT = 1 / 3  # of the lease: two more chances before it runs out
GOODBYE = 1.0  # seconds that a closing handle spends on saying so; the lease would do the same, later

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = decoder_for(dict[str, float])

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

    `guard` returns the checks under which one can be here, or raises; `on_tick` is called now and then, as often as
    one lease is renewed, while this handle keeps any.
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
        self._ticked = -inf
        self._token = new_id()  # tells what keeps an agent here from its other processes
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._turn = asyncio.Lock()  # one coming or going at a time, so that each agent has one keeper

    # --- coming and going ---

    async def enter(self, agent_id: str, *, puts: tuple[Put, ...] = (), guard: Guard | None = None) -> bool:
        """Be there from now on, with `puts` in the same commit; return whether the agent was not there before.

        `guard` is for the entry alone, in place of the other. Raises what the guard raises. Cancelled, it either
        happened or did not; a lease that was taken then ends when its time is over.
        """
        async with self._turn:
            found = await self._look(agent_id)
            keeper = self._keepers.get(agent_id)
            if keeper is not None and not keeper.done() and self._token in _keepers(found):
                return False
            await self._stop_keeping(agent_id)
            found = await self._take(agent_id, puts, guard or self._guard)
            keeping = self._background.start(self._keep(agent_id), f"tertulia presence of {agent_id}")
            self._keepers[agent_id] = keeping
            await asyncio.sleep(0)  # a task that is cancelled before its first step would not say goodbye
            return found is None

    async def leave(self, agent_id: str) -> bool:
        """Be gone, in all processes that entered as this agent; return whether it was there."""
        async with self._turn:
            await self._stop_keeping(agent_id)
            committed = await self._engine.commit(Commit(deletes=(Delete(self._key(agent_id)),)))
            return committed.deleted[0]

    async def let_run_out(self, agent_id: str) -> None:
        """Renew the agent's lease here no longer; nothing else is done, so this works while the engine does not."""
        async with self._turn:
            await self._stop_keeping(agent_id)

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
        return [lease.owner for lease in leases]

    async def is_there(self, agent_id: str) -> bool:
        """Tell whether the agent is there."""
        return await self._look(agent_id) is not None

    async def check_of(self, agent_id: str) -> Check | None:
        """Return a check that holds as long as the agent stays, for a commit; None if it is not there."""
        lease = await self._look(agent_id)
        return None if lease is None else Check(lease.key, created_revision=lease.created_revision)

    async def _look(self, agent_id: str) -> Record | None:
        return await self._engine.get(self._key(agent_id))

    def _key(self, agent_id: str) -> str:
        return self._prefix + check_name(agent_id)

    # --- keeping: an agent's record says which processes keep it there, and until when ---

    async def _take(self, agent_id: str, puts: tuple[Put, ...], guard: Guard) -> Record | None:
        """Be one of those that keep the agent there; return the lease that was there before."""
        for _ in range(MAX_RACES):
            guards = await guard()
            found = await self._look(agent_id)
            if await self._change(agent_id, found, guards, puts):
                return found
        raise lost(f"the presence of {agent_id!r}")

    async def _change(
        self, agent_id: str, found: Record | None, guards: tuple[Check, ...] = (), puts: tuple[Put, ...] = ()
    ) -> bool:
        """Keep the agent there for one more lease; return False when somebody else was faster."""
        keepers = {**self._others(found), self._token: self._clock.time() + self._lease}
        return await self._write(agent_id, found, keepers, guards, puts)

    async def _write(
        self,
        agent_id: str,
        found: Record | None,
        keepers: dict[str, float],
        guards: tuple[Check, ...] = (),
        puts: tuple[Put, ...] = (),
    ) -> bool:
        key = self._key(agent_id)
        unchanged = Check(key, absent=True) if found is None else Check(key, revision=found.revision)
        put = Put(key, _ENCODER.encode(keepers), agent_id, self._lease)
        try:
            await self._engine.commit(Commit(checks=(*guards, unchanged), puts=(put, *puts)))
        except CheckFailed:
            return False
        return True

    def _others(self, found: Record | None) -> dict[str, float]:
        """Return the other processes that keep the agent there, without those that have long been silent."""
        silent = self._clock.time() - self._lease  # with one lease of patience, for clocks that differ
        return {token: until for token, until in _keepers(found).items() if token != self._token and until > silent}

    async def _keep(self, agent_id: str) -> None:
        """Renew the lease until this handle closes or the agent has left."""
        expires = self._clock.time() + self._lease
        try:
            while True:
                await sleep(self._clock, self._lease * RENEW_AT)
                started = self._clock.time()
                try:
                    if not await self._renew(agent_id, ran_out=started >= expires):
                        return
                except EngineError:
                    logger.exception("could not renew the presence of %r; trying again", agent_id)
                    continue
                except TertuliaError as end:
                    logger.info("agent %r is not kept here any longer: %s", agent_id, end)
                    return
                expires = started + self._lease
                await self._tick()
        except asyncio.CancelledError:
            if self._keepers.get(agent_id) is asyncio.current_task():  # this handle closes
                await self._say_goodbye(agent_id)
            raise

    async def _renew(self, agent_id: str, *, ran_out: bool) -> bool:
        """Renew the lease, or take a new one if it ran out; return False when the agent was let leave."""
        for _ in range(MAX_RACES):
            guards = await self._guard()
            found = await self._look(agent_id)
            if self._token not in _keepers(found):
                break
            if await self._change(agent_id, found, guards):
                return True
        else:
            raise lost(f"the presence of {agent_id!r}")
        if not ran_out:
            logger.info("agent %r was let leave", agent_id)
            return False
        logger.warning("the presence of %r was not renewed in time and ran out; it enters again", agent_id)
        await self._take(agent_id, (), self._guard)
        return True

    async def _tick(self) -> None:
        now = self._clock.monotonic()
        if self._on_tick is None or now < self._ticked + self._lease * RENEW_AT / 2:
            return
        self._ticked = now
        try:
            await self._on_tick()
        except TertuliaError:
            logger.exception("what was due could not be done; trying again at the next renewal")

    async def _say_goodbye(self, agent_id: str) -> None:
        """Keep the agent here no longer, if that is quickly done; the lease would end the same, later."""
        try:
            async with asyncio.timeout(GOODBYE):
                for _ in range(MAX_RACES):
                    if await self._withdraw(agent_id):
                        return
        except (TertuliaError, TimeoutError) as error:
            logger.info("the presence of %r ends when its lease does: %s", agent_id, error)

    async def _withdraw(self, agent_id: str) -> bool:
        """Try once not to keep the agent here any longer."""
        found = await self._look(agent_id)
        if found is None or self._token not in _keepers(found):
            return True
        others = self._others(found)
        if others:
            return await self._write(agent_id, found, others)
        unchanged = Check(found.key, revision=found.revision)
        try:
            await self._engine.commit(Commit(checks=(unchanged,), deletes=(Delete(found.key),)))
        except CheckFailed:
            return False
        return True


def _keepers(found: Record | None) -> dict[str, float]:
    """Return the processes that keep an agent there, and until when (civil time)."""
    return {} if found is None else _DECODER.decode(found.body)
