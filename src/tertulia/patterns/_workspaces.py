"""Which workspaces there are in a space, as whoever looks after it sees them: without being a participant of any."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from tertulia._clock import instant
from tertulia._names import RESERVED_KEYS
from tertulia.errors import UnknownWorkspaceError
from tertulia.patterns._workspace_life import STATES, state_of
from tertulia.space import Space

__all__ = ["SharedKey", "WorkspaceInfo", "describe_workspace", "list_workspaces"]

WORKSPACES, STATE = f"{RESERVED_KEYS}workspace:", ":state"


class SharedKey(Struct, frozen=True, kw_only=True):
    """A key of the shared data, and its version; what is under it is for participants."""

    key: str
    version: int
    owner: str
    updated_at: datetime


class WorkspaceInfo(Struct, frozen=True, kw_only=True):
    """A workspace as it was when looked at.

    `state` is "open", "archived", or "abandoned": by an owner who is gone. `participants`: who is there, in the order
    in which they came; `members`: who has ever been. `open_ballots`: how many proposals wait for votes.
    """

    workspace_id: str
    state: str
    made_at: datetime
    participants: tuple[str, ...]
    members: tuple[str, ...]
    shared: tuple[SharedKey, ...]
    open_ballots: int


async def list_workspaces(space: Space) -> list[WorkspaceInfo]:
    """Return all workspaces, by name."""
    _, records = await space.engine.scan(WORKSPACES, matches=lambda key: key.endswith(STATE))
    names = [record.key[len(WORKSPACES) : -len(STATE)] for record in records if record.body in STATES]
    found: list[WorkspaceInfo] = []
    for name in names:
        try:
            found.append(await describe_workspace(space, name))
        except UnknownWorkspaceError:
            continue  # it was removed meanwhile
    return found


async def describe_workspace(space: Space, workspace_id: str) -> WorkspaceInfo:
    """Return what there is of one workspace. Raises UnknownWorkspaceError."""
    prefix = f"{WORKSPACES}{workspace_id}:"
    state = await space.engine.get(f"{prefix}state")
    if state is None or state.body not in STATES:
        raise UnknownWorkspaceError(workspace_id)
    _, records = await space.engine.scan(prefix, bodies=False)
    parts = {record.key.removeprefix(prefix): record for record in records}
    present = sorted(
        (record for name, record in parts.items() if name.startswith("present:")),
        key=lambda record: record.created_revision,
    )
    said = state_of(state, parts) or STATES[state.body]
    open_ = said == "open"
    return WorkspaceInfo(
        workspace_id=workspace_id,
        state=said,
        made_at=instant(state.created),
        participants=tuple(record.owner for record in present) if open_ else (),
        members=tuple(name.removeprefix("member:") for name in parts if name.startswith("member:")),
        shared=tuple(
            SharedKey(
                key=name.removeprefix("data:"),
                version=record.version,
                owner=record.owner,
                updated_at=instant(record.updated),
            )
            for name, record in parts.items()
            if name.startswith("data:")
        ),
        open_ballots=sum(name.startswith("ballot:open:") for name in parts) if open_ else 0,
    )
