"""Deliveries: claims, leases, and how they end."""

from __future__ import annotations

import asyncio

from tertulia.engines.base import Commit, Put, Send, Settle
from tertulia.errors import AlreadySettledError, LeaseLostError
from tertulia.testing.conformance._expect import equal, expect, no, raises, running, within, yes
from tertulia.testing.conformance._registry import MANUAL_CLOCK, case
from tertulia.testing.conformance._steps import (
    LEASE,
    box,
    claim,
    claim_all,
    pass_time,
    pause,
    send,
    settle,
    settle_of,
    states,
    unit,
)
from tertulia.testing.conformance.harness import Harness


@case()
async def messages_come_oldest_first(h: Harness) -> None:
    """First in, first out per mailbox, across commits and handles; `limit` takes that many."""
    other = (await h.open_again()).engine
    await box(h.engine)
    await send(h.engine, "ada", "1", "2")
    await send(other, "ada", "3")
    await send(h.engine, "ada", "4")
    equal([one.message_id for one in await other.claim("ada", limit=3)], ["1", "2", "3"], "a claim of three")
    equal([one.message_id for one in await h.engine.claim("ada", limit=3)], ["4"], "a claim of what is left")
    equal(await h.engine.claim("ada", limit=3), [], "a claim of nothing")


@case()
async def claim_describes_the_attempt(h: Harness) -> None:
    """A first claim is attempt 1 without failures, of the body that was sent; later messages have later sequences."""
    await box(h.engine)
    await h.engine.commit(Commit(sends=(Send("ada", "m", b"\x00body"),)))
    await send(h.engine, "ada", "n")
    one, two = await h.engine.claim("ada", limit=2)
    equal(
        (one.mailbox, one.message_id, one.body, one.attempt, one.failures, one.notes, one.transient),
        ("ada", "m", b"\x00body", 1, 0, (), False),
        "the claim",
    )
    expect(0 < one.sequence < two.sequence, "sequences should grow from one message to the next")


@case()
async def competing_claims_never_share_a_message(h: Harness) -> None:
    """Consumers of one mailbox, on several handles, never hold the same message, and get them all."""
    engines = [h.engine, (await h.open_again()).engine, (await h.open_again()).engine]
    await box(h.engine)
    ids = [f"m{number:02}" for number in range(60)]
    got: list[str] = []

    async def consume(number: int) -> None:
        engine = engines[number % 3]
        while claimed := await engine.claim("ada", limit=1 + number % 2, wait=None):
            for one in claimed:
                got.append(one.message_id)
                await asyncio.sleep(0)
                await settle(engine, one)

    consumers = [asyncio.create_task(consume(number)) for number in range(6)]
    for one in ids:
        await send(h.engine, "ada", one)
    async with asyncio.timeout(10):
        while len(got) < len(ids) or await states(h.engine):
            await pause(h)
    for task in consumers:
        task.cancel()
    await asyncio.gather(*consumers, return_exceptions=True)
    equal(sorted(got), ids, "the messages that were handled")


@case()
async def leased_message_is_not_claimed_again(h: Harness) -> None:
    """While a lease lasts, nobody else gets the message."""
    await box(h.engine)
    await send(h.engine, "ada", "m")
    await claim(h, h.engine)
    equal(await (await h.open_again()).engine.claim("ada"), [], "a second claim")


@case()
async def lease_that_runs_out_gives_the_message_back(h: Harness) -> None:
    """A lease that runs out gives the message back, with one more attempt and one more failure."""
    await box(h.engine)
    await send(h.engine, "ada", "m")
    first = await claim(h, h.engine, lease=1.0)
    await pass_time(h, 0.6)
    equal(await h.engine.claim("ada"), [], "a claim while the lease lasts")
    await pass_time(h, 1.0)
    second = await claim(h, h.engine)
    equal((second.attempt, second.failures, second.sequence), (2, 1, first.sequence), "the second attempt")


@case()
async def lease_that_runs_out_wakes_a_claim(h: Harness) -> None:
    """A claim that waits, on any handle, gets the message when another's lease runs out."""
    other = (await h.open_again()).engine
    await box(h.engine)
    await send(h.engine, "ada", "m")
    await claim(h, h.engine, lease=1.0)
    async with running(other.claim("ada", wait=None)) as task:
        await pass_time(h, 0.4)
        expect(not task.done(), "the message should stay with its holder")
        await pass_time(h, 1.2)
        equal([one.attempt for one in await within(task)], [2], "the attempts")


