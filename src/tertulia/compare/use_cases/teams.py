"""Which team does a use case in which way, and who judges what came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from tertulia.compare.use_cases import (
    broadcast,
    caching,
    coordination,
    event_streaming,
    request_response,
    state_sharing,
)
from tertulia.compare.use_cases.stage import Judged, Outcome, Setting, Team
from tertulia.selection.requirement import Paradigm, UseCase

__all__ = ["JUDGES", "TEAMS", "team_of"]

TEAMS: Mapping[UseCase, Mapping[Paradigm, Team]] = {
    UseCase.STATE_SHARING: state_sharing.TEAMS,
    UseCase.REQUEST_RESPONSE: request_response.TEAMS,
    UseCase.EVENT_STREAMING: event_streaming.TEAMS,
    UseCase.BROADCAST: broadcast.TEAMS,
    UseCase.CACHING: caching.TEAMS,
    UseCase.COORDINATION: coordination.TEAMS,
}

JUDGES: Mapping[UseCase, Callable[[Outcome], Awaitable[Judged]]] = {
    UseCase.STATE_SHARING: state_sharing.judge,
    UseCase.REQUEST_RESPONSE: request_response.judge,
    UseCase.EVENT_STREAMING: event_streaming.judge,
    UseCase.BROADCAST: broadcast.judge,
    UseCase.CACHING: caching.judge,
    UseCase.COORDINATION: coordination.judge,
}


def team_of(setting: Setting) -> Team:
    """Return the team of a setting. Raises KeyError for a way in which the use case is not built."""
    return TEAMS[setting.use_case][setting.paradigm]
