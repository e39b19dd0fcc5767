"""MessageBroker: agents, sending, receiving, dead letters, figures."""

from __future__ import annotations

import asyncio

from tertulia.errors import (
    AlreadySettledError,
    LeaseLostError,
    MailboxFullError,
    Reject,
    RetryLater,
    SpaceClosedError,
    UnknownAgentError,
)
from tertulia.records import DeliveryMode, Message, WhenFull
from tertulia.space import Space
from tertulia.testing.conformance._expect import equal, no, raises, running, within, yes
from tertulia.testing.conformance._registry import case
from tertulia.testing.conformance._steps import contents, message, pass_time, pause, register, take, unit
from tertulia.testing.conformance.harness import Harness

AT_MOST_ONCE, AT_LEAST_ONCE = DeliveryMode.AT_MOST_ONCE, DeliveryMode.AT_LEAST_ONCE
EXACTLY_ONCE = DeliveryMode.EXACTLY_ONCE


async def _open(h: Harness, *agents: str) -> Space:
    space = await h.open()
    await register(space, *(agents or ("ada",)))
    return space


# --- agents ---


@case()
async def registered_agents_are_listed(h: Harness) -> None:
    """`register_agent` tells whether the agent is new; `agents` lists agents with their settings, by name."""
    space = await h.open()
    yes(await space.broker.register_agent("bob"), "the first time")
    no(
        await space.broker.register_agent("bob", max_queue_size=5, when_full=WhenFull.WAIT, max_attempts=2),
        "the second time",
    )
    await space.broker.register_agent("ada", ordered=True)
    found = [
        (info.agent_id, info.max_queue_size, info.when_full, info.max_attempts, info.ordered)
        for info in await space.agents()
    ]
    wanted = [("ada", 1000, WhenFull.REJECT, 5, True), ("bob", 5, WhenFull.WAIT, 2, False)]
    equal(found, wanted, "the agents")


@case()
async def unregistered_agents_messages_are_dead_letters(h: Harness) -> None:
    """`unregister_agent` removes the mailbox; what was in it is kept as dead letters, reason "unregistered"."""
    space = await _open(h)
    for content in (1, 2):
        await space.broker.send(message("ada", content))
    equal(await space.broker.unregister_agent("ada"), 2, "how many messages were in it")
    equal(await space.agents(), [], "the agents")
    with raises(UnknownAgentError, agent_id="ada"):
        await space.broker.send(message("ada"))
    letters = await space.broker.dead_letters("ada")
    equal([(one.message.content, one.reason) for one in letters], [(1, "unregistered"), (2, "unregistered")], "letters")
    equal(await space.broker.unregister_agent("ada"), 0, "unregistering it again")


@case()
async def unregistering_ends_receives_and_subscriptions(h: Harness) -> None:
    """A receive that waits raises UnknownAgentError when the agent is unregistered; its topics are forgotten."""
    space = await _open(h)
    await space.broker.subscribe("ada", "news")
    async with running(space.broker.receive("ada")) as task:
        await pause(h)
        await space.broker.unregister_agent("ada")
        with raises(UnknownAgentError, agent_id="ada"):
            await within(task)
    await register(space, "ada")
    equal((await space.broker.publish("news", message(""))).delivered, 0, "who gets what is published")


# --- sending and receiving ---


@case()
async def message_arrives_as_it_was_sent(h: Harness) -> None:
    """A message arrives with id, sender, receiver, content, headers, mode, time and correlation as it was sent."""
    space = await _open(h)
    sent = Message(
        sender="bob",
        receiver="ada",
        content={"n": [1, None, "ñ"]},
        sent=space.clock.time(),
        headers={"a": "b"},
        correlation_id="c",
        delivery_mode=EXACTLY_ONCE,
    )
    receipt = await space.broker.send(sent)
    equal((receipt.message_id, receipt.delivered, receipt.duplicate), (sent.id, 1, False), "the receipt")
    delivery = await take(await h.open_again())
    equal(delivery.message, sent, "the message")
    equal((delivery.attempt, delivery.failures, delivery.message.attempt), (1, 0, 1), "the attempt")
    yes("ada" in delivery.idempotency_key and sent.id in delivery.idempotency_key, "whether the key names both")


@case()
async def content_is_never_shared(h: Harness) -> None:
    """Content is copied: changing what was sent, or what one receiver got, changes no other message."""
    space = await _open(h, "ada", "bob")
    content = {"list": [1]}
    for agent in ("ada", "bob"):
        await space.broker.subscribe(agent, "news")
    await space.broker.publish("news", message("", content))
    content["list"].append(2)
    first = (await take(space, "ada")).message
    first.content["list"].append(3)
    equal((await take(space, "bob")).message.content, {"list": [1]}, "what the other one gets")