@case()
async def extended_lease_lasts_longer(h: Harness) -> None:
    """`extend` makes the lease end that long from now, as often as it is called; no failure is counted."""
    await box(h.engine)
    await send(h.engine, "ada", "m")
    held = await claim(h, h.engine, lease=1.0)
    for _ in range(3):
        await pass_time(h, 0.6)
        await h.engine.extend(held, unit(h))
    equal(await h.engine.claim("ada"), [], "a claim past the first lease's end")
    await pass_time(h, 1.6)
    again = await claim(h, h.engine)
    equal((again.attempt, again.failures), (2, 1), "the attempt after the extended lease ran out")


@case()
async def extend_can_shorten_a_lease(h: Harness) -> None:
    """`extend` sets the lease's end, also to an earlier instant."""
    await box(h.engine)
    await send(h.engine, "ada", "m")
    held = await claim(h, h.engine)
    await h.engine.extend(held, unit(h))
    await pass_time(h, 1.6)
    equal((await claim(h, h.engine)).attempt, 2, "the attempt")


@case()
async def lost_lease_cannot_be_extended(h: Harness) -> None:
    """`extend` raises LeaseLostError when the lease ran out, is another attempt's, was given back, or is settled."""
    await box(h.engine)
    await send(h.engine, "ada", "m")
    first = await claim(h, h.engine, lease=1.0)
    await pass_time(h, 1.6)
    with raises(LeaseLostError):
        await h.engine.extend(first, LEASE)
    second = await claim(h, h.engine)
    with raises(LeaseLostError):
        await h.engine.extend(first, LEASE)
    await h.engine.extend(second, LEASE)
    await h.engine.release(second)
    with raises(LeaseLostError):
        await h.engine.extend(second, LEASE)
    third = await claim(h, h.engine)
    await settle(h.engine, third)
    with raises(LeaseLostError):
        await h.engine.extend(third, LEASE)


@case()
async def released_message_comes_again_at_once(h: Harness) -> None:
    """A released message is claimable at once, before younger ones; the attempt counts, no failure does."""
    await box(h.engine)
    await send(h.engine, "ada", "old", "young")
    held = await claim(h, h.engine)
    yes(await h.engine.release(held), "what release returns")
    again = await claim(h, h.engine)
    equal((again.message_id, again.attempt, again.failures), ("old", 2, 0), "the next claim")


@case()
async def several_released_messages_keep_their_order(h: Harness) -> None:
    """Messages that are given back, in whatever order, come again oldest first."""
    await box(h.engine)
    await send(h.engine, "ada", "1", "2", "3", "4")
    held = await h.engine.claim("ada", limit=3)
    for one in (held[1], held[0], held[2]):
        await h.engine.release(one)
    equal(await claim_all(h.engine), ["1", "2", "3", "4"], "the order")


@case()
async def release_wakes_a_claim(h: Harness) -> None:
    """A claim that waits gets a message that somebody releases."""
    await box(h.engine)
    await send(h.engine, "ada", "m")
    held = await claim(h, h.engine)
    async with running((await h.open_again()).engine.claim("ada", wait=None)) as task:
        await pause(h)
        await h.engine.release(held)
        equal([one.attempt for one in await within(task)], [2], "the attempts")


@case()
async def counted_release_is_a_failure(h: Harness) -> None:
    """With `counted` a release is one more failure; with a `note` it adds it to the message's notes."""
    await box(h.engine)
    await send(h.engine, "ada", "m")
    await h.engine.release(await claim(h, h.engine), counted=True, note=b"why")
    await h.engine.release(await claim(h, h.engine))
    again = await claim(h, h.engine)
    equal((again.attempt, again.failures, again.notes), (3, 1, (b"why",)), "the third attempt")


@case()
async def release_with_a_delay(h: Harness) -> None:
    """A message released with a delay is claimable after it, and may be overtaken meanwhile."""
    await box(h.engine)
    await send(h.engine, "ada", "old", "young")
    await h.engine.release(await claim(h, h.engine), delay=unit(h))
    equal(await states(h.engine), [("old", "delayed"), ("young", "waiting")], "the mailbox")
    equal(await claim_all(h.engine), ["young"], "what can be claimed at first")
    await pass_time(h, 1.6)
    equal(await claim_all(h.engine), ["old"], "what can be claimed later")


