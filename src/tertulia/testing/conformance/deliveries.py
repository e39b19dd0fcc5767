"""Deliveries: claims, leases, and how they end."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from tertulia.engines.base import Claimed, Commit, Publish, Put, Send, Settle
from tertulia.errors import AlreadySettledError, LeaseLostError, SpaceClosedError, UnknownAgentError
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


# --- waiting ---


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
    """A message that comes at the moment a handle closes is left to others: the closed handle's claim holds nothing."""
    await box(h.engine)
    other = await h.open_again()
    task = asyncio.create_task(other.engine.claim("ada", wait=None))
    await pause(h)
    await send(h.engine, "ada", "m")
    await other.aclose()
    with raises(SpaceClosedError):
        await within(task)
    got = await within(h.engine.claim("ada", wait=None))
    equal([(one.message_id, one.attempt) for one in got], [("m", 1)], "what another handle gets")


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


# --- ordered mailboxes ---


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


# --- emitted messages ---


@case()
async def emitted_message_reaches_a_waiting_claim(h: Harness) -> None:
    """What is emitted goes to whoever consumes now: once, as a transient claim, and without being stored."""
    await box(h.engine)
    async with running(h.engine.claim("ada", wait=None)) as task:
        await pause(h)
        equal(await h.engine.emit(Send("ada", "m", b"body")), 1, "how many mailboxes took it")
        got = await within(task)
    equal([(one.message_id, one.body, one.transient) for one in got], [("m", b"body", True)], "the claim")
    equal(await states(h.engine), [], "what is stored")


@case()
async def emitted_message_comes_at_most_once(h: Harness) -> None:
    """An emitted message is never handed out again, settled or not, and has no lease to lose."""
    await box(h.engine)
    async with running(h.engine.claim("ada", wait=None, lease=unit(h))) as task:
        await pause(h)
        await h.engine.emit(Send("ada", "m", b""))
        await within(task)
    await pass_time(h, 1.6)
    equal(await h.engine.claim("ada"), [], "a later claim")


@case()
async def emitted_message_needs_a_mailbox(h: Harness) -> None:
    """Emitting to an absent mailbox raises UnknownAgentError or is taken by nobody; an optional one is no error."""
    with suppress(UnknownAgentError):
        equal(await h.engine.emit(Send("nobody", "m", b"")), 0, "how many took it")
    equal(await h.engine.emit(Send("nobody", "m", b"", optional=True)), 0, "how many took the optional one")


@case()
async def emitted_publication_reaches_subscribers(h: Harness) -> None:
    """An emitted publication goes to every mailbox with a matching pattern where somebody consumes."""
    for name in ("ada", "bob", "eve"):
        await box(h.engine, name)
    await h.engine.subscribe("ada", "news.*")
    await h.engine.subscribe("bob", "news.>")
    async with (
        running(h.engine.claim("ada", wait=None)) as one,
        running(h.engine.claim("bob", wait=None)) as two,
    ):
        await pause(h)
        equal(await h.engine.emit(Publish("news.x", "m", b"")), 2, "how many mailboxes took it")
        got: list[Claimed] = [*await within(one), *await within(two)]
    equal([(claimed.mailbox, claimed.transient) for claimed in got], [("ada", True), ("bob", True)], "the claims")


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
