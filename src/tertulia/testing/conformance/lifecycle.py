"""Handles: several on one space, their end, and what outlives them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

from tertulia.engines.base import Check, Commit, Publish, Put, Send
from tertulia.errors import SpaceClosedError
from tertulia.records import ChangeKind
from tertulia.testing.conformance._expect import equal, expect, raises, running, within, yes
from tertulia.testing.conformance._registry import DURABLE, MULTI_PROCESS, case
from tertulia.testing.conformance._steps import (
    box,
    changes,
    claim,
    claim_all,
    live,
    message,
    pass_time,
    pause,
    put,
    register,
    send,
    settle,
    unit,
)
from tertulia.testing.conformance.harness import Harness

# Less than this and the layers above could not work: a region's write checks two keys, a workspace's commit touches
# dozens, a value is a document, and a handler may be retried for a minute.
LEAST = {
    "max_value_bytes": 64 * 1024,
    "max_commit_operations": 50,
    "history": 100,
    "dedup_window": 60.0,
    "dedup_count": 1_000,
}
PROCESS_LIMIT = 30.0  # real seconds for another Python to start, do its work and end


@case()
async def handles_share_the_space(h: Harness) -> None:
    """Two handles on one space see each other's records, mailboxes, subscriptions and messages."""
    one, two = h.engine, (await h.open_again()).engine
    await put(one, "k", b"1")
    equal((await live(two, "k")).body, b"1", "the record")
    await box(one)
    await two.subscribe("ada", "news")
    await two.commit(Commit(sends=(Publish("news", "m", b""),)))
    equal(await claim_all(one), ["m"], "the messages")
    await put(two, "k", b"2")
    equal((await one.stats()).revision, (await two.stats()).revision, "the revision")


@case()
async def closed_handle_refuses_every_call(h: Harness) -> None:
    """After `aclose` every call of that handle raises SpaceClosedError, also one that would find what it looks for."""
    await put(h.engine, "k")
    await box(h.engine)
    await send(h.engine, "ada", "m")
    other = await h.open_again()
    engine = other.engine
    held = await claim(h, engine)
    await other.aclose()
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "get": lambda: engine.get("k"),
        "get of an absent key": lambda: engine.get("nothing"),
        "scan": lambda: engine.scan(""),
        "commit": lambda: put(engine, "k"),
        "watch": lambda: engine.watch("*"),
        "open_mailbox": lambda: box(engine, "new"),
        "close_mailbox": lambda: engine.close_mailbox("ada"),
        "mailboxes": engine.mailboxes,
        "subscribe": lambda: engine.subscribe("ada", "news"),
        "unsubscribe": lambda: engine.unsubscribe("ada", "news"),
        "claim": lambda: engine.claim("ada"),
        "extend": lambda: engine.extend(held, 10.0),
        "release": lambda: engine.release(held),
        "wait_for_room": lambda: engine.wait_for_room("ada", 1.0),
        "emit": lambda: engine.emit(Send("ada", "x", b"")),
        "browse": lambda: engine.browse("ada"),
        "stats": engine.stats,
        "doctor": engine.doctor,
    }
    answered = [name for name, call in calls.items() if not await _refuses(call)]
    equal(answered, [], "the calls that a closed handle still answers")
    with raises(SpaceClosedError):
        engine.listen("_reply:x", lambda _: None)
    equal([record.body for record in (await h.engine.scan(""))[1]], [b"1"], "the records")


async def _refuses(call: Callable[[], Awaitable[object]]) -> bool:
    try:
        await within(call())
    except SpaceClosedError:
        return True
    return False


@case()
async def closing_twice_is_closing_once(h: Harness) -> None:
    """`aclose` may be called again, and changes nothing then."""
    other = await h.open_again()
    await other.engine.aclose()
    await other.engine.aclose()
    await other.aclose()
    await other.aclose()
    await put(h.engine, "k")


@case()
async def closing_a_handle_leaves_the_others(h: Harness) -> None:
    """Closing a handle takes nothing out of the space: records, mailboxes and messages stay for the others."""
    other = await h.open_again()
    await put(other.engine, "k", b"1")
    await box(other.engine)
    await send(other.engine, "ada", "m")
    await other.aclose()
    equal((await live(h.engine, "k")).body, b"1", "the record")
    equal(await claim_all(h.engine), ["m"], "the messages")


