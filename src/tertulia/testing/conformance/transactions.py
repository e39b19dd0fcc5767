"""Transactions: memory and messages in one commit, and exactly-once handling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tertulia.errors import (
    AlreadySettledError,
    EncodeError,
    InvalidInputError,
    KeyExistsError,
    KeyNotFoundError,
    MailboxFullError,
    UnknownAgentError,
    VersionConflictError,
)
from tertulia.records import DeliveryMode
from tertulia.space import Space
from tertulia.testing.conformance._expect import equal, expect, no, raises, running, within, yes
from tertulia.testing.conformance._registry import case
from tertulia.testing.conformance._steps import contents, message, pass_time, pause, register, take, unit
from tertulia.testing.conformance.harness import Harness
from tertulia.transaction import Transaction


async def _value(space: Space, key: str) -> Any:
    return await space.memory.read(key, reader="reader", default="absent")


@case()
async def all_of_a_transaction_is_applied_together(h: Harness) -> None:
    """Leaving the block commits every write and message at once; nothing is visible to others before."""
    space, other = await h.open(), await h.open_again()
    await register(space, "ada")
    await space.broker.subscribe("ada", "news")
    await space.memory.write("old", 1, owner="ada")
    async with space.transaction() as tx:
        tx.write("a", 1, owner="ada", tags=["x"])
        tx.create("b", 2, owner="ada")
        tx.update("old", 2, updater="bob")
        tx.send(message("ada", "sent"))
        tx.publish("news", message("", "published"))
        equal((await _value(other, "a"), await _value(other, "old")), ("absent", 1), "what others see before")
        equal(await other.broker.receive("ada", timeout=0), None, "what others receive before")
    stats = await space.memory.get_stats()
    equal(tx.revision, stats.revision, "the transaction's revision")
    equal([await _value(other, key) for key in ("a", "b", "old")], [1, 2, 2], "what others see after")
    equal(await contents(other), ["sent", "published"], "what others receive after")


@case()
async def failed_block_commits_nothing(h: Harness) -> None:
    """Leaving the block by an exception, or calling `cancel`, commits nothing."""
    space = await h.open()
    await register(space, "ada")
    with raises(ZeroDivisionError):
        async with space.transaction() as tx:
            tx.write("k", 1, owner="ada")
            tx.send(message("ada"))
            raise ZeroDivisionError
    async with space.transaction() as tx:
        tx.write("k", 1, owner="ada")
        tx.cancel()
    equal((await _value(space, "k"), await contents(space)), ("absent", []), "what there is")
    equal(tx.revision, None, "the transaction's revision")


@case()
async def transaction_sees_its_own_writes(h: Harness) -> None:
    """`read` gives what this transaction wrote, else what is stored; a later write of it replaces an earlier one."""
    space = await h.open()
    await space.memory.write("k", 1, owner="ada", tags=["x"])
    async with space.transaction() as tx:
        equal(await tx.read("k", reader="ada"), 1, "the stored value")
        tx.update("k", 2, updater="ada")
        equal(await tx.read("k", reader="ada"), 2, "the value written")
        tx.update("k", 3, updater="ada")
        tx.delete("gone", requester="ada")
        equal(await tx.read("gone", reader="ada", default="none"), "none", "the key deleted")
    entry = await space.memory.read_with_metadata("k", reader="ada")
    equal(None if entry is None else (entry.value, entry.version, entry.tags), (3, 2, ("x",)), "the entry")


@case()
async def what_was_read_must_still_be_true(h: Harness) -> None:
    """The commit raises VersionConflictError, and changes nothing, when a key that was read has changed by then."""
    space = await h.open()
    await register(space, "ada")
    await space.memory.write("stock", 1, owner="ada")
    tx = space.transaction()
    equal(await tx.read("stock", reader="ada"), 1, "the value read")
    tx.write("order", "granted", owner="ada")
    tx.send(message("ada", "granted"))
    await space.memory.write("stock", 0, owner="bob")
    with raises(VersionConflictError, key="stock"):
        await tx.commit()
    equal((await _value(space, "order"), await contents(space)), ("absent", []), "what was committed")


@case()
async def what_was_read_may_not_vanish_or_appear(h: Harness) -> None:
    """The commit raises KeyNotFoundError for a key that was read and is gone, KeyExistsError for one that appeared."""
    space = await h.open()
    await space.memory.write("going", 1, owner="ada", ttl=unit(h))
    gone = space.transaction()
    await gone.read("going", reader="ada")
    gone.write("k", 1, owner="ada")
    await pass_time(h, 1.6)
    with raises(KeyNotFoundError, key="going"):
        await gone.commit()
    appeared = space.transaction()
    await appeared.read("coming", reader="ada")
    appeared.write("k", 1, owner="ada")
    await space.memory.write("coming", 1, owner="ada")
    with raises(KeyExistsError, key="coming"):
        await appeared.commit()
    equal(await _value(space, "k"), "absent", "what was committed")


@case()
async def same_value_written_again_is_a_change(h: Harness) -> None:
    """What was read counts by revision: a key that was deleted and written again with the same value has changed."""
    space = await h.open()
    await space.memory.write("k", 1, owner="ada")
    tx = space.transaction()
    await tx.read("k", reader="ada")
    tx.write("other", 1, owner="ada")
    await space.memory.delete("k", requester="ada")
    await space.memory.write("k", 1, owner="ada")
    with raises(VersionConflictError):
        await tx.commit()


@case()
async def transactions_that_read_lose_no_update(h: Harness) -> None:
    """Of two transactions that read a key and write it, the one that commits later fails and can be tried again."""
    space, other = await h.open(), await h.open_again()
    await space.memory.write("n", 0, owner="ada")
    one, two = space.transaction(), other.transaction()
    for tx in (one, two):
        tx.write("n", await tx.read("n", reader="ada") + 1, owner="ada")
    await one.commit()
    with raises(VersionConflictError):
        await two.commit()
    async with other.transaction() as again:
        again.write("n", await again.read("n", reader="ada") + 1, owner="ada")
    equal(await _value(space, "n"), 2, "the value")


@case()
async def conditions_of_writes_hold_in_the_commit(h: Harness) -> None:
    """`create` needs the key absent, `update` there, or at the version expected; else nothing happens."""
    space = await h.open()
    await space.memory.write("k", 1, owner="ada")

    async def refused(kind: type[Exception], write: Callable[[Transaction], object]) -> None:
        with raises(kind):
            async with space.transaction() as tx:
                tx.write("other", 1, owner="ada")
                write(tx)
        equal((await _value(space, "k"), await _value(space, "other")), (1, "absent"), "what there is")

    await refused(KeyExistsError, lambda tx: tx.create("k", 2, owner="ada"))
    await refused(KeyNotFoundError, lambda tx: tx.update("absent", 2, updater="ada"))
    await refused(VersionConflictError, lambda tx: tx.update("k", 2, updater="ada", expected_version=7))
    await refused(VersionConflictError, lambda tx: tx.update("k", 2, updater="ada", expected_revision=10**6))
    await refused(VersionConflictError, lambda tx: tx.delete("k", requester="ada", expected_version=7))


@case()
async def fence_guards_a_transaction(h: Harness) -> None:
    """`require` with a fence commits only while the key lives that was created at that revision."""
    space = await h.open()
    lease = await space.memory.create("lease", "mine", owner="ada", ttl=unit(h))
    async with space.transaction() as tx:
        tx.require("lease", fence=lease.created_revision)
        tx.write("k", 1, owner="ada")
    await pass_time(h, 1.6)
    await space.memory.create("lease", "theirs", owner="bob")
    with raises(VersionConflictError, key="lease"):
        async with space.transaction() as tx:
            tx.require("lease", fence=lease.created_revision)
            tx.write("k", 2, owner="ada")
    equal(await _value(space, "k"), 1, "the value")


@case()
async def message_that_cannot_be_stored_stops_the_transaction(h: Harness) -> None:
    """UnknownAgentError or MailboxFullError from a message leaves everything as it was."""
    space = await h.open()
    await space.broker.register_agent("full", max_queue_size=1)
    await space.broker.send(message("full"))
    await register(space, "ada")
    for kind, receiver in ((UnknownAgentError, "nobody"), (MailboxFullError, "full")):
        with raises(kind):
            async with space.transaction() as tx:
                tx.write("k", 1, owner="ada")
                tx.send(message("ada"))
                tx.send(message(receiver))
    equal((await _value(space, "k"), await contents(space)), ("absent", []), "what was committed")


@case()
async def bad_input_is_refused_at_the_call(h: Harness) -> None:
    """Values are checked when they are given: bad input raises before anything is committed, and the block fails."""
    space = await h.open()
    with raises(EncodeError):
        async with space.transaction() as tx:
            tx.write("fine", 1, owner="ada")
            tx.write("k", object(), owner="ada")
    equal(await space.memory.list_keys(), [], "the keys")


@case()
async def ended_transaction_takes_nothing_more(h: Harness) -> None:
    """A transaction commits once: any further use raises InvalidInputError."""
    space = await h.open()
    async with space.transaction() as tx:
        tx.write("k", 1, owner="ada")
    with raises(InvalidInputError):
        tx.write("k", 2, owner="ada")
    with raises(InvalidInputError):
        await tx.commit()
    equal(await _value(space, "k"), 1, "the value")


@case()
async def fleeting_message_goes_out_after_the_commit(h: Harness) -> None:
    """An AT_MOST_ONCE message goes out once the transaction is committed, and not if it fails."""
    space = await h.open()
    await register(space, "ada")
    async with running(space.broker.receive("ada")) as task:
        await pause(h)
        with raises(KeyNotFoundError):
            async with space.transaction() as tx:
                tx.send(message("ada", "never", delivery_mode=DeliveryMode.AT_MOST_ONCE))
                tx.update("absent", 1, updater="ada")
        async with space.transaction() as tx:
            tx.send(message("ada", "fleeting", delivery_mode=DeliveryMode.AT_MOST_ONCE))
            tx.write("k", 1, owner="ada")
        delivery = await within(task)
    equal(None if delivery is None else delivery.message.content, "fleeting", "what is received")


@case()
async def fleeting_message_that_is_lost_does_not_undo_the_commit(h: Harness) -> None:
    """An AT_MOST_ONCE message that nobody can take is lost; the commit that it went with stands, without an error."""
    space = await h.open()
    async with space.transaction() as tx:
        tx.write("k", 1, owner="ada")
        tx.send(message("nobody", delivery_mode=DeliveryMode.AT_MOST_ONCE))
    equal((await _value(space, "k"), tx.revision is not None), (1, True), "value, and whether it has a revision")


@case()
async def delayed_message_of_a_transaction(h: Harness) -> None:
    """A message sent in a transaction with a delay comes that long after the commit."""
    space = await h.open()
    await register(space, "ada")
    async with space.transaction() as tx:
        tx.send(message("ada", "later"), delay=unit(h))
    equal(await contents(space), [], "what comes at first")
    await pass_time(h, 1.6)
    equal(await contents(space), ["later"], "what comes later")


# --- with a delivery ---


@case()
async def delivery_is_acknowledged_with_its_transaction(h: Harness) -> None:
    """A delivery's transaction writes, sends and acknowledges in one commit."""
    space = await h.open()
    await register(space, "ada", "bob")
    await space.broker.send(message("ada", 1))
    delivery = await take(space)
    async with delivery.transaction() as tx:
        equal(tx.idempotency_key, delivery.idempotency_key, "the idempotency key")
        tx.write("result", 2, owner="ada")
        tx.send(message("bob", "done"))
    yes(delivery.ended, "whether the delivery ended")
    stats = await space.broker.mailbox_stats("ada")
    equal((stats.waiting, stats.pending), (0, 0), "the mailbox")
    equal((await _value(space, "result"), await contents(space, "bob")), (2, ["done"]), "what was committed")


