"""Dead letters: messages that were given up, kept whole until their owner decides."""

from __future__ import annotations

from tertulia.engines.base import Commit, Send
from tertulia.errors import (
    AlreadySettledError,
    MailboxFullError,
    UnknownAgentError,
)
from tertulia.records import DeliveryMode
from tertulia.space import Space
from tertulia.testing.conformance._expect import equal, expect, raises, yes
from tertulia.testing.conformance._registry import MANUAL_CLOCK, case
from tertulia.testing.conformance._steps import contents, message, pass_time, register, take, unit
from tertulia.testing.conformance.harness import Harness

AT_MOST_ONCE, AT_LEAST_ONCE = DeliveryMode.AT_MOST_ONCE, DeliveryMode.AT_LEAST_ONCE
EXACTLY_ONCE = DeliveryMode.EXACTLY_ONCE


async def _open(h: Harness, *agents: str) -> Space:
    space = await h.open()
    await register(space, *(agents or ("ada",)))
    return space


# --- ids used again ---


@case()
async def letters_of_one_id_are_all_kept(h: Harness) -> None:
    """A message whose id is used again and given up again is another dead letter; unregistering adds a third."""
    space = await _open(h)
    for number in range(2):
        await space.broker.send(message("ada", number, id="same"))
        delivery = await take(space)
        await delivery.reject("no")
    await space.broker.send(message("ada", 2, id="same"))
    equal(await space.broker.unregister_agent("ada"), 1, "what was left in the mailbox")
    letters = await space.broker.dead_letters("ada")
    equal([letter.message.content for letter in letters], [0, 1, 2], "the dead letters")
    equal({letter.message.id for letter in letters}, {"same"}, "their id, as their sender knows it")


@case()
async def letters_wait_while_their_id_is_in_the_mailbox(h: Harness) -> None:
    """Redelivering moves one of several letters of an id; the others stay until it is handled."""
    space = await _open(h)
    for number in range(2):
        await space.broker.send(message("ada", number, id="same"))
        delivery = await take(space)
        await delivery.reject("no")
    equal(await space.broker.redeliver("ada"), 1, "how many were moved")
    equal([letter.message.content for letter in await space.broker.dead_letters("ada")], [1], "what stays")
    again = await take(space)
    equal(again.message.content, 0, "what is delivered again")
    await again.acknowledge()
    equal(await space.broker.redeliver("ada", "same"), 1, "how many were moved once it was handled")


# --- agents ---


@case(MANUAL_CLOCK)
async def failures_back_off_and_end_as_a_dead_letter(h: Harness) -> None:
    """A failing message is retried with exponential backoff, at most `max_attempts` times, then dead-lettered whole."""
    space = await h.open()
    await space.broker.register_agent("ada", max_attempts=4)
    sent = message("ada", {"n": 1})
    await space.broker.send(sent)
    for number, most in enumerate((0.1, 0.2, 0.4)):
        delivery = await take(space)
        yes(not await delivery.fail(ValueError(f"failure {number}")), "whether it is kept")
        await h.advance(most / 2 - 0.01)
        equal(await space.broker.receive("ada", timeout=0), None, f"a receive too early after {number + 1} failures")
        await h.advance(most / 2 + 0.02)
    yes(await (await take(space)).fail(ValueError("the last straw")), "whether it is given up")
    await h.advance(600.0)
    equal(await space.broker.receive("ada", timeout=0), None, "a receive afterwards")
    letter = (await space.broker.dead_letters("ada"))[0]
    equal((letter.agent_id, letter.message.id, letter.message.content), ("ada", sent.id, {"n": 1}), "the dead letter")
    equal((letter.reason, letter.error), ("ValueError: the last straw", "ValueError"), "why it was given up")
    equal([failure.attempt for failure in letter.history], [1, 2, 3, 4], "the attempts in the history")
    expect(all("ValueError" in failure.traceback for failure in letter.history), "failures should keep tracebacks")


@case()
async def lost_leases_end_as_a_dead_letter(h: Harness) -> None:
    """A message whose consumers vanish again and again is given up after `max_attempts` too."""
    space = await h.open()
    await space.broker.register_agent("ada", max_attempts=2)
    await space.broker.send(message("ada", "poison"))
    for _ in range(2):
        await take(space, lease=unit(h))
        await pass_time(h, 1.6)
    equal(await space.broker.receive("ada", timeout=0), None, "a third receive")
    equal([one.message.content for one in await space.broker.dead_letters("ada")], ["poison"], "the dead letters")


@case()
async def rejected_message_is_a_dead_letter_at_once(h: Harness) -> None:
    """`reject` moves the message to the dead letters with its reason, at the first attempt."""
    space = await _open(h)
    await space.broker.send(message("ada", 1))
    await (await take(space)).reject("bad request")
    letter = (await (await h.open_again()).broker.dead_letters("ada"))[0]
    equal((letter.reason, letter.message.content, len(letter.history)), ("bad request", 1, 1), "the dead letter")
    equal((await space.broker.mailbox_stats("ada")).dead_letters, 1, "the count of dead letters")


