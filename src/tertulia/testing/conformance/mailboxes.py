"""Mailboxes: their life, and what is stored in them."""

from __future__ import annotations

from tertulia.engines.base import Commit, MailboxCounts, MailboxOptions, Publish, Send
from tertulia.errors import AlreadySettledError, LeaseLostError, UnknownAgentError
from tertulia.records import AgentInfo, WhenFull
from tertulia.testing.conformance._expect import equal, no, raises, running, within, yes
from tertulia.testing.conformance._registry import case
from tertulia.testing.conformance._steps import (
    LEASE,
    box,
    claim,
    claim_all,
    pause,
    send,
    settle,
    states,
)
from tertulia.testing.conformance.harness import Harness


@case()
async def opening_tells_whether_it_made_the_mailbox(h: Harness) -> None:
    """`open_mailbox` returns True for a new mailbox and False for one that is there, whose messages stay."""
    yes(await h.engine.open_mailbox("ada", MailboxOptions()), "the first time")
    await send(h.engine, "ada", "m")
    no(await h.engine.open_mailbox("ada", MailboxOptions()), "the second time")
    equal(await states(h.engine), [("m", "waiting")], "the mailbox")


@case()
async def mailboxes_are_listed_with_their_settings(h: Harness) -> None:
    """`mailboxes` returns all in name order, with options and topics; an existing one has the options given last."""
    await h.engine.open_mailbox("bob", MailboxOptions())
    await h.engine.open_mailbox("ada", MailboxOptions())
    await h.engine.open_mailbox(
        "bob", MailboxOptions(max_size=7, when_full=WhenFull.DROP_OLDEST, max_attempts=2, ordered=True)
    )
    await h.engine.subscribe("bob", "news.*")
    await h.engine.subscribe("bob", "alerts.>")
    found = {info.agent_id: info for info in await h.engine.mailboxes()}
    equal(list(found), ["ada", "bob"], "the names")
    equal((found["ada"].max_queue_size, found["ada"].when_full), (1000, WhenFull.REJECT), "ada's settings")
    wanted = AgentInfo(
        agent_id="bob",
        max_queue_size=7,
        when_full=WhenFull.DROP_OLDEST,
        max_attempts=2,
        ordered=True,
        topics=found["bob"].topics,
    )
    equal(found["bob"], wanted, "bob's settings")
    equal(sorted(found["bob"].topics), ["alerts.>", "news.*"], "bob's topics")


@case()
async def claims_carry_the_mailboxs_max_attempts(h: Harness) -> None:
    """A claim has its mailbox's `max_attempts`, as it was set last."""
    await h.engine.open_mailbox("ada", MailboxOptions(max_attempts=2))
    await h.engine.open_mailbox("ada", MailboxOptions(max_attempts=9))
    await send(h.engine, "ada", "m")
    equal((await claim(h, h.engine)).max_attempts, 9, "max_attempts")


@case()
async def closing_removes_mailbox_and_messages(h: Harness) -> None:
    """`close_mailbox` returns how many messages it held, in whatever state; without an heir they are gone."""
    await box(h.engine)
    await send(h.engine, "ada", "leased", "waiting")
    await send(h.engine, "ada", "delayed", delay=100.0)
    await claim(h, h.engine)
    equal(await h.engine.close_mailbox("ada"), 3, "what closing returns")
    equal((await h.engine.mailboxes(), await states(h.engine)), ([], []), "what is left")
    with raises(UnknownAgentError, agent_id="ada"):
        await send(h.engine, "ada", "late")
    await box(h.engine)
    equal(await claim_all(h.engine), [], "the messages of the mailbox when it is opened again")


@case()
async def closing_an_absent_mailbox(h: Harness) -> None:
    """Removing an absent mailbox returns 0."""
    equal(await h.engine.close_mailbox("nobody"), 0)


@case()
async def closing_removes_subscriptions(h: Harness) -> None:
    """A closed mailbox is subscribed to nothing, also when it is opened again."""
    await box(h.engine)
    await h.engine.subscribe("ada", "news")
    await h.engine.close_mailbox("ada")
    await box(h.engine)
    done = await h.engine.commit(Commit(sends=(Publish("news", "m", b""),)))
    equal((done.sent[0].delivered, await states(h.engine)), (0, []), "what was published")


@case()
async def heir_gets_all_messages_in_order(h: Harness) -> None:
    """Messages move to the heir in the same step, whatever their state, in their order, with the note added."""
    await box(h.engine)
    await box(h.engine, "heir")
    await send(h.engine, "ada", "1", "2")
    await h.engine.commit(Commit(sends=(Send("ada", "3", b"body", notes=(b"first note",)),)))
    await claim(h, h.engine)
    equal(await h.engine.close_mailbox("ada", heir="heir", note=b"closed"), 3, "what closing returns")
    moved = await h.engine.browse("heir")
    equal([item.message_id for item in moved], ["1", "2", "3"], "the messages")
    equal([item.notes for item in moved], [(b"closed",), (b"closed",), (b"first note", b"closed")], "the notes")
    equal(moved[2].body, b"body", "the body")
    equal(await claim_all(h.engine, "heir"), ["1", "2", "3"], "what can be claimed")


