"""Topics: a copy for every mailbox with a matching pattern, in one commit."""

from __future__ import annotations

from tertulia.engines.base import Commit, Publish, Send, Sent
from tertulia.errors import MailboxFullError
from tertulia.testing.conformance._expect import equal, no, raises, running, within, yes
from tertulia.testing.conformance._registry import case
from tertulia.testing.conformance._steps import box, claim, claim_all, pass_time, pause, put, send, settle, states, unit
from tertulia.testing.conformance.harness import Harness


async def _publish(h: Harness, topic: str, message_id: str = "m", *, delay: float = 0.0) -> Sent:
    done = await h.engine.commit(Commit(sends=(Publish(topic, message_id, b"body", delay=delay),)))
    return done.sent[0]


async def _subscribed(h: Harness, **patterns: str) -> None:
    for name, pattern in patterns.items():
        await box(h.engine, name)
        await h.engine.subscribe(name, pattern)


async def _reached(h: Harness, topic: str, names: str) -> str:
    """Publish and return the names, of those given, that got it."""
    sent = await _publish(h, topic, f"to {topic}")
    reached = "".join([name for name in names if await claim_all(h.engine, name)])
    equal(sent.delivered, len(reached), f"how many mailboxes hold the message on {topic!r}")
    return reached


@case()
async def subscribers_get_a_copy_each(h: Harness) -> None:
    """Every subscribed mailbox holds a copy of its own: settling one leaves the others."""
    await _subscribed(h, ada="news", bob="news", eve="other")
    equal((await _publish(h, "news")).delivered, 2, "how many mailboxes hold it")
    held = await claim(h, h.engine, "ada")
    equal((held.message_id, held.body), ("m", b"body"), "the copy")
    await settle(h.engine, held)
    equal((await states(h.engine, "bob"), await states(h.engine, "eve")), ([("m", "waiting")], []), "the others")


@case()
async def star_is_one_level(h: Harness) -> None:
    """In a topic pattern `*` stands for exactly one level."""
    await _subscribed(h, a="news.*", b="*.sport", c="news.*.today", d="*")
    equal(await _reached(h, "news.sport", "abcd"), "ab")
    equal(await _reached(h, "news", "abcd"), "d")
    equal(await _reached(h, "news.sport.today", "abcd"), "c")


@case()
async def rest_is_one_level_or_more(h: Harness) -> None:
    """In a topic pattern a last `>` stands for one or more levels."""
    await _subscribed(h, a="news.>", b=">", c="news.*.>")
    equal(await _reached(h, "news", "abc"), "b")
    equal(await _reached(h, "news.sport", "abc"), "ab")
    equal(await _reached(h, "news.sport.today.now", "abc"), "abc")


@case()
async def topic_without_wildcards_is_exact(h: Harness) -> None:
    """A pattern without wildcards matches that topic alone."""
    await _subscribed(h, a="news", b="News", c="news.sport")
    equal(await _reached(h, "news", "abc"), "a")
    equal(await _reached(h, "newsx", "abc"), "")


@case()
async def odd_characters_in_topics_mean_nothing(h: Harness) -> None:
    """What is special in other grammars stands for itself in a topic."""
    await _subscribed(h, a="a$[x](b)+", b="a.b|c.?", c="ñ.%_.*")
    equal(await _reached(h, "a$[x](b)+", "abc"), "a")
    equal(await _reached(h, "a.b|c.?", "abc"), "b")
    equal(await _reached(h, "ñ.%_.日本", "abc"), "c")
    equal(await _reached(h, "ñ.%x.y", "abc"), "")


@case()
async def mailbox_gets_a_message_once(h: Harness) -> None:
    """A mailbox with several matching patterns gets one copy."""
    await _subscribed(h, ada="news.sport")
    for pattern in ("news.*", "news.>", ">"):
        await h.engine.subscribe("ada", pattern)
    equal((await _publish(h, "news.sport")).delivered, 1, "how many mailboxes hold it")
    equal(await claim_all(h.engine), ["m"], "the messages")


@case()
async def nobody_subscribed_is_no_error(h: Harness) -> None:
    """Publishing to a topic without subscribers stores nothing and is no error."""
    sent = await _publish(h, "nobody.listens")
    equal((sent.delivered, sent.duplicate), (0, False), "what became of it")


