"""Memory and messages in one commit: writes that notify."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tertulia import (
    DeliveryTransaction,
    HybridCommunicationSystem,
    Message,
    MessagePassingAgent,
    Reject,
    Space,
    WhenFull,
)
from tertulia.errors import (
    AccessDeniedError,
    EncodeError,
    InvalidInputError,
    InvalidKeyError,
    InvalidNameError,
    InvalidTopicError,
    KeyExistsError,
    KeyNotFoundError,
    MailboxFullError,
    UnknownAgentError,
    VersionConflictError,
)
from tertulia.testing.conformance import SpaceHarness

LIMIT = 5  # seconds of real time for what happens at once unless something is broken


@pytest.fixture
async def system(space: Space) -> HybridCommunicationSystem:
    """A system whose space has three agents."""
    system = HybridCommunicationSystem(space)
    for agent in ("ann", "bob", "eve"):
        assert await system.register_agent(agent)
    return system


async def received(space: Space, agent: str) -> list[Message]:
    """Take all that waits in an agent's mailbox."""
    found: list[Message] = []
    while (delivery := await space.broker.receive(agent, timeout=0)) is not None:
        await delivery.acknowledge()
        found.append(delivery.message)
    return found


async def contents(space: Space, agent: str) -> list[Any]:
    return [message.content for message in await received(space, agent)]


# --- what a notice says ------------------------------------------------------------------------------


async def test_each_agent_gets_a_message_of_its_own_that_names_the_write_and_not_the_value(
    system: HybridCommunicationSystem,
) -> None:
    await system.memory.write("report", "old", owner="ann")
    done = await system.write_and_notify("ann", "report", "draft", notify=["bob", "eve"])
    entry = await system.memory.read_with_metadata("report", reader="bob")
    assert entry is not None
    assert (entry.value, entry.owner, entry.version, entry.revision) == ("draft", "ann", 2, done.entry.revision)
    assert (done.entry.value, done.entry.version, done.delivered) == ("draft", 2, 2)
    told = {agent: await received(system.space, agent) for agent in ("ann", "bob", "eve")}
    assert told["ann"] == []
    for agent in ("bob", "eve"):
        (message,) = told[agent]
        assert (message.sender, message.receiver, message.id) == ("ann", agent, done.message_id)
        assert message.content == {
            "type": "memory_update",
            "action": "write",
            "key": "report",
            "version": 2,
            "revision": entry.revision,
            "writer": "ann",
        }


async def test_the_value_travels_with_the_notice_when_it_is_asked_for(system: HybridCommunicationSystem) -> None:
    await system.write_and_notify("ann", "k", {"a": None}, notify=["bob"], include_value=True)
    (content,) = await contents(system.space, "bob")
    assert (content["value"], content["version"]) == ({"a": None}, 1)


async def test_settling_one_agents_notice_leaves_the_others_theirs(system: HybridCommunicationSystem) -> None:
    await system.write_and_notify("ann", "k", 1, notify=["bob", "eve"])
    assert len(await received(system.space, "bob")) == 1
    assert await system.broker.queue("eve").size() == 1


async def test_subscribers_of_the_topic_are_told_and_who_is_both_is_told_once(
    system: HybridCommunicationSystem,
) -> None:
    await system.broker.subscribe("bob", "sales.*")
    await system.broker.subscribe("eve", "sales.north")
    done = await system.write_and_notify("ann", "k", 1, notify=["bob", "bob"], topic="sales.north")
    assert done.delivered == 2
    (to_bob,), (to_eve,) = await received(system.space, "bob"), await received(system.space, "eve")
    assert to_eve.topic == "sales.north"
    assert to_bob.content == to_eve.content
    assert to_bob.content["revision"] == done.entry.revision


async def test_a_write_that_nobody_is_told_of_is_a_write(system: HybridCommunicationSystem) -> None:
    done = await system.write_and_notify("ann", "k", 1)
    nobody = await system.write_and_notify("ann", "k", 2, topic="nobody.listens")
    assert (done.message_id, done.delivered, nobody.delivered) == ("", 0, 0)
    assert await system.memory.read("k", reader="ann") == 2


async def test_lifetime_and_tags_are_those_of_the_write(
    harness: SpaceHarness, system: HybridCommunicationSystem
) -> None:
    done = await system.write_and_notify("ann", "k", 1, notify=["bob"], ttl=2.0, tags=["t"])
    assert (done.entry.ttl, await system.memory.list_keys(tags=["t"])) == (2.0, ["k"])
    await harness.advance(2.5)
    assert await system.memory.read("k", reader="ann") is None


