"""Waiting for the end of leases: one watch for all who wait in a handle, only while somebody does."""

from __future__ import annotations

import asyncio

from tertulia._background import logger
from tertulia._clock import sleep
from tertulia._names import literal
from tertulia.errors import EngineError, SpaceClosedError, WatchLaggedError
from tertulia.records import ChangeKind
from tertulia.space import Space

RETRY = 1.0  # seconds before a watch that broke is opened again; what it missed is looked up


class Ends:
    """Wakes those who wait for a key with this prefix to end: to be deleted, or to run out of time."""

    def __init__(self, space: Space, prefix: str) -> None:
        self._space = space
        self._pattern = literal(prefix) + "*"
        self._watch: _Watch | None = None

    async def wait(self, key: str, fence: int) -> None:
        """Return once the key's record that was created at revision `fence` is no more.

        It may return too early when changes were missed, so look again. Cancelling it leaves nothing behind.
        Raises SpaceClosedError.
        """
        watch = self._watch
        if watch is None or watch.over:
            watch = self._watch = _Watch(self._space, self._pattern)
        woken = watch.enter(key)
        try:
            await asyncio.shield(watch.opened)
            record = await self._space.engine.get(key)
            if record is not None and record.created_revision == fence:
                await woken
        finally:
            watch.leave(key, woken)


class _Watch:
    """One watch, from the first who waits to the last."""

    def __init__(self, space: Space, pattern: str) -> None:
        self.over = False
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._space = space
        self._pattern = pattern
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._task = space.background.start(self._run(), f"tertulia watch on {pattern}")

    def enter(self, key: str) -> asyncio.Future[None]:
        """Return what is done when the key ends."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, set()).add(woken)
        return woken

    def leave(self, key: str, woken: asyncio.Future[None]) -> None:
        """Wait no more; the last one ends the watch."""
        waiting = self._waiting[key]
        waiting.discard(woken)
        if not waiting:
            del self._waiting[key]
        if not self._waiting:
            self.over = True
            self._task.cancel()

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._watch_once()
                except WatchLaggedError:
                    self._break_off()
                except EngineError:
                    logger.exception("the watch on %r broke", self._pattern)
                    self._break_off()
                    await sleep(self._space.clock, RETRY)
        except SpaceClosedError:
            pass
        finally:
            self.over = True
            self._break_off()

    async def _watch_once(self) -> None:
        stream = await self._space.engine.watch(self._pattern)
        try:
            self.opened.set_result(None)
            async for change in stream:
                if change.kind is not ChangeKind.PUT:
                    _wake(self._waiting.get(change.key, ()))
        finally:
            await stream.aclose()
        raise SpaceClosedError

    def _break_off(self) -> None:
        """Let everybody look again; who waits from now on waits for the next stream."""
        if not self.opened.done():
            self.opened.set_result(None)
        self.opened = asyncio.get_running_loop().create_future()
        for waiting in self._waiting.values():
            _wake(waiting)


def _wake(waiting: set[asyncio.Future[None]] | tuple[()]) -> None:
    for woken in waiting:
        if not woken.done():
            woken.set_result(None)
