"""What locks, semaphores and elections do alike."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType

from tertulia._arguments import check_seconds
from tertulia._clock import instant
from tertulia._names import check_name
from tertulia.engines.base import Engine, Record
from tertulia.errors import LockLostError, NotHolderError
from tertulia.messaging.outbox import Outbox
from tertulia.patterns._acquiring import Acquiring, Condition
from tertulia.patterns._flow import remember
from tertulia.patterns._held import Claim, HeldLease
from tertulia.patterns._kept import (
    check_lease_name,
    holders_of,
    holding_of,
    ids_of,
    line_key,
    wait_key,
    waiting_of,
)
from tertulia.patterns._leases import leases_of
from tertulia.patterns.grants import Grant
from tertulia.records import Holder, WaitsFor, new_id
from tertulia.space import Space

WAIT_TIMEOUT = 30.0  # seconds that a wait lasts by default, as a request does


class Leased:
    """Names that agents hold, one agent at a time or, with several slots, as many as there are."""

    def __init__(
        self, space: Space, kind: str, names: tuple[str, ...], *, slots: int = 1, condition: Condition | None = None
    ) -> None:
        self.names = tuple(sorted({check_lease_name(name) for name in names}))
        self.slots = slots
        self._kind = kind
        self._condition = condition
        self._leases = leases_of(space.broker)
        self._engine: Engine = space.engine

    async def acquire(self, agent_id: str, lease: float, timeout: float | None) -> Grant:
        """Wait until the agent holds all of the names."""
        return Grant(await self._acquire(agent_id, lease, timeout), self._leases.outbox)

    async def try_acquire(self, agent_id: str, lease: float) -> Grant | None:
        """Return a grant if nobody holds or waits for any of the names, else None."""
        held = await self._acquiring(agent_id, lease).at_once()
        return None if held is None else Grant(held, self._leases.outbox)

    def hold(self, agent_id: str, lease: float, timeout: float | None) -> Hold:
        """Return the context manager that acquires and releases."""
        return Hold(lambda: self._acquire(agent_id, lease, timeout), self._leases.outbox)

    async def release(self, agent_id: str) -> None:
        """Release what the agent acquired through this handle. Raises NotHolderError, LockLostError."""
        held = self._leases.keeper.held_by(self._kind, self.names, check_name(agent_id))
        if held is None:
            holders = tuple([holder.agent_id for holder in await self.holders()])
            raise NotHolderError(self._kind, self.names, agent_id, holders)
        await held.release()

    async def holders(self) -> list[Holder]:
        """Return who holds any of the names now."""
        held = [await holders_of(self._engine, self._kind, name, self.slots) for name in self.names]
        return [holder_of(record) for slots in held for _, record in slots if record is not None]

    async def waiting(self) -> list[WaitsFor]:
        """Return who waits in line for any of the names, first come first."""
        found: list[WaitsFor] = []
        for name in self.names:
            held = await holders_of(self._engine, self._kind, name, self.slots)
            agents = tuple(record.owner for _, record in held if record is not None)
            for wait_id in ids_of(await self._engine.get(line_key(self._kind, name))):
                record = await self._engine.get(wait_key(wait_id))
                if record is not None:
                    since = instant(waiting_of(record).since)
                    wait = WaitsFor(agent_id=record.owner, kind=self._kind, name=name, held_by=agents, since=since)
                    found.append(wait)
        return found

    async def _acquire(self, agent_id: str, lease: float, timeout: float | None) -> HeldLease:
        limit = None if timeout is None else check_seconds("timeout", timeout, zero=True)
        return await self._acquiring(agent_id, lease).wait(limit)

    def _acquiring(self, agent_id: str, lease: float) -> Acquiring:
        claim = Claim(
            kind=self._kind,
            names=self.names,
            agent_id=check_name(agent_id),
            lease=check_seconds("lease", lease),
            slots=self.slots,
            token=new_id(),
        )
        return Acquiring(claim, self._leases, self._condition)


class Hold:
    """A block during which something is held: `async with lock.hold("ann") as grant`.

    It is released when the block is left, however that happens. If the lease is lost while the block runs, the block
    is cancelled at its next `await`, as by `asyncio.timeout`, and LockLostError comes out of it; and if the block ends
    by itself before it hears of that, LockLostError all the same. An exception of the block's own comes out as it is.
    """

    def __init__(self, acquire: Callable[[], Awaitable[HeldLease]], outbox: Outbox) -> None:
        self._acquire = acquire
        self._outbox = outbox
        self._lease: HeldLease | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._cancelled = False

    async def __aenter__(self) -> Grant:
        if self._lease is not None:
            message = "this block was entered before: call hold() for each"
            raise RuntimeError(message)
        lease = self._lease = await self._acquire()
        self._task = asyncio.current_task()
        self._cancelling = 0 if self._task is None else self._task.cancelling()
        lease.on_loss = self._cancel
        remember(lease, block=True)
        return Grant(lease, self._outbox)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        lease = self._lease
        assert lease is not None  # noqa: S101 - it was entered
        lease.on_loss = None
        mine = self._cancelled and self._task is not None and self._task.uncancel() <= self._cancelling
        if mine and isinstance(error, asyncio.CancelledError):
            raise lease.loss() from error
        try:
            await lease.release()
        except LockLostError:
            if error is None:
                raise

    def _cancel(self) -> None:
        task = self._task
        if task is not None and task is not asyncio.current_task() and not task.done():
            self._cancelled = True
            task.cancel()


def holder_of(record: Record) -> Holder:
    """Return a grant's record as users see it."""
    holding = holding_of(record)
    return Holder(
        agent_id=holding.agent_id,
        name=holding.name,
        fence=record.created_revision,
        since=instant(holding.since),
        expires_at=instant(record.expires or record.updated),
    )
