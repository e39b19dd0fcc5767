"""Which points there is time for: decided one by one, by what the points before have cost.

A point is measured whole or not at all: of fewer runs there would be no median with a spread, and of fewer ways nothing
to compare. So what gives way to time are points, in the order in which they tell least (`sizes.points_of` has them so
that these come last), and runs beyond the fewest.
"""

from __future__ import annotations

from collections.abc import Sequence

from tertulia.compare.budget import Budget
from tertulia.compare.use_cases.points import Point

__all__ = ["FEWEST_RUNS", "Planner"]

FEWEST_RUNS = 3  # each way: the fewest of which there are a median and quartiles that are not the same number
OVER_AVERAGE = 3.0  # a large team may take so many times as long as the average of what is left


class Planner:
    """Decides for the points of one comparison, in their order."""

    def __init__(self, points: Sequence[Point], budget: Budget) -> None:
        self.budget = budget
        self._waiting = len(points)
        self._smallest = min(((point.agents, point.payload) for point in points), default=None)
        self._costs: dict[Point, float] = {}

    def is_needed(self, point: Point) -> bool:
        """Tell whether it is measured however long it takes: without the smallest there is nothing to say at all."""
        return (point.agents, point.payload) == self._smallest

    def refusal(self, point: Point, fewest: float = 0.0) -> str:
        """Return why there is no time for a point, "" if there is; `fewest`: seconds that are known to be needed."""
        if self.is_needed(point):
            return ""
        left, expected = self.budget.left(), max(self.expected(point), fewest)
        if left and expected <= left:
            return ""
        return "the time was over" if not left else f"it takes about {expected:.0f} s, and {left:.0f} s were left"

    def expected(self, point: Point) -> float:
        """Return how many seconds a point takes, by the nearest smaller one; 0.0 if there is nothing to go by.

        All agents of a machine share its processors, so a team takes as many times as long as it is larger.
        """
        known = [
            (seen.agents, seen.payload, seconds)
            for seen, seconds in self._costs.items()
            if (seen.use_case, seen.engine, seen.agents_as) == (point.use_case, point.engine, point.agents_as)
            and seen.agents <= point.agents
            and seen.payload <= point.payload
        ]
        if not known:
            return 0.0
        agents, _, seconds = max(known)
        return seconds * point.agents / agents

    def share(self) -> float:
        """Return how many seconds the next point may take if it is to have more than the fewest runs."""
        return self.budget.left() / max(self._waiting, 1) * OVER_AVERAGE

    def done(self, point: Point, seconds: float | None) -> None:
        """Learn how long a point took, None if it was left out."""
        self._waiting -= 1
        if seconds is not None:
            self._costs[point] = seconds
