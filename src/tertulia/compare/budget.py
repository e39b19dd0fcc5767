"""How long a comparison may take, and what was left out so that it took no longer."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from time import monotonic

from msgspec import Struct

from tertulia.compare.use_cases.points import Point

__all__ = ["Budget", "LeftOut"]


class Budget:
    """Seconds from when it is made until all should be done; without an end if they are `inf`."""

    def __init__(self, seconds: float = inf, clock: Callable[[], float] = monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._began = clock()

    def now(self) -> float:
        """Return the time on its clock, in seconds."""
        return self._clock()

    def spent(self) -> float:
        """Return how many seconds have gone by."""
        return self._clock() - self._began

    def left(self) -> float:
        """Return how many seconds there still are, 0.0 when they are over."""
        return max(0.0, self.seconds - self.spent())


class LeftOut(Struct, frozen=True, kw_only=True):
    """What was not measured, in words, and `why`. `point` says where, if it is a point of a use case."""

    what: str
    why: str
    point: Point | None = None
