"""Watches on a file: each reads the log of changes from where it is, whenever it is woken."""

from __future__ import annotations

import asyncio
from collections import deque

from tertulia._names import key_matcher
from tertulia.engines._file_format import FAILURES, HISTORY_CHANGES, Execute, translated, unpack_change
from tertulia.engines.base import Change
from tertulia.errors import WatchLaggedError

BATCH = 64  # changes read at once: under a millisecond for usual values


class WatchStream:
    """A watch. It keeps its place in the log, so that what it has not read yet takes no memory."""

    def __init__(
        self, pattern: str, execute: Execute, after: int, siblings: set[WatchStream], *, resumed: bool
    ) -> None:
        self.pattern = pattern
        self.matches = key_matcher(pattern)
        self._execute = execute
        self._cursor = after
        self._last: int | None = after if resumed else None
        self._siblings = siblings
        self._buffer: deque[Change] = deque()
        self._lagged = False
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None
        siblings.add(self)

    def check_start(self, revision: int) -> None:
        """Note whether changes after the start are gone, or have yet to happen."""
        self._lagged = self._cursor > revision or self._cursor < revision - HISTORY_CHANGES

    def wake(self) -> None:
        """Let a reader that waits look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> WatchStream:
        return self

    async def __anext__(self) -> Change:
        while not self._buffer:
            if self._closed:
                raise StopAsyncIteration
            if self._lagged:
                raise WatchLaggedError(self.pattern, self._last)
            if not self._read():
                await self._wait()
        change = self._buffer.popleft()
        self._last = change.revision
        return change

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _read(self) -> bool:
        """Read on in the log; return whether there was anything."""
        try:
            found = self._execute(
                "SELECT revision, kind, crc, meta, body FROM changes WHERE revision > ? ORDER BY revision LIMIT ?",
                (self._cursor, BATCH),
            ).fetchall()
        except FAILURES as error:
            raise translated(error, "the log of changes") from error
        for row in found:
            if row[0] != self._cursor + 1:
                self._lagged = True
                break
            change = unpack_change(*row)
            self._cursor = row[0]
            if self.matches(change.key):
                self._buffer.append(change)
        return bool(found)

    async def aclose(self) -> None:
        """Stop watching; a reader that waits sees the end."""
        self._closed = True
        self._siblings.discard(self)
        self._buffer.clear()
        self.wake()
