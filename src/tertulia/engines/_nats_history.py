"""The latest changes of keys, beside the stream, which keeps only the last state of each.

Whoever writes a key sends the change to a small stream of its own, without waiting; one that is large is not kept. A
watch that resumes needs it where a key was written more than once meanwhile. Every change names the one before it, so
an entry that is missing, because its writer died at that very moment, is noticed: the watch is told that it lags, never
left with a gap.
"""

from __future__ import annotations

import msgspec

from tertulia._background import logger
from tertulia.engines._nats_format import Entry, KeyState, encode, key_state, read_entry
from tertulia.engines._nats_store import Store
from tertulia.engines._nats_wire import Unanswered
from tertulia.errors import SpaceClosedError

MAX_ENTRY = 64 * 1024  # bytes of a change that is kept: a thousand of them are 64 MiB of the server's memory at most

Written = tuple[str, int, bytes]


class History:
    """The history of a space; with `size` 0 there is none. Not `readable`: this handle may only add to it."""

    def __init__(self, store: Store, size: int, *, readable: bool) -> None:
        self._store = store
        self._readable = readable
        self._subjects = store.subjects
        self._stream = store.subjects.history_stream
        self._size = size

    @property
    def is_kept(self) -> bool:
        """Whether there is one to read."""
        return self._size > 0 and self._readable

    async def add(self, changes: tuple[Written, ...]) -> None:
        """Send changes that are committed: key, revision and state as it is stored."""
        if not self._size:
            return
        for key, revision, state in changes:
            data = encode(Entry(key, revision, msgspec.Raw(state)))
            if len(data) > MAX_ENTRY:
                continue
            try:
                await self._store.wire.publish(self._subjects.changes(key), data)
            except (Unanswered, SpaceClosedError):
                logger.debug("a change was not added to the history", exc_info=True)

    async def after(self, revision: int) -> dict[int, tuple[str, KeyState]]:
        """Return the changes after a revision that are kept."""
        if not self.is_kept:
            return {}
        found: dict[int, tuple[str, KeyState]] = {}
        for one in await self._store.after(0, self._subjects.all_changes, stream=self._stream):
            entry = read_entry(one.data)
            if entry.revision > revision and one.subject == self._subjects.changes(entry.key):
                found[entry.revision] = (entry.key, key_state(entry.key, entry.state))
        return found