async def test_a_notice_that_is_released_or_dead_lettered_still_names_the_write(
    system: HybridCommunicationSystem,
) -> None:
    done = await system.write_and_notify("ann", "k", 1, notify=["bob"])
    for _ in range(2):
        delivery = await system.broker.receive("bob", timeout=0)
        assert delivery is not None
        assert delivery.message.content["revision"] == done.entry.revision
        await (delivery.release() if delivery.attempt == 1 else delivery.reject("not mine"))
    (letter,) = await system.broker.dead_letters("bob")
    assert letter.message.content["revision"] == done.entry.revision


# --- all or nothing ----------------------------------------------------------------------------------


async def test_with_an_unknown_agent_among_those_to_tell_nothing_is_written_and_nobody_told(
    system: HybridCommunicationSystem,
) -> None:
    with pytest.raises(UnknownAgentError) as caught:
        await system.write_and_notify("ann", "k", 1, notify=["bob", "bbo"])
    assert caught.value.agent_id == "bbo"
    assert await system.memory.read("k", reader="ann") is None
    assert await received(system.space, "bob") == []


async def test_with_a_full_mailbox_among_those_to_tell_nothing_is_written_and_nobody_told(
    system: HybridCommunicationSystem,
) -> None:
    await system.register_agent("eve", max_queue_size=1)
    await system.write_and_notify("ann", "k", 1, notify=["eve"])
    with pytest.raises(MailboxFullError):
        await system.write_and_notify("ann", "k", 2, notify=["bob", "eve"])
    assert await system.memory.read("k", reader="ann") == 1
    assert await received(system.space, "bob") == []


async def test_a_writer_waits_for_room_where_the_mailboxs_owner_wants_that(
    harness: SpaceHarness, system: HybridCommunicationSystem
) -> None:
    await system.register_agent("eve", max_queue_size=1, when_full=WhenFull.WAIT)
    await system.write_and_notify("ann", "k", 1, notify=["eve"])
    writing = asyncio.create_task(system.write_and_notify("ann", "k", 2, notify=["eve"]))
    await harness.advance(0)
    assert await system.memory.read("k", reader="ann") == 1
    first = await system.broker.receive("eve", timeout=0)
    assert first is not None
    assert first.message.content["version"] == 1
    await first.acknowledge()
    await harness.advance(1.1)
    assert (await asyncio.wait_for(writing, LIMIT)).entry.version == 2
    assert [content["version"] for content in await contents(system.space, "eve")] == [2]


async def test_bad_input_is_refused_before_anything_is_written(system: HybridCommunicationSystem) -> None:
    calls: list[tuple[type[Exception], dict[str, Any]]] = [
        (InvalidInputError, {"notify": "bob"}),  # and not b, o and b
        (InvalidNameError, {"notify": ["bob", ""]}),
        (InvalidTopicError, {"topic": "a..b"}),
        (InvalidInputError, {"expected_version": -1}),
        (InvalidInputError, {"ttl": 0}),
        (EncodeError, {"value": object()}),
        (InvalidKeyError, {"key": ""}),
        (InvalidNameError, {"agent": "a:b"}),
        (AccessDeniedError, {"key": "region:finance:k"}),
    ]
    for error, wrong in calls:
        with pytest.raises(error):
            await system.write_and_notify(
                wrong.pop("agent", "ann"), wrong.pop("key", "k"), wrong.pop("value", 1), **{"notify": ["bob"], **wrong}
            )
    assert await system.memory.list_keys() == []
    assert await received(system.space, "bob") == []


# --- expected versions -------------------------------------------------------------------------------


async def test_an_expected_version_is_checked_in_the_same_commit(system: HybridCommunicationSystem) -> None:
    first = await system.write_and_notify("ann", "k", 1, notify=["eve"], expected_version=0)
    second = await system.write_and_notify("bob", "k", 2, notify=["eve"], expected_version=1)
    assert (first.entry.version, second.entry.version, second.entry.owner) == (1, 2, "ann")
    for error, key, version in ((KeyExistsError, "k", 0), (VersionConflictError, "k", 1), (KeyNotFoundError, "q", 1)):
        with pytest.raises(error):
            await system.write_and_notify("bob", key, 3, notify=["eve"], expected_version=version)
    assert await system.memory.read("k", reader="ann") == 2
    assert [content["version"] for content in await contents(system.space, "eve")] == [1, 2]


