"""Teams at work: pools that share a mailbox, poison, slow readers, crashes, and what each delivery mode promises."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tertulia import (
    Delivery,
    DeliveryMode,
    DeliveryTransaction,
    Message,
    MessagePassingAgent,
    Space,
    WhenFull,
    connect,
)
from tertulia._clock import sleep
from tertulia.errors import AlreadySettledError, MailboxFullError
from tertulia.testing.clock import ManualClock

LEASE = 30.0
LONGEST_RETRY = 60.0


async def soon(awaitable: Any) -> Any:
    """Await with a bound in real time, so that a hang is a failure and not a stuck test run."""
    return await asyncio.wait_for(awaitable, 5)


@pytest.fixture
async def team(clock: ManualClock) -> AsyncIterator[list[Space]]:
    """Three handles on one space, as three processes of an agent would have."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(connect("memory:team", clock=clock)) for _ in range(3)]


async def take(space: Space, agent: str) -> Delivery:
    delivery = await soon(space.broker.receive(agent, timeout=0))
    assert delivery is not None, f"there is nothing for {agent}"
    return delivery


# --- A pool: several handles of one agent --------------------------------------------------------


def hire(space: Space, handled: list[tuple[int, Any]], number: int, clock: ManualClock) -> MessagePassingAgent:
    """Return one member of the pool, that needs a second for each message."""
    worker = MessagePassingAgent("worker", space.broker)

    @worker.on_message("default")
    async def handle(message: Message) -> int:
        await sleep(clock, 1.0)
        handled.append((number, message.content))
        return number

    return worker


async def test_a_pool_shares_its_mailbox_and_each_message_is_handled_by_one_of_it(
    team: list[Space], clock: ManualClock
) -> None:
    handled: list[tuple[int, Any]] = []
    async with AsyncExitStack() as stack:
        for number, space in enumerate(team):
            await stack.enter_async_context(hire(space, handled, number, clock))
        for content in range(30):
            await team[0].broker.send(Message(receiver="worker", content=content))
        await clock.advance(10)
    assert sorted(content for _, content in handled) == list(range(30))
    assert Counter(number for number, _ in handled) == {0: 10, 1: 10, 2: 10}
    assert (await team[1].broker.mailbox_stats("worker")).waiting == 0


async def test_requests_to_a_pool_are_answered_by_different_members_at_the_same_time(
    team: list[Space], clock: ManualClock
) -> None:
    async with AsyncExitStack() as stack:
        for number, space in enumerate(team):
            await stack.enter_async_context(hire(space, [], number, clock))
        clients = [MessagePassingAgent(f"client{number}", space.broker) for number, space in enumerate(team)]
        asked = [asyncio.create_task(client.request("worker", "who?")) for client in clients]
        await clock.advance(1)
        assert sorted(await soon(asyncio.gather(*asked))) == [0, 1, 2]


async def test_the_work_of_a_member_that_left_is_taken_over_by_the_others(
    team: list[Space], clock: ManualClock
) -> None:
    handled: list[tuple[int, Any]] = []
    workers = [hire(space, handled, number, clock) for number, space in enumerate(team)]
    for worker in workers:
        await worker.start()
    for content in range(6):
        await team[0].broker.send(Message(receiver="worker", content=content))
    await clock.advance(0.5)
    await team[2].aclose()  # in the middle of a message
    await clock.advance(10)
    assert sorted(content for _, content in handled) == list(range(6))
    assert {number for number, _ in handled} == {0, 1}


async def test_what_a_frozen_member_held_is_handled_by_another_and_its_late_commit_is_refused(
    team: list[Space], clock: ManualClock
) -> None:
    await team[0].broker.register_agent("worker")
    await team[0].broker.send(Message(receiver="worker", content="pay", delivery_mode=DeliveryMode.EXACTLY_ONCE))
    frozen = await take(team[0], "worker")
    late = frozen.transaction()
    late.write("paid", "by the frozen one", owner="worker")

    await clock.advance(LEASE)
    second = await take(team[1], "worker")
    assert second.idempotency_key == frozen.idempotency_key
    async with second.transaction() as transaction:
        transaction.write("paid", "by the second", owner="worker")

    with pytest.raises(AlreadySettledError):
        await late.commit()
    assert await team[2].memory.read("paid", reader="auditor") == "by the second"
    assert await team[2].broker.receive("worker", timeout=0) is None


