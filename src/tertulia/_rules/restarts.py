"""When a process that died is started again, and when there is no use in it."""

from __future__ import annotations

FIRST_DELAY = 0.1  # a process that was killed by chance is missed for no longer than it takes to start
MAX_DELAY = 10.0  # by then whatever it needs is really absent; looking six times a minute burns nothing
STEADY = 30.0  # seconds; who has run so long was well, so that its death is a new one and not one of a row


def deaths_in_a_row(before: int, ran: float) -> int:
    """Return how many deaths in a row this one makes, of a process that ran for so many seconds."""
    return 1 if ran >= STEADY else before + 1


def restart_delay(deaths: int) -> float:
    """Return the seconds to wait after so many deaths in a row: twice as long each time, up to MAX_DELAY."""
    return min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(deaths - 1, 32))
