"""Watching memory: as an iterator over changes, or by callbacks."""

from __future__ import annotations

import asyncio
import inspect
import reprlib
from collections.abc import Awaitable, Callable
from typing import Any, Self

from tertulia._background import Background, logger
from tertulia._names import key_matcher
from tertulia.engines.base import Change, ChangeStream
from tertulia.errors import InvalidInputError, WatchLaggedError
from tertulia.records import ChangeKind, MemoryChange

Callback = Callable[[str, str, Any], Awaitable[object] | object]
OpenStream = Callable[[str, int | None], Awaitable[ChangeStream]]
Seen = Callable[[Change], MemoryChange | None]  # a change as a watcher sees it; None for one that is not to be seen


class MemoryWatch:
    """A watch over a pattern: `async with memory.watch(...) as changes: async for change in changes`.

    Raises WatchLaggedError when changes were missed; ends when the space closes.
    """

    def __init__(self, pattern: str, after: int | None, open_stream: OpenStream, seen: Seen) -> None:
        self._pattern = pattern
        self._after = after
        self._open_stream = open_stream
        self._seen = seen
        self._stream: ChangeStream | None = None

    async def __aenter__(self) -> Self:
        self._stream = await self._open_stream(self._pattern, self._after)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._stream is not None:
            await self._stream.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> MemoryChange:
        if self._stream is None:
            message = "enter the watch with 'async with' before iterating"
            raise RuntimeError(message)
        while True:
            seen = self._seen(await self._stream.__anext__())
            if seen is not None:
                return seen


class GuardedWatch:
    """A watch that asks, when it is entered and for each change, whether its reader may still read."""

    def __init__(self, watch: MemoryWatch, check: Callable[[], Awaitable[object]]) -> None:
        self._watch = watch
        self._check = check

    async def __aenter__(self) -> Self:
        await self._check()
        await self._watch.__aenter__()
        return self

    async def __aexit__(self, *details: object) -> None:
        await self._watch.__aexit__(*details)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> MemoryChange:
        change = await self._watch.__anext__()
        await self._check()
        return change


class Subscriptions:
    """The callbacks of one memory, each with a task of its own that calls it."""

    def __init__(self, open_stream: OpenStream, seen: Seen, background: Background) -> None:
        self._open_stream = open_stream
        self._seen = seen
        self._background = background
        self._tasks: dict[tuple[str, Callback], asyncio.Task[Any]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    async def add(self, pattern: str, callback: Callback) -> None:
        """Call the callback for every change from now on; see SharedMemory.subscribe."""
        key_matcher(pattern)
        if not callable(callback):
            raise InvalidInputError(
                f"a callback is called with (key, event, value): {reprlib.repr(callback)} cannot be"
            )
        place = (pattern, callback)
        if place in self._tasks:
            return
        stream = await self._open_stream(pattern, None)
        if place in self._tasks:  # the same pair was subscribed while this one waited
            await stream.aclose()
            return
        self._tasks[place] = self._background.start(
            self._call_back(pattern, stream, callback), f"tertulia subscription {pattern}"
        )

    async def remove(self, pattern: str, callback: Callback) -> bool:
        """Stop calling; see SharedMemory.unsubscribe."""
        task = self._tasks.pop((pattern, callback), None)
        if task is None:
            return False
        if task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait([task])
        return True

    async def _call_back(self, pattern: str, stream: ChangeStream, callback: Callback) -> None:
        try:
            while True:
                try:
                    await self._call_for_each(pattern, stream, callback)
                except WatchLaggedError:
                    logger.warning("subscription to %r fell behind and missed changes", pattern)
                    await stream.aclose()
                    stream = await self._open_stream(pattern, None)
                    await _call(callback, pattern, "lagged", None)
                else:
                    return
        finally:
            await stream.aclose()

    async def _call_for_each(self, pattern: str, stream: ChangeStream, callback: Callback) -> None:
        place, task = (pattern, callback), asyncio.current_task()
        async for change in stream:
            seen = self._seen(change)
            if seen is not None:
                await _call(callback, seen.key, _event(seen), seen.value)
                if self._tasks.get(place) is not task:  # the callback unsubscribed itself
                    return


def _event(change: MemoryChange) -> str:
    if change.kind is not ChangeKind.PUT:
        return change.kind.value
    return "write" if change.entry is not None and change.entry.version == 1 else "update"


async def _call(callback: Callback, key: str, event: str, value: object) -> None:
    try:
        outcome = callback(key, event, value)
        if inspect.isawaitable(outcome):
            await outcome
    except Exception:  # noqa: BLE001 - the callback's owner is told by the log; the others must go on
        logger.exception("subscriber %r failed on %s of %r", callback, event, key)