async def test_a_long_handler_keeps_its_lease_and_is_not_run_twice(team: list[Space], clock: ManualClock) -> None:
    runs: list[int] = []

    def hire_thinker(space: Space) -> MessagePassingAgent:
        worker = MessagePassingAgent("worker", space.broker)

        @worker.on_message("default")
        async def think(message: Message) -> None:
            runs.append(message.attempt)
            await sleep(clock, 10 * LEASE)

        return worker

    async with AsyncExitStack() as stack:
        for space in team:
            await stack.enter_async_context(hire_thinker(space))
        await team[0].broker.send(Message(receiver="worker"))
        await clock.advance(20 * LEASE)
    assert runs == [1]


# --- Poison --------------------------------------------------------------------------------------


async def test_a_message_that_kills_every_process_that_takes_it_is_a_dead_letter_in_the_end(
    team: list[Space], clock: ManualClock
) -> None:
    await team[0].broker.register_agent("worker", max_attempts=3)
    await team[0].broker.send(Message(id="poison", receiver="worker", content="boom"))
    for attempt in (1, 2, 3):
        killed = await take(team[attempt % 3], "worker")
        assert (killed.message.id, killed.attempt, killed.failures) == ("poison", attempt, attempt - 1)
        await clock.advance(LEASE)  # it never came back
    await team[0].broker.send(Message(receiver="worker", content="harmless"))
    assert (await take(team[0], "worker")).message.content == "harmless"
    (letter,) = await team[1].broker.dead_letters("worker")
    assert (letter.message.id, letter.message.content) == ("poison", "boom")
    assert "3 failed attempts" in letter.reason


async def test_a_poison_message_does_not_hold_up_the_others_and_can_be_redelivered_once_it_is_cured(
    space: Space, clock: ManualClock
) -> None:
    handled: list[object] = []
    cured = False
    worker = MessagePassingAgent("worker", space.broker, max_attempts=3)

    @worker.on_message("default")
    async def handle(message: Message) -> None:
        if message.content == "poison" and not cured:
            raise ValueError("it tastes wrong")
        handled.append(message.content)

    async with worker:
        for content in ("before", "poison", "after"):
            await space.broker.send(Message(receiver="worker", content=content))
        await clock.advance(0)
        assert handled == ["before", "after"]
        await clock.advance(3 * LONGEST_RETRY)
        cured = True
        assert await space.broker.redeliver("worker") == 1
        await clock.advance(0)
    assert handled == ["before", "after", "poison"]
    assert await space.broker.dead_letters("worker") == []


@pytest.mark.parametrize("mode", [DeliveryMode.AT_LEAST_ONCE, DeliveryMode.EXACTLY_ONCE])
async def test_a_redelivered_dead_letter_is_delivered_whatever_its_mode(space: Space, mode: DeliveryMode) -> None:
    broker = space.broker
    await broker.register_agent("worker")
    message = Message(receiver="worker", content="try again", delivery_mode=mode)
    await broker.send(message)
    await (await take(space, "worker")).reject("not today")
    assert await broker.redeliver("worker", message.id) == 1
    again = await take(space, "worker")
    assert again.message.content == "try again"
    assert again.failures == 0
    await again.reject("still not")
    (letter,) = await broker.dead_letters("worker")
    assert [failure.reason for failure in letter.history] == ["not today", "still not"]
    assert await broker.purge("worker") == 1
    assert await broker.dead_letters("worker") == []


# --- A slow subscriber, by what its owner chose ---------------------------------------------------


