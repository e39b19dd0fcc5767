"""Grants: what an agent has while it holds a lock, a permit or a leadership."""

# pyright: reportPrivateUsage=false
# A grant makes its own view of the memory, as a region does.

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TypeVar, cast

from tertulia._commits import GuardedEngine
from tertulia.engines.base import Engine
from tertulia.memory import SharedMemory
from tertulia.messaging.outbox import Outbox
from tertulia.patterns._held import HeldLease
from tertulia.records import KEEP, Keep, MemoryEntry
from tertulia.transaction import Transaction

T = TypeVar("T", bound=Transaction)


class Grant:
    """A lock, a permit or a leadership, held by an agent under a lease that is renewed until it is released or lost.

    `fence` is the revision at which it was granted. Every later grant of the same name has a greater one, whether or
    not anything was written in between; so it can be handed to systems outside, which refuse what comes with a smaller
    one than they have seen.

    What is written through the grant (`write`, `create`, `update`, `delete`, `transaction`, all of `memory`) is
    committed only while the grant stands, judged by the space in the same commit. Otherwise it raises LockLostError and
    changes nothing. So a holder that was stopped past its lease cannot write over what its successor does.

    `lost` is set when the lease is known to be over without having been released: it ran out or was taken over, it
    could not be renewed in time, or the space was closed. In a `hold` block that also cancels the block, which then
    raises LockLostError; after a plain `acquire` it is for the holder to watch.
    """

    def __init__(self, lease: HeldLease, outbox: Outbox) -> None:
        self._lease = lease
        self._outbox = outbox
        self._memory: SharedMemory | None = None  # made when it is first asked for: most grants write little

    def __repr__(self) -> str:
        lease = self._lease
        names = ", ".join(lease.names)
        return f"<Grant of {lease.kind} {names} to {lease.agent_id}, fence {self.fence}: {lease.over or 'held'}>"

    @property
    def agent_id(self) -> str:
        """Who holds it."""
        return self._lease.agent_id

    @property
    def names(self) -> tuple[str, ...]:
        """What is held."""
        return self._lease.names

    @property
    def fence(self) -> int:
        """The revision at which it was granted; of several names, the greatest."""
        return max(self._lease.fences.values())

    @property
    def fences(self) -> dict[str, int]:
        """The revision at which each name was granted."""
        return dict(self._lease.fences)

    @property
    def held(self) -> bool:
        """Whether it is held, as far as is known here; only a commit tells for certain."""
        return self._lease.held

    @property
    def lost(self) -> asyncio.Event:
        """Set once it is known to be lost."""
        return self._lease.lost

    # --- fenced writes ---

    @property
    def memory(self) -> SharedMemory:
        """The memory of the space with every change fenced; a MemoryRegion of it is fenced too."""
        if self._memory is None:
            memory, lease = self._outbox.memory, self._lease
            fenced = cast("Engine", GuardedEngine(memory._engine, lease.checks, lease.refuse))
            self._memory = SharedMemory(fenced, memory._clock, memory._background, log=memory._log)
        return self._memory

    async def write(
        self, key: str, value: object, *, ttl: float | None = None, tags: Iterable[str] = ()
    ) -> MemoryEntry:
        """Create or replace the key as the grant's agent; see SharedMemory.write. Raises LockLostError."""
        return await self.memory.write(key, value, owner=self.agent_id, ttl=ttl, tags=tags)

    async def create(
        self, key: str, value: object, *, ttl: float | None = None, tags: Iterable[str] = ()
    ) -> MemoryEntry:
        """Create the key as the grant's agent; see SharedMemory.create. Raises LockLostError."""
        return await self.memory.create(key, value, owner=self.agent_id, ttl=ttl, tags=tags)

    async def update(
        self,
        key: str,
        value: object,
        *,
        expected_version: int | None = None,
        expected_revision: int | None = None,
        ttl: float | Keep | None = KEEP,
        tags: Iterable[str] | Keep = KEEP,
    ) -> MemoryEntry:
        """Replace the value of a key that exists; see SharedMemory.update. Raises LockLostError."""
        return await self.memory.update(
            key,
            value,
            updater=self.agent_id,
            expected_version=expected_version,
            expected_revision=expected_revision,
            ttl=ttl,
            tags=tags,
        )

    async def delete(self, key: str, *, expected_version: int | None = None) -> bool:
        """Remove the key; return whether it was there; see SharedMemory.delete. Raises LockLostError."""
        return await self.memory.delete(key, requester=self.agent_id, expected_version=expected_version)

    def transaction(self) -> Transaction:
        """Return a transaction whose commit raises LockLostError, and does nothing, unless the grant stands."""
        return self.guard(Transaction(self._outbox))

    def guard(self, transaction: T) -> T:
        """Let a transaction, such as a handler's, commit only while the grant stands; return it."""
        for check in self._lease.checks:
            transaction._guard(check, self._lease.refuse)
        return transaction

    # --- the end ---

    async def release(self) -> None:
        """Give it back, so that the next in line gets it. Releasing twice changes nothing.

        Raises LockLostError when it was lost before: then what was done under it, and not through the grant, may have
        met what another did. After an EngineError it ends when its lease runs out. Cancellation: it is released all
        the same.
        """
        await self._lease.release()