@case()
async def heir_keeps_both_of_two_messages_with_one_id(h: Harness) -> None:
    """A message whose id the heir has already moves under `ID#SEQUENCE`: it is not lost as a duplicate."""
    await box(h.engine)
    await box(h.engine, "heir")
    await send(h.engine, "heir", "1")
    await h.engine.commit(Commit(sends=(Send("ada", "1", b"another"),)))
    [stored] = await h.engine.browse("ada")
    equal(await h.engine.close_mailbox("ada", heir="heir"), 1, "what closing returns")
    moved = await h.engine.browse("heir")
    equal([item.message_id for item in moved], ["1", f"1#{stored.sequence}"], "the ids")
    equal(moved[1].body, b"another", "the body of the second")


@case()
async def heir_takes_messages_beyond_its_bound(h: Harness) -> None:
    """Messages move to the heir beyond its bound if need be, whatever it does when it is full; none is dropped."""
    for when_full in WhenFull:
        heir = f"heir-{when_full.value}"
        await box(h.engine)
        await box(h.engine, heir, max_size=2, when_full=when_full)
        await send(h.engine, heir, "own")
        await send(h.engine, "ada", "1", "2", "3")
        equal(await h.engine.close_mailbox("ada", heir=heir), 3, "what closing returns")
        equal(await claim_all(h.engine, heir), ["own", "1", "2", "3"], f"the messages of an heir: {when_full}")


@case()
async def closing_ends_claims_that_wait(h: Harness) -> None:
    """A claim that waits raises UnknownAgentError when its mailbox is closed."""
    await box(h.engine)
    async with running(h.engine.claim("ada", wait=None)) as task:
        await pause(h)
        await h.engine.close_mailbox("ada")
        with raises(UnknownAgentError, agent_id="ada"):
            await within(task)


@case()
async def old_attempts_have_no_power_over_a_new_mailbox(h: Harness) -> None:
    """An attempt from before a mailbox was closed cannot settle, extend or release a later message of the same id."""
    await box(h.engine)
    await send(h.engine, "ada", "m")
    old = await claim(h, h.engine)
    await h.engine.close_mailbox("ada")
    await box(h.engine)
    await send(h.engine, "ada", "m")
    new = await claim(h, h.engine)
    with raises(AlreadySettledError, agent_id="ada", message_id="m"):
        await settle(h.engine, old)
    with raises(LeaseLostError):
        await h.engine.extend(old, LEASE)
    no(await h.engine.release(old), "release of the old attempt")
    await settle(h.engine, new)


@case()
async def absent_mailboxes_are_errors(h: Harness) -> None:
    """Sending to, claiming from, subscribing or emitting to an absent mailbox raises UnknownAgentError."""
    engine = h.engine
    for call in (
        lambda: send(engine, "nobody", "m"),
        lambda: engine.claim("nobody"),
        lambda: engine.claim("nobody", wait=None),
        lambda: engine.subscribe("nobody", "news"),
        lambda: engine.unsubscribe("nobody", "news"),
        lambda: engine.wait_for_room("nobody", 1.0),
    ):
        with raises(UnknownAgentError, agent_id="nobody"):
            await within(call())
    equal(await engine.browse("nobody"), [], "what browse shows")


@case()
async def browsing_shows_without_claiming(h: Harness) -> None:
    """`browse` shows stored messages with their states, oldest first, up to `limit`, or one by its id."""
    await box(h.engine)
    await send(h.engine, "ada", "a", "b")
    await send(h.engine, "ada", "later", delay=100.0)
    await send(h.engine, "ada", "c")
    first = await claim(h, h.engine)
    wanted = [("a", "leased"), ("b", "waiting"), ("later", "delayed"), ("c", "waiting")]
    equal(await states(h.engine), wanted, "the mailbox")
    shown = (await h.engine.browse("ada", limit=1))[0]
    equal(
        (shown.mailbox, shown.message_id, shown.body, shown.sequence, shown.attempt, shown.failures, shown.notes),
        ("ada", "a", b"a", first.sequence, 1, 0, ()),
        "the first message",
    )
    equal([item.message_id for item in await h.engine.browse("ada", limit=2)], ["a", "b"], "with a limit")
    equal([item.message_id for item in await h.engine.browse("ada", message_id="later")], ["later"], "by id")
    equal(await h.engine.browse("ada", message_id="nothing"), [], "by an id that is not there")
    equal(await claim_all(h.engine), ["b", "c"], "what can still be claimed")


@case()
async def stats_count_messages_by_state(h: Harness) -> None:
    """`stats` tells how many messages of each mailbox wait, are leased, and are delayed."""
    await box(h.engine)
    await box(h.engine, "bob")
    await send(h.engine, "ada", "a", "b", "c", "d")
    await send(h.engine, "ada", "later", delay=100.0)
    await claim(h, h.engine)
    await settle(h.engine, await claim(h, h.engine))
    wanted = {
        "ada": MailboxCounts(waiting=2, leased=1, delayed=1),
        "bob": MailboxCounts(waiting=0, leased=0, delayed=0),
    }
    equal((await h.engine.stats()).mailboxes, wanted, "the counts")
