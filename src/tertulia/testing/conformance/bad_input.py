"""Bad input: a specific error, before anything is stored."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from tertulia.agents.message_passing import MessagePassingAgent
from tertulia.errors import (
    DecodeError,
    EncodeError,
    InvalidInputError,
    InvalidKeyError,
    InvalidNameError,
    InvalidTopicError,
    InvalidURLError,
    ValueTooLargeError,
)
from tertulia.records import DeliveryMode, MemoryAccessMode, WhenFull
from tertulia.regions import MemoryRegion
from tertulia.space import Space, connect
from tertulia.testing.conformance._expect import PromiseBrokenError, equal, raises
from tertulia.testing.conformance._registry import case
from tertulia.testing.conformance._steps import message, picture, register, take
from tertulia.testing.conformance.harness import Harness

# Typed as anything, since what is tried here is what type checkers would refuse.
BAD_KEYS: tuple[Any, ...] = (
    "",
    "x" * 513,
    "é" * 257,
    "a\x00b",
    "a\nb",
    "\x7f",
    "\ud800",
    "_tertulia:x",
    None,
    7,
    b"k",
    [],
)
BAD_NAMES: tuple[Any, ...] = ("", "x" * 129, "a:b", "_hidden", " a", "a ", "a\x00", "\ud800", None, 7, ("a",), [])
BAD_TOPICS: tuple[Any, ...] = (
    "",
    "a..b",
    ".a",
    "a.",
    "a b",
    "a.b*",
    "a>",
    "x" * 257,
    "a.\x00",
    ".".join("x" * 17),
    None,
    7,
)
BAD_SECONDS: tuple[Any, ...] = (0, -1, float("nan"), float("inf"), "1", True, 10.0**12)
BAD_COUNTS: tuple[Any, ...] = (0, -1, 1.5, "5", True, None, 10**12)
BAD_IDS: tuple[Any, ...] = ("", "x" * 129, "a\x00b", "a\nb", None, 7, b"id")

Call = Callable[[Any], Awaitable[object]]


class _Loop(list[Any]):
    """A list that contains itself."""

    def __init__(self) -> None:
        super().__init__()
        self.append(self)


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def _bad_values() -> list[Any]:
    return [
        object(),
        lambda: None,
        {1: object()},
        2**64,
        -(2**63) - 1,
        ValueError("no"),
        _nested(65),
        _Loop(),
        "\ud800",
    ]


@asynccontextmanager
async def _untouched(h: Harness, *agents: str) -> AsyncGenerator[Space, None]:
    """Expect the block to change nothing in the space."""
    space = await h.open()
    await register(space, *agents)
    await space.memory.write("k", 1, owner="ada")
    names = [info.agent_id for info in await h.engine.mailboxes()]
    before = await picture(h.engine, names)
    yield space
    equal(await picture(h.engine, names), before, "the space after bad input")
    equal([info.agent_id for info in await h.engine.mailboxes()], names, "the mailboxes after bad input")


async def _refuses(kind: type[Exception], call: Call, *bad: Any) -> None:
    """Expect the call to raise this kind of error for each bad argument."""
    for argument in bad:
        try:
            await call(argument)
        except kind:
            continue
        except Exception as error:
            raise PromiseBrokenError(f"{argument!r} should raise {kind.__name__}, not {error!r}") from error
        raise PromiseBrokenError(f"{argument!r} should raise {kind.__name__}, but was accepted")


@case()
async def bad_keys(h: Harness) -> None:
    """A key outside the grammar raises InvalidKeyError from every call that takes one."""
    async with _untouched(h) as space:
        memory = space.memory
        calls: list[Call] = [
            lambda key: memory.write(key, 1, owner="ada"),
            lambda key: memory.create(key, 1, owner="ada"),
            lambda key: memory.update(key, 1, updater="ada"),
            lambda key: memory.read(key, reader="ada"),
            lambda key: memory.read_with_metadata(key, reader="ada"),
            lambda key: memory.compare_and_swap(key, 1, 2, requester="ada"),
            lambda key: memory.modify(key, lambda value: value, updater="ada", default=1),
            lambda key: memory.delete(key, requester="ada"),
        ]
        for call in calls:
            await _refuses(InvalidKeyError, call, *BAD_KEYS)


@case()
async def bad_key_patterns(h: Harness) -> None:
    """A pattern that cannot be one raises InvalidKeyError."""
    async with _untouched(h) as space:
        memory = space.memory

        async def watch(pattern: Any) -> None:
            async with memory.watch(pattern):
                pass

        calls: list[Call] = [memory.list_keys, memory.snapshot, watch, lambda one: memory.subscribe(one, print)]
        for call in calls:
            await _refuses(InvalidKeyError, call, "", "a\x00*", "*" * 2000, 7, None)


@case()
async def bad_agent_names(h: Harness) -> None:
    """A name outside the grammar raises InvalidNameError from every call that takes one."""
    async with _untouched(h, "ada") as space:
        memory, broker = space.memory, space.broker

        async def region(name: Any) -> None:
            MemoryRegion(name, memory)

        async def agent(name: Any) -> None:
            MessagePassingAgent(name, broker)

        async def queue(name: Any) -> None:
            broker.queue(name)

        calls: list[Call] = [
            lambda name: memory.write("new", 1, owner=name),
            lambda name: memory.read("k", reader=name),
            lambda name: memory.delete("k", requester=name),
            region,
            agent,
            queue,
            broker.register_agent,
            broker.unregister_agent,
            broker.receive,
            broker.dead_letters,
            broker.purge,
            lambda name: broker.subscribe(name, "news"),
            lambda name: broker.send(message(name)),
            lambda name: MemoryRegion("r", memory).grant_access(name, MemoryAccessMode.READ),
        ]
        for call in calls:
            await _refuses(InvalidNameError, call, *BAD_NAMES)


@case()
async def bad_topics(h: Harness) -> None:
    """A topic, or topic pattern, outside the grammar raises InvalidTopicError; one to publish to has no wildcards."""
    async with _untouched(h, "ada") as space:
        broker = space.broker

        async def publish(topic: Any) -> None:
            await broker.publish(topic, message(""))

        async def subscribe(topic: Any) -> None:
            await broker.subscribe("ada", topic)

        await _refuses(InvalidTopicError, publish, *BAD_TOPICS, "*", "a.*", ">", "a.>")
        await _refuses(InvalidTopicError, subscribe, *BAD_TOPICS, ">.a", "a.>.b")
        await _refuses(InvalidTopicError, lambda topic: broker.unsubscribe("ada", topic), *BAD_TOPICS)


@case()
async def values_that_cannot_be_stored(h: Harness) -> None:
    """A value that cannot be encoded, is too deep or too big an integer raises EncodeError wherever values go."""
    async with _untouched(h, "ada") as space:
        memory, broker = space.memory, space.broker

        async def in_transaction(value: Any) -> None:
            async with space.transaction() as tx:
                tx.write("other", 1, owner="ada")
                tx.write("k", value, owner="ada")

        calls: list[Call] = [
            lambda value: memory.write("k", value, owner="ada"),
            lambda value: memory.create("new", value, owner="ada"),
            lambda value: memory.update("k", value, updater="ada"),
            lambda value: memory.compare_and_swap("k", 1, value, requester="ada"),
            lambda value: memory.modify("k", lambda _: value, updater="ada"),
            lambda value: broker.send(message("ada", value)),
            lambda value: broker.publish("news", message("", value)),
            lambda value: broker.request_response(message("ada", value), timeout=1.0),
            in_transaction,
        ]
        for call in calls:
            await _refuses(EncodeError, call, *_bad_values())


@case()
async def values_above_the_limit(h: Harness) -> None:
    """A value above the declared `max_value_bytes` raises ValueTooLargeError with both sizes; one at it is stored."""
    limit = h.capabilities.max_value_bytes
    async with _untouched(h, "ada") as space:
        with raises(ValueTooLargeError, limit=limit) as caught:
            await space.memory.write("k", b"x" * limit, owner="ada")
        equal(caught[0].size > limit, bool(limit), "whether the size is above the limit")
        with raises(ValueTooLargeError, limit=limit):
            await space.broker.send(message("ada", b"x" * limit))
    framed = b"x" * (limit - len(b"\xc6\x00\x00\x00\x00"))  # what MessagePack puts before long bytes
    await space.memory.write("k", framed, owner="ada")
    equal(await space.memory.read("k", reader="ada"), framed, "the largest value")


@case()
async def bad_times(h: Harness) -> None:
    """A duration that is none raises InvalidInputError from every call that takes one."""
    async with _untouched(h, "ada") as space:
        memory, broker = space.memory, space.broker
        calls: list[Call] = [
            lambda ttl: memory.write("k", 2, owner="ada", ttl=ttl),
            lambda ttl: memory.create("new", 1, owner="ada", ttl=ttl),
            lambda ttl: memory.update("k", 2, updater="ada", ttl=ttl),
            lambda lease: broker.receive("ada", lease=lease, timeout=0),
            lambda timeout: broker.request_response(message("ada"), timeout=timeout),
            lambda ttl: MessagePassingAgent("ada", broker).send("ada", "m", ttl=ttl),
            lambda lease: MemoryRegion("r", memory).grant_access("ada", MemoryAccessMode.EXCLUSIVE, lease=lease),
        ]
        for call in calls:
            await _refuses(InvalidInputError, call, *BAD_SECONDS)
        await _refuses(InvalidInputError, lambda delay: broker.send(message("ada"), delay=delay), *BAD_SECONDS[1:])
        await _refuses(InvalidInputError, lambda wait: broker.receive("ada", timeout=wait), *BAD_SECONDS[1:])


@case()
async def bad_tags(h: Harness) -> None:
    """Tags that are none, too long or too many raise InvalidInputError."""
    bad: list[Any] = ["tag", [""], [7], ["x" * 129], [str(number) for number in range(65)], 7, [["a"]]]
    async with _untouched(h) as space:
        await _refuses(InvalidInputError, lambda tags: space.memory.write("k", 2, owner="ada", tags=tags), *bad)
        await _refuses(InvalidInputError, lambda tags: space.memory.list_keys(tags=tags), *bad)


@case()
async def bad_settings_of_a_mailbox(h: Harness) -> None:
    """A size, number of attempts, policy or concurrency that is none raises InvalidInputError."""
    async with _untouched(h, "ada") as space:
        broker = space.broker

        async def concurrency(count: Any) -> None:
            MessagePassingAgent("ada", broker, concurrency=count)

        await _refuses(InvalidInputError, lambda n: broker.register_agent("ada", max_queue_size=n), *BAD_COUNTS)
        await _refuses(InvalidInputError, lambda n: broker.register_agent("ada", max_attempts=n), *BAD_COUNTS)
        await _refuses(InvalidInputError, concurrency, *BAD_COUNTS)
        choices: tuple[Any, ...] = ("reject", None, WhenFull)
        await _refuses(InvalidInputError, lambda choice: broker.register_agent("ada", when_full=choice), *choices)


@case()
async def bad_messages(h: Harness) -> None:
    """A message that its receiver could not read, or that asks for what there is not, raises InvalidInputError."""
    async with _untouched(h, "ada") as space:

        async def send(fields: Any) -> None:
            await space.broker.send(message("ada", **fields))

        bad: list[Any] = [{"id": one} for one in BAD_IDS]
        bad += [{"sender": 7}, {"headers": {"a": 1}}, {"headers": ["a"]}, {"reply_to": 7}, {"correlation_id": 7}]
        bad += [{"delivery_mode": "exactly_once"}, {"delivery_mode": None}, {"expires": "soon"}]
        await _refuses(InvalidInputError, send, *bad)


@case()
async def bad_modes_of_access(h: Harness) -> None:
    """A mode of access that is none raises InvalidInputError, and the region can still be used."""
    async with _untouched(h) as space:
        region = MemoryRegion("r", space.memory)
        modes: tuple[Any, ...] = ("read", "bogus", None, 7, DeliveryMode.AT_LEAST_ONCE)
        await _refuses(InvalidInputError, lambda mode: region.grant_access("ada", mode), *modes)
        equal(await region.permissions(), {}, "the permissions")


@case()
async def too_large_commits(h: Harness) -> None:
    """A transaction of more parts than the engine declares raises InvalidInputError, and nothing is stored."""
    async with _untouched(h) as space:
        with raises(InvalidInputError):
            async with space.transaction() as tx:
                for number in range(h.capabilities.max_commit_operations + 1):
                    tx.write(f"k{number}", 1, owner="ada")


@case()
async def values_of_another_type(h: Harness) -> None:
    """A value read as another type raises DecodeError that says where it differs, and stays as it is."""
    space = await h.open()
    value = {"people": [{"age": "old"}]}
    await space.memory.write("k", value, owner="ada")
    with raises(DecodeError) as caught:
        await space.memory.read("k", reader="ada", type=cast("Any", dict[str, list[dict[str, int]]]))
    equal("$" in str(caught[0]) and "int" in str(caught[0]), bool(value), f"whether the error says where: {caught[0]}")
    equal(await space.memory.read("k", reader="ada"), value, "the value")


@case()
async def extreme_values_come_back(h: Harness) -> None:
    """Every value within the limits comes back exactly: extreme numbers, 64 levels, empty and odd texts, all bytes."""
    space = await h.open()
    await register(space, "ada")
    values: list[Any] = [
        2**64 - 1,
        -(2**63),
        1e308,
        float("inf"),
        5e-324,
        _nested(64),
        "",
        "\x00",
        "🎻",
        bytes(range(256)),
    ]
    for value in values:
        await space.memory.write("k", value, owner="ada")
        equal(await space.memory.read("k", reader="ada"), value, "the value")
    for value in [one for one in values if one != _nested(64)]:  # a message is a level of its own
        await space.broker.send(message("ada", value))
        delivery = await take(space)
        equal(delivery.message.content, value, "the content")
        await delivery.acknowledge()


@case()
async def urls_that_no_engine_answers_to(h: Harness) -> None:
    """A URL without a known scheme raises InvalidURLError that names the schemes there are."""
    async with _untouched(h):
        for url in ("bogus:x", "no-scheme", "://", "MEMORY:", "memory"):
            with raises(InvalidURLError, url=url) as caught:
                await connect(url)
            equal("memory:" in str(caught[0]), bool(url), f"whether the error names the schemes: {caught[0]}")
