"""The report team does its work through either paradigm, whoever of its readers dies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tertulia import Space, connect
from tertulia.compare.as_tasks import run_roles
from tertulia.compare.report_team import by_memory, by_messages
from tertulia.compare.report_team.criticism import criticise
from tertulia.compare.report_team.facts import FileFacts
from tertulia.compare.report_team.input_errors import FileUnreadableError, FolderMissingError
from tertulia.compare.report_team.job import SKILLS, Job, Skills
from tertulia.compare.report_team.reading import read_file
from tertulia.compare.report_team.scouting import list_files
from tertulia.compare.report_team.writing import write_report
from tertulia.errors import RemoteError
from tertulia.testing import ManualClock

LONGEST = 30  # seconds; each of these takes less than one, so this is met by a hang only
BOTH = pytest.mark.parametrize("paradigm", [by_memory, by_messages], ids=["memory", "messages"])

FILES = {
    "README.md": "# Team\n\nRead the [guide](guide.md#start) and the [missing page](nowhere.md).\n",
    "guide.md": "# Start\n\nThe dead-letter queue keeps what nobody could handle, with every reason for it.\n",
    "notes/plan.txt": "The dead-letter queue keeps what nobody could handle, with every reason for it.\n",
    "notes/odd [name] *.md": "# Wild\n\nAn e-mail is an email.\n",
    "code/tool.py": '"""A tool that sends an e-mail."""\n\n\ndef send(email: str) -> None:\n    """Send it."""\n',
    "data.json": '{"queue": ["dead", "letter"]}\n',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made(tmp_path / "project", FILES)


def made(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def space_for(name: str, clock: ManualClock | None = None) -> Callable[[str], AbstractAsyncContextManager[Space]]:
    options = {} if clock is None else {"clock": clock}
    return lambda _agent: connect(f"memory:{name}", **options)


async def run(
    paradigm: ModuleType,
    open_space: Callable[[str], AbstractAsyncContextManager[Space]],
    job: Job,
    skills: Skills = SKILLS,
) -> str:
    prepare = partial(paradigm.prepare, job=job)
    finished = await run_roles(open_space, paradigm.roles(job, skills), prepare=prepare, patience=job.patience)
    return finished.results["scout"]


async def report_of(paradigm: ModuleType, job: Job, skills: Skills = SKILLS) -> str:
    async with asyncio.timeout(LONGEST):
        return await run(paradigm, space_for("team"), job, skills)


def report_without_a_team(folder: Path) -> str:
    """What the skills make of the folder when one after the other is simply called."""
    listing = list_files(folder)
    facts = [read_file(folder, file.path) for file in listing.files]
    return write_report(folder.name, listing, facts, criticise(facts))


# --- The report ----------------------------------------------------------------------------------


@pytest.mark.parametrize("readers", [1, 3, 5])
async def test_both_paradigms_give_the_report_that_the_skills_give_by_themselves(folder: Path, readers: int):
    job = Job.on_folder(folder, readers=readers)

    by_memory_report = await report_of(by_memory, job)
    by_messages_report = await report_of(by_messages, job)

    assert by_memory_report.encode() == by_messages_report.encode() == report_without_a_team(folder).encode()
    assert "nowhere.md" in by_memory_report


@BOTH
async def test_a_folder_of_one_file_leaves_most_readers_without_work(paradigm: ModuleType, tmp_path: Path):
    folder = made(tmp_path / "one", {"only.md": "# Only\n"})

    report = await report_of(paradigm, Job.on_folder(folder, readers=5))

    assert report == report_without_a_team(folder)


@BOTH
async def test_more_files_than_readers_are_each_read_once(paradigm: ModuleType, tmp_path: Path):
    folder = made(tmp_path / "many", {f"{number:02}.md": f"# Number {number}\n" for number in range(60)})
    read: list[str] = []

    async def noting(folder: str, path: str) -> FileFacts:
        read.append(path)
        return await SKILLS.read_file(folder, path)

    report = await report_of(paradigm, Job.on_folder(folder), replace(SKILLS, read_file=noting))

    assert report == report_without_a_team(folder)
    assert sorted(read) == [f"{number:02}.md" for number in range(60)]


@BOTH
async def test_two_teams_in_one_space_do_not_meet(paradigm: ModuleType, folder: Path, tmp_path: Path):
    other = made(tmp_path / "other", {"other.md": "# Other\n"})

    async with asyncio.timeout(LONGEST):
        reports = await asyncio.gather(
            run(paradigm, space_for("shared"), Job.on_folder(folder, id="first")),
            run(paradigm, space_for("shared"), Job.on_folder(other, id="second")),
        )

    assert reports == [report_without_a_team(folder), report_without_a_team(other)]


async def test_the_report_calls_a_folder_by_its_name_however_it_is_given(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)

    assert (await report_of(by_messages, Job.on_folder("."))).startswith("# Report on `project`\n")


# --- Dead readers --------------------------------------------------------------------------------


class Stuck:
    """Skills whose first reader never comes back with its first file; the others read as ever."""

    def __init__(self) -> None:
        self.path = asyncio.get_running_loop().create_future()
        self.reader: asyncio.Task[object] | None = None
        self.read: list[str] = []

    async def read_file(self, folder: str, path: str) -> FileFacts:
        if not self.path.done():
            self.path.set_result(path)
            await asyncio.get_running_loop().create_future()
        self.read.append(path)
        return read_file(folder, path)

    @property
    def skills(self) -> Skills:
        return replace(SKILLS, read_file=self.read_file)


async def test_through_memory_the_file_of_a_dead_reader_is_read_when_its_claim_expires(folder: Path):
    clock, stuck = ManualClock(), Stuck()
    job = Job.on_folder(folder, readers=2)
    open_space = space_for("dying", clock)
    running = asyncio.create_task(run(by_memory, open_space, job, stuck.skills))
    path = await asyncio.wait_for(stuck.path, LONGEST)
    async with open_space("observer") as observer:
        claim = await observer.memory.read_with_metadata(job.key("claim", path), reader="observer")
        assert claim is not None
        task_named(claim.owner).cancel()
        await all_read_but(path, job, observer.memory.list_keys, clock)

        await clock.advance(job.lease - 1)
        assert path not in stuck.read, "the claim still holds"
        await clock.advance(2)
        report = await asyncio.wait_for(running, LONGEST)

    assert report == report_without_a_team(folder)
    assert stuck.read.count(path) == 1


def task_named(name: str) -> asyncio.Task[object]:
    return next(task for task in asyncio.all_tasks() if task.get_name() == name)


async def all_read_but(
    path: str, job: Job, list_keys: Callable[[str], Awaitable[list[str]]], clock: ManualClock
) -> None:
    """Let everybody do what can be done without time."""
    await clock.advance(0)
    assert await list_keys(job.keys("work")) == [job.key("work", path)]


async def test_through_messages_the_file_of_a_dead_reader_goes_to_another_at_once(folder: Path):
    stuck = Stuck()
    running = asyncio.create_task(run(by_messages, space_for("dying"), Job.on_folder(folder, readers=2), stuck.skills))
    path = await asyncio.wait_for(stuck.path, LONGEST)

    task_named("reader 1").cancel()
    report = await asyncio.wait_for(running, LONGEST)

    assert report == report_without_a_team(folder)
    assert stuck.read.count(path) == 1


async def test_through_messages_the_file_of_a_reader_that_vanished_goes_to_another_when_its_lease_ends(folder: Path):
    clock = ManualClock()
    job = Job.on_folder(folder, readers=1)
    open_space = space_for("vanished", clock)
    async with open_space("office") as office, open_space("vanished reader") as vanished:
        await by_messages.prepare(office, job)
        scout = partial(by_messages.scout, job=job, skills=at_once())
        running = asyncio.create_task(run_roles(open_space, {"scout": scout}, patience=job.patience))
        taken = await vanished.broker.receive(job.agent("reader"), timeout=LONGEST, lease=job.lease)
        assert taken is not None, "the scout hands out work"
        others = {
            "reader 1": partial(by_messages.reader, job=job, skills=at_once()),
            "critic": partial(by_messages.critic, job=job, skills=at_once()),
            "writer": partial(by_messages.writer, job=job, skills=at_once()),
        }
        rest = asyncio.create_task(run_roles(open_space, others, patience=job.patience))

        await clock.advance(job.lease - 1)
        assert not running.done(), "a file is missing"
        await clock.advance(2)
        report = (await asyncio.wait_for(running, LONGEST)).results["scout"]
        results = (await asyncio.wait_for(rest, LONGEST)).results

    assert report == report_without_a_team(folder)
    assert results["reader 1"] == len(FILES)


def at_once() -> Skills:
    """Skills without threads, so that a manual clock knows when everybody rests."""

    def directly(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        async def call(*arguments: object) -> Any:
            return function(*arguments)

        return call

    return Skills(
        list_files=directly(list_files),
        read_file=directly(read_file),
        criticise=directly(criticise),
        write_report=directly(write_report),
    )


async def test_through_messages_the_file_of_a_frozen_reader_goes_to_another_when_the_jobs_lease_ends(folder: Path):
    clock, stuck = ManualClock(), Stuck()
    job = Job(folder=str(folder), readers=2, lease=5.0)
    spaces: dict[str, Space] = {}

    @asynccontextmanager
    async def open_space(agent: str) -> AsyncIterator[Space]:
        async with connect("memory:frozen", clock=clock) as spaces[agent]:
            yield spaces[agent]

    running = asyncio.create_task(run(by_messages, open_space, job, stuck.skills))
    path = await asyncio.wait_for(stuck.path, LONGEST)
    await clock.advance(3 * job.lease)
    assert path not in stuck.read, "a reader that is slow but alive keeps its file"

    spaces["reader 1"].broker.leases.close()  # from here on it renews nothing, as a stopped process does
    await clock.advance(job.lease + 1)
    assert path in stuck.read
    task_named("reader 1").cancel()
    assert await asyncio.wait_for(running, LONGEST) == report_without_a_team(folder)


async def test_through_memory_whoever_finishes_first_hands_in_though_the_claim_is_lost(tmp_path: Path):
    clock = ManualClock()
    folder = made(tmp_path / "single", {"one.md": "# One\n"})
    job = Job.on_folder(folder, readers=2)
    may_finish = [asyncio.Event(), asyncio.Event()]
    begun: list[str] = []

    async def read_when_told(folder: str, path: str) -> FileFacts:
        begun.append(path)
        await may_finish[len(begun) - 1].wait()
        return read_file(folder, path)

    open_space = space_for("slow", clock)
    running = asyncio.create_task(run(by_memory, open_space, job, replace(at_once(), read_file=read_when_told)))
    await clock.advance(job.lease - 1)
    assert len(begun) == 1, "the claim holds"
    await clock.advance(2)
    assert len(begun) == 2, "the other reader has taken over"

    async with open_space("observer") as observer:
        may_finish[0].set()
        await clock.advance(0)
        report = await observer.memory.read(job.key("report"), reader="observer")
        assert report == report_without_a_team(folder), "the slow reader was the first to finish"
        may_finish[1].set()
        assert await asyncio.wait_for(running, LONGEST) == report
        facts = await observer.memory.read_with_metadata(job.key("facts", "one.md"), reader="observer")

    assert facts is not None
    assert facts.version == 1, "the second result was not written over the first"


# --- Errors --------------------------------------------------------------------------------------


def failing(skill: str, error: Exception) -> Skills:
    async def fail(*_: object) -> None:
        raise error

    return replace(SKILLS, **{skill: fail})


@pytest.fixture
def silent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "tertulia")  # the failure is on purpose, and the test is told of it


@pytest.mark.usefixtures("silent")
@BOTH
@pytest.mark.parametrize("skill", ["list_files", "read_file", "criticise", "write_report"])
async def test_the_error_of_any_agent_ends_the_run_with_that_error(paradigm: ModuleType, skill: str, folder: Path):
    error = FileUnreadableError("guide.md", "it went away")

    with pytest.raises(FileUnreadableError) as raised:
        await report_of(paradigm, Job.on_folder(folder), failing(skill, error))

    assert raised.value is error


@pytest.mark.usefixtures("silent")
@BOTH
async def test_after_an_error_nobody_of_the_team_goes_on(paradigm: ModuleType, folder: Path):
    before = asyncio.all_tasks()

    with pytest.raises(OSError, match="no more"):
        await report_of(paradigm, Job.on_folder(folder), failing("read_file", OSError("no more")))

    assert asyncio.all_tasks() == before


async def test_the_first_error_is_raised_even_if_its_agent_is_cancelled_while_it_leaves():
    leaving = asyncio.Event()

    @asynccontextmanager
    async def open_space(agent: str) -> AsyncIterator[Space]:
        async with connect("memory:leaving") as space:
            try:
                yield space
            finally:
                if agent == "writer":
                    leaving.set()
                    await asyncio.get_running_loop().create_future()  # closing takes its time

    async def write(_: Space) -> None:
        raise OSError("the disk is full")

    async def ask(_: Space) -> None:
        await leaving.wait()
        raise RemoteError("writer", "OSError", "the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        await run_roles(open_space, {"scout": ask, "writer": write}, patience=LONGEST)


@BOTH
async def test_a_folder_that_is_missing_is_the_scouts_error(paradigm: ModuleType, tmp_path: Path):
    with pytest.raises(FolderMissingError):
        await report_of(paradigm, Job.on_folder(tmp_path / "missing"))


@BOTH
async def test_a_team_that_takes_longer_than_its_patience_ends_with_a_timeout(paradigm: ModuleType, folder: Path):
    stuck = Stuck()
    job = Job(folder=str(folder), readers=1, patience=0.2)

    with pytest.raises(TimeoutError, match=r"not done within 0\.2 s|did not reply"):
        await report_of(paradigm, job, stuck.skills)


@BOTH
async def test_an_agent_whose_space_is_closed_ends_instead_of_waiting(paradigm: ModuleType, folder: Path):
    job = Job.on_folder(folder)
    async with connect("memory:closing") as office:
        if paradigm is by_messages:
            await by_messages.prepare(office, job)
        space = await connect("memory:closing")
        scout = asyncio.create_task(paradigm.scout(space, job))
        async for _ in waiting_scout(office, job, paradigm):
            break
        await space.aclose()
        with pytest.raises(Exception, match="the space is closed"):
            await asyncio.wait_for(scout, LONGEST)


async def waiting_scout(office: Space, job: Job, paradigm: ModuleType) -> AsyncIterator[None]:
    """Yield when the scout has handed out all work and waits for the report."""
    if paradigm is by_memory:
        async with office.memory.watch(job.key("ready")) as changes:
            if await office.memory.read(job.key("ready"), reader="office") is None:
                await asyncio.wait_for(anext(changes), LONGEST)
        yield
    else:
        await asyncio.wait_for(office.broker.receive(job.agent("writer")), LONGEST)
        yield
