"""A stream from one task to another, each message acknowledged, against a queue with the same bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter

from bench.rows import CONTENT, Direction, Pair, Row, Sampler, Scale
from tertulia import Message, Space, WhenFull, connect

BOUND = 1_000  # of the queue and of the mailbox


async def _queue(count: int) -> float:
    queue: asyncio.Queue[object] = asyncio.Queue(BOUND)
    received = 0

    async def produce() -> None:
        for _ in range(count):
            await queue.put(CONTENT)

    async def consume() -> None:
        nonlocal received
        for _ in range(count):
            item = await queue.get()
            received += item is CONTENT
            queue.task_done()

    start = perf_counter()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(produce())
        tasks.create_task(consume())
    seconds = perf_counter() - start
    assert received == count
    assert queue.empty()
    return seconds


def _stream(space: Space) -> Sampler:
    broker = space.broker

    async def produce(count: int) -> None:
        for _ in range(count):
            await broker.send(Message(sender="producer", receiver="consumer", content=CONTENT))

    async def consume(count: int) -> int:
        received = 0
        for _ in range(count):
            delivery = await broker.receive("consumer")
            assert delivery is not None
            received += delivery.message.content == CONTENT
            await delivery.acknowledge()
        return received

    async def sample(count: int) -> float:
        before = (await broker.get_stats()).acknowledged
        start = perf_counter()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(produce(count))
            consumer = tasks.create_task(consume(count))
        seconds = perf_counter() - start
        assert consumer.result() == count
        assert (await broker.get_stats()).acknowledged - before == count
        assert await broker.queue("consumer").size() == 0
        assert await broker.queue("consumer").get_pending_count() == 0
        return seconds

    return sample


@asynccontextmanager
async def _measure(_: Scale) -> AsyncIterator[Pair]:
    async with connect("memory:") as space:
        await space.broker.register_agent("consumer", max_queue_size=BOUND, when_full=WhenFull.WAIT)
        yield Pair(_queue, _stream(space))


ROWS = (
    Row(
        name="stream-queue",
        what="send + receive + acknowledge, at least once",
        peer="asyncio.Queue put + get + task_done",
        target=1 / 8,
        direction=Direction.SPEED_AT_LEAST,
        measure=_measure,
    ),
)
