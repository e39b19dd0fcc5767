"""Runs a team: gets its parts ready, lets them begin together, and gathers what they wrote down.

As tasks, all parts are in this process, each with a handle on the space of its own; as processes, each is in another.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from msgspec import Struct

from tertulia.compare.gathering import all_ready, say_go, say_over
from tertulia.compare.measuring import Meter
from tertulia.compare.use_cases.stage import PATIENCE, Judged, Outcome, Setting, Sheet, Stage
from tertulia.compare.use_cases.teams import JUDGES, team_of
from tertulia.compare.workers import AgentFailedError, Workers
from tertulia.space import Space, connect

__all__ = ["PartFailedError", "Played", "Task", "play_as_processes", "play_as_tasks", "play_encoded_part", "play_part"]

PLAY_PART = f"{__name__}:play_encoded_part"
STARTING = 120.0  # seconds for all parts to get ready: 64 Pythons take a good ten on two cores, and cores differ


class Task(Struct, frozen=True, kw_only=True):
    """What a part is told."""

    url: str
    setting: Setting
    number: int
    ledger: str | None = None
    dies_after: int | None = None


class Played(Struct, frozen=True, kw_only=True):
    """How a run went. `seconds`: from when the first part began until the last unit of work was done.

    `stuck`: parts that were not done in time and had to be ended.
    """

    sheets: tuple[Sheet, ...]
    judged: Judged
    seconds: float
    stuck: int = 0

    @property
    def units(self) -> int:
        """How many units of work were done."""
        return sum(len(sheet.samples) for sheet in self.sheets)


class PartFailedError(Exception):
    """A part ended with an error; `said` is its traceback where it was in another process, else the error."""

    def __init__(self, number: int, said: str) -> None:
        super().__init__(f"part {number} of a team failed: {said.strip()}")
        self.number = number
        self.said = said


async def play_part(task: Task) -> Sheet:
    """Do one part, with a handle on the space of its own."""
    meter = Meter()
    async with meter.space(await connect(task.url), "part") as space:
        stage = Stage(
            space,
            task.setting,
            task.number,
            ledger=None if task.ledger is None else Path(task.ledger),
            dies_after=task.dies_after,
        )
        await team_of(task.setting).part(task.setting, task.number)(stage)
    figures = meter.agents["part"]
    return stage.sheet(bytes_moved=figures.bytes_written, bytes_read=figures.bytes_read)


async def play_encoded_part(task: bytes) -> bytes:
    """Do one part in this process; task and sheet are as they go from one process to another."""
    return msgspec.json.encode(await play_part(msgspec.json.decode(task, type=Task)))


async def play_as_tasks(url: str, setting: Setting) -> Played:
    """Play with the parts as tasks of this process. Raises what a part raises, as PartFailedError."""
    async with _conductor(url, setting) as conductor:
        return await conductor.play(
            [conductor.in_this_process(number) for number in range(team_of(setting).size(setting))]
        )


async def play_as_processes(workers: Workers, url: str, setting: Setting, *, dies_after: int | None = None) -> Played:
    """Play with each part as a process of its own, one of those workers.

    With `dies_after` the team's victim is killed after so many of its effects, and another process takes its place; all
    effects are then judged by a ledger that no death takes back. Raises PartFailedError.
    """
    async with _conductor(url, setting, faulty=dies_after is not None) as conductor:
        team = team_of(setting)
        victim = team.victim(setting)
        return await conductor.play(
            [
                conductor.in_a_process(workers, number, dies_after if number == victim else None)
                for number in range(team.size(setting))
            ]
        )


@asynccontextmanager
async def _conductor(url: str, setting: Setting, *, faulty: bool = False) -> AsyncGenerator[_Conductor, None]:
    with TemporaryDirectory(prefix="tertulia-compare-") as folder:
        async with await connect(url) as space:
            yield _Conductor(space, url, setting, Path(folder) / "ledger" if faulty else None)


class _Conductor:
    """Gives the signs, and gathers the sheets."""

    def __init__(self, space: Space, url: str, setting: Setting, ledger: Path | None) -> None:
        self._space = space
        self._url = url
        self._setting = setting
        self._ledger = ledger
        self._ledgered = 0  # bytes, when last looked at

    # --- parts ---

    def _task(self, number: int, dies_after: int | None = None) -> Task:
        ledger = None if self._ledger is None else str(self._ledger)
        return Task(url=self._url, setting=self._setting, number=number, ledger=ledger, dies_after=dies_after)

    async def in_this_process(self, number: int) -> Sheet:
        """Do a part as a task."""
        try:
            return await play_part(self._task(number))
        except Exception as error:
            raise PartFailedError(number, f"{type(error).__name__}: {error}") from error

    async def in_a_process(self, workers: Workers, number: int, dies_after: int | None) -> Sheet:
        """Do a part in another process, and in one more if that one dies as it was told to."""
        sheet = await self._process(workers, self._task(number, dies_after))
        if sheet is None and dies_after is not None:
            sheet = await self._process(workers, self._task(number))
        if sheet is None:
            raise PartFailedError(number, "it was killed")
        return sheet

    async def _process(self, workers: Workers, task: Task) -> Sheet | None:
        """Return the sheet of a part, None when it was killed."""
        try:
            answer = await workers.call(f"part {task.number}", PLAY_PART, msgspec.json.encode(task))
        except AgentFailedError as failed:
            raise PartFailedError(task.number, failed.traceback) from failed
        return None if answer is None else msgspec.json.decode(answer, type=Sheet)

    # --- the run ---

    async def play(self, parts: Sequence[Coroutine[Any, Any, Sheet]]) -> Played:
        """Let the parts do their work, and judge it."""
        running = {asyncio.ensure_future(part): number for number, part in enumerate(parts)}
        try:
            await self._until_ready(running)
            await say_go(self._space)
            team = team_of(self._setting)
            working = [task for task, number in running.items() if team.ends_by_itself(self._setting, number)]
            stuck = await self._until_done(working, running)
            await say_over(self._space)
            stuck += await self._until_done(list(running), running)
            return await self._played([task.result() for task in running if not task.cancelled()], stuck)
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)

    async def _until_ready(self, running: dict[asyncio.Task[Sheet], int]) -> None:
        ready = asyncio.ensure_future(all_ready(self._space, len(running)))
        try:
            async with asyncio.timeout(STARTING):
                await asyncio.wait((ready, *running), return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                _raise_first(running)
                raise PartFailedError(0, "it ended before it began")
        finally:
            ready.cancel()

    async def _until_done(self, awaited: Sequence[asyncio.Task[Sheet]], running: dict[asyncio.Task[Sheet], int]) -> int:
        """Wait for these parts, end those that do not come to an end, and return how many these were.

        Nobody is waited for longer than PATIENCE after the last of the others was done, or an effect was written down.
        """
        pending = {task for task in awaited if not task.done()}
        while pending:
            done, pending = await asyncio.wait(
                {*pending, *(task for task in running if not task.done())},
                timeout=self._patience(),
                return_when=asyncio.FIRST_COMPLETED,
            )
            _raise_first(running)
            pending &= set(awaited)
            if not done and not self._progressed():
                for task in pending:
                    task.cancel()
                await asyncio.wait(pending)
                return len(pending)
        return 0

    def _progressed(self) -> bool:
        """Tell whether any effect was written down since this was last asked; it is not where nothing is."""
        before = self._ledgered
        if self._ledger is not None and self._ledger.exists():
            self._ledgered = self._ledger.stat().st_size
        return self._ledgered > before

    def _patience(self) -> float:
        """Return how long nobody may be done: the work of a whole run, and what a killed agent held."""
        return PATIENCE if self._ledger is not None else 3 * PATIENCE

    async def _played(self, sheets: list[Sheet], stuck: int) -> Played:
        outcome = Outcome(self._space, self._setting, tuple(sheets), self._lines())
        return Played(
            sheets=outcome.sheets,
            judged=await JUDGES[self._setting.use_case](outcome),
            seconds=max((sheet.ended for sheet in sheets), default=0)
            - min((sheet.began for sheet in sheets), default=0),
            stuck=stuck,
        )

    def _lines(self) -> Counter[str] | None:
        """Return how often each unit is in the ledger, if there is one."""
        if self._ledger is None:
            return None
        return Counter(self._ledger.read_text(encoding="utf-8").splitlines() if self._ledger.exists() else ())


def _raise_first(running: dict[asyncio.Task[Sheet], int]) -> None:
    """Raise the error of a part that has failed."""
    for task in running:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise error
