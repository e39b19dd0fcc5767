"""Collaboration: a task, agents that are invited to it, and what each of them contributed.

How it goes is in `_collaborating` (who asks) and `_taking_part` (who is asked).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from msgspec import Struct

from tertulia._clock import Clock
from tertulia.errors import CollaborationError
from tertulia.patterns.workspace import CollaborativeWorkspace

INVITATION = "collaboration_invitation"  # the type of the message that invites
CONTEXT, TASK = "context", "task"  # keys of the shared data
STARTED, CONTRIBUTION = "started:", "contribution:"  # and what keys start with that end with an agent's name


class ContributionStatus(Enum):
    """What became of one collaborator's part."""

    DONE = "done"  # it contributed
    DECLINED = "declined"  # it said no: its function raised Reject, or it has none for tasks
    FAILED = "failed"  # its function raised something else
    VANISHED = "vanished"  # it had begun, and its presence ran out: its process died or was stopped
    UNFINISHED = "unfinished"  # it was still at work when time was over, or somebody closed the workspace
    SILENT = "silent"  # it never began


class Afterwards(Enum):
    """What becomes of the workspace when a collaboration has ended."""

    ARCHIVE = "archive"  # members can read it, and nothing changes any more
    REMOVE = "remove"  # it goes, with everything in it
    KEEP = "keep"  # it stays open, and late contributions still arrive there


class Contribution(Struct, frozen=True, kw_only=True):
    """What one collaborator did. `result` is None unless it is done; `error` is an exception's type.

    `started_at` is None for one who never began, `finished_at` for one who did not end by itself.
    """

    agent_id: str
    status: ContributionStatus
    result: Any = None
    reason: str = ""
    error: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def seconds(self) -> float | None:
        """How long it took, or None where it did not begin or end."""
        if self.started_at is None or self.finished_at is None:
            return None
        return (self.finished_at - self.started_at).total_seconds()


class Collaboration(Struct, frozen=True, kw_only=True):
    """A collaboration that has ended: who did what, when, how long it took, and what failed.

    `contributions` has one for each who was invited, in that order.
    """

    workspace_id: str
    task: Any
    initiator: str
    contributions: tuple[Contribution, ...]
    started_at: datetime
    finished_at: datetime
    afterwards: Afterwards

    @property
    def results(self) -> dict[str, Any]:
        """What those who are done contributed, by agent."""
        return {part.agent_id: part.result for part in self.contributions if part.status is ContributionStatus.DONE}

    @property
    def missing(self) -> tuple[Contribution, ...]:
        """The parts of those who contributed nothing."""
        return tuple(part for part in self.contributions if part.status is not ContributionStatus.DONE)

    @property
    def complete(self) -> bool:
        """Whether everybody contributed."""
        return not self.missing

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.finished_at - self.started_at).total_seconds()

    def raise_for_missing(self) -> None:
        """Raise CollaborationError, which names them, when somebody contributed nothing."""
        if self.missing:
            told = ", ".join(f"{part.agent_id!r} ({part.status.value})" for part in self.missing)
            raise CollaborationError(self.workspace_id, told, self)


@dataclass(frozen=True, kw_only=True, slots=True)
class CollaborationTask:
    """What a collaborator's function is given: what to do, with what, with whom, and until when."""

    task: Any
    context: Any
    workspace: CollaborativeWorkspace
    agent_id: str
    invited_by: str
    collaborators: tuple[str, ...]
    deadline: datetime
    attempt: int
    _clock: Clock = field(repr=False)

    def remaining(self) -> float:
        """Return how many seconds are left; 0 when time is over."""
        return max(0.0, self.deadline.timestamp() - self._clock.time())


TaskFunction = Callable[[CollaborationTask], Any]


class Invitation(Struct, frozen=True, kw_only=True):
    """The content of the message that invites; `deadline` is civil time."""

    workspace_id: str
    initiator: str
    collaborators: tuple[str, ...]
    deadline: float
    presence_lease: float
    type: str = INVITATION


class Report(Struct, frozen=True, kw_only=True):
    """A contribution as it is written down."""

    status: ContributionStatus
    started: float
    finished: float
    result: Any = None
    reason: str = ""
    error: str = ""
