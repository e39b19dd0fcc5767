"""Requests: replies, deadlines, failures, and streams of partial replies."""

from __future__ import annotations

import asyncio
from typing import Any

from tertulia._clock import sleep
from tertulia.agents.message_passing import MessagePassingAgent
from tertulia.errors import (
    InvalidInputError,
    MailboxFullError,
    MessagingError,
    Reject,
    RemoteError,
    RequestTimeoutError,
    SpaceClosedError,
    UnknownAgentError,
)
from tertulia.records import DeliveryMode, Message, WhenFull
from tertulia.space import Space
from tertulia.testing.conformance._expect import equal, expect, logged, no, raises, running, within, yes
from tertulia.testing.conformance._registry import MANUAL_CLOCK, case
from tertulia.testing.conformance._steps import answering, message, pass_time, pause, register, take, unit
from tertulia.testing.conformance.harness import Harness

ENDLESS = 1000.0  # units: a timeout that no case waits out


async def _ask(h: Harness, space: Space, content: object = "ask", *, to: str = "ada", **fields: Any) -> Message:
    timeout = ENDLESS * unit(h)
    return await within(space.broker.request_response(message(to, content, **fields), timeout=timeout))


@case()
async def reply_comes_back(h: Harness) -> None:
    """A request returns the reply to it, from its receiver, with the request's id as correlation id."""
    space = await h.open()
    async with answering(space, lambda request: request.content * 2):
        request = message("ada", 21)
        reply = await within(space.broker.request_response(request, timeout=ENDLESS * unit(h)))
        equal((reply.content, reply.sender, reply.correlation_id), (42, "ada", request.id), "the reply")


@case()
async def replies_find_their_requests(h: Harness) -> None:
    """Of requests that wait at the same time, on several handles, each gets its own reply."""
    space, other = await h.open(), await h.open_again()
    asker = MessagePassingAgent("asker", other.broker)
    async with answering(space, lambda request: [request.content]):
        asked = [asker.request("ada", number, timeout=ENDLESS * unit(h)) for number in range(10)]
        asked += [_content(_ask(h, space, number)) for number in range(10, 20)]
        equal(await within(asyncio.gather(*asked)), [[number] for number in range(20)], "the replies")


async def _content(reply: Any) -> Any:
    return (await reply).content


@case()
async def request_to_nobody_fails_at_once(h: Harness) -> None:
    """A request to an agent that is not registered raises UnknownAgentError at once, not after its timeout."""
    space = await h.open()
    for mode in DeliveryMode:
        with raises(UnknownAgentError, agent_id="nobody"):
            await _ask(h, space, to="nobody", delivery_mode=mode)


@case()
async def request_to_a_full_mailbox_fails_at_once(h: Harness) -> None:
    """A request to a full mailbox that rejects raises MailboxFullError at once."""
    space = await h.open()
    await space.broker.register_agent("ada", max_queue_size=1)
    await space.broker.send(message("ada"))
    with raises(MailboxFullError, agent_id="ada"):
        await _ask(h, space)


@case()
async def request_waits_for_room_no_longer_than_for_its_reply(h: Harness) -> None:
    """A request to a full mailbox whose owner lets senders wait ends at its own timeout, and is not stored."""
    space = await h.open()
    await space.broker.register_agent("ada", max_queue_size=1, when_full=WhenFull.WAIT)
    await space.broker.send(message("ada", "fills it"))
    async with running(space.broker.request_response(message("ada"), timeout=unit(h))) as task:
        await pass_time(h, 0.4)
        no(task.done(), "whether it gave up early")
        await pass_time(h, 1.4)
        with raises(MessagingError):
            await within(task)
    equal((await space.broker.mailbox_stats("ada")).waiting, 1, "how many messages wait")


@case()
async def request_without_reply_times_out(h: Harness) -> None:
    """A request that nobody answers raises RequestTimeoutError, with receiver and timeout, after its timeout."""
    space = await h.open()
    await register(space, "ada")
    async with running(space.broker.request_response(message("ada"), timeout=unit(h))) as task:
        await pass_time(h, 0.4)
        no(task.done(), "whether it gave up early")
        await pass_time(h, 1.2)
        with raises(RequestTimeoutError, receiver="ada") as caught:
            await within(task)
    expect(abs(caught[0].timeout - unit(h)) < unit(h) / 10, "the error should tell the timeout")


@case()
async def overdue_request_is_not_handled(h: Harness) -> None:
    """A request whose requester has given up is not handed to a handler; its end is logged, it is no dead letter."""
    space = await h.open()
    await register(space, "ada")
    with raises(RequestTimeoutError):
        async with running(space.broker.request_response(message("ada"), timeout=unit(h))) as task:
            await pass_time(h, 1.6)
            await within(task)
    equal(await space.broker.receive("ada", timeout=0), None, "what is received")
    equal(await space.broker.dead_letters("ada"), [], "the dead letters")
    statuses = [one.status for one in space.broker.message_log()]
    yes("expired request dropped" in statuses, f"whether it is in the log {statuses}")


