"""A comparison ends in time: what is left out is what tells least, whole points of it, and it is said."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from math import inf
from pathlib import Path

import pytest

from tertulia.compare.budget import Budget, LeftOut
from tertulia.compare.runner import Settings, compare
from tertulia.compare.sizes import FULL, QUICK, points_of
from tertulia.compare.stages import AgentsAs, Stage
from tertulia.compare.use_cases import measuring
from tertulia.compare.use_cases.measuring import TASKS, Plan, measure
from tertulia.compare.use_cases.planning import FEWEST_RUNS, Planner
from tertulia.compare.use_cases.points import Point
from tertulia.compare.workers import Workers
from tertulia.selection.profile import Cell
from tertulia.selection.requirement import UseCase

STAGES = (Stage(engine="memory", agents=AgentsAs.tasks), Stage(engine="file", agents=AgentsAs.processes))
POINTS = points_of(STAGES, tuple(UseCase), FULL)


class Clock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def at(agents: int, payload: int = 100, *, use_case: UseCase = UseCase.CACHING, engine: str = "memory") -> Point:
    return Point(use_case=use_case, engine=engine, agents_as=TASKS, agents=agents, payload=payload)


def played_out(points: tuple[Point, ...], seconds: float, cost: dict[str, float]) -> tuple[list[Point], float]:
    """Which points are measured where one costs so much for each agent on an engine, and when the last one is done."""
    clock = Clock()
    planner = Planner(points, Budget(seconds, clock))
    measured: list[Point] = []
    for point in points:
        refused = planner.refusal(point)
        took = cost[point.engine] * point.agents
        planner.done(point, None if refused else took)
        if not refused:
            clock.now += took
            measured.append(point)
    return measured, planner.budget.spent()


def test_a_budget_is_spent_as_time_goes_by_and_then_nothing_is_left():
    clock = Clock()
    budget = Budget(10, clock)
    clock.now += 4
    assert (budget.spent(), budget.left()) == (4, 6)
    clock.now += 7
    assert budget.left() == 0
    assert Budget().left() == inf


def test_what_changes_with_one_thing_alone_comes_before_what_changes_with_both():
    places = list(dict.fromkeys((point.agents, point.payload) for point in POINTS))
    teams, payloads = sorted(FULL.teams), sorted(FULL.payloads)
    cross = {(team, payloads[0]) for team in teams} | {(teams[0], payload) for payload in payloads}

    assert places[0] == (teams[0], payloads[0])
    assert set(places[: len(cross)]) == cross
    assert places[-1] == (teams[-1], payloads[-1])


def test_with_time_enough_everything_is_measured():
    measured, _ = played_out(POINTS, 1e6, {"memory": 1.0, "file": 10.0})
    assert measured == list(POINTS)


@pytest.mark.parametrize("cost", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("budget", [QUICK.budget, FULL.budget])
def test_it_ends_in_time_and_what_gives_way_comes_last(cost: float, budget: float):
    measured, spent = played_out(POINTS, budget, {"memory": cost / 10, "file": cost})
    needed = [point for point in POINTS if (point.agents, point.payload) == (2, 100)]
    left_out = [point for point in POINTS if point not in measured]

    assert set(needed) <= set(measured)
    assert spent <= budget, "the first point of a larger team may take longer than is thought; here it does not"
    for point in left_out:
        assert not [
            one
            for one in measured
            if (one.use_case, one.engine) == (point.use_case, point.engine)
            and one.agents >= point.agents
            and one.payload >= point.payload
        ], "nothing is measured that costs more of the same and tells less"


def test_no_time_at_all_leaves_what_every_table_needs():
    measured, _ = played_out(POINTS, 0.0, {"memory": 1.0, "file": 10.0})
    assert {(point.agents, point.payload) for point in measured} == {(2, 100)}
    assert {(point.use_case, point.engine) for point in measured} == {
        (use_case, stage.engine) for use_case in UseCase for stage in STAGES
    }


def test_what_a_point_takes_is_told_from_the_nearest_smaller_one_of_its_kind():
    planner = Planner((at(2), at(8), at(64)), Budget(1_000, Clock()))
    assert planner.expected(at(8)) == 0.0, "nothing to go by: it is tried"
    planner.done(at(2), 1.0)
    planner.done(at(8), 3.0)
    planner.done(at(8, use_case=UseCase.BROADCAST), 500.0)
    planner.done(at(8, engine="file"), 500.0)
    planner.done(at(32), None)

    assert planner.expected(at(16)) == 6.0
    assert planner.expected(at(64, 10_000)) == 24.0
    assert planner.expected(at(4)) == 2.0


def test_why_a_point_is_left_out_is_said_in_seconds():
    clock = Clock()
    planner = Planner((at(2), at(8)), Budget(10, clock))
    planner.done(at(2), 4.0)
    assert planner.refusal(at(2)) == planner.refusal(at(4)) == ""
    assert planner.refusal(at(8)) == "it takes about 16 s, and 10 s were left"
    assert planner.refusal(at(4), 11.0) == "it takes about 11 s, and 10 s were left"
    clock.now += 10
    assert planner.refusal(at(4)) == "the time was over"
    assert planner.refusal(at(2), 11.0) == ""


# --- Measured for real ---------------------------------------------------------------------------


@asynccontextmanager
async def memory_space() -> AsyncGenerator[str, None]:
    yield f"memory:planning-{next(numbers)}"


numbers = itertools.count()


class Silent:
    def point(self, point: Point, paradigms: object) -> None:
        """Tell nobody."""

    def measured(self, cell: Cell) -> None:
        """Tell nobody."""


async def measured(points: tuple[Point, ...], budget: Budget) -> tuple[list[Cell], list[LeftOut]]:
    plan = Plan(points=points, spaces={"memory": memory_space}, seconds=0.01, repeat=FEWEST_RUNS)
    left_out: list[LeftOut] = []
    async with Workers(lambda *_: None) as workers:
        found = measure(plan, workers, Silent(), planner=Planner(points, budget), left_out=left_out.append)
        return [cell async for cell in found], left_out


async def test_a_point_is_measured_whole_or_left_out_and_that_is_told():
    cells, left_out = await measured((at(2), at(3), at(2, 200)), Budget(0.0))

    assert [(cell.agents, cell.payload, cell.runs) for cell in cells] == [(2, 100, FEWEST_RUNS)] * 3
    assert left_out == [
        LeftOut(what="memory, tasks: caching, 3 agents, 100 B", why="the time was over", point=at(3)),
        LeftOut(what="memory, tasks: caching, 2 agents, 200 B", why="the time was over", point=at(2, 200)),
    ]


async def test_a_point_whose_warm_up_shows_that_it_takes_too_long_is_left_out(monkeypatch: pytest.MonkeyPatch):
    clock = Clock()
    play = measuring.play_as_tasks

    async def slow(url: str, setting: measuring.Setting) -> measuring.Played:
        clock.now += 1 if setting.agents == 2 else 40
        return await play(url, setting)

    monkeypatch.setattr(measuring, "play_as_tasks", slow)
    cells, left_out = await measured((at(2), at(3)), Budget(400, clock))

    assert {cell.agents for cell in cells} == {2}
    assert [(one.point, one.why) for one in left_out] == [(at(3), "it takes about 360 s, and 268 s were left")]


async def test_a_point_that_is_not_done_in_time_is_stopped_and_left_out(monkeypatch: pytest.MonkeyPatch):
    play = measuring.play_as_tasks
    forever = asyncio.Event()

    async def endless(url: str, setting: measuring.Setting) -> measuring.Played:
        if setting.agents == 3:
            await forever.wait()
        return await play(url, setting)

    monkeypatch.setattr(measuring, "play_as_tasks", endless)
    standing_still = Budget(0.5, lambda: 0.0)  # so that only the limit on the point can end it
    cells, left_out = await measured((at(2), at(3)), standing_still)

    assert {cell.agents for cell in cells} == {2}
    assert [(one.point, one.why) for one in left_out] == [(at(3), "the time was over before it was done")]


class Reading(Silent):
    """Each file that is read takes so many seconds."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock, self._seconds = clock, seconds

    def begin(self, listing: object, runs: int) -> None:
        """See Progress."""

    def run(self, stage: object, paradigm: str, number: int) -> None:
        """See Progress."""

    def file_read(self) -> None:
        self._clock.now += self._seconds

    def run_done(self, seconds: float) -> None:
        """See Progress."""

    def said(self, agent: str, line: str) -> None:
        raise AssertionError(f"{agent} said {line}")


@pytest.mark.parametrize(("seconds", "rounds"), [(1, 2), (50, 1)])
async def test_the_report_has_as_many_rounds_as_fit_into_a_third_of_the_time(
    tmp_path: Path, seconds: float, rounds: int
):
    """A round is two runs here, through memory and through messages, after a rehearsal."""
    (tmp_path / "one.md").write_text("# One\n\nSomething to report on.\n", encoding="utf-8")
    clock = Clock()
    found = await compare(
        Settings(folder=tmp_path, readers=1, repeat=2), Reading(clock, seconds), budget=Budget(600, clock)
    )

    assert found().result.repeat == rounds
    assert all(len(way.job.wall.runs) == rounds for way in found().result.stages[0].paradigms)


async def test_a_timeout_inside_of_a_run_is_an_error_and_no_matter_of_time(monkeypatch: pytest.MonkeyPatch):
    async def late(*_: object) -> None:
        raise TimeoutError("the team was not ready")

    monkeypatch.setattr(measuring, "play_as_tasks", late)
    with pytest.raises(TimeoutError, match="not ready"):
        await measured((at(2),), Budget(1_000))
