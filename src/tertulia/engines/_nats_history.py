"""The latest changes of keys, beside the stream, which keeps only the last state of each.

Whoever writes a key sends the change to a small stream of its own, without waiting. A watch that resumes needs it where
a key was written more than once meanwhile. Every change names the one before it, so an entry that is missing, because
its writer died at that very moment, is noticed: the watch is told that it lags, never left with a gap.
"""

from __future__ import annotations

import msgspec

from tertulia._background import logger
from tertulia.engines._nats_format import Entry, KeyState, encode, key_state, read_entry
from tertulia.engines._nats_store import Store
from tertulia.engines._nats_wire import Unanswered
from tertulia.errors import SpaceClosedError, ValueTooLargeError

MAX_BYTES = 64 * 2**20  # of changes kept by the server, in memory

Written = tuple[str, int, bytes]


class History:
    """The history of a space; with `size` 0 there is none."""

    def __init__(self, store: Store, size: int) -> None:
        self._store = store
        self._subject = store.subjects.history
        self._stream = store.subjects.history_stream
        self._size = size

    async def add(self, changes: tuple[Written, ...]) -> None:
        """Send changes that are committed: key, revision and state as it is stored."""
        if not self._size or not changes:
            return
        entry = Entry(tuple([(key, revision, msgspec.Raw(data)) for key, revision, data in changes]))
        try:
            await self._store.wire.publish(self._subject, encode(entry))
        except ValueTooLargeError:
            for change in changes if len(changes) > 1 else ():
                await self.add((change,))
        except (Unanswered, SpaceClosedError):
            logger.debug("a change was not added to the history", exc_info=True)

    async def after(self, revision: int) -> dict[int, tuple[str, KeyState]]:
        """Return the changes after a revision that are kept."""
        if not self._size:
            return {}
        found: dict[int, tuple[str, KeyState]] = {}
        for one in await self._store.after(0, self._subject, stream=self._stream):
            for key, seq, data in read_entry(one.data).changes:
                if seq > revision:
                    found[seq] = (key, key_state(key, data))
        return found
