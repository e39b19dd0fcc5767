"""Commits: checks, and all of it or nothing."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from msgspec.structs import replace

from tertulia.engines.base import Check, CheckFailed, Commit, Delete, Publish, Put, Send, Settle
from tertulia.errors import AlreadySettledError, MailboxFullError, UnknownAgentError
from tertulia.records import KEEP, ChangeKind, WhenFull
from tertulia.testing.conformance._expect import equal, expect, raises, running, within, yes
from tertulia.testing.conformance._registry import case
from tertulia.testing.conformance._steps import (
    box,
    changes,
    claim,
    claim_all,
    delete,
    live,
    pass_time,
    pause,
    picture,
    put,
    send,
    settle_of,
    states,
    unit,
)
from tertulia.testing.conformance.harness import Harness


async def _refused(h: Harness, check: Check) -> None:
    """Expect the check to fail, to be named with the key's current record, and to have kept the put out."""
    before = await picture(h.engine, ())
    with raises(CheckFailed, check=check) as caught:
        await h.engine.commit(Commit(checks=(Check("fine", absent=True), check), puts=(Put("new", b"", "ada"),)))
    current = await h.engine.get(check.key)
    seen = caught[0].record
    equal(
        None if seen is None else (seen.revision, seen.version, seen.body),
        None if current is None else (current.revision, current.version, current.body),
        "the record that the error carries",
    )
    equal(await picture(h.engine, ()), before, "the space after a refused commit")


async def _accepted(h: Harness, check: Check) -> None:
    done = await h.engine.commit(Commit(checks=(check,), puts=(Put("new", b"", "ada"),)))
    equal((await live(h.engine, "new")).revision, done.records[0].revision, "the revision of the put")


@case()
async def absent_check(h: Harness) -> None:
    """With `absent` the key must not exist."""
    await _accepted(h, Check("k", absent=True))
    await put(h.engine, "k")
    await _refused(h, Check("k", absent=True))
    await delete(h.engine, "k")
    await _accepted(h, Check("k", absent=True))


@case()
async def bare_check_means_existence(h: Harness) -> None:
    """A check without a condition holds when the key exists."""
    await _refused(h, Check("k"))
    await put(h.engine, "k")
    await _accepted(h, Check("k"))


@case()
async def revision_check(h: Harness) -> None:
    """A check on the revision holds until the key is written again."""
    record = await put(h.engine, "k")
    await _accepted(h, Check("k", revision=record.revision))
    await put(h.engine, "k")
    await _refused(h, Check("k", revision=record.revision))
    await delete(h.engine, "k")
    await _refused(h, Check("k", revision=record.revision))


@case()
async def version_check(h: Harness) -> None:
    """A check on the version holds at that version only."""
    await put(h.engine, "k")
    await _accepted(h, Check("k", version=1))
    await _refused(h, Check("k", version=2))
    await put(h.engine, "k")
    await _refused(h, Check("k", version=1))


@case()
async def revision_is_safe_where_a_version_repeats(h: Harness) -> None:
    """After delete and create the version repeats, the revision never: a check on it cannot be fooled."""
    old = await put(h.engine, "k")
    await delete(h.engine, "k")
    await put(h.engine, "k")
    await _accepted(h, Check("k", version=old.version))
    await _refused(h, Check("k", revision=old.revision))


@case()
async def creation_check_is_a_fence_against_deletion(h: Harness) -> None:
    """A check on `created_revision` holds through writes, and fails once the key was deleted and written again."""
    record = await put(h.engine, "k")
    await put(h.engine, "k", b"2")
    await _accepted(h, Check("k", created_revision=record.created_revision))
    await delete(h.engine, "k")
    await _refused(h, Check("k", created_revision=record.created_revision))
    await put(h.engine, "k")
    await _refused(h, Check("k", created_revision=record.created_revision))


@case()
async def creation_check_is_a_fence_against_expiry(h: Harness) -> None:
    """A check on `created_revision` fails once the key expired, even when somebody has written it again."""
    record = await put(h.engine, "k", ttl=unit(h))
    await _accepted(h, Check("k", created_revision=record.created_revision))
    await pass_time(h, 1.6)
    await put(h.engine, "k")
    await _refused(h, Check("k", created_revision=record.created_revision))


