"""Runs the comparison: the same team on the same folder, through each paradigm in turn, and sums up.

Two sorts of runs are measured. The whole job shows what the choice means for a real workload. The same job with all
thinking remembered (each skill answers at once with what it found before) shows what communication costs by itself.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Protocol

from msgspec import Struct

from tertulia.compare.conclusion import conclude
from tertulia.compare.environment import describe_environment
from tertulia.compare.measuring import Meter
from tertulia.compare.rehearsing import Rehearsal, told
from tertulia.compare.report_team import by_memory, by_messages
from tertulia.compare.report_team.facts import FileListing
from tertulia.compare.report_team.job import SKILLS, Job, OpenSpace, Skills
from tertulia.compare.report_team.scouting import list_files
from tertulia.compare.results import Comparison, Environment, Input, Paradigm
from tertulia.compare.summary import Run, summarise
from tertulia.space import Space, connect

__all__ = [
    "ENGINES",
    "FolderChangedError",
    "Outcome",
    "Progress",
    "ReportsDifferError",
    "Settings",
    "compare",
]

ENGINES: Mapping[str, Callable[[str], str]] = {"memory": "memory:{}".format}
"""The engines to measure on, and the URL of a new space of a name."""

PARADIGMS: Mapping[str, Callable[[OpenSpace, Job, Skills], Awaitable[str]]] = {
    "memory": by_memory.run,
    "messages": by_messages.run,
}

ALONE = 3  # runs of communication alone for each run of the whole job: they are short, and so easily disturbed

_numbers = itertools.count(1)


class Settings(Struct, frozen=True, kw_only=True):
    """What to compare: reports on `folder` by a team with so many readers; `repeat` runs each way."""

    folder: Path
    readers: int = 3
    repeat: int = 5
    engine: str = "memory"


class Outcome(Struct, frozen=True, kw_only=True):
    """The figures, and the report that both paradigms gave."""

    comparison: Comparison
    report: str


class Progress(Protocol):
    """Who wants to know how far a comparison is."""

    def begin(self, listing: FileListing, runs: int) -> None:
        """So many runs are going to read all of these files."""
        ...

    def run(self, paradigm: str, number: int) -> None:
        """A run of this paradigm begins; number 0 is the warm-up."""
        ...

    def file_read(self) -> None:
        """One more file of this run was read."""
        ...

    def run_done(self, seconds: float) -> None:
        """The run is done."""
        ...


class ReportsDifferError(Exception):
    """The paradigms gave different reports on the same folder; `reports` has them by paradigm."""

    def __init__(self, reports: Mapping[str, str]) -> None:
        super().__init__("shared memory and messages gave different reports on the same files")
        self.reports = dict(reports)


class FolderChangedError(Exception):
    """The folder changed while it was being read, so its reports cannot be compared."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder}: its files changed during the comparison")


async def compare(settings: Settings, progress: Progress) -> Outcome:
    """Compare the paradigms, and tell the progress.

    Raises InputFolderError, FolderChangedError, ReportsDifferError; what an agent raises; TimeoutError for a team
    that is not done in time. Writes nothing to disk.
    """
    environment = describe_environment()  # before this work is a load itself
    before = await asyncio.to_thread(_state_of, settings.folder)
    progress.begin(before.listing, 1 + settings.repeat * len(PARADIGMS))
    bench = _Bench(settings, progress)
    report = await bench.warm_up()
    for number in range(1, settings.repeat + 1):
        reports = await bench.round(number)
        if set(reports.values()) != {report}:
            changed = await asyncio.to_thread(_state_of, settings.folder) != before
            raise FolderChangedError(settings.folder) if changed else ReportsDifferError(reports)
    comparison = _comparison(settings, environment, before.listing, report, bench.paradigms())
    return Outcome(comparison=comparison, report=report)


class _Bench:
    """Makes the runs, and keeps them."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._job = Job.on_folder(settings.folder, readers=settings.readers)
        self._url = ENGINES[settings.engine]
        self._progress = progress
        self._rehearsal = Rehearsal()
        self._whole: dict[str, list[Run]] = {name: [] for name in PARADIGMS}
        self._alone: dict[str, list[Run]] = {name: [] for name in PARADIGMS}

    async def warm_up(self) -> str:
        """Run everything once, unmeasured, and learn what the skills answer; return the report."""
        first = await self._work("memory", 0, self._rehearsal.learning(SKILLS))
        for name in PARADIGMS:
            await self._communicate(name)
        return first.report

    async def round(self, number: int) -> dict[str, str]:
        """Run each paradigm, in an order that changes from round to round; return the reports."""
        names = list(PARADIGMS)
        for name in names if number % 2 else reversed(names):
            self._whole[name].append(await self._work(name, number, SKILLS))
            self._alone[name].extend([await self._communicate(name) for _ in range(ALONE)])
        return {name: self._whole[name][-1].report for name in names}

    def paradigms(self) -> tuple[Paradigm, ...]:
        """Sum up what was measured."""
        return tuple(
            Paradigm(name=name, job=summarise(self._whole[name]), alone=summarise(self._alone[name]))
            for name in PARADIGMS
        )

    async def _work(self, name: str, number: int, skills: Skills) -> Run:
        self._progress.run(name, number)
        run = await self._run(name, told(skills, self._progress.file_read))
        self._progress.run_done(run.seconds)
        return run

    async def _communicate(self, name: str) -> Run:
        return await self._run(name, self._rehearsal.remembered())

    async def _run(self, name: str, skills: Skills) -> Run:
        """Run a team in a space of its own."""
        meter = Meter()
        url = self._url(f"compare-{next(_numbers)}")

        @asynccontextmanager
        async def open_space(agent: str) -> AsyncGenerator[Space, None]:
            async with meter.space(await connect(url), agent) as space:
                yield space

        gc.collect()  # no run pays for what another one left
        began = perf_counter()
        report = await PARADIGMS[name](open_space, self._job, skills)
        return Run(report, perf_counter() - began, meter)


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


def _comparison(
    settings: Settings,
    environment: Environment,
    listing: FileListing,
    report: str,
    paradigms: tuple[Paradigm, ...],
) -> Comparison:
    memory, messages = paradigms
    return Comparison(
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=environment,
        engine=settings.engine,
        input=Input(
            folder=settings.folder.resolve().name,
            files=len(listing.files),
            bytes=sum(file.size for file in listing.files),
            complete=listing.complete,
        ),
        readers=settings.readers,
        repeat=settings.repeat,
        report_bytes=len(report.encode()),
        report_sha256=sha256(report.encode()).hexdigest(),
        paradigms=paradigms,
        conclusion=conclude(memory, messages),
    )
