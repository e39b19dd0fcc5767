"""How much is measured: at which team sizes and payloads, for how long, and how often."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from tertulia.compare.stages import Stage
from tertulia.compare.use_cases.measuring import Point
from tertulia.selection.requirement import UseCase

__all__ = ["FULL", "QUICK", "Size", "points_of"]


class Size(Struct, frozen=True, kw_only=True):
    """Teams and payloads at which every way is measured; `seconds` a run, `repeat` runs each way.

    `budget`: seconds for all points together; where they run short, points have fewer runs, but one at least.
    """

    teams: tuple[int, ...]
    payloads: tuple[int, ...]
    seconds: float
    repeat: int
    budget: float


QUICK = Size(teams=(2, 8), payloads=(1_000,), seconds=0.05, repeat=3, budget=25)
FULL = Size(teams=(2, 8, 32, 64), payloads=(100, 10_000, 256_000), seconds=0.15, repeat=3, budget=420)


def points_of(stages: Sequence[Stage], use_cases: Sequence[UseCase], size: Size) -> tuple[Point, ...]:
    """Return the points, the smallest first: where it is stopped early, something of everything was measured."""
    return tuple(
        Point(use_case=use_case, engine=stage.engine, agents_as=stage.agents.value, agents=agents, payload=payload)
        for agents in sorted(set(size.teams))
        for payload in sorted(set(size.payloads))
        for stage in stages
        for use_case in use_cases
    )