@case()
async def all_conditions_of_a_check_count(h: Harness) -> None:
    """A check holds when each of its conditions does."""
    record = await put(h.engine, "k")
    right = Check("k", revision=record.revision, version=1, created_revision=record.created_revision)
    await _accepted(h, right)
    for wrong in ({"revision": 10_000}, {"version": 10_000}, {"created_revision": 10_000}):
        await _refused(h, replace(right, **wrong))


@case()
async def checks_see_the_state_before_the_commit(h: Harness) -> None:
    """Checks are judged on the state before the commit, not on what it writes itself."""
    await h.engine.commit(
        Commit(checks=(Check("k", absent=True),), puts=(Put("k", b"1", "ada"),)),
    )
    record = await live(h.engine, "k")
    await h.engine.commit(
        Commit(checks=(Check("k", revision=record.revision),), deletes=(Delete("k"),)),
    )
    equal(await h.engine.get("k"), None)


@case()
async def any_failing_check_stops_the_commit(h: Harness) -> None:
    """Of several checks each must hold, wherever in the list it stands; the failing one is named."""
    await put(h.engine, "k")
    good, bad = Check("k", version=1), Check("k", version=7)
    for checks in ((bad, good, good), (good, bad, good), (good, good, bad)):
        with raises(CheckFailed, check=bad):
            await h.engine.commit(Commit(checks=checks, deletes=(Delete("k"),)))
    await live(h.engine, "k")


async def _fails_whole(h: Harness, kind: type[Exception], bad: Commit) -> None:
    """Expect a commit of good parts and one bad one to change nothing at all, and to be seen by nobody."""
    engine = h.engine
    names = [await box(engine, "ada"), await box(engine, "tiny", max_size=1), await box(engine, "both")]
    for pattern, name in (("news", "ada"), ("news", "tiny")):
        await engine.subscribe(name, pattern)
    await send(engine, "ada", "work")
    await send(engine, "tiny", "fills it")
    await put(engine, "k", b"before")
    await put(engine, "doomed", b"before")
    held = await claim(h, engine, "ada")
    stream = await engine.watch("*")
    before = await picture(engine, names)
    good = Commit(
        checks=(Check("k", version=1), *bad.checks),
        settles=(settle_of(held), *bad.settles),
        puts=(Put("k", b"after", "bob"), Put("new", b"after", "bob")),
        deletes=(Delete("doomed"),),
        sends=(Send("both", "m1", b""), *bad.sends, Send("both", "m2", b"")),
    )
    with raises(kind):
        await engine.commit(good)
    equal(await picture(engine, names), before, "the space after the failed commit")
    await put(engine, "marker")
    equal((await within(anext(stream))).key, "marker", "the first change that a watcher sees")
    await stream.aclose()
    await engine.commit(Commit(settles=(settle_of(held),)))


@case()
async def failing_check_leaves_everything(h: Harness) -> None:
    """A commit with a failing check changes no record, mailbox, revision or watch, and settles nothing."""
    await _fails_whole(h, CheckFailed, Commit(checks=(Check("k", version=9),)))


@case()
async def unknown_mailbox_leaves_everything(h: Harness) -> None:
    """A commit with a send to an absent mailbox changes no record, mailbox, revision or watch, and settles nothing."""
    await _fails_whole(h, UnknownAgentError, Commit(sends=(Send("nobody", "m", b""),)))


@case()
async def full_mailbox_leaves_everything(h: Harness) -> None:
    """A commit with a send to a full mailbox changes no record, mailbox, revision or watch, and settles nothing."""
    await _fails_whole(h, MailboxFullError, Commit(sends=(Send("tiny", "m", b""),)))


@case()
async def full_subscriber_leaves_everything(h: Harness) -> None:
    """A commit that publishes to a full mailbox changes no record, mailbox, revision or watch, and settles nothing."""
    await _fails_whole(h, MailboxFullError, Commit(sends=(Publish("news", "m", b""),)))


@case()
async def settled_message_leaves_everything(h: Harness) -> None:
    """A commit that settles what is settled already changes no record, mailbox, revision or watch."""
    await _fails_whole(h, AlreadySettledError, Commit(settles=(Settle("ada", "never there"),)))


