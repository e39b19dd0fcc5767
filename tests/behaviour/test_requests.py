"""Requests as users make them: many at once, nested, late, given up, and when a space closes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tertulia import DeliveryMode, Message, MessagePassingAgent, Space, WhenFull, connect
from tertulia._clock import sleep
from tertulia.errors import (
    InvalidInputError,
    MailboxFullError,
    RemoteError,
    RequestTimeoutError,
    SpaceClosedError,
)
from tertulia.testing.clock import ManualClock


async def soon(awaitable: Any) -> Any:
    """Await with a bound in real time, so that a hang is a failure and not a stuck test run."""
    return await asyncio.wait_for(awaitable, 5)


def hire_slow(space: Space, clock: ManualClock, seconds: float, name: str = "slow") -> MessagePassingAgent:
    agent = MessagePassingAgent(name, space.broker)

    @agent.on_message("default")
    async def answer(message: Message) -> object:
        await sleep(clock, seconds)
        return message.content

    return agent


@pytest.mark.parametrize("mode", list(DeliveryMode))
async def test_each_of_many_requests_at_once_gets_its_own_answer(space: Space, mode: DeliveryMode) -> None:
    worker = MessagePassingAgent("worker", space.broker, concurrency=20)

    @worker.on_message("default")
    async def double(message: Message) -> int:
        for _ in range(message.content % 7):
            await asyncio.sleep(0)  # so that answers overtake each other
        return message.content * 2

    async with worker:
        asked = [worker.request("worker", number, delivery_mode=mode) for number in range(200)]
        assert await soon(asyncio.gather(*asked)) == [number * 2 for number in range(200)]


@pytest.mark.parametrize("mode", list(DeliveryMode))
async def test_a_request_that_nobody_answers_ends_at_its_deadline_and_is_not_handled_later(
    space: Space, clock: ManualClock, mode: DeliveryMode
) -> None:
    await space.broker.register_agent("asleep")
    client = MessagePassingAgent("client", space.broker)
    asking = asyncio.create_task(client.request("asleep", "awake?", timeout=5, delivery_mode=mode))
    await clock.advance(4.9)
    assert not asking.done()
    await clock.advance(0.1)
    with pytest.raises(RequestTimeoutError) as caught:
        await soon(asking)
    assert (caught.value.receiver, caught.value.timeout) == ("asleep", 5)

    handled: list[object] = []
    awake = MessagePassingAgent("asleep", space.broker)
    awake.on_message("default")(lambda message: handled.append(message.content))
    async with awake:
        await clock.advance(60)
    assert handled == []
    assert await space.broker.dead_letters("asleep") == []


async def test_a_late_answer_is_dropped_logged_and_not_mistaken_for_another_ones(
    space: Space, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with hire_slow(space, clock, 10) as slow:
        first = asyncio.create_task(slow.request("slow", "first", timeout=5))
        await clock.advance(6)
        with pytest.raises(RequestTimeoutError):
            await soon(first)
        second = asyncio.create_task(slow.request("slow", "second", timeout=30))
        await clock.advance(30)
        assert await soon(second) == "second"
    assert (await space.broker.get_stats()).late_replies == 1
    assert "late reply" in caplog.text


async def test_a_nested_request_inherits_what_is_left_of_the_deadline(space: Space, clock: ManualClock) -> None:
    left: list[float] = []
    front = MessagePassingAgent("front", space.broker)

    @front.on_message("default")
    async def pass_on(message: Message) -> object:
        await sleep(clock, 4)
        return await front.request("back", message.content, timeout=3600)

    back = MessagePassingAgent("back", space.broker)

    @back.on_message("default")
    async def look_at_the_clock(message: Message) -> str:
        assert message.expires is not None
        left.append(message.expires - clock.time())
        return "in time"

    async with front, back:
        client = MessagePassingAgent("client", space.broker)
        asking = asyncio.create_task(client.request("front", "hurry", timeout=10))
        await clock.advance(4)
        assert await soon(asking) == "in time"
    assert left == [pytest.approx(6.0)]


async def test_one_message_cannot_be_two_requests_at_the_same_time(space: Space, clock: ManualClock) -> None:
    async with hire_slow(space, clock, 1):
        message = Message(sender="client", receiver="slow", content="once")
        first = asyncio.create_task(space.broker.request_response(message))
        await clock.advance(0)
        with pytest.raises(InvalidInputError, match="waiting"):
            await soon(space.broker.request_response(message))
        await clock.advance(1)
        assert (await soon(first)).content == "once"


async def test_a_request_that_timed_out_can_be_repeated_under_the_same_id(space: Space, clock: ManualClock) -> None:
    message = Message(sender="client", receiver="worker", content="again")
    await space.broker.register_agent("worker")
    first = asyncio.create_task(space.broker.request_response(message, timeout=1))
    await clock.advance(1)
    with pytest.raises(RequestTimeoutError):
        await soon(first)
    async with hire_slow(space, clock, 0.5, "worker"):
        await clock.advance(0)
        again = asyncio.create_task(space.broker.request_response(message, timeout=10))
        await clock.advance(1)
        assert (await soon(again)).content == "again"


async def test_a_request_that_is_given_up_leaves_nothing_behind_that_waits(space: Space, clock: ManualClock) -> None:
    async with hire_slow(space, clock, 1):
        client = MessagePassingAgent("client", space.broker)
        asking = asyncio.create_task(client.request("slow", 1))
        await clock.advance(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(asking)
        await clock.advance(2)
    assert (await space.broker.get_stats()).late_replies == 1


async def test_requests_that_wait_end_when_their_space_closes(clock: ManualClock) -> None:
    space = await connect("memory:", clock=clock)
    for agent in ("asleep", "idle"):
        await space.broker.register_agent(agent)
    client = MessagePassingAgent("client", space.broker)

    async def listen() -> None:
        async for _ in client.request_stream("asleep", "tell me"):
            pass

    waiting = [
        asyncio.create_task(client.request("asleep", "awake?")),
        asyncio.create_task(listen()),
        asyncio.create_task(space.broker.receive("idle")),
    ]
    await clock.advance(0)
    await space.aclose()
    outcomes = await soon(asyncio.gather(*waiting, return_exceptions=True))
    assert [type(outcome) for outcome in outcomes] == [SpaceClosedError] * 3
    with pytest.raises(SpaceClosedError):
        await client.request("asleep", "still there?")


@pytest.mark.parametrize("when_full", [WhenFull.REJECT, WhenFull.WAIT])
async def test_a_request_to_a_full_mailbox_is_refused_at_once_or_at_its_deadline(
    space: Space, clock: ManualClock, when_full: WhenFull
) -> None:
    await space.broker.register_agent("busy", max_queue_size=1, when_full=when_full)
    await space.broker.send(Message(receiver="busy"))
    client = MessagePassingAgent("client", space.broker)
    asking = asyncio.create_task(client.request("busy", "any room?", timeout=10))
    await clock.advance(0)
    assert asking.done() is (when_full is WhenFull.REJECT)
    await clock.advance(10)
    with pytest.raises((MailboxFullError, RequestTimeoutError)):
        await soon(asking)


async def test_an_agent_can_ask_itself_if_it_handles_several_messages_at_once(space: Space) -> None:
    agent = MessagePassingAgent("agent", space.broker, concurrency=2)
    agent.on_message("inner")(lambda _: "from within")
    agent.on_message("outer")(lambda _: agent.request("agent", {"type": "inner"}))
    async with agent:
        assert await soon(agent.request("agent", {"type": "outer"})) == "from within"


async def test_an_answer_given_early_is_the_only_answer(space: Space, clock: ManualClock) -> None:
    agent = MessagePassingAgent("agent", space.broker)
    finished = asyncio.Event()

    @agent.on_message("default")
    async def answer_early(message: Message) -> str:
        await agent.reply(message, "early")
        await sleep(clock, 10)
        finished.set()
        return "late"

    async with agent:
        assert await soon(agent.request("agent", "quick!")) == "early"
        await clock.advance(10)
        await soon(finished.wait())
    assert (await space.broker.get_stats()).late_replies == 0


async def test_a_failure_after_an_early_answer_is_retried_and_not_answered_again(
    space: Space, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    agent = MessagePassingAgent("agent", space.broker, max_attempts=2)

    @agent.on_message("default")
    async def answer_and_fail(message: Message) -> None:
        await agent.reply(message, message.attempt)
        raise ValueError("tidying up failed")

    async with agent:
        assert await soon(agent.request("agent", "quick!", timeout=3600)) == 1
        await clock.advance(60)
    (letter,) = await space.broker.dead_letters("agent")
    assert letter.error == "ValueError"


async def test_a_streamed_answer_comes_part_by_part_and_as_a_list_to_who_asked_for_one(space: Space) -> None:
    poet = MessagePassingAgent("poet", space.broker)
    may_go_on = asyncio.Event()

    @poet.on_message("default")
    async def recite(message: Message) -> AsyncIterator[str]:
        for word in message.content.split():
            yield word
            await may_go_on.wait()

    async with poet:
        parts = poet.request_stream("poet", "to be or not")
        assert await soon(anext(parts)) == "to"
        may_go_on.set()
        assert [part async for part in parts] == ["be", "or", "not"]
        assert await soon(poet.request("poet", "that is")) == ["that", "is"]
        assert await soon(poet.request("poet", "")) == []


async def test_a_streaming_handler_is_stopped_once_the_deadline_of_its_request_is_over(
    space: Space, clock: ManualClock
) -> None:
    told: list[int] = []
    heard: list[int] = []
    ended_at: list[float] = []
    poet = MessagePassingAgent("poet", space.broker)

    @poet.on_message("count")
    async def never_stop(_: Message) -> AsyncIterator[int]:
        try:
            while True:
                told.append(len(told))
                yield told[-1]
                await sleep(clock, 1)
        finally:
            ended_at.append(clock.monotonic())

    poet.on_message("default")(lambda _: "ready for more")
    start = clock.monotonic()
    async with poet:
        parts = poet.request_stream("poet", {"type": "count"}, timeout=10)
        assert await soon(anext(parts)) == 0
        await clock.advance(60)
        assert [at - start for at in ended_at] == [10.0]
        with pytest.raises(RequestTimeoutError):  # what was broken off does not look whole
            await soon(hear_all(parts, heard))
        assert heard == list(range(1, 11))
        assert await soon(poet.request("poet", "are you free?")) == "ready for more"
    assert told == list(range(11))


async def hear_all(parts: AsyncIterator[Any], heard: list[Any]) -> None:
    async for part in parts:
        heard.append(part)  # noqa: PERF401 - what was heard before an error counts


async def test_a_remote_error_names_the_agent_that_failed_at_the_end_of_a_chain(space: Space) -> None:
    front = MessagePassingAgent("front", space.broker)
    front.on_message("default")(lambda message: front.request("back", message.content))
    back = MessagePassingAgent("back", space.broker)

    @back.on_message("default")
    async def fail(_: Message) -> None:
        raise LookupError("the archive is closed")

    async with front, back:
        with pytest.raises(RemoteError, match="'back' failed with LookupError: the archive is closed") as caught:
            await soon(front.request("front", "find it"))
    assert (caught.value.agent_id, caught.value.kind) == ("front", "RemoteError")


async def test_an_answer_that_pushes_an_older_message_out_of_a_mailbox_is_not_silent_about_it(space: Space) -> None:
    worker = MessagePassingAgent("worker", space.broker)
    begun = asyncio.Event()

    @worker.on_message("default")
    async def echo(message: Message) -> object:
        begun.set()
        return message.content

    await space.broker.register_agent("inbox", max_queue_size=1, when_full=WhenFull.DROP_OLDEST)
    older = await space.broker.send(Message(sender="asker", receiver="inbox", content="older"))
    async with worker:
        await space.broker.send(Message(sender="asker", receiver="worker", content="new", reply_to="inbox"))
        await soon(begun.wait())  # and stopping lets the handler, and its answer, finish

    assert (await space.broker.get_stats()).dropped == 1
    assert [record.message_id for record in space.broker.message_log() if record.status == "dropped"] == [
        older.message_id
    ]
