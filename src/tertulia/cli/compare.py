"""`tertulia compare`: the tables go to standard output, the progress and everything else to standard error."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tertulia import TertuliaError

from tertulia.compare.report_team.facts import FileListing
from tertulia.compare.report_team.input_errors import InputFolderError
from tertulia.compare.results import Comparison
from tertulia.compare.runner import FolderChangedError, Outcome, ReportsDifferError, Settings, compare
from tertulia.compare.stages import AgentsAs, Stage, StageError, stages_of
from tertulia.compare.table import PLAIN_WIDTH, TITLES, print_comparison
from tertulia.compare.units import bytes_text, seconds_text
from tertulia.compare.workers import AgentDiedError, AgentFailedError

__all__ = ["Options", "run"]

DONE, FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
STANDARD_OUTPUT = "-"
FAILURES = (
    *(ReportsDifferError, FolderChangedError, AgentFailedError, AgentDiedError),
    *(TertuliaError, TimeoutError, OSError),
)


class Options(Struct, frozen=True, kw_only=True):
    """What was asked for on the command line."""

    folder: Path
    output: Path
    readers: int
    repeat: int
    engines: tuple[str, ...]
    agents: tuple[str, ...]
    json: str | None
    quiet: bool


class UsageError(Exception):
    """The command was asked for something that cannot be done; the text is one line for people."""


def run(options: Options) -> int:
    """Compare, write and print; return the exit code."""
    logging.getLogger("tertulia").addHandler(logging.NullHandler())  # what agents log on a failure is reported below
    try:
        _prepare(options)
        with _Shown(quiet=options.quiet) as shown:
            outcome = asyncio.run(_compare(options, shown))
        _publish(options, outcome)
    except (InputFolderError, StageError, UsageError) as error:
        return _complain(BAD_INPUT, str(error))
    except FAILURES as error:
        return _complain(FAILED, _explained(error, options))
    except (KeyboardInterrupt, asyncio.CancelledError) as stop:
        return _complain(
            INTERRUPTED if isinstance(stop, KeyboardInterrupt) else TERMINATED, "stopped; nothing was written"
        )
    return DONE


def _explained(error: Exception, options: Options) -> str:
    """Return what to say of a failure; an agent's traceback, which was in another process, is shown here."""
    match error:
        case ReportsDifferError():
            return f"{error}; see {_write_all(options.output, error.reports)}"
        case FolderChangedError():
            return f"{error}; run it again when nobody writes there"
        case AgentFailedError():
            sys.stderr.write(error.traceback)
            return str(error)
        case AgentDiedError():
            return str(error)
        case _:
            return f"{type(error).__name__}: {error}"


async def _compare(options: Options, shown: _Shown) -> Outcome:
    """Compare; SIGTERM stops it as Ctrl-C does, so that it leaves neither files nor processes."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - asyncio.run made one
    with suppress(NotImplementedError):  # Windows has no such signal
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    stages = await stages_of(options.engines, tuple(map(AgentsAs, options.agents)))
    settings = Settings(folder=options.folder, readers=options.readers, repeat=options.repeat, stages=stages)
    return await compare(settings, shown)


def _complain(code: int, problem: str) -> int:
    print(f"tertulia compare: {' '.join(problem.split())}", file=sys.stderr)  # noqa: T201 - what a command does
    return code


# --- Files ---------------------------------------------------------------------------------------


def _prepare(options: Options) -> None:
    """Make sure that what is going to be written can be, and will not be read by the next run."""
    folder, output = options.folder.resolve(), options.output.resolve()
    _check_apart(folder, output)
    if folder.is_dir():  # else the scout says what is wrong with it, and nothing should have been made
        _make_folder(output)
    if options.json is not None and options.json != STANDARD_OUTPUT:
        file = Path(options.json).resolve()
        if file.is_dir() or not file.parent.is_dir():
            raise UsageError(f"--json {options.json}: not a file in a folder that exists")


def _check_apart(folder: Path, output: Path) -> None:
    """Refuse a place where the next run would read the report; the scout passes by `build` and whatever is hidden."""
    if not output.is_relative_to(folder):
        return
    parts = output.relative_to(folder).parts
    if not any(part == "build" or part.startswith(".") for part in parts):
        raise UsageError(
            f"--output {output}: inside the input folder, so the next run would read it; "
            "choose a place outside, or below a folder named build"
        )


def _make_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {output}: cannot be made a folder ({error.strerror})") from error


def _publish(options: Options, outcome: Outcome) -> None:
    """Write the report, then the figures."""
    report = options.output / "report.md"
    report.write_text(outcome.report, encoding="utf-8", newline="\n")
    figures = _json(outcome.comparison)
    if options.json == STANDARD_OUTPUT:
        sys.stdout.write(figures)
        return
    if options.json is not None:
        Path(options.json).write_text(figures, encoding="utf-8", newline="\n")
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    print_comparison(console, outcome.comparison, report)


def _json(comparison: Comparison) -> str:
    return msgspec.json.format(msgspec.json.encode(comparison), indent=2).decode() + "\n"


def _write_all(output: Path, reports: dict[str, str]) -> str:
    """Write reports that should be equal, for the user to compare."""
    names: list[str] = []
    for name, report in reports.items():
        path = output / f"report-by-{re.sub('[^a-z0-9]+', '-', name).strip('-')}.md"
        path.write_text(report, encoding="utf-8", newline="\n")
        names.append(str(path))
    return " and ".join(names)


# --- Progress ------------------------------------------------------------------------------------


class _Shown:
    """The progress: a bar where standard error is a terminal, else a line for each run."""

    def __init__(self, *, quiet: bool, stream: TextIO | None = None) -> None:
        self._console = Console(file=stream, stderr=stream is None, quiet=quiet, soft_wrap=True)
        self._title = ""
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, listing: FileListing, runs: int) -> None:
        size = bytes_text(sum(file.size for file in listing.files))
        self._say(f"reading {len(listing.files):,} files ({size}), {runs} times")
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("", total=len(listing.files) * runs)
            self._bar.start()

    def run(self, stage: Stage | None, paradigm: str, number: int) -> None:
        if stage is None:
            self._title = "rehearsal, without a team"
        else:
            self._title = f"{stage}: " + (f"{TITLES[paradigm]}, run {number}" if number else "warm-up")
        if self._bar is not None:
            self._bar.update(self._task, description=self._title)

    def file_read(self) -> None:
        if self._bar is not None:
            self._bar.advance(self._task)

    def run_done(self, seconds: float) -> None:
        if self._bar is None:
            self._say(f"{self._title}: {seconds_text(seconds)}")

    def said(self, agent: str, line: str) -> None:
        self._say(f"{agent} | {line}")

    def _say(self, line: str) -> None:
        self._console.print(line, style="dim", highlight=False, markup=False)