@case()
async def message_in_a_closed_handles_hands_comes_back(h: Harness) -> None:
    """A message that a handle held when it was closed is delivered again, at the latest when its lease runs out."""
    await box(h.engine)
    await send(h.engine, "ada", "m")
    other = await h.open_again()
    await claim(h, other.engine, lease=1.0)
    await other.aclose()
    await pass_time(h, 1.6)
    equal((await claim(h, h.engine)).attempt, 2, "the attempt")


@case()
async def closing_ends_the_wait_for_room(h: Harness) -> None:
    """Who waits for room on a handle that is closed gets SpaceClosedError."""
    await box(h.engine, max_size=1)
    await send(h.engine, "ada", "1")
    other = await h.open_again()
    async with running(other.engine.wait_for_room("ada", 100.0 * unit(h))) as task:
        await pause(h)
        await other.aclose()
        with raises(SpaceClosedError):
            await within(task)


@case()
async def doctor_finds_something(h: Harness) -> None:
    """`doctor` returns findings, each with a level, a subject and a detail; a new space has no problem."""
    findings = await h.engine.doctor()
    expect(findings, "there should be at least one finding")
    for finding in findings:
        expect(finding.level in ("ok", "note"), f"a new space should have no problem: {finding}")
        expect(finding.subject and finding.detail, "a finding should say what it is about")


@case()
async def capabilities_are_plausible(h: Harness) -> None:
    """What an engine declares is usable: room for values, commits and a history, and a window for ids."""
    can = h.capabilities
    for name, least in LEAST.items():
        expect(getattr(can, name) >= least, f"{name} should be at least {least:,}")
    expect(0 <= can.ttl_resolution <= 1, "a ttl should be kept to the second")
    expect(not can.multi_machine or can.multi_process, "what machines can share, processes can")


# --- what outlives every handle ---


async def _close_all_and_open(h: Harness) -> None:
    """Close the first handle; the case goes on with another."""
    await (await h.open()).aclose()


@case(DURABLE)
async def records_outlive_their_handles(h: Harness) -> None:
    """Records come back as they were, with versions, owners and tags; revisions go on and none is used again."""
    before = await put(h.engine, "k", b"1", owner="ada", tags=("x",))
    await put(h.engine, "gone")
    last = (await h.engine.commit(Commit(puts=(Put("k2", b"2", "bob"),)))).revision
    await _close_all_and_open(h)
    engine = (await h.open_again()).engine
    after = await live(engine, "k")
    equal(
        (after.body, after.owner, after.tags, after.version, after.revision, after.created_revision),
        (b"1", "ada", ("x",), 1, before.revision, before.created_revision),
        "the record",
    )
    equal((await engine.stats()).revision, last, "the revision")
    expect((await put(engine, "k")).revision > last, "revisions should go on")


@case(DURABLE)
async def lifetimes_outlive_their_handles(h: Harness) -> None:
    """A key expires at its time though every handle was closed meanwhile."""
    await put(h.engine, "k", ttl=unit(h))
    await _close_all_and_open(h)
    await pass_time(h, 1.6)
    engine = (await h.open_again()).engine
    equal(await engine.get("k"), None, "the key")
    await engine.commit(Commit(checks=(Check("k", absent=True),)))


@case(DURABLE)
async def messages_outlive_their_handles(h: Harness) -> None:
    """Mailboxes, subscriptions and messages come back in order; what was settled does not."""
    await box(h.engine, max_size=7)
    await h.engine.subscribe("ada", "news.*")
    await send(h.engine, "ada", "1", "2", "3")
    await settle(h.engine, await claim(h, h.engine))
    await _close_all_and_open(h)
    engine = (await h.open_again()).engine
    info = (await engine.mailboxes())[0]
    equal((info.agent_id, info.max_queue_size, info.topics), ("ada", 7, ("news.*",)), "the mailbox")
    await engine.commit(Commit(sends=(Publish("news.x", "4", b""),)))
    equal(await claim_all(engine), ["2", "3", "4"], "the messages")


@case(DURABLE)
async def leases_outlive_their_handles(h: Harness) -> None:
    """A message that was leased when every handle closed comes again when its lease has run out, and not before."""
    await box(h.engine)
    await send(h.engine, "ada", "m")
    await claim(h, h.engine, lease=1.0)
    await _close_all_and_open(h)
    await pass_time(h, 1.6)
    engine = (await h.open_again()).engine
    again = await within(engine.claim("ada", wait=10 * unit(h)))
    equal([(one.message_id, one.attempt) for one in again], [("m", 2)], "the next claim")


