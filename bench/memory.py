"""Reading and writing shared memory in process, against a cache under a lock and against LangGraph's store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import cycle, islice
from threading import RLock
from time import perf_counter
from typing import TYPE_CHECKING, Any

from bench.rows import CONTENT, Direction, Pair, Row, Sampler, Scale
from tertulia import SharedMemory, connect

if TYPE_CHECKING:
    from cachetools import TTLCache
    from langgraph.store.base import BaseStore

KEYS = tuple(f"shared:analysis:{number}" for number in range(1_000))  # a team's working set
TTL = 3600.0  # seconds: nothing expires while it is measured


def keys(count: int) -> Iterator[str]:
    return islice(cycle(KEYS), count)


# --- Ours ----------------------------------------------------------------------------------------


@asynccontextmanager
async def filled(ttl: float | None, url: str = "memory:") -> AsyncIterator[SharedMemory]:
    """Open a space with an entry under every key, and see that each is there."""
    async with connect(url) as space:
        for key in KEYS:
            await space.memory.write(key, CONTENT, owner="writer", ttl=ttl)
        assert [await space.memory.read(key, reader="reader") for key in KEYS] == [CONTENT] * len(KEYS)
        yield space.memory


def our_read(memory: SharedMemory) -> Sampler:
    async def sample(count: int) -> float:
        before = await _accesses(memory)
        value: Any = None
        start = perf_counter()
        for key in keys(count):
            value = await memory.read(key, reader="reader")
        seconds = perf_counter() - start
        assert value == CONTENT
        assert await _accesses(memory) - before == count
        return seconds

    return sample


def our_write(memory: SharedMemory, ttl: float | None) -> Sampler:
    async def sample(count: int) -> float:
        before = (await memory.get_stats()).revision
        start = perf_counter()
        for key in keys(count):
            await memory.write(key, CONTENT, owner="writer", ttl=ttl)
        seconds = perf_counter() - start
        assert (await memory.get_stats()).revision - before == count
        assert await memory.read(KEYS[0], reader="reader") == CONTENT
        return seconds

    return sample


async def _accesses(memory: SharedMemory) -> int:
    return sum([entry.access_count async for entry in memory.entries()])


# --- The peers -----------------------------------------------------------------------------------


def _cache() -> TTLCache[str, Any]:
    from cachetools import TTLCache  # noqa: PLC0415 - a peer is imported only where it is measured

    cache: Any = TTLCache(maxsize=2 * len(KEYS), ttl=TTL)
    cache.update(dict.fromkeys(KEYS, CONTENT))
    return cache


def _cache_get(cache: TTLCache[str, Any]) -> Sampler:
    lock = RLock()

    async def sample(count: int) -> float:
        value: Any = None
        start = perf_counter()
        for key in keys(count):
            with lock:
                value = cache.get(key)
        seconds = perf_counter() - start
        assert value == CONTENT
        return seconds

    return sample


def _cache_item(cache: TTLCache[str, Any]) -> Sampler:
    lock = RLock()

    async def sample(count: int) -> float:
        value: Any = None
        start = perf_counter()
        for key in keys(count):
            with lock:
                value = cache[key]
        seconds = perf_counter() - start
        assert value == CONTENT
        return seconds

    return sample


def _cache_write(cache: TTLCache[str, Any]) -> Sampler:
    lock = RLock()

    async def sample(count: int) -> float:
        cache.clear()
        start = perf_counter()
        for key in keys(count):
            with lock:
                cache[key] = CONTENT
        seconds = perf_counter() - start
        assert cache == dict.fromkeys(keys(count), CONTENT)
        cache.update(dict.fromkeys(KEYS, CONTENT))
        return seconds

    return sample


@asynccontextmanager
async def _read_cache_get(_: Scale) -> AsyncIterator[Pair]:
    async with filled(TTL) as memory:
        yield Pair(_cache_get(_cache()), our_read(memory))


@asynccontextmanager
async def _read_cache_item(_: Scale) -> AsyncIterator[Pair]:
    async with filled(TTL) as memory:
        yield Pair(_cache_item(_cache()), our_read(memory))


@asynccontextmanager
async def _write_cache(_: Scale) -> AsyncIterator[Pair]:
    async with filled(None) as memory:
        yield Pair(_cache_write(_cache()), our_write(memory, None))


@asynccontextmanager
async def _write_cache_ttl(_: Scale) -> AsyncIterator[Pair]:
    async with filled(TTL) as memory:
        yield Pair(_cache_write(_cache()), our_write(memory, TTL))


NAMESPACE = ("shared",)


def _store() -> BaseStore:
    from langgraph.store.memory import InMemoryStore  # noqa: PLC0415 - as above

    store = InMemoryStore()
    for key in KEYS:
        store.put(NAMESPACE, key, CONTENT)
    return store


def _store_get(store: BaseStore) -> Sampler:
    async def sample(count: int) -> float:
        item: Any = None
        start = perf_counter()
        for key in keys(count):
            item = store.get(NAMESPACE, key)
        seconds = perf_counter() - start
        assert item is not None
        assert item.value == CONTENT
        return seconds

    return sample


def _store_put(store: BaseStore) -> Sampler:
    async def sample(count: int) -> float:
        last = KEYS[(count - 1) % len(KEYS)]
        store.delete(NAMESPACE, last)
        start = perf_counter()
        for key in keys(count):
            store.put(NAMESPACE, key, CONTENT)
        seconds = perf_counter() - start
        item = store.get(NAMESPACE, last)
        assert item is not None
        assert item.value == CONTENT
        return seconds

    return sample


@asynccontextmanager
async def _read_store(_: Scale) -> AsyncIterator[Pair]:
    async with filled(None) as memory:
        yield Pair(_store_get(_store()), our_read(memory))


@asynccontextmanager
async def _write_store(_: Scale) -> AsyncIterator[Pair]:
    async with filled(None) as memory:
        yield Pair(_store_put(_store()), our_write(memory, None))


CACHE = "cachetools TTLCache under RLock"
STORE = "LangGraph InMemoryStore"

ROWS = (
    Row(
        name="read-cache",
        what="memory.read",
        peer=f"{CACHE}: cache.get(key)",
        package="cachetools",
        target=1.0,
        direction=Direction.TIME_AT_MOST,
        measure=_read_cache_get,
    ),
    Row(
        name="read-cache-item",
        what="memory.read",
        peer=f"{CACHE}: cache[key]",
        package="cachetools",
        target=None,
        direction=Direction.TIME_AT_MOST,
        measure=_read_cache_item,
    ),
    Row(
        name="write-cache",
        what="memory.write",
        peer=f"{CACHE}: cache[key] = value",
        package="cachetools",
        target=2.0,
        direction=Direction.TIME_AT_MOST,
        measure=_write_cache,
    ),
    Row(
        name="write-cache-ttl",
        what="memory.write(ttl=…)",
        peer=f"{CACHE}: cache[key] = value",
        package="cachetools",
        target=2.0,
        direction=Direction.TIME_AT_MOST,
        measure=_write_cache_ttl,
    ),
    Row(
        name="read-store",
        what="memory.read",
        peer=f"{STORE}.get",
        package="langgraph",
        target=1.0,
        direction=Direction.SPEED_AT_LEAST,
        measure=_read_store,
    ),
    Row(
        name="write-store",
        what="memory.write",
        peer=f"{STORE}.put",
        package="langgraph",
        target=1.0,
        direction=Direction.SPEED_AT_LEAST,
        measure=_write_store,
    ),
)
