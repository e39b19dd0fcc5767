"""The use cases do the same work in each way, as tasks and as processes, and count what a death costs."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from tertulia import connect
from tertulia.compare.budget import Budget
from tertulia.compare.sizes import FULL, points_of
from tertulia.compare.stages import AgentsAs, Stage
from tertulia.compare.use_cases import caching, conducting
from tertulia.compare.use_cases.conducting import PartFailedError, Played, play_as_processes, play_as_tasks
from tertulia.compare.use_cases.dying import Death, deaths, deaths_of
from tertulia.compare.use_cases.measuring import TASKS, Plan, Progress, measure
from tertulia.compare.use_cases.planning import Planner
from tertulia.compare.use_cases.points import Point
from tertulia.compare.use_cases.stage import LEASE, Setting, text_of
from tertulia.compare.use_cases.teams import TEAMS
from tertulia.compare.workers import Workers
from tertulia.selection.profile import Cell
from tertulia.selection.requirement import Paradigm, UseCase
from tertulia.selection.selector import RULES_OF_THUMB

WAYS = [(use_case, paradigm) for use_case in UseCase for paradigm in TEAMS[use_case]]
ROUNDS = 8
numbers = itertools.count()

in_every_way = pytest.mark.parametrize(
    ("use_case", "paradigm"), WAYS, ids=[f"{use_case.value}-{paradigm.value}" for use_case, paradigm in WAYS]
)


def setting(use_case: UseCase, paradigm: Paradigm, *, agents: int = 3, payload: int = 100) -> Setting:
    return Setting(use_case=use_case, paradigm=paradigm, agents=agents, payload=payload, rounds=ROUNDS)


def units(use_case: UseCase, agents: int) -> int:
    """How many units of work a team has: of one agent each round, or of all but the one that serves or speaks."""
    serving = {UseCase.REQUEST_RESPONSE, UseCase.EVENT_STREAMING, UseCase.BROADCAST}
    return (agents - 1 if use_case in serving else agents) * ROUNDS


def clean(played: Played) -> bool:
    return (played.judged.lost, played.judged.repeated, played.stuck) == (0, 0, 0)


def test_every_use_case_is_built_both_ways_and_in_the_way_that_people_recommend():
    for use_case in UseCase:
        assert {Paradigm.MEMORY, Paradigm.MESSAGES, RULES_OF_THUMB[use_case]} <= set(TEAMS[use_case])


@in_every_way
async def test_a_team_of_tasks_does_all_of_its_work_once(use_case: UseCase, paradigm: Paradigm):
    played = await play_as_tasks(f"memory:use-case-{next(numbers)}", setting(use_case, paradigm))
    assert played.units == units(use_case, 3)
    assert clean(played)
    assert played.seconds > 0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def workers() -> AsyncGenerator[Workers, None]:
    """Processes for all tests of this module, which are in one loop for their sake."""
    async with Workers(unexpected) as workers:
        yield workers


def unexpected(agent: str, line: str) -> None:
    raise AssertionError(f"{agent} said {line}")


@in_every_way
@pytest.mark.asyncio(loop_scope="module")
async def test_a_team_of_processes_does_all_of_its_work_once(
    use_case: UseCase, paradigm: Paradigm, tmp_path: Path, workers: Workers
):
    played = await play_as_processes(workers, f"file:{tmp_path}/space.db", setting(use_case, paradigm))
    assert played.units == units(use_case, 3)
    assert clean(played)


@in_every_way
@pytest.mark.asyncio(loop_scope="module")
async def test_a_death_half_way_loses_and_repeats_no_more_than_the_way_makes_unavoidable(
    use_case: UseCase, paradigm: Paradigm, tmp_path: Path, workers: Workers
):
    played = await play_as_processes(workers, f"file:{tmp_path}/space.db", setting(use_case, paradigm), dies_after=2)
    assert played.stuck == 0
    if (use_case, paradigm) == (UseCase.STATE_SHARING, Paradigm.MESSAGES):
        assert played.judged.lost > 0  # the owner of the state took it along
    else:
        assert played.judged.lost == 0
    if use_case is not UseCase.CACHING:
        at_once = setting(use_case, paradigm).agents if serves_all_at_once(use_case, paradigm) else 1
        assert played.judged.repeated <= at_once  # what was done and not yet confirmed when the victim died


def serves_all_at_once(use_case: UseCase, paradigm: Paradigm) -> bool:
    """Tell whether who dies is a coordinator, whom all agents wait for at that moment."""
    return (use_case, paradigm) == (UseCase.COORDINATION, Paradigm.MESSAGES)


async def test_what_is_shared_by_messages_and_read_by_all_is_read_by_all():
    sizes = {}
    for payload in (100, 10_000):
        played = await play_as_tasks(
            f"memory:use-case-{next(numbers)}", setting(UseCase.BROADCAST, Paradigm.MESSAGES, payload=payload)
        )
        sizes[payload] = sum(sheet.bytes_read for sheet in played.sheets) / played.units
    assert 9_900 <= sizes[10_000] - sizes[100] <= 10_100


async def test_answers_are_computed_once_where_that_is_promised(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(caching, "KEYS", 1)
    computed = {}
    for paradigm in Paradigm:
        played = await play_as_tasks(f"memory:use-case-{next(numbers)}", setting(UseCase.CACHING, paradigm, agents=6))
        computed[paradigm] = sum(sheet.counts.get(caching.COMPUTED, 0) for sheet in played.sheets)
    assert computed == {Paradigm.MEMORY: 6, Paradigm.MESSAGES: 1, Paradigm.HYBRID: 1}


async def test_a_part_that_fails_ends_the_run_with_its_error(monkeypatch: pytest.MonkeyPatch):
    async def fail(*_: object) -> None:
        raise ValueError("broken on purpose")

    monkeypatch.setattr(caching, "_from_memory", fail)
    with pytest.raises(PartFailedError, match="part 0 of a team failed: ValueError: broken on purpose"):
        await play_as_tasks(f"memory:use-case-{next(numbers)}", setting(UseCase.CACHING, Paradigm.MEMORY))


@pytest.mark.asyncio(loop_scope="module")
async def test_a_part_in_a_process_that_fails_hands_over_its_traceback(tmp_path: Path, workers: Workers):
    too_large = setting(UseCase.CACHING, Paradigm.MEMORY, payload=17 * 2**20)
    with pytest.raises(PartFailedError, match=r"(?s)Traceback.*ValueTooLargeError"):
        await play_as_processes(workers, f"file:{tmp_path}/space.db", too_large)


@pytest.mark.parametrize("size", [0, 1, 70, 100, 256_000])
def test_a_text_has_the_size_that_was_asked_for(size: int):
    assert len(text_of(size).encode()) == size


# --- measuring -----------------------------------------------------------------------------------


@asynccontextmanager
async def memory_space() -> AsyncGenerator[str, None]:
    url = f"memory:use-case-{next(numbers)}"
    async with connect(url):
        yield url


class Told(Progress):
    def __init__(self) -> None:
        self.points: list[Point] = []
        self.cells: list[Cell] = []

    def point(self, point: Point, paradigms: object) -> None:
        self.points.append(point)
        assert paradigms

    def measured(self, cell: Cell) -> None:
        self.cells.append(cell)


async def test_a_plan_is_measured_point_by_point_and_told_as_it_goes():
    points = tuple(
        Point(use_case=use_case, engine="memory", agents_as=TASKS, agents=2, payload=100)
        for use_case in (UseCase.REQUEST_RESPONSE, UseCase.BROADCAST)
    )
    told = Told()
    plan = Plan(points=points, spaces={"memory": memory_space}, seconds=0.02, repeat=2)
    async with Workers(unexpected) as workers:
        cells = [cell async for cell in measure(plan, workers, told, planner=Planner(points, Budget()))]
    assert told.cells == cells
    assert told.points == list(points)
    assert {(cell.use_case, cell.paradigm) for cell in cells} == {
        (point.use_case, paradigm) for point in points for paradigm in TEAMS[point.use_case]
    }
    for cell in cells:
        assert cell.units >= 2 * 8
        assert 0 < cell.p50 <= (cell.p95 or cell.p50)
        assert cell.throughput > 0
        assert cell.bytes_read >= 100
        assert cell.lost_updates == 0
        assert cell.faults is None


@pytest.mark.parametrize(("budget", "runs"), [(0.0, 3), (1_000.0, 5)])
async def test_where_time_runs_short_a_point_has_fewer_runs_and_says_how_many(budget: float, runs: int):
    point = Point(use_case=UseCase.STATE_SHARING, engine="memory", agents_as=TASKS, agents=2, payload=100)
    plan = Plan(points=(point,), spaces={"memory": memory_space}, seconds=0.01, repeat=5)
    planner = Planner((point,), Budget(budget))
    async with Workers(unexpected) as workers:
        cells = [cell async for cell in measure(plan, workers, Told(), planner=planner)]

    assert [cell.runs for cell in cells] == [runs] * 3
    for cell in cells:
        assert cell.p50_spread is not None
        low, high = cell.p50_spread
        assert low <= cell.p50 <= high


def test_the_smallest_points_come_first_and_each_stage_has_them_all():
    stages = (Stage(engine="memory", agents=AgentsAs.tasks), Stage(engine="file", agents=AgentsAs.processes))
    points = points_of(stages, tuple(UseCase), FULL)

    assert len(points) == len(set(points)) == 2 * 6 * len(FULL.teams) * len(FULL.payloads)
    assert {(point.engine, point.agents, point.payload) for point in points[:12]} == {
        ("memory", min(FULL.teams), min(FULL.payloads)),
        ("file", min(FULL.teams), min(FULL.payloads)),
    }
    assert {(point.agents, point.payload) for point in points[-12:]} == {(max(FULL.teams), max(FULL.payloads))}


@pytest.mark.asyncio(loop_scope="module")
async def test_of_every_way_is_told_what_a_death_costs(tmp_path: Path, workers: Workers):
    @asynccontextmanager
    async def file_space() -> AsyncGenerator[str, None]:
        yield f"file:{tmp_path}/space-{next(numbers)}.db"

    wanted = deaths_of([UseCase.STATE_SHARING], ["file"])
    begun: list[Death] = []
    found = {death: faults async for death, faults in deaths(wanted, {"file": file_space}, workers, begun=begun.append)}

    assert set(found) == set(wanted) == set(begun)
    assert all(faults is not None and faults.units > 0 and faults.stuck == 0 for faults in found.values())
    assert [death.paradigm for death, faults in found.items() if faults and faults.lost] == [Paradigm.MESSAGES]


async def test_nobody_is_killed_any_more_when_the_time_is_over():
    wanted = deaths_of([UseCase.STATE_SHARING], ["memory"])
    begun: list[Death] = []
    async with Workers(unexpected) as workers:
        found = deaths(wanted, {"memory": memory_space}, workers, begun=begun.append, in_time=lambda: False)
        assert {death async for death, faults in found if faults is None} == set(wanted)

    assert begun == []


@pytest.mark.asyncio(loop_scope="module")
async def test_who_waits_while_nothing_is_done_any_more_is_stuck_and_ended(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
):
    """What the dead server held is handed on after its lease; nobody is waited for as long as that here."""
    monkeypatch.setattr(conducting, "PATIENCE", LEASE / 10)
    asking = setting(UseCase.REQUEST_RESPONSE, Paradigm.MESSAGES)
    played = await play_as_processes(workers, f"file:{tmp_path}/space.db", asking, dies_after=2)

    assert played.stuck >= 1
    assert played.judged.lost > 0
