"""Steps that the tests of locks, semaphores, elections and deadlocks take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from tertulia import Grant, Lock, Semaphore, Space
from tertulia.testing.conformance import SpaceHarness

T = TypeVar("T")

PATIENCE = 30.0  # real seconds; only a hang meets it
LEASES = "_tertulia:lease:"


async def soon(harness: SpaceHarness, task: Awaitable[T]) -> T:
    """Return what a task comes to by itself: without any time passing where that can be turned by hand."""
    task = asyncio.ensure_future(task)
    async with asyncio.timeout(PATIENCE):
        while not task.done():
            await harness.advance(0)
            await asyncio.sleep(0)
    return await task


async def in_time(harness: SpaceHarness, task: Awaitable[T], *, step: float = 0.05) -> T:
    """Return what a task comes to while time passes."""
    task = asyncio.ensure_future(task)
    async with asyncio.timeout(PATIENCE):
        while not task.done():
            await harness.advance(step)
    return await task


async def until(harness: SpaceHarness, holds: Callable[[], Awaitable[object]]) -> None:
    """Wait until something holds, without time passing where that can be turned by hand."""
    async with asyncio.timeout(PATIENCE):
        while not await holds():
            await harness.advance(0)
            await asyncio.sleep(0)


async def wait_in_line(
    harness: SpaceHarness, lock: Lock | Semaphore, agent_id: str, **options: Any
) -> asyncio.Task[Grant]:
    """Start to wait for what somebody else holds; return once the agent is in the line."""

    async def waits() -> bool:
        if task.done():
            task.result()  # tells why it does not wait
        return agent_id in [wait.agent_id for wait in await lock.waiting()]

    task = asyncio.create_task(lock.acquire(agent_id, **options))
    await until(harness, waits)
    return task


async def kept(space: Space) -> list[str]:
    """Return the keys of all that is kept about leases and waits."""
    return [record.key.removeprefix(LEASES) for record in (await space.engine.scan(LEASES))[1]]


async def nothing_is_left(harness: SpaceHarness, space: Space, *but: str) -> None:
    """Wait until nothing else is kept about leases and waits than these keys."""

    async def gone() -> bool:
        return await kept(space) == sorted(but)

    try:
        await until(harness, gone)
    except TimeoutError:
        raise AssertionError(await kept(space)) from None


def together(*work: Coroutine[Any, Any, T]) -> asyncio.Task[list[T]]:
    """Run coroutines side by side."""

    async def all_of_them() -> list[T]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
        return [task.result() for task in tasks]

    return asyncio.create_task(all_of_them())