@case()
async def messages_come_in_order(h: Harness) -> None:
    """First in, first out per mailbox, whoever sends through whichever handle."""
    space, other = await _open(h), await h.open_again()
    for number in range(20):
        await (space, other)[number % 2].broker.send(message("ada", number))
    equal(await contents(space), list(range(20)), "the contents")


@case()
async def unknown_receiver_is_an_error(h: Harness) -> None:
    """Sending to, receiving for, or subscribing an agent that is not registered raises UnknownAgentError."""
    broker = (await h.open()).broker
    for call in (
        broker.send(message("nobody")),
        broker.receive("nobody", timeout=0),
        broker.receive("nobody"),
        broker.subscribe("nobody", "news"),
        broker.mailbox_stats("nobody"),
        broker.queue("nobody").size(),
        broker.queue("nobody").enqueue(message("nobody")),
    ):
        with raises(UnknownAgentError, agent_id="nobody"):
            await within(call)


@case()
async def receive_waits_as_long_as_told(h: Harness) -> None:
    """`receive` returns None at once with timeout 0, or after its timeout; a message that comes meanwhile wakes it."""
    space = await _open(h)
    equal(await within(space.broker.receive("ada", timeout=0)), None, "without waiting")
    async with running(space.broker.receive("ada", timeout=unit(h))) as task:
        await pass_time(h, 1.6)
        equal(await within(task), None, "after the timeout")
    async with running(space.broker.receive("ada")) as task:
        await pause(h)
        await space.broker.send(message("ada", "wake"))
        delivery = await within(task)
        equal(None if delivery is None else delivery.message.content, "wake", "the content")


@case()
async def cancelled_receive_holds_nothing(h: Harness) -> None:
    """A receive that is cancelled while it waits holds no message."""
    space = await _open(h)
    task = asyncio.create_task(space.broker.receive("ada"))
    await pause(h)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await space.broker.send(message("ada"))
    equal((await take(space)).attempt, 1, "the attempt")


@case()
async def closing_the_space_ends_receives(h: Harness) -> None:
    """A receive that waits raises SpaceClosedError when its space is closed."""
    await _open(h)
    other = await h.open_again()
    async with running(other.broker.receive("ada")) as task:
        await pause(h)
        await other.aclose()
        with raises(SpaceClosedError):
            await within(task)


@case()
async def queue_is_the_mailbox(h: Harness) -> None:
    """A MessageQueue enqueues, dequeues, acknowledges and counts for its one agent, whoever a message names."""
    space = await _open(h)
    queue = space.broker.queue("ada")
    sent = message("somebody else", "hello")
    await queue.enqueue(sent)
    await queue.enqueue(message("ada"))
    equal((await queue.size(), await queue.get_pending_count()), (2, 0), "waiting and pending")
    delivery = await queue.dequeue(timeout=0)
    equal(None if delivery is None else delivery.message.receiver, "ada", "the receiver")
    equal((await queue.size(), await queue.get_pending_count()), (1, 1), "waiting and pending")
    await queue.acknowledge(sent.id)
    equal((await queue.size(), await queue.get_pending_count()), (1, 0), "waiting and pending")


@case()
async def delayed_message_arrives_later(h: Harness) -> None:
    """A message sent with a delay is received after it, and not before."""
    space = await _open(h)
    await space.broker.send(message("ada", "later"), delay=unit(h))
    await space.broker.send(message("ada", "now"))
    equal(await contents(space), ["now"], "what comes at first")
    await pass_time(h, 1.6)
    equal(await contents(space), ["later"], "what comes later")


@case()
async def stored_message_waits_for_its_receiver(h: Harness) -> None:
    """AT_LEAST_ONCE: the message is stored when `send` returns; nobody has to be there."""
    space = await _open(h)
    other = await h.open_again()
    await other.broker.send(message("ada", "stored"))
    await other.aclose()
    equal(await contents(space), ["stored"], "the contents")


@case()
async def fleeting_message_is_never_repeated(h: Harness) -> None:
    """AT_MOST_ONCE: a message reaches who waits for it, once, and needs no acknowledgement."""
    space = await _open(h)
    async with running(space.broker.receive("ada", lease=unit(h))) as task:
        await pause(h)
        receipt = await space.broker.send(message("ada", "fleeting", delivery_mode=AT_MOST_ONCE))
        equal(receipt.delivered, 1, "to how many it was handed")
        delivery = await within(task)
    equal(None if delivery is None else delivery.message.content, "fleeting", "the content")
    await pass_time(h, 1.6)
    equal(await contents(space), [], "what comes later")
    if delivery is not None:
        await delivery.acknowledge()


