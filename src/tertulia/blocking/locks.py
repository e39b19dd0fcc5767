"""The blocking forms of locks, semaphores and elections."""

# pyright: reportPrivateUsage=false
# A thread that has a grant holds its lease, as a task does.

from __future__ import annotations

from typing import Any, TypeVar, cast

from tertulia.blocking.faces import SharedMemory, Transaction
from tertulia.blocking.portal import Session
from tertulia.blocking.proxy import Entered, Iterated, Proxy, adapt, blocks, gives, stands_for, takes
from tertulia.blocking.space import Space
from tertulia.patterns import _flow, _leased, election, grants, locks, semaphore
from tertulia.records import Holder

T = TypeVar("T", bound=Transaction)


@stands_for(grants.Grant)
class Grant(Proxy[grants.Grant]):
    """What an agent has while it holds a lock, a permit or a leadership; see tertulia.Grant."""

    def portal_bind(self, session: Session, target: grants.Grant) -> None:
        """Make this the proxy of a grant, which the code of this thread holds from now on."""
        super().portal_bind(session, target)
        _flow.remember(target._lease)

    write = blocks(grants.Grant.write)
    create = blocks(grants.Grant.create)
    update = blocks(grants.Grant.update)
    delete = blocks(grants.Grant.delete)
    transaction = gives(grants.Grant.transaction, Transaction)
    release = blocks(grants.Grant.release)

    def guard(self, transaction: T) -> T:
        """Let a transaction, such as a handler's, commit only while the grant stands; return it."""
        self.portal_call("guard", transaction)
        return transaction

    @property
    def agent_id(self) -> str:
        """Who holds it."""
        return self._target.agent_id

    @property
    def names(self) -> tuple[str, ...]:
        """What is held."""
        return self._target.names

    @property
    def fence(self) -> int:
        """The revision at which it was granted; of several names, the greatest."""
        return self._target.fence

    @property
    def fences(self) -> dict[str, int]:
        """The revision at which each name was granted."""
        return self._target.fences

    @property
    def held(self) -> bool:
        """Whether it is held, as far as is known here; only a commit tells for certain."""
        return self._target.held

    @property
    def lost(self) -> Any:
        """Set once it is known to be lost: the calls of asyncio.Event, which block."""
        return adapt(self._session, self._target.lost)

    @property
    def memory(self) -> SharedMemory:
        """The memory of the space with every change fenced."""
        return SharedMemory.portal_of(self._session, self._target.memory)


@stands_for(_leased.Hold)
class Hold(Entered[_leased.Hold]):
    """A block during which something is held: `with lock.hold("ann") as grant`.

    It cannot be cancelled when the lease is lost: it runs on, what it writes through the grant is refused, and
    LockLostError comes out of its end.
    """

    def __enter__(self) -> Grant:  # pyright: ignore[reportIncompatibleMethodOverride] - what it enters is the grant
        return cast("Grant", super().__enter__())


@stands_for(election.LeaderWatch)
class LeaderWatch(Entered[election.LeaderWatch], Iterated[election.LeaderWatch, Holder | None]):
    """The leaders of an election: `with election.observe() as leaders: for leader in leaders`."""

    _ends_with_space = True


@stands_for(locks.Lock)
class Lock(Proxy[locks.Lock]):
    """What one agent at a time may hold; see tertulia.Lock."""

    def __init__(self, space: Space, *names: str) -> None:
        session, target = space.portal_parts()
        self.portal_bind(session, session.call(lambda _: locks.Lock(target, *names)))

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order in which every lock has them."""
        return self._target.names

    hold = gives(locks.Lock.hold, Hold)
    acquire = gives(locks.Lock.acquire, Grant)
    try_acquire = takes(locks.Lock.try_acquire, Grant)
    release = blocks(locks.Lock.release)
    holders = blocks(locks.Lock.holders)
    waiting = blocks(locks.Lock.waiting)


@stands_for(semaphore.Semaphore)
class Semaphore(Proxy[semaphore.Semaphore]):
    """What a fixed number of agents may hold at a time; see tertulia.Semaphore."""

    def __init__(self, space: Space, name: str, permits: int) -> None:
        session, target = space.portal_parts()
        self.portal_bind(session, session.call(lambda _: semaphore.Semaphore(target, name, permits)))

    @property
    def name(self) -> str:
        """The name."""
        return self._target.name

    @property
    def permits(self) -> int:
        """How many may hold it at a time."""
        return self._target.permits

    hold = gives(semaphore.Semaphore.hold, Hold)
    acquire = gives(semaphore.Semaphore.acquire, Grant)
    try_acquire = takes(semaphore.Semaphore.try_acquire, Grant)
    release = blocks(semaphore.Semaphore.release)
    resize = blocks(semaphore.Semaphore.resize)
    holders = blocks(semaphore.Semaphore.holders)
    waiting = blocks(semaphore.Semaphore.waiting)


@stands_for(election.Election)
class Election(Proxy[election.Election]):
    """The choice of one leader among agents that stand for it; see tertulia.Election."""

    def __init__(self, space: Space, name: str) -> None:
        session, target = space.portal_parts()
        self.portal_bind(session, session.call(lambda _: election.Election(target, name)))

    @property
    def name(self) -> str:
        """The name."""
        return self._target.name

    lead = gives(election.Election.lead, Hold)
    campaign = gives(election.Election.campaign, Grant)
    resign = blocks(election.Election.resign)
    leader = blocks(election.Election.leader)
    candidates = blocks(election.Election.candidates)
    observe = gives(election.Election.observe, LeaderWatch)
