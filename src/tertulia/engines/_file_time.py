"""The time of a space that processes share: a clock that does not jump and that all of them read alike."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from tertulia._clock import Clock, SystemClock

UNKNOWN_BOOT = "unknown"
GIVEN = "given"  # a clock of the caller's own: what it shows says nothing about this machine


class FileClock:
    """Civil time, and the shared time that leases and delays in the file are measured on.

    `boot` says since when the shared time counts: it means nothing to a machine that was started again since.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.time = clock.time
        self.monotonic = clock.monotonic
        given = not isinstance(clock, SystemClock)
        self.now: Callable[[], float] = clock.monotonic if given else _since_boot()
        self.boot = GIVEN if given else _boot_id()

    def in_process(self, shared: float) -> float:
        """Return an instant of the shared time on the clock's own monotonic scale."""
        return shared - self.now() + self.monotonic()


def _since_boot() -> Callable[[], float]:
    for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"):  # the second one stands still while a laptop sleeps
        number = getattr(time, name, None)
        if number is not None:
            return lambda: time.clock_gettime(number)
    return time.monotonic


def _boot_id() -> str:
    if sys.platform == "linux":
        try:
            return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        except OSError:
            return UNKNOWN_BOOT
    return UNKNOWN_BOOT