@case()
async def repeated_send_is_stored_once(h: Harness) -> None:
    """EXACTLY_ONCE: a send that is repeated while the message is there, or was handled, stores nothing more."""
    space = await _open(h)
    sent = message("ada", "once", delivery_mode=EXACTLY_ONCE)
    await space.broker.send(sent)
    yes((await space.broker.send(sent)).duplicate, "whether it is a duplicate while it waits")
    delivery = await take(space)
    yes((await space.broker.send(sent)).duplicate, "whether it is a duplicate while it is handled")
    await delivery.acknowledge()
    yes((await (await h.open_again()).broker.send(sent)).duplicate, "whether it is a duplicate after that")
    equal(await contents(space), [], "what is there")


# --- how deliveries end ---


@case()
async def unacknowledged_message_is_delivered_again(h: Harness) -> None:
    """A message that is not acknowledged before its lease ends is delivered again, with the failure counted."""
    space = await _open(h)
    await space.broker.send(message("ada"))
    late = await take(space, lease=unit(h))
    await pass_time(h, 1.6)
    again = await take(space)
    equal((again.message.id, again.attempt, again.failures), (late.message.id, 2, 1), "the second attempt")
    equal((again.message.attempt, again.idempotency_key), (2, late.idempotency_key), "what the message says")
    with raises(LeaseLostError):
        await late.extend()
    no(await late.release(), "release of the lost lease")


@case()
async def extended_delivery_keeps_its_message(h: Harness) -> None:
    """`extend` keeps the message in the consumer's hands."""
    space = await _open(h)
    await space.broker.send(message("ada"))
    delivery = await take(space, lease=unit(h))
    for _ in range(3):
        await pass_time(h, 0.6)
        await delivery.extend(unit(h))
    equal(await space.broker.receive("ada", timeout=0), None, "another receive")
    await delivery.acknowledge()


@case()
async def acknowledged_message_is_gone(h: Harness) -> None:
    """`acknowledge` takes the message out for good; a second one raises AlreadySettledError."""
    space = await _open(h)
    sent = message("ada")
    await space.broker.send(sent)
    delivery = await take(space, lease=unit(h))
    await delivery.acknowledge()
    yes(delivery.ended, "whether it ended")
    with raises(AlreadySettledError, agent_id="ada", message_id=sent.id):
        await delivery.acknowledge()
    with raises(AlreadySettledError):
        await space.broker.acknowledge("ada", sent.id)
    await pass_time(h, 1.6)
    equal(await contents(space), [], "what comes later")


@case()
async def released_message_is_delivered_again(h: Harness) -> None:
    """`release` gives the message back, after `delay` seconds, as a failure only if it is `counted`."""
    space = await _open(h)
    await space.broker.send(message("ada"))
    yes(await (await take(space)).release(), "what release returns")
    yes(await (await take(space)).release(delay=unit(h), counted=True, reason="not now"), "what release returns")
    equal(await space.broker.receive("ada", timeout=0), None, "a receive during the delay")
    await pass_time(h, 1.6)
    third = await take(space)
    equal((third.attempt, third.failures), (3, 1), "the third attempt")
    await third.reject("enough")
    equal([one.reason for one in (await space.broker.dead_letters("ada"))[0].history], ["not now", "enough"], "history")


@case()
async def block_that_ends_well_acknowledges(h: Harness) -> None:
    """A delivery as a context manager acknowledges at the end of its block, unless it was ended inside."""
    space = await _open(h)
    for content in (1, 2):
        await space.broker.send(message("ada", content))
    async with await take(space) as delivery:
        no(delivery.ended, "whether it ended inside the block")
    async with await take(space) as delivery:
        await delivery.release()
    equal(await contents(space), [2], "what is left")


@case()
async def block_that_fails_decides_the_messages_fate(h: Harness) -> None:
    """An exception in the block: RetryLater releases it, Reject rejects it (and neither comes out), others count."""
    space = await _open(h)
    await space.broker.send(message("ada", "m"))
    async with await take(space):
        raise RetryLater(0.0)
    with raises(ZeroDivisionError):
        async with await take(space):
            raise ZeroDivisionError
    await pass_time(h, 1.0)
    third = await take(space)
    equal((third.attempt, third.failures), (3, 1), "the third attempt")
    async with third:
        raise Reject("useless")
    letters = await space.broker.dead_letters("ada")
    equal([(one.message.content, one.reason) for one in letters], [("m", "useless")], "the dead letters")


