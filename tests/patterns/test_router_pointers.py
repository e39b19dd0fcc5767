"""Messages that carry a pointer: the content is kept once, comes with every message, and goes with the last."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tertulia import (
    Delivery,
    DeliveryMode,
    DeliveryTransaction,
    Message,
    MessagePassingAgent,
    RetryLater,
    Space,
    WhenFull,
)
from tertulia._rules.ledger import MAX_COPIES, Copy, Ledger
from tertulia.engines.base import CheckFailed, Claimed, Commit, Committed, Delete, Put, Record, Send
from tertulia.errors import (
    AlreadySettledError,
    EncodeError,
    EngineError,
    InvalidInputError,
    MailboxFullError,
    RemoteError,
    UnknownAgentError,
    VersionConflictError,
)
from tertulia.messaging import contents
from tertulia.messaging.pointers import CONTENTS, LEDGERS, POINTER_HEADER, Pointer
from tertulia.testing.conformance import SpaceHarness

LIMIT = 10  # seconds of real time for what happens at once unless something is broken
REPORT = {"title": "quarter", "rows": [{"region": f"r{number}", "sum": number * 1.5} for number in range(200)]}


@pytest.fixture
async def team(space: Space) -> Space:
    """A space with three agents who read, and a topic that two of them listen to."""
    for agent in ("ann", "bob", "eve"):
        await space.broker.register_agent(agent)
    await space.broker.subscribe("bob", "reports")
    await space.broker.subscribe("eve", "reports")
    return space


async def kept(space: Space, prefix: str = CONTENTS) -> list[Record]:
    return (await space.engine.scan(prefix))[1]


async def take(space: Space, agent: str) -> Delivery:
    delivery = await asyncio.wait_for(space.broker.receive(agent, timeout=LIMIT), LIMIT)
    assert delivery is not None, f"there is nothing for {agent}"
    return delivery


async def share(space: Space, receivers: Sequence[str], content: Any = None, **options: Any) -> Message:
    message = Message(sender="ann", content=REPORT if content is None else content)
    await space.broker.send_by_pointer(message, receivers, **options)
    return message


async def nothing_is_kept(space: Space) -> None:
    assert await kept(space) == []
    assert await kept(space, LEDGERS) == []


# --- what receivers get ------------------------------------------------------------------------------


async def test_every_receiver_gets_the_content_that_is_kept_once_and_goes_with_the_last(team: Space) -> None:
    message = Message(sender="ann", content=REPORT, headers={"own": "header"})
    receipt = await team.broker.send_by_pointer(message, ["bob", "eve"])
    assert (receipt.message_id, receipt.delivered, receipt.duplicate) == (message.id, 2, False)
    (record,) = await kept(team)
    for place, agent in enumerate(("bob", "eve")):
        assert [one.revision for one in await kept(team)] == [record.revision]
        delivery = await take(team, agent)
        got = delivery.message
        assert (got.id, got.sender, got.receiver, got.content) == (message.id, "ann", agent, REPORT)
        assert (got.headers or {})["own"] == "header"
        await delivery.acknowledge()
        assert len(await kept(team)) == 1 - place
    await nothing_is_kept(team)


async def test_what_waits_in_a_mailbox_is_small(team: Space) -> None:
    await share(team, ["bob"])
    (stored,) = await team.engine.browse("bob")
    (record,) = await kept(team)
    assert len(stored.body) < 300 < len(record.body)


@pytest.mark.parametrize("content", [None, False, 0, "", [], {"revision": 1, "version": 2}, b"\x00\xff", "é" * 3000])
async def test_any_content_comes_back_as_it_was(team: Space, content: Any) -> None:
    message = Message(sender="ann", content=content)
    await team.broker.send_by_pointer(message, ["bob"])
    delivery = await take(team, "bob")
    assert (delivery.message.content, type(delivery.message.content)) == (content, type(content))
    await delivery.acknowledge()
    await nothing_is_kept(team)


async def test_a_handler_finds_the_content_its_type_and_its_transaction(team: Space) -> None:
    agent = MessagePassingAgent("bob", team.broker)
    seen: asyncio.Queue[Any] = asyncio.Queue()

    @agent.on_message("order")
    async def plain(message: Message) -> None:
        seen.put_nowait(message.content)

    @agent.on_message("invoice")
    async def in_transaction(message: Message, transaction: DeliveryTransaction) -> None:
        transaction.write("total", len(message.content["rows"]), owner="bob")
        seen.put_nowait(message.content)

    contents = [{**REPORT, "type": kind} for kind in ("order", "invoice")]
    async with agent:
        for content in contents:
            await share(team, ["bob"], content)
        assert [await asyncio.wait_for(seen.get(), LIMIT) for _ in contents] == contents
    assert await team.memory.read("total", reader="bob") == 200
    await nothing_is_kept(team)


async def test_the_same_content_sent_again_while_it_lives_is_not_stored_again(
    team: Space, harness: SpaceHarness
) -> None:
    other = await harness.open_again()
    await share(team, ["bob"])
    (record,) = await kept(team)
    await share(other, ["eve", "bob"])  # another process, which has to find out the revision
    await share(team, ["eve"])
    assert [one.revision for one in await kept(team)] == [record.revision]
    for agent in ("bob", "eve", "bob", "eve"):
        assert len(await kept(team)) == 1
        delivery = await take(other, agent)
        assert delivery.message.content == REPORT
        await delivery.acknowledge()
    await nothing_is_kept(team)


async def test_content_that_ends_too_early_for_a_new_pointer_has_a_second_copy(team: Space) -> None:
    await share(team, ["bob"], ttl=30.0)
    await share(team, ["eve"], ttl=6_000.0)
    assert len(await kept(team)) == 2
    for agent, left in (("eve", 1), ("bob", 0)):
        delivery = await take(team, agent)
        assert delivery.message.content == REPORT
        await delivery.acknowledge()
        assert len(await kept(team)) == left
    await nothing_is_kept(team)


async def test_a_publication_is_kept_once_for_all_subscribers(team: Space) -> None:
    receipt = await team.broker.publish_by_pointer("reports", Message(sender="ann", content=REPORT))
    assert receipt.delivered == 2
    for agent, left in (("bob", 1), ("eve", 0)):
        delivery = await take(team, agent)
        assert (delivery.message.content, delivery.message.topic) == (REPORT, "reports")
        await delivery.acknowledge()
        assert len(await kept(team)) == left
    await nothing_is_kept(team)


async def test_a_publication_that_nobody_gets_leaves_nothing_behind(team: Space) -> None:
    assert (await team.broker.publish_by_pointer("silence", Message(sender="ann", content=REPORT))).delivered == 0
    await nothing_is_kept(team)


async def test_whoever_sends_a_message_on_sends_its_content_and_not_the_pointer(team: Space) -> None:
    await share(team, ["bob"])
    delivery = await take(team, "bob")
    await team.broker.send_to("eve", delivery.message)
    await delivery.acknowledge()
    await nothing_is_kept(team)
    forwarded = await take(team, "eve")
    assert forwarded.message.content == REPORT
    assert POINTER_HEADER not in (forwarded.message.headers or {})


async def test_a_pointer_that_a_sender_made_up_opens_nothing(team: Space) -> None:
    await team.memory.write("secret", "value", owner="eve")
    forged = Message(sender="ann", receiver="bob", content="hello", headers={POINTER_HEADER: "secret"})
    await team.broker.send(forged)
    delivery = await take(team, "bob")
    assert (delivery.message.content, delivery.message.headers) == ("hello", None)


# --- how it ends -------------------------------------------------------------------------------------


async def test_every_way_of_settling_lets_the_content_go(team: Space) -> None:
    await share(team, ["bob"])
    async with await take(team, "bob"):
        assert len(await kept(team)) == 1
    await nothing_is_kept(team)
    await share(team, ["bob"])
    async with (await take(team, "bob")).transaction() as transaction:
        transaction.write("note", "read", owner="bob")
    await nothing_is_kept(team)
    message = await share(team, ["bob"])
    await take(team, "bob")
    await team.broker.acknowledge("bob", message.id)
    await nothing_is_kept(team)


async def test_a_second_acknowledgement_counts_nothing(team: Space) -> None:
    message = await share(team, ["bob", "eve"])
    delivery = await take(team, "bob")
    await delivery.acknowledge()
    for again in (delivery.acknowledge, delivery.transaction().commit):
        with pytest.raises(AlreadySettledError):
            await again()
    with pytest.raises(AlreadySettledError):
        await team.broker.acknowledge("bob", message.id)
    assert len(await kept(team)) == 1
    assert (await take(team, "eve")).message.content == REPORT


async def test_a_message_that_is_given_back_keeps_its_content(team: Space) -> None:
    await share(team, ["bob"])
    for attempt in (1, 2, 3):
        delivery = await take(team, "bob")
        assert (delivery.attempt, delivery.message.content) == (attempt, REPORT)
        await delivery.release(counted=True)
        assert len(await kept(team)) == 1
    async with await take(team, "bob") as last:
        assert last.message.content == REPORT
        raise RetryLater(0.0)


async def test_the_content_stays_for_a_receiver_that_died_and_comes_with_the_next_attempt(
    team: Space, harness: SpaceHarness
) -> None:
    await share(team, ["bob", "eve"])
    await (await take(team, "eve")).acknowledge()
    dying = await harness.open_again()
    assert await dying.broker.receive("bob", timeout=LIMIT, lease=1.0) is not None
    await dying.aclose()  # without a word
    assert len(await kept(team)) == 1
    await harness.advance(1.5)
    delivery = await take(team, "bob")
    assert (delivery.attempt, delivery.message.content) == (2, REPORT)
    await delivery.acknowledge()
    await nothing_is_kept(team)


async def test_of_competing_consumers_one_handles_and_the_count_is_right(team: Space, harness: SpaceHarness) -> None:
    handles = [team, await harness.open_again(), await harness.open_again()]
    contents = [{"number": number, **REPORT} for number in range(3)]
    for number in range(12):
        await share(team, ["bob", "eve"], contents[number % 3])
    got: dict[str, list[int]] = {"bob": [], "eve": []}

    async def consume(space: Space, agent: str) -> None:
        while (delivery := await space.broker.receive(agent, timeout=0)) is not None:
            got[agent].append(delivery.message.content["number"])
            await delivery.acknowledge()

    await asyncio.wait_for(asyncio.gather(*(consume(space, agent) for space in handles for agent in got)), LIMIT)
    assert {agent: sorted(numbers) for agent, numbers in got.items()} == dict.fromkeys(got, sorted([0, 1, 2] * 4))
    await nothing_is_kept(team)


async def test_a_transaction_that_conflicts_settles_nothing_and_keeps_the_content(team: Space) -> None:
    await team.memory.write("state", 1, owner="bob")
    await share(team, ["bob"])
    delivery = await take(team, "bob")
    transaction = delivery.transaction()
    await transaction.read("state", reader="bob")
    transaction.write("copy", 1, owner="bob")
    await team.memory.write("state", 2, owner="eve")
    with pytest.raises(VersionConflictError):
        await transaction.commit()
    assert transaction.lost_race
    assert len(await kept(team)) == 1
    await delivery.acknowledge()
    await nothing_is_kept(team)


async def test_a_dead_letter_keeps_its_content_until_it_is_purged_or_handled(team: Space) -> None:
    message = await share(team, ["bob"])
    await (await take(team, "bob")).reject("not now")
    assert len(await kept(team)) == 1
    (letter,) = await team.broker.dead_letters("bob")
    assert (letter.reason, letter.message.content) == ("not now", REPORT)
    assert await team.broker.redeliver("bob") == 1
    delivery = await take(team, "bob")
    assert (delivery.message.id, delivery.message.content) == (message.id, REPORT)
    await delivery.reject("never")
    assert await team.broker.purge("bob") == 1
    await nothing_is_kept(team)


# --- when the content is gone ------------------------------------------------------------------------


async def test_a_message_whose_content_is_gone_goes_to_the_dead_letters_with_that_reason(team: Space) -> None:
    await share(team, ["bob", "eve"])
    (record,) = await kept(team)
    await team.engine.commit(Commit(puts=(Put(record.key, b"\xa5other", "eve"),)))
    assert await team.broker.receive("bob", timeout=0) is None
    (letter,) = await team.broker.dead_letters("bob")
    assert letter.reason.startswith(f"content gone: {record.key}")
    assert letter.message.content is None
    agent = MessagePassingAgent("eve", team.broker)
    seen: asyncio.Queue[Any] = asyncio.Queue()
    agent.on_message("default")(lambda message: seen.put_nowait(message.content))
    async with agent:
        await team.broker.send(Message(sender="ann", receiver="eve", content="next"))
        assert await asyncio.wait_for(seen.get(), LIMIT) == "next"
    assert [letter.reason[:12] for letter in await team.broker.dead_letters("eve")] == ["content gone"]


async def test_the_same_bytes_at_another_revision_are_not_what_was_sent(team: Space) -> None:
    await share(team, ["bob"])
    (record,) = await kept(team)
    await team.engine.commit(Commit(puts=(Put(record.key, record.body, "eve"),)))
    assert await team.broker.receive("bob", timeout=0) is None
    assert "revision" in (await team.broker.dead_letters("bob"))[0].reason


async def test_bytes_that_are_not_those_of_the_digest_are_not_what_was_sent(team: Space) -> None:
    pointer = Pointer(digest="ab" * 16, copy="0123456789ab", size=5)
    committed = await team.engine.commit(Commit(puts=(Put(pointer.key, b"\xa4text", "eve"),)))
    there = msgspec.structs.replace(pointer, revision=committed.records[0].revision)
    message = Message(sender="ann", receiver="bob", headers={POINTER_HEADER: there.header})
    await team.engine.send(Send("bob", message.id, msgspec.msgpack.encode(message)))
    assert await team.broker.receive("bob", timeout=0) is None
    assert "digest" in (await team.broker.dead_letters("bob"))[0].reason


@pytest.mark.parametrize("header", ["", "no pointer", "ab" * 16, f"{'ab' * 16}:0123456789ab:9:1:2", "../secret:1:2:3"])
async def test_a_pointer_that_is_none_goes_to_the_dead_letters(team: Space, header: str) -> None:
    message = Message(sender="ann", receiver="bob", headers={POINTER_HEADER: header})
    await team.engine.send(Send("bob", message.id, msgspec.msgpack.encode(message)))
    assert await team.broker.receive("bob", timeout=0) is None
    assert "pointer that is none" in (await team.broker.dead_letters("bob"))[0].reason
    assert await team.broker.purge("bob") == 1


async def test_a_copy_that_somebody_took_away_is_not_pointed_at_again(team: Space) -> None:
    await share(team, ["bob"])
    (record,) = await kept(team)
    await team.engine.commit(Commit(deletes=(Delete(record.key),)))
    await share(team, ["eve"])
    delivery = await take(team, "eve")
    assert delivery.message.content == REPORT
    await delivery.acknowledge()
    assert await kept(team) == []


async def test_the_content_goes_when_its_time_is_over(team: Space, harness: SpaceHarness) -> None:
    await share(team, ["bob"], ttl=1.0)
    await harness.advance(3.5)
    await nothing_is_kept(team)
    assert await team.broker.receive("bob", timeout=0) is None
    assert [letter.reason[:12] for letter in await team.broker.dead_letters("bob")] == ["content gone"]


async def test_a_requester_is_told_that_the_content_is_gone(team: Space) -> None:
    agent = MessagePassingAgent("bob", team.broker)
    answers: asyncio.Queue[Claimed] = asyncio.Queue()
    stop = team.engine.listen("_reply:test", answers.put_nowait)
    await team.broker.send_by_pointer(Message(sender="ann", content=REPORT, reply_to="_reply:test"), ["bob"])
    (record,) = await kept(team)
    await team.engine.commit(Commit(puts=(Put(record.key, b"\xc0", "eve"),)))
    async with agent:
        claimed = await asyncio.wait_for(answers.get(), LIMIT)
    stop()
    assert b"ContentGoneError" in claimed.body


# --- when the count cannot be kept ----------------------------------------------------------------------


async def test_a_sender_that_dies_before_it_has_counted_subscribers_loses_nothing(
    team: Space, harness: SpaceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = team.engine.commit

    async def dies(given: Commit) -> Committed:
        if not given.sends:
            raise EngineError("dead")
        return await commit(given)

    monkeypatch.setattr(team.engine, "commit", dies)
    with pytest.raises(EngineError):
        await team.broker.publish_by_pointer("reports", Message(sender="ann", content=REPORT), ttl=1.0)
    monkeypatch.setattr(team.engine, "commit", commit)
    other = await harness.open_again()
    for agent in ("bob", "eve"):
        delivery = await take(other, agent)
        assert delivery.message.content == REPORT
        await delivery.acknowledge()
    assert len(await kept(team)) == 1  # nobody knows that they were all
    await harness.advance(3.5)
    await nothing_is_kept(team)


async def test_a_message_is_settled_though_the_count_of_its_content_cannot_be_won(
    team: Space, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await share(team, ["bob"])
    delivery = await take(team, "bob")
    commit = team.engine.commit

    async def always_lost(given: Commit) -> Committed:
        for check in given.checks:
            raise CheckFailed(check, None)
        return await commit(given)

    monkeypatch.setattr(team.engine, "commit", always_lost)
    await delivery.acknowledge()
    monkeypatch.setattr(team.engine, "commit", commit)
    assert "left to its end" in caplog.text
    assert await team.broker.peek("bob") == []
    assert len(await kept(team)) == 1


async def test_a_commit_that_has_no_room_for_the_count_is_counted_right_after(
    team: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    await share(team, ["bob"])
    delivery = await take(team, "bob")
    transaction = delivery.transaction()
    transaction.write("note", "read", owner="bob")
    monkeypatch.setattr(contents, "COUNTING", team.engine.capabilities.max_commit_operations)
    await transaction.commit()
    assert await team.memory.read("note", reader="bob") == "read"
    await nothing_is_kept(team)


# --- sending twice, and what is refused ---------------------------------------------------------------


async def test_an_exactly_once_message_that_is_sent_again_is_stored_and_counted_once(team: Space) -> None:
    message = Message(sender="ann", content=REPORT, delivery_mode=DeliveryMode.EXACTLY_ONCE)
    assert not (await team.broker.send_by_pointer(message, ["bob", "eve"])).duplicate
    assert (await team.broker.send_by_pointer(message, ["bob", "eve"])).duplicate
    for agent in ("bob", "eve"):
        assert len(await kept(team)) == 1
        await (await take(team, agent)).acknowledge()
    await nothing_is_kept(team)
    assert (await team.broker.send_by_pointer(message, ["bob", "eve"])).duplicate  # after it was handled
    await nothing_is_kept(team)
    assert await team.broker.receive("bob", timeout=0) is None


async def test_a_message_that_goes_in_circles_is_a_dead_letter_with_its_content(team: Space) -> None:
    message = Message(sender="ann", content=REPORT, hops=tuple(f"agent-{number}" for number in range(33)))
    receipt = await team.broker.send_by_pointer(message, ["bob"])
    assert (receipt.delivered, receipt.dead_lettered) == (0, True)
    assert await team.broker.receive("bob", timeout=0) is None
    (letter,) = await team.broker.dead_letters("bob")
    assert (letter.reason, letter.message.content) == ("loop", REPORT)
    assert await team.broker.purge("bob") == 1
    await nothing_is_kept(team)


async def test_what_cannot_be_sent_stores_nothing(team: Space) -> None:
    message = Message(sender="ann", content=REPORT)
    await team.broker.register_agent("small", max_queue_size=1, when_full=WhenFull.REJECT)
    await team.broker.send(Message(sender="ann", receiver="small", content=1))
    refused: list[tuple[type[Exception], Message, Any, dict[str, Any]]] = [
        (UnknownAgentError, message, ["bob", "nobody"], {}),
        (MailboxFullError, message, ["bob", "small"], {}),
        (InvalidInputError, message, [], {}),
        (InvalidInputError, message, "bob", {}),
        (InvalidInputError, message, ["bob"], {"ttl": 0}),
        (InvalidInputError, message, ["bob"], {"delay": -1}),
        (InvalidInputError, message, [f"agent-{number}" for number in range(901)], {}),
        (InvalidInputError, Message(content=1, delivery_mode=DeliveryMode.AT_MOST_ONCE), ["bob"], {}),
        (EncodeError, Message(content=object()), ["bob"], {}),
    ]
    for error, bad, receivers, options in refused:
        with pytest.raises(error):
            await team.broker.send_by_pointer(bad, receivers, **options)
    await nothing_is_kept(team)
    assert await team.broker.receive("bob", timeout=0) is None


async def test_a_receiver_who_is_cancelled_while_it_fetches_holds_no_message(
    team: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    await share(team, ["bob"])
    fetching = asyncio.Event()
    get = team.engine.get

    async def slow(key: str) -> Record | None:
        if key.startswith(CONTENTS):
            fetching.set()
            await asyncio.get_running_loop().create_future()
        return await get(key)

    monkeypatch.setattr(team.engine, "get", slow)
    task = asyncio.ensure_future(team.broker.receive("bob", timeout=LIMIT))
    await asyncio.wait_for(fetching.wait(), LIMIT)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.setattr(team.engine, "get", get)
    delivery = await take(team, "bob")
    assert (delivery.failures, delivery.message.content) == (0, REPORT)


async def test_a_request_error_is_no_content_error(team: Space) -> None:
    agent = MessagePassingAgent("bob", team.broker)

    @agent.on_message("default")
    def fail(_: Message) -> None:
        raise ValueError("own")

    async with agent:
        with pytest.raises(RemoteError, match="own"):
            await team.broker.request_response(Message(sender="ann", receiver="bob", content=REPORT), timeout=LIMIT)


# --- the ledger ---------------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(st.sampled_from(["add", "point", "settle", "hold", "count"]), st.integers(0, 5)), max_size=60
)


@given(steps)
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_a_copy_is_deleted_exactly_when_nobody_points_at_it_any_more(moves: list[tuple[str, int]]) -> None:
    ledger = Ledger()
    pointers: dict[str, int] = {}
    held: dict[str, int] = {}  # publications that are not counted yet: how many receivers each has
    for move, number in moves:
        name = str(number)
        if move == "add" and name not in pointers:
            ledger, _ = ledger.added(Copy(name, 10.0, 0), 0.0).counted(name, 1)
            pointers[name] = 1
        elif name in pointers:
            ends = False
            if move == "point":
                ledger, ends = ledger.counted(name, 2)
                pointers[name] += 2
            elif move == "hold" and name not in held:
                ledger, ends = ledger.counted(name, 0, 1)
                held[name] = number
                pointers[name] += number
            elif move == "count" and name in held:
                ledger, ends = ledger.counted(name, held.pop(name), -1)
            elif move == "settle" and pointers[name]:
                ledger, ends = ledger.counted(name, -1)
                pointers[name] -= 1
            assert ends == (pointers[name] == 0 and name not in held)
            if ends:
                del pointers[name]
    assert {copy.name for copy in ledger.copies} == set(pointers)


def test_a_ledger_forgets_copies_whose_time_is_over_and_the_oldest_of_too_many() -> None:
    ledger = Ledger((Copy("old", 5.0, 1), Copy("alive", 50.0, 1)))
    assert [copy.name for copy in ledger.added(Copy("new", 60.0, 0), 10.0).copies] == ["alive", "new"]
    for number in range(2 * MAX_COPIES):
        ledger = ledger.added(Copy(str(number), 100.0 + number, 1), 10.0)
    assert len(ledger.copies) == MAX_COPIES
    assert (ledger.copies[-1].name, ledger.expires) == (str(2 * MAX_COPIES - 1), 99.0 + 2 * MAX_COPIES)
    assert ledger.counted("old", -1) == (ledger, False)
    found = ledger.lasting(101.0)
    assert found is not None
    assert found.expires >= 101.0
    assert ledger.lasting(10_000.0) is None
