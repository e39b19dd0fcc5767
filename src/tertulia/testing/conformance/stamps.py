"""Stamps: a message that names the revision and the version of a write of its own commit."""

from __future__ import annotations

from tertulia.engines.base import Commit, Delete, MailboxOptions, Publish, Put, Send, Settle, stamp_note
from tertulia.errors import InvalidInputError
from tertulia.testing.conformance._expect import equal, raises, running, within
from tertulia.testing.conformance._registry import case
from tertulia.testing.conformance._steps import box, claim, live, message, put, register, take
from tertulia.testing.conformance.harness import Harness


@case()
async def stamp_names_what_became_of_a_put(h: Harness) -> None:
    """The first note of a message with a stamp names the revision and the version of the put that it is about."""
    await box(h.engine)
    await put(h.engine, "second")
    sends = (Send("ada", "1", b"", stamp=1, notes=(b"own",)), Send("ada", "2", b"", stamp=0), Send("ada", "3", b""))
    puts = (Put("first", b"", "ada"), Put("second", b"", "ada"))
    done = await h.engine.commit(Commit(puts=puts, deletes=(Delete("nothing"),), sends=sends))
    first, second = [stamp_note(record) for record in done.records]
    notes = [(await claim(h, h.engine)).notes for _ in range(3)]
    equal(notes, [(second, b"own"), (first,), ()], "the notes")
    record = await live(h.engine, "second")
    equal(second, b"stamp:%d:2" % record.revision, "the note of a key that was written for the second time")


@case()
async def stamp_reaches_subscribers_and_who_waits(h: Harness) -> None:
    """A publication takes a stamp like a send, and a consumer that waits for it gets it."""
    await box(h.engine)
    await box(h.engine, "bob")
    await h.engine.subscribe("ada", "news")
    await h.engine.subscribe("bob", "*")
    async with running(h.engine.claim("ada", wait=None)) as waiting:
        done = await h.engine.commit(
            Commit(puts=(Put("k", b"", "ada"),), sends=(Publish("news", "m", b"", stamp=0, notes=(b"own",)),))
        )
        (claimed,) = await within(waiting)
    wanted = (stamp_note(done.records[0]), b"own")
    equal((claimed.notes, (await claim(h, h.engine, "bob")).notes), (wanted, wanted), "the notes")


@case()
async def stamp_stays_with_its_message(h: Harness) -> None:
    """A stamp is there at every attempt, and in the mailbox of an heir."""
    await box(h.engine)
    done = await h.engine.commit(Commit(puts=(Put("k", b"", "ada"),), sends=(Send("ada", "m", b"", stamp=0),)))
    note = stamp_note(done.records[0])
    held = await claim(h, h.engine)
    await h.engine.release(held, counted=True, note=b"failed")
    equal((await claim(h, h.engine)).notes, (note, b"failed"), "the notes of the second attempt")
    await h.engine.open_mailbox("heir", MailboxOptions())
    await h.engine.close_mailbox("ada", heir="heir", note=b"closed")
    (moved,) = await h.engine.browse("heir")
    equal(moved.notes, (note, b"failed", b"closed"), "the notes in the heir's mailbox")
    await h.engine.settle(Settle("heir", moved.message_id))


@case()
async def transaction_fills_in_what_its_commit_decides(h: Harness) -> None:
    """A message that is sent with a stamp tells its receiver the revision and version of the write it came with."""
    space = await h.open()
    await register(space, "ada")
    await space.broker.subscribe("ada", "news")
    await space.memory.write("k", 1, owner="ada")
    async with space.transaction() as tx:
        tx.write("other", 1, owner="ada")
        tx.write("k", 2, owner="ada")
        tx.send(message("ada", {"about": "k", "revision": None}), stamp="k")
        tx.publish("news", message("", {"about": "other"}), stamp="other")
        tx.send(message("ada", {"about": "nothing"}))
    entry, other = tx.entry("k"), tx.entry("other")
    equal((entry.key, entry.value, entry.version), ("k", 2, 2), "the entry that the transaction wrote")
    equal(entry.revision, (await live(h.engine, "k")).revision, "its revision")
    contents = [(await take(space, "ada")).message.content for _ in range(3)]
    equal(
        contents,
        [
            {"about": "k", "revision": entry.revision, "version": 2},
            {"about": "other", "revision": other.revision, "version": 1},
            {"about": "nothing"},
        ],
        "the contents",
    )


@case()
async def stamp_survives_the_dead_letters(h: Harness) -> None:
    """A dead letter shows the stamp of its message, and so does the message when it is delivered again."""
    space = await h.open()
    await register(space, "ada")
    async with space.transaction() as tx:
        tx.write("k", 1, owner="ada")
        tx.send(message("ada", {}), stamp="k")
    wanted = {"revision": tx.entry("k").revision, "version": 1}
    await (await take(space, "ada")).reject("not now")
    (letter,) = await space.broker.dead_letters("ada")
    equal((letter.message.content, letter.reason, len(letter.history)), (wanted, "not now", 1), "the dead letter")
    await space.broker.redeliver("ada")
    equal((await take(space, "ada")).message.content, wanted, "the content when it is delivered again")


@case()
async def stamp_is_for_a_write_of_the_same_transaction(h: Harness) -> None:
    """A stamp needs a key that the transaction writes, a content that can take it, and a message that is stored."""
    space = await h.open()
    await register(space, "ada")
    tx = space.transaction()
    with raises(InvalidInputError):
        tx.send(message("ada", {}), stamp="k")
    tx.write("k", 1, owner="ada")
    with raises(InvalidInputError):
        tx.send(message("ada", "text"), stamp="k")
    tx.send(message("ada", {}), stamp="k")
    with raises(InvalidInputError):
        tx.entry("k")
    tx.delete("k", requester="ada")
    with raises(InvalidInputError):
        await tx.commit()
    equal(await space.broker.receive("ada", timeout=0), None, "what was sent")
    equal(await space.memory.list_keys(), [], "what was written")
