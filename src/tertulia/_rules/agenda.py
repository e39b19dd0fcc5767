"""Which activation of a knowledge source to run next: the one with the most to gain for what it costs."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping

from msgspec import Struct

__all__ = ["Activation", "Ranking", "rate"]

CHEAPEST = 1e-3  # a source that costs nothing would always come first, whatever there is to gain


class Activation(Struct, frozen=True, kw_only=True):
    """A knowledge source that could contribute, and the hypothesis, at a version, that made it so."""

    source: str
    hypothesis: str
    version: int
    section: str
    confidence: float
    order: int
    attempt: int = 1

    @property
    def id(self) -> str:
        """The same for the same source and version of a hypothesis."""
        return f"{self.source}:{self.hypothesis}.v{self.version}"


def rate(activation: Activation, benefit: float, cost: float, focus: Mapping[str, float]) -> float:
    """Return the benefit that can be expected for the cost, weighted by what is attended to.

    After BB1's integrated rating (Hayes-Roth, *A blackboard architecture for control*, 1985): benefit times the
    confidence of what triggered it, divided by cost, times the weight of its section (1 where none was given).
    """
    return benefit * activation.confidence / max(cost, CHEAPEST) * focus.get(activation.section, 1.0)


class Ranking:
    """Activations in the order in which to run them: by rating; of equals, the oldest hypothesis and then by name.

    Adding one and looking at the first few cost no more than a logarithm of how many there are.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, str, str]] = []  # negative rating, order, source, id

    def add(self, activation: Activation, rating: float) -> None:
        """Add an activation."""
        heapq.heappush(self._heap, (-rating, activation.order, activation.source, activation.id))

    def first(self, count: int, is_there: Callable[[str], bool], is_free: Callable[[str], bool]) -> list[str]:
        """Return the ids of the first few that are free; those that are there no more are forgotten."""
        found: list[str] = []
        aside: list[tuple[float, int, str, str]] = []
        while self._heap and len(found) < count:
            one = heapq.heappop(self._heap)
            if not is_there(one[3]) or (aside and aside[-1] == one):
                continue
            aside.append(one)
            if is_free(one[3]):
                found.append(one[3])
        for one in aside:
            heapq.heappush(self._heap, one)
        return found
