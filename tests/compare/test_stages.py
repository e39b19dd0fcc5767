"""Teams run on stages: engines, and agents as tasks or as processes; nothing is left of a stage, however it ends."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tertulia.compare.places import LOCAL_ENGINES
from tertulia.compare.recordings import AgentFigures, figures_of
from tertulia.compare.report_team.job import Job
from tertulia.compare.report_team.rehearsing import rehearse
from tertulia.compare.report_team.teams import TEAMS, ReportTask
from tertulia.compare.stages import AgentsAs, PlayTeam, Stage, StageError, open_stage, stages_of
from tertulia.compare.workers import AgentDiedError, AgentFailedError
from tests.compare import odd_teams
from tests.compare.odd_teams import OddTask, OddTeam
from tests.processes.running import LONGEST, alive, children

ROOT = Path(__file__).parents[2]
TASKS, PROCESSES = AgentsAs.tasks, AgentsAs.processes
STAGES = [
    Stage(engine="memory", agents=TASKS),
    Stage(engine="file", agents=TASKS),
    Stage(engine="file", agents=PROCESSES),
]
WITH_PROCESSES = STAGES[-1]


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where all of a test's spaces and doorbells are, here and in its processes; short enough for a socket's path.

    An agent's process finds the teams of these tests.
    """
    tmp_path_factory.getbasetemp()  # pytest's own place is made where it always is
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "src")]))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with tempfile.TemporaryDirectory() as directory:
        monkeypatch.setenv("TMPDIR", directory)
        monkeypatch.setattr(tempfile, "tempdir", directory)
        yield Path(directory)


@pytest.fixture(autouse=True)
def nothing_is_left(temporary: Path) -> Iterator[None]:
    before = children(os.getpid())
    yield
    assert children(os.getpid()) == before
    assert list(temporary.glob("tertulia-compare-*")) == []


@pytest.fixture(params=STAGES, ids=str)
async def play(request: pytest.FixtureRequest) -> AsyncIterator[PlayTeam]:
    async with asyncio.timeout(LONGEST), open_stage(request.param, unexpected) as play:
        yield play


@pytest.fixture
async def play_in_processes() -> AsyncIterator[PlayTeam]:
    async with asyncio.timeout(LONGEST), open_stage(WITH_PROCESSES, unexpected) as play:
        yield play


def unexpected(agent: str, line: str) -> None:
    raise AssertionError(f"{agent} said {line}")


def nothing() -> None:
    """Be told of a step."""


# --- The report team -----------------------------------------------------------------------------

FILES = {
    "README.md": "# Team\n\nRead the [guide](guide.md#start) and the [missing page](nowhere.md).\n",
    "guide.md": "# Start\n\nThe dead-letter queue keeps what nobody could handle, with every reason for it.\n",
    "notes/plan.txt": "The dead-letter queue keeps what nobody could handle, with every reason for it.\n",
    "code/tool.py": '"""A tool that sends an e-mail."""\n\n\ndef send(email: str) -> None:\n    """Send it."""\n',
}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return Job.on_folder(tmp_path, readers=2)


async def test_the_report_is_the_same_on_every_stage_through_both_paradigms(play: PlayTeam, job: Job):
    read: list[None] = []
    expected = await rehearse(job, nothing)
    task = ReportTask(job=job)

    for name, team in TEAMS.items():
        read.clear()
        played = await play(team, task, lambda: read.append(None))
        assert played.result.encode() == expected.report.encode()
        assert len(read) == len(FILES), "each file is a step"
        check_figures(name, figures_of(played.recordings))
        assert played.seconds > 0
        assert played.cpu > 0


async def test_with_answers_that_are_remembered_no_file_is_read(play: PlayTeam, job: Job):
    answers = await rehearse(job, nothing)
    for name in FILES:
        (Path(job.folder) / name).unlink()

    for name, team in TEAMS.items():
        played = await play(team, ReportTask(job=job, answers=answers), nothing)
        assert played.result == answers.report
        check_figures(name, figures_of(played.recordings))


def check_figures(paradigm: str, agents: dict[str, AgentFigures]) -> None:
    """What does not depend on chance is the same on each stage: who did how much of what, and what has a latency."""
    assert set(agents) == {"office", "scout", "reader 1", "reader 2", "critic", "writer"}
    files, readers = len(FILES), 2
    if paradigm == "memory":
        written = sum(
            figures.operations["write"].count - figures.operations["write"].refused
            for figures in agents.values()
            if "write" in figures.operations
        )
        assert written == 3 * files + 4
        assert sum(figures.changes_noticed for figures in agents.values()) > 0
        notices = [figures.operations["notice"] for figures in agents.values() if "notice" in figures.operations]
        assert all(len(notice.seconds) <= notice.count for notice in notices)
        assert sum(len(notice.seconds) for notice in notices) > 0
        assert min(second for notice in notices for second in notice.seconds) > 0
    else:
        assert sum(figures.messages_received for figures in agents.values()) == 3 * files + 4 + readers
        assert {name: figures.messages_received for name, figures in agents.items() if "reader" not in name} == {
            "office": 0,
            "scout": 1,
            "critic": files + 1,
            "writer": files + 2,
        }
        received = [
            figures.operations["receive"].seconds for figures in agents.values() if "receive" in figures.operations
        ]
        assert sum(map(len, received)) == 3 * files + 3 + readers, "every message has a latency, whoever sent it"
        assert min(second for seconds in received for second in seconds) > 0
        assert len(agents["scout"].operations["receive reply"].seconds) == 1


