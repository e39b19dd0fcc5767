"""Emitted messages: stored nowhere, handed out at most once."""

from __future__ import annotations

from contextlib import suppress

from tertulia.engines.base import Claimed, Publish, Send
from tertulia.errors import UnknownAgentError
from tertulia.testing.conformance._expect import equal, running, within
from tertulia.testing.conformance._registry import case
from tertulia.testing.conformance._steps import (
    box,
    pass_time,
    pause,
    states,
    unit,
)
from tertulia.testing.conformance.harness import Harness


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
