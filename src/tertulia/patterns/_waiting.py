"""Waiting for instants and for changes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tertulia._background import Background, logger
from tertulia._clock import Clock, sleep
from tertulia.engines.base import ChangeStream
from tertulia.errors import SpaceClosedError, TertuliaError, WatchLaggedError


class Deadlines:
    """Calls `at_deadline(name)` at each name's instant (civil time), in the background of a space.

    A call that fails is logged and not repeated. The task runs while something is due and ends with the space.
    """

    def __init__(self, clock: Clock, background: Background, at_deadline: Callable[[str], Awaitable[object]]) -> None:
        self._clock = clock
        self._background = background
        self._at_deadline = at_deadline
        self._due: dict[str, float] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, name: str, deadline: float) -> None:
        """Call for this name at its deadline; adding it again changes nothing."""
        if name in self._due:
            return
        self._due[name] = deadline
        self._changed.set()
        if self._task is None or self._task.done():
            self._task = self._background.start(self._run(), "tertulia deadlines")

    def drop(self, name: str) -> None:
        """Do not call for this name any more."""
        if self._due.pop(name, None) is not None:
            self._changed.set()

    async def _run(self) -> None:
        while self._due:
            name = min(self._due, key=lambda name: self._due[name])
            left = self._due[name] - self._clock.time()
            if left > 0:
                await self._wait(left)
            else:
                del self._due[name]
                if not await self._call(name):
                    return

    async def _wait(self, seconds: float) -> None:
        self._changed.clear()
        timer = self._clock.call_later(seconds, self._changed.set)
        try:
            await self._changed.wait()
        finally:
            timer.cancel()

    async def _call(self, name: str) -> bool:
        """Make one call; return False when the space is closed."""
        try:
            await self._at_deadline(name)
        except SpaceClosedError:
            return False
        except TertuliaError:
            logger.exception("what was due for %s could not be done", name)
        return True


async def change_or_pause(stream: ChangeStream, clock: Clock, seconds: float) -> bool:
    """Wait for a change, or for so long; return False if changes were missed, so that the watch must be made anew.

    Raises SpaceClosedError.
    """
    change = asyncio.ensure_future(anext(stream))
    pause = asyncio.ensure_future(sleep(clock, seconds))
    try:
        await asyncio.wait({change, pause}, return_when=asyncio.FIRST_COMPLETED)
        if change.done():
            await change
    except WatchLaggedError:
        return False
    except StopAsyncIteration:
        raise SpaceClosedError from None
    finally:
        for task in (change, pause):
            task.cancel()
        await asyncio.gather(change, pause, return_exceptions=True)
    return True
