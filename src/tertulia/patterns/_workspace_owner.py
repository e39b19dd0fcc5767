"""The owner of a workspace: an agent without whom nobody needs what is done there."""

from __future__ import annotations

from tertulia._names import check_name
from tertulia.patterns._workspace_life import WorkspaceExists, WorkspaceLife
from tertulia.patterns.presence import Presence
from tertulia.space import Space


class WorkspaceOwner:
    """Makes a workspace, and keeps its owner's lease until this handle of the space closes or the workspace does.

    The lease is another than the owner's presence, which anybody may end who lets a participant leave.
    """

    def __init__(self, life: WorkspaceLife, space: Space, owner: str, lease: float) -> None:
        self._life = life
        self._owner = check_name(owner)
        self._presence = Presence(space, life.owner, lease=lease, guard=life.fence)

    async def found(self) -> None:
        """Make the workspace, owned, unless there is one."""
        try:
            await self._presence.enter(self._owner, puts=self._life.owned_puts(self._owner), guard=self._life.founding)
        except WorkspaceExists:
            return

    async def end(self, agent_id: str) -> None:
        """Keep the lease no longer, if it is the owner who closes the workspace; what is left of it runs out."""
        if agent_id == self._owner:
            await self._presence.let_run_out(agent_id)
