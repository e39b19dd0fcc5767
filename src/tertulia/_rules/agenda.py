"""Which activation of a knowledge source to run next: the one with the most to gain for what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

__all__ = ["Activation", "choose", "rate"]

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


def choose(rated: Iterable[tuple[Activation, float]]) -> list[tuple[Activation, float]]:
    """Return activations, the one to run first, first: by rating; of equals, the oldest hypothesis and then by name."""
    return sorted(rated, key=lambda one: (-one[1], one[0].order, one[0].source))
