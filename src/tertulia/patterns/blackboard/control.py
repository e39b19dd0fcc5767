"""Control: runs knowledge sources one after the other, each time the one with the most to gain.

Everything that control knows is on the board: what is queued, what runs, what was chosen over what, what was dropped
and why. So several controllers in several processes can work on one board, each activation is committed once, and
whoever comes after a crash goes on from there.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum

from msgspec import Struct

from tertulia._arguments import check_count, check_seconds
from tertulia._background import logger
from tertulia._rules.agenda import Activation, Ranking, rate
from tertulia.errors import ConflictError, InvalidInputError, OutcomeUnknownError, UnknownHypothesisError
from tertulia.hypotheses import BoardAction, Hypothesis
from tertulia.patterns._deadline import Deadline
from tertulia.patterns._lease import Lease
from tertulia.patterns.blackboard._picture import Picture
from tertulia.patterns.blackboard.agenda import CONTROL, Agenda, activation_of
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
        self._picture = Picture(board)
        self._ranking = Ranking()
        self._focus: dict[str, float] = {}
        self._end: float | None = None
        self._runs = False
        self._activations = self._failed = self._dropped = 0

    async def run(
        self, *, until: Until | None = None, budget: int | None = None, deadline: float | None = None
    ) -> RunResult:
        """Run activations until there is a solution, nothing more to do, or no more to spend; return which.

        `until(board)` says whether there is a solution; by default there is one when a vote has accepted one. `budget`
        is how many activations to run at most, `deadline` for how many seconds. Several controllers may run at once:
        what one of them does wakes the others. What runs at the deadline is cancelled and given back.

        Cancellation: the activation that runs is given back; nothing of it was applied.
        """
        if budget is not None:
            check_count("budget", budget, MAX_BUDGET)
        began = self._clock.monotonic()
        end = None if deadline is None else began + check_seconds("deadline", deadline)
        if self._runs:
            raise InvalidInputError("this controller runs already; make another for the same board")
        self._end, self._runs = end, True
        self._activations = self._failed = self._dropped = 0
        try:
            async with self._picture.kept():
                ended = await self._loop(until, budget, end)
        finally:
            self._runs = False
        return RunResult(
            ended=ended,
            activations=self._activations,
            failed=self._failed,
            dropped=self._dropped,
            seconds=self._clock.monotonic() - began,
            solution=await self.board.solution(),
        )

    async def _loop(self, until: Until | None, budget: int | None, end: float | None) -> RunEnd:
        picture = self._picture
        while True:
            picture.stirred.clear()
            if await self._is_solved(until):
                return RunEnd.SOLUTION
            if budget is not None and self._activations + self._failed >= budget:
                return RunEnd.BUDGET
            if end is not None and self._clock.monotonic() >= end:
                return RunEnd.DEADLINE
            await self._queue_changed()
            if await self._run_best() or await self._others_may(end):
                continue
            if await self._is_settled():
                return RunEnd.QUIESCENCE

    async def _is_solved(self, until: Until | None) -> bool:
        if until is None:
            return bool(self._picture.accepted)
        solved = until(self.board)
        return bool(await solved if inspect.isawaitable(solved) else solved)

    # --- what there is to do ---

    async def _queue_changed(self) -> int:
        """Queue what the changed hypotheses trigger; return how many activations nobody had dealt with."""
        missing = 0
        for hypothesis in self._picture.changed():
            for source in self.sources.values():
                if self._is_triggered(source, hypothesis):
                    missing += await self._queue(activation_of(source, hypothesis))
        return missing

    def _is_triggered(self, source: KnowledgeSource, hypothesis: Hypothesis) -> bool:
        try:
            return source.is_triggered(hypothesis)
        except Exception:  # noqa: BLE001 - as of its action
            logger.exception(
                "the trigger of source %r failed on hypothesis %s of board %r",
                source.name,
                hypothesis.id,
                self.board.name,
            )
            return False

    async def _queue(self, activation: Activation) -> bool:
        """Queue an activation unless it is queued; return False if it was dealt with, as far as is known."""
        picture = self._picture
        if activation.id in picture.dealt_with:
            return False
        if activation.id not in picture.waiting and await self.agenda.queue(activation):
            picture.queued(activation)
        return True

    async def _others_may(self, end: float | None) -> bool:
        """Wait, if others do something, or should; return False when there is nothing to wait for.

        What waits for a source that nobody here has is left to others for one lease.
        """
        picture = self._picture
        if picture.is_anything_running():
            await self._is_stirred(end)
            return True
        if not picture.waiting:
            return False
        return await self._is_stirred(end) or self._is_anything_waiting() or self._is_over(end)

    async def _is_settled(self) -> bool:
        """Tell whether at one moment nothing ran, and nothing was queued for a source here, or was to be."""
        picture = self._picture
        if not await picture.read() or picture.is_anything_running() or self._is_anything_waiting():
            return False
        return not await self._queue_changed()

    def _is_anything_waiting(self) -> bool:
        return any(one.source in self.sources for one in self._picture.waiting.values())

    def _is_over(self, end: float | None) -> bool:
        return end is not None and self._clock.monotonic() >= end

    async def _is_stirred(self, end: float | None) -> bool:
        """Wait for a change, for as long as a lease lasts, or for the end; tell whether it was a change."""
        left = self._lease if end is None else min(self._lease, end - self._clock.monotonic())
        until = self._clock.monotonic() + max(left, 0.0)
        timer = self._clock.call_later(max(left, 0.0), self._picture.stirred.set)
        try:
            await self._picture.stirred.wait()
        finally:
            timer.cancel()
        return self._clock.monotonic() < until

    # --- doing it ---

    async def _run_best(self) -> bool:
        """Run or drop one activation; return whether there was one to deal with."""
        picture = self._picture
        self._rank()
        taken: set[str] = set()  # by other controllers
        while True:
            ids = self._ranking.first(
                1 + SHOWN,
                lambda one: one in picture.waiting,
                lambda one: one not in taken and not picture.is_running(one),
            )
            if not ids:
                return False
            activation, *over = (picture.waiting[one] for one in ids)
            lease = Lease(
                self.board.space,
                self.board.keys.running + activation.id,
                holder=self._name,
                seconds=self._lease,
            )
            async with lease.kept():  # from here on, so that it is given back though taking it is cancelled
                lease.ended = not await lease.take()
                revision = None if lease.ended else await self._deal_with(activation, over, lease)
            if revision is not None:
                await picture.reach(revision)
                return True
            taken.add(activation.id)

    def _rank(self) -> None:
        """Rank what was queued since the last time; everything, if what is attended to has changed."""
        picture, added = self._picture, self._picture.added()
        if picture.focus != self._focus:
            self._focus, self._ranking, added = picture.focus, Ranking(), list(picture.waiting.values())
        for one in added:
            if one.source in self.sources:
                self._ranking.add(one, self._rate(one))

    def _rate(self, activation: Activation) -> float:
        source = self.sources[activation.source]
        return rate(activation, source.benefit, source.cost, self._focus)

    async def _deal_with(self, activation: Activation, over: Sequence[Activation], lease: Lease) -> int:
        """Run or drop an activation that is held; return the revision of what became of it, 0 for nothing."""
        source = self.sources[activation.source]
        try:
            async with Deadline(self._clock, self._end):
                hypothesis = await self._hypothesis_of(activation)
                why = await self._why_not(activation, hypothesis, source)
                if hypothesis is None or why:
                    self._dropped += 1
                    self._picture.dealt(activation.id)
                    return await self.agenda.drop(activation, why)
                await self.agenda.chosen(activation, self._rate(activation), [(one, self._rate(one)) for one in over])
                ran = await self._run_source(activation, source, hypothesis, lease)
        except Exception as error:  # noqa: BLE001 - a source may do anything; the others go on
            if isinstance(error, TimeoutError) and self._is_over(self._end):
                return 0  # the run's deadline came first: whoever comes next may run it
            logger.error(
                "source %r failed on hypothesis %s of board %r",
                source.name,
                activation.hypothesis,
                self.board.name,
                exc_info=error,
            )
            self._failed += 1
            return await self.agenda.failed(activation, f"{type(error).__name__}: {error}"[:500], attempts=ATTEMPTS)
        self._activations += bool(ran)
        self._picture.dealt(activation.id)
        return ran

    async def _hypothesis_of(self, activation: Activation) -> Hypothesis | None:
        try:
            return await self.board.get(activation.hypothesis)
        except UnknownHypothesisError:
            return None

    async def _why_not(self, activation: Activation, hypothesis: Hypothesis | None, source: KnowledgeSource) -> str:
        """Return why an activation is not to be run any more; nothing if its condition still holds."""
        if hypothesis is None:
            return "the hypothesis is not on the board any more"
        if hypothesis.version != activation.version:
            return f"the hypothesis is at version {hypothesis.version} by now"
        if not source.is_triggered(hypothesis):
            return f"the hypothesis is {hypothesis.state.value}"
        if not await source.may_run(self.board, hypothesis):
            return "its precondition does not hold"
        return ""

    async def _run_source(
        self, activation: Activation, source: KnowledgeSource, hypothesis: Hypothesis, lease: Lease
    ) -> int:
        """Run a source, and commit what it drafted with the end of its activation; again if it lost a race.

        Returns the revision, 0, having run nothing, when another controller has dealt with the activation.
        """
        keys = self.board.keys
        for _ in range(MAX_RACES):
            transaction = self.board.space.transaction()
            if await transaction.read(keys.ran + activation.id, reader=CONTROL) is not None:
                return 0  # another controller was faster, before this one held it
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
            except OutcomeUnknownError:
                continue  # if it happened, it is known to have run
            else:
                lease.ended = True
                return transaction.entry(keys.ran + activation.id).revision
        raise ConflictError(f"source {source.name!r} lost {MAX_RACES} races in a row")
