"""The other process of a request between two: `python -m bench.second KIND ADDRESS`.

It says `ready` when requests may come, answers each with its content, says how many it has answered whenever a line
comes in, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from bench.servers import redis_client
from bench.wire import from_bytes, pack, to_bytes, unpack

REDIS_REQUESTS = "requests"  # the list that requests come in
NATS_SUBJECT = "echo"
AGENT = "echo"


class Answered:
    """How many requests were answered here."""

    def __init__(self) -> None:
        self.count = 0


Responder = Callable[[str, Answered], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def tertulia_agent(url: str, answered: Answered) -> AsyncIterator[None]:
    from tertulia import Message, MessagePassingAgent, connect  # noqa: PLC0415 - the peers' processes do without

    async with connect(url) as space, MessagePassingAgent(AGENT, space.broker) as echo:

        @echo.on_message("default")
        async def answer(message: Message) -> object:
            answered.count += 1
            return message.content

        yield


@asynccontextmanager
async def redis_list(path: str, answered: Answered) -> AsyncIterator[None]:
    """Take requests from a list, and push each reply to the list that the request names."""
    client = redis_client(path)

    async def serve() -> None:
        while True:
            _, request = await client.brpop([REDIS_REQUESTS])
            reply_to, content = from_bytes(request)
            answered.count += 1
            await client.lpush(reply_to, to_bytes(content))

    server = asyncio.create_task(serve())
    yield
    server.cancel()
    await asyncio.wait([server])
    await client.aclose()


@asynccontextmanager
async def nats_core(url: str, answered: Answered) -> AsyncIterator[None]:
    import nats  # noqa: PLC0415 - a peer is imported only where it is measured
    from nats.aio.msg import Msg  # noqa: PLC0415 - as above

    connection = await nats.connect(url)

    async def answer(message: Msg) -> None:
        answered.count += 1
        await message.respond(to_bytes(from_bytes(message.data)))

    await connection.subscribe(NATS_SUBJECT, cb=answer)
    await connection.flush()
    yield
    await connection.close()


class Echo(asyncio.DatagramProtocol):
    """Sends each datagram's content back to where it came from."""

    def __init__(self, answered: Answered) -> None:
        self._answered = answered

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: str) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._answered.count += 1
        self._transport.sendto(pack(unpack(data)), addr)


@asynccontextmanager
async def datagrams(path: str, answered: Answered) -> AsyncIterator[None]:
    from socket import AF_UNIX  # noqa: PLC0415 - not everywhere

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: Echo(answered), local_addr=path, family=AF_UNIX)
    yield
    transport.close()


RESPONDERS: dict[str, Responder] = {
    "tertulia": tertulia_agent,
    "redis": redis_list,
    "nats": nats_core,
    "datagrams": datagrams,
}


async def main(kind: str, address: str) -> None:
    answered = Answered()
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with RESPONDERS[kind](address, answered):
        print("ready", flush=True)
        while await lines.readline():
            print(answered.count, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