@case(DURABLE)
async def handled_ids_outlive_their_handles(h: Harness) -> None:
    """A deduplicated id is remembered though every handle was closed meanwhile."""
    await box(h.engine)
    await send(h.engine, "ada", "m", dedupe=True)
    await settle(h.engine, await claim(h, h.engine))
    await _close_all_and_open(h)
    engine = (await h.open_again()).engine
    yes((await send(engine, "ada", "m", dedupe=True)).sent[0].duplicate, "whether it is a duplicate")


@case(DURABLE)
async def changes_outlive_their_handles(h: Harness) -> None:
    """A watch can resume after a revision from before every handle was closed."""
    start = await put(h.engine, "a")
    await put(h.engine, "b")
    await _close_all_and_open(h)
    engine = (await h.open_again()).engine
    await put(engine, "c")
    stream = await engine.watch("*", after=start.revision)
    equal(await changes(stream, 2), [(ChangeKind.PUT, "b"), (ChangeKind.PUT, "c")], "the changes")
    await stream.aclose()


# --- other processes ---

_PRELUDE = """
import asyncio, sys
import tertulia

async def main():
    async with tertulia.connect(sys.argv[1]) as space:
"""


async def _in_another_process(h: Harness, *lines: str) -> None:
    """Run lines of Python, in which `space` is the space, in a process of their own."""
    body = "".join(f"        {line}\n" for line in lines)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"{_PRELUDE}{body}\nasyncio.run(main())",
        h.url,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, errors = await within(process.communicate(), PROCESS_LIMIT)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    expect(process.returncode == 0, f"the other process failed:\n{errors.decode()}")


@case(MULTI_PROCESS)
async def processes_share_records(h: Harness) -> None:
    """What another process writes is read here, and what is written here is read there."""
    space = await h.open()
    await space.memory.write("here", 1, owner="ada")
    await _in_another_process(
        h,
        "here = await space.memory.read('here', reader='bob')",
        "await space.memory.write('there', here + 1, owner='bob')",
    )
    equal(await space.memory.read("there", reader="ada"), 2, "what the other process wrote")


@case(MULTI_PROCESS)
async def processes_wake_each_other(h: Harness) -> None:
    """A write and a message of another process wake a watch and a claim that wait here."""
    space = await h.open()
    await register(space, "ada")
    stream = await h.engine.watch("k")
    async with running(changes(stream, 1)) as change, running(space.broker.receive("ada")) as delivery:
        await pause(h)
        await _in_another_process(
            h,
            "await space.memory.write('k', 1, owner='bob')",
            "await space.broker.send(tertulia.Message(sender='bob', receiver='ada', content='hello'))",
        )
        equal(await within(change), [(ChangeKind.PUT, "k")], "the change")
        got = await within(delivery)
        equal(None if got is None else got.message.content, "hello", "the message")
    await stream.aclose()


@case(MULTI_PROCESS)
async def processes_lose_no_update(h: Harness) -> None:
    """Of updates that several processes make to one key none is lost."""
    space = await h.open()
    lines = (
        "for _ in range(50):",
        "    await space.memory.modify('count', lambda value: value + 1, updater='ada', default=0)",
    )
    await asyncio.gather(*(_in_another_process(h, *lines) for _ in range(2)))
    equal(await space.memory.read("count", reader="ada"), 100, "the count")


@case(MULTI_PROCESS)
async def processes_answer_requests(h: Harness) -> None:
    """A request from here is handled in another process, and its reply comes back."""
    space = await h.open()
    await register(space, "ada")
    lines = (
        "agent = tertulia.MessagePassingAgent('ada', space.broker)",
        "done = asyncio.Event()",
        "@agent.on_message('default')",
        "async def double(message):",
        "    asyncio.get_running_loop().call_later(0.2, done.set)",
        "    return message.content * 2",
        "async with agent:",
        "    await done.wait()",
    )
    request = message("ada", 21)
    async with running(space.broker.request_response(request, timeout=1000.0)) as task:
        await _in_another_process(h, *lines)
        equal((await within(task)).content, 42, "the reply")
