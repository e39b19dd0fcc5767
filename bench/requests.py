"""Request and reply in process: AutoGen Core's direct messages, and two bare tasks as the floor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

from bench.rows import CONTENT, Direction, Pair, Row, Sampler, Scale
from tertulia import Message, MessagePassingAgent, connect

Ask = Callable[[Any], Awaitable[Any]]


class Counter:
    """How many requests a handler has answered."""

    def __init__(self) -> None:
        self.count = 0


@asynccontextmanager
async def our_echo() -> AsyncIterator[Sampler]:
    """An agent that asks another one, which answers from a handler; the default delivery mode."""
    answered = Counter()
    async with connect("memory:") as space, MessagePassingAgent("echo", space.broker) as echo:

        @echo.on_message("default")
        async def answer(message: Message) -> object:
            answered.count += 1
            return message.content

        asker = MessagePassingAgent("asker", space.broker)
        for number in range(3):
            assert await asker.request("echo", [number]) == [number]

        async def sample(count: int) -> float:
            before = answered.count
            reply: Any = None
            start = perf_counter()
            for _ in range(count):
                reply = await asker.request("echo", CONTENT)
            seconds = perf_counter() - start
            assert reply == CONTENT
            assert answered.count - before == count
            return seconds

        yield sample


@asynccontextmanager
async def _autogen(_: Scale) -> AsyncIterator[Pair]:
    from bench import autogen_echo  # noqa: PLC0415 - a peer is imported only where it is measured

    async with autogen_echo.running() as (ask, echo), our_echo() as ours:

        async def peer(count: int) -> float:
            before = echo.count
            reply: Any = None
            start = perf_counter()
            for _ in range(count):
                reply = await ask(autogen_echo.REQUEST)
            seconds = perf_counter() - start
            assert reply == autogen_echo.REQUEST
            assert echo.count - before == count
            return seconds

        yield Pair(peer, ours)


class PingPong:
    """Two tasks that hand each other futures: what any request in one event loop has to pay."""

    def __init__(self) -> None:
        self.count = 0
        self._loop = asyncio.get_running_loop()
        self._inbox: asyncio.Future[tuple[Any, asyncio.Future[Any]]] = self._loop.create_future()

    async def serve(self) -> None:
        while True:
            content, reply = await self._inbox
            self._inbox = self._loop.create_future()
            self.count += 1
            reply.set_result(content)

    async def ask(self, content: object) -> object:
        reply = self._loop.create_future()
        self._inbox.set_result((content, reply))
        return await reply


@asynccontextmanager
async def _futures(_: Scale) -> AsyncIterator[Pair]:
    floor = PingPong()

    async def peer(count: int) -> float:
        before = floor.count
        reply: Any = None
        start = perf_counter()
        for _ in range(count):
            reply = await floor.ask(CONTENT)
        seconds = perf_counter() - start
        assert reply == CONTENT
        assert floor.count - before == count
        return seconds

    async with asyncio.TaskGroup() as tasks, our_echo() as ours:
        server = tasks.create_task(floor.serve())
        yield Pair(peer, ours)
        server.cancel()


ROWS = (
    Row(
        name="request-autogen",
        what="agent.request, answered by a handler",
        peer="AutoGen Core send_message",
        package="autogen-core",
        target=10.0,
        direction=Direction.SPEED_AT_LEAST,
        measure=_autogen,
    ),
    Row(
        name="request-futures",
        what="agent.request, answered by a handler",
        peer="two tasks handing over futures",
        target=3.0,
        direction=Direction.TIME_AT_MOST,
        measure=_futures,
    ),
)
