"""Time that the processes of a space share: leases and delays end by the server's clock, whatever a machine's shows."""

from __future__ import annotations

from datetime import datetime

from tertulia._clock import SYSTEM_CLOCK, Clock


class SharedTime:
    """Seconds since the epoch as the server counts them, on a clock that does not jump.

    A clock that was injected, for a test, is taken at its word.
    """

    def __init__(self, clock: Clock) -> None:
        self._monotonic = clock.monotonic
        self._base = clock.time() - clock.monotonic()
        self._injected = clock is not SYSTEM_CLOCK

    def learn(self, server: str, started: float) -> None:
        """Take in the server's time, as an answer has it that was asked for at `started` (monotonic)."""
        if not self._injected:
            asked = (started + self._monotonic()) / 2
            self._base = datetime.fromisoformat(server).timestamp() - asked

    def now(self) -> float:
        """Return the present instant."""
        return self._monotonic() + self._base

    def in_process(self, instant: float) -> float:
        """Return an instant on the process's monotonic clock."""
        return instant - self._base
