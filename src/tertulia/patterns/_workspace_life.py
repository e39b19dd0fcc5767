"""The life of a workspace: open, archived, or being removed; and who has ever been a member."""

from __future__ import annotations

from collections.abc import Sequence

from tertulia._names import RESERVED_KEYS
from tertulia.engines.base import Check, CheckFailed, Commit, Delete, Engine, Put, Record
from tertulia.errors import (
    NotAMemberError,
    UnknownWorkspaceError,
    WorkspaceArchivedError,
)
from tertulia.patterns._races import MAX_RACES, lost

_OPEN = b"open"
_ARCHIVED = b"archived"
_REMOVING = b"removing"

STATES = {_OPEN: "open", _ARCHIVED: "archived"}
"""What the state's key holds of a workspace that there is, and what it means."""


class WorkspaceLife:
    """The state of one workspace, kept under one key that changes with nothing else.

    What may only happen in an open workspace is committed with `fence`, so that nothing slips in behind an archiving
    or a removal. Removing takes several commits: until the last one the key says so, nothing else can happen, and
    whoever comes next completes it.
    """

    def __init__(self, workspace_id: str, engine: Engine) -> None:
        self.workspace_id = workspace_id
        self.prefix = f"{RESERVED_KEYS}workspace:{workspace_id}:"
        self._engine = engine
        self._key = f"{self.prefix}state"
        self._members = f"{self.prefix}member:"

    async def fence(self) -> Check:
        """Return a check that holds as long as the workspace is open, or raise WorkspaceError."""
        record = await self._record()
        if record.body == _ARCHIVED:
            raise WorkspaceArchivedError(self.workspace_id)
        return self._unchanged(record)

    async def is_archived(self) -> bool:
        """Tell whether it was archived. Raises UnknownWorkspaceError."""
        return (await self._record()).body == _ARCHIVED

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
            record = await self._record()
            if record.body == _ARCHIVED:
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

    async def _record(self) -> Record:
        record = await self._engine.get(self._key)
        if record is None or record.body == _REMOVING:
            raise UnknownWorkspaceError(self.workspace_id)
        return record

    def _unchanged(self, record: Record) -> Check:
        return Check(self._key, revision=record.revision)

    async def _try(self, check: Check, *puts: Put) -> bool:
        try:
            await self._engine.commit(Commit(checks=(check,), puts=puts))
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
