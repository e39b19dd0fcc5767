"""From runs of teams to the cells of a profile: what each way costs, at several team sizes and payloads.

At each point every way is run once unmeasured, which also tells how many rounds fill the time for a run. Then the ways
take turns, in an order that changes, so that whatever else the machine does meets all of them. The usual latency is the
median of the runs' medians, the higher percentiles are those of all runs together; throughput, bytes and processor time
are medians over the runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from math import isinf
from statistics import median
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from tertulia.compare.budget import LeftOut
from tertulia.compare.places import FreshSpace
from tertulia.compare.recordings import percentile
from tertulia.compare.results import Spread
from tertulia.compare.units import bytes_text
from tertulia.compare.use_cases.conducting import Played, play_as_processes, play_as_tasks
from tertulia.compare.use_cases.planning import FEWEST_RUNS, Planner
from tertulia.compare.use_cases.points import Point
from tertulia.compare.use_cases.stage import PACE, Setting
from tertulia.compare.use_cases.teams import TEAMS
from tertulia.compare.workers import Workers
from tertulia.selection.profile import Cell
from tertulia.selection.requirement import Paradigm, UseCase

__all__ = ["TASKS", "Plan", "Progress", "measure"]

TASKS = "tasks"  # what agents can be; else they are processes
MOST_WARM_UP = 8  # rounds
FEWEST, MOST = 8, 2_000  # rounds an agent
CACHED = 40  # rounds an agent that asks for what may be cached: twice as many as there are answers
MOST_UNITS = 20_000  # of a run, however short they are: beyond, percentiles gain nothing
PACED = (UseCase.EVENT_STREAMING, UseCase.BROADCAST)  # where units are handed over, not waited for


class Plan(Struct, frozen=True, kw_only=True):
    """What to measure, and how long: `seconds` a run, `repeat` runs each way. `spaces` are by the engine's name.

    Where time runs short, points have fewer runs, FEWEST_RUNS at least, or are left out: see Planner.
    """

    points: tuple[Point, ...]
    spaces: Mapping[str, FreshSpace]
    seconds: float
    repeat: int

    @property
    def fewest_runs(self) -> int:
        """Return how many runs each way has at least."""
        return min(self.repeat, FEWEST_RUNS)


class Progress(Protocol):
    """Who wants to know how far it is."""

    def point(self, point: Point, paradigms: Sequence[Paradigm]) -> None:
        """The runs of a point begin."""
        ...

    def measured(self, cell: Cell) -> None:
        """A way is measured there."""
        ...


async def measure(
    plan: Plan,
    workers: Workers,
    progress: Progress,
    *,
    planner: Planner,
    left_out: Callable[[LeftOut], object] = lambda _: None,
) -> AsyncGenerator[Cell]:
    """Yield the cells as they are measured; the planner says of which points. Raises what conducting raises."""
    for point in plan.points:
        began = planner.budget.now()
        refused = planner.refusal(point)
        cells: Mapping[Paradigm, Cell] = {}
        if not refused:
            progress.point(point, tuple(TEAMS[point.use_case]))
            cells, refused = await _measure_in_time(plan, workers, point, planner)
        planner.done(point, None if refused else planner.budget.now() - began)
        if refused:
            left_out(LeftOut(what=_where(point), why=refused, point=point))
        for cell in cells.values():
            progress.measured(cell)
            yield cell


def _where(point: Point) -> str:
    name = point.use_case.value.replace("_", " ")
    size = f"{point.agents} agents, {bytes_text(point.payload)}"
    return f"{point.engine}, {point.agents_as}: {name}, {size}"


async def _measure_in_time(
    plan: Plan, workers: Workers, point: Point, planner: Planner
) -> tuple[Mapping[Paradigm, Cell], str]:
    """Return the cells of a point, or why there is none: half a point is none."""
    left = planner.budget.left()
    limit = asyncio.timeout(None if planner.is_needed(point) or isinf(left) else left)
    try:
        async with limit:
            return await _measure_point(plan, workers, point, planner)
    except TimeoutError:
        if not limit.expired():  # it is not ours
            raise
        return {}, "the time was over before it was done"


async def _measure_point(
    plan: Plan, workers: Workers, point: Point, planner: Planner
) -> tuple[Mapping[Paradigm, Cell], str]:
    """Measure all ways at a point, unless the warm-up shows that there is no time for it.

    Beyond the fewest, another run each way is begun only within the point's share of the time.
    """
    clock, share = planner.budget.now, planner.share()
    began = clock()
    settings: dict[Paradigm, Setting] = {}
    for paradigm in TEAMS[point.use_case]:
        warm_up = _setting(point, paradigm, _warm_up(point))
        played = await _play(plan, workers, point, warm_up)
        settings[paradigm] = replace(warm_up, rounds=_rounds(plan, point, played))
    again = plan.fewest_runs * (2 if point.use_case in PACED else 1)  # each run has more rounds than the warm-up
    if refused := planner.refusal(point, (clock() - began) * again):
        return {}, refused
    runs: dict[Paradigm, list[Played]] = {paradigm: [] for paradigm in settings}
    paced: dict[Paradigm, list[Played]] = {paradigm: [] for paradigm in settings}
    for number in range(plan.repeat):
        if number >= plan.fewest_runs and clock() - began > share:
            break
        for paradigm in settings if number % 2 else reversed(settings):
            setting = replace(settings[paradigm], seed=number + 1)
            runs[paradigm].append(await _play(plan, workers, point, setting))
            if point.use_case in PACED:
                paced[paradigm].append(await _play(plan, workers, point, _paced(plan, setting)))
    return {
        paradigm: _cell(point, paradigm, runs[paradigm], paced[paradigm] or runs[paradigm]) for paradigm in runs
    }, ""


def _setting(point: Point, paradigm: Paradigm, rounds: int) -> Setting:
    return Setting(
        use_case=point.use_case, paradigm=paradigm, agents=point.agents, payload=point.payload, rounds=rounds
    )


def _warm_up(point: Point) -> int:
    """Return how many rounds are enough to see how long one takes."""
    return max(2, min(MOST_WARM_UP, 32 // point.agents))


def _rounds(plan: Plan, point: Point, played: Played) -> int:
    """Return how many rounds fill the time for a run, as far as can be told from the warm-up."""
    fitting = plan.seconds / max(played.seconds / _warm_up(point), 1e-6)
    return int(max(_fewest(point), min(fitting, MOST, MOST_UNITS / point.agents)))


def _fewest(point: Point) -> int:
    """Return how many rounds an agent has at least: in a large team all of them together have many."""
    if point.use_case is UseCase.CACHING:
        return CACHED  # with fewer most answers are computed, and not found
    return max(3, min(FEWEST, 64 // point.agents))


def _paced(plan: Plan, setting: Setting) -> Setting:
    """Return the setting with as many rounds as fit if they are handed over one at a time."""
    fitting = plan.seconds / (PACE * (setting.agents - 1))
    return replace(setting, paced=True, rounds=int(max(3, min(fitting, setting.rounds))))


async def _play(plan: Plan, workers: Workers, point: Point, setting: Setting) -> Played:
    async with plan.spaces[point.engine]() as url:
        if point.agents_as == TASKS:
            return await play_as_tasks(url, setting)
        return await play_as_processes(workers, url, setting)


def _cell(point: Point, paradigm: Paradigm, runs: Sequence[Played], timed: Sequence[Played]) -> Cell:
    samples = sorted(sample for run in timed for sheet in run.sheets for sample in sheet.samples)
    stale = sorted(age for run in runs for sheet in run.sheets for age in sheet.staleness)

    medians = Spread.of(map(_median_of, timed))

    def of_one_unit(figure: Callable[[Played], float]) -> float:
        return median(figure(run) / max(run.units, 1) for run in runs)

    return Cell(
        use_case=point.use_case,
        paradigm=paradigm,
        engine=point.engine,
        agents_as=point.agents_as,
        agents=point.agents,
        payload=point.payload,
        units=sum(run.units for run in runs),
        p50=medians.median,
        runs=len(timed),
        p50_spread=medians.quartiles,
        p95=percentile(samples, 95),
        p99=percentile(samples, 99),
        throughput=median(run.units / max(run.seconds, 1e-9) for run in runs),
        bytes_moved=of_one_unit(lambda run: sum(sheet.bytes_moved for sheet in run.sheets)),
        bytes_read=of_one_unit(lambda run: sum(sheet.bytes_read for sheet in run.sheets)),
        cpu=of_one_unit(_cpu(point)),
        staleness=median(stale) if stale else 0.0,
        lost_updates=sum(run.judged.lost for run in runs),
    )


def _median_of(run: Played) -> float:
    return median([sample for sheet in run.sheets for sample in sheet.samples])


def _cpu(point: Point) -> Callable[[Played], float]:
    """Return how to sum up processor time: tasks share that of their process, so each of them sees all of it."""
    if point.agents_as == TASKS:
        return lambda run: max(sheet.cpu for sheet in run.sheets)
    return lambda run: sum(sheet.cpu for sheet in run.sheets)
