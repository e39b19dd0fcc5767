"""When to try a failed message again, and when to give it up."""

from __future__ import annotations

BASE_DELAY = 0.1  # the first retry is quick: most failures that pass do so at once
MAX_DELAY = 60.0  # a minute between attempts is as patient as an agent team needs


def retry_delay(failures: int, jitter: float) -> float:
    """Return the seconds to wait after the given number of failures.

    Exponential backoff with equal jitter: half of the capped exponential delay, and `jitter` (0 to 1) of the other
    half, so that many agents that failed together do not come back together. (Brooker, "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015.)
    """
    ceiling = min(MAX_DELAY, BASE_DELAY * 2.0 ** min(failures - 1, 32))
    return ceiling / 2 + ceiling / 2 * jitter


def is_given_up(failures: int, max_attempts: int) -> bool:
    """Tell whether a message has failed as often as its mailbox's owner allows."""
    return failures >= max_attempts
