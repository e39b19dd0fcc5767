"""Watches of the in-process engine: the changes that are still kept, and those who wait for more."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

from tertulia._names import key_matcher
from tertulia.engines.base import Change, Record
from tertulia.errors import WatchLaggedError
from tertulia.records import ChangeKind

HISTORY_CHANGES = 10_000  # what a watch can resume over: minutes of a busy team
HISTORY_BYTES = 64 * 2**20  # and its bound in memory, whatever the values' sizes
WATCH_BUFFER = 10_000  # changes that a slow watcher may lag before it is told so


class ChangeFeed:
    """The latest changes of a space, and the streams that they are pushed to.

    A put is kept as its record: most are never watched, and making a change of each would be the most of a write.
    """

    def __init__(self) -> None:
        self.history: deque[Record | Change] = deque()
        self.history_bytes = 0
        self.forgotten = 0
        self.exact: dict[str, list[WatchStream]] = {}
        self.patterns: list[WatchStream] = []

    def announce_put(self, record: Record) -> None:
        """Keep a committed put, and push it to who watches its key."""
        history = self.history
        history.append(record)
        self.history_bytes += len(record.body)
        if len(history) > HISTORY_CHANGES:  # the usual case of a space that has been in use for a while
            gone = history.popleft()
            self.forgotten = gone.revision
            if isinstance(gone, Record):
                self.history_bytes -= len(gone.body)
        if self.history_bytes > HISTORY_BYTES:
            self._forget()
        if self.exact or self.patterns:
            self._push(_change_of(record))

    def announce(self, change: Change) -> None:
        """Keep a committed delete or expiry, and push it to who watches its key."""
        self.history.append(change)
        if len(self.history) > HISTORY_CHANGES:
            self._forget()
        self._push(change)

    def since(self, revision: int) -> Iterator[Change]:
        """Return the changes after a revision that are kept."""
        for kept in self.history:
            if kept.revision > revision:
                yield kept if isinstance(kept, Change) else _change_of(kept)

    def _push(self, change: Change) -> None:
        for stream in self.exact.get(change.key, ()):
            stream.push(change)
        for stream in self.patterns:
            if stream.matches(change.key):
                stream.push(change)

    def _forget(self) -> None:
        """Let the oldest changes go until both bounds are kept."""
        while len(self.history) > HISTORY_CHANGES or self.history_bytes > HISTORY_BYTES:
            gone = self.history.popleft()
            self.forgotten = gone.revision
            if isinstance(gone, Record):
                self.history_bytes -= len(gone.body)


def _change_of(record: Record) -> Change:
    return Change(ChangeKind.PUT, record.key, record.revision, record.updated, record)


class WatchStream:
    """A watch: its own bounded buffer, filled by commits and emptied by one reader."""

    def __init__(self, pattern: str, feed: ChangeFeed, siblings: set[WatchStream]) -> None:
        self.pattern = pattern
        self.matches = key_matcher(pattern)
        self._feed = feed
        self._siblings = siblings
        self._buffer: deque[Change] = deque()
        self._last: int | None = None
        self._lagged = False
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None
        self._place = feed.exact.setdefault(pattern, []) if self.matches == pattern.__eq__ else feed.patterns
        self._place.append(self)
        siblings.add(self)

    def replay(self, after: int, revision: int) -> None:
        """Start with the changes after a revision, or with the news that some of them are gone."""
        self._last = after
        if after < self._feed.forgotten or after > revision:
            self._lagged = True
            return
        self._buffer.extend(change for change in self._feed.since(after) if self.matches(change.key))

    def push(self, change: Change) -> None:
        if self._lagged:
            return
        if len(self._buffer) >= WATCH_BUFFER:
            self._lagged = True
        else:
            self._buffer.append(change)
        self._wake()

    def _wake(self) -> None:
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
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        change = self._buffer.popleft()
        self._last = change.revision
        return change

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._siblings.discard(self)
        self._place.remove(self)
        if not self._place and self._place is not self._feed.patterns:
            del self._feed.exact[self.pattern]
        self._buffer.clear()
        self._wake()
