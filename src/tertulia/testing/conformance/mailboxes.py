"""Mailboxes: their life, and what is stored in them."""

from __future__ import annotations

from tertulia.engines.base import Claimed, Commit, MailboxCounts, MailboxOptions, Publish, Send
from tertulia.errors import AlreadySettledError, LeaseLostError, UnknownAgentError
from tertulia.records import AgentInfo, WhenFull
from tertulia.testing.conformance._expect import equal, expect, no, raises, running, within, yes
from tertulia.testing.conformance._registry import BOUNDED_DEDUP, MANUAL_CLOCK, case
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


# --- ids ---


@case()
async def id_is_stored_once(h: Harness) -> None:
    """While a message of an id is stored, waiting or leased or delayed, another is a duplicate and not stored."""
    await box(h.engine)
    await send(h.engine, "ada", "leased", "waiting")
    await send(h.engine, "ada", "delayed", delay=100.0)
    held = await claim(h, h.engine)
    for name in ("leased", "waiting", "delayed"):
        done = await h.engine.commit(Commit(sends=(Send("ada", name, b"other"),)))
        yes(done.sent[0].duplicate, f"whether a second {name} message is a duplicate")
    wanted = [("leased", "leased"), ("waiting", "waiting"), ("delayed", "delayed")]
    equal(await states(h.engine), wanted, "the mailbox")
    equal((await h.engine.browse("ada"))[1].body, b"waiting", "the body, which is the first one's")
    await settle(h.engine, held)


@case()
async def id_is_stored_once_from_one_commit(h: Harness) -> None:
    """Of two sends of one id in one commit the second is the duplicate."""
    await box(h.engine, max_size=1)
    done = await h.engine.commit(Commit(sends=(Send("ada", "m", b"1"), Send("ada", "m", b"2"))))
    equal([sent.duplicate for sent in done.sent], [False, True], "which are duplicates")
    equal((await claim(h, h.engine)).body, b"1", "the body")


@case()
async def ids_belong_to_a_mailbox(h: Harness) -> None:
    """The id is unique in a mailbox, not in the space."""
    await box(h.engine)
    await box(h.engine, "bob")
    await send(h.engine, "ada", "m")
    no((await send(h.engine, "bob", "m")).sent[0].duplicate, "whether it is a duplicate")
    equal(await claim_all(h.engine, "bob"), ["m"], "bob's messages")


@case()
async def settled_id_may_come_again(h: Harness) -> None:
    """Without `dedupe` an id is free once its message is settled."""
    await box(h.engine)
    await send(h.engine, "ada", "m")
    await settle(h.engine, await claim(h, h.engine))
    no((await send(h.engine, "ada", "m")).sent[0].duplicate, "whether it is a duplicate")
    equal(await claim_all(h.engine), ["m"], "the messages")


@case()
async def deduplicated_id_is_remembered(h: Harness) -> None:
    """With `dedupe` an id is remembered after its message was settled."""
    await box(h.engine)
    await send(h.engine, "ada", "m", dedupe=True)
    await settle(h.engine, await claim(h, h.engine))
    yes((await send(h.engine, "ada", "m", dedupe=True)).sent[0].duplicate, "whether it is a duplicate")
    equal(await states(h.engine), [], "the mailbox")


@case(MANUAL_CLOCK, BOUNDED_DEDUP)
async def deduplicated_id_is_forgotten_after_the_window(h: Harness) -> None:
    """An id is remembered for the declared `dedup_window` after its message was settled, and no longer."""
    window = h.capabilities.dedup_window
    await box(h.engine)
    await send(h.engine, "ada", "m", dedupe=True)
    await h.advance(10.0)
    await settle(h.engine, await claim(h, h.engine))
    await h.advance(window - 1.0)
    yes((await send(h.engine, "ada", "m", dedupe=True)).sent[0].duplicate, "within the window")
    await h.advance(2.0)
    no((await send(h.engine, "ada", "m", dedupe=True)).sent[0].duplicate, "after the window")
    equal(await claim_all(h.engine), ["m"], "the messages")


@case()
async def publishing_is_deduplicated_by_mailbox(h: Harness) -> None:
    """A message that is published again reaches only those who did not have it."""
    await box(h.engine)
    await box(h.engine, "bob")
    publish = Commit(sends=(Publish("news", "m", b"", dedupe=True),))
    await h.engine.subscribe("ada", "news")
    await h.engine.commit(publish)
    await settle(h.engine, await claim(h, h.engine))
    await h.engine.subscribe("bob", "news")
    done = await h.engine.commit(publish)
    equal((done.sent[0].delivered, done.sent[0].duplicate), (1, False), "what became of the second time")
    equal((await states(h.engine), await claim_all(h.engine, "bob")), ([], ["m"]), "the mailboxes")
    yes((await h.engine.commit(publish)).sent[0].duplicate, "whether the third time is a duplicate")


# --- delays and notes ---


