"""What an operation costs in a large space, against the same operation in a small one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from random import Random
from time import perf_counter
from typing import Any

from bench.rows import CONTENT, Direction, Pair, Row, Sampler, Scale
from tertulia import Message, Space, connect

FEW_KEYS = 1_000
FEW_MAILBOXES = 10
LIMIT = 1.5

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


def at_random(operation: Operation, space: Space, name: Callable[[int], str], size: int) -> Sampler:
    """Do the operation at places drawn evenly from all of them; their names are new strings, as users' are."""
    draw = Random(size)  # noqa: S311 - it spreads a workload, it guards nothing

    async def sample(count: int) -> float:
        return await operation(space, [name(draw.randrange(size)) for _ in range(count)])

    return sample


# --- Spaces --------------------------------------------------------------------------------------


@asynccontextmanager
async def space_of(*, keys: int, mailboxes: int) -> AsyncIterator[Space]:
    async with connect("memory:") as space:
        for number in range(keys):
            await space.memory.write(key_name(number), CONTENT, owner="writer")
        for number in range(mailboxes):
            await space.broker.register_agent(agent_name(number))
        stats = await space.engine.stats()
        assert stats.keys == keys
        assert len(await space.agents()) == mailboxes
        yield space


@asynccontextmanager
async def _more_keys(operation: Operation, scale: Scale) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        sides: list[Sampler] = []
        for keys in (FEW_KEYS, scale.keys):
            space = await stack.enter_async_context(space_of(keys=keys, mailboxes=FEW_MAILBOXES))
            name, size = (agent_name, FEW_MAILBOXES) if operation is exchange else (key_name, keys)
            sides.append(at_random(operation, space, name, size))
        yield Pair(*sides)


@asynccontextmanager
async def _more_mailboxes(operation: Operation, scale: Scale) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        sides: list[Sampler] = []
        for mailboxes in (FEW_MAILBOXES, scale.mailboxes):
            space = await stack.enter_async_context(space_of(keys=FEW_KEYS, mailboxes=mailboxes))
            name, size = (agent_name, mailboxes) if operation is exchange else (key_name, FEW_KEYS)
            sides.append(at_random(operation, space, name, size))
        yield Pair(*sides)


@asynccontextmanager
async def _dict(scale: Scale) -> AsyncIterator[Pair]:
    """A bare dict of as many keys: what the machine's caches alone make of it."""

    def side(size: int) -> Sampler:
        values = {key_name(number): dict(CONTENT) for number in range(size)}

        draw = Random(size)  # noqa: S311 - as above

        async def sample(count: int) -> float:
            places = [key_name(draw.randrange(size)) for _ in range(count)]
            value: Any = None
            start = perf_counter()
            for key in places:
                value = values.get(key)
            seconds = perf_counter() - start
            assert value == CONTENT
            return seconds

        return sample

    yield Pair(side(FEW_KEYS), side(scale.keys))


def _row(kind: str, name: str, operation: Operation, what: str) -> Row:
    few, setting = (
        (f"{FEW_KEYS:,} keys", _more_keys) if kind == "keys" else (f"{FEW_MAILBOXES} mailboxes", _more_mailboxes)
    )
    return Row(
        name=f"growth-{kind}-{name}",
        what=f"{what} among many {kind}",
        peer=f"itself among {few}",
        target=LIMIT,
        direction=Direction.TIME_AT_MOST,
        measure=partial(setting, operation),
    )


OPERATIONS = (
    ("read", read, "memory.read"),
    ("write", write, "memory.write"),
    ("exchange", exchange, "send + receive + acknowledge"),
)

ROWS = (
    *(_row(kind, name, operation, what) for kind in ("keys", "mailboxes") for name, operation, what in OPERATIONS),
    Row(
        name="growth-keys-dict",
        what="a bare dict's get among many keys",
        peer=f"itself among {FEW_KEYS:,} keys",
        target=None,
        direction=Direction.TIME_AT_MOST,
        measure=_dict,
    ),
)
