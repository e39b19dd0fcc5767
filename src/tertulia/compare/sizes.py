"""How much is measured: at which team sizes and payloads, for how long, and how often."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from tertulia.compare.stages import Stage
from tertulia.compare.use_cases.points import Point
from tertulia.selection.requirement import UseCase

__all__ = ["FULL", "QUICK", "Size", "points_of"]


class Size(Struct, frozen=True, kw_only=True):
    """Teams and payloads at which every way is measured; `seconds` a run, `repeat` runs each way.

    `budget`: seconds for the whole comparison but recorded conversations; see `use_cases.planning` for what gives way.
    """

    teams: tuple[int, ...]
    payloads: tuple[int, ...]
    seconds: float
    repeat: int
    budget: float


QUICK = Size(teams=(2, 8), payloads=(1_000,), seconds=0.05, repeat=3, budget=50)
FULL = Size(teams=(2, 8, 32, 64), payloads=(100, 10_000, 256_000), seconds=0.15, repeat=3, budget=540)


def points_of(stages: Sequence[Stage], use_cases: Sequence[UseCase], size: Size) -> tuple[Point, ...]:
    """Return the points, those first that tell the most: where it ends early, something of everything was measured.

    How a way changes with the team alone and with the payload alone comes before what it does with both at once, of
    which a good part can be told from the two: the corner where both are largest costs the most and tells the least.
    """
    teams, payloads = sorted(set(size.teams)), sorted(set(size.payloads))
    places = [(i * j, i, j) for i in range(len(teams)) for j in range(len(payloads))]
    return tuple(
        Point(
            use_case=use_case, engine=stage.engine, agents_as=stage.agents.value, agents=teams[i], payload=payloads[j]
        )
        for _, i, j in sorted(places)
        for stage in stages
        for use_case in use_cases
    )
