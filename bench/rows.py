"""What a row of the report is: something of ours, a peer, and how the two are to compare."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum

# Every value and message that is measured has this content, on both sides.
CONTENT = {"sentiment": "positive", "confidence": 0.92}

# Does so many operations, asserts that they were done, and returns the seconds that the operations alone took.
Sampler = Callable[[int], Awaitable[float]]


class Direction(Enum):
    """Which ratio a row shows, and which side of its target is the good one."""

    TIME_AT_MOST = "of its time, at most"  # our time / the peer's time
    SPEED_AT_LEAST = "of its speed, at least"  # operations a second, ours / the peer's

    def ratio(self, *, peer: float, ours: float) -> float:
        """Return the ratio for two times per operation."""
        return ours / peer if self is Direction.TIME_AT_MOST else peer / ours

    def reached(self, ratio: float, target: float) -> bool:
        return ratio <= target if self is Direction.TIME_AT_MOST else ratio >= target


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large a row's setting is to be; the smaller one is for a quick look."""

    keys: int = 1_000_000
    mailboxes: int = 10_000


@dataclass(frozen=True)
class Pair:
    """The two sides of a row, ready to be sampled."""

    peer: Sampler
    ours: Sampler


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison.

    `target` is a ratio in the terms of `direction`; None marks a row that is there for information. `package` is
    the distribution that the peer comes from, None for Python itself and for ourselves; `program` is what must be
    installed on the machine besides. `measure` sets both sides up and takes them down again.
    """

    name: str
    what: str
    peer: str
    target: float | None
    direction: Direction
    measure: Callable[[Scale], AbstractAsyncContextManager[Pair]]
    package: str | None = None
    program: str | None = None