async def subscribe_slow_and_fast(space: Space, when_full: WhenFull) -> None:
    await space.broker.register_agent("slow", max_queue_size=2, when_full=when_full)
    await space.broker.register_agent("fast", max_queue_size=100)
    for agent in ("slow", "fast"):
        await space.broker.subscribe(agent, "ticks.*")


async def drain(space: Space, agent: str) -> list[Any]:
    contents: list[Any] = []
    while (delivery := await space.broker.receive(agent, timeout=0)) is not None:
        contents.append(delivery.message.content)
        await delivery.acknowledge()
    return contents


async def test_a_slow_subscriber_that_rejects_stops_the_publisher_until_it_has_read(space: Space) -> None:
    await subscribe_slow_and_fast(space, WhenFull.REJECT)
    for tick in (1, 2):
        await space.broker.publish("ticks.s", Message(content=tick))
    with pytest.raises(MailboxFullError):
        await space.broker.publish("ticks.s", Message(content=3))
    assert await drain(space, "slow") == [1, 2]
    assert (await space.broker.publish("ticks.s", Message(content=4))).delivered == 2
    assert await drain(space, "slow") == [4]
    assert await drain(space, "fast") == [1, 2, 4]


async def test_a_slow_subscriber_that_drops_the_oldest_sees_the_newest_and_holds_up_nobody(space: Space) -> None:
    await subscribe_slow_and_fast(space, WhenFull.DROP_OLDEST)
    receipts = [await space.broker.publish("ticks.s", Message(id=f"t{tick}", content=tick)) for tick in range(5)]
    assert [receipt.dropped for receipt in receipts] == [
        (),
        (),
        (("slow", "t0"),),
        (("slow", "t1"),),
        (("slow", "t2"),),
    ]
    assert await drain(space, "slow") == [3, 4]
    assert await drain(space, "fast") == [0, 1, 2, 3, 4]
    dropped = [record for record in space.broker.message_log() if record.status == "dropped"]
    assert [(record.receiver, record.message_id) for record in dropped] == [("slow", f"t{n}") for n in range(3)]


async def test_a_slow_subscriber_that_lets_wait_slows_the_publisher_down_and_misses_nothing(
    space: Space, clock: ManualClock
) -> None:
    await subscribe_slow_and_fast(space, WhenFull.WAIT)

    async def publish_all() -> None:
        for tick in range(6):
            await space.broker.publish("ticks.s", Message(content=tick), timeout=60)

    publishing = asyncio.create_task(publish_all())
    read: list[Any] = []
    for _ in range(6):
        await clock.advance(1)
        assert (await space.broker.queue("slow").size()) <= 2
        delivery = await take(space, "slow")
        read.append(delivery.message.content)
        await delivery.acknowledge()
    await soon(publishing)
    assert read == [0, 1, 2, 3, 4, 5]
    assert await drain(space, "fast") == read


async def test_a_publisher_that_waited_in_vain_is_told_and_nobody_got_the_message(
    space: Space, clock: ManualClock
) -> None:
    await subscribe_slow_and_fast(space, WhenFull.WAIT)
    for tick in (1, 2):
        await space.broker.publish("ticks.s", Message(content=tick))
    publishing = asyncio.create_task(space.broker.publish("ticks.s", Message(content=3), timeout=10))
    await clock.advance(9)
    assert not publishing.done()
    await clock.advance(1)
    with pytest.raises(MailboxFullError) as caught:
        await soon(publishing)
    assert caught.value.agent_id == "slow"
    assert await drain(space, "fast") == [1, 2]


