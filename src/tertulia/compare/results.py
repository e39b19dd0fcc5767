"""What the report team's runs find, as the table shows it and `tertulia compare --json` writes it.

Times are in seconds, sizes in bytes. Figures "of one run" are medians over the runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median, quantiles

from msgspec import Struct

__all__ = [
    "Agents",
    "Environment",
    "Input",
    "Latency",
    "Measured",
    "Operation",
    "Paradigm",
    "ReportResult",
    "Spread",
    "StageResult",
]


class Spread(Struct, frozen=True, kw_only=True):
    """Several runs in three numbers, and each of them in the order of the runs.

    Half of the runs are between the quartiles, so a run that something else disturbed moves none of the three.
    """

    median: float
    lower_quartile: float
    upper_quartile: float
    runs: tuple[float, ...]

    @classmethod
    def of(cls, runs: Iterable[float]) -> Spread:
        """Return the spread of these runs; there must be one at least."""
        values = tuple(runs)
        if len(values) == 1:
            return cls(median=values[0], lower_quartile=values[0], upper_quartile=values[0], runs=values)
        lower, _, upper = quantiles(values, n=4, method="inclusive")
        return cls(median=median(values), lower_quartile=lower, upper_quartile=upper, runs=values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between which two the middle half of the runs is."""
        return self.lower_quartile, self.upper_quartile

    def overlaps(self, other: Spread) -> bool:
        """Tell whether the middle halves of the two meet, so that neither is clearly the larger."""
        return self.lower_quartile <= other.upper_quartile and other.lower_quartile <= self.upper_quartile


class Latency(Struct, frozen=True, kw_only=True):
    """Percentiles over the samples of all runs; null where there are too few samples for it to mean anything."""

    samples: int
    p50: float | None
    p95: float | None
    p99: float | None


class Operation(Struct, frozen=True, kw_only=True):
    """One kind of operation: how many one run has, how many of these were refused (lost races), and how long it took.

    For `receive`, `receive reply` and `notice` the latency is that of the message or change: from when the sender
    had begun to send and the receiver had asked, until the receiver had it. For all others it is the call's.
    """

    kind: str
    count: int
    refused: int
    latency: Latency


class Agents(Struct, frozen=True, kw_only=True):
    """The agents of one role, together, in one run."""

    role: str
    agents: int
    operations: int
    bytes_written: int
    bytes_read: int


class Measured(Struct, frozen=True, kw_only=True):
    """One paradigm's runs on one stage. `cpu` and `operations` and below are those of one run.

    `cpu`: seconds of processor time, of all processes together. `throughput`: operations per second.
    """

    wall: Spread
    cpu: Spread
    throughput: float
    operations: int
    messages_received: int
    changes_noticed: int
    bytes_written: int
    bytes_read: int
    roles: tuple[Agents, ...]
    kinds: tuple[Operation, ...]


class Paradigm(Struct, frozen=True, kw_only=True):
    """One way to communicate.

    `job`: the whole work. `alone`: the same with the agents' own work remembered, so communication alone.
    """

    name: str
    job: Measured
    alone: Measured


class StageResult(Struct, frozen=True, kw_only=True):
    """What was measured on one stage: an engine, and agents as `tasks` of one process or `processes` of their own."""

    engine: str
    agents: str
    paradigms: tuple[Paradigm, ...]
    conclusion: str


class Environment(Struct, frozen=True, kw_only=True):
    """What the figures were measured on. `load`: how many tasks wanted to run in the minute before the comparison."""

    tertulia: str
    python: str
    system: str
    processor: str
    cores: int
    load: float | None


class Input(Struct, frozen=True, kw_only=True):
    """The folder that was reported on; not `complete` if it holds more files than are read."""

    folder: str
    files: int
    bytes: int
    complete: bool


class ReportResult(Struct, frozen=True, kw_only=True):
    """What the team's runs found.

    `report_sha256` is of the report, the same from every run, whatever paradigm and stage. `conclusion` is what the
    stages say beside each other, empty where there is one alone.
    """

    input: Input
    readers: int
    repeat: int
    report_bytes: int
    report_sha256: str
    stages: tuple[StageResult, ...]
    conclusion: str