@case()
async def lost_lease_cannot_be_released(h: Harness) -> None:
    """`release` returns False, and changes nothing, when the lease was lost or the message settled."""
    await box(h.engine)
    await send(h.engine, "ada", "m")
    first = await claim(h, h.engine, lease=1.0)
    await pass_time(h, 1.6)
    second = await claim(h, h.engine)
    no(await h.engine.release(first, counted=True, note=b"late"), "release of the lost lease")
    equal(await states(h.engine), [("m", "leased")], "the mailbox")
    await h.engine.extend(second, LEASE)
    await settle(h.engine, second)
    no(await h.engine.release(second), "release after settling")


# --- settling ---


@case()
async def settled_message_is_gone(h: Harness) -> None:
    """A settled message is out of its mailbox for good: it does not come back when the lease would have run out."""
    await box(h.engine)
    await send(h.engine, "ada", "m")
    await settle(h.engine, await claim(h, h.engine, lease=1.0))
    await pass_time(h, 1.6)
    equal((await states(h.engine), await h.engine.claim("ada")), ([], []), "the mailbox")


@case()
async def message_is_settled_once(h: Harness) -> None:
    """A second settle of the same message raises AlreadySettledError."""
    await box(h.engine)
    await send(h.engine, "ada", "m")
    held = await claim(h, h.engine)
    await settle(h.engine, held)
    with raises(AlreadySettledError, agent_id="ada", message_id="m"):
        await settle(h.engine, held)


@case()
async def late_attempt_wins_if_it_is_first(h: Harness) -> None:
    """An attempt whose lease ran out may still commit if nobody else has; then the other one's commit fails whole."""
    await box(h.engine)
    await send(h.engine, "ada", "m")
    late = await claim(h, h.engine, lease=1.0)
    await pass_time(h, 1.6)
    second = await claim(h, h.engine)
    await h.engine.commit(Commit(settles=(settle_of(late),), puts=(Put("who", b"late", "ada"),)))
    with raises(AlreadySettledError):
        await h.engine.commit(Commit(settles=(settle_of(second),), puts=(Put("who", b"second", "ada"),)))
    record = await h.engine.get("who")
    expect(record is not None and record.body == b"late" and record.version == 1, "one attempt's write should count")


@case()
async def late_attempt_fails_if_it_is_second(h: Harness) -> None:
    """An attempt whose message another attempt has settled cannot commit anything."""
    await box(h.engine)
    await send(h.engine, "ada", "m")
    late = await claim(h, h.engine, lease=1.0)
    await pass_time(h, 1.6)
    await settle(h.engine, await claim(h, h.engine))
    with raises(AlreadySettledError, agent_id="ada", message_id="m"):
        await h.engine.commit(Commit(settles=(settle_of(late),), puts=(Put("k", b"", "ada"),)))
    equal(await h.engine.get("k"), None, "the late attempt's write")


@case()
async def late_attempt_may_settle_what_waits_again(h: Harness) -> None:
    """An attempt whose lease ran out settles a message that waits to be claimed again; nobody gets it then."""
    await box(h.engine)
    await send(h.engine, "ada", "m")
    late = await claim(h, h.engine, lease=1.0)
    await pass_time(h, 1.6)
    await settle(h.engine, late)
    equal(await h.engine.claim("ada"), [], "a later claim")


@case()
async def sequence_tells_messages_of_one_id_apart(h: Harness) -> None:
    """A settle with another message's sequence fails; with sequence 0 it takes whichever has the id."""
    await box(h.engine)
    await send(h.engine, "ada", "m")
    old = await claim(h, h.engine)
    await settle(h.engine, old)
    await send(h.engine, "ada", "m")
    with raises(AlreadySettledError):
        await settle(h.engine, old)
    await h.engine.commit(Commit(settles=(Settle("ada", "m"),)))
    equal(await states(h.engine), [], "the mailbox")


@case(MANUAL_CLOCK)
async def leases_end_each_at_its_own_time(h: Harness) -> None:
    """Messages under leases of different lengths come back each at its own time."""
    await box(h.engine)
    await send(h.engine, "ada", "long", "short", "middle")
    for lease in (30.0, 10.0, 20.0):
        await h.engine.claim("ada", lease=lease)
    back: list[list[str]] = []
    for _ in range(3):
        await h.advance(10.5 - 0.1 * len(back))
        back.append([name for name, state in await states(h.engine) if state == "waiting"])
        await claim_all(h.engine)
    equal(back, [["short"], ["middle"], ["long"]], "what came back after 10, 20 and 30 s")
