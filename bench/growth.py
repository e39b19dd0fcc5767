"""What an operation costs in a large space, against the same operation in a small one."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any

from bench.rows import CONTENT, Direction, Pair, Row, Sampler, Scale
from tertulia import Message, Space, connect

FEW_KEYS = 1_000
FEW_MAILBOXES = 10
LIMIT = 1.5
SEED = 7  # every run draws the same places
BATCH = 1_000  # keys that one commit writes into a space that is made larger

# Does one operation at each of the places, a key or an agent; asserts, and returns the seconds.
Operation = Callable[[Space, list[str]], Awaitable[float]]


def key_name(number: int) -> str:
    return f"shared:item:{number}"


def agent_name(number: int) -> str:
    return f"agent-{number}"


# --- Operations ----------------------------------------------------------------------------------


async def read(space: Space, places: list[str]) -> float:
    memory = space.memory
    value: Any = None
    start = perf_counter()
    for key in places:
        value = await memory.read(key, reader="reader")
    seconds = perf_counter() - start
    assert value == CONTENT
    return seconds


async def write(space: Space, places: list[str]) -> float:
    memory = space.memory
    entry = before = await memory.write(places[0], CONTENT, owner="writer")
    start = perf_counter()
    for key in places:
        entry = await memory.write(key, CONTENT, owner="writer")
    seconds = perf_counter() - start
    assert entry.revision - before.revision == len(places)
    return seconds


async def exchange(space: Space, places: list[str]) -> float:
    broker = space.broker
    done = 0
    start = perf_counter()
    for agent in places:
        await broker.send(Message(sender="sender", receiver=agent, content=CONTENT))
        delivery = await broker.receive(agent, timeout=0)
        assert delivery is not None
        await delivery.acknowledge()
        done += delivery.message.content == CONTENT
    seconds = perf_counter() - start
    assert done == len(places)
    return seconds


def at_random(operation: Operation, space: Space, name: Callable[[int], str], places: Sequence[int]) -> Sampler:
    """Do the operation at places drawn evenly from these; their names are new strings, as users' are."""
    draw = Random(SEED)  # noqa: S311 - it spreads a workload, it guards nothing

    async def sample(count: int) -> float:
        return await operation(space, [name(place) for place in draw.choices(places, k=count)])

    return sample


# --- Spaces --------------------------------------------------------------------------------------


@asynccontextmanager
async def space_of(engine: str, *, keys: int, mailboxes: int) -> AsyncIterator[Space]:
    """Open a space of that size; one in a file is made once, for all rows."""
    url = "memory:" if engine == "memory" else f"file:{files()}/{keys}-{mailboxes}.db"
    async with connect(url) as space:
        if not (await space.engine.stats()).keys:
            await _fill(space, keys, mailboxes)
        assert (await space.engine.stats()).keys == keys
        assert len(await space.agents()) == mailboxes
        yield space


async def _fill(space: Space, keys: int, mailboxes: int) -> None:
    for first in range(0, keys, BATCH):
        async with space.transaction() as transaction:
            for number in range(first, min(first + BATCH, keys)):
                transaction.write(key_name(number), CONTENT, owner="writer")
    for number in range(mailboxes):
        await space.broker.register_agent(agent_name(number))


@cache
def files() -> Path:
    """Make a directory for spaces in files, which is removed when the measuring ends."""
    path = Path(tempfile.mkdtemp(prefix="bench-"))
    atexit.register(shutil.rmtree, path)
    return path


@asynccontextmanager
async def _more_keys(engine: str, operation: Operation, spread: int | None, scale: Scale) -> AsyncIterator[Pair]:
    """Work on `spread` keys (None: all of them) of a space that has few, and of one that has many."""
    async with AsyncExitStack() as stack:
        sides: list[Sampler] = []
        for keys in (FEW_KEYS, scale.keys):
            space = await stack.enter_async_context(space_of(engine, keys=keys, mailboxes=FEW_MAILBOXES))
            if operation is exchange:
                sides.append(at_random(operation, space, agent_name, range(FEW_MAILBOXES)))
            else:
                places = working_set(keys, spread)
                sides.append(at_random(operation, space, key_name, places))
        yield Pair(*sides)


