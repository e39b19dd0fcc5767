"""What a comparison finds, as the table shows it and `tertulia compare --json` writes it.

Times are in seconds, sizes in bytes. Figures "of one run" are medians over the runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from msgspec import Struct

__all__ = [
    "SCHEMA",
    "Agents",
    "Comparison",
    "Environment",
    "Input",
    "Latency",
    "Measured",
    "Operation",
    "Paradigm",
    "Spread",
]

SCHEMA = "tertulia.compare/1"
"""Changes whenever a field is renamed, removed or means something else; new fields do not change it."""


class Spread(Struct, frozen=True, kw_only=True):
    """Several runs in three numbers, and each of them in the order of the runs."""

    median: float
    lowest: float
    highest: float
    runs: tuple[float, ...]

    @classmethod
    def of(cls, runs: Iterable[float]) -> Spread:
        """Return the spread of these runs; there must be one at least."""
        values = tuple(runs)
        return cls(median=median(values), lowest=min(values), highest=max(values), runs=values)

    def overlaps(self, other: Spread) -> bool:
        """Tell whether some run of the one was within the range of the other."""
        return self.lowest <= other.highest and other.lowest <= self.highest


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
    """One paradigm's runs. `operations` and below are those of one run; `throughput` is operations per second."""

    wall: Spread
    throughput: float
    operations: int
    messages_received: int
    changes_noticed: int
    bytes_written: int
    bytes_read: int
    roles: tuple[Agents, ...]
    kinds: tuple[Operation, ...]


class Paradigm(Struct, frozen=True, kw_only=True):
    """One way to communicate. `job`: the whole work. `alone`: communication alone, all thinking remembered."""

    name: str
    job: Measured
    alone: Measured


class Environment(Struct, frozen=True, kw_only=True):
    """What the figures were measured on. `load`: how many processes wanted to run during the minute before."""

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


class Comparison(Struct, frozen=True, kw_only=True):
    """All of it. `report_sha256` is of the report, which is the same from both paradigms and from every run."""

    schema: str = SCHEMA
    made_at: str
    environment: Environment
    engine: str
    input: Input
    readers: int
    repeat: int
    report_bytes: int
    report_sha256: str
    paradigms: tuple[Paradigm, ...]
    conclusion: str
