"""What is stored in a mailbox: ids, delays, notes, and what listeners are handed instead."""

from __future__ import annotations

from tertulia.engines.base import Claimed, Commit, Publish, Send
from tertulia.errors import UnknownAgentError
from tertulia.testing.conformance._expect import equal, expect, no, raises, running, within, yes
from tertulia.testing.conformance._registry import BOUNDED_DEDUP, MANUAL_CLOCK, case
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
