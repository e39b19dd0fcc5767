"""Control: runs knowledge sources one after the other, each time the one with the most to gain.

Everything that control knows is on the board: what is queued, what runs, what was chosen over what, what was dropped
and why. So several controllers in several processes can work on one board, each activation is committed once, and
whoever comes after a crash goes on from there.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum

from msgspec import Struct

from tertulia._arguments import check_count, check_seconds
from tertulia._background import logger
from tertulia._rules.agenda import Activation, choose, rate
from tertulia.errors import ConflictError, InvalidInputError, WatchLaggedError
from tertulia.hypotheses import BoardAction, Hypothesis
from tertulia.patterns._lease import Lease
from tertulia.patterns.blackboard._records import hypothesis_of
from tertulia.patterns.blackboard.agenda import CONTROL, Agenda
from tertulia.patterns.blackboard.board import Blackboard
from tertulia.patterns.blackboard.sources import KnowledgeSource, Situation
from tertulia.records import new_id

__all__ = ["Controller", "RunEnd", "RunResult"]

DEFAULT_LEASE = 10.0  # seconds that an activation is held after its controller has died
ATTEMPTS = 3  # of an activation whose source fails; a fault that stays would otherwise run for ever
MAX_RACES = 100  # lost in a row by one activation; somebody wins each
MAX_BUDGET = 1_000_000
SHOWN = 3  # activations that are written down beside the one that was chosen

Until = Callable[[Blackboard], Awaitable[bool] | bool]


class RunEnd(StrEnum):
    """Why a run ended.

    SOLUTION: what it was to run until is so. QUIESCENCE: nobody has anything to contribute. BUDGET: as many activations
    were run as there were to be. DEADLINE: the time is over.
    """

    SOLUTION = "solution"
    QUIESCENCE = "quiescence"
    BUDGET = "budget"
    DEADLINE = "deadline"


class RunResult(Struct, frozen=True, kw_only=True):
    """How a run ended, and what this controller did in it: activations run, failed and dropped; in how many seconds."""

    ended: RunEnd
    activations: int
    failed: int
    dropped: int
    seconds: float
    solution: Hypothesis | None


class Controller:
    """Runs knowledge sources on a board: `await Controller(board, sources).run()`."""

    def __init__(self, board: Blackboard, sources: Sequence[KnowledgeSource], *, lease: float = DEFAULT_LEASE) -> None:
        self.board = board
        self.sources = {source.name: source for source in sources}
        if len(self.sources) != len(sources):
            raise InvalidInputError("two knowledge sources have the same name")
        self.agenda = Agenda(board)
        self._lease = check_seconds("lease", lease)
        self._name = f"control-{new_id()}"
        self._clock = board.space.clock
        self._seen: list[Hypothesis] = []
        self._stir = asyncio.Event()
        self._activations = self._failed = self._dropped = 0

    async def run(
        self, *, until: Until | None = None, budget: int | None = None, deadline: float | None = None
    ) -> RunResult:
        """Run activations until there is a solution, nothing more to do, or no more to spend; return which.

        `until(board)` says whether there is a solution; by default there is one when a vote has accepted one. `budget`
        is how many activations to run at most, `deadline` for how many seconds. Several controllers may run at once:
        what one of them does wakes the others.

        Cancellation: the activation that runs is given back; nothing of it was applied.
        """
        if budget is not None:
            check_count("budget", budget, MAX_BUDGET)
        began = self._clock.monotonic()
        end = None if deadline is None else began + check_seconds("deadline", deadline)
        self._activations = self._failed = self._dropped = 0
        async with self._watching():
            await self._queue_all()
            ended = await self._loop(until, budget, end)
        return RunResult(
            ended=ended,
            activations=self._activations,
            failed=self._failed,
            dropped=self._dropped,
            seconds=self._clock.monotonic() - began,
            solution=await self.board.solution(),
        )

    async def _loop(self, until: Until | None, budget: int | None, end: float | None) -> RunEnd:
        while True:
            self._stir.clear()
            if await self._is_solved(until):
                return RunEnd.SOLUTION
            if budget is not None and self._activations + self._failed >= budget:
                return RunEnd.BUDGET
            if end is not None and self._clock.monotonic() >= end:
                return RunEnd.DEADLINE
            await self._queue_seen()
            waiting = await self.agenda.waiting()
            running = await self.agenda.running()
            if await self._run_best([one for one in waiting if one.id not in running]):
                continue
            if running:
                await self._wait(end)
            elif not await self._queue_all() and await self.agenda.is_settled(self.sources.values()):
                return RunEnd.QUIESCENCE

    async def _is_solved(self, until: Until | None) -> bool:
        if until is None:
            return await self.board.solution() is not None
        solved = until(self.board)
        return bool(await solved if inspect.isawaitable(solved) else solved)

    # --- what there is to do ---

    @asynccontextmanager
    async def _watching(self) -> AsyncGenerator[None, None]:
        """Take note of changed hypotheses while the block runs."""
        watching = self.board.space.background.start(self._watch(), f"tertulia control of {self.board.name}")
        try:
            yield
        finally:
            watching.cancel()

    async def _watch(self) -> None:
        while True:
            async with self.board.space.memory.watch(self.board.keys.prefix + "*") as changes:
                try:
                    async for change in changes:
                        if change.entry is not None and change.key.startswith(self.board.keys.hypotheses):
                            self._seen.append(hypothesis_of(change.entry))
                        self._stir.set()
                except WatchLaggedError:
                    logger.info("control of board %r missed changes, and looks at the whole board", self.board.name)
                else:
                    return
            self._seen.extend(await self.board.hypotheses())
            self._stir.set()

    async def _queue_seen(self) -> None:
        seen, self._seen = self._seen, []
        for hypothesis in seen:
            await self.agenda.queue(hypothesis, self.sources.values())

    async def _queue_all(self) -> int:
        """Queue what the board as a whole triggers, such as after a crash; return how many activations were missing."""
        queued = 0
        for hypothesis in await self.board.hypotheses():
            queued += await self.agenda.queue(hypothesis, self.sources.values())
        return queued

    async def _wait(self, end: float | None) -> None:
        """Wait for a change, for a lease to run out that nobody renews, or for the end."""
        left = self._lease if end is None else min(self._lease, end - self._clock.monotonic())
        timer = self._clock.call_later(max(left, 0.0), self._stir.set)
        try:
            await self._stir.wait()
        finally:
            timer.cancel()

    # --- doing it ---

    async def _run_best(self, waiting: Sequence[Activation]) -> bool:
        """Run or drop one activation; return whether there was one to deal with."""
        focus = await self.agenda.focus()
        known = [one for one in waiting if one.source in self.sources]
        rated = choose((one, self._rate(one, focus)) for one in known)
        for place, (activation, rating) in enumerate(rated):
            lease = Lease(
                self.board.space,
                self.board.keys.running + activation.id,
                holder=self._name,
                seconds=self._lease,
            )
            if not await lease.take():
                continue  # another controller has it
            async with lease.kept():
                await self._deal_with(activation, rating, rated[place + 1 : place + 1 + SHOWN], lease)
            return True
        return False

    def _rate(self, activation: Activation, focus: dict[str, float]) -> float:
        source = self.sources[activation.source]
        return rate(activation, source.benefit, source.cost, focus)

    async def _deal_with(
        self, activation: Activation, rating: float, over: Sequence[tuple[Activation, float]], lease: Lease
    ) -> None:
        source = self.sources[activation.source]
        hypothesis = await self._still_wanted(activation, source)
        if hypothesis is None:
            return
        await self.agenda.chosen(activation, rating, over)
        try:
            ran = await self._run_source(activation, source, hypothesis, lease)
        except Exception as error:  # noqa: BLE001 - a source may do anything; the others go on
            logger.error(
                "source %r failed on hypothesis %s of board %r",
                source.name,
                activation.hypothesis,
                self.board.name,
                exc_info=error,
            )
            self._failed += 1
            await self.agenda.failed(activation, f"{type(error).__name__}: {error}"[:500], attempts=ATTEMPTS)
        else:
            self._activations += ran

    async def _still_wanted(self, activation: Activation, source: KnowledgeSource) -> Hypothesis | None:
        """Return the hypothesis of an activation whose condition still holds; drop one whose does not."""
        hypothesis = await self.board.get(activation.hypothesis)
        if hypothesis.version != activation.version:
            why = f"the hypothesis is at version {hypothesis.version} by now"
        elif not source.is_triggered(hypothesis):
            why = f"the hypothesis is {hypothesis.state.value}"
        elif not await source.may_run(self.board, hypothesis):
            why = "its precondition does not hold"
        else:
            return hypothesis
        self._dropped += 1
        await self.agenda.drop(activation, why)
        return None

    async def _run_source(
        self, activation: Activation, source: KnowledgeSource, hypothesis: Hypothesis, lease: Lease
    ) -> bool:
        """Run a source, and commit what it drafted with the end of its activation; again if it lost a race.

        Returns False, having run nothing, when another controller has dealt with the activation.
        """
        keys = self.board.keys
        for _ in range(MAX_RACES):
            transaction = self.board.space.transaction()
            if await transaction.read(keys.ran + activation.id, reader=CONTROL) is not None:
                return False  # another controller was faster, before this one held it
            transaction.require(lease.key, fence=lease.fence)
            draft = self.board.draft(transaction, source.name)
            await source.run(Situation(self.board, hypothesis, draft))
            draft.note(BoardAction.RAN, hypothesis.id, version=hypothesis.version)
            transaction.delete(keys.agenda + activation.id, requester=CONTROL)
            transaction.write(keys.ran + activation.id, "ran", owner=CONTROL)
            transaction.delete(lease.key, requester=CONTROL)
            try:
                await transaction.commit()
            except ConflictError:
                if not transaction.lost_race:
                    raise
            else:
                lease.ended = True
                return True
        raise ConflictError(f"source {source.name!r} lost {MAX_RACES} races in a row")