@case()
async def subscribing_tells_whether_it_is_new(h: Harness) -> None:
    """`subscribe` returns whether the pattern is new for the mailbox, `unsubscribe` whether it was there."""
    await box(h.engine)
    yes(await h.engine.subscribe("ada", "news"), "the first time")
    no(await h.engine.subscribe("ada", "news"), "the second time")
    no(await h.engine.unsubscribe("ada", "other"), "taking away another pattern")
    yes(await h.engine.unsubscribe("ada", "news"), "taking it away")
    no(await h.engine.unsubscribe("ada", "news"), "taking it away again")


@case()
async def unsubscribed_mailbox_gets_nothing_more(h: Harness) -> None:
    """After `unsubscribe` nothing comes through that pattern; other patterns go on."""
    await _subscribed(h, ada="news.*")
    await h.engine.subscribe("ada", "alerts")
    await h.engine.unsubscribe("ada", "news.*")
    equal((await _publish(h, "news.x", "1")).delivered, 0, "how many mailboxes hold the first")
    equal((await _publish(h, "alerts", "2")).delivered, 1, "how many mailboxes hold the second")
    equal(await claim_all(h.engine), ["2"], "the messages")


@case()
async def late_subscriber_gets_only_what_comes_later(h: Harness) -> None:
    """Who is subscribed is judged in the commit: what was published before does not reach a later subscriber."""
    await box(h.engine)
    await _publish(h, "news", "before")
    await h.engine.subscribe("ada", "news")
    await _publish(h, "news", "after")
    equal(await claim_all(h.engine), ["after"], "the messages")


@case()
async def subscriptions_belong_to_the_space(h: Harness) -> None:
    """A subscription made through one handle counts for publications through another, and outlives its handle."""
    other = await h.open_again()
    await box(other.engine)
    await other.engine.subscribe("ada", "news")
    await other.aclose()
    equal((await _publish(h, "news")).delivered, 1, "how many mailboxes hold it")


@case()
async def publishing_is_for_all_or_for_none(h: Harness) -> None:
    """When one subscriber cannot take a publication, none gets it."""
    await _subscribed(h, ada="news", eve="news")
    await box(h.engine, "full", max_size=1)
    await h.engine.subscribe("full", "news")
    await send(h.engine, "full", "fills it")
    with raises(MailboxFullError, agent_id="full"):
        await _publish(h, "news")
    equal((await states(h.engine, "ada"), await states(h.engine, "eve")), ([], []), "the others' mailboxes")
    await settle(h.engine, await claim(h, h.engine, "full"))
    equal((await _publish(h, "news")).delivered, 3, "how many mailboxes hold it once there is room")


@case()
async def publications_and_sends_share_one_order(h: Harness) -> None:
    """Published and sent messages come in the order of their commits, and within a commit in its order."""
    await _subscribed(h, ada="news")
    await h.engine.commit(
        Commit(sends=(Send("ada", "1", b""), Publish("news", "2", b""), Send("ada", "3", b""))),
    )
    await _publish(h, "news", "4")
    equal(await claim_all(h.engine), ["1", "2", "3", "4"], "the order")


@case()
async def publication_with_a_delay(h: Harness) -> None:
    """A publication with a delay is stored at once, and claimable after it."""
    await _subscribed(h, ada="news")
    equal((await _publish(h, "news", delay=unit(h))).delivered, 1, "how many mailboxes hold it")
    equal(await states(h.engine), [("m", "delayed")], "the mailbox")
    await pass_time(h, 1.6)
    equal(await claim_all(h.engine), ["m"], "the messages after the delay")


@case()
async def publication_wakes_every_subscriber(h: Harness) -> None:
    """A publication wakes a claim that waits in each of the mailboxes."""
    await _subscribed(h, ada="news", bob=">")
    async with (
        running(h.engine.claim("ada", wait=None)) as one,
        running((await h.open_again()).engine.claim("bob", wait=None)) as two,
    ):
        await pause(h)
        await _publish(h, "news")
        got = [*await within(one), *await within(two)]
    equal([claimed.mailbox for claimed in got], ["ada", "bob"], "who got it")


@case()
async def stats_count_topics(h: Harness) -> None:
    """`stats` counts the different patterns that are subscribed to; records have nothing to do with them."""
    await _subscribed(h, ada="news", bob="news", eve="alerts.*")
    await put(h.engine, "news")
    equal((await h.engine.stats()).topics, 2, "the topics")
    await h.engine.unsubscribe("eve", "alerts.*")
    equal((await h.engine.stats()).topics, 1, "the topics after unsubscribing")