def working_set(size: int, spread: int | None) -> Sequence[int]:
    """Return so many places, strewn over a space of that size."""
    return range(size) if spread is None else Random(SEED).sample(range(size), spread)  # noqa: S311 - as above


@asynccontextmanager
async def _more_mailboxes(engine: str, operation: Operation, scale: Scale) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        sides: list[Sampler] = []
        for mailboxes in (FEW_MAILBOXES, scale.mailboxes):
            space = await stack.enter_async_context(space_of(engine, keys=FEW_KEYS, mailboxes=mailboxes))
            name, size = (agent_name, mailboxes) if operation is exchange else (key_name, FEW_KEYS)
            sides.append(at_random(operation, space, name, range(size)))
        yield Pair(*sides)


@asynccontextmanager
async def _dict(scale: Scale) -> AsyncIterator[Pair]:
    """A bare dict of as many keys: what the machine's caches alone make of keys drawn from all of them."""

    def side(size: int) -> Sampler:
        values = {key_name(number): dict(CONTENT) for number in range(size)}
        draw = Random(SEED)  # noqa: S311 - as above

        async def sample(count: int) -> float:
            keys = [key_name(place) for place in draw.choices(range(size), k=count)]
            value: Any = None
            start = perf_counter()
            for key in keys:
                value = values.get(key)
            seconds = perf_counter() - start
            assert value == CONTENT
            return seconds

        return sample

    yield Pair(side(FEW_KEYS), side(scale.keys))


# --- Rows ----------------------------------------------------------------------------------------


def _row(name: str, what: str, peer: str, measure: Callable[[Scale], AbstractAsyncContextManager[Pair]]) -> Row:
    return Row(
        name=f"growth-{name}",
        what=what,
        peer=f"itself, {peer}",
        target=LIMIT,
        direction=Direction.TIME_AT_MOST,
        measure=measure,
    )


FEW = f"{FEW_KEYS:,} keys"
FEW_BOXES = f"{FEW_MAILBOXES} mailboxes"
EXCHANGE = "send + receive + acknowledge"


def _rows(engine: str) -> tuple[Row, ...]:
    """Return the rows of one engine; those in process have no prefix."""
    more_keys, more_mailboxes = partial(_more_keys, engine), partial(_more_mailboxes, engine)
    rows = (
        _row("keys-read", f"memory.read, the same {FEW} among many", FEW, partial(more_keys, read, FEW_KEYS)),
        _row("keys-write", f"memory.write, the same {FEW} among many", FEW, partial(more_keys, write, FEW_KEYS)),
        _row("keys-read-cold", "memory.read, any of many keys", FEW, partial(more_keys, read, None)),
        _row("keys-write-cold", "memory.write, any of many keys", FEW, partial(more_keys, write, None)),
        _row("keys-exchange", f"{EXCHANGE} beside many keys", FEW, partial(more_keys, exchange, None)),
        _row("mailboxes-read", "memory.read beside many mailboxes", FEW_BOXES, partial(more_mailboxes, read)),
        _row("mailboxes-write", "memory.write beside many mailboxes", FEW_BOXES, partial(more_mailboxes, write)),
        _row("mailboxes-exchange", f"{EXCHANGE}, any of many mailboxes", FEW_BOXES, partial(more_mailboxes, exchange)),
    )
    if engine == "memory":
        return rows
    return tuple(replace(row, name=f"{engine}-{row.name}", what=f"{row.what}, {engine}") for row in rows)


# What the processor's caches alone make of keys drawn from all of many, to judge the `cold` rows by.
DICT = replace(_row("keys-dict-cold", "a bare dict's get, any of many keys", FEW, _dict), target=None)

ROWS = (*_rows("memory"), DICT, *_rows("file"))
