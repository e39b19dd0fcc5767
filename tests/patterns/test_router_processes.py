"""Routes to an agent in several processes, some of which are killed with a message in hand."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import Process
from pathlib import Path

import pytest

import tertulia
from tertulia import IntelligentRouter, Space
from tests.engines import ENGINES, SEPARATE_PROCESSES
from tests.file.processes import PATIENCE, kill, line, start
from tests.profile import times

WORKERS = "tests.patterns.router_workers"
ROUTES = times(60, 1_000)
KILL_EVERY = 20  # routes
TEXT = "x" * 5_000


@pytest.fixture(params=SEPARATE_PROCESSES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return ENGINES[request.param](tmp_path)


async def hire(url: str) -> Process:
    process = await start("handle", url, module=WORKERS)
    assert (await line(process)).split() == ["ready"]
    return process


async def all_done(space: Space) -> dict[str, int]:
    """Wait until every route's message has been handled; return what was noted."""
    async with space.memory.watch("done:*") as changes:
        noted = {entry.key: entry.value async for entry in space.memory.entries("done:*")}
        while len(noted) < ROUTES:
            change = await anext(changes)
            noted[change.key] = change.value
    return noted


async def test_processes_that_are_killed_lose_and_double_nothing_and_leave_no_content_behind(url: str) -> None:
    async with tertulia.connect(url) as space:
        await space.broker.register_agent("reader", max_queue_size=2 * ROUTES)
        await space.broker.register_agent("other", max_queue_size=2 * ROUTES)
        router = IntelligentRouter(space)
        processes = [await hire(url) for _ in range(2)]
        try:
            for number in range(ROUTES):
                content = {"number": number % 10, "text": TEXT}  # ten contents, shared by many messages
                hints = {"channel": "pointer", "durability": "exactly_once", "message_id": f"route-{number}"}
                await router.route("writer", ["reader", "other"] if number % 2 else "reader", content, hints)
                if number % KILL_EVERY == KILL_EVERY // 2:
                    await kill(processes.pop(0))
                    processes.append(await hire(url))
            noted = await asyncio.wait_for(all_done(space), PATIENCE)
        finally:
            for process in processes:
                await kill(process)
        assert noted == {f"done:route-{number}": len(TEXT) for number in range(ROUTES)}
        assert await space.broker.dead_letters("reader") == []
        for number in range(1, ROUTES, 2):
            delivery = await asyncio.wait_for(space.broker.receive("other"), PATIENCE)
            assert delivery is not None
            assert delivery.message.content == {"number": number % 10, "text": TEXT}
            await delivery.acknowledge()
        for prefix in ("_tertulia:content:", "_tertulia:pointers:"):
            assert (await space.engine.scan(prefix))[1] == []
