"""Elections: one leader at a time, and everybody can see who."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from tertulia._names import literal
from tertulia.engines.base import DEFAULT_LEASE, ChangeStream, Engine
from tertulia.errors import WatchLaggedError
from tertulia.patterns._kept import ELECTION, holder_key
from tertulia.patterns._leased import Hold, Leased, holder_of
from tertulia.patterns.grants import Grant
from tertulia.records import Holder, WaitsFor
from tertulia.space import Space


class Election:
    """The choice of one leader among agents that stand for it: `Election(space, "coordinator")`.

        async with election.lead("ann") as grant:       # waits until ann is elected
            await grant.write("plan", plan)             # refused once somebody else leads

    Candidates are elected first come first. The leadership is a lease with a fence, as a Lock is: it passes to the next
    candidate when the leader resigns, or its process dies, or it is cut off for longer than its lease.
    """

    def __init__(self, space: Space, name: str) -> None:
        self._leased = Leased(space, ELECTION, (name,))
        self._engine: Engine = space.engine

    @property
    def name(self) -> str:
        """The name."""
        return self._leased.names[0]

    def lead(self, agent_id: str, *, lease: float = DEFAULT_LEASE, timeout: float | None = None) -> Hold:
        """Return a block that begins when the agent is elected, and resigns when it is left.

        If the leadership is lost meanwhile, the block is cancelled and raises LockLostError; see Hold.
        """
        return self._leased.hold(agent_id, lease, timeout)

    async def campaign(self, agent_id: str, *, lease: float = DEFAULT_LEASE, timeout: float | None = None) -> Grant:
        """Wait until the agent is elected; return its grant, renewed until it resigns.

        `lease`: seconds after which another is elected if the leader's process dies. `timeout`: seconds to wait, by
        default for ever.

        Raises LockTimeoutError; DeadlockError for a wait that cannot end; AlreadyHeldError in a block where the agent
        leads; LineFullError. Then, and when the call is cancelled, the agent does not stand any more.
        """
        return await self._leased.acquire(agent_id, lease, timeout)

    async def resign(self, agent_id: str) -> None:
        """Give up the leadership that the agent won through this handle of the space.

        Raises NotHolderError when it won none here, whoever leads; LockLostError.
        """
        await self._leased.release(agent_id)

    async def leader(self) -> Holder | None:
        """Return who leads now, or None."""
        holders = await self._leased.holders()
        return holders[0] if holders else None

    async def candidates(self) -> list[WaitsFor]:
        """Return who stands for election now, first come first."""
        return await self._leased.waiting()

    def observe(self) -> LeaderWatch:
        """Return a watch that iterates over the leaders: the present one first, then every change; see LeaderWatch."""
        return LeaderWatch(self._engine, self.name)


class LeaderWatch:
    """The leaders of an election: `async with election.observe() as leaders: async for leader in leaders`.

    It begins with the present leader, or None while there is none, and goes on with each change. It ends when the
    space closes. Whoever reads too slowly for the engine's memory is given the leader of then, without those between.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._key = holder_key(ELECTION, name)
        self._stream: ChangeStream | None = None
        self._fence: int | None = None  # of the leader that was given last, 0 for none
        self._seen = 0

    async def __aenter__(self) -> Self:
        self._stream = await self._engine.watch(literal(self._key))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._stream is not None:
            await self._stream.aclose()

    def __aiter__(self) -> AsyncIterator[Holder | None]:
        return self

    async def __anext__(self) -> Holder | None:
        if self._stream is None:
            message = "enter the watch with 'async with' before iterating"
            raise RuntimeError(message)
        if self._fence is None:
            return await self._present()
        while True:
            try:
                change = await anext(self._stream)
            except WatchLaggedError:
                await self._stream.aclose()
                self._stream = await self._engine.watch(literal(self._key))
                return await self._present()
            record = change.record
            fence = 0 if record is None else record.created_revision
            if change.revision > self._seen and fence != self._fence:
                self._fence = fence
                return None if record is None else holder_of(record)

    async def _present(self) -> Holder | None:
        """Return the leader of now, and take no notice of the changes that led to it."""
        record = await self._engine.get(self._key)
        if record is None:  # then its own revision does not tell which changes are past
            self._seen, found = await self._engine.scan(self._key, matches=self._key.__eq__)
            record = found[0] if found else None
        self._seen = self._seen if record is None else record.revision
        self._fence = 0 if record is None else record.created_revision
        return None if record is None else holder_of(record)
