"""The clock that everything time-dependent asks, so that tests can turn it by hand.

Two kinds of time: `time()` is civil time (seconds since the epoch, UTC) and is used for stamps and for
when a key expires; `monotonic()` never jumps and is used for leases, delays and timeouts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from math import inf
from typing import Protocol


class TimerHandle(Protocol):
    """A pending call, as `Clock.call_later` returns it."""

    def cancel(self) -> None:
        """Make sure that the callback will not run."""
        ...


class Clock(Protocol):
    """What an engine and a space need of time."""

    def time(self) -> float:
        """Return civil time, in seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Return seconds of a clock that never jumps; only differences mean something."""
        ...

    def call_later(self, delay: float, callback: Callable[[], object]) -> TimerHandle:
        """Call `callback` on the running event loop after `delay` seconds."""
        ...


class SystemClock:
    """The machine's clock."""

    __slots__ = ()

    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)

    def call_later(self, delay: float, callback: Callable[[], object]) -> TimerHandle:
        """Call `callback` on the running event loop after `delay` seconds."""
        return asyncio.get_running_loop().call_later(delay, callback)


SYSTEM_CLOCK = SystemClock()


def hold(clock: Clock) -> Callable[[], None]:
    """Note that work is under way outside the event loop, in a thread; return what notes that it ended.

    A clock that is turned by hand stands still meanwhile; to any other it means nothing.
    """
    begin: Callable[[], Callable[[], None]] | None = getattr(clock, "hold", None)
    return _nothing if begin is None else begin()


def _nothing() -> None: ...


async def sleep(clock: Clock, delay: float) -> None:
    """Wait for `delay` seconds of `clock`."""
    done = asyncio.get_running_loop().create_future()
    timer = clock.call_later(delay, lambda: done.done() or done.set_result(None))
    try:
        await done
    finally:
        timer.cancel()


class Alarm:
    """One timer for many deadlines: it rings at the earliest (`at`, monotonic), and who is rung sets it again."""

    __slots__ = ("_callback", "_clock", "_timer", "at")

    def __init__(self, clock: Clock, callback: Callable[[], None]) -> None:
        self._clock = clock
        self._callback = callback
        self.at = inf
        self._timer: TimerHandle | None = None

    def ring_at(self, when: float) -> None:
        """Ring at an instant of the monotonic clock, or earlier if that was asked for."""
        if when < self.at:
            self._set(when, when - self._clock.monotonic())

    def ring_in(self, delay: float) -> None:
        """Ring after `delay` seconds, or earlier if that was asked for."""
        self.ring_at(self._clock.monotonic() + max(delay, 0.0))

    def cancel(self) -> None:
        """Do not ring."""
        if self._timer is not None:
            self._timer.cancel()
        self.at = inf

    def _set(self, when: float, delay: float) -> None:
        self.cancel()
        self.at = when
        self._timer = self._clock.call_later(delay, self._ring)

    def _ring(self) -> None:
        self.at = inf
        self._timer = None
        self._callback()


def instant(seconds: float) -> datetime:
    """Return a time-zone-aware UTC instant for seconds since the epoch."""
    return datetime.fromtimestamp(seconds, UTC)