@case()
async def settling_in_an_absent_mailbox_leaves_everything(h: Harness) -> None:
    """A commit that settles a message of an absent mailbox fails as one that is settled already."""
    await _fails_whole(h, AlreadySettledError, Commit(settles=(Settle("nobody", "m"),)))


@case()
async def whole_commit_is_applied(h: Harness) -> None:
    """Settles, puts, deletes and sends of a commit are applied together; the outcome lists them in their order."""
    engine = h.engine
    await box(engine, "ada")
    await box(engine, "bob")
    await send(engine, "ada", "work")
    await put(engine, "old")
    held = await claim(h, engine, "ada")
    done = await engine.commit(
        Commit(
            settles=(settle_of(held),),
            puts=(Put("x", b"1", "ada"), Put("y", b"2", "ada")),
            deletes=(Delete("old"), Delete("never there")),
            sends=(Send("bob", "m1", b""), Send("nobody", "m2", b"", optional=True)),
        )
    )
    equal([record.key for record in done.records], ["x", "y"], "the records")
    equal(done.deleted, (True, False), "the deletes")
    equal([sent.delivered for sent in done.sent], [1, 0], "the sends")
    equal((await states(engine, "ada"), await states(engine, "bob")), ([], [("m1", "waiting")]), "the mailboxes")
    equal([record.key for record in (await engine.scan(""))[1]], ["x", "y"], "the keys")


@case()
async def settling_makes_room_for_the_same_commit(h: Harness) -> None:
    """Settles come before sends: a full mailbox takes a message in the commit that settles another."""
    await box(h.engine, max_size=1)
    await send(h.engine, "ada", "first")
    held = await claim(h, h.engine)
    await h.engine.commit(Commit(settles=(settle_of(held),), sends=(Send("ada", "second", b""),)))
    equal(await states(h.engine), [("second", "waiting")], "the mailbox")


@case()
async def id_can_be_sent_again_by_the_commit_that_settles_it(h: Harness) -> None:
    """Settles come before sends: a message can be settled and sent anew, under its id, in one commit."""
    await box(h.engine)
    await send(h.engine, "ada", "m")
    held = await claim(h, h.engine)
    done = await h.engine.commit(Commit(settles=(settle_of(held),), sends=(Send("ada", "m", b"anew"),)))
    equal((done.sent[0].delivered, done.sent[0].duplicate), (1, False), "what became of the send")
    again = await claim(h, h.engine)
    equal((again.body, again.attempt), (b"anew", 1), "the message")


@case()
async def absent_optional_receiver_is_no_error(h: Harness) -> None:
    """A send to an absent mailbox that is `optional` takes nothing and is no error."""
    done = await h.engine.commit(
        Commit(puts=(Put("k", b"", "ada"),), sends=(Send("nobody", "m", b"", optional=True),)),
    )
    equal(done.sent[0].delivered, 0, "how many mailboxes hold it")
    await live(h.engine, "k")


@case()
async def empty_commit_changes_nothing(h: Harness) -> None:
    """A commit without parts is no error and no change."""
    before = await put(h.engine, "k")
    equal((await h.engine.commit(Commit())).revision, before.revision, "the revision")


@case()
async def no_increment_is_lost(h: Harness) -> None:
    """Of commits that compete with a check on the same revision exactly one wins."""
    engines = [h.engine, (await h.open_again()).engine]
    await put(h.engine, "count", b"0")

    async def count(number: int) -> None:
        engine = engines[number % 2]
        for _ in range(5):
            while True:
                record = await live(engine, "count")
                await asyncio.sleep(0)
                more = Put("count", str(int(record.body) + 1).encode(), "ada")
                with suppress(CheckFailed):
                    await engine.commit(Commit(checks=(Check("count", revision=record.revision),), puts=(more,)))
                    break

    await within(asyncio.gather(*(count(number) for number in range(8))))
    record = await live(h.engine, "count")
    equal((record.body, record.version), (b"40", 41), "body and version after 40 increments")


@case()
async def cancelled_commit_happened_whole_or_not_at_all(h: Harness) -> None:
    """A commit that is cancelled under way has happened completely or not at all."""
    await box(h.engine)
    for number in range(5):
        commit = Commit(puts=(Put(f"k{number}", b"", "ada"),), sends=(Send("ada", f"k{number}", b""),))
        task = asyncio.create_task(h.engine.commit(commit))
        for _ in range(number):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await pause(h)
    written = [record.key for record in (await h.engine.scan(""))[1]]
    equal(sorted(await claim_all(h.engine)), written, "the messages, against the keys")