# --- Processes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES, ids=str)
async def test_each_agent_is_what_the_stage_says(stage: Stage):
    steps: list[None] = []
    async with asyncio.timeout(LONGEST), open_stage(stage, unexpected) as play:
        first = await play(odd_teams.PIDS, OddTask(), lambda: steps.append(None))
        second = await play(odd_teams.PIDS, OddTask(), nothing)

    assert len(steps) == 2
    assert first.result == second.result, "processes stay from run to run, each run in a new space"
    assert first.result[0] == os.getpid()
    assert len(set(first.result)) == (3 if stage.agents is PROCESSES else 1)


async def test_the_processor_time_of_all_agents_is_added_up(play: PlayTeam):
    played = await play(odd_teams.BURNING, OddTask(), nothing)

    assert played.cpu >= 2 * odd_teams.BURNT


async def test_an_agent_that_fails_ends_the_run_with_its_error_and_its_traceback(play_in_processes: PlayTeam):
    with pytest.raises(AgentFailedError, match="the second failed in its process with ValueError: on purpose") as error:
        await play_in_processes(odd_teams.FAILING, OddTask(), nothing)

    assert "in stumble" in error.value.traceback
    assert error.value.traceback.endswith("ValueError: on purpose\n")


async def test_what_happened_is_raised_and_not_the_news_of_it(play_in_processes: PlayTeam):
    with pytest.raises(AgentFailedError, match="the second failed"):
        await play_in_processes(odd_teams.NEWS, OddTask(), nothing)


async def test_an_agent_whose_process_dies_ends_the_run_and_its_last_words_are_passed_on():
    said: list[tuple[str, str]] = []
    with pytest.raises(AgentDiedError, match=r"the second's process \d+ ended with exit code 7"):
        async with asyncio.timeout(LONGEST), open_stage(WITH_PROCESSES, lambda *line: said.append(line)) as play:
            await play(odd_teams.DYING, OddTask(), nothing)

    assert said == [("second", "some last words")]


async def test_a_team_that_takes_longer_than_its_patience_ends_with_a_timeout(play: PlayTeam):
    with pytest.raises(TimeoutError, match=r"the team was not done within 0\.3 s"):
        await play(odd_teams.STUCK, OddTask(patience=0.3), nothing)


async def test_a_run_that_is_cancelled_leaves_no_process_and_no_file(temporary: Path):
    playing = asyncio.Event()
    teams: list[OddTeam] = [odd_teams.PIDS, odd_teams.STUCK]

    async def work() -> None:
        async with open_stage(WITH_PROCESSES, unexpected) as play:
            await play(teams[0], OddTask(), nothing)
            beginning = asyncio.ensure_future(play(teams[1], OddTask(), nothing))
            while not bells_in(temporary):  # noqa: ASYNC110 - nobody tells when another process waits
                await asyncio.sleep(0.01)
            playing.set()
            await beginning

    before = children(os.getpid())
    running = asyncio.create_task(work())
    await asyncio.wait_for(playing.wait(), LONGEST)
    pids = children(os.getpid()) - before
    assert len(pids) == 2
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, LONGEST)
    assert not any(map(alive, pids))
    assert bells_in(temporary) == [], "they left their space, and were not killed"


def bells_in(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_socket()]


# --- Which stages there are ----------------------------------------------------------------------


async def test_agents_are_processes_where_the_engine_can_unless_something_else_is_asked_for():
    assert await stages_of(LOCAL_ENGINES) == (STAGES[0], STAGES[2])
    assert await stages_of(["file", "memory", "file"]) == (STAGES[2], STAGES[0])
    assert await stages_of(LOCAL_ENGINES, [TASKS]) == (STAGES[0], STAGES[1])
    assert await stages_of(LOCAL_ENGINES, [PROCESSES, TASKS]) == tuple(STAGES)
    assert await stages_of(LOCAL_ENGINES, [PROCESSES], where_possible=True) == (STAGES[2],)
    with pytest.raises(StageError, match="memory engine is in one process, so agents there can only be tasks"):
        await stages_of(LOCAL_ENGINES, [PROCESSES])
