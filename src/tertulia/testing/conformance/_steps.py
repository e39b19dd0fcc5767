"""Steps that many cases take, and the unit of time that they count in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from tertulia.agents.message_passing import MessagePassingAgent
from tertulia.engines.base import (
    ChangeStream,
    Claimed,
    Commit,
    Committed,
    Delete,
    Engine,
    MailboxOptions,
    Put,
    Record,
    Send,
    Settle,
)
from tertulia.messaging.delivery import Delivery
from tertulia.records import ChangeKind, Keep, Message, WhenFull
from tertulia.space import Space
from tertulia.testing.conformance._expect import equal, expect, within
from tertulia.testing.conformance.harness import Harness

LEASE = 1000.0  # units: a lease that no case waits out


def unit(h: Harness) -> float:
    """Return the seconds that cases count in: long enough for what the engine can tell apart."""
    return 1.0 if h.capabilities.manual_clock else max(0.4, 2 * h.capabilities.ttl_resolution)


async def pass_time(h: Harness, units: float) -> None:
    """Let time pass. Cases keep 0.4 units away from what they test."""
    await h.advance(units * unit(h))


async def pause(h: Harness) -> None:
    """Let happen what can happen without time."""
    await h.advance(0)


# --- records ---


async def put(
    engine: Engine,
    key: str,
    body: bytes = b"1",
    *,
    owner: str | Keep = "ada",
    ttl: float | Keep | None = None,
    tags: tuple[str, ...] | Keep = (),
) -> Record:
    """Put one key; return its record."""
    return (await engine.commit(Commit(puts=(Put(key, body, owner, ttl, tags),)))).records[0]


async def delete(engine: Engine, key: str) -> bool:
    """Delete one key; return whether it was there."""
    return (await engine.commit(Commit(deletes=(Delete(key),)))).deleted[0]


async def live(engine: Engine, key: str) -> Record:
    """Return the record of a key that must be there."""
    record = await engine.get(key)
    if record is None:
        expect(record, f"{key!r} should be there")
        raise AssertionError
    return record


async def keys(engine: Engine, prefix: str = "") -> list[str]:
    """Return the keys that a scan finds."""
    return [record.key for record in (await engine.scan(prefix))[1]]


async def changes(stream: ChangeStream, count: int) -> list[tuple[ChangeKind, str]]:
    """Return kind and key of the next changes."""
    seen = [await within(anext(stream)) for _ in range(count)]
    return [(change.kind, change.key) for change in seen]


# --- messages ---


async def box(
    engine: Engine,
    name: str = "ada",
    *,
    max_size: int = 1000,
    when_full: WhenFull = WhenFull.REJECT,
    ordered: bool = False,
) -> str:
    """Open a mailbox; return its name."""
    await engine.open_mailbox(name, MailboxOptions(max_size=max_size, when_full=when_full, ordered=ordered))
    return name


async def send(engine: Engine, mailbox: str, *ids: str, delay: float = 0.0, dedupe: bool = False) -> Committed:
    """Send messages of these ids, whose bodies are the ids, in one commit."""
    sends = tuple(Send(mailbox, one, one.encode(), delay=delay, dedupe=dedupe) for one in ids)
    return await engine.commit(Commit(sends=sends))


async def claim(h: Harness, engine: Engine, mailbox: str = "ada", *, lease: float = LEASE) -> Claimed:
    """Claim one message that must be there at once; the lease is in units."""
    claimed = await engine.claim(mailbox, lease=lease * unit(h))
    equal(len(claimed), 1, "the number of messages claimed")
    return claimed[0]


async def claim_all(engine: Engine, mailbox: str = "ada", *, lease: float = 3600.0) -> list[str]:
    """Claim whatever can be claimed now, one by one; return the ids in order."""
    found: list[str] = []
    while claimed := await engine.claim(mailbox, lease=lease):
        found += [one.message_id for one in claimed]
    return found


async def settle(engine: Engine, *claims: Claimed) -> None:
    """Settle claims in one commit."""
    await engine.commit(Commit(settles=tuple(settle_of(one) for one in claims)))


def settle_of(claimed: Claimed) -> Settle:
    """Return the settling of a claim."""
    return Settle(claimed.mailbox, claimed.message_id, claimed.sequence, claimed.author)


async def states(engine: Engine, mailbox: str = "ada") -> list[tuple[str, str]]:
    """Return id and state of each stored message, oldest first."""
    return [(item.message_id, item.state) for item in await engine.browse(mailbox)]


async def picture(engine: Engine, mailboxes: Iterable[str]) -> object:
    """Return everything about a space that a commit may change, to be compared."""
    stats = await engine.stats()
    _, records = await engine.scan("")
    return (
        stats.revision,
        stats.mailboxes,
        [(record.key, record.body, record.version, record.revision, record.owner) for record in records],
        [(name, await engine.browse(name)) for name in sorted(mailboxes)],
    )


# --- the public API ---


def message(receiver: str, content: object = "hello", *, sender: str = "sender", **fields: object) -> Message:
    """Return a message with a sender."""
    return Message(sender=sender, receiver=receiver, content=content, **fields)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def register(space: Space, *agents: str) -> None:
    """Register agents with the usual settings."""
    for agent in agents:
        await space.broker.register_agent(agent)


async def take(space: Space, agent: str = "ada", *, lease: float = 3600.0) -> Delivery:
    """Receive a message that must be there."""
    delivery = await space.broker.receive(agent, timeout=0, lease=lease)
    if delivery is None:
        expect(delivery, f"there should be a message for {agent!r}")
        raise AssertionError
    return delivery


async def contents(space: Space, agent: str = "ada") -> list[object]:
    """Receive and acknowledge everything that is there; return the contents."""
    found: list[object] = []
    while (delivery := await space.broker.receive(agent, timeout=0)) is not None:
        found.append(delivery.message.content)
        await delivery.acknowledge()
    return found


# --- agents ---


def on(
    agent: MessagePassingAgent,
    function: Callable[[Message], object],
    message_type: str | type = "default",
    *,
    content_type: type | None = None,
) -> None:
    """Register a function of a message as handler."""
    agent.on_message(message_type, content_type=content_type)(function)


def answering(space: Space, answer: Callable[[Message], Any], name: str = "ada") -> MessagePassingAgent:
    """Return an agent, not started, with one handler for everything."""
    agent = MessagePassingAgent(name, space.broker)
    agent.on_message("default")(answer)
    return agent


async def until(h: Harness, holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await pause(h)
            await asyncio.sleep(0)


async def idle(h: Harness, space: Space, agent: str = "ada") -> None:
    """Wait until the agent's mailbox is empty."""
    async with asyncio.timeout(10):
        while True:
            stats = await space.broker.mailbox_stats(agent)
            if not (stats.waiting or stats.pending or stats.delayed):
                return
            await pause(h)
            await asyncio.sleep(0)
