"""Messages that are stored in a file, sent, received and acknowledged one at a time, against Redis Streams."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter

from bench.rows import CONTENT, Direction, Pair, Row, Sampler, Scale
from bench.servers import Redis, directory, redis_server
from bench.wire import from_bytes, to_bytes
from tertulia import Message, Space, connect

STREAM, GROUP, CONSUMER = "messages", "team", "consumer"


def _streams(client: Redis) -> Sampler:
    async def sample(count: int) -> float:
        await client.delete(STREAM)
        await client.xgroup_create(STREAM, GROUP, mkstream=True)
        done = 0
        start = perf_counter()
        for _ in range(count):
            await client.xadd(STREAM, {"content": to_bytes(CONTENT)})
            ((_name, ((place, fields),)),) = await client.xreadgroup(GROUP, CONSUMER, {STREAM: ">"}, count=1)
            done += from_bytes(fields[b"content"]) == CONTENT
            await client.xack(STREAM, GROUP, place)
        seconds = perf_counter() - start
        assert done == count
        assert await client.xlen(STREAM) == count
        assert (await client.xpending(STREAM, GROUP))["pending"] == 0
        return seconds

    return sample


def exchange(space: Space) -> Sampler:
    broker = space.broker

    async def sample(count: int) -> float:
        before = (await broker.get_stats()).acknowledged
        done = 0
        start = perf_counter()
        for _ in range(count):
            await broker.send(Message(sender="sender", receiver="receiver", content=CONTENT))
            delivery = await broker.receive("receiver", timeout=0)
            assert delivery is not None
            done += delivery.message.content == CONTENT
            await delivery.acknowledge()
        seconds = perf_counter() - start
        assert done == count
        assert (await broker.get_stats()).acknowledged - before == count
        assert await broker.queue("receiver").size() == 0
        return seconds

    return sample


@asynccontextmanager
async def _measure(_: Scale) -> AsyncIterator[Pair]:
    with directory() as place:
        async with redis_server() as (client, _path), connect(f"file:{place}/space.db") as space:
            await space.broker.register_agent("receiver")
            yield Pair(_streams(client), exchange(space))


ROWS = (
    Row(
        name="file-exchange-redis",
        what="send + receive + acknowledge, one at a time, file",
        peer="Redis Streams, redis-py asyncio with hiredis over a Unix socket, JSON: XADD + XREADGROUP + XACK",
        package="redis",
        program="redis-server",
        target=4.0,
        direction=Direction.SPEED_AT_LEAST,
        measure=_measure,
    ),
)