@case()
async def failed_delivery_transaction_keeps_the_message(h: Harness) -> None:
    """A delivery's transaction that fails, or is cancelled, acknowledges nothing; the message can be handled again."""
    space = await h.open()
    await register(space, "ada")
    await space.broker.send(message("ada"))
    delivery = await take(space)
    with raises(KeyNotFoundError):
        async with delivery.transaction() as tx:
            tx.update("absent", 1, updater="ada")
    no(delivery.ended, "whether the delivery ended")
    async with delivery.transaction() as tx:
        tx.write("k", 1, owner="ada")
        tx.cancel()
    equal((await space.broker.mailbox_stats("ada")).pending, 1, "how many messages are pending")
    async with delivery.transaction() as tx:
        tx.write("k", 2, owner="ada")
    equal((await _value(space, "k"), (await space.broker.mailbox_stats("ada")).pending), (2, 0), "in the end")


@case()
async def two_attempts_are_applied_once(h: Harness) -> None:
    """When two attempts at one message both try to commit, the first does, and the second gets AlreadySettledError."""
    space, other = await h.open(), await h.open_again()
    await register(space, "ada", "bob")
    await space.memory.write("balance", 100, owner="ada")
    sent = message("ada", 10, delivery_mode=DeliveryMode.EXACTLY_ONCE)
    await space.broker.send(sent)
    slow = await take(space, lease=unit(h))
    await pass_time(h, 1.6)
    quick = await take(other)
    for attempt, wins in ((slow, True), (quick, False)):
        tx = attempt.transaction()
        tx.write("balance", await tx.read("balance", reader="ada") - attempt.message.content, owner="ada")
        tx.send(message("bob", f"paid by attempt {attempt.attempt}"))
        if wins:
            await tx.commit()
        else:
            with raises(AlreadySettledError, agent_id="ada", message_id=sent.id):
                await tx.commit()
            no(attempt.ended, "whether the losing attempt counts as ended")
    equal(
        (await _value(space, "balance"), await contents(space, "bob")), (90, ["paid by attempt 1"]), "what was applied"
    )
    yes((await other.broker.send(sent)).duplicate, "whether a repeated send is a duplicate")


