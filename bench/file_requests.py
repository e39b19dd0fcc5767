"""Request and reply between two processes that share a file, against servers on the same machine and bare datagrams.

On every side the one who asks is in this process, and the one who answers is in another, `bench.second`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count as counter
from socket import AF_UNIX
from statistics import quantiles
from time import perf_counter
from typing import Any

from bench.rows import CONTENT, Direction, Pair, Row, Sampler, Scale
from bench.second import AGENT, NATS_SUBJECT, REDIS_REQUESTS
from bench.servers import START_LIMIT, Second, directory, nats_server, redis_server, second_process
from bench.wire import from_bytes, pack, to_bytes, unpack
from tertulia import DeliveryMode, MessagePassingAgent, connect
from tertulia.errors import MessagingError

Ask = Callable[[Any], Awaitable[Any]]

FOR_A_TAIL = 1_000  # requests at least, so that the slowest hundredth is ten


def asking(ask: Ask, second: Second) -> Sampler:
    async def sample(count: int) -> float:
        before = await second.answered()
        reply: Any = None
        start = perf_counter()
        for _ in range(count):
            reply = await ask(CONTENT)
        seconds = perf_counter() - start
        assert reply == CONTENT
        assert await second.answered() - before == count
        return seconds

    return sample


# --- Ours ----------------------------------------------------------------------------------------


@asynccontextmanager
async def _file(mode: DeliveryMode) -> AsyncIterator[tuple[Ask, Second]]:
    with directory() as place:
        url = f"file:{place}/space.db"
        async with connect(url) as space, second_process("tertulia", url) as second:
            asker = MessagePassingAgent("asker", space.broker)

            async def ask(content: object) -> object:
                return await asker.request(AGENT, content, delivery_mode=mode)

            await until_it_listens(ask)
            yield ask, second


async def until_it_listens(ask: Ask) -> None:
    """Ask until there is an answer: what is not stored is for who listens already."""
    async with asyncio.timeout(START_LIMIT):
        while True:
            try:
                assert await ask([1]) == [1]
            except MessagingError:
                await asyncio.sleep(0.01)
            else:
                return


# --- The peers -----------------------------------------------------------------------------------


@asynccontextmanager
async def _redis_lists() -> AsyncIterator[tuple[Ask, Second]]:
    async with redis_server() as (client, path), second_process("redis", path) as second:
        numbers = counter()

        async def ask(content: object) -> object:
            reply_to = f"reply:{next(numbers)}"
            await client.lpush(REDIS_REQUESTS, to_bytes((reply_to, content)))
            _, reply = await client.brpop([reply_to])
            return from_bytes(reply)

        yield ask, second


@asynccontextmanager
async def _nats_core() -> AsyncIterator[tuple[Ask, Second]]:
    import nats  # noqa: PLC0415 - a peer is imported only where it is measured

    async with nats_server() as url, second_process("nats", url) as second:
        connection = await nats.connect(url)

        async def ask(content: object) -> object:
            return from_bytes((await connection.request(NATS_SUBJECT, to_bytes(content))).data)

        try:
            yield ask, second
        finally:
            await connection.close()


class Asking(asyncio.DatagramProtocol):
    """One request at a time, and the datagram that answers it."""

    def __init__(self, peer: str) -> None:
        self._peer = peer

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self._transport = transport

    async def ask(self, content: object) -> object:
        self._reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._transport.sendto(pack(content), self._peer)
        return unpack(await self._reply)

    def datagram_received(self, data: bytes, _addr: str) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._reply.set_result(data)


@asynccontextmanager
async def _datagrams() -> AsyncIterator[tuple[Ask, Second]]:
    with directory() as place:
        path = str(place / "answers")
        async with second_process("datagrams", path) as second:
            transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: Asking(path), local_addr=str(place / "asks"), family=AF_UNIX
            )
            yield protocol.ask, second
            transport.close()


# --- Rows ----------------------------------------------------------------------------------------

Side = Callable[[], Any]  # an async context manager of (Ask, Second)


def _against(peer: Side, mode: DeliveryMode) -> Callable[[Scale], Any]:
    @asynccontextmanager
    async def measure(_: Scale) -> AsyncIterator[Pair]:
        async with peer() as theirs, _file(mode) as ours:
            yield Pair(asking(*theirs), asking(*ours))

    return measure


@asynccontextmanager
async def _tail(_: Scale) -> AsyncIterator[Pair]:
    """The hundredth part of our requests that took longest, against their median, in the same sample."""
    async with _file(DeliveryMode.AT_LEAST_ONCE) as (ask, second):
        latest: list[float] = []

        async def median(count: int) -> float:
            latest.clear()
            before = await second.answered()
            for _ in range(max(count, FOR_A_TAIL)):
                start = perf_counter()
                reply = await ask(CONTENT)
                latest.append(perf_counter() - start)
                assert reply == CONTENT
            assert await second.answered() - before == len(latest)
            return quantiles(latest, n=100)[49] * count

        async def slowest(count: int) -> float:
            return quantiles(latest, n=100)[98] * count

        yield Pair(median, slowest)


WHAT = "agent.request between two processes, file"

ROWS = (
    Row(
        name="file-request-redis",
        what=f"{WHAT}, durable",
        peer="Redis lists, redis-py asyncio with hiredis over Unix sockets, JSON: LPUSH + BRPOP, each way",
        package="redis",
        program="redis-server",
        target=2.0,
        direction=Direction.SPEED_AT_LEAST,
        measure=_against(_redis_lists, DeliveryMode.AT_LEAST_ONCE),
    ),
    Row(
        name="file-request-nats",
        what=f"{WHAT}, durable",
        peer="NATS core, nats-py over loopback, JSON: request",
        package="nats-py",
        program="nats-server",
        target=2.0,
        direction=Direction.SPEED_AT_LEAST,
        measure=_against(_nats_core, DeliveryMode.AT_LEAST_ONCE),
    ),
    Row(
        name="file-request-tail",
        what=f"{WHAT}, durable: p99",
        peer="itself, p50",
        target=5.0,
        direction=Direction.TIME_AT_MOST,
        measure=_tail,
    ),
    Row(
        name="file-request-datagrams",
        what=f"{WHAT}, at most once",
        peer="bare asyncio Unix datagrams",
        target=1.5,
        direction=Direction.TIME_AT_MOST,
        measure=_against(_datagrams, DeliveryMode.AT_MOST_ONCE),
    ),
)
