"""Semaphores: a fixed number of agents at a time."""

from __future__ import annotations

from tertulia._arguments import check_count
from tertulia._names import check_name
from tertulia.engines.base import DEFAULT_LEASE, Check, Engine, Put
from tertulia.errors import InvalidInputError
from tertulia.patterns._bell import Ear
from tertulia.patterns._kept import SEMAPHORE, encode_kept, permits_key, permits_of
from tertulia.patterns._leased import WAIT_TIMEOUT, Hold, Leased
from tertulia.patterns._waits import OWNER
from tertulia.patterns.grants import Grant
from tertulia.records import Holder, WaitsFor
from tertulia.space import Space

MAX_PERMITS = 1_000  # whoever finds all permits taken has looked at each


class Semaphore:
    """What up to `permits` agents may hold at a time: `Semaphore(space, "search engine", 3)`.

        async with semaphore.hold("ann") as grant:
            ...

    How many permits there are is kept in the space when the first is taken. Whoever comes with another number gets
    InvalidInputError, until `resize` changes it for all. Everything else is as with a Lock: leases, fences, the line,
    DeadlockError. An agent may hold several permits. A wait for a permit is a deadlock only if every permit is held
    by somebody who cannot go on.
    """

    def __init__(self, space: Space, name: str, permits: int) -> None:
        check_count("permits", permits, MAX_PERMITS)
        self._leased = Leased(space, SEMAPHORE, (name,), slots=permits, condition=self._agreed)
        self._engine: Engine = space.engine
        self._key = permits_key(name)

    @property
    def name(self) -> str:
        """The name."""
        return self._leased.names[0]

    @property
    def permits(self) -> int:
        """How many may hold it at a time."""
        return self._leased.slots

    def hold(self, agent_id: str, *, lease: float = DEFAULT_LEASE, timeout: float | None = WAIT_TIMEOUT) -> Hold:
        """Return a block that holds a permit: acquired on entering, released on leaving; see Lock.hold."""
        return self._leased.hold(agent_id, lease, timeout)

    async def acquire(
        self, agent_id: str, *, lease: float = DEFAULT_LEASE, timeout: float | None = WAIT_TIMEOUT
    ) -> Grant:
        """Wait until the agent holds a permit; return the grant; see Lock.acquire.

        Raises LockTimeoutError, DeadlockError, LineFullError; InvalidInputError for another number of permits than
        the space knows. Then, and when the call is cancelled, nothing is held.
        """
        return await self._leased.acquire(agent_id, lease, timeout)

    async def try_acquire(self, agent_id: str, *, lease: float = DEFAULT_LEASE) -> Grant | None:
        """Return a grant if a permit is free and nobody waits for one, else None."""
        return await self._leased.try_acquire(agent_id, lease)

    async def release(self, agent_id: str) -> None:
        """Release the oldest permit that the agent acquired through this handle of the space.

        Raises NotHolderError when it acquired none here; LockLostError.
        """
        await self._leased.release(agent_id)

    async def resize(self, permits: int, *, requester: str) -> None:
        """Change the number of permits for everybody. Those who hold one keep it, even if there are fewer now.

        Whoever uses a Semaphore of the old number, or waits with one, gets InvalidInputError from then on.
        """
        check_name(requester)
        body = encode_kept(check_count("permits", permits, MAX_PERMITS))
        await self._engine.put(Put(self._key, body, requester))
        self._leased.slots = permits

    async def holders(self) -> list[Holder]:
        """Return who holds a permit now."""
        return await self._leased.holders()

    async def waiting(self) -> list[WaitsFor]:
        """Return who waits for a permit, first come first."""
        return await self._leased.waiting()

    async def _agreed(self, ear: Ear) -> tuple[tuple[Check, ...], tuple[Put, ...]]:
        """Return what makes a commit one of this number of permits. Raises InvalidInputError for another."""
        ear.listens(self._key)
        record = await self._engine.get(self._key)
        if record is None:
            return (Check(self._key, absent=True),), (Put(self._key, encode_kept(self.permits), OWNER),)
        known = permits_of(record)
        if known != self.permits:
            raise InvalidInputError(f"semaphore {self.name!r} has {known} permits in this space, not {self.permits}")
        return (Check(self._key, record.revision),), ()
