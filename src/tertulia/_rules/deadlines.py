"""How deadlines are inherited."""

from __future__ import annotations


def request_deadline(now: float, timeout: float, inherited: float | None) -> float:
    """Return when a request ends: after its own timeout, or when the request that caused it does."""
    own = now + timeout
    return own if inherited is None else min(own, inherited)
