"""Futures that wait in queues to be woken, by mailbox."""

from __future__ import annotations

import asyncio
from collections import deque

Waiters = dict[str, deque[asyncio.Future[bool]]]


def wake_one(queue: deque[asyncio.Future[bool]] | None) -> bool:
    """Wake the longest-waiting of a queue, if anybody waits; return whether somebody did."""
    while queue:
        waiter = queue.popleft()
        if not waiter.done():
            waiter.set_result(True)
            return True
    return False


def wake_all(queue: deque[asyncio.Future[bool]] | None) -> None:
    """Let everybody in a queue look again."""
    while queue:
        wake_one(queue)
