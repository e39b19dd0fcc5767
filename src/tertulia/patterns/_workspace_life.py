"""The life of a workspace: open, archived, abandoned, or being removed; and who has ever been a member."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tertulia._clock import Clock
from tertulia._names import RESERVED_KEYS
from tertulia.engines.base import Check, CheckFailed, Commit, Delete, Engine, Put, Record
from tertulia.errors import (
    NotAMemberError,
    UnknownWorkspaceError,
    WorkspaceAbandonedError,
    WorkspaceArchivedError,
)
from tertulia.patterns._races import MAX_RACES, lost

_OPEN = b"open"
_OWNED = b"owned"  # open for as long as its owner is there: whose record this is
_ORPHANED = b"orphaned"  # the same, when its owner was found missing: a process that was stopped may come back
_ARCHIVED = b"archived"
_ABANDONED = b"abandoned"  # archived, because its owner was there no longer
_REMOVING = b"removing"

_CLOSED = (_ARCHIVED, _ABANDONED)
_HAS_OWNER = (_OWNED, _ORPHANED)
GRACE = 1 / 2  # of the owner's lease: one that was only stopped renews it within a third, as soon as it goes on
STATES = {_OPEN: "open", _OWNED: "open", _ORPHANED: "open", _ARCHIVED: "archived", _ABANDONED: "abandoned"}
"""What the state's key holds of a workspace that there is, and what it means."""


def state_of(record: Record, parts: Collection[str]) -> str | None:
    """Return what a state's record means beside these parts of its workspace, None for one that is being removed."""
    if record.body in _HAS_OWNER and f"owner:{record.owner}" not in parts:
        return STATES[_ABANDONED]
    return STATES.get(record.body)


class WorkspaceExists(Exception):  # noqa: N818 - a condition, seen by nobody outside
    """What was to be made is there already."""


