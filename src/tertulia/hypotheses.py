"""The values of a blackboard: hypotheses, contributions and solution candidates. All of them are frozen."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct

from tertulia._clock import instant

__all__ = ["BoardAction", "BoardRecord", "Hypothesis", "HypothesisState", "SolutionCandidate", "WorkRequest"]


class HypothesisState(StrEnum):
    """What has become of a hypothesis.

    PROPOSED: it stands. REFINED: there is a better version of it, which `refined_by` names; it still counts as
    evidence. RETRACTED: it counts for nothing any more. ACCEPTED: it was voted to be the solution.
    """

    PROPOSED = "proposed"
    REFINED = "refined"
    RETRACTED = "retracted"
    ACCEPTED = "accepted"


class Hypothesis(Struct, frozen=True, kw_only=True):
    """Something that an agent holds to be the case.

    `confidence` is from 0 to 1. `supports` and `contradicts` are ids of hypotheses that this one speaks for and
    against; `refines` is the one that it is a better version of, `refined_by` those that are of this one. `version`
    counts its changes from 1; `order` is its place among all contributions to the space, never reused.
    """

    id: str
    section: str
    content: Any
    author: str
    confidence: float
    supports: tuple[str, ...] = ()
    contradicts: tuple[str, ...] = ()
    refines: str | None = None
    refined_by: tuple[str, ...] = ()
    state: HypothesisState = HypothesisState.PROPOSED
    reason: str = ""
    posted: float = 0.0
    version: int = 0
    order: int = 0

    @property
    def posted_at(self) -> datetime:
        """When it was posted."""
        return instant(self.posted)

    @property
    def is_live(self) -> bool:
        """Whether it counts: everything but what was retracted."""
        return self.state is not HypothesisState.RETRACTED

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dict with ISO instants, ready for JSON if the content is."""
        return {**msgspec.structs.asdict(self), "state": self.state.value, "posted": self.posted_at.isoformat()}


class BoardAction(StrEnum):
    """What was done to a blackboard."""

    POSTED = "posted"
    REFINED = "refined"
    RETRACTED = "retracted"
    LINKED = "linked"
    REQUESTED = "requested"  # work was asked for
    DONE = "done"  # work that was asked for was done
    ACCEPTED = "accepted"  # a vote made a hypothesis the solution
    REJECTED = "rejected"  # a vote ended otherwise
    CHOSEN = "chosen"  # control chose an activation to run, and says over which
    RAN = "ran"  # a knowledge source ran to its end
    DROPPED = "dropped"  # control dropped an activation, and says why
    FAILED = "failed"  # a knowledge source, or who took work, failed; it is tried again, or dropped
    FOCUSED = "focused"  # what to attend to was changed


class BoardRecord(Struct, frozen=True, kw_only=True):
    """One thing that was done to a blackboard; `order` is its place in all that was done, never reused."""

    order: int
    kind: BoardAction
    agent: str
    at: float
    hypothesis: str | None = None
    details: dict[str, Any] = {}

    @property
    def done_at(self) -> datetime:
        """When it was done."""
        return instant(self.at)


class SolutionCandidate(Struct, frozen=True, kw_only=True):
    """A hypothesis as a solution: how sure to be of it, from -1 to 1, and why, in sentences."""

    hypothesis: Hypothesis
    score: float
    reasons: tuple[str, ...]


class WorkRequest(Struct, frozen=True, kw_only=True):
    """Work that somebody asked for on a blackboard, for whoever takes it."""

    id: str
    board: str
    requester: str
    task: Any
