"""Watching and subscribing through SharedMemory: each change, in order, beside the writer."""

from __future__ import annotations

import asyncio
from typing import Any

from tertulia.errors import (
    WatchLaggedError,
)
from tertulia.records import ChangeKind, MemoryAccessMode
from tertulia.regions import MemoryRegion
from tertulia.testing.conformance._expect import equal, expect, logged, no, raises, within, yes
from tertulia.testing.conformance._registry import BOUNDED_HISTORY, case
from tertulia.testing.conformance._steps import pass_time, pause, unit, until
from tertulia.testing.conformance.harness import Harness


@case()
async def watcher_sees_entries(h: Harness) -> None:
    """A watch yields every committed change of matching keys: kind, revision, and the entry that was written."""
    memory = (await h.open()).memory
    async with memory.watch("a:*") as changes:
        first = await memory.write("a:1", {"n": 1}, owner="ada")
        await memory.write("b", 0, owner="ada")
        await memory.delete("a:1", requester="ada")
        one, two = await within(anext(changes)), await within(anext(changes))
    equal((one.kind, one.key, one.revision, one.value), (ChangeKind.PUT, "a:1", first.revision, {"n": 1}), "the write")
    equal(None if one.entry is None else one.entry.owner, "ada", "the owner in the change")
    equal((two.kind, two.key, two.entry, two.value), (ChangeKind.DELETE, "a:1", None, None), "the delete")


@case()
async def watcher_resumes_after_a_snapshot(h: Harness) -> None:
    """A watch after a snapshot's revision shows exactly what the snapshot does not have."""
    memory = (await h.open()).memory
    await memory.write("a", 1, owner="ada")
    snapshot = await memory.snapshot()
    await memory.write("a", 2, owner="ada")
    await memory.write("b", 1, owner="ada")
    async with memory.watch(after=snapshot.revision) as changes:
        seen = [await within(anext(changes)) for _ in range(2)]
    equal([(change.key, change.value) for change in seen], [("a", 2), ("b", 1)], "the changes")


@case()
async def library_keys_are_not_shown(h: Harness) -> None:
    """Keys of the library itself and of regions are neither listed nor watched in the whole memory."""
    memory = (await h.open()).memory
    region = MemoryRegion("secret", memory)
    async with memory.watch() as changes:
        await region.grant_access("ada", MemoryAccessMode.READ_WRITE)
        await region.write("k", 1, agent_id="ada")
        await memory.write("mine", 1, owner="ada")
        equal((await within(anext(changes))).key, "mine", "the first change")
    equal(await memory.list_keys(), ["mine"], "the keys")
    equal([entry.key for entry in (await memory.snapshot()).entries], ["mine"], "the snapshot")


Calls = list[tuple[str, str, Any]]


@case()
async def subscriber_is_called_for_each_change(h: Harness) -> None:
    """A callback, plain or async, gets (key, event, value) for every change in order: write, update, delete, expire."""
    memory = (await h.open()).memory
    plain: Calls = []
    slow: Calls = []

    async def call_slowly(key: str, event: str, value: Any) -> None:
        await asyncio.sleep(0)
        slow.append((key, event, value))

    await memory.subscribe("a*", lambda key, event, value: plain.append((key, event, value)))
    await memory.subscribe("a*", call_slowly)
    await memory.write("a1", 1, owner="ada")
    await memory.update("a1", 2, updater="ada")
    await memory.delete("a1", requester="ada")
    await memory.write("other", 0, owner="ada")
    await memory.write("a2", 3, owner="ada", ttl=unit(h))
    await pass_time(h, 1.6)
    wanted = [
        ("a1", "write", 1),
        ("a1", "update", 2),
        ("a1", "delete", None),
        ("a2", "write", 3),
        ("a2", "expire", None),
    ]
    await until(h, lambda: len(plain) == len(slow) == len(wanted))
    equal((plain, slow), (wanted, wanted), "the calls")