@case()
async def late_reply_is_dropped_and_logged(h: Harness) -> None:
    """A reply that comes after the request's end goes nowhere, and is logged and counted."""
    space = await h.open()
    gate = asyncio.Event()

    async def slow(_: Message) -> str:
        await gate.wait()
        return "late"

    async with answering(space, slow):
        with raises(RequestTimeoutError):
            async with running(space.broker.request_response(message("ada"), timeout=unit(h))) as task:
                await pass_time(h, 1.6)
                await within(task)
        with logged() as lines:
            gate.set()
            async with asyncio.timeout(10):
                while not (await space.broker.get_stats()).late_replies:
                    await pause(h)
        yes(any(line.startswith("WARNING late reply") for line in lines), f"whether it is logged: {lines}")
    yes("late reply dropped" in [one.status for one in space.broker.message_log()], "whether it is in the message log")
    equal((await space.broker.mailbox_stats("ada")).pending, 0, "how many messages are pending")


@case(MANUAL_CLOCK)
async def nested_request_inherits_the_deadline(h: Harness) -> None:
    """What a handler asks has no more time than what is left of the request being handled, whatever it says."""
    space = await h.open()
    await register(space, "silent")
    started = space.clock.monotonic()
    ended: list[float] = []
    inner = MessagePassingAgent("ada", space.broker)

    @inner.on_message("default")
    async def ask_further(_: Message) -> object:
        await sleep(space.clock, 4.0)
        try:
            return await inner.request("silent", "?", timeout=3600.0)
        except RequestTimeoutError:
            ended.append(space.clock.monotonic() - started)
            raise

    async with inner:
        with logged():
            async with running(space.broker.request_response(message("ada"), timeout=10.0)) as task:
                await h.advance(11.0)
                with raises(RequestTimeoutError, receiver="ada"):
                    await within(task)
            await h.advance(1.0)
    equal([round(when, 3) for when in ended], [10.0], "when the nested request ended")


@case(MANUAL_CLOCK)
async def nested_request_may_have_less_time(h: Harness) -> None:
    """What a handler asks ends after its own timeout, if that is earlier than the deadline it inherits."""
    space = await h.open()
    await register(space, "silent")
    inner = MessagePassingAgent("ada", space.broker)

    @inner.on_message("default")
    async def ask_further(_: Message) -> str:
        try:
            return await inner.request("silent", "?", timeout=2.0)
        except RequestTimeoutError:
            return "gave up"

    async with inner, running(_ask(h, space)) as task:
        await h.advance(2.5)
        equal((await within(task)).content, "gave up", "the reply")


@case()
async def failing_handler_answers_at_once(h: Harness) -> None:
    """A handler that fails answers its requester at once with RemoteError: who failed, with what, and why."""
    space = await h.open()

    def fail(_: Message) -> None:
        raise ValueError("no such thing")

    async with answering(space, fail):
        with logged() as lines, raises(RemoteError, agent_id="ada", kind="ValueError", detail="no such thing"):
            await _ask(h, space)
        letters = await space.broker.dead_letters("ada")
    equal([one.reason for one in letters], ["ValueError: no such thing"], "the dead letters")
    yes(any("Traceback" in line and "no such thing" in line for line in lines), "whether the traceback is logged")


@case()
async def rejecting_handler_answers_at_once(h: Harness) -> None:
    """A handler that raises Reject answers with its reason, and the request is a dead letter."""
    space = await h.open()

    def refuse(_: Message) -> None:
        raise Reject("not my job")

    async with answering(space, refuse):
        with raises(RemoteError, agent_id="ada", detail="not my job"):
            await _ask(h, space)
        equal([one.reason for one in await space.broker.dead_letters("ada")], ["not my job"], "the dead letters")


@case()
async def missing_handler_answers_at_once(h: Harness) -> None:
    """A request of a type that the agent has no handler for is answered with RemoteError at once."""
    space = await h.open()
    agent = MessagePassingAgent("ada", space.broker)

    @agent.on_message("known")
    def answer(_: Message) -> str:
        return "fine"

    async with agent:
        equal((await _ask(h, space, {"type": "known"})).content, "fine", "the reply to a known type")
        with raises(RemoteError, agent_id="ada") as caught:
            await _ask(h, space, {"type": "unknown"})
    yes("unknown" in caught[0].detail, f"whether the detail names the type: {caught[0].detail}")


