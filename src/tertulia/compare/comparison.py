"""All that one comparison found, as `tertulia compare --json` writes it and the tables and the page show it.

Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from tertulia.compare.aspects import Aspect, aspects
from tertulia.compare.budget import LeftOut
from tertulia.compare.replay import Replayed
from tertulia.compare.results import Environment, ReportResult
from tertulia.selection.profile import Cell

__all__ = ["SCHEMA", "Comparison", "CourseTable", "stages_in", "tables_of"]

SCHEMA = "tertulia.compare/3"
"""Changes whenever a field is renamed, removed or means something else; new fields do not change it."""


class CourseTable(Struct, frozen=True, kw_only=True):
    """The use cases on one engine, with agents in one manner, in the rows of the course text's table."""

    engine: str
    agents_as: str
    rows: tuple[Aspect, ...]


class Comparison(Struct, frozen=True, kw_only=True):
    """What was measured; `complete` unless it was stopped before all was.

    `report` is None and the others are empty where they were not asked for. `cells` are as in a profile: one for each
    use case, paradigm, engine, manner and number of agents, and payload. `seconds`: how long it took; `budget`: how
    long it might take, None for as long as it takes; `left_out`: what was not measured for that reason.
    """

    schema: str = SCHEMA
    made_at: str
    complete: bool
    environment: Environment
    report: ReportResult | None
    cells: tuple[Cell, ...]
    tables: tuple[CourseTable, ...]
    replays: tuple[Replayed, ...]
    seconds: float = 0.0
    budget: float | None = None
    left_out: tuple[LeftOut, ...] = ()


def stages_in(cells: Sequence[Cell]) -> list[tuple[str, str, list[Cell]]]:
    """Return the engines and manners of agents that there are cells of, and the cells of each."""
    stages = dict.fromkeys((cell.engine, cell.agents_as) for cell in cells)
    return [
        (engine, agents_as, [cell for cell in cells if (cell.engine, cell.agents_as) == (engine, agents_as)])
        for engine, agents_as in stages
    ]


def tables_of(cells: Sequence[Cell]) -> tuple[CourseTable, ...]:
    """Return the table of each engine and manner of agents."""
    return tuple(
        CourseTable(engine=engine, agents_as=agents_as, rows=tuple(aspects(own)))
        for engine, agents_as, own in stages_in(cells)
    )