@case()
async def failing_subscriber_stays_subscribed(h: Harness) -> None:
    """A callback that fails is logged with its traceback; writer, other callbacks and its own next call go on."""
    memory = (await h.open()).memory
    calls: Calls = []

    def fail(key: str, event: str, value: Any) -> None:
        calls.append((key, event, value))
        raise ZeroDivisionError("broken callback")

    await memory.subscribe("k", fail)
    with logged() as lines:
        await memory.write("k", 1, owner="ada")
        await memory.write("k", 2, owner="ada")
        await until(h, lambda: len(calls) == len("12"))
        await pause(h)
    equal([event for _, event, _ in calls], ["write", "update"], "the calls")
    failures = [line for line in lines if line.startswith("ERROR") and "ZeroDivisionError: broken callback" in line]
    equal(len(failures), len(calls), "the number of failures in the log")


@case()
async def subscriber_may_use_the_memory(h: Harness) -> None:
    """A callback never runs inside a write: it may write, read and subscribe itself, even on the same key."""
    memory = (await h.open()).memory
    heard: Calls = []

    async def answer(key: str, _event: str, value: int) -> None:
        heard.append((key, "heard", value))
        if value < len("123"):
            await memory.write(key, value + 1, owner="callback")
            await memory.subscribe("other", answer)

    await memory.subscribe("k", answer)
    await within(memory.write("k", 1, owner="ada"))
    await until(h, lambda: len(heard) == len("123"))
    equal([value for _, _, value in heard], [1, 2, 3], "the values heard")


@case()
async def unsubscribed_callback_is_not_called(h: Harness) -> None:
    """After `unsubscribe` no call starts; it returns whether the pair was subscribed. Subscribing twice counts once."""
    memory = (await h.open()).memory
    calls: Calls = []

    def call(key: str, event: str, value: Any) -> None:
        calls.append((key, event, value))

    await memory.subscribe("k", call)
    await memory.subscribe("k", call)
    equal((await memory.get_stats()).subscribers, 1, "the number of subscribers")
    await memory.write("k", 1, owner="ada")
    await until(h, lambda: calls)
    yes(await memory.unsubscribe("k", call), "the first unsubscribe")
    no(await memory.unsubscribe("k", call), "the second unsubscribe")
    await memory.write("k", 2, owner="ada")
    await pause(h)
    equal(calls, [("k", "write", 1)], "the calls")


@case(BOUNDED_HISTORY)
async def subscriber_that_fell_behind_is_told_and_goes_on(h: Harness) -> None:
    """A callback that misses changes is called with "lagged" and the pattern, and then for new changes again."""
    memory = (await h.open()).memory
    gate = asyncio.Event()
    calls: Calls = []

    async def slow(key: str, event: str, value: Any) -> None:
        await gate.wait()
        calls.append((key, event, value))

    await memory.subscribe("k*", slow)
    count = h.capabilities.history * 2 + 500
    for number in range(count):
        await memory.write("k", number, owner="ada")
    gate.set()
    with logged():
        await until(h, lambda: bool(calls) and (calls[-1][1] == "lagged" or calls[-1][2] == count - 1))
        await pause(h)
    told = [call for call in calls if call[1] == "lagged"]
    expect(told in ([], [("k*", "lagged", None)]), "it should be told once, with the pattern")
    expect(told or len(calls) == count, "changes should not be missed silently")
    await memory.write("k2", "new", owner="ada")
    await until(h, lambda: calls[-1] == ("k2", "write", "new"))


@case(BOUNDED_HISTORY)
async def watch_that_resumes_too_late_is_told(h: Harness) -> None:
    """A watch after a revision from before the history raises WatchLaggedError with pattern and revision."""
    memory = (await h.open()).memory
    first = await memory.write("k", 0, owner="ada")
    for number in range(h.capabilities.history + 10):
        await memory.write("k", number, owner="ada")
    async with memory.watch("k", after=first.revision) as changes:
        with raises(WatchLaggedError, pattern="k", last_revision=first.revision):
            await within(anext(changes))
