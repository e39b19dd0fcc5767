"""Locks: one agent at a time, by a lease with a fence."""

from __future__ import annotations

from collections.abc import Iterable

from tertulia.engines.base import DEFAULT_LEASE
from tertulia.errors import InvalidInputError
from tertulia.patterns._kept import LOCK
from tertulia.patterns._leased import WAIT_TIMEOUT, Hold, Leased
from tertulia.patterns.grants import Grant
from tertulia.records import Holder, WaitsFor
from tertulia.space import Space

MAX_NAMES = 64  # of one lock: each is a few operations of the commit that takes them all


class Lock:
    """What one agent at a time may hold, in all processes of the space: `Lock(space, "report")`.

        async with lock.hold("ann") as grant:
            await grant.write("report", text)

    A lock has one or several names, which are taken together, all or none: `Lock(space, "left fork", "right fork")`.
    Locks exclude each other where they share a name. A name may be any key of up to 256 bytes; that locks nothing but
    the name.

    It is a lease: it is renewed while it is held, and ends by itself when its holder's process dies. Whoever was
    stopped for longer than that finds its writes through the grant refused; see Grant. It is not re-entrant.

    Those who wait are served first come first, except that those who wait for several names let others pass while
    one of the names is held. A wait that can never end raises DeadlockError, in one of the agents that it goes round.

    Raises InvalidNameError, InvalidInputError for bad arguments, EngineError when the engine fails.
    """

    def __init__(self, space: Space, *names: str) -> None:
        self._leased = Leased(space, LOCK, names)
        if not 1 <= len(self.names) <= MAX_NAMES:
            raise InvalidInputError(f"a lock has 1 to {MAX_NAMES} names, not {len(self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order in which every lock has them."""
        return self._leased.names

    def hold(self, agent_id: str, *, lease: float = DEFAULT_LEASE, timeout: float | None = WAIT_TIMEOUT) -> Hold:
        """Return a block that holds the lock: it is acquired on entering, as by `acquire`, and released on leaving.

        If the lease is lost meanwhile, the block is cancelled and raises LockLostError; see Hold.
        """
        return self._leased.hold(agent_id, lease, timeout)

    async def acquire(
        self, agent_id: str, *, lease: float = DEFAULT_LEASE, timeout: float | None = WAIT_TIMEOUT
    ) -> Grant:
        """Wait until the agent holds the lock; return the grant, which is renewed until it is released.

        `lease`: seconds after which the lock is free again if the agent's process dies. `timeout`: seconds to wait,
        None for ever; in the handler of a request no longer than its requester waits.

        Raises LockTimeoutError; DeadlockError for a wait that cannot end; AlreadyHeldError in a block that holds any
        of the names; LineFullError when 1,000 wait already. Then, and when the call is cancelled, nothing is held.
        """
        return await self._leased.acquire(agent_id, lease, timeout)

    async def try_acquire(self, agent_id: str, *, lease: float = DEFAULT_LEASE) -> Grant | None:
        """Return the grant if nobody, the agent itself included, holds or waits for any of the names, else None."""
        return await self._leased.try_acquire(agent_id, lease)

    async def release(self, agent_id: str) -> None:
        """Release what the agent acquired through this handle of the space; the same as `release` of its grant.

        Raises NotHolderError when it acquired nothing here, whoever holds the lock; LockLostError.
        """
        await self._leased.release(agent_id)

    async def holders(self) -> list[Holder]:
        """Return who holds the lock, or any of its names, now."""
        return await self._leased.holders()

    async def waiting(self) -> list[WaitsFor]:
        """Return who waits for any of its names, first come first."""
        return await self._leased.waiting()


def locks(space: Space, names: Iterable[str]) -> Lock:
    """Return the lock of these names, however many they turn out to be; see Lock."""
    return Lock(space, *names)
