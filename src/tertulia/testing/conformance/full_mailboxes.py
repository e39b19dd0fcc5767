"""Full mailboxes, as senders see them: refused, made to wait, or told what was dropped."""

from __future__ import annotations

import asyncio

from tertulia.errors import (
    MailboxFullError,
)
from tertulia.records import DeliveryMode, WhenFull
from tertulia.testing.conformance._expect import equal, no, raises, running, within
from tertulia.testing.conformance._registry import case
from tertulia.testing.conformance._steps import contents, message, pass_time, pause, take, unit
from tertulia.testing.conformance.harness import Harness

AT_MOST_ONCE, AT_LEAST_ONCE = DeliveryMode.AT_MOST_ONCE, DeliveryMode.AT_LEAST_ONCE
EXACTLY_ONCE = DeliveryMode.EXACTLY_ONCE


@case()
async def full_mailbox_refuses(h: Harness) -> None:
    """A full mailbox that rejects raises MailboxFullError at once; what is being handled counts, too."""
    space = await h.open()
    await space.broker.register_agent("ada", max_queue_size=1)
    await space.broker.send(message("ada", 1))
    with raises(MailboxFullError, agent_id="ada"):
        await within(space.broker.send(message("ada", 2)))
    delivery = await take(space)
    with raises(MailboxFullError):
        await space.broker.send(message("ada", 2))
    await delivery.acknowledge()
    await space.broker.send(message("ada", 3))
    equal(await contents(space), [3], "what is there")


@case()
async def sender_waits_for_room(h: Harness) -> None:
    """Where the owner chose WAIT a sender goes on as soon as a message is settled, through whichever handle."""
    space, other = await h.open(), await h.open_again()
    await space.broker.register_agent("ada", max_queue_size=1, when_full=WhenFull.WAIT)
    await space.broker.send(message("ada", 1))
    async with running(other.broker.send(message("ada", 2), timeout=100 * unit(h))) as task:
        await pause(h)
        no(task.done(), "whether it was sent to a full mailbox")
        await (await take(space)).acknowledge()
        equal((await within(task)).delivered, 1, "the receipt")
    equal(await contents(space), [2], "what is there")


@case()
async def every_waiting_sender_gets_its_turn(h: Harness) -> None:
    """Several senders that wait for room each get in as messages are settled; nothing is lost or stored twice."""
    space = await h.open()
    await space.broker.register_agent("ada", max_queue_size=2, when_full=WhenFull.WAIT)
    sends = [asyncio.create_task(space.broker.send(message("ada", n), timeout=1000 * unit(h))) for n in range(10)]
    got: list[object] = []
    async with asyncio.timeout(10):
        while len(got) < len(sends):
            await pause(h)
            got += await contents(space)
    await within(asyncio.gather(*sends))
    equal(sorted(map(str, got)), [str(number) for number in range(10)], "what was received")


@case()
async def sender_waits_no_longer_than_told(h: Harness) -> None:
    """A sender that waits for room gets MailboxFullError after its timeout, and nothing was stored."""
    space = await h.open()
    await space.broker.register_agent("ada", max_queue_size=1, when_full=WhenFull.WAIT)
    await space.broker.send(message("ada", 1))
    async with running(space.broker.send(message("ada", 2), timeout=unit(h))) as task:
        await pass_time(h, 0.4)
        no(task.done(), "whether it gave up early")
        await pass_time(h, 1.4)
        with raises(MailboxFullError, agent_id="ada", waits=True):
            await within(task)
    equal(await contents(space), [1], "what is there")


@case()
async def sender_that_needs_more_room_waits_without_spinning(h: Harness) -> None:
    """A commit with more messages than there is room for waits for enough of it, and lets others work meanwhile."""
    space = await h.open()
    await space.broker.register_agent("ada", max_queue_size=2, when_full=WhenFull.WAIT)
    await space.broker.send(message("ada", 1))

    async def send_two() -> None:
        async with space.transaction() as tx:
            tx.send(message("ada", 2))
            tx.send(message("ada", 3))

    async with running(send_two()) as task:
        await within(h.advance(0))
        no(task.done(), "whether two messages were sent where one fits")
        await (await take(space)).acknowledge()
        async with asyncio.timeout(10):
            while not task.done():
                await pass_time(h, 0.1)
        await task
    equal(await contents(space), [2, 3], "what is there")


@case()
async def cancelled_sender_sends_nothing(h: Harness) -> None:
    """A sender that is cancelled while it waits for room has stored nothing, and keeps nobody else waiting."""
    space = await h.open()
    await space.broker.register_agent("ada", max_queue_size=1, when_full=WhenFull.WAIT)
    await space.broker.send(message("ada", 1))
    first = asyncio.create_task(space.broker.send(message("ada", 2), timeout=1000 * unit(h)))
    await pause(h)
    async with running(space.broker.send(message("ada", 3), timeout=1000 * unit(h))) as second:
        await pause(h)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await (await take(space)).acknowledge()
        await within(second)
    equal(await contents(space), [3], "what is there")


@case()
async def dropped_message_is_named(h: Harness) -> None:
    """Where the owner chose DROP_OLDEST the receipt names what had to go; it is counted and logged, never silent."""
    space = await h.open()
    await space.broker.register_agent("ada", max_queue_size=2, when_full=WhenFull.DROP_OLDEST)
    oldest = message("ada", 1)
    for one in (oldest, message("ada", 2)):
        equal((await space.broker.send(one)).dropped, (), "what was dropped while there is room")
    receipt = await space.broker.send(message("ada", 3))
    equal((receipt.delivered, receipt.dropped), (1, (("ada", oldest.id),)), "the receipt")
    equal((await space.broker.get_stats()).dropped, 1, "the count of dropped messages")
    dropped = [one.message_id for one in space.broker.message_log() if one.status == "dropped"]
    equal(dropped, [oldest.id], "the dropped messages in the log")
    equal(await contents(space), [2, 3], "what is there")
