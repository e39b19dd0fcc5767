"""What was measured, as plain data, so that each process can hand over its own; and what comes of it together.

How long a message was under way is known only when two recordings meet: who sent it wrote down when that began, and
who got it when it asked and when it had it. Both read the machine's one clock that does not jump, so this holds for
processes of one machine, and for those alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

__all__ = ["AgentFigures", "Arrival", "OperationFigures", "Recording", "figures_of", "percentile"]


class OperationFigures(Struct):
    """One kind of operation of one agent. `refused` of the `count` raised; `seconds` has a latency for each timed."""

    count: int = 0
    refused: int = 0
    seconds: list[float] = field(default_factory=list[float])


class AgentFigures(Struct):
    """What one agent asked of the engine."""

    operations: dict[str, OperationFigures] = field(default_factory=dict[str, OperationFigures])
    bytes_written: int = 0
    bytes_read: int = 0
    messages_received: int = 0
    changes_noticed: int = 0

    def done(self, kind: str, seconds: float | None, *, refused: bool = False) -> None:
        """Count an operation, with its latency if it has one."""
        figures = self.operations.get(kind)
        if figures is None:
            figures = self.operations[kind] = OperationFigures()
        figures.count += 1
        figures.refused += refused
        if seconds is not None:
            figures.seconds.append(seconds)


class Arrival(Struct, frozen=True, array_like=True):
    """Something that an agent got: messages, by their ids, or the change of a revision.

    `asked`: when the agent began to wait for it, None if it did not ask. `had`: when it was there.
    """

    agent: str
    kind: str
    had: float
    asked: float | None = None
    messages: tuple[str, ...] = ()
    revision: int | None = None


class Recording(Struct):
    """What one process measured in one run.

    `sent`: when sending each message began. `commits`: the revision that each commit of changes led to, and when it
    began. A few dozen bytes an operation.
    """

    agents: dict[str, AgentFigures] = field(default_factory=dict[str, AgentFigures])
    sent: dict[str, float] = field(default_factory=dict[str, float])
    commits: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    arrivals: list[Arrival] = field(default_factory=list[Arrival])


def figures_of(recordings: Sequence[Recording]) -> dict[str, AgentFigures]:
    """Return the figures of all agents of a run, with the latencies of what went from one to another."""
    begun = _Begun(recordings)
    latencies: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for recording in recordings:
        for arrival in recording.arrivals:
            began = begun.of(arrival)
            if began is not None:
                ready = began if arrival.asked is None else max(began, arrival.asked)
                latencies[arrival.agent, arrival.kind].append(arrival.had - ready)
    return {
        name: replace(figures, operations=_completed(name, figures, latencies))
        for recording in recordings
        for name, figures in recording.agents.items()
    }


def _completed(
    agent: str, figures: AgentFigures, latencies: defaultdict[tuple[str, str], list[float]]
) -> dict[str, OperationFigures]:
    return {
        kind: replace(operation, seconds=[*operation.seconds, *latencies.get((agent, kind), ())])
        for kind, operation in figures.operations.items()
    }


class _Begun:
    """When whatever arrived began to be sent, as far as that was measured."""

    def __init__(self, recordings: Iterable[Recording]) -> None:
        self._sent: dict[str, float] = {}
        for recording in recordings:
            for message_id, began in recording.sent.items():
                self._sent[message_id] = min(began, self._sent.get(message_id, began))
        commits = sorted(commit for recording in recordings for commit in recording.commits)
        self._revisions = [revision for revision, _ in commits]
        self._began = [began for _, began in commits]

    def of(self, arrival: Arrival) -> float | None:
        """Return when the last of it was sent."""
        if arrival.revision is None:
            known = [self._sent[message_id] for message_id in arrival.messages if message_id in self._sent]
            return max(known, default=None)
        place = bisect_left(self._revisions, arrival.revision)  # a commit's changes have revisions up to its own
        return self._began[place] if place < len(self._began) else None


def percentile(seconds: Sequence[float], percent: float) -> float | None:
    """Return the smallest latency that so many percent of all do not exceed (the nearest rank).

    None when there are too few for it to mean anything: fewer than one is expected beyond it.
    """
    rarest = 1 - percent / 100
    if len(seconds) * rarest < 1 - 1e-9:
        return None
    ranked = sorted(seconds)
    return ranked[-int(-len(ranked) * percent // 100) - 1]
