"""What a watch missed: from the stream, and from the history where a key was written more than once meanwhile.

The stream is waited for as long as it takes, because nobody else has what it has. The history is not: it may have no
leader though the stream has one, and then the watch says that it misses something, so that whoever watches can go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from msgspec import Struct

from tertulia._background import logger
from tertulia.engines._nats_format import KeyState, key_state
from tertulia.engines._nats_history import History
from tertulia.engines._nats_store import Store
from tertulia.errors import EngineUnavailableError

NO_HISTORY = 10.0  # seconds that only the history cannot be read until it is given up: to elect a leader takes 4 to 9
REMEMBERED = 10_000  # keys of a watch; of what is beyond it only older changes could be left out unnoticed

News = tuple[int, str, KeyState]


class Had:
    """The last change of each key that a watch has had. What is not remembered was at `floor`, or before.

    Every change names the one before it of its key, so one that was left out is missed when the next one comes,
    whatever a replica had said that it has.
    """

    __slots__ = ("_last", "floor")

    def __init__(self, floor: int = 0) -> None:
        self.floor = floor
        self._last: dict[str, int] = {}

    def add(self, key: str, seq: int) -> None:
        """Remember a change."""
        last = self._last
        last.pop(key, None)
        last[key] = seq
        if len(last) > REMEMBERED:
            self.floor = max(self.floor, last.pop(next(iter(last))))

    def has(self, key: str, seq: int) -> bool:
        """Tell whether the watch has had a change, or begins after it."""
        return seq <= self._last.get(key, self.floor)

    def follows(self, key: str, prev: int) -> bool:
        """Tell whether what comes after a change (0: after nothing) comes next for the watch."""
        last = self._last.get(key)
        return prev == 0 or (prev <= self.floor if last is None else prev == last)


class Known(Struct, frozen=True):
    """What a watch has had: all up to `whole`, nothing after `newest`, and of keys what `had` says."""

    whole: int
    newest: int
    had: Had


class Missed:
    """Reads for one watch what it missed."""

    def __init__(
        self, pattern: str, subjects: str, matches: Callable[[str], object], store: Store, history: History
    ) -> None:
        self._pattern = pattern
        self._filter = subjects
        self._matches = matches
        self._store = store
        self._history = history
        self._since: float | None = None  # since when it is only the history that cannot be read
        self.given_up = False  # the history, in the last look: to look once more is of no use

    async def after(self, known: Known, fed: Iterable[News], revision: int, *, with_history: bool) -> list[News] | None:
        """Return the changes that are not known, in order, up to a revision or later, or None when some are missing.

        With several replicas up to that revision, and what was read of later ones only tells what is missing before it:
        the feed brings them, and they may lack what their writers have not sent to the history yet.
        `fed`: what the feed has brought by the time that all is read. Raises EngineUnavailableError.
        """
        self.given_up = False
        found = await self._stored(known.whole, revision)
        if with_history:
            found |= await self._kept(known.whole)
        upto = max(found, default=revision) if self._store.single else revision
        fed = list(fed)
        later = [(key, state) for seq, (key, state) in found.items() if seq > upto]
        later += [(key, state) for seq, key, state in fed if seq > upto]
        found = {seq: one for seq, one in found.items() if seq <= upto}
        found |= {seq: (key, state) for seq, key, state in fed if known.whole < seq <= upto}
        for key, state in later:
            if known.whole < state.prev <= upto and state.prev not in found and not known.had.has(key, state.prev):
                return None  # what was read has neither the last of a key nor the one before it
        news: list[News] = []
        last: dict[str, int] = {}
        for seq in sorted(found):
            key, state = found[seq]
            if known.had.has(key, seq):
                continue
            follows = state.prev in (0, last[key]) if key in last else known.had.follows(key, state.prev)
            if not follows or seq < known.newest:
                return None
            last[key] = seq
            news.append((seq, key, state))
        return news

    async def _stored(self, whole: int, revision: int) -> dict[int, tuple[str, KeyState]]:
        """Return the last changes of keys, where they are new."""
        try:
            stored = await self._store.after(whole, self._filter, reach=revision)
        except EngineUnavailableError:
            self._since = None
            raise
        keys = [(one.seq, self._store.subjects.key_of(one.subject), one.data) for one in stored]
        return {seq: (key, key_state(key, data)) for seq, key, data in keys if self._matches(key)}

    async def _kept(self, whole: int) -> dict[int, tuple[str, KeyState]]:
        """Return what the history has that is new; nothing, once it could not be read for long."""
        started = asyncio.get_running_loop().time()
        try:
            kept = await self._history.after(whole)
        except EngineUnavailableError:
            self._since = self._since or started
            if asyncio.get_running_loop().time() - self._since < NO_HISTORY:
                raise
            logger.warning("the history, which the watch on %s would need, cannot be read", self._pattern)
            self.given_up = True
            return {}
        self._since = None
        return {seq: one for seq, one in kept.items() if self._matches(one[0])}
