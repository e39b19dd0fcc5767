"""Whatever a handler does, its agent goes on, and its message ends acknowledged, retried or among the dead letters."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import pytest

from tertulia import (
    DeliveryMode,
    DeliveryTransaction,
    Message,
    MessagePassingAgent,
    Reject,
    RetryLater,
    Space,
    connect,
)
from tertulia.errors import CorruptRecordError, RemoteError, UnknownAgentError, UnsupportedError
from tertulia.testing.clock import ManualClock

LONGEST_RETRY = 60.0


async def soon(awaitable: Any) -> Any:
    """Await with a bound in real time, so that a hang is a failure and not a stuck test run."""
    return await asyncio.wait_for(awaitable, 5)


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this works")


def retry_later(delay: Any) -> RetryLater:
    return RetryLater(delay, "when the moon is full")


STRANGE_ERRORS: dict[str, Callable[[], BaseException]] = {
    "one whose text cannot be made": UnprintableError,
    "one with a lone surrogate in its text": lambda: ValueError("\ud800"),
    "one with a text of 20 million characters": lambda: ValueError("x" * 20_000_000),
    "one with no text": ValueError,
    "a cancellation that was not the agent's": asyncio.CancelledError,
    "an exception group": lambda: ExceptionGroup("several", [ValueError("1"), KeyError("2")]),
    "an error of an engine": lambda: CorruptRecordError("k", "its checksum differs"),
    "an error about another agent": lambda: UnknownAgentError("somebody"),
    "a timeout": TimeoutError,
    "the end of an iteration": lambda: StopAsyncIteration("nothing left"),
    "a delay that is no number": lambda: retry_later("soon"),
    "a delay that is not a number": lambda: retry_later(math.nan),
    "a delay that never ends": lambda: retry_later(math.inf),
    "a delay in the past": lambda: retry_later(-1.0),
    "a reason that is no text": lambda: Reject(7),  # pyright: ignore[reportArgumentType]
}


def hire(space: Space, error: Callable[[], BaseException]) -> MessagePassingAgent:
    worker = MessagePassingAgent("worker", space.broker, max_attempts=2)

    @worker.on_message("strange")
    async def fail(_: Message) -> None:
        raise error()

    worker.on_message("good")(lambda message: message.content["n"])
    return worker


@pytest.mark.parametrize("what", STRANGE_ERRORS)
async def test_an_agent_outlives_any_exception_of_a_handler_and_the_message_is_a_dead_letter(
    space: Space, clock: ManualClock, what: str
) -> None:
    async with hire(space, STRANGE_ERRORS[what]) as worker:
        await space.broker.send(Message(receiver="worker", content={"type": "strange"}))
        await clock.advance(LONGEST_RETRY)
        assert await soon(worker.request("worker", {"type": "good", "n": 7})) == 7
    (letter,) = await space.broker.dead_letters("worker")
    assert letter.reason
    assert len(letter.reason) <= 500
    assert (await space.broker.mailbox_stats("worker")).pending == 0


@pytest.mark.parametrize("what", [what for what in STRANGE_ERRORS if "delay" not in what])
async def test_a_requester_learns_of_any_exception_of_a_handler(space: Space, what: str) -> None:
    async with hire(space, STRANGE_ERRORS[what]) as worker:
        with pytest.raises(RemoteError) as caught:
            await soon(worker.request("worker", {"type": "strange"}))
        assert caught.value.agent_id == "worker"
        assert len(caught.value.detail) < 10_000
        assert await soon(worker.request("worker", {"type": "good", "n": 7})) == 7


async def test_an_error_from_another_closed_space_does_not_stop_the_agent(space: Space) -> None:
    other = await connect("memory:")
    await other.aclose()
    worker = MessagePassingAgent("worker", space.broker)

    @worker.on_message("read")
    async def read(_: Message) -> None:
        await other.memory.read("k", reader="worker")

    worker.on_message("good")(lambda _: "still here")
    async with worker:
        with pytest.raises(RemoteError, match="SpaceClosedError"):
            await soon(worker.request("worker", {"type": "read"}))
        assert await soon(worker.request("worker", {"type": "good"})) == "still here"


async def test_a_handler_that_awaits_a_task_that_was_cancelled_fails_and_the_agent_goes_on(space: Space) -> None:
    worker = MessagePassingAgent("worker", space.broker)

    @worker.on_message("default")
    async def await_a_cancelled_task(_: Message) -> None:
        task = asyncio.create_task(asyncio.sleep(3600))
        task.cancel()
        await task

    async with worker:
        for _ in range(2):
            with pytest.raises(RemoteError, match="CancelledError"):
                await soon(worker.request("worker", "again"))


async def test_a_handler_that_is_cancelled_by_the_agents_stop_gives_its_message_back_uncounted(
    space: Space, clock: ManualClock
) -> None:
    worker = MessagePassingAgent("worker", space.broker)
    started = asyncio.Event()

    @worker.on_message("default")
    async def never_end(_: Message) -> None:
        started.set()
        await asyncio.Event().wait()

    await worker.start()
    await space.broker.send(Message(receiver="worker", content="long"))
    await soon(started.wait())
    await soon(worker.stop(grace=0))
    await clock.advance(0)
    delivery = await soon(space.broker.receive("worker", timeout=0))
    assert (delivery.message.content, delivery.attempt, delivery.failures) == ("long", 2, 0)


async def test_retrying_later_counts_no_failure_however_often(space: Space, clock: ManualClock) -> None:
    worker = MessagePassingAgent("worker", space.broker, max_attempts=2)
    attempts: list[float] = []

    @worker.on_message("default")
    async def wait_for_the_fifth(message: Message) -> None:
        attempts.append(clock.monotonic())
        if message.attempt < 5:
            raise RetryLater(10)

    async with worker:
        await space.broker.send(Message(receiver="worker"))
        await clock.advance(100)
    assert [later - earlier for earlier, later in pairwise(attempts)] == [10.0] * 4
    assert await space.broker.dead_letters("worker") == []
    assert (await space.broker.get_stats()).failed == 0


async def test_a_request_that_names_a_mailbox_for_its_reply_is_answered_there(space: Space, clock: ManualClock) -> None:
    await space.broker.register_agent("secretary")
    worker = MessagePassingAgent("worker", space.broker)
    worker.on_message("default")(lambda message: message.content * 2)
    async with worker:
        request = Message(sender="boss", receiver="worker", content=21, reply_to="secretary")
        await space.broker.send(request)
        await clock.advance(0)
    reply = (await soon(space.broker.receive("secretary", timeout=0))).message
    assert (reply.content, reply.sender, reply.correlation_id) == (42, "worker", request.id)


async def test_a_reply_to_nobody_harms_neither_the_agent_nor_the_work_done(space: Space, clock: ManualClock) -> None:
    handled: list[object] = []
    worker = MessagePassingAgent("worker", space.broker)

    @worker.on_message("default")
    async def handle(message: Message) -> str:
        handled.append(message.content)
        return "an answer"

    async with worker:
        await space.broker.send(Message(receiver="worker", content=1, reply_to="ghost"))
        await space.broker.send(Message(receiver="worker", content=2))
        await clock.advance(0)
    assert handled == [1, 2]
    assert (await space.broker.mailbox_stats("worker")).waiting == 0


@pytest.mark.parametrize("fails", [False, True])
async def test_a_reply_that_finds_its_mailbox_full_is_tried_again_until_there_is_room(
    space: Space,
    clock: ManualClock,
    fails: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    await space.broker.register_agent("secretary", max_queue_size=1)
    await space.broker.send(Message(receiver="secretary", content="in the way"))
    worker = MessagePassingAgent("worker", space.broker)

    @worker.on_message("default")
    async def answer(_: Message) -> str:
        if fails:
            raise ValueError("no answer")
        return "an answer"

    worker.on_message("good")(lambda _: "still here")
    async with worker:
        await space.broker.send(Message(receiver="worker", reply_to="secretary"))
        await clock.advance(0)
        assert await soon(worker.request("worker", {"type": "good"})) == "still here"
        await (await soon(space.broker.receive("secretary"))).acknowledge()
        await clock.advance(LONGEST_RETRY)
    reply = (await soon(space.broker.receive("secretary", timeout=0))).message
    assert reply.content == ("no answer" if fails else "an answer")


async def test_a_transaction_of_a_handler_that_cannot_be_committed_is_a_failure_like_any_other(
    space: Space, clock: ManualClock
) -> None:
    worker = MessagePassingAgent("worker", space.broker, max_attempts=2)

    @worker.on_message("default")
    async def send_to_nobody(_: Message, transaction: DeliveryTransaction) -> None:
        transaction.write("done", value=True, owner="worker")
        transaction.send(Message(receiver="nobody"))

    async with worker:
        await space.broker.send(Message(receiver="worker"))
        await clock.advance(LONGEST_RETRY)
    (letter,) = await space.broker.dead_letters("worker")
    assert letter.error == "UnknownAgentError"
    assert len(letter.history) == 2
    assert await space.memory.list_keys() == []


async def test_parts_of_a_reply_that_were_sent_before_the_handler_failed_arrive_and_then_the_error(
    space: Space,
) -> None:
    worker = MessagePassingAgent("worker", space.broker)

    @worker.on_message("default")
    async def tell(_: Message) -> AsyncIterator[str]:
        yield "once"
        yield "upon"
        raise UnsupportedError("no more words")

    heard: list[object] = []

    async def listen() -> None:
        async for part in worker.request_stream("worker", "a story"):
            heard.append(part)  # noqa: PERF401 - what was heard before the error is what the test asks

    async with worker:
        with pytest.raises(RemoteError, match="no more words"):
            await soon(listen())
    assert heard == ["once", "upon"]


async def test_a_plain_generator_is_refused_as_a_handler_because_it_would_never_run(space: Space) -> None:
    worker = MessagePassingAgent("worker", space.broker)

    def tell(_: Message) -> Any:
        yield "never said"

    with pytest.raises(ValueError, match="plain generator"):
        worker.on_message("default")(tell)


async def test_a_message_handled_at_most_once_is_gone_after_a_failure(space: Space, clock: ManualClock) -> None:
    attempts: list[int] = []
    worker = MessagePassingAgent("worker", space.broker)

    @worker.on_message("default")
    async def fail(message: Message) -> None:
        attempts.append(message.attempt)
        raise ValueError("dropped it")

    async with worker:
        await worker.send("worker", "ping", delivery_mode=DeliveryMode.AT_MOST_ONCE)
        await clock.advance(LONGEST_RETRY)
    assert attempts == [1]
    assert await space.broker.dead_letters("worker") == []


async def test_a_handler_that_lost_a_race_over_what_it_read_is_called_again_without_counting_a_failure():
    async with connect("memory:") as space:
        teller = MessagePassingAgent("teller", space.broker, max_attempts=1)
        calls = 0

        @teller.on_message("default")
        async def add(message: Message, transaction: DeliveryTransaction) -> None:
            nonlocal calls
            calls += 1
            total = await transaction.read("total", reader="teller", default=0)
            if calls < 4:  # somebody else is faster, three times
                await space.memory.write("total", 100 * calls, owner="rival")
            transaction.write("total", total + message.content, owner="teller")

        async with teller, asyncio.timeout(10), space.memory.watch("total") as changes:
            await MessagePassingAgent("bank", space.broker).send("teller", 5)
            async for change in changes:
                if change.value == 305:
                    break
        assert calls == 4
        assert await space.broker.dead_letters("teller") == []
        assert (await space.broker.get_stats()).failed == 0


@pytest.mark.parametrize("answers", [True, False])
async def test_a_handler_that_commits_its_transaction_by_itself_is_done_with_its_message(answers: bool):  # noqa: FBT001 - a parameter of the test
    async with connect("memory:") as space:
        teller = MessagePassingAgent("teller", space.broker, max_attempts=1)
        calls = 0

        @teller.on_message("default")
        async def add(message: Message, transaction: DeliveryTransaction) -> str:
            nonlocal calls
            calls += 1
            await transaction.read("total", reader="teller")
            if calls == 1:
                await space.memory.write("total", 1, owner="rival")  # somebody else is faster
            transaction.write("total", message.content, owner="teller")
            if answers and message.reply_to is not None:
                transaction.reply("done")
            await transaction.commit()
            return "done"

        async with teller:
            bank = MessagePassingAgent("bank", space.broker)
            assert await soon(bank.request("teller", 5)) == "done"
            await bank.send("teller", 6)
            assert await soon(bank.request("teller", 7)) == "done"
        assert await space.memory.read("total", reader="bank") == 7
        assert calls == 4
        assert (await space.broker.get_stats()).failed == 0
        assert (await space.broker.mailbox_stats("teller")).waiting == 0


async def test_a_transaction_that_fails_for_another_reason_than_a_race_is_a_failure():
    async with connect("memory:") as space:
        teller = MessagePassingAgent("teller", space.broker)
        await space.memory.write("taken", 1, owner="rival")
        calls = 0

        @teller.on_message("default")
        async def take(message: Message, transaction: DeliveryTransaction) -> None:
            nonlocal calls
            calls += 1
            transaction.create("taken", message.content, owner="teller")

        async with teller:
            with pytest.raises(RemoteError, match="KeyExistsError"):
                await MessagePassingAgent("bank", space.broker).request("teller", 5)
        assert calls == 1
