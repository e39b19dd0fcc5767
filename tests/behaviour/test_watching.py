"""Watches and subscriptions over time: slow ones are told, and none ends without a word."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tertulia import ChangeKind, Space
from tertulia.errors import WatchLaggedError
from tertulia.testing.clock import ManualClock


async def soon(awaitable: Any) -> Any:
    """Await with a bound in real time, so that a hang is a failure and not a stuck test run."""
    return await asyncio.wait_for(awaitable, 5)


async def test_a_subscription_that_fell_behind_is_told_and_goes_on(
    space: Space, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = space.memory
    may_go_on = asyncio.Event()
    calls: list[tuple[str, str, object]] = []

    async def slow(key: str, event: str, value: object) -> None:
        calls.append((key, event, value))
        await may_go_on.wait()

    await memory.subscribe("k*", slow)
    for number in range(space.engine.capabilities.history + 2):
        await memory.write("k", number, owner="a")
        if number == 0:
            await clock.advance(0)  # the first call has begun, and waits
    may_go_on.set()
    await clock.advance(0)
    assert ("k*", "lagged", None) in calls
    assert "fell behind" in caplog.text

    calls.clear()
    await memory.write("k2", "after", owner="a")
    await clock.advance(0)
    assert calls == [("k2", "write", "after")]


async def test_a_watch_resumes_after_what_it_has_seen_and_misses_nothing(space: Space) -> None:
    memory = space.memory
    seen: list[object] = []
    last = 0
    for number in range(20):
        await memory.write("k", number, owner="a")
        if number % 3 == 0:  # a watcher that comes and goes
            async with memory.watch("k", after=last) as changes:
                while last < (await memory.get_stats()).revision:
                    change = await soon(anext(changes))
                    seen.append(change.value)
                    last = change.revision
    assert seen == list(range(19))


async def test_a_watch_that_resumes_too_late_or_from_the_future_is_told(space: Space) -> None:
    memory = space.memory
    for number in range(space.engine.capabilities.history + 1):
        await memory.write("k", number, owner="a")
    for after in (0, 10**9):
        async with memory.watch(after=after) as changes:
            with pytest.raises(WatchLaggedError):
                await soon(anext(changes))


async def test_a_watcher_sees_one_commit_in_the_order_of_its_revisions_and_nothing_between(space: Space) -> None:
    async with space.memory.watch("part:*") as changes:
        async with space.transaction() as transaction:
            for number in range(5):
                transaction.write(f"part:{number}", number, owner="a")
        seen = [await soon(anext(changes)) for _ in range(5)]
    assert [change.value for change in seen] == list(range(5))
    revisions = [change.revision for change in seen]
    assert revisions == sorted(set(revisions))
    assert revisions[-1] == transaction.revision


async def test_an_expiry_reaches_watchers_without_anybody_reading(space: Space, clock: ManualClock) -> None:
    async with space.memory.watch() as changes:
        await space.memory.write("k", 1, owner="a", ttl=5)
        assert (await soon(anext(changes))).kind is ChangeKind.PUT
        await clock.advance(5)
        change = await soon(anext(changes))
    assert (change.kind, change.key, change.value) == (ChangeKind.EXPIRE, "k", None)


async def test_a_watch_ends_quietly_when_its_space_closes(space: Space) -> None:
    async with space.memory.watch() as changes:
        waiting = asyncio.create_task(collect(changes))
        await space.memory.write("k", 1, owner="a")
        await asyncio.sleep(0)
        await space.aclose()
        assert await soon(waiting) == [1]


async def collect(changes: Any) -> list[Any]:
    return [change.value async for change in changes]
