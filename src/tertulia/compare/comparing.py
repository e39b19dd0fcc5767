"""Compares: the report team, the use cases, what a death costs, and recorded conversations; what is asked for of it.

What is found is kept as it comes, so that whoever stops it early still has it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime
from math import isinf
from statistics import median
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from tertulia.compare import runner
from tertulia.compare.budget import Budget, LeftOut
from tertulia.compare.comparison import Comparison, stages_in, tables_of
from tertulia.compare.environment import describe_environment
from tertulia.compare.places import ENGINES, FreshSpace
from tertulia.compare.replay import REPLAYS, Replayed, replay
from tertulia.compare.results import Spread
from tertulia.compare.runner import Outcome, Settings
from tertulia.compare.sizes import QUICK, Size, points_of
from tertulia.compare.stages import AgentsAs, Stage
from tertulia.compare.traces import Conversation
from tertulia.compare.use_cases.dying import Death, deaths, deaths_of
from tertulia.compare.use_cases.measuring import Plan, measure
from tertulia.compare.use_cases.planning import Planner
from tertulia.compare.use_cases.points import Point
from tertulia.compare.workers import Workers
from tertulia.selection.profile import Cell, Faults
from tertulia.selection.requirement import Paradigm, UseCase

__all__ = ["Findings", "Progress", "Wanted", "compare_all"]


class Wanted(Struct, frozen=True, kw_only=True):
    """What to compare: whatever is None or empty is left out. `server`: the URL for engines that need one."""

    stages: tuple[Stage, ...]
    report: Settings | None = None
    use_cases: tuple[UseCase, ...] = ()
    size: Size = QUICK
    faults: bool = True
    conversations: tuple[Conversation, ...] = ()
    server: str = ""


class Progress(runner.Progress, Protocol):
    """Who wants to know how far all of it is."""

    def points(self, count: int) -> None:
        """So many points are going to be measured."""
        ...

    def point(self, point: Point, paradigms: Sequence[Paradigm]) -> None:
        """The runs of a point begin."""
        ...

    def measured(self, cell: Cell) -> None:
        """A way is measured at a point."""
        ...

    def death(self, death: Death) -> None:
        """Somebody is going to die in a team that does its work in this way."""
        ...

    def replaying(self, stage: Stage, conversation: Conversation) -> None:
        """A conversation is going to be replayed."""
        ...


class Findings:
    """What was found so far, within which time."""

    def __init__(self, budget: Budget | None = None) -> None:
        self.budget = budget or Budget()
        self.left_out: list[LeftOut] = []
        self.environment = describe_environment()  # before this work is a load itself
        self.report: Callable[[], Outcome] | None = None
        self.cells: list[Cell] = []
        self.faults: dict[Death, Faults] = {}
        self.replays: list[Replayed] = []

    def __bool__(self) -> bool:
        return bool(self.report or self.cells or self.replays)

    def outcome(self) -> Outcome | None:
        """Return the report team's outcome, of all rounds that are done."""
        return None if self.report is None else self.report()

    def comparison(self, *, complete: bool) -> Comparison:
        """Put it together."""
        outcome = self.outcome()
        made_at = datetime.now(UTC).isoformat(timespec="seconds")
        cells = tuple(
            replace(cell, faults=self._faults_of(cell), made_at=made_at)
            for _, _, own in stages_in(self.cells)
            for cell in own
        )
        return Comparison(
            made_at=made_at,
            complete=complete,
            environment=self.environment,
            report=None if outcome is None else outcome.result,
            cells=cells,
            tables=tables_of(cells),
            replays=tuple(self.replays),
            seconds=round(self.budget.spent(), 1),
            budget=None if isinf(self.budget.seconds) else self.budget.seconds,
            left_out=tuple(self.left_out),
        )

    def _faults_of(self, cell: Cell) -> Faults | None:
        """Return what a death cost in this way; it was a process that died."""
        if cell.agents_as != AgentsAs.processes:
            return None
        return self.faults.get(Death(cell.use_case, cell.paradigm, cell.engine))


async def compare_all(wanted: Wanted, progress: Progress, findings: Findings) -> None:
    """Compare what is wanted; whatever was found is in the findings, however this ends.

    Raises what runner.compare raises; PartFailedError for a part of a team that failed; NotDeliveredOnceError. Nothing
    of it stays on the disk or on a server, and no process is left.
    """
    if wanted.report is not None:
        report = await runner.compare(
            wanted.report, progress, lambda so_far: _keep(findings, so_far), budget=findings.budget
        )
        findings.report = report
        findings.left_out += _rounds_left_out(wanted.report.repeat, report().result.repeat)
    if not wanted.use_cases and not wanted.conversations:
        return
    async with _places(wanted) as spaces, Workers(progress.said) as workers:
        if wanted.use_cases:
            await _measure(wanted, spaces, workers, progress, findings)
        for stage in wanted.stages if wanted.conversations else ():
            await _replay(stage, wanted, spaces[stage.engine], workers, progress, findings)


