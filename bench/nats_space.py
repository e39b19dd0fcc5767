"""A space on NATS against the same calls made with the plain client, on one server with file storage.

The plain calls do what the space's do for their caller: the value is encoded and decoded, a read is answered by the
leader, a write and a send are acknowledged by the stream. They have no versions, no owners, no leases.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count as counter
from time import perf_counter
from typing import Any

from bench.file_requests import Ask, asking, until_it_listens
from bench.memory import KEYS, filled, keys, our_read, our_write
from bench.rows import CONTENT, Direction, Pair, Row, Sampler, Scale
from bench.second import AGENT, NATS_SUBJECT
from bench.servers import Second, directory, nats_server, second_process
from bench.wire import from_bytes, to_bytes
from tertulia import DeliveryMode, Message, MessagePassingAgent, connect

PLAIN, SUBJECT = "plain", "plain.{}"
NATS = "nats-py over loopback, JSON"
ROOM = 100_000  # messages that a mailbox takes; a sample sends far fewer


@asynccontextmanager
async def _server() -> AsyncIterator[str]:
    with directory() as place:
        async with nats_server("--jetstream", "--store_dir", str(place)) as url:
            yield url


@asynccontextmanager
async def _plain(url: str) -> AsyncIterator[Any]:
    """Connect plainly, with a stream that keeps the last message of each subject, as the space's does."""
    import nats  # noqa: PLC0415 - a peer is imported only where it is measured
    from nats.js.api import StreamConfig  # noqa: PLC0415 - as above

    connection = await nats.connect(url)
    try:
        stream = connection.jetstream()
        await stream.add_stream(StreamConfig(name=PLAIN, subjects=[SUBJECT.format(">")], max_msgs_per_subject=1))
        yield stream
    finally:
        await connection.close()


def _subjects(count: int) -> list[str]:
    return [SUBJECT.format(key.replace(":", ".")) for key in keys(count)]


# --- reading and writing -------------------------------------------------------------------------


def _plain_read(stream: Any) -> Sampler:
    async def sample(count: int) -> float:
        subjects, value = _subjects(count), None
        start = perf_counter()
        for subject in subjects:
            value = from_bytes((await stream.get_last_msg(PLAIN, subject)).data)
        seconds = perf_counter() - start
        assert value == CONTENT
        return seconds

    return sample


def _plain_write(stream: Any) -> Sampler:
    async def sample(count: int) -> float:
        subjects, acknowledged = _subjects(count), None
        start = perf_counter()
        for subject in subjects:
            acknowledged = await stream.publish(subject, to_bytes(CONTENT))
        seconds = perf_counter() - start
        assert acknowledged is not None
        assert acknowledged.stream == PLAIN
        return seconds

    return sample


@asynccontextmanager
async def _read(_: Scale) -> AsyncIterator[Pair]:
    async with _server() as url, _plain(url) as stream, filled(None, f"{url}/bench") as memory:
        for subject in _subjects(len(KEYS)):
            await stream.publish(subject, to_bytes(CONTENT))
        yield Pair(_plain_read(stream), our_read(memory))


@asynccontextmanager
async def _write(_: Scale) -> AsyncIterator[Pair]:
    async with _server() as url, _plain(url) as stream, filled(None, f"{url}/bench") as memory:
        yield Pair(_plain_write(stream), our_write(memory, None))


# --- sending -------------------------------------------------------------------------------------


@asynccontextmanager
async def _send(_: Scale) -> AsyncIterator[Pair]:
    numbers = counter()

    async with _server() as url, _plain(url) as stream, connect(f"{url}/bench") as space:

        async def plain(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                await stream.publish(SUBJECT.format(f"mail.{next(numbers)}"), to_bytes(CONTENT))
            return perf_counter() - start

        async def ours(count: int) -> float:
            await space.broker.unregister_agent(AGENT)
            await space.broker.register_agent(AGENT, max_queue_size=ROOM)
            start = perf_counter()
            for _ in range(count):
                await space.broker.send(Message(sender="bench", receiver=AGENT, content=CONTENT))
            seconds = perf_counter() - start
            assert await space.broker.queue(AGENT).size() == count
            return seconds

        yield Pair(plain, ours)


# --- asking --------------------------------------------------------------------------------------


def _request(mode: DeliveryMode) -> Callable[[Scale], Any]:
    @asynccontextmanager
    async def measure(_: Scale) -> AsyncIterator[Pair]:
        async with _server() as url, _plain_requests(url) as theirs, _our_requests(f"{url}/bench", mode) as ours:
            yield Pair(asking(*theirs), asking(*ours))

    return measure


@asynccontextmanager
async def _plain_requests(url: str) -> AsyncIterator[tuple[Ask, Second]]:
    import nats  # noqa: PLC0415 - a peer is imported only where it is measured

    async with second_process("nats", url) as second:
        connection = await nats.connect(url)

        async def ask(content: object) -> object:
            return from_bytes((await connection.request(NATS_SUBJECT, to_bytes(content))).data)

        try:
            yield ask, second
        finally:
            await connection.close()


@asynccontextmanager
async def _our_requests(url: str, mode: DeliveryMode) -> AsyncIterator[tuple[Ask, Second]]:
    async with connect(url) as space, second_process("tertulia", url) as second:
        asker = MessagePassingAgent("asker", space.broker)

        async def ask(content: object) -> object:
            return await asker.request(AGENT, content, delivery_mode=mode)

        await until_it_listens(ask)
        yield ask, second


def _row(name: str, what: str, call: str, measure: Callable[[Scale], Any], target: float | None = 1.25) -> Row:
    return Row(
        name=name,
        what=f"{what}, NATS",
        peer=f"{NATS}: {call}",
        package="nats-py",
        program="nats-server",
        target=target,
        direction=Direction.TIME_AT_MOST,
        measure=measure,
    )


ROWS = (
    _row("nats-read", "memory.read", "get_last_msg", _read),
    _row("nats-write", "memory.write", "JetStream publish", _write),
    _row("nats-send", "broker.send", "JetStream publish", _send),
    _row(
        "nats-request",
        "agent.request between two processes, at most once",
        "request (core)",
        _request(DeliveryMode.AT_MOST_ONCE),
    ),
    # Stored before it is handled, and settled with its answer: two writes that a plain request does not make.
    _row(
        "nats-request-durable",
        "agent.request between two processes, durable",
        "request (core), which is not",
        _request(DeliveryMode.AT_LEAST_ONCE),
        target=None,
    ),
)