# --- Exactly once, through crashes ----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
async def test_a_pipeline_whose_handlers_crash_at_random_applies_every_step_exactly_once(
    team: list[Space], clock: ManualClock, seed: int
) -> None:
    """A scout finds pages, a reader reads them, a writer adds a line for each: three handlers, three handles."""
    chance = random.Random(seed)  # noqa: S311 - a fair coin is all that is needed
    crashes = 0

    def crash_sometimes() -> None:
        nonlocal crashes
        if chance.random() < 0.4:
            crashes += 1
            raise RuntimeError("crashed")

    scout, reader, writer = (
        MessagePassingAgent(name, space.broker, max_attempts=100, concurrency=3)
        for name, space in zip(("scout", "reader", "writer"), team, strict=True)
    )

    def step(receiver: str, content: object, number: int) -> Message:
        return Message(
            id=f"{receiver}-{number}", receiver=receiver, content=content, delivery_mode=DeliveryMode.EXACTLY_ONCE
        )

    @scout.on_message("default")
    async def find(message: Message, transaction: DeliveryTransaction) -> None:
        crash_sometimes()
        found = await transaction.read("found", reader="scout", default=0)
        await sleep(clock, chance.random())  # the others meanwhile do the same
        transaction.write("found", found + 1, owner="scout")
        transaction.send(step("reader", f"page {message.content}", message.content))
        crash_sometimes()

    @reader.on_message("default")
    async def read(message: Message, transaction: DeliveryTransaction) -> None:
        number = int(message.content.split()[1])
        transaction.create(f"text:{number}", f"text of {message.content}", owner="reader")
        crash_sometimes()
        transaction.send(step("writer", number, number))
        crash_sometimes()

    @writer.on_message("default")
    async def write(message: Message, transaction: DeliveryTransaction) -> None:
        report = await transaction.read("report", reader="writer", default=[])
        text = await transaction.read(f"text:{message.content}", reader="writer")
        await sleep(clock, chance.random())
        crash_sometimes()
        transaction.write("report", [*report, text], owner="writer")
        transaction.delete(f"text:{message.content}", requester="writer")

    async with scout, reader, writer:
        for number in range(20):
            for _ in range(chance.choice([1, 2])):
                await team[0].broker.send(step("scout", number, number))
        await clock.advance(100 * LONGEST_RETRY)

    assert crashes > 20
    memory = team[0].memory
    assert await memory.read("found", reader="auditor") == 20
    report = await memory.read("report", reader="auditor")
    assert sorted(report) == sorted(f"text of page {number}" for number in range(20))
    assert await memory.list_keys("text:*") == []
    for name, stats in (await team[0].broker.get_stats()).mailboxes.items():
        assert (stats.waiting, stats.pending, stats.delayed, stats.dead_letters) == (0, 0, 0, 0), name


async def test_a_message_whose_time_is_over_is_a_dead_letter_and_not_handled(space: Space, clock: ManualClock) -> None:
    client = MessagePassingAgent("client", space.broker)
    await space.broker.register_agent("worker")
    await client.send("worker", "today's news", ttl=10)
    await client.send("worker", "old news", ttl=5)
    await clock.advance(5)
    assert await drain(space, "worker") == ["today's news"]
    (letter,) = await space.broker.dead_letters("worker")
    assert (letter.message.content, letter.reason) == ("old news", "expired")


async def test_an_ordered_mailbox_lets_nothing_overtake_what_is_retried(space: Space, clock: ManualClock) -> None:
    handled: list[object] = []
    worker = MessagePassingAgent("worker", space.broker, ordered=True, concurrency=3)

    @worker.on_message("default")
    async def handle(message: Message) -> None:
        if message.attempt < 3 and message.content % 2:
            raise ValueError("odd")
        handled.append(message.content)

    async with worker:
        for content in range(6):
            await space.broker.send(Message(receiver="worker", content=content))
        await clock.advance(6 * LONGEST_RETRY)
    assert handled == [0, 1, 2, 3, 4, 5]


async def test_messages_of_an_agent_that_is_unregistered_are_kept_as_dead_letters(space: Space) -> None:
    broker = space.broker
    await broker.register_agent("worker")
    for content in (1, 2):
        await broker.send(Message(receiver="worker", content=content))
    assert await broker.unregister_agent("worker") == 2
    letters = await broker.dead_letters("worker")
    assert [(letter.message.content, letter.reason) for letter in letters] == [(1, "unregistered"), (2, "unregistered")]
    await broker.register_agent("worker")
    assert await broker.redeliver("worker") == 2
    assert await drain(space, "worker") == [1, 2]
