"""A bound for what a task does, by the space's clock, so that it can be turned by hand in tests."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from tertulia._clock import Clock, TimerHandle


class Deadline:
    """`async with Deadline(clock, until)`: past that monotonic instant the block is cancelled with TimeoutError.

    As asyncio.timeout, but by a Clock; None means no bound. A cancellation from elsewhere stays one.
    """

    def __init__(self, clock: Clock, until: float | None) -> None:
        self._clock = clock
        self._until = until
        self._timer: TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._cancellations = 0
        self._rung = False

    async def __aenter__(self) -> Self:
        if self._until is not None:
            self._task = asyncio.current_task()
            assert self._task is not None  # noqa: S101 - a coroutine always runs in a task
            self._cancellations = self._task.cancelling()
            self._timer = self._clock.call_later(self._until - self._clock.monotonic(), self._ring)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if (
            self._rung
            and self._task is not None
            and self._task.uncancel() <= self._cancellations
            and isinstance(error, asyncio.CancelledError)
        ):
            raise TimeoutError from error

    def _ring(self) -> None:
        self._rung = True
        assert self._task is not None  # noqa: S101 - set before the timer is
        self._task.cancel()
