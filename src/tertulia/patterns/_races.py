"""Trying again what somebody else was faster at, with a bound."""

from __future__ import annotations

from tertulia.errors import ConflictError

MAX_RACES = 1_000  # lost in a row; somebody wins each, so losing so often means a fault elsewhere


def lost(what: str) -> ConflictError:
    """Return the error for something that changed so often under a call that it gives up."""
    return ConflictError(f"{what} changed {MAX_RACES:,} times in a row under this call")