async def test_of_many_writers_who_expect_the_same_version_one_wins_and_only_it_is_told_of(
    system: HybridCommunicationSystem,
) -> None:
    async def write(number: int) -> int | None:
        try:
            done = await system.write_and_notify(
                "ann", "k", number, notify=["bob"], expected_version=0, include_value=True
            )
        except KeyExistsError:
            return None
        return done.entry.value

    won = [number for number in await asyncio.gather(*map(write, range(20))) if number is not None]
    assert len(won) == 1
    assert [content["value"] for content in await contents(system.space, "bob")] == won


# --- deleting ----------------------------------------------------------------------------------------


async def test_a_deletion_is_told_with_what_the_key_was(system: HybridCommunicationSystem) -> None:
    await system.memory.write("k", 1, owner="ann")
    entry = await system.memory.write("k", 2, owner="ann")
    done = await system.delete_and_notify("bob", "k", notify=["ann", "eve"])
    assert done is not None
    assert (done.entry.value, done.entry.revision, done.delivered) == (2, entry.revision, 2)
    assert await system.memory.read("k", reader="ann") is None
    for agent in ("ann", "eve"):
        assert await contents(system.space, agent) == [
            {
                "type": "memory_update",
                "action": "delete",
                "key": "k",
                "version": 2,
                "revision": entry.revision,
                "writer": "bob",
            }
        ]


async def test_deleting_what_is_not_there_tells_nobody(system: HybridCommunicationSystem) -> None:
    assert await system.delete_and_notify("ann", "k", notify=["bob"]) is None
    assert await system.delete_and_notify("ann", "k", notify=["bob"], expected_version=3) is None
    assert await received(system.space, "bob") == []


async def test_a_deletion_at_another_version_or_with_an_unknown_agent_changes_nothing(
    system: HybridCommunicationSystem,
) -> None:
    await system.memory.write("k", 1, owner="ann")
    with pytest.raises(VersionConflictError):
        await system.delete_and_notify("ann", "k", notify=["bob"], expected_version=2)
    with pytest.raises(UnknownAgentError):
        await system.delete_and_notify("ann", "k", notify=["bob", "bbo"], expected_version=1)
    assert await system.memory.read("k", reader="ann") == 1
    assert await received(system.space, "bob") == []


async def test_deletions_and_writes_that_race_are_told_in_the_order_in_which_they_happened(
    system: HybridCommunicationSystem,
) -> None:
    async def change(number: int) -> None:
        await asyncio.sleep(0)
        if number % 3:
            await system.write_and_notify("ann", "k", number, notify=["bob"])
        else:
            await system.delete_and_notify("ann", "k", notify=["bob"])

    await asyncio.gather(*map(change, range(60)))
    version = revision = 0
    for content in await contents(system.space, "bob"):
        if content["action"] == "write":
            assert content["revision"] > revision
            version, revision = version + 1, content["revision"]
            assert content["version"] == version
        else:
            assert (content["version"], content["revision"]) == (version, revision)
            version = 0
    left = await system.memory.read_with_metadata("k", reader="ann")
    assert (0 if left is None else left.version) == version


# --- in a handler's transaction ----------------------------------------------------------------------


async def test_a_handler_writes_notifies_and_acknowledges_in_one_commit(
    harness: SpaceHarness, system: HybridCommunicationSystem
) -> None:
    agent = MessagePassingAgent("ann", system.broker)

    @agent.on_message("default")
    async def write(message: Message, transaction: DeliveryTransaction) -> None:
        system.add_write_and_notify(transaction, "ann", "total", message.content, notify=["bob"], include_value=True)
        if message.content == "bad":
            raise Reject("bad")

    async with agent:
        for content in ("good", "bad"):
            await system.broker.send(Message(receiver="ann", content=content))
        await harness.advance(0)
        await harness.advance(0)
    entry = await system.memory.read_with_metadata("total", reader="bob")
    assert entry is not None
    assert (entry.value, entry.version) == ("good", 1)
    (content,) = await contents(system.space, "bob")
    assert (content["value"], content["version"], content["revision"]) == ("good", 1, entry.revision)
    assert await system.broker.queue("ann").size() == 0
