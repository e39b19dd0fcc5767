"""Agents that answer each other's answers: every loop ends, is seen, and stops nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tertulia import DeliveryMode, DeliveryTransaction, Message, MessagePassingAgent, Space
from tertulia.errors import RemoteError
from tertulia.testing.clock import ManualClock

MAX_HOPS = 32  # as the design promises


async def soon(awaitable: Any) -> Any:
    """Await with a bound in real time, so that a hang is a failure and not a stuck test run."""
    return await asyncio.wait_for(awaitable, 5)


async def all_dead_letters(space: Space) -> list[Any]:
    return [letter for info in await space.agents() for letter in await space.broker.dead_letters(info.agent_id)]


@pytest.mark.parametrize("mode", list(DeliveryMode))
async def test_two_polite_agents_that_thank_each_other_end_in_the_dead_letters(
    space: Space, clock: ManualClock, mode: DeliveryMode
) -> None:
    said: list[str] = []

    def polite(name: str, other: str) -> MessagePassingAgent:
        agent = MessagePassingAgent(name, space.broker)

        @agent.on_message("default")
        async def thank(message: Message) -> None:
            said.append(name)
            await agent.send(other, f"thank you for: {message.content[:40]}", delivery_mode=mode)

        return agent

    async with polite("ann", "bob"), polite("bob", "ann"):
        await space.broker.send(Message(sender="chief", receiver="ann", content="hello", delivery_mode=mode))
        await clock.advance(3600)

    assert said == ["ann", "bob"] * (MAX_HOPS // 2) + ["ann"]
    (letter,) = await all_dead_letters(space)
    assert letter.reason == "loop"
    assert letter.message.hops == ("ann", "bob") * (MAX_HOPS // 2) + ("ann",)


@pytest.mark.parametrize("mode", list(DeliveryMode))
async def test_a_loop_through_a_topic_ends_too(space: Space, clock: ManualClock, mode: DeliveryMode) -> None:
    handled = 0
    echo = MessagePassingAgent("echo", space.broker)

    @echo.on_message("default")
    async def repeat(message: Message) -> None:
        nonlocal handled
        handled += 1
        receipt = await echo.publish("chat", message.content, delivery_mode=mode)
        assert receipt.dead_lettered is (handled > MAX_HOPS)

    async with echo:
        await echo.subscribe("chat")
        await space.broker.publish("chat", Message(content="hi"))
        await clock.advance(3600)
    assert handled == MAX_HOPS + 1
    assert [letter.reason for letter in await space.broker.dead_letters("echo")] == ["loop"]


@pytest.mark.parametrize("mode", list(DeliveryMode))
async def test_a_loop_through_transactions_ends_too(space: Space, clock: ManualClock, mode: DeliveryMode) -> None:
    agent = MessagePassingAgent("counter", space.broker)

    @agent.on_message("default")
    async def count(message: Message, transaction: DeliveryTransaction) -> None:
        transaction.write("count", message.content, owner="counter")
        transaction.send(Message(sender="counter", receiver="counter", content=message.content + 1, delivery_mode=mode))

    async with agent:
        await space.broker.send(Message(receiver="counter", content=1))
        await clock.advance(3600)
    assert await space.memory.read("count", reader="test") == MAX_HOPS + 1
    assert [letter.reason for letter in await space.broker.dead_letters("counter")] == ["loop"]


async def test_requests_that_go_round_in_circles_fail_before_their_deadline(space: Space) -> None:
    def passing_on(name: str, other: str) -> MessagePassingAgent:
        agent = MessagePassingAgent(name, space.broker, concurrency=100)
        agent.on_message("default")(lambda message: agent.request(other, message.content, timeout=60))
        return agent

    async with passing_on("ann", "bob") as ann, passing_on("bob", "ann"):
        with pytest.raises(RemoteError) as caught:
            await soon(ann.request("bob", "whose task is this?", timeout=60))
    assert "hops" in str(caught.value)


async def test_a_long_conversation_that_people_keep_going_is_no_loop(space: Space, clock: ManualClock) -> None:
    heard: list[object] = []
    agent = MessagePassingAgent("agent", space.broker)
    agent.on_message("default")(lambda message: heard.append(message.content))
    async with agent:
        for number in range(3 * MAX_HOPS):
            await agent.send("agent", number)  # sent from outside any handler: nothing caused it
            await clock.advance(0)
    assert len(heard) == 3 * MAX_HOPS


async def test_a_loop_that_fans_out_stays_within_its_mailbox_and_others_are_served_meanwhile(space: Space) -> None:
    """Each message makes two: without a bound that would be four thousand million of them."""
    gossip = MessagePassingAgent("gossip", space.broker, max_queue_size=50)

    @gossip.on_message("default")
    async def tell_two(message: Message) -> None:
        for _ in range(2):
            await gossip.send("gossip", message.content)

    calm = MessagePassingAgent("calm", space.broker)
    calm.on_message("default")(lambda message: message.content)
    async with gossip, calm:
        await space.broker.send(Message(receiver="gossip", content="have you heard?"))
        for _ in range(100):
            assert await soon(calm.request("calm", "quiet here")) == "quiet here"
    stats = await space.broker.mailbox_stats("gossip")
    assert stats.waiting + stats.pending + stats.delayed <= 50
