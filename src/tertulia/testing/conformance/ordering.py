"""Ordered mailboxes: a message that is leased or delayed holds back all that were sent after it."""

from __future__ import annotations

from tertulia.testing.conformance._expect import equal, expect, running, within
from tertulia.testing.conformance._registry import case
from tertulia.testing.conformance._steps import (
    box,
    claim,
    pass_time,
    pause,
    send,
    settle,
    unit,
)
from tertulia.testing.conformance.harness import Harness


@case()
async def ordered_mailbox_hands_out_one_at_a_time(h: Harness) -> None:
    """In an ordered mailbox a leased message holds back all that were sent after it, until it is settled."""
    await box(h.engine, ordered=True)
    await send(h.engine, "ada", "1", "2", "3")
    held = await h.engine.claim("ada", limit=3)
    equal([one.message_id for one in held], ["1"], "the first claim")
    equal(await h.engine.claim("ada"), [], "a claim beside it")
    await settle(h.engine, held[0])
    equal((await claim(h, h.engine)).message_id, "2", "the next claim")


@case()
async def ordered_mailbox_waits_for_a_retry(h: Harness) -> None:
    """In an ordered mailbox a message that is retried, at once or later, is not overtaken."""
    await box(h.engine, ordered=True)
    await send(h.engine, "ada", "1", "2")
    await h.engine.release(await claim(h, h.engine), delay=unit(h))
    equal(await h.engine.claim("ada"), [], "a claim during the delay")
    await pass_time(h, 1.6)
    first = await claim(h, h.engine)
    equal(first.message_id, "1", "the claim after the delay")
    await h.engine.release(first)
    equal((await claim(h, h.engine)).message_id, "1", "the claim after a release")


@case()
async def ordered_mailbox_waits_for_a_delayed_message(h: Harness) -> None:
    """In an ordered mailbox a message sent with a delay holds back those sent after it, and none sent before."""
    await box(h.engine, ordered=True)
    await send(h.engine, "ada", "1")
    await send(h.engine, "ada", "2", delay=unit(h))
    await send(h.engine, "ada", "3")
    await settle(h.engine, await claim(h, h.engine))
    equal(await h.engine.claim("ada"), [], "a claim during the delay")
    await pass_time(h, 1.6)
    held = await claim(h, h.engine)
    equal(held.message_id, "2", "the claim after the delay")
    await settle(h.engine, held)
    equal((await claim(h, h.engine)).message_id, "3", "the last claim")


@case()
async def ordered_mailbox_waits_for_a_lost_lease(h: Harness) -> None:
    """In an ordered mailbox a message whose lease runs out comes again before those after it."""
    await box(h.engine, ordered=True)
    await send(h.engine, "ada", "1", "2")
    await claim(h, h.engine, lease=1.0)
    await pass_time(h, 1.6)
    again = await claim(h, h.engine)
    equal((again.message_id, again.attempt), ("1", 2), "the next claim")


@case()
async def ordered_mailbox_wakes_the_next_claim(h: Harness) -> None:
    """In an ordered mailbox a claim that waits behind a leased message is woken when that is settled."""
    await box(h.engine, ordered=True)
    await send(h.engine, "ada", "1", "2")
    held = await claim(h, h.engine)
    async with running(h.engine.claim("ada", wait=None)) as task:
        await pause(h)
        expect(not task.done(), "the second message should be held back")
        await settle(h.engine, held)
        equal([one.message_id for one in await within(task)], ["2"], "what the claim gets")


@case()
async def mailbox_that_is_no_longer_ordered_wakes_claims(h: Harness) -> None:
    """When a mailbox stops being ordered, a claim that waits behind a leased message gets the next one."""
    await box(h.engine, ordered=True)
    await send(h.engine, "ada", "1", "2")
    await claim(h, h.engine)
    async with running(h.engine.claim("ada", wait=None)) as task:
        await pause(h)
        await box(h.engine, ordered=False)
        equal([one.message_id for one in await within(task)], ["2"], "what the claim gets")
