"""Claims that wait: woken by messages, never by two at once, and holding nothing once they are cancelled."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from tertulia.errors import SpaceClosedError
from tertulia.testing.conformance._expect import equal, expect, raises, running, within
from tertulia.testing.conformance._registry import case
from tertulia.testing.conformance._steps import (
    box,
    claim,
    claim_all,
    pass_time,
    pause,
    send,
    unit,
)
from tertulia.testing.conformance.harness import Harness


@case()
async def claim_without_wait_returns_at_once(h: Harness) -> None:
    """A claim that may not wait returns nothing when there is nothing."""
    await box(h.engine)
    equal(await within(h.engine.claim("ada", wait=0.0)), [])


@case()
async def claim_waits_no_longer_than_told(h: Harness) -> None:
    """A claim waits up to `wait` seconds, then returns nothing; a message that comes later is not its."""
    await box(h.engine)
    async with running(h.engine.claim("ada", wait=unit(h))) as task:
        await pass_time(h, 0.4)
        expect(not task.done(), "it should still wait")
        await pass_time(h, 1.2)
        equal(await within(task), [], "what it returns")
    await send(h.engine, "ada", "m")
    equal(await claim_all(h.engine), ["m"], "what can be claimed later")


@case()
async def waiting_claim_is_woken_by_a_message(h: Harness) -> None:
    """A claim that waits for ever is woken by a commit of any handle."""
    other = (await h.open_again()).engine
    await box(h.engine)
    async with running(h.engine.claim("ada", wait=None)) as task:
        await pause(h)
        expect(not task.done(), "it should still wait")
        await send(other, "ada", "m")
        equal([one.message_id for one in await within(task)], ["m"], "what it gets")


@case()
async def several_waiting_claims_get_one_message_each(h: Harness) -> None:
    """Of several claims that wait, each gets a message when there are enough, from one commit or several."""
    await box(h.engine)
    tasks = [asyncio.create_task(h.engine.claim("ada", wait=None)) for _ in range(3)]
    await pause(h)
    await send(h.engine, "ada", "1", "2")
    await send(h.engine, "ada", "3")
    got = await within(asyncio.gather(*tasks))
    equal(sorted(one.message_id for claimed in got for one in claimed), ["1", "2", "3"], "the messages")


@case()
async def claim_that_comes_later_waits_too(h: Harness) -> None:
    """One message wakes one of the claims that wait; the others go on waiting for the next."""
    await box(h.engine)
    tasks = [asyncio.create_task(h.engine.claim("ada", wait=None)) for _ in range(2)]
    await pause(h)
    await send(h.engine, "ada", "1")
    await pause(h)
    equal(sum(task.done() for task in tasks), 1, "how many claims returned")
    await send(h.engine, "ada", "2")
    await within(asyncio.gather(*tasks))


@case()
async def cancelled_claim_holds_nothing(h: Harness) -> None:
    """A claim that is cancelled while it waits has taken nothing: the next message goes to the next claim."""
    await box(h.engine)
    task = asyncio.create_task(h.engine.claim("ada", wait=None))
    await pause(h)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await send(h.engine, "ada", "m")
    equal((await claim(h, h.engine)).attempt, 1, "the attempt")


@case()
async def claim_cancelled_when_just_woken_holds_nothing(h: Harness) -> None:
    """A claim that is cancelled right after a message came took it, or left it for the claim that waits beside it."""
    await box(h.engine)
    first = asyncio.create_task(h.engine.claim("ada", wait=None))
    await pause(h)
    async with running((await h.open_again()).engine.claim("ada", wait=None)) as second:
        await pause(h)
        await send(h.engine, "ada", "m")
        first.cancel()
        try:
            got = await first
        except asyncio.CancelledError:
            got = await within(second)
        equal([(one.message_id, one.attempt) for one in got], [("m", 1)], "the claim")


@case()
async def handle_closed_when_a_claim_is_just_woken(h: Harness) -> None:
    """A message that comes at the moment a handle closes is left to others, unless its claim returned before that."""
    await box(h.engine)
    other = await h.open_again()
    task = asyncio.create_task(other.engine.claim("ada", wait=None))
    await pause(h)
    await send(h.engine, "ada", "m")
    await other.aclose()
    try:
        got = await within(task)  # it was faster
    except SpaceClosedError:
        got = await within(h.engine.claim("ada", wait=None))
    equal([(one.message_id, one.attempt) for one in got], [("m", 1)], "what it got, or another handle gets")


@case()
async def closing_a_handle_ends_its_claims(h: Harness) -> None:
    """Claims that wait raise SpaceClosedError when their handle closes; those of other handles go on."""
    await box(h.engine)
    other = await h.open_again()
    async with (
        running(other.engine.claim("ada", wait=None)) as ending,
        running(h.engine.claim("ada", wait=None)) as lasting,
    ):
        await pause(h)
        await other.aclose()
        with raises(SpaceClosedError):
            await within(ending)
        await send(h.engine, "ada", "m")
        equal([one.message_id for one in await within(lasting)], ["m"], "what the other handle's claim gets")