def _keep(findings: Findings, report: Callable[[], Outcome]) -> None:
    findings.report = report


def _rounds_left_out(asked: int, done: int) -> list[LeftOut]:
    why = "the use cases need the rest of the time"
    return [LeftOut(what=f"report: {asked - done} of {asked} rounds", why=why)] if done < asked else []


@asynccontextmanager
async def _places(wanted: Wanted) -> AsyncGenerator[Mapping[str, FreshSpace]]:
    """Have fresh spaces on every engine that is wanted."""
    async with AsyncExitStack() as stack:
        yield {
            stage.engine: await stack.enter_async_context(ENGINES[stage.engine].open(wanted.server))
            for stage in {stage.engine: stage for stage in wanted.stages}.values()
        }


# --- Use cases -----------------------------------------------------------------------------------


async def _measure(
    wanted: Wanted, spaces: Mapping[str, FreshSpace], workers: Workers, progress: Progress, findings: Findings
) -> None:
    """Measure what is needed to say anything, then what a death costs, and with what is left of the time the rest."""
    size = wanted.size
    points = points_of(wanted.stages, wanted.use_cases, size)
    planner = Planner(points, findings.budget)
    needed = tuple(point for point in points if planner.is_needed(point))
    progress.points(len(points))

    async def measured(some: tuple[Point, ...]) -> None:
        plan = Plan(points=some, spaces=spaces, seconds=size.seconds, repeat=size.repeat)
        found = measure(plan, workers, progress, planner=planner, left_out=findings.left_out.append)
        async with aclosing(found) as cells:
            async for cell in cells:
                findings.cells.append(cell)

    await measured(needed)
    if wanted.faults:
        await _kill(wanted, spaces, workers, progress, findings)
    await measured(points[len(needed) :])


async def _kill(
    wanted: Wanted, spaces: Mapping[str, FreshSpace], workers: Workers, progress: Progress, findings: Findings
) -> None:
    shared = [stage.engine for stage in wanted.stages if stage.agents is AgentsAs.processes]
    killed = deaths_of(wanted.use_cases, shared)
    found = deaths(killed, spaces, workers, begun=progress.death, in_time=lambda: findings.budget.left() > 0)
    async with aclosing(found) as judged:
        async for death, faults in judged:
            if faults is not None:
                findings.faults[death] = faults
                continue
            way = f"{death.use_case.value.replace('_', ' ')} by {death.paradigm.value}"
            what = f"{death.engine}, processes: {way}, with one who is killed"
            findings.left_out.append(LeftOut(what=what, why="the time was over"))


# --- Recorded conversations ----------------------------------------------------------------------


async def _replay(
    stage: Stage, wanted: Wanted, fresh: FreshSpace, workers: Workers, progress: Progress, findings: Findings
) -> None:
    """Replay each conversation through each paradigm in turns; the first one once more before, unmeasured."""
    used = workers if stage.agents is AgentsAs.processes else None

    async def once(conversation: Conversation, paradigm: Paradigm) -> Replayed:
        async with fresh() as url:
            return await replay(url, conversation, paradigm, workers=used)

    for paradigm in REPLAYS:
        await once(wanted.conversations[0], paradigm)
    for conversation in wanted.conversations:
        progress.replaying(stage, conversation)
        runs: dict[Paradigm, list[Replayed]] = {paradigm: [] for paradigm in REPLAYS}
        for number in range(wanted.size.repeat):
            for paradigm in sorted(REPLAYS, key=_name, reverse=number % 2 == 0):
                runs[paradigm].append(await once(conversation, paradigm))
        findings.replays += [_usual(stage, own) for own in runs.values()]


def _name(paradigm: Paradigm) -> str:
    return paradigm.value


def _usual(stage: Stage, runs: Sequence[Replayed]) -> Replayed:
    """Return the medians of several runs of one conversation through one paradigm."""
    return replace(
        runs[0],
        engine=stage.engine,
        agents_as=stage.agents.value,
        seconds=median(run.seconds for run in runs),
        p50=median(run.p50 for run in runs),
        p50_spread=Spread.of([run.p50 for run in runs]).quartiles,
        bytes_written=int(median(run.bytes_written for run in runs)),
        bytes_read={agent: int(median(run.bytes_read[agent] for run in runs)) for agent in runs[0].bytes_read},
    )
