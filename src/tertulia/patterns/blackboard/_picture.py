"""What a controller knows of its board: read once, and from then on kept up to date by what changes.

So a look costs what has changed since the last one, whatever the size of the board. The picture may be a moment behind:
what is done because of it is decided by commits, and that there is nothing more to do by reading the whole board.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from tertulia._background import logger
from tertulia._clock import sleep
from tertulia._codec import decode_plain, decoder_for
from tertulia._names import literal
from tertulia._rules.agenda import Activation
from tertulia.engines.base import Change, ChangeStream, Record
from tertulia.errors import EngineError, EngineUnavailableError, SpaceClosedError, WatchLaggedError
from tertulia.hypotheses import Hypothesis, HypothesisState
from tertulia.patterns.blackboard._records import hypothesis_in
from tertulia.patterns.blackboard.board import Blackboard

RETRY = 1.0  # seconds before a watch that broke is opened again
MAX_RACES = 100  # reads of the board that are older than what was seen of it; an engine gives none
LATE = 1.0  # seconds to wait for a change that was committed; then it goes on, and sees it when it comes

_ACTIVATIONS = decoder_for(Activation)


class Picture:
    """One board as a controller sees it: `async with picture.kept():`.

    `waiting`: activations that are queued. `running`: until when (civil) those that some controller holds are held.
    `dealt_with`: those that have run or were dropped. `accepted`: hypotheses that a vote has accepted. `focus`: the
    weights of sections. `stirred` is set by whatever changes.
    """

    def __init__(self, board: Blackboard) -> None:
        self._board = board
        self._keys = board.keys
        self._engine = board.space.engine
        self._clock = board.space.clock
        self._reached = 0
        self._changed: dict[str, Hypothesis] = {}
        self._added: list[Activation] = []
        self._following: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()
        self._backlog: list[Change] | None = None  # what is changed while the whole board is read
        self.stirred = asyncio.Event()
        self._clear()

    def _clear(self) -> None:
        self.waiting: dict[str, Activation] = {}
        self.running: dict[str, float] = {}
        self.dealt_with: set[str] = set()
        self.accepted: set[str] = set()
        self.focus: dict[str, float] = {}

    # --- looking ---

    def changed(self) -> list[Hypothesis]:
        """Return the hypotheses that are new or have changed since this was last asked, in their order."""
        changed, self._changed = self._changed, {}
        return sorted(changed.values(), key=lambda one: one.order)

    def added(self) -> list[Activation]:
        """Return the activations that were queued since this was last asked."""
        added, self._added = self._added, []
        return added

    def is_running(self, activation_id: str) -> bool:
        """Tell whether some controller holds an activation."""
        return self.running.get(activation_id, 0.0) > self._clock.time()

    def is_anything_running(self) -> bool:
        """Tell whether some controller holds any."""
        now = self._clock.time()
        return any(until > now for until in self.running.values())

    def queued(self, activation: Activation) -> None:
        """Take note of an activation that is queued, unless it was dealt with."""
        if activation.id in self.dealt_with:
            return
        if activation.id not in self.waiting:
            self._added.append(activation)
        self.waiting[activation.id] = activation

    def dealt(self, activation_id: str) -> None:
        """Take note that an activation was dealt with: it is never queued again."""
        self.dealt_with.add(activation_id)
        self.waiting.pop(activation_id, None)

    # --- keeping it up to date ---

    @asynccontextmanager
    async def kept(self) -> AsyncGenerator[None, None]:
        """Read the board, and follow its changes while the block runs."""
        stream = await self._open()
        self._following = self._board.space.background.start(
            self._follow(stream), f"tertulia control of {self._board.name}"
        )
        await asyncio.sleep(0)  # a task that is cancelled before its first step would not close the stream
        try:
            yield
        finally:
            self._following.cancel()
            await asyncio.wait([self._following])

    async def read(self) -> bool:
        """Read the whole board anew; return False, having read nothing, where what was read is older than this."""
        self._backlog = []
        try:
            revision, records = await self._engine.scan(self._keys.prefix)
            if revision < self._reached:
                return False
            self._clear()
            for record in records:
                self._put(record)
            self._reach(revision)
            return True
        finally:
            backlog, self._backlog = self._backlog, None
            for change in backlog:
                self._apply(change)

    async def reach(self, revision: int) -> None:
        """Wait until this knows what was committed up to a revision at which something of this board was."""
        timer = self._clock.call_later(LATE, self._moved.set)
        until = self._clock.monotonic() + LATE
        try:
            while self._reached < revision and self._clock.monotonic() < until and not self._is_over():
                self._moved.clear()
                await self._moved.wait()
        finally:
            timer.cancel()

    def _is_over(self) -> bool:
        return self._following is None or self._following.done()

    async def _open(self) -> ChangeStream:
        stream = await self._engine.watch(literal(self._keys.prefix) + "*")
        try:
            for _ in range(MAX_RACES):
                if await self.read():
                    return stream
        except BaseException:
            await stream.aclose()
            raise
        await stream.aclose()
        raise EngineUnavailableError(f"board {self._board.name!r} is read as it was before, {MAX_RACES} times in a row")

    async def _follow(self, stream: ChangeStream) -> None:
        try:
            while True:
                try:
                    async for change in stream:
                        self._apply(change)
                except WatchLaggedError:
                    logger.info("control of board %r missed changes, and looks at the whole board", self._board.name)
                except EngineError:
                    logger.exception("the watch of board %r broke", self._board.name)
                else:
                    return  # the space closes
                await stream.aclose()
                stream = await self._open_again()
        except SpaceClosedError:
            return
        finally:
            self._wake()
            await stream.aclose()

    async def _open_again(self) -> ChangeStream:
        while True:
            try:
                return await self._open()
            except EngineError:
                logger.exception("the watch of board %r could not be opened", self._board.name)
                await sleep(self._clock, RETRY)

    def _apply(self, change: Change) -> None:
        if self._backlog is not None:
            self._backlog.append(change)
            return
        if change.revision <= self._reached:
            return  # it was there when the board was read
        if change.record is not None:
            self._put(change.record)
        else:
            self._remove(change.key)
        self._reach(change.revision)

    def _put(self, record: Record) -> None:
        keys, key = self._keys, record.key
        if key.startswith(keys.hypotheses):
            self._see(hypothesis_in(record))
        elif key.startswith(keys.agenda):
            self.queued(_ACTIVATIONS.decode(record.body))
        elif key.startswith(keys.running):
            self.running[key.removeprefix(keys.running)] = record.expires or 0.0
        elif key.startswith(keys.ran):
            self.dealt(key.removeprefix(keys.ran))
        elif key == keys.focus:
            self.focus = decode_plain(record.body)

    def _see(self, hypothesis: Hypothesis) -> None:
        self._changed[hypothesis.id] = hypothesis
        if hypothesis.state is HypothesisState.ACCEPTED:
            self.accepted.add(hypothesis.id)
        else:
            self.accepted.discard(hypothesis.id)

    def _remove(self, key: str) -> None:
        keys = self._keys
        if key.startswith(keys.agenda):
            self.waiting.pop(key.removeprefix(keys.agenda), None)
        elif key.startswith(keys.running):
            self.running.pop(key.removeprefix(keys.running), None)
        elif key == keys.focus:
            self.focus = {}

    def _reach(self, revision: int) -> None:
        self._reached = max(self._reached, revision)
        self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self.stirred.set()
