"""Bounds: what a full mailbox does is its owner's choice, and never silent."""

from __future__ import annotations

import asyncio

from tertulia.engines.base import Commit, Publish, Send
from tertulia.errors import MailboxFullError, UnknownAgentError
from tertulia.records import WhenFull
from tertulia.testing.conformance._expect import equal, expect, no, raises, running, within, yes
from tertulia.testing.conformance._registry import EXACT_BOUNDS, case
from tertulia.testing.conformance._steps import (
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
async def full_mailbox_rejects(h: Harness) -> None:
    """REJECT: a message to a full mailbox raises MailboxFullError that names it, and stores nothing."""
    await box(h.engine, max_size=2)
    await send(h.engine, "ada", "1", "2")
    with raises(MailboxFullError, agent_id="ada", size=2, waits=False):
        await send(h.engine, "ada", "3")
    equal(await claim_all(h.engine), ["1", "2"], "the messages")


@case()
async def bound_counts_every_stored_message(h: Harness) -> None:
    """`max_size` bounds what is stored: waiting, delayed and leased together. Only settling makes room."""
    await box(h.engine, max_size=3)
    await send(h.engine, "ada", "leased", "waiting")
    await send(h.engine, "ada", "delayed", delay=100.0)
    held = await claim(h, h.engine)
    with raises(MailboxFullError):
        await send(h.engine, "ada", "more")
    await h.engine.release(held, delay=100.0)
    with raises(MailboxFullError):
        await send(h.engine, "ada", "more")
    await h.engine.commit(Commit(settles=(settle_of(held),)))
    await send(h.engine, "ada", "more")


@case()
async def sends_of_one_commit_count_together(h: Harness) -> None:
    """A commit whose sends do not fit together stores none of them."""
    await box(h.engine, max_size=3)
    await h.engine.subscribe("ada", "news")
    await send(h.engine, "ada", "1")
    with raises(MailboxFullError):
        await h.engine.commit(
            Commit(sends=(Send("ada", "2", b""), Publish("news", "3", b""), Send("ada", "4", b""))),
        )
    equal(await states(h.engine), [("1", "waiting")], "the mailbox")
    await h.engine.commit(Commit(sends=(Send("ada", "2", b""), Publish("news", "3", b""))))


@case()
async def duplicate_needs_no_room(h: Harness) -> None:
    """A duplicate is no error, also when the mailbox is full."""
    await box(h.engine, max_size=1)
    await send(h.engine, "ada", "m")
    yes((await send(h.engine, "ada", "m")).sent[0].duplicate, "whether it is a duplicate")


@case()
async def message_settled_and_sent_again_counts(h: Harness) -> None:
    """A message that a commit settles and sends anew takes room beside the others of that commit."""
    await box(h.engine, max_size=2)
    await send(h.engine, "ada", "m", "other")
    held = await claim(h, h.engine)
    with raises(MailboxFullError):
        await h.engine.commit(
            Commit(settles=(settle_of(held),), sends=(Send("ada", "m", b""), Send("ada", "new", b""))),
        )
    equal(await states(h.engine), [("m", "leased"), ("other", "waiting")], "the mailbox")


@case()
async def changed_bound_counts_from_now_on(h: Harness) -> None:
    """A bound that is made larger lets more in; one made smaller keeps what is there and takes no more."""
    await box(h.engine, max_size=1)
    await send(h.engine, "ada", "1")
    await box(h.engine, max_size=3)
    await send(h.engine, "ada", "2", "3")
    await box(h.engine, max_size=2)
    await settle(h.engine, await claim(h, h.engine))
    with raises(MailboxFullError):
        await send(h.engine, "ada", "4")
    equal(await states(h.engine), [("2", "waiting"), ("3", "waiting")], "the mailbox")


@case(EXACT_BOUNDS)
async def concurrent_senders_stay_within_the_bound(h: Harness) -> None:
    """Concurrent senders, on several handles, never exceed a mailbox's size, and fill it completely."""
    engines = [h.engine, (await h.open_again()).engine]
    await box(h.engine, max_size=10)
    refused = 0

    async def fill(number: int) -> None:
        nonlocal refused
        try:
            await send(engines[number % 2], "ada", f"m{number}")
        except MailboxFullError:
            refused += 1

    await within(asyncio.gather(*(fill(number) for number in range(25))))
    equal((refused, len(await h.engine.browse("ada"))), (15, 10), "how many were refused and stored")


# --- waiting for room ---


@case()
async def full_mailbox_that_waits_says_so(h: Harness) -> None:
    """WAIT: the engine does not wait in a commit; the error tells that the owner lets senders wait."""
    await box(h.engine, max_size=1, when_full=WhenFull.WAIT)
    await send(h.engine, "ada", "1")
    with raises(MailboxFullError, agent_id="ada", waits=True):
        await within(send(h.engine, "ada", "2"))


@case()
async def room_is_there_at_once(h: Harness) -> None:
    """`wait_for_room` returns True at once when the mailbox can take a message."""
    await box(h.engine, max_size=2)
    await send(h.engine, "ada", "1")
    yes(await within(h.engine.wait_for_room("ada", 100.0)), "what it returns")


@case()
async def room_wakes_whoever_waits_for_it(h: Harness) -> None:
    """`wait_for_room` returns True when a message is settled, through whichever handle."""
    other = (await h.open_again()).engine
    await box(h.engine, max_size=1)
    await send(h.engine, "ada", "1")
    held = await claim(h, h.engine)
    async with running(other.wait_for_room("ada", 100.0 * unit(h))) as task:
        await pause(h)
        expect(not task.done(), "there is no room yet")
        await settle(h.engine, held)
        yes(await within(task), "what it returns")


@case()
async def larger_bound_wakes_whoever_waits_for_room(h: Harness) -> None:
    """`wait_for_room` returns True when the owner makes the mailbox larger."""
    await box(h.engine, max_size=1)
    await send(h.engine, "ada", "1")
    async with running(h.engine.wait_for_room("ada", 100.0 * unit(h))) as task:
        await pause(h)
        await box(h.engine, max_size=2)
        yes(await within(task), "what it returns")


@case()
async def waiting_for_room_ends(h: Harness) -> None:
    """`wait_for_room` returns False after its timeout."""
    await box(h.engine, max_size=1)
    await send(h.engine, "ada", "1")
    async with running(h.engine.wait_for_room("ada", unit(h))) as task:
        await pass_time(h, 0.4)
        expect(not task.done(), "it should still wait")
        await pass_time(h, 1.2)
        no(await within(task), "what it returns")


@case()
async def closing_the_mailbox_ends_the_wait_for_room(h: Harness) -> None:
    """Who waits for room in a mailbox that is closed does not go on waiting."""
    await box(h.engine, max_size=1)
    await send(h.engine, "ada", "1")
    async with running(h.engine.wait_for_room("ada", 100.0 * unit(h))) as task:
        await pause(h)
        await h.engine.close_mailbox("ada")
        try:
            await within(task)
        except UnknownAgentError as error:
            equal(error.agent_id, "ada", "the agent that the error names")


# --- dropping ---


@case()
async def oldest_waiting_message_is_dropped(h: Harness) -> None:
    """DROP_OLDEST: the oldest waiting message goes, and what is sent is named to be stored, what went to be dropped."""
    await box(h.engine, max_size=2, when_full=WhenFull.DROP_OLDEST)
    await send(h.engine, "ada", "1", "2")
    sent = (await send(h.engine, "ada", "3")).sent[0]
    equal((sent.delivered, sent.dropped), (1, (("ada", "1"),)), "what became of it")
    equal(await claim_all(h.engine), ["2", "3"], "the messages")


@case()
async def leased_and_delayed_messages_are_never_dropped(h: Harness) -> None:
    """DROP_OLDEST drops waiting messages only: what a consumer holds, or what is delayed, stays."""
    await box(h.engine, max_size=3, when_full=WhenFull.DROP_OLDEST)
    await send(h.engine, "ada", "leased")
    held = await claim(h, h.engine)
    await send(h.engine, "ada", "delayed", delay=100.0)
    await send(h.engine, "ada", "waiting")
    sent = (await send(h.engine, "ada", "new")).sent[0]
    equal(sent.dropped, (("ada", "waiting"),), "what was dropped")
    wanted = [("leased", "leased"), ("delayed", "delayed"), ("new", "waiting")]
    equal(await states(h.engine), wanted, "the mailbox")
    await settle(h.engine, held)


@case()
async def nothing_to_drop_is_a_rejection(h: Harness) -> None:
    """DROP_OLDEST: a full mailbox in which nothing waits rejects, and stores nothing."""
    await box(h.engine, max_size=2, when_full=WhenFull.DROP_OLDEST)
    await send(h.engine, "ada", "leased")
    await claim(h, h.engine)
    await send(h.engine, "ada", "delayed", delay=100.0)
    with raises(MailboxFullError, agent_id="ada", waits=False):
        await send(h.engine, "ada", "new")
    equal(await states(h.engine), [("leased", "leased"), ("delayed", "delayed")], "the mailbox")


@case()
async def dropping_is_part_of_the_commit(h: Harness) -> None:
    """DROP_OLDEST: a commit that fails drops nothing."""
    await box(h.engine, max_size=1, when_full=WhenFull.DROP_OLDEST)
    await send(h.engine, "ada", "1")
    with raises(UnknownAgentError):
        await h.engine.commit(Commit(sends=(Send("ada", "2", b""), Send("nobody", "3", b""))))
    equal(await claim_all(h.engine), ["1"], "the messages")


@case()
async def publication_drops_where_owners_chose_that(h: Harness) -> None:
    """A publication drops the oldest in the full mailboxes whose owners chose so, and names each of them."""
    for name in ("ada", "bob"):
        await box(h.engine, name, max_size=1, when_full=WhenFull.DROP_OLDEST)
        await h.engine.subscribe(name, "news")
        await send(h.engine, name, f"old {name}")
    sent = (await h.engine.commit(Commit(sends=(Publish("news", "new", b""),)))).sent[0]
    equal(sent.delivered, 2, "how many mailboxes hold it")
    equal(sorted(sent.dropped), [("ada", "old ada"), ("bob", "old bob")], "what was dropped")
    equal((await claim_all(h.engine), await claim_all(h.engine, "bob")), (["new"], ["new"]), "the mailboxes")
