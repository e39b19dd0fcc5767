"""Reading and writing shared memory in a file, against Redis on the same machine and against diskcache."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter
from typing import TYPE_CHECKING, Any

from bench.memory import KEYS, filled, keys, our_read, our_write
from bench.rows import CONTENT, Direction, Pair, Row, Sampler, Scale
from bench.servers import Redis, directory, redis_server
from bench.wire import from_bytes, to_bytes

if TYPE_CHECKING:
    from diskcache import Cache

# --- Redis ---------------------------------------------------------------------------------------


def _redis_get(client: Redis) -> Sampler:
    async def sample(count: int) -> float:
        value: Any = None
        start = perf_counter()
        for key in keys(count):
            value = from_bytes(await client.get(key))
        seconds = perf_counter() - start
        assert value == CONTENT
        return seconds

    return sample


def _redis_set(client: Redis) -> Sampler:
    async def sample(count: int) -> float:
        await client.flushdb()
        start = perf_counter()
        for key in keys(count):
            await client.set(key, to_bytes(CONTENT))
        seconds = perf_counter() - start
        assert await client.dbsize() == min(count, len(KEYS))
        assert from_bytes(await client.get(KEYS[0])) == CONTENT
        return seconds

    return sample


@asynccontextmanager
async def _read_redis(_: Scale) -> AsyncIterator[Pair]:
    with directory() as place:
        async with redis_server() as (client, _path), filled(None, f"file:{place}/space.db") as memory:
            for key in KEYS:
                await client.set(key, to_bytes(CONTENT))
            yield Pair(_redis_get(client), our_read(memory))


@asynccontextmanager
async def _write_redis(_: Scale) -> AsyncIterator[Pair]:
    with directory() as place:
        async with redis_server() as (client, _path), filled(None, f"file:{place}/space.db") as memory:
            yield Pair(_redis_set(client), our_write(memory, None))


# --- diskcache -----------------------------------------------------------------------------------


def _disk_get(cache: Cache) -> Sampler:
    async def sample(count: int) -> float:
        value: Any = None
        start = perf_counter()
        for key in keys(count):
            value = cache.get(key)
        seconds = perf_counter() - start
        assert value == CONTENT
        return seconds

    return sample


def _disk_set(cache: Cache) -> Sampler:
    async def sample(count: int) -> float:
        done = 0
        start = perf_counter()
        for key in keys(count):
            done += cache.set(key, CONTENT)
        seconds = perf_counter() - start
        assert done == count
        assert cache.get(KEYS[0]) == CONTENT
        return seconds

    return sample


@asynccontextmanager
async def _disk(*, reads: bool) -> AsyncIterator[Pair]:
    from diskcache import Cache  # noqa: PLC0415 - a peer is imported only where it is measured

    with directory() as place, Cache(str(place / "cache")) as cache:
        for key in KEYS:
            cache.set(key, CONTENT)
        async with filled(None, f"file:{place}/space.db") as memory:
            yield Pair(_disk_get(cache), our_read(memory)) if reads else Pair(_disk_set(cache), our_write(memory, None))


REDIS = "Redis, redis-py asyncio with hiredis over a Unix socket, JSON"
DISKCACHE = "diskcache Cache, on the same disk"

ROWS = (
    Row(
        name="file-read-redis",
        what="memory.read, file",
        peer=f"{REDIS}: GET",
        package="redis",
        program="redis-server",
        target=20.0,
        direction=Direction.SPEED_AT_LEAST,
        measure=_read_redis,
    ),
    Row(
        name="file-write-redis",
        what="memory.write, file",
        peer=f"{REDIS}: SET",
        package="redis",
        program="redis-server",
        target=6.0,
        direction=Direction.SPEED_AT_LEAST,
        measure=_write_redis,
    ),
    Row(
        name="file-read-disk",
        what="memory.read, file",
        peer=f"{DISKCACHE}: get",
        package="diskcache",
        target=2.0,
        direction=Direction.SPEED_AT_LEAST,
        measure=lambda _: _disk(reads=True),
    ),
    Row(
        name="file-write-disk",
        what="memory.write, file",
        peer=f"{DISKCACHE}: set",
        package="diskcache",
        target=4.0,
        direction=Direction.SPEED_AT_LEAST,
        measure=lambda _: _disk(reads=False),
    ),
)
