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
    """The history of a space; with `size` 0 there is none."""

    def __init__(self, store: Store, size: int) -> None:
        self._store = store
        self._subject = store.subjects.history
        self._stream = store.subjects.history_stream
        self._size = size

    @property
    def is_kept(self) -> bool:
        """Whether there is one."""
        return self._size > 0

    async def add(self, changes: tuple[Written, ...]) -> None:
        """Send changes that are committed: key, revision and state as it is stored."""
        if not self._size or not changes:
            return
        entry = Entry(tuple([(key, revision, msgspec.Raw(data)) for key, revision, data in changes]))
        data = encode(entry)
        if len(data) > MAX_ENTRY:
            for change in changes if len(changes) > 1 else ():
                await self.add((change,))
            return
        try:
            await self._store.wire.publish(self._subject, data)
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
