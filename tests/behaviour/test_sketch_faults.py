"""The faults of the sketch that the library grew from: each has a test that shows the right behaviour.

Design, section 8. Unless a test advances the clock, no time passes: what happens, happens without waiting.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from tertulia import (
    DeliveryMode,
    MemoryAccessMode,
    MemoryAwareAgent,
    MemoryRegion,
    Message,
    MessagePassingAgent,
    Receipt,
    Space,
    WhenFull,
)
from tertulia.errors import AccessDeniedError, KeyNotFoundError, MailboxFullError, RemoteError, UnknownAgentError
from tertulia.testing.clock import ManualClock

LEASE = 30.0  # the default lease of a delivery
LONGEST_RETRY = 60.0  # no retry waits longer


async def soon(awaitable: Any) -> Any:
    """Await with a bound in real time, so that a hang is a failure and not a stuck test run."""
    return await asyncio.wait_for(awaitable, 5)


# --- Messages: pending, duplicates, failures -----------------------------------------------------


async def test_a_message_whose_receiver_died_before_acknowledging_is_delivered_again(
    space: Space, clock: ManualClock
) -> None:
    await space.broker.register_agent("worker")
    await space.broker.send(Message(receiver="worker", content="task"))
    lost = await soon(space.broker.receive("worker"))
    assert await space.broker.receive("worker", timeout=0) is None

    await clock.advance(LEASE + 1)

    again = await soon(space.broker.receive("worker"))
    assert again.message.content == "task"
    assert again.message.id == lost.message.id
    assert (lost.attempt, again.attempt) == (1, 2)


async def test_pending_messages_are_counted_until_they_are_acknowledged(space: Space) -> None:
    queue = space.broker.queue("worker")
    await space.broker.register_agent("worker")
    await queue.enqueue(Message(content="task"))
    delivery = await soon(queue.dequeue())
    assert (await queue.size(), await queue.get_pending_count()) == (0, 1)
    await queue.acknowledge(delivery.message.id)
    assert (await queue.size(), await queue.get_pending_count()) == (0, 0)


async def test_a_duplicate_of_a_message_that_was_handled_already_is_not_handled_again(
    space: Space, clock: ManualClock
) -> None:
    handled: list[object] = []
    worker = MessagePassingAgent("worker", space.broker)
    worker.on_message("default")(lambda message: handled.append(message.content))
    client = MessagePassingAgent("client", space.broker)
    async with worker:
        for _ in range(3):
            receipt = await client.send(
                "worker", "charge 10", delivery_mode=DeliveryMode.EXACTLY_ONCE, message_id="order-7"
            )
            await clock.advance(0)
    assert handled == ["charge 10"]
    assert receipt == Receipt("order-7", delivered=0, duplicate=True)


async def test_a_duplicate_of_a_message_that_is_being_handled_is_not_stored(space: Space) -> None:
    await space.broker.register_agent("worker")
    message = Message(receiver="worker", content=1, delivery_mode=DeliveryMode.EXACTLY_ONCE)
    await space.broker.send(message)
    delivery = await soon(space.broker.receive("worker"))
    assert (await space.broker.send(message)).duplicate
    await delivery.acknowledge()
    assert (await space.broker.send(message)).duplicate
    assert await space.broker.receive("worker", timeout=0) is None


async def test_no_handled_message_is_forgotten_however_many_come_after_it(space: Space) -> None:
    broker = space.broker
    await broker.register_agent("worker")
    messages = [
        Message(id=f"m{number}", receiver="worker", content=number, delivery_mode=DeliveryMode.EXACTLY_ONCE)
        for number in range(11_000)  # the sketch forgot half of them, any half, from 10,000 on
    ]
    for message in messages:
        await broker.send(message)
        await (await soon(broker.receive("worker"))).acknowledge()
    again = [await broker.send(message) for message in messages]
    assert all(receipt.duplicate for receipt in again)


async def test_a_failing_handler_answers_its_requester_at_once(space: Space) -> None:
    worker = MessagePassingAgent("worker", space.broker)

    @worker.on_message("task")
    async def fail(message: Message) -> None:
        raise ZeroDivisionError(f"no way to do {message.content['n']}")

    client = MessagePassingAgent("client", space.broker)
    async with worker:
        with pytest.raises(RemoteError) as caught:
            await soon(client.request("worker", {"type": "task", "n": 7}, timeout=3600.0))
    assert (caught.value.agent_id, caught.value.kind) == ("worker", "ZeroDivisionError")
    assert caught.value.detail == "no way to do 7"


async def test_a_failing_handler_is_logged_retried_and_at_last_its_message_is_a_dead_letter(
    space: Space, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    worker = MessagePassingAgent("worker", space.broker, max_attempts=3)
    attempts: list[int] = []

    @worker.on_message("default")
    async def fail(message: Message) -> None:
        attempts.append(message.attempt)
        raise ValueError("cannot read it")

    async with worker:
        await space.broker.send(Message(receiver="worker", content="scroll"))
        for _ in range(3):
            await clock.advance(LONGEST_RETRY)

    assert attempts == [1, 2, 3]
    (letter,) = await space.broker.dead_letters("worker")
    assert letter.message.content == "scroll"
    assert letter.reason == "ValueError: cannot read it"
    assert [failure.attempt for failure in letter.history] == [1, 2, 3]
    assert all("raise ValueError" in failure.traceback for failure in letter.history)
    assert len([record for record in caplog.records if record.exc_info and record.levelno == logging.ERROR]) == 3


async def test_a_message_that_no_handler_is_for_is_kept_as_a_dead_letter_not_swallowed(
    space: Space, clock: ManualClock
) -> None:
    worker = MessagePassingAgent("worker", space.broker)
    worker.on_message("task")(lambda _: None)
    async with worker:
        await space.broker.send(Message(receiver="worker", content={"type": "riddle"}))
        await clock.advance(0)
    (letter,) = await space.broker.dead_letters("worker")
    assert letter.message.content == {"type": "riddle"}
    assert "riddle" in letter.reason


async def test_a_send_to_nobody_is_refused_at_once(space: Space) -> None:
    with pytest.raises(UnknownAgentError) as caught:
        await space.broker.send(Message(receiver="nobody", content=1))
    assert caught.value.agent_id == "nobody"


async def test_a_request_to_nobody_is_refused_at_once(space: Space) -> None:
    client = MessagePassingAgent("client", space.broker)
    with pytest.raises(UnknownAgentError):
        await soon(client.request("nobody", "anyone there?", timeout=3600.0))


async def test_a_publication_that_one_full_mailbox_refuses_reaches_nobody_and_says_so(space: Space) -> None:
    broker = space.broker
    for agent in ("roomy", "full"):
        await broker.register_agent(agent, max_queue_size=1 if agent == "full" else 10)
        await broker.subscribe(agent, "news")
    assert (await broker.publish("news", Message(content=1))).delivered == 2
    with pytest.raises(MailboxFullError) as caught:
        await broker.publish("news", Message(content=2))
    assert caught.value.agent_id == "full"
    assert [await broker.queue(agent).size() for agent in ("roomy", "full")] == [1, 1]


async def test_what_a_full_mailbox_drops_is_named_in_the_receipt_and_counted(space: Space) -> None:
    broker = space.broker
    await broker.register_agent("viewer", max_queue_size=1, when_full=WhenFull.DROP_OLDEST)
    await broker.subscribe("viewer", "frames")
    first = await broker.publish("frames", Message(content="old"))
    second = await broker.publish("frames", Message(content="new"))
    assert second.dropped == (("viewer", first.message_id),)
    assert (await broker.get_stats()).dropped == 1
    assert (await soon(broker.receive("viewer"))).message.content == "new"


async def test_one_message_sent_to_several_agents_names_each_as_its_receiver(space: Space) -> None:
    message = Message(sender="chief", content="meet at noon")
    receivers = ["ann", "bob", "eve"]
    for agent in receivers:
        await space.broker.register_agent(agent)
    for agent in receivers:
        await space.broker.queue(agent).enqueue(message)
    assert message.receiver == ""
    with pytest.raises(AttributeError):
        message.receiver = "ann"  # pyright: ignore[reportAttributeAccessIssue]
    got = [(await soon(space.broker.receive(agent))).message for agent in receivers]
    assert [one.receiver for one in got] == receivers
    assert {one.id for one in got} == {message.id}


# --- Memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("falsy", [0, "", [], {}, False, None])
async def test_a_falsy_result_is_a_result(space: Space, falsy: object) -> None:
    await MemoryAwareAgent("a", space.memory).share_result("count", falsy)
    assert await MemoryAwareAgent("b", space.memory).get_shared_result("count", default="missing") == falsy


async def test_an_expired_entry_is_seen_by_no_kind_of_read(space: Space, clock: ManualClock) -> None:
    memory = space.memory
    await memory.write("cache:page", "text", owner="a", ttl=10, tags=["cached"])
    await memory.write("kept", "text", owner="b")
    await clock.advance(10)

    assert await memory.read("cache:page", reader="b") is None
    assert await memory.read_with_metadata("cache:page", reader="b") is None
    assert await memory.list_keys() == ["kept"]
    assert await memory.list_keys(tags=["cached"]) == []
    assert [entry.key async for entry in memory.entries()] == ["kept"]
    assert [entry.key for entry in (await memory.snapshot()).entries] == ["kept"]
    stats = await memory.get_stats()
    assert (stats.total_entries, stats.entries_by_owner) == (1, {"b": 1})


async def test_an_expired_entry_can_be_neither_updated_swapped_nor_deleted(space: Space, clock: ManualClock) -> None:
    memory = space.memory
    await memory.write("k", 1, owner="a", ttl=10)
    await clock.advance(10)
    with pytest.raises(KeyNotFoundError):
        await memory.update("k", 2, updater="a")
    assert not await memory.compare_and_swap("k", 1, 2, requester="a")
    assert not await memory.delete("k", requester="a")
    assert (await memory.create("k", 3, owner="b")).version == 1


async def test_a_lifetime_counts_from_the_last_write(space: Space, clock: ManualClock) -> None:
    memory = space.memory
    await memory.write("k", 1, owner="a", ttl=10)
    await clock.advance(8)
    await memory.update("k", 2, updater="a")
    await clock.advance(8)
    assert await memory.read("k", reader="a") == 2
    await clock.advance(2)
    assert await memory.read("k", reader="a") is None


async def test_a_callback_may_use_the_memory_and_wait_for_other_agents(space: Space, clock: ManualClock) -> None:
    memory = space.memory
    answered = asyncio.Event()

    async def callback(key: str, event: str, value: object) -> None:
        await memory.write("echo", [key, event, value], owner="b")
        await answered.wait()  # under a lock that the writer needs, this would never come
        await memory.write("done", value=True, owner="b")

    await memory.subscribe("question", callback)
    await soon(memory.write("question", "why?", owner="a"))
    await clock.advance(0)
    assert await memory.read("echo", reader="a") == ["question", "write", "why?"]
    await soon(memory.write("another", 1, owner="a"))
    answered.set()
    await clock.advance(0)
    assert await memory.read("done", reader="a") is True


async def test_a_callback_that_fails_breaks_neither_the_writer_nor_other_callbacks(
    space: Space, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[object] = []

    def broken(key: str, event: str, value: object) -> None:
        seen.append(value)
        raise RuntimeError(f"{key} {event} was too much")

    await space.memory.subscribe("k", broken)
    await space.memory.subscribe("*", lambda _key, _event, value: seen.append(value))
    for value in (1, 2):
        assert (await space.memory.write("k", value, owner="a")).value == value
    await clock.advance(0)
    assert sorted(map(str, seen)) == ["1", "1", "2", "2"]
    assert caplog.text.count("RuntimeError: k") == 2


async def test_callbacks_may_be_subscribed_and_unsubscribed_while_callbacks_run(
    space: Space, clock: ManualClock
) -> None:
    memory = space.memory
    calls: list[tuple[str, object]] = []

    async def once(key: str, _event: str, value: object) -> None:
        assert await memory.unsubscribe("*", once)
        await memory.subscribe("*", later)
        await memory.subscribe("*", later)
        await asyncio.sleep(0)  # what a callback does after unsubscribing itself still happens
        calls.append((f"once {key}", value))

    def later(key: str, _event: str, value: object) -> None:
        calls.append((f"later {key}", value))

    await memory.subscribe("*", once)
    await memory.write("k", 1, owner="a")
    await clock.advance(0)
    await memory.write("k", 2, owner="a")
    await clock.advance(0)
    assert calls == [("once k", 1), ("later k", 2)]
    assert (await memory.get_stats()).subscribers == 1
    assert await memory.unsubscribe("*", later)
    assert not await memory.unsubscribe("*", later)


async def test_a_pattern_without_wildcards_means_that_key_and_no_longer_one(space: Space, clock: ManualClock) -> None:
    memory = space.memory
    seen: list[str] = []
    await memory.subscribe("plan", lambda key, _event, _value: seen.append(key))
    for key in ("plan", "plans", "old:plan", "plan:draft"):
        await memory.write(key, 1, owner="a")
    await clock.advance(0)
    assert seen == ["plan"]
    assert await memory.list_keys("plan") == ["plan"]
    assert await memory.list_keys("plan*") == ["plan", "plan:draft", "plans"]
    assert await memory.list_keys("*:plan") == ["old:plan"]


async def test_nobody_can_change_the_store_through_a_value_that_was_written_or_read(
    space: Space, clock: ManualClock
) -> None:
    memory = space.memory
    seen: list[Any] = []
    await memory.subscribe("plan", lambda _key, _event, value: seen.append(value))
    plan = {"steps": ["read"]}
    await memory.write("plan", plan, owner="a")
    plan["steps"].append("written after the write")
    await clock.advance(0)
    seen[0]["steps"].append("changed by a callback")
    (await memory.read("plan", reader="b"))["steps"].append("changed by a reader")
    entry = await memory.read_with_metadata("plan", reader="b")
    assert entry is not None
    entry.value["steps"].append("changed through the entry")
    (await memory.snapshot()).entries[0].value["steps"].append("changed through a snapshot")
    assert await memory.read("plan", reader="c") == {"steps": ["read"]}


async def test_nobody_can_change_a_message_through_the_content_that_was_sent(space: Space) -> None:
    for agent in ("a", "b"):
        await space.broker.register_agent(agent)
        await space.broker.subscribe(agent, "news")
    content = ["first"]
    await space.broker.publish("news", Message(content=content))
    content.append("written after the publication")
    first = await soon(space.broker.receive("a"))
    first.message.content.append("changed by a")
    assert (await soon(space.broker.receive("b"))).message.content == ["first"]


# --- Regions -------------------------------------------------------------------------------------


async def test_while_one_agent_holds_a_region_exclusively_everybody_else_is_refused(space: Space) -> None:
    region = MemoryRegion("ledger", space.memory)
    await region.grant_access("clerk", MemoryAccessMode.READ_WRITE)
    await region.grant_access("auditor", MemoryAccessMode.EXCLUSIVE)

    await region.write("balance", 10, agent_id="auditor")
    with pytest.raises(AccessDeniedError):
        await region.write("balance", 11, agent_id="clerk")
    with pytest.raises(AccessDeniedError):
        await region.read("balance", agent_id="clerk")
    with pytest.raises(AccessDeniedError):
        await region.grant_access("rival", MemoryAccessMode.EXCLUSIVE)

    assert await region.revoke_access("auditor")
    assert await region.read("balance", agent_id="clerk") == 10
    with pytest.raises(AccessDeniedError):
        await region.read("balance", agent_id="auditor")


async def test_an_exclusive_holder_that_vanished_is_waited_out(space: Space, clock: ManualClock) -> None:
    region = MemoryRegion("ledger", space.memory)
    await region.grant_access("clerk", MemoryAccessMode.READ_WRITE)
    await region.grant_access("auditor", MemoryAccessMode.EXCLUSIVE, lease=20)
    await clock.advance(19)
    with pytest.raises(AccessDeniedError):
        await region.write("balance", 1, agent_id="clerk")
    await clock.advance(1)
    await region.write("balance", 2, agent_id="clerk")
    with pytest.raises(AccessDeniedError):
        await region.write("balance", 3, agent_id="auditor")


async def test_a_region_can_be_listed_updated_swapped_deleted_and_watched(space: Space) -> None:
    region = MemoryRegion("lab", space.memory)
    await region.grant_access("ann", MemoryAccessMode.READ_WRITE)
    async with region.watch(agent_id="ann") as changes:
        await region.write("sample", 1, agent_id="ann", tags=["wet"])
        assert await region.list_keys(agent_id="ann") == ["sample"]
        assert await region.list_keys(agent_id="ann", tags=["dry"]) == []
        assert (await region.update("sample", 2, agent_id="ann", expected_version=1)).version == 2
        assert await region.compare_and_swap("sample", 2, 3, agent_id="ann")
        assert await region.delete("sample", agent_id="ann", expected_version=3)
        assert await region.list_keys(agent_id="ann") == []
        seen = [await soon(anext(changes)) for _ in range(4)]
    assert [(change.key, change.value) for change in seen] == [
        ("sample", 1),
        ("sample", 2),
        ("sample", 3),
        ("sample", None),
    ]


@pytest.mark.parametrize(
    ("mode", "may_read", "may_write"),
    [
        (None, False, False),
        (MemoryAccessMode.READ, True, False),
        (MemoryAccessMode.WRITE, False, True),
        (MemoryAccessMode.READ_WRITE, True, True),
    ],
)
async def test_deleting_listing_and_updating_need_the_same_permissions_as_reading_and_writing(
    space: Space,
    mode: MemoryAccessMode | None,
    may_read: bool,  # noqa: FBT001 - a parameter of the test, given by name above
    may_write: bool,  # noqa: FBT001 - the same
) -> None:
    region = MemoryRegion("lab", space.memory)
    await region.grant_access("owner", MemoryAccessMode.READ_WRITE)
    await region.write("k", 1, agent_id="owner")
    if mode is not None:
        await region.grant_access("guest", mode)

    async def is_allowed(call: Any) -> bool:
        try:
            await call
        except AccessDeniedError:
            return False
        return True

    assert await is_allowed(region.read("k", agent_id="guest")) is may_read
    assert await is_allowed(region.read_with_metadata("k", agent_id="guest")) is may_read
    assert await is_allowed(region.list_keys(agent_id="guest")) is may_read
    assert await is_allowed(region.watch(agent_id="guest").__aenter__()) is may_read
    assert await is_allowed(region.compare_and_swap("k", 0, 1, agent_id="guest")) is (may_read and may_write)
    assert await is_allowed(region.update("k", 2, agent_id="guest")) is may_write
    assert await is_allowed(region.write("k", 2, agent_id="guest")) is may_write
    assert await is_allowed(region.delete("k", agent_id="guest")) is may_write


# --- Agents --------------------------------------------------------------------------------------


async def test_an_idle_agent_stops_without_waiting_for_anything(space: Space, clock: ManualClock) -> None:
    agent = MessagePassingAgent("worker", space.broker, concurrency=4)
    agent.on_message("default")(lambda _: None)
    before = clock.monotonic()
    await agent.start()
    await clock.advance(0)  # its consumers wait for messages now
    await soon(agent.stop())
    assert clock.monotonic() == before


async def test_stopping_lets_the_handler_that_runs_finish_and_leaves_the_rest_in_the_mailbox(
    space: Space, clock: ManualClock
) -> None:
    agent = MessagePassingAgent("worker", space.broker)
    may_finish = asyncio.Event()
    handled: list[object] = []

    @agent.on_message("default")
    async def handle(message: Message) -> None:
        await may_finish.wait()
        handled.append(message.content)

    await agent.start()
    for number in (1, 2):
        await space.broker.send(Message(receiver="worker", content=number))
    await clock.advance(0)
    stopping = asyncio.create_task(agent.stop())
    await clock.advance(0)
    assert not stopping.done()
    may_finish.set()
    await soon(stopping)
    assert handled == [1]
    assert (await soon(space.broker.receive("worker", timeout=0))).message.content == 2