@case()
async def answer_that_cannot_be_stored_is_a_failure(h: Harness) -> None:
    """A handler whose result cannot be encoded answers with RemoteError, and its agent goes on."""
    space = await h.open()
    async with answering(space, lambda request: object() if request.content == "bad" else "fine"):
        with logged(), raises(RemoteError, kind="EncodeError"):
            await _ask(h, space, "bad")
        equal((await _ask(h, space, "good")).content, "fine", "the next reply")


@case()
async def reply_goes_with_the_acknowledgement(h: Harness) -> None:
    """The reply and the acknowledgement are one commit: when the reply is there, the request is settled."""
    space = await h.open()
    async with answering(space, lambda _: "done"):
        await _ask(h, space)
        stats = await space.broker.mailbox_stats("ada")
    equal((stats.waiting, stats.pending, stats.dead_letters), (0, 0, 0), "the mailbox")


@case()
async def explicit_reply_comes_before_the_handler_ends(h: Harness) -> None:
    """`agent.reply` answers at once; the handler's result is then no second answer."""
    space = await h.open()
    gate = asyncio.Event()
    agent = MessagePassingAgent("ada", space.broker)

    @agent.on_message("default")
    async def answer_early(request: Message) -> str:
        await agent.reply(request, "early")
        await gate.wait()
        return "late"

    async with agent:
        equal((await _ask(h, space)).content, "early", "the reply")
        gate.set()
        await pause(h)
        await agent.stop()
    equal((await space.broker.get_stats()).late_replies, 0, "how many more replies came")


@case()
async def reply_to_no_request_is_refused(h: Harness) -> None:
    """`reply` raises InvalidInputError when the message does not ask for a reply."""
    space = await h.open()
    await register(space, "ada")
    agent = MessagePassingAgent("ada", space.broker)
    await space.broker.send(message("ada"))
    delivery = await take(space)
    with raises(InvalidInputError):
        await agent.reply(delivery.message, "answer")
    with raises(InvalidInputError):
        delivery.transaction().reply("answer")


@case()
async def handler_result_of_a_plain_message_goes_nowhere(h: Harness) -> None:
    """A message that is no request gets no answer, and is acknowledged."""
    space = await h.open()
    await register(space, "sender")
    handled = asyncio.Event()

    def handle(_: Message) -> str:
        handled.set()
        return "nobody asked"

    async with answering(space, handle):
        await space.broker.send(message("ada"))
        await within(handled.wait())
    equal((await space.broker.mailbox_stats("ada")).pending, 0, "how many messages are pending")
    equal(await space.broker.receive("sender", timeout=0), None, "what the sender gets")


@case()
async def fleeting_request_is_answered(h: Harness) -> None:
    """An AT_MOST_ONCE request to an agent that is there is answered, and neither it nor its reply is stored."""
    space = await h.open()
    async with answering(space, lambda request: [request.content]):
        await pause(h)
        reply = await _ask(h, space, "quick", delivery_mode=DeliveryMode.AT_MOST_ONCE)
        equal(reply.content, ["quick"], "the reply")

    def fail(_: Message) -> None:
        raise ValueError("no")

    async with answering(space, fail, "bob"):
        await pause(h)
        with logged(), raises(RemoteError, agent_id="bob", kind="ValueError"):
            await _ask(h, space, to="bob", delivery_mode=DeliveryMode.AT_MOST_ONCE)


@case()
async def closing_the_space_ends_requests(h: Harness) -> None:
    """A request that waits raises SpaceClosedError when its space is closed."""
    await register(await h.open(), "ada")
    other = await h.open_again()
    async with running(other.broker.request_response(message("ada"), timeout=ENDLESS * unit(h))) as task:
        await pause(h)
        await other.aclose()
        with raises(SpaceClosedError):
            await within(task)


@case()
async def cancelled_request_waits_for_nothing(h: Harness) -> None:
    """A request that is cancelled may still be handled; the reply to it is a late one."""
    space = await h.open()
    gate = asyncio.Event()

    async def slow(_: Message) -> str:
        await gate.wait()
        return "late"

    async with answering(space, slow):
        async with running(space.broker.request_response(message("ada"), timeout=ENDLESS * unit(h))):
            await pause(h)
        with logged():
            gate.set()
            async with asyncio.timeout(10):
                while not (await space.broker.get_stats()).late_replies:
                    await pause(h)


@case()
async def request_id_waits_once(h: Harness) -> None:
    """A second request of the id of one that still waits is refused, and the first one gets its reply."""
    space = await h.open()
    gate = asyncio.Event()

    async def slow(_: Message) -> str:
        await gate.wait()
        return "answer"

    request = message("ada")
    async with answering(space, slow), running(_ask(h, space, id=request.id)) as first:
        await pause(h)
        with raises(InvalidInputError):
            await within(space.broker.request_response(request, timeout=ENDLESS))
        gate.set()
        equal((await within(first)).content, "answer", "the first one's reply")
