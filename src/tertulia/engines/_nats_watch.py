"""Watches: live from the feed, and from the stream and the history where the feed was interrupted.

Every change names the one before it of its key. So a watch sees at once when it missed one, reads what it missed, and
says so where that is not kept any more. With several replicas a change may be committed and not fed, when the leader
changes at that moment; therefore such a watch also looks by itself, every second.

A watch waits for the stream as long as it takes, and not for the history: see `_nats_missed.py`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any

from tertulia._background import Background, logger
from tertulia._names import is_pattern, key_matcher, literal_prefix
from tertulia.engines._nats_format import LIVE, KeyState, key_state
from tertulia.engines._nats_history import History
from tertulia.engines._nats_keys import KEEP_GONE, Keys
from tertulia.engines._nats_missed import Had, Known, Missed, News
from tertulia.engines._nats_store import Store
from tertulia.engines._nats_subscription import Subscription
from tertulia.engines.base import Change
from tertulia.errors import EngineError, EngineUnavailableError, TertuliaError, WatchLaggedError

WATCH_BUFFER = 10_000  # changes that a slow watcher may lag before it is told so
LOOK = 1.0  # seconds between looks for what the feed left out, where it may
RETRIES = 5  # looks for what is missing, while its writer may still be sending it to the history
RETRY = 0.05  # seconds between them, doubling
AGAIN = 0.1  # seconds between tries to resume, each of which waits for the server itself
BACK = 100  # such tries for which a leader may have less than was seen before: ten seconds
WATCHED_ENDS = 1_000  # keys that were there before a watch whose ends it looks after: what one request reads


class WatchStream:
    """A watch: its own bounded buffer, filled by the feed and emptied by one reader.

    All changes up to `_whole` are in the buffer, or were; of later ones, those in `_had`.
    """

    def __init__(
        self,
        pattern: str,
        store: Store,
        keys: Keys,
        history: History,
        background: Background,
        siblings: set[WatchStream],
    ) -> None:
        self.pattern = pattern
        self.matches = key_matcher(pattern)
        subjects = store.subjects
        self._filter = subjects.keys(literal_prefix(pattern)) if is_pattern(pattern) else subjects.key(pattern)
        self._store = store
        self._keys = keys
        self._history = history
        self._missed = Missed(pattern, self._filter, self.matches, store, history)
        self._background = background
        self._siblings = siblings
        self._subscription: Subscription | None = None
        self._buffer: deque[Change] = deque()
        self._pending: list[News] | None = []
        self._whole = 0
        self._newest = 0
        self._had = Had()
        self._last: int | None = None
        self._error: Exception | None = None
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None
        self._work: asyncio.Task[Any] | None = None
        self._again = False
        self._starting = True
        self._back = 0
        self._timer: asyncio.TimerHandle | None = None

    async def start(self, after: int | None) -> None:
        """Begin with the changes after a revision, or with those committed from now on."""
        store = self._store
        self._subscription = await store.subscribe(store.subjects.fed(self._filter), self._on_fed)
        self._siblings.add(self)
        self._last = after
        revision = await store.last_sequence()
        self._whole = self._newest = self._had.floor = revision if after is None else after
        if after is not None and after != revision and (after > revision or await self._is_too_old(after)):
            self._fail(WatchLaggedError(self.pattern, after))
            return
        self._again = self._again or (after is not None and after != revision)
        if not self._again:
            self._go_live()
        await self._catch_up()
        self._starting = False
        self._background.start(self._look_after_ends(), "tertulia nats watch")
        self._look_later()

    async def _is_too_old(self, after: int) -> bool:
        """Tell whether keys may have gone since a revision without a trace: such traces are kept for an hour."""
        return await self._store.is_older(after, KEEP_GONE * 0.9, self._filter)

    # --- the feed ---

    def _on_fed(self, message: Any) -> None:
        if self._closed or self._error is not None:
            return
        subject = self._store.subjects.unfed(message.subject)
        key = self._store.subjects.key_of(subject)
        if not self.matches(key):
            return
        news = (int(message.headers["Nats-Sequence"]), key, key_state(key, message.data))
        self._store.reached = max(self._store.reached, news[0])
        if self._pending is None:
            self._take(news)
        elif len(self._pending) < WATCH_BUFFER:
            self._pending.append(news)
        else:
            self._fail(WatchLaggedError(self.pattern, self._last))

    def _take(self, news: News) -> None:
        """Take in the next change, or read what is missing before it."""
        seq, key, state = news
        if self._had.has(key, seq):
            return
        if seq <= self._whole or seq < self._newest or not self._had.follows(key, state.prev):
            self._whole = min(self._whole, self._newest)  # where it went further, a replica did not have all of it
            self._pending = [news]
            self._restart()
            return
        self._push(seq, key, state)
        if self._store.single:
            self._whole = seq  # its feed comes whole, as long as the connection holds

    def _push(self, seq: int, key: str, state: KeyState) -> None:
        self._had.add(key, seq)
        self._newest = max(self._newest, seq)
        self._keys.learn(key, seq, state)
        if state.expires is not None and state.kind == LIVE:
            self._keys.expiries.add(key, seq, state.expires)
        else:
            self._keys.expiries.drop(key)
        if len(self._buffer) >= WATCH_BUFFER:
            self._fail(WatchLaggedError(self.pattern, self._last))
            return
        self._buffer.append(state.change(key, seq))
        self._wake()

    def _go_live(self) -> None:
        """Take in what the feed brought meanwhile, and from now on as it comes."""
        pending, self._pending = self._pending or [], None
        for news in pending:
            if self._pending is None:
                self._take(news)
            else:
                self._pending.append(news)

    # --- what the feed did not bring ---

    def resume(self) -> None:
        """The feed was interrupted: read on where it was."""
        if not self._closed and self._error is None:
            if self._pending is None:
                self._pending = []
            self._restart()

    def _restart(self) -> None:
        """Read on: by whoever does so already, also while the watch begins, else by a task."""
        self._again = True
        if not self._starting and (self._work is None or self._work.done()):
            self._work = self._background.start(self._catch_up_logged(), "tertulia nats watch")

    async def _catch_up_logged(self) -> None:
        """Read on until that is done, or cannot be: then the reader is told."""
        while not self._closed:
            try:
                await self._catch_up()
            except EngineUnavailableError as error:  # as long as it takes: what is missed is kept, or said to be missed
                logger.warning("the watch on %s waits for the server: %s", self.pattern, error)
                await asyncio.sleep(AGAIN)
            except TertuliaError as error:
                if not self._closed:
                    logger.warning("the watch on %s could not be resumed: %s", self.pattern, error)
                    self._fail(error)
                return
            except Exception as error:
                self._fail(EngineError(f"the watch on {self.pattern} could not be resumed: {error!r}"))
                raise
            else:
                return

    async def _catch_up(self) -> None:
        """Read the changes after those that are known, then go on with the feed, as often as something is missing."""
        while self._again and self._error is None:
            self._again = False
            try:
                await self._read_on()
            except BaseException:
                self._again = True
                raise
            if not self._again and self._error is None:
                self._go_live()

    async def _read_on(self) -> None:
        revision = await self._store.last_sequence()
        if revision < self._whole:
            self._went_back()
            return
        self._back = 0
        news = await self._read_missed(revision)
        if news is None:
            self._fail(WatchLaggedError(self.pattern, self._last))
            return
        for seq, key, state in news:
            self._push(seq, key, state)
        self._whole = max(self._whole, revision, self._newest if self._store.single else 0)

    async def _read_missed(self, revision: int) -> list[News] | None:
        """Return what was missed up to a revision, or None when some of it is gone."""
        fed = () if self._pending is None else self._pending
        for attempt in range(RETRIES if self._history.is_kept or not self._store.single else 1):
            known = Known(self._whole, self._newest, self._had)
            news = await self._missed.after(known, fed, revision, with_history=attempt > 0)
            if news is not None or self._missed.given_up:
                return news
            await asyncio.sleep(RETRY * 2**attempt if attempt else 0.0)
        return None

    def _went_back(self) -> None:
        """Take in that the leader has less than was seen; a new one may have it in a moment.

        Else the servers have lost what they had acknowledged, and revisions may repeat.
        """
        self._back += 1
        if not self._store.single and self._back < BACK:
            raise EngineUnavailableError("the leader of the stream has not come so far")
        self._fail(WatchLaggedError(self.pattern, self._last))

    def _look_later(self) -> None:
        if not self._store.single and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(LOOK, self._look_now)

    def _look_now(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._look_later()
        if self._store.wire.connected and self._pending is None:
            self.resume()

    async def _look_after_ends(self) -> None:
        """Look after the ends of keys that were there before."""
        try:
            found = await self._store.first(self._filter, WATCHED_ENDS)
        except TertuliaError:
            logger.warning("the watch on %s did not see which keys end", self.pattern, exc_info=True)
            return
        for one in found:
            key = self._store.subjects.key_of(one.subject)
            state = key_state(key, one.data)
            if state.kind == LIVE and state.expires is not None and self.matches(key):
                self._keys.expiries.add(key, one.seq, state.expires)

    # --- the reader ---

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
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
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        change = self._buffer.popleft()
        self._last = change.revision
        if isinstance(self._error, WatchLaggedError):
            self._error = WatchLaggedError(self.pattern, self._last)
        return change

    async def aclose(self) -> None:
        """Stop watching; a reader that waits sees the end."""
        if self._closed:
            return
        self._closed = True
        self._siblings.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._buffer.clear()
        self._wake()
        if self._subscription is not None:
            await self._subscription.stop()


def resume_all(streams: Iterable[WatchStream]) -> None:
    """Let watches read on after an interruption."""
    for stream in list(streams):
        stream.resume()