@case()
async def delayed_message_comes_after_its_delay(h: Harness) -> None:
    """A message with a delay cannot be claimed before it, and can afterwards; others need not wait for it."""
    await box(h.engine)
    await send(h.engine, "ada", "later", delay=unit(h))
    await send(h.engine, "ada", "now")
    equal(await claim_all(h.engine), ["now"], "what can be claimed at first")
    await pass_time(h, 1.6)
    equal(await claim_all(h.engine), ["later"], "what can be claimed later")


@case()
async def delay_that_ends_wakes_a_claim(h: Harness) -> None:
    """A claim that waits gets a delayed message when its delay is over."""
    await box(h.engine)
    await send(h.engine, "ada", "later", delay=unit(h))
    async with running(h.engine.claim("ada", wait=None)) as task:
        await pause(h)
        expect(not task.done(), "the message should not be claimable before its delay is over")
        await pass_time(h, 1.6)
        equal([one.message_id for one in await within(task)], ["later"], "the message")


@case(MANUAL_CLOCK)
async def delays_go_by_the_clock_that_does_not_jump(h: Harness) -> None:
    """A jump of civil time neither ends delays and leases nor makes them longer."""
    await box(h.engine)
    await send(h.engine, "ada", "leased")
    await send(h.engine, "ada", "delayed", delay=10.0)
    held = await claim(h, h.engine, lease=10.0)
    h.jump(3600.0)
    await h.advance(9.0)
    equal(await claim_all(h.engine), [], "what can be claimed after a jump ahead")
    await h.engine.extend(held, 10.0)
    h.jump(-7200.0)
    await h.advance(11.0)
    equal(await claim_all(h.engine), ["leased", "delayed"], "what can be claimed when the time is really over")


@case()
async def notes_are_carried_along(h: Harness) -> None:
    """The `notes` of a send come with each claim, those of releases behind them."""
    await box(h.engine)
    await h.engine.commit(Commit(sends=(Send("ada", "m", b"", notes=(b"1", b"2")),)))
    first = await claim(h, h.engine)
    equal(first.notes, (b"1", b"2"), "the notes of the first claim")
    await h.engine.release(first, note=b"3")
    await h.engine.release(await claim(h, h.engine))
    equal((await claim(h, h.engine)).notes, (b"1", b"2", b"3"), "the notes of the third claim")


@case()
async def settled_message_is_gone_while_it_is_delayed(h: Harness) -> None:
    """A message that is settled while it waits, or is delayed, never comes."""
    await box(h.engine)
    await send(h.engine, "ada", "waiting")
    await send(h.engine, "ada", "delayed", delay=unit(h))
    stored = await h.engine.browse("ada")
    for item in stored:
        await h.engine.commit(Commit(settles=(settle_of(Claimed("ada", item.message_id, b"", item.sequence)),)))
    await pass_time(h, 1.6)
    equal((await states(h.engine), await claim_all(h.engine)), ([], []), "the mailbox")


# --- listeners ---


@case()
async def listener_gets_messages_in_order(h: Harness) -> None:
    """What is committed or emitted to a mailbox that is listened to reaches the callback, in order, unstored."""
    got: list[tuple[str, bytes]] = []
    stop = h.engine.listen("_reply:x", lambda claimed: got.append((claimed.message_id, claimed.body)))
    await send(h.engine, "_reply:x", "1", "2")
    await (await h.open_again()).engine.commit(Commit(sends=(Send("_reply:x", "3", b"3"),)))
    await h.engine.emit(Send("_reply:x", "4", b"4"))
    await pause(h)
    equal(got, [("1", b"1"), ("2", b"2"), ("3", b"3"), ("4", b"4")], "what the callback got")
    equal(await states(h.engine, "_reply:x"), [], "what is stored")
    stop()


@case()
async def listener_gets_only_whole_commits(h: Harness) -> None:
    """A commit that fails hands nothing to a listener."""
    got: list[str] = []
    stop = h.engine.listen("_reply:x", lambda claimed: got.append(claimed.message_id))
    with raises(UnknownAgentError):
        await h.engine.commit(Commit(sends=(Send("_reply:x", "1", b""), Send("nobody", "2", b""))))
    await pause(h)
    equal(got, [], "what the callback got")
    stop()


@case()
async def listening_ends(h: Harness) -> None:
    """A mailbox exists as long as it is listened to: until it is stopped, or the handle closes."""
    other = await h.open_again()
    got: list[str] = []
    stop = h.engine.listen("_reply:x", lambda claimed: got.append(claimed.message_id))
    other.engine.listen("_reply:y", lambda claimed: got.append(claimed.message_id))
    stop()
    await other.aclose()
    await pause(h)
    for name in ("_reply:x", "_reply:y"):
        done = await h.engine.commit(Commit(sends=(Send(name, "m", b"", optional=True),)))
        equal(done.sent[0].delivered, 0, f"how many took the message to {name}")
    await pause(h)
    equal(got, [], "what the callbacks got")