@case()
async def cancelled_block_gives_the_message_back(h: Harness) -> None:
    """A delivery's block that is cancelled gives the message back, without a failure."""
    space = await _open(h)
    await space.broker.send(message("ada"))

    async def handle() -> None:
        async with await take(space):
            await asyncio.Event().wait()

    async with running(handle()):
        await pause(h)
    again = await take(space)
    equal((again.attempt, again.failures), (2, 0), "the next attempt")


@case()
async def publication_reaches_every_subscriber(h: Harness) -> None:
    """`publish` stores a copy for each subscriber, with the topic and itself as receiver; the receipt says how many."""
    space = await _open(h, "ada", "bob", "eve")
    yes(await space.broker.subscribe("ada", "news.*"), "whether the subscription is new")
    await space.broker.subscribe("ada", "news.sport")
    await space.broker.subscribe("bob", "news.>")
    await space.broker.subscribe("eve", "other")
    receipt = await space.broker.publish("news.sport", message("", "goal"))
    equal(receipt.delivered, 2, "how many mailboxes took it")
    got = [(await take(space, agent)).message for agent in ("ada", "bob")]
    equal(
        [(one.receiver, one.topic, one.content) for one in got],
        [("ada", "news.sport", "goal"), ("bob", "news.sport", "goal")],
        "the messages",
    )
    equal((await contents(space, "ada"), await contents(space, "eve")), ([], []), "what else there is")
    yes(await space.broker.unsubscribe("bob", "news.>"), "whether the subscription was there")
    equal((await space.broker.publish("news.sport", message(""))).delivered, 1, "how many after unsubscribing")


@case()
async def publication_that_one_cannot_take_reaches_nobody(h: Harness) -> None:
    """`publish` raises MailboxFullError when one subscriber rejects, and then nobody gets it."""
    space = await _open(h, "bob")
    await space.broker.register_agent("ada", max_queue_size=1)
    for agent in ("ada", "bob"):
        await space.broker.subscribe(agent, "news")
    await space.broker.send(message("ada"))
    with raises(MailboxFullError, agent_id="ada"):
        await space.broker.publish("news", message(""))
    equal(await contents(space, "bob"), [], "what the other one gets")


@case()
async def ordered_agents_messages_are_not_overtaken(h: Harness) -> None:
    """In an ordered mailbox a message that is retried is not overtaken."""
    space = await h.open()
    await space.broker.register_agent("ada", ordered=True)
    for content in (1, 2):
        await space.broker.send(message("ada", content))
    await (await take(space)).release(delay=unit(h))
    equal(await space.broker.receive("ada", timeout=0), None, "a receive during the delay")
    await pass_time(h, 1.6)
    equal(await contents(space), [1, 2], "the order")


# --- figures ---


@case()
async def stats_describe_mailboxes_and_this_handles_work(h: Harness) -> None:
    """`get_stats` has each mailbox's counts, and what this handle has sent, delivered, acknowledged and buried."""
    space = await _open(h, "ada", "bob")
    await space.broker.subscribe("bob", "news")
    for number in range(4):
        await space.broker.send(message("ada", number))
    await space.broker.send(message("ada", "later"), delay=1000.0)
    await (await take(space)).acknowledge()
    await (await take(space)).reject("no")
    await take(space)
    stats = await space.broker.get_stats()
    ada = stats.mailboxes["ada"]
    equal((ada.waiting, ada.pending, ada.delayed, ada.dead_letters), (1, 1, 1, 1), "ada's mailbox")
    equal((stats.registered_agents, stats.topics, stats.queue_sizes), (2, 1, {"ada": 2, "bob": 0}), "the mailboxes")
    equal(
        (stats.sent, stats.delivered, stats.acknowledged, stats.dead_lettered),
        (5, 3, 1, 1),
        "what this handle has done",
    )
    equal((await (await h.open_again()).broker.get_stats()).sent, 0, "what another handle has done")


@case()
async def message_log_tells_what_happened(h: Harness) -> None:
    """The message log has what happened to each message through this handle, newest last."""
    space = await _open(h)
    sent = message("ada")
    await space.broker.send(sent)
    await (await take(space)).release(reason="not now")
    await (await take(space)).reject("never")
    log = [(one.message_id, one.sender, one.receiver, one.status, one.detail) for one in space.broker.message_log()]
    wanted = [
        (sent.id, "sender", "ada", "sent", ""),
        (sent.id, "sender", "ada", "released", "not now"),
        (sent.id, "sender", "ada", "dead-lettered", "never"),
    ]
    equal(log, wanted, "the log")
    equal([one.status for one in space.broker.message_log(limit=1)], ["dead-lettered"], "the log's last entry")