@case()
async def message_is_not_lost_between_two_attempts(h: Harness) -> None:
    """When the first of two attempts fails, the second commits, and its effects count once."""
    space = await h.open()
    await register(space, "ada")
    await space.memory.write("n", 0, owner="ada")
    await space.broker.send(message("ada"))
    first = await take(space)
    await first.release()
    second = await take(space)
    async with second.transaction() as tx:
        tx.write("n", await tx.read("n", reader="ada") + 1, owner="ada")
    late = first.transaction()
    late.write("n", 99, owner="ada")
    with raises(AlreadySettledError):
        await late.commit()
    equal(await _value(space, "n"), 1, "the value")


@case()
async def reply_goes_with_the_transaction(h: Harness) -> None:
    """A reply given to a delivery's transaction comes with its commit, and not without it."""
    space = await h.open()
    await register(space, "ada")
    async with running(space.broker.request_response(message("ada", 1), timeout=1000 * unit(h))) as task:
        await pause(h)
        delivery = await take(space)
        tx = delivery.transaction()
        tx.reply("answer")
        tx.write("k", 1, owner="ada")
        await pause(h)
        no(task.done(), "whether the reply came before the commit")
        await tx.commit()
        equal((await within(task)).content, "answer", "the reply")
    equal(await _value(space, "k"), 1, "the value")


@case()
async def transaction_within_a_deliverys_block_ends_it(h: Harness) -> None:
    """In a delivery's own block a committed transaction is its end: nothing is acknowledged twice."""
    space = await h.open()
    await register(space, "ada")
    await space.broker.send(message("ada"))
    async with await take(space) as delivery, delivery.transaction() as tx:
        tx.write("k", 1, owner="ada")
    equal((await space.broker.get_stats()).acknowledged, 1, "how many were acknowledged")
    expect(await _value(space, "k") == 1, "the transaction should be committed")