@case()
async def many_parts_in_one_commit(h: Harness) -> None:
    """A commit takes as many parts as the engine declares (500 are tried), and all are applied."""
    count = min(250, h.capabilities.max_commit_operations // 2)
    await box(h.engine, max_size=count)
    done = await h.engine.commit(
        Commit(
            puts=tuple(Put(f"k{number:03}", b"x", "ada") for number in range(count)),
            sends=tuple(Send("ada", f"m{number:03}", b"x") for number in range(count)),
        )
    )
    equal((len(done.records), len(done.sent)), (count, count), "the parts in the outcome")
    equal((await h.engine.stats()).keys, count, "the number of keys")
    expect(
        await claim_all(h.engine) == [f"m{number:03}" for number in range(count)],
        "the messages of one commit should come in the order of its sends",
    )


# --- the short ways ---


@case()
async def short_put_is_a_commit_of_one_put(h: Harness) -> None:
    """`put` does what a commit of that put does: record, revision, KEEP, expiry and the change that watchers see."""
    stream = await h.engine.watch("*")
    first = await h.engine.put(Put("k", b"1", "ada", ttl=unit(h), tags=("x",)))
    second = await h.engine.put(Put("k", b"2", KEEP, KEEP, KEEP))
    equal((second.body, second.owner, second.tags, second.version), (b"2", "ada", ("x",), 2), "the record")
    equal((second.revision, second.created_revision), ((await h.engine.stats()).revision, first.revision), "revisions")
    await pass_time(h, 1.6)
    equal((await h.engine.put(Put("k", b"3", "bob"))).version, 1, "the version after the expiry")
    wanted = [(ChangeKind.PUT, "k"), (ChangeKind.PUT, "k"), (ChangeKind.EXPIRE, "k"), (ChangeKind.PUT, "k")]
    equal(await changes(stream, 4), wanted, "the changes")
    await stream.aclose()


@case()
async def short_send_is_a_commit_of_one_send(h: Harness) -> None:
    """`send` does what a commit of that send or publication does: bounds, duplicates, drops, unknown mailboxes."""
    await box(h.engine, max_size=1)
    await box(h.engine, "bob", max_size=1, when_full=WhenFull.DROP_OLDEST)
    await h.engine.subscribe("bob", "news")
    equal((await h.engine.send(Send("ada", "1", b"1"))).delivered, 1, "how many hold the first")
    yes((await h.engine.send(Send("ada", "1", b"1"))).duplicate, "whether the second is a duplicate")
    with raises(MailboxFullError, agent_id="ada"):
        await h.engine.send(Send("ada", "2", b""))
    with raises(UnknownAgentError, agent_id="nobody"):
        await h.engine.send(Send("nobody", "m", b""))
    equal((await h.engine.send(Send("nobody", "m", b"", optional=True))).delivered, 0, "how many hold the optional one")
    equal((await h.engine.send(Publish("news", "old", b""))).delivered, 1, "how many hold the publication")
    equal((await h.engine.send(Publish("news", "new", b""))).dropped, (("bob", "old"),), "what was dropped")
    equal((await claim_all(h.engine), await claim_all(h.engine, "bob")), (["1"], ["new"]), "the messages")


@case()
async def short_settle_is_a_commit_of_one_settle(h: Harness) -> None:
    """`settle` does what a commit of that settle does: once, for that sequence, with room for the next message."""
    await box(h.engine, max_size=1)
    await send(h.engine, "ada", "m")
    held = await claim(h, h.engine)
    with raises(AlreadySettledError, agent_id="ada", message_id="m"):
        await h.engine.settle(Settle("ada", "m", held.sequence + 1))
    async with running(h.engine.wait_for_room("ada", 100 * unit(h))) as room:
        await pause(h)
        await h.engine.settle(settle_of(held))
        yes(await within(room), "whether who waited for room is woken")
    for again in (settle_of(held), Settle("nobody", "m")):
        with raises(AlreadySettledError):
            await h.engine.settle(again)
