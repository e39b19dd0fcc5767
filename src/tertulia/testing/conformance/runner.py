"""Running cases, without any test framework."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tertulia.testing.conformance._expect import PromiseBrokenError
from tertulia.testing.conformance._registry import Case, cases
from tertulia.testing.conformance.harness import Harness

CASE_LIMIT = 60.0  # real seconds; the slowest case takes a few, so only a hang meets it
END_LIMIT = 2.0  # real seconds for what a closed handle was running to end


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a case ended: passed, failed with `error`, or skipped with `reason`."""

    case: Case
    error: Exception | None = None
    reason: str = ""

    @property
    def skipped(self) -> bool:
        """Whether the engine declares that it cannot keep this promise."""
        return bool(self.reason)

    @property
    def failed(self) -> bool:
        """Whether the engine broke the promise, or broke down."""
        return self.error is not None

    @property
    def passed(self) -> bool:
        """Whether the promise was kept."""
        return not self.failed and not self.skipped

    @property
    def traceback(self) -> str:
        """The failure's traceback as text, or an empty string."""
        return "" if self.error is None else "".join(traceback.format_exception(self.error))

    def raise_failure(self) -> None:
        """Raise the error of a failed case."""
        if self.error is not None:
            raise self.error


@dataclass(frozen=True)
class Report:
    """The outcomes of a run; printed, it is what a person wants to read."""

    outcomes: tuple[Outcome, ...] = field(default_factory=tuple)

    @property
    def passed(self) -> list[Outcome]:
        """The promises that were kept."""
        return [outcome for outcome in self.outcomes if outcome.passed]

    @property
    def failed(self) -> list[Outcome]:
        """The promises that were broken."""
        return [outcome for outcome in self.outcomes if outcome.failed]

    @property
    def skipped(self) -> list[Outcome]:
        """The promises that the engine declares not to make."""
        return [outcome for outcome in self.outcomes if outcome.skipped]

    @property
    def ok(self) -> bool:
        """Whether cases ran and none failed."""
        return bool(self.passed) and not self.failed

    def __str__(self) -> str:
        lines = [f"{len(self.passed)} passed, {len(self.failed)} failed, {len(self.skipped)} skipped"]
        lines += [f"skipped {outcome.case}: {outcome.reason}" for outcome in self.skipped]
        lines += [f"FAILED {outcome.case}: {outcome.case.promise}\n{outcome.traceback}" for outcome in self.failed]
        return "\n".join(lines)


async def run_case(case: Case, harness: Harness, *, limit: float = CASE_LIMIT) -> Outcome:
    """Run one case on a harness that has not been entered yet; never raises what the engine raises.

    A case that takes longer than `limit` seconds of real time failed, and so did one after whose end a closed
    handle still runs tasks.
    """
    before = asyncio.all_tasks()
    try:
        async with asyncio.timeout(limit), harness:
            reason = case.unmet(harness.capabilities)
            if not reason:
                await case.check(harness)
        await _expect_no_tasks(before)
    except Exception as error:  # noqa: BLE001 - whatever a broken engine raises is the finding
        return Outcome(case=case, error=error)
    except asyncio.CancelledError as cancelled:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # the run itself is cancelled
        error = PromiseBrokenError("a call was cancelled that nobody cancelled")
        error.__cause__ = cancelled
        return Outcome(case=case, error=error)
    finally:
        await _end(asyncio.all_tasks() - before)
    return Outcome(case=case, reason=reason)


async def run_all(
    make_harness: Callable[[], Harness], *, only: Iterable[Case] | None = None, limit: float = CASE_LIMIT
) -> Report:
    """Run every case, one after the other, each on a harness of its own.

    `only` is for a closer look at some: such a report says nothing about the others.
    """
    chosen = cases() if only is None else tuple(only)
    return Report(tuple([await run_case(case, make_harness(), limit=limit) for case in chosen]))


async def _expect_no_tasks(before: set[asyncio.Task[object]]) -> None:
    left = asyncio.all_tasks() - before
    if left:
        _, left = await asyncio.wait(left, timeout=END_LIMIT)
    if left:
        names = ", ".join(sorted(task.get_name() for task in left))
        raise PromiseBrokenError(f"closed handles still run tasks: {names}")


async def _end(tasks: set[asyncio.Task[object]]) -> None:
    """Cancel what a failed case left, so that the next one starts clean."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=END_LIMIT)
