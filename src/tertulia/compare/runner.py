"""Runs the report team: the same team on the same folder, through each paradigm on each stage in turn, and sums up.

Two sorts of runs are measured. The whole job shows what the choice means for a real workload. The same job with all
thinking remembered (each skill answers at once with what it found before) shows what communication costs by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from tertulia.compare.budget import Budget
from tertulia.compare.conclusion import conclude, conclude_across
from tertulia.compare.report_team.facts import FileListing
from tertulia.compare.report_team.job import Job
from tertulia.compare.report_team.rehearsing import rehearse
from tertulia.compare.report_team.scouting import list_files
from tertulia.compare.report_team.teams import TEAMS, ReportTask
from tertulia.compare.results import Input, Paradigm, ReportResult, StageResult
from tertulia.compare.stages import AgentsAs, PlayTeam, Stage, open_stage
from tertulia.compare.summary import summarise
from tertulia.compare.teams import Played, Step, Team

__all__ = [
    "FolderChangedError",
    "Outcome",
    "Progress",
    "ReportsDifferError",
    "Settings",
    "compare",
    "count_runs",
]

REPORT_SHARE = 1 / 3  # of the time that all may take; use cases have the rest
ALONE = 3  # runs of communication alone for each run of the whole job: they are short, and so easily disturbed


class Settings(Struct, frozen=True, kw_only=True):
    """What to compare: reports on `folder` by a team with so many readers; `repeat` runs each way on each stage.

    `server`: the URL for engines that need one.
    """

    folder: Path
    readers: int = 3
    repeat: int = 3
    stages: tuple[Stage, ...] = (Stage(engine="memory", agents=AgentsAs.tasks),)
    server: str = ""


class Outcome(Struct, frozen=True, kw_only=True):
    """The figures, and the report that all runs gave."""

    result: ReportResult
    report: str


class Progress(Protocol):
    """Who wants to know how far a comparison is."""

    def begin(self, listing: FileListing, runs: int) -> None:
        """So many runs are going to read all of these files."""
        ...

    def run(self, stage: Stage | None, paradigm: str, number: int) -> None:
        """A run of this paradigm begins; number 0 is a warm-up, and without a stage it is the rehearsal."""
        ...

    def file_read(self) -> None:
        """One more file of this run was read."""
        ...

    def run_done(self, seconds: float) -> None:
        """The run is done."""
        ...

    def said(self, agent: str, line: str) -> None:
        """An agent's process has printed a line, which it should not have."""
        ...


class ReportsDifferError(Exception):
    """There are different reports on the same folder; `reports` has them by the run that gave them."""

    def __init__(self, reports: Mapping[str, str]) -> None:
        super().__init__("not all runs gave the same report on the same files")
        self.reports = dict(reports)