class WorkspaceLife:
    """The state of one workspace, kept under one key that changes with nothing else.

    What may only happen in an open workspace is committed with `fence`, so that nothing slips in behind an archiving
    or a removal. Removing takes several commits: until the last one the key says so, nothing else can happen, and
    whoever comes next completes it.

    One that is owned is open while its owner's lease, under `owner:`, is there. Whoever finds that it is not writes
    that down; whoever finds the same after half a lease more writes down that it was abandoned, and so it is from then
    on, whether the owner comes back or not.
    """

    def __init__(self, workspace_id: str, engine: Engine, clock: Clock, *, lease: float) -> None:
        self._clock = clock
        self._grace = lease * GRACE
        self.workspace_id = workspace_id
        self.prefix = f"{RESERVED_KEYS}workspace:{workspace_id}:"
        self._engine = engine
        self._key = f"{self.prefix}state"
        self.owner = f"{self.prefix}owner:"
        self._members = f"{self.prefix}member:"

    async def fence(self) -> tuple[Check, ...]:
        """Return checks that hold as long as the workspace is open, or raise WorkspaceError."""
        record, lease = await self._look()
        if record.body == _ABANDONED:
            raise WorkspaceAbandonedError(self.workspace_id, record.owner)
        if record.body == _ARCHIVED:
            raise WorkspaceArchivedError(self.workspace_id)
        unchanged = self._unchanged(record)
        return (unchanged,) if lease is None else (unchanged, Check(lease.key, created_revision=lease.created_revision))

    async def is_archived(self) -> bool:
        """Tell whether it was archived, or abandoned. Raises UnknownWorkspaceError."""
        return (await self._look())[0].body in _CLOSED

    async def why_closed(self) -> str | None:
        """Return why it is not open, or None while it is. Raises UnknownWorkspaceError."""
        record, _ = await self._look()
        if record.body == _ABANDONED:
            return f"the workspace was abandoned: its owner {record.owner!r} is gone"
        return "the workspace was archived" if record.body == _ARCHIVED else None

    async def create(self, agent_id: str) -> None:
        """Make the workspace, unless it is open; complete its removal first, if one was left half done.

        Whoever makes it has been a member from that moment, and so may remove it again, come what may.
        """
        for _ in range(MAX_RACES):
            record = await self._engine.get(self._key)
            if record is not None and record.body == _REMOVING:
                await self._clear(record)
            elif record is not None or await self._try(
                Check(self._key, absent=True), Put(self._key, _OPEN, agent_id), self.member_put(agent_id)
            ):
                return
        raise lost(f"workspace {self.workspace_id!r}")

    async def founding(self) -> tuple[Check, ...]:
        """Return the check that there is no such workspace; complete its removal first, if one was left half done.

        Raises WorkspaceExists.
        """
        record = await self._engine.get(self._key)
        if record is not None and record.body == _REMOVING:
            await self._clear(record)
        elif record is not None:
            raise WorkspaceExists
        return (Check(self._key, absent=True),)

    def owned_puts(self, owner: str) -> tuple[Put, ...]:
        """Return the puts that make a workspace which is open while its owner is there."""
        return Put(self._key, _OWNED, owner), self.member_put(owner)

    def member_put(self, agent_id: str) -> Put:
        """Return the put that makes the agent one that has been a member."""
        return Put(f"{self._members}{agent_id}", b"", agent_id)

    async def check_was_member(self, agent_id: str, operation: str) -> None:
        """Raise NotAMemberError unless the agent has ever joined."""
        if await self._engine.get(f"{self._members}{agent_id}") is None:
            raise NotAMemberError(agent_id, operation, self.workspace_id, "it has never joined")

    async def archive(self, agent_id: str) -> bool:
        """Let nothing change any more; return whether it was open."""
        for _ in range(MAX_RACES):
            record, _ = await self._look()
            if record.body in _CLOSED:
                return False
            if await self._try(self._unchanged(record), Put(self._key, _ARCHIVED, agent_id)):
                return True
        raise lost(f"workspace {self.workspace_id!r}")

    async def remove(self, agent_id: str) -> None:
        """Remove everything that is kept of the workspace."""
        for _ in range(MAX_RACES):
            unchanged = self._unchanged(await self._record())
            if await self._try(unchanged, Put(self._key, _REMOVING, agent_id)):
                removing = await self._engine.get(self._key)
                if removing is not None and removing.body == _REMOVING:  # else somebody has completed it already
                    await self._clear(removing)
                return
        raise lost(f"workspace {self.workspace_id!r}")

    # --- inside ---

    async def _look(self) -> tuple[Record, Record | None]:
        """Return the state, and the lease of the owner of one that is owned and open."""
        for _ in range(MAX_RACES):
            record = await self._record()
            if record.body not in _HAS_OWNER:
                return record, None
            key = self.owner + record.owner
            lease = await self._engine.get(key)
            then = self._next_state(record, lease)
            if then is None:
                return record, lease
            still = Check(key, absent=True) if lease is None else Check(key, created_revision=lease.created_revision)
            await self._try(self._unchanged(record), Put(self._key, then, record.owner), checks=(still,))
        raise lost(f"workspace {self.workspace_id!r}")

    def _next_state(self, record: Record, lease: Record | None) -> bytes | None:
        """Return what has become of one that has an owner, whose lease this is; None if nothing has."""
        if lease is not None:
            return _OWNED if record.body == _ORPHANED else None
        if record.body == _OWNED:
            return _ORPHANED
        return _ABANDONED if self._clock.time() >= record.updated + self._grace else None

    async def _record(self) -> Record:
        record = await self._engine.get(self._key)
        if record is None or record.body == _REMOVING:
            raise UnknownWorkspaceError(self.workspace_id)
        return record

    def _unchanged(self, record: Record) -> Check:
        return Check(self._key, revision=record.revision)

    async def _try(self, check: Check, *puts: Put, checks: tuple[Check, ...] = ()) -> bool:
        try:
            await self._engine.commit(Commit(checks=(check, *checks), puts=puts))
        except CheckFailed:
            return False
        return True

    async def _clear(self, removing: Record) -> None:
        """Remove what is left, the state last; while it says so nobody adds anything."""
        unchanged = self._unchanged(removing)
        _, records = await self._engine.scan(self.prefix, bodies=False)
        keys = [record.key for record in records if record.key != self._key]
        size = self._engine.capabilities.max_commit_operations - 1  # one is the check
        try:
            for start in range(0, len(keys), size):
                await self._delete(unchanged, keys[start : start + size])
            await self._delete(unchanged, [self._key])
        except CheckFailed:
            return  # somebody else was faster, and it may have been made anew by now

    async def _delete(self, unchanged: Check, keys: Sequence[str]) -> None:
        await self._engine.commit(Commit(checks=(unchanged,), deletes=tuple(map(Delete, keys))))
