"""Streamed replies: part by part, in order, under one deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from tertulia._clock import sleep
from tertulia.errors import (
    RemoteError,
    RequestTimeoutError,
    SpaceClosedError,
)
from tertulia.records import DeliveryMode, Message
from tertulia.space import Space
from tertulia.testing.conformance._expect import equal, logged, raises, running, within
from tertulia.testing.conformance._registry import case
from tertulia.testing.conformance._steps import answering, message, pass_time, pause, unit
from tertulia.testing.conformance.harness import Harness

ENDLESS = 1000.0  # units: a timeout that no case waits out


async def _ask(h: Harness, space: Space, content: object = "ask", *, to: str = "ada", **fields: Any) -> Message:
    timeout = ENDLESS * unit(h)
    return await within(space.broker.request_response(message(to, content, **fields), timeout=timeout))


async def _three(_: Message) -> AsyncIterator[str]:
    for part in ("one", "two", "three"):
        yield part


@case()
async def streamed_reply_comes_in_parts(h: Harness) -> None:
    """What an async generator yields comes part by part, in order, while it still runs."""
    space = await h.open()
    gate = asyncio.Event()

    async def tokens(_: Message) -> AsyncIterator[str]:
        yield "one"
        await gate.wait()
        yield "two"

    async with answering(space, tokens):
        stream = space.broker.request_stream(message("ada"), timeout=ENDLESS * unit(h))
        equal((await within(anext(stream))).content, "one", "the first part, while the handler waits")
        gate.set()
        equal([part.content async for part in stream], ["two"], "the other parts")
    equal((await space.broker.mailbox_stats("ada")).pending, 0, "how many messages are pending")


@case()
async def streamed_reply_to_a_plain_request_comes_as_a_list(h: Harness) -> None:
    """A request whose reply is streamed returns all parts as a list; one that yields nothing, an empty list."""
    space = await h.open()

    async def nothing(_: Message) -> AsyncIterator[str]:
        for part in ():
            yield part

    async with answering(space, _three), answering(space, nothing, "bob"):
        equal((await _ask(h, space)).content, ["one", "two", "three"], "the reply")
        equal((await _ask(h, space, to="bob")).content, [], "the empty reply")


@case()
async def plain_reply_to_a_stream_is_one_part(h: Harness) -> None:
    """A reply that is not streamed comes as the one part of `request_stream`."""
    space = await h.open()
    async with answering(space, lambda _: "whole"):
        stream = space.broker.request_stream(message("ada"), timeout=ENDLESS * unit(h))
        equal([part.content async for part in stream], ["whole"], "the parts")


@case()
async def stream_that_fails_ends_with_the_error(h: Harness) -> None:
    """When the generator fails the parts it yielded come first, then RemoteError."""
    space = await h.open()

    async def fail(_: Message) -> AsyncIterator[str]:
        yield "one"
        raise ValueError("out of words")

    parts: list[object] = []
    async with answering(space, fail):
        with logged(), raises(RemoteError, kind="ValueError", detail="out of words"):
            async for part in space.broker.request_stream(message("ada"), timeout=ENDLESS * unit(h)):
                parts.append(part.content)  # noqa: PERF401 - what came before the error counts
        with logged(), raises(RemoteError, kind="ValueError"):
            await _ask(h, space)
    equal(parts, ["one"], "the parts that came")


@case()
async def stream_has_one_deadline(h: Harness) -> None:
    """A stream's timeout bounds the whole of it: the parts that came are there, then RequestTimeoutError."""
    space = await h.open()

    async def endless(_: Message) -> AsyncIterator[str]:
        yield "one"
        await sleep(space.clock, ENDLESS * unit(h))
        yield "two"

    parts: list[object] = []

    async def read() -> None:
        async for part in space.broker.request_stream(message("ada"), timeout=unit(h)):
            parts.append(part.content)  # noqa: PERF401 - what came before the error counts

    agent = answering(space, endless)
    await agent.start()
    async with running(read()) as task:
        await pass_time(h, 1.6)
        with raises(RequestTimeoutError, receiver="ada"):
            await within(task)
    equal(parts, ["one"], "the parts that came")
    await agent.stop(grace=0)


@case()
async def abandoned_stream_ends_its_generator(h: Harness) -> None:
    """A requester that is gone ends the generator, whose cleanup runs, and the agent goes on."""
    space, other = await h.open(), await h.open_again()
    cleaned = asyncio.Event()

    async def endless(_: Message) -> AsyncIterator[str]:
        try:
            while True:
                yield "more"
                await asyncio.sleep(0)
        finally:
            cleaned.set()

    async with answering(space, endless):
        stream = other.broker.request_stream(message("ada"), timeout=ENDLESS * unit(h))
        await within(anext(stream))
        with logged():
            await other.aclose()
            await within(cleaned.wait())
            with raises(SpaceClosedError):
                async for _ in stream:
                    pass


@case()
async def streamed_fleeting_reply(h: Harness) -> None:
    """An AT_MOST_ONCE request may be answered in parts, too."""
    space = await h.open()
    async with answering(space, _three):
        await pause(h)
        request = message("ada", delivery_mode=DeliveryMode.AT_MOST_ONCE)
        stream = space.broker.request_stream(request, timeout=ENDLESS * unit(h))
        equal([part.content async for part in stream], ["one", "two", "three"], "the parts")
