"""The progress of `tertulia compare`: a bar where standard error is a terminal, else a line for each run."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tertulia.compare.aspects import NAMES, USE_CASE_NAMES
from tertulia.compare.report_team.facts import FileListing
from tertulia.compare.stages import Stage
from tertulia.compare.table import TITLES
from tertulia.compare.traces import Conversation
from tertulia.compare.units import bytes_text, seconds_text
from tertulia.compare.use_cases.dying import Death
from tertulia.compare.use_cases.points import Point
from tertulia.selection.profile import Cell
from tertulia.selection.requirement import Paradigm

__all__ = ["Shown"]


class Shown:
    """The progress, as whoever watches sees it."""

    def __init__(self, *, quiet: bool, stream: TextIO | None = None) -> None:
        self._console = Console(file=stream, stderr=stream is None, quiet=quiet, soft_wrap=True)
        self._title = ""
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._told: list[str] = []
        self._awaited = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, listing: FileListing, runs: int) -> None:
        """See Progress."""
        size = bytes_text(sum(file.size for file in listing.files))
        self._say(f"reading {len(listing.files):,} files ({size}), {runs} times")
        if self._console.is_terminal:
            self._start_bar(len(listing.files) * runs)

    def run(self, stage: Stage | None, paradigm: str, number: int) -> None:
        """See Progress."""
        if stage is None:
            self._title = "rehearsal, without a team"
        else:
            self._title = f"{stage}: " + (f"{TITLES[paradigm]}, run {number}" if number else "warm-up")
        if self._bar is not None:
            self._bar.update(self._task, description=self._title)

    def file_read(self) -> None:
        """See Progress."""
        if self._bar is not None:
            self._bar.advance(self._task)

    def run_done(self, seconds: float) -> None:
        """See Progress."""
        if self._bar is None:
            self._say(f"{self._title}: {seconds_text(seconds)}")

    def points(self, count: int) -> None:
        """See Progress."""
        if self._console.is_terminal:
            self._start_bar(count)

    def point(self, point: Point, paradigms: Sequence[Paradigm]) -> None:
        """See Progress."""
        self._title = (
            f"{point.engine}, {point.agents_as}: {USE_CASE_NAMES[point.use_case]}, {point.agents} agents, "
            f"{bytes_text(point.payload)}"
        )
        if self._bar is not None:
            self._bar.update(self._task, description=self._title)
        self._told = []
        self._awaited = len(paradigms)

    def measured(self, cell: Cell) -> None:
        """See Progress."""
        self._told.append(f"{NAMES[cell.paradigm]} {seconds_text(cell.p50)}")
        if len(self._told) < self._awaited:
            return
        if self._bar is None:
            self._say(f"{self._title}: {', '.join(self._told)}")
        else:
            self._bar.advance(self._task)

    def death(self, death: Death) -> None:
        """See Progress."""
        way = f"{USE_CASE_NAMES[death.use_case]}, {NAMES[death.paradigm]}"
        self._step(f"{death.engine}, processes: {way}, one is killed half-way")

    def replaying(self, stage: Stage, conversation: Conversation) -> None:
        """See Progress."""
        turns = len(conversation.turns)
        self._step(f"{stage}: {conversation.name}, {len(conversation.agents)} agents, {turns} turns")

    def _step(self, title: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=title)
        else:
            self._say(title)

    def _start_bar(self, total: int) -> None:
        if self._bar is not None:
            self._bar.stop()
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console, transient=True)
        self._task = self._bar.add_task("", total=total)
        self._bar.start()

    def said(self, agent: str, line: str) -> None:
        """See Progress."""
        self._say(f"{agent} | {line}")

    def _say(self, line: str) -> None:
        self._console.print(line, style="dim", highlight=False, markup=False)