class FolderChangedError(Exception):
    """The folder changed while it was being read, so its reports cannot be compared."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder}: its files changed during the comparison")


def count_runs(settings: Settings) -> int:
    """Return how many runs read all the files: the rehearsal, warm-ups of processes, and what is measured."""
    warm_ups = sum(stage.agents is AgentsAs.processes for stage in settings.stages)
    return 1 + warm_ups + len(settings.stages) * settings.repeat * len(TEAMS)


async def compare(
    settings: Settings,
    progress: Progress,
    keep: Callable[[Callable[[], Outcome]], object] = lambda _: None,
    *,
    budget: Budget | None = None,
) -> Callable[[], Outcome]:
    """Compare the paradigms on the stages, and tell the progress; return what puts the outcome together.

    After each round `keep` gets what puts together the outcome of the rounds so far. There are fewer than asked for,
    but one at least, where another one would take more than a third of the `budget`. Raises InputFolderError,
    FolderChangedError, ReportsDifferError; what an agent raises, or of one in a process of its own AgentFailedError and
    AgentDiedError; TimeoutError for a team that is not done in time. Nothing of it stays on the disk, and no process is
    left, however it ends.
    """
    before = await asyncio.to_thread(_state_of, settings.folder)
    progress.begin(before.listing, count_runs(settings))
    async with AsyncExitStack() as stack:
        stages = [
            _Stage(
                stage,
                await stack.enter_async_context(open_stage(stage, progress.said, server=settings.server)),
                progress,
            )
            for stage in settings.stages
        ]
        bench = _Bench(settings, stages, progress)
        report = await bench.warm_up()
        time, rounds = budget or Budget(), 0
        for number in range(1, settings.repeat + 1):
            began = time.spent()
            reports = await bench.round(number)
            if set(reports.values()) != {report}:
                changed = await asyncio.to_thread(_state_of, settings.folder) != before
                raise FolderChangedError(settings.folder) if changed else ReportsDifferError(reports)
            keep(partial(_outcome, settings, before.listing, report, stages, number))
            rounds = number
            if time.spent() + (time.spent() - began) > time.seconds * REPORT_SHARE:
                break
    return partial(_outcome, settings, before.listing, report, stages, rounds)


class _Bench:
    """Makes the runs on all stages."""

    def __init__(self, settings: Settings, stages: list[_Stage], progress: Progress) -> None:
        self._job = Job.on_folder(settings.folder, readers=settings.readers)
        self._stages = stages
        self._progress = progress
        self._whole = self._alone = ReportTask(job=self._job)

    async def warm_up(self) -> str:
        """Do the job once without a team, and let everybody run once, unmeasured; return the report."""
        began = asyncio.get_running_loop().time()
        self._progress.run(None, "", 0)
        answers = await rehearse(self._job, self._progress.file_read)
        self._progress.run_done(asyncio.get_running_loop().time() - began)
        self._alone = ReportTask(job=self._job, answers=answers)
        for stage in self._stages:
            await stage.warm_up(self._whole, self._alone)
        return answers.report

    async def round(self, number: int) -> dict[str, str]:
        """Run each paradigm on each stage, in an order that changes from round to round; return the reports."""
        ways = [(stage, paradigm) for stage in self._stages for paradigm in TEAMS]
        for stage, paradigm in ways if number % 2 else reversed(ways):
            await stage.measure(paradigm, number, self._whole, self._alone)
        return {f"{paradigm} ({stage.stage})": stage.report(paradigm) for stage, paradigm in ways}


class _Stage:
    """Makes the runs on one stage, and keeps them."""

    def __init__(self, stage: Stage, play: PlayTeam, progress: Progress) -> None:
        self.stage = stage
        self._play = play
        self._progress = progress
        self._agents: tuple[str, ...] = ()
        self._whole: dict[str, list[Played]] = {paradigm: [] for paradigm in TEAMS}
        self._alone: dict[str, list[Played]] = {paradigm: [] for paradigm in TEAMS}

    async def warm_up(self, whole: ReportTask, alone: ReportTask) -> None:
        """Run everything once, unmeasured; this process has done the whole job already, to rehearse it."""
        self._agents = tuple(next(iter(TEAMS.values())).roles(whole, _nothing))
        if self.stage.agents is AgentsAs.processes:
            await self._work(next(iter(TEAMS)), 0, whole)
        for team in TEAMS.values():
            await self._play(team, alone, _nothing)

    async def measure(self, paradigm: str, number: int, whole: ReportTask, alone: ReportTask) -> None:
        """Run the whole job once, and communication alone a few times."""
        self._whole[paradigm].append(await self._work(paradigm, number, whole))
        for _ in range(ALONE):
            self._alone[paradigm].append(await self._play(TEAMS[paradigm], alone, _nothing))

    def report(self, paradigm: str) -> str:
        """Return the report of the latest run."""
        report: str = self._whole[paradigm][-1].result
        return report

    def result(self, rounds: int) -> StageResult:
        """Sum up what was measured in the first rounds, which are whole."""
        memory, messages = (
            Paradigm(
                name=paradigm,
                job=summarise(self._whole[paradigm][:rounds], self._agents),
                alone=summarise(self._alone[paradigm][: rounds * ALONE], self._agents),
            )
            for paradigm in ("memory", "messages")
        )
        return StageResult(
            engine=self.stage.engine,
            agents=self.stage.agents.value,
            paradigms=(memory, messages),
            conclusion=conclude(memory, messages),
        )

    async def _work(self, paradigm: str, number: int, task: ReportTask) -> Played:
        team: Team = TEAMS[paradigm]
        step: Step = self._progress.file_read
        self._progress.run(self.stage, paradigm, number)
        played = await self._play(team, task, step)
        self._progress.run_done(played.seconds)
        return played


def _nothing() -> None:
    """Tell nobody: runs of communication alone are too short to be watched."""


class _State(Struct, frozen=True):
    """A folder's files at one moment, as far as a change of them shows from outside."""

    listing: FileListing
    modified: tuple[int, ...]


def _state_of(folder: Path) -> _State:
    listing = list_files(folder)
    return _State(listing, tuple(_modified(folder / file.path) for file in listing.files))


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # it is gone, which is a change
        return -1


def _outcome(settings: Settings, listing: FileListing, report: str, stages: Sequence[_Stage], rounds: int) -> Outcome:
    found = tuple(stage.result(rounds) for stage in stages)
    result = ReportResult(
        input=Input(
            folder=settings.folder.resolve().name,
            files=len(listing.files),
            bytes=sum(file.size for file in listing.files),
            complete=listing.complete,
        ),
        readers=settings.readers,
        repeat=rounds,
        report_bytes=len(report.encode()),
        report_sha256=sha256(report.encode()).hexdigest(),
        stages=found,
        conclusion=conclude_across(found),
    )
    return Outcome(result=result, report=report)