@case()
async def rejecting_a_settled_message_buries_nothing(h: Harness) -> None:
    """`reject` raises AlreadySettledError, and makes no dead letter, when another attempt has settled the message."""
    space = await _open(h)
    sent = message("ada")
    await space.broker.send(sent)
    delivery = await take(space)
    await space.broker.acknowledge("ada", sent.id)
    with raises(AlreadySettledError):
        await delivery.reject("late")
    equal(await space.broker.dead_letters("ada"), [], "the dead letters")


@case()
async def redelivered_dead_letter_starts_anew(h: Harness) -> None:
    """`redeliver` moves one dead letter, or all, back: no failures counted, the history kept."""
    space = await _open(h)
    ids: list[str] = []
    for mode in (AT_LEAST_ONCE, EXACTLY_ONCE, AT_LEAST_ONCE):
        sent = message("ada", mode.value, delivery_mode=mode)
        ids.append(sent.id)
        await space.broker.send(sent)
        await (await take(space)).reject("first time")
    equal(await space.broker.redeliver("ada", ids[1]), 1, "how many were moved by id")
    again = await take(space)
    equal((again.message.id, again.attempt, again.failures), (ids[1], 1, 0), "the message, again")
    await again.reject("second time")
    letter = next(one for one in await space.broker.dead_letters("ada") if one.message.id == ids[1])
    equal([failure.reason for failure in letter.history], ["first time", "second time"], "the history")
    equal(await space.broker.redeliver("ada"), 3, "how many were moved in all")
    equal((await space.broker.dead_letters("ada"), len(await contents(space))), ([], 3), "letters and messages")
    equal(await space.broker.redeliver("ada"), 0, "how many are left to move")


@case()
async def redelivery_that_fails_loses_nothing(h: Harness) -> None:
    """`redeliver` raises UnknownAgentError or MailboxFullError, and the dead letter stays."""
    space = await h.open()
    await space.broker.register_agent("ada", max_queue_size=1)
    await space.broker.send(message("ada", "letter"))
    await (await take(space)).reject("no")
    await space.broker.send(message("ada", "fills it"))
    with raises(MailboxFullError, agent_id="ada"):
        await space.broker.redeliver("ada")
    await space.broker.unregister_agent("ada")
    with raises(UnknownAgentError, agent_id="ada"):
        await space.broker.redeliver("ada")
    equal([one.message.content for one in await space.broker.dead_letters("ada")], ["letter", "fills it"], "letters")


@case()
async def purged_dead_letters_are_gone(h: Harness) -> None:
    """`purge` removes one dead letter, or all, for good; another agent's stay."""
    space = await _open(h, "ada", "bob")
    ids = [message("ada").id for _ in range(3)]
    for agent, message_id in (("ada", ids[0]), ("ada", ids[1]), ("bob", ids[2])):
        await space.broker.send(message(agent, id=message_id))
        await (await take(space, agent)).reject("no")
    equal(await space.broker.purge("ada", ids[0]), 1, "how many were purged by id")
    equal([one.message.id for one in await space.broker.dead_letters("ada")], [ids[1]], "the letters left")
    equal(await space.broker.purge("ada"), 1, "how many were purged in all")
    equal(len(await space.broker.dead_letters("bob")), 1, "the other agent's letters")


@case()
async def expired_message_is_not_delivered(h: Harness) -> None:
    """A message past its `expires` is not handed to anybody: it is a dead letter with reason "expired"."""
    space = await _open(h)
    now = space.clock.time()
    await space.broker.send(message("ada", "old", expires=now + unit(h)))
    await space.broker.send(message("ada", "lasting", expires=now + 1000 * unit(h)))
    await pass_time(h, 1.6)
    equal(await contents(space), ["lasting"], "what is delivered")
    letters = await space.broker.dead_letters("ada")
    equal([(one.message.content, one.reason) for one in letters], [("old", "expired")], "the dead letters")


@case()
async def undecodable_message_is_a_dead_letter(h: Harness) -> None:
    """Bytes that are no message are a dead letter that says so, and hold up nobody."""
    space = await _open(h)
    await h.engine.commit(Commit(sends=(Send("ada", "broken", b"\xc1 no message"),)))
    await space.broker.send(message("ada", "fine"))
    equal(await contents(space), ["fine"], "what is delivered")
    letter = (await space.broker.dead_letters("ada"))[0]
    equal(letter.message.id, "broken", "the dead letter")
    expect(letter.reason.startswith("undecodable"), f"the reason should say what is wrong: {letter.reason!r}")
