"""Regions: parts of the memory with permissions per agent, kept in the space and checked in every commit."""

# pyright: reportPrivateUsage=false
# The modules of the core are friends: what they share with each other is no promise to users.

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar, cast

import msgspec

from tertulia._arguments import check_seconds
from tertulia._codec import decoder_for
from tertulia._commits import GuardedEngine, GuardFailed
from tertulia._names import REGION_KEYS, RESERVED_KEYS, check_name
from tertulia.engines.base import Check, CheckFailed, Commit, Delete, Engine, Put
from tertulia.errors import AccessDeniedError, InvalidInputError
from tertulia.memory import SharedMemory
from tertulia.records import KEEP, Keep, MemoryAccessMode, MemoryEntry
from tertulia.watching import GuardedWatch

T = TypeVar("T")

DEFAULT_EXCLUSIVE_LEASE = 60.0  # long enough for a change made with care, short enough to wait out a crash

_READS = {MemoryAccessMode.READ, MemoryAccessMode.READ_WRITE, MemoryAccessMode.EXCLUSIVE}
_WRITES = {MemoryAccessMode.WRITE, MemoryAccessMode.READ_WRITE, MemoryAccessMode.EXCLUSIVE}
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = decoder_for(dict[str, MemoryAccessMode])


class MemoryRegion:
    """The keys of one region, for the agents that were granted access. Others get AccessDeniedError.

    Permissions are kept in the space, so they hold in every process, and every change is committed only if they
    still stand. EXCLUSIVE is a lease: while one agent holds it everybody else is refused, whatever they were
    granted; it ends when it is revoked or its time is over. The lease is renewed by granting it again.

    Keys are relative to the region. Raises what SharedMemory raises, besides.
    """

    def __init__(self, name: str, memory: SharedMemory) -> None:
        self.name = check_name(name)
        self._memory = memory
        self._engine: Engine = memory._engine
        self._prefix = f"{REGION_KEYS}{name}:"
        self._modes_key = f"{RESERVED_KEYS}region:{name}:modes"
        self._holder_key = f"{RESERVED_KEYS}region:{name}:exclusive"

    # --- permissions ---

    async def grant_access(
        self, agent_id: str, mode: MemoryAccessMode, *, lease: float = DEFAULT_EXCLUSIVE_LEASE
    ) -> None:
        """Grant a mode in place of what the agent had; EXCLUSIVE lasts `lease` seconds and adds to it.

        Raises AccessDeniedError when another agent holds the region exclusively and EXCLUSIVE is asked for.
        """
        check_name(agent_id)
        _check_mode(mode)
        if mode is MemoryAccessMode.EXCLUSIVE:
            await self._take_exclusive(agent_id, check_seconds("lease", lease))
        else:
            await self._change_modes(lambda modes: {**modes, agent_id: mode})

    async def revoke_access(self, agent_id: str) -> bool:
        """Take away everything the agent was granted; return whether there was anything."""
        check_name(agent_id)
        held = await self._engine.get(self._holder_key)
        dropped = False
        if held is not None and held.owner == agent_id:
            check = Check(self._holder_key, created_revision=held.created_revision)
            dropped = await self._try(Commit(checks=(check,), deletes=(Delete(self._holder_key),)))
        before = await self._change_modes(
            lambda modes: {agent: mode for agent, mode in modes.items() if agent != agent_id}
        )
        return dropped or agent_id in before

    async def permissions(self) -> dict[str, MemoryAccessMode]:
        """Return who may do what now; a holder of the exclusive lease is shown as EXCLUSIVE."""
        modes, _ = await self._modes()
        held = await self._engine.get(self._holder_key)
        return modes if held is None else {**modes, held.owner: MemoryAccessMode.EXCLUSIVE}

    async def _take_exclusive(self, agent_id: str, lease: float) -> None:
        while True:
            held = await self._engine.get(self._holder_key)
            if held is not None and held.owner != agent_id:
                raise AccessDeniedError(agent_id, "hold", self.name, f"{held.owner!r} holds it exclusively")
            check = (
                Check(self._holder_key, absent=True)
                if held is None
                else Check(self._holder_key, created_revision=held.created_revision)
            )
            put = Put(self._holder_key, b"", agent_id, lease)
            if await self._try(Commit(checks=(check,), puts=(put,))):
                return

    async def _change_modes(
        self, change: Callable[[dict[str, MemoryAccessMode]], dict[str, MemoryAccessMode]]
    ) -> dict[str, MemoryAccessMode]:
        """Apply a change to the granted modes; return what they were before."""
        while True:
            modes, check = await self._modes()
            changed = change(modes)
            if changed == modes:
                return modes
            put = Put(self._modes_key, _ENCODER.encode(changed), self.name)
            if await self._try(Commit(checks=(check,), puts=(put,))):
                return modes

    async def _modes(self) -> tuple[dict[str, MemoryAccessMode], Check]:
        record = await self._engine.get(self._modes_key)
        if record is None:
            return {}, Check(self._modes_key, absent=True)
        return _DECODER.decode(record.body), Check(self._modes_key, revision=record.revision)

    async def _try(self, commit: Commit) -> bool:
        try:
            await self._engine.commit(commit)
        except CheckFailed:
            return False
        return True

    async def _allowed(self, agent_id: str, operation: str) -> tuple[Check, Check]:
        """Return what must still be true when the operation is committed, or raise AccessDeniedError."""
        check_name(agent_id)
        held = await self._engine.get(self._holder_key)
        modes, unchanged = await self._modes()
        if held is not None:
            if held.owner == agent_id:
                return unchanged, Check(self._holder_key, created_revision=held.created_revision)
            raise AccessDeniedError(agent_id, operation, self.name, f"{held.owner!r} holds it exclusively")
        mode = modes.get(agent_id)
        if mode not in (_READS if operation == "read" else _WRITES):
            has = "it has no access" if mode is None else f"it may only {mode.value}"
            raise AccessDeniedError(agent_id, operation, self.name, has)
        return unchanged, Check(self._holder_key, absent=True)

    async def _with_permission(self, agent_id: str, operation: str, call: Callable[[SharedMemory], Awaitable[T]]) -> T:
        """Make the call on this region's keys; start over when permissions changed under it."""
        while True:
            checks = await self._allowed(agent_id, operation)
            guarded = GuardedEngine(self._engine, checks)
            try:
                return await call(self._view(cast("Engine", guarded)))
            except GuardFailed:
                continue

    def _view(self, engine: Engine) -> SharedMemory:
        memory = self._memory
        return SharedMemory(
            engine,
            memory._clock,
            memory._background,
            prefix=self._prefix,
            log=memory._log,
        )

    # --- the memory's calls ---

    async def write(
        self, key: str, value: object, *, agent_id: str, ttl: float | None = None, tags: Iterable[str] = ()
    ) -> MemoryEntry:
        """Create or replace a key of the region; needs WRITE. See SharedMemory.write."""
        return await self._with_permission(
            agent_id, "write", lambda view: view.write(key, value, owner=agent_id, ttl=ttl, tags=tags)
        )

    async def read(self, key: str, *, agent_id: str, default: Any = None, type: Any = None) -> Any:
        """Return a copy of the value, or `default`; needs READ. See SharedMemory.read."""
        return await self._with_permission(
            agent_id, "read", lambda view: view.read(key, reader=agent_id, default=default, type=type)
        )

    async def read_with_metadata(self, key: str, *, agent_id: str, type: Any = None) -> MemoryEntry | None:
        """Return the entry or None; needs READ. See SharedMemory.read_with_metadata."""
        return await self._with_permission(
            agent_id, "read", lambda view: view.read_with_metadata(key, reader=agent_id, type=type)
        )

    async def update(
        self,
        key: str,
        value: object,
        *,
        agent_id: str,
        expected_version: int | None = None,
        expected_revision: int | None = None,
        ttl: float | Keep | None = KEEP,
        tags: Iterable[str] | Keep = KEEP,
    ) -> MemoryEntry:
        """Replace the value of a key that exists; needs WRITE. See SharedMemory.update."""
        return await self._with_permission(
            agent_id,
            "write",
            lambda view: view.update(
                key,
                value,
                updater=agent_id,
                expected_version=expected_version,
                expected_revision=expected_revision,
                ttl=ttl,
                tags=tags,
            ),
        )

    async def compare_and_swap(self, key: str, expected_value: object, new_value: object, *, agent_id: str) -> bool:
        """Replace the value if it equals the expected one; needs READ and WRITE."""
        await self._allowed(agent_id, "read")
        return await self._with_permission(
            agent_id,
            "write",
            lambda view: view.compare_and_swap(key, expected_value, new_value, requester=agent_id),
        )

    async def delete(self, key: str, *, agent_id: str, expected_version: int | None = None) -> bool:
        """Remove a key of the region; needs WRITE. See SharedMemory.delete."""
        return await self._with_permission(
            agent_id,
            "write",
            lambda view: view.delete(key, requester=agent_id, expected_version=expected_version),
        )

    async def list_keys(
        self,
        pattern: str = "*",
        *,
        agent_id: str,
        tags: Iterable[str] | None = None,
        owner: str | None = None,
    ) -> list[str]:
        """Return the region's keys that match; needs READ. See SharedMemory.list_keys."""
        return await self._with_permission(
            agent_id, "read", lambda view: view.list_keys(pattern, tags=tags, owner=owner)
        )

    def watch(self, pattern: str = "*", *, agent_id: str, after: int | None = None) -> RegionWatch:
        """Return a watch over the region's keys; needs READ, also while it runs: see SharedMemory.watch."""
        view = self._view(self._engine)
        return RegionWatch(view.watch(pattern, after=after), lambda: self._allowed(agent_id, "read"))


def _check_mode(mode: object) -> None:
    if not isinstance(mode, MemoryAccessMode):
        message = f"a mode of access is a MemoryAccessMode, not {mode!r}"
        raise InvalidInputError(message)


class RegionWatch(GuardedWatch):
    """A watch that ends with AccessDeniedError as soon as the agent may not read any more."""
