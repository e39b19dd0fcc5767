"""The latest changes of keys, beside the stream, which keeps only the last state of each.

Whoever writes a key sends the change to a small stream of its own, without waiting; one that is large is not kept. A
watch that resumes needs it where a key was written more than once meanwhile. Every change names the one before it, so
an entry that is missing, because its writer died at that very moment, is noticed: the watch is told that it lags, never
left with a gap.
"""

from __future__ import annotations

import asyncio

import msgspec

from tertulia._background import Background, logger
from tertulia.engines._nats_format import Entries, Entry, KeyState, encode, key_state, read_entries
from tertulia.engines._nats_patience import Unanswered
from tertulia.engines._nats_store import Store
from tertulia.errors import SpaceClosedError

SOON = (
    0.002  # seconds until changes are sent on: writes that follow at once go first, and what they changed along with it
)
UNSENT = 100  # changes that wait for that at most: what one handle writes in a few of these moments
MAX_ENTRY = 64 * 1024  # bytes of a message with changes: a thousand of them are 64 MiB of the server's memory at most
AROUND = 640  # bytes, at most, that a change takes beside its state: the key, the revision, and what frames them


class History:
    """The history of a space; with `size` 0 there is none. Not `readable`: this handle may only add to it."""

    def __init__(self, store: Store, size: int, background: Background, *, readable: bool) -> None:
        self._store = store
        self._background = background
        self._unsent: list[tuple[str, int, bytes]] = []
        self._due: asyncio.TimerHandle | None = None
        self._readable = readable
        self._subjects = store.subjects
        self._stream = store.subjects.history_stream
        self._size = size

    @property
    def is_kept(self) -> bool:
        """Whether there is one to read."""
        return self._size > 0 and self._readable

    def add(self, key: str, revision: int, state: bytes) -> None:
        """Send a change that is committed, and its state as it is stored, in a moment: nobody's write waits for it."""
        if not self._size:
            return
        self._unsent.append((key, revision, state))
        if len(self._unsent) == UNSENT:
            self._send_soon()
        elif self._due is None:
            self._due = asyncio.get_running_loop().call_later(SOON, self._send_soon)

    def _send_soon(self) -> None:
        self._background.start(self.flush(), "tertulia nats history")

    async def flush(self) -> None:
        """Send what is not sent yet."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        unsent, self._unsent = self._unsent, []
        together: dict[str, list[Entry]] = {}
        size = 0
        for key, revision, state in unsent:
            takes = len(state) + AROUND
            if takes > MAX_ENTRY:
                continue
            if size + takes > MAX_ENTRY:
                await self._send(together)
                together, size = {}, 0
            size += takes
            entry = Entry(key, revision, msgspec.Raw(state))
            together.setdefault(self._subjects.changes(key), []).append(entry)
        await self._send(together)

    async def _send(self, together: dict[str, list[Entry]]) -> None:
        for subject, entries in together.items():
            try:
                await self._store.wire.publish(subject, encode(Entries(tuple(entries))))
            except (Unanswered, SpaceClosedError):
                logger.debug("changes were not added to the history", exc_info=True)

    async def after(self, revision: int) -> dict[int, tuple[str, KeyState]]:
        """Return the changes after a revision that are among the latest which are promised to be kept."""
        if not self.is_kept:
            return {}
        subjects = self._subjects
        found: dict[int, Entry] = {}
        for one in await self._store.after(0, subjects.all_changes, stream=self._stream):
            for entry in read_entries(one.data):
                if one.subject in (subjects.some_changes, subjects.changes_of(entry.key)):
                    found[entry.revision] = entry
        latest = sorted(found)[-self._size :]
        return {seq: (found[seq].key, key_state(found[seq].key, found[seq].state)) for seq in latest if seq > revision}
