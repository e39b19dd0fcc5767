"""Waiting for the end of a lease while the watch behind it breaks and is opened again."""

from __future__ import annotations

import asyncio
from typing import Self, cast

from tertulia import Space, connect
from tertulia.engines.base import ChangeStream, Record
from tertulia.errors import WatchLaggedError
from tertulia.patterns._ends import Ends
from tertulia.testing.clock import ManualClock
from tertulia.testing.faults import FaultyEngine


class Gated(FaultyEngine):
    """An engine whose next read and next watch wait for a gate, and whose first watch breaks when it is told to."""

    def __init__(self, inner: Space) -> None:
        super().__init__(inner.engine, {})
        self.reads = asyncio.Event()
        self.watches = asyncio.Event()
        self.breaks = asyncio.Event()
        self.opened = 0
        self.watches.set()

    async def get(self, key: str) -> Record | None:
        record = await super().get(key)
        await self.reads.wait()
        return record

    async def watch(self, pattern: str, *, after: int | None = None) -> ChangeStream:
        await self.watches.wait()
        self.opened += 1
        stream = await super().watch(pattern, after=after)
        return cast("ChangeStream", _Breaking(stream, self.breaks)) if self.opened == 1 else stream


class _Breaking:
    def __init__(self, stream: ChangeStream, breaks: asyncio.Event) -> None:
        self.breaks = breaks
        self.aclose = stream.aclose

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> None:
        await self.breaks.wait()
        raise WatchLaggedError("lease:*", None)


async def test_who_comes_while_the_watch_is_opened_again_misses_nothing() -> None:
    clock = ManualClock()
    async with connect("memory:", clock=clock) as inner:
        engine = Gated(inner)
        space = Space(inner.url, engine, clock)
        fence = (await inner.memory.write("lease:k", 1, owner="ann")).created_revision
        ends = Ends(space, "lease:")
        first = asyncio.create_task(ends.wait("lease:k", fence))
        await clock.advance(0)
        engine.watches.clear()
        engine.breaks.set()  # while the first reads, so that the watch is still needed
        await clock.advance(0)
        second = asyncio.create_task(ends.wait("lease:k", fence))
        await clock.advance(0)
        await inner.memory.delete("lease:k", requester="ann")
        engine.watches.set()
        engine.reads.set()
        await clock.advance(0)
        assert first.done()
        assert second.done()
        await space.background.aclose()


async def test_nothing_runs_once_nobody_waits() -> None:
    clock = ManualClock()
    async with connect("memory:", clock=clock) as space:
        before = asyncio.all_tasks()
        fence = (await space.memory.write("lease:k", 1, owner="ann")).created_revision
        ends = Ends(space, "lease:")
        waiting = [asyncio.create_task(ends.wait("lease:k", fence)) for _ in range(3)]
        await clock.advance(0)
        for task in waiting:
            task.cancel()
        await clock.advance(0)
        assert asyncio.all_tasks() == before
        again = asyncio.create_task(ends.wait("lease:k", fence))
        await clock.advance(0)
        await space.memory.delete("lease:k", requester="ann")
        await clock.advance(0)
        assert again.done()
        assert asyncio.all_tasks() == before
