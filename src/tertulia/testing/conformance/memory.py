"""SharedMemory, the public API over records."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from tertulia._clock import instant
from tertulia._names import literal
from tertulia.agents.memory_aware import MemoryAwareAgent
from tertulia.errors import (
    DecodeError,
    KeyExistsError,
    KeyNotFoundError,
    SpaceClosedError,
    VersionConflictError,
)
from tertulia.testing.conformance._expect import equal, expect, no, raises, running, within, yes
from tertulia.testing.conformance._registry import EXACT_ACCESS_COUNTS, case
from tertulia.testing.conformance._steps import pass_time, pause, unit
from tertulia.testing.conformance.harness import Harness


async def _value(h: Harness, key: str) -> Any:
    return await (await h.open()).memory.read(key, reader="reader", default="absent")


@case()
async def written_value_is_read_by_everybody(h: Harness) -> None:
    """A written value is read back, whole, by any agent and through any handle."""
    value: Any = {"text": "ñ", "list": [1, 2.5, None, True], "bytes": b"\x00\xff", "deep": {"a": [{"b": [0]}]}}
    await (await h.open()).memory.write("shared:k", value, owner="ada")
    equal(await (await h.open_again()).memory.read("shared:k", reader="bob"), value, "the value")


@case()
async def entry_tells_about_the_value(h: Harness) -> None:
    """`write` returns the entry as stored, and `read_with_metadata` the same with owner, version, times and tags."""
    memory = (await h.open()).memory
    written = await memory.write("k", [1], owner="ada", ttl=100.0, tags=["y", "x", "y"])
    read = await memory.read_with_metadata("k", reader="bob")
    expect(read is not None, "the entry should be there")
    if read is None:
        return
    for entry in (written, read):
        equal(
            (entry.key, entry.value, entry.owner, entry.version, entry.tags, entry.ttl),
            ("k", [1], "ada", 1, ("x", "y"), 100.0),
            "the entry",
        )
    equal((read.revision, read.created_revision), (written.revision, written.revision), "the revisions")
    expect(written.revision > 0, "a revision should be positive")
    equal(read.created_at, read.updated_at, "the time of the write")
    equal(None if read.expires is None else read.expires - read.updated, 100.0, "the time to the end")
    no(read.is_expired(instant(read.updated + 99.0)), "whether it is expired before")
    yes(read.is_expired(instant(read.updated + 100.0)), "whether it is expired at its end")


@case()
async def absent_key_reads_as_the_default(h: Harness) -> None:
    """An absent key reads as the default given, else None; a stored falsy value reads as itself."""
    memory = (await h.open()).memory
    equal(await memory.read("k", reader="ada"), None, "without a default")
    equal(await memory.read("k", reader="ada", default=7), 7, "with a default")
    equal(await memory.read_with_metadata("k", reader="ada"), None, "the entry")
    falsies: list[Any] = [None, 0, "", False, [], {}, b""]
    for falsy in falsies:
        await memory.write("k", falsy, owner="ada")
        equal(await memory.read("k", reader="ada", default="default"), falsy, "the value")


@case()
async def values_are_never_shared(h: Harness) -> None:
    """A value is copied on the way in and on the way out: changing an object changes nothing else."""
    memory = (await h.open()).memory
    mine = {"list": [1]}
    entry = await memory.write("k", mine, owner="ada")
    mine["list"].append(2)
    theirs: Any = await memory.read("k", reader="bob")
    theirs["list"].append(3)
    equal(await _value(h, "k"), {"list": [1]}, "the stored value")
    stored = await memory.read_with_metadata("k", reader="bob")
    expect(stored is not None and stored.value["list"] is not theirs["list"], "two reads should not share a list")
    equal(entry.revision, None if stored is None else stored.revision, "the revision")


@case()
async def create_refuses_what_is_there(h: Harness) -> None:
    """`create` raises KeyExistsError when the key is there, and changes nothing; one that expired is not there."""
    memory = (await h.open()).memory
    equal((await memory.create("k", 1, owner="ada", ttl=unit(h))).version, 1, "the version")
    with raises(KeyExistsError, key="k"):
        await memory.create("k", 2, owner="bob")
    equal(await _value(h, "k"), 1, "the value")
    await pass_time(h, 1.6)
    equal((await memory.create("k", 3, owner="bob")).owner, "bob", "the owner after the expiry")


@case()
async def one_of_many_creates_wins(h: Harness) -> None:
    """Of agents that create the same key at once, through several handles, one succeeds."""
    memories = [(await h.open()).memory, (await h.open_again()).memory]

    async def create(number: int) -> bool:
        with suppress(KeyExistsError):
            await memories[number % 2].create("k", number, owner=f"agent-{number}")
            return True
        return False

    won = await within(asyncio.gather(*(create(number) for number in range(10))))
    equal(sum(won), 1, "how many creates succeeded")
    equal(await _value(h, "k"), won.index(True), "the value")


@case()
async def update_changes_the_value_only(h: Harness) -> None:
    """`update` replaces the value and keeps owner, tags and lifetime unless told otherwise."""
    memory = (await h.open()).memory
    await memory.write("k", 1, owner="ada", ttl=100.0, tags=["x"])
    entry = await memory.update("k", 2, updater="bob")
    equal((entry.value, entry.owner, entry.version, entry.ttl, entry.tags), (2, "ada", 2, 100.0, ("x",)), "the entry")
    entry = await memory.update("k", 3, updater="bob", ttl=None, tags=["y"])
    equal((entry.value, entry.expires, entry.tags), (3, None, ("y",)), "the entry with other settings")


@case()
async def update_needs_the_key(h: Harness) -> None:
    """`update` raises KeyNotFoundError for a key that is absent, deleted or expired."""
    memory = (await h.open()).memory
    await memory.write("deleted", 1, owner="ada")
    await memory.delete("deleted", requester="ada")
    await memory.write("expired", 1, owner="ada", ttl=unit(h))
    await pass_time(h, 1.6)
    for key in ("absent", "deleted", "expired"):
        with raises(KeyNotFoundError, key=key):
            await memory.update(key, 2, updater="ada")
        equal(await _value(h, key), "absent", f"the value of {key!r}")


@case()
async def update_at_an_expected_version(h: Harness) -> None:
    """`update` with an expected version or revision changes nothing unless the key is there."""
    memory = (await h.open()).memory
    first = await memory.write("k", 1, owner="ada")
    second = await memory.update("k", 2, updater="ada", expected_version=1)
    with raises(VersionConflictError, key="k", actual_version=2, actual_revision=second.revision):
        await memory.update("k", 9, updater="ada", expected_version=1)
    with raises(VersionConflictError, key="k", actual_version=2):
        await memory.update("k", 9, updater="ada", expected_revision=first.revision)
    third = await memory.update("k", 3, updater="ada", expected_revision=second.revision, expected_version=2)
    equal((third.version, await _value(h, "k")), (3, 3), "version and value")


@case()
async def expected_revision_tells_lives_apart(h: Harness) -> None:
    """After delete and create an update at the old version is fooled, one at the old revision is not."""
    memory = (await h.open()).memory
    old = await memory.write("k", 1, owner="ada")
    await memory.delete("k", requester="ada")
    await memory.write("k", 2, owner="bob")
    with raises(VersionConflictError):
        await memory.update("k", 9, updater="ada", expected_revision=old.revision)
    await memory.update("k", 3, updater="ada", expected_version=old.version)


@case()
async def swap_happens_if_the_value_is_as_expected(h: Harness) -> None:
    """`compare_and_swap` replaces the value if it equals the expected one; owner, tags and lifetime stay."""
    memory = (await h.open()).memory
    await memory.write("k", {"a": [1, 2]}, owner="ada", ttl=100.0, tags=["x"])
    no(await memory.compare_and_swap("k", {"a": [1]}, 0, requester="bob"), "a swap of another value")
    yes(await memory.compare_and_swap("k", {"a": (1, 2)}, "new", requester="bob"), "a swap of the same value")
    no(await memory.compare_and_swap("absent", None, 0, requester="bob"), "a swap of an absent key")
    entry = await memory.read_with_metadata("k", reader="bob")
    equal(
        None if entry is None else (entry.value, entry.owner, entry.ttl, entry.tags, entry.version),
        ("new", "ada", 100.0, ("x",), 2),
        "the entry",
    )
    equal(await _value(h, "absent"), "absent", "the absent key")


@case()
async def one_of_many_swaps_wins(h: Harness) -> None:
    """Of agents that swap the same value at once one succeeds."""
    memories = [(await h.open()).memory, (await h.open_again()).memory]
    await memories[0].write("k", "free", owner="ada")
    won = await within(
        asyncio.gather(*(memories[n % 2].compare_and_swap("k", "free", n, requester="bob") for n in range(10)))
    )
    equal((won.count(True), await _value(h, "k")), (1, won.index(True)), "how many won, and the value")


@case()
async def modify_loses_no_update(h: Harness) -> None:
    """`modify` applies every function to what the one before left, whoever is in between."""
    memories = [(await h.open()).memory, (await h.open_again()).memory]

    async def increment(value: int) -> int:
        await asyncio.sleep(0)
        return value + 1

    async def count(number: int) -> None:
        for _ in range(5):
            await memories[number % 2].modify("k", increment, updater=f"agent-{number}", default=0)

    await within(asyncio.gather(*(count(number) for number in range(6))))
    entry = await memories[0].read_with_metadata("k", reader="ada")
    equal(None if entry is None else (entry.value, entry.version), (30, 30), "value and version")


@case()
async def modify_keeps_what_it_does_not_change(h: Harness) -> None:
    """`modify` keeps owner, tags and lifetime; an absent key is made from `default`."""
    memory = (await h.open()).memory
    await memory.write("k", [1], owner="ada", ttl=100.0, tags=["x"])
    entry = await memory.modify("k", lambda value: [*value, 2], updater="bob")
    equal((entry.value, entry.owner, entry.ttl, entry.tags), ([1, 2], "ada", 100.0, ("x",)), "the entry")
    fresh = await memory.modify("new", lambda value: value, updater="bob", default=None)
    equal((fresh.value, fresh.owner, fresh.version), (None, "bob", 1), "the new entry")
    with raises(KeyNotFoundError, key="absent"):
        await memory.modify("absent", lambda value: value, updater="bob")


@case()
async def failing_function_changes_nothing(h: Harness) -> None:
    """An exception from the function of `modify` comes out, and nothing is changed."""
    memory = (await h.open()).memory
    await memory.write("k", 1, owner="ada")
    with raises(ZeroDivisionError):
        await memory.modify("k", lambda value: value / 0, updater="ada")
    entry = await memory.read_with_metadata("k", reader="ada")
    equal(None if entry is None else (entry.value, entry.version), (1, 1), "value and version")


@case()
async def delete_tells_whether_the_key_was_there(h: Harness) -> None:
    """`delete` returns whether the key was there; with another version than expected it raises and removes nothing."""
    memory = (await h.open()).memory
    await memory.write("k", 1, owner="ada")
    with raises(VersionConflictError, key="k", actual_version=1):
        await memory.delete("k", requester="bob", expected_version=2)
    yes(await memory.delete("k", requester="bob", expected_version=1), "the first delete")
    no(await memory.delete("k", requester="bob"), "the second delete")
    no(await memory.delete("k", requester="bob", expected_version=1), "a delete at a version")


@case()
async def expired_key_is_absent_everywhere(h: Harness) -> None:
    """An expired key is absent for read, metadata, list, entries, swap, modify, delete, snapshot and stats."""
    memory = (await h.open()).memory
    await memory.write("k", 1, owner="ada", ttl=unit(h))
    await pass_time(h, 1.6)
    equal(await memory.read("k", reader="ada", default="absent"), "absent", "read")
    equal(await memory.read_with_metadata("k", reader="ada"), None, "read_with_metadata")
    equal(await memory.list_keys(), [], "list_keys")
    equal([entry async for entry in memory.entries()], [], "entries")
    no(await memory.compare_and_swap("k", 1, 2, requester="ada"), "compare_and_swap")
    with raises(KeyNotFoundError):
        await memory.modify("k", lambda value: value, updater="ada")
    no(await memory.delete("k", requester="ada"), "delete")
    equal((await memory.snapshot()).entries, (), "snapshot")
    stats = await memory.get_stats()
    equal((stats.total_entries, stats.total_bytes, stats.entries_by_owner), (0, 0, {}), "stats")


@case()
async def keys_are_listed_by_pattern_tags_and_owner(h: Harness) -> None:
    """`list_keys` and `entries` give, in order, what matches the glob, carries any of the tags, and has the owner."""
    memory = (await h.open()).memory
    await memory.write("a:1", 1, owner="ada", tags=["x"])
    await memory.write("a:2", 2, owner="bob", tags=["y"])
    await memory.write("a*", 3, owner="ada", tags=["x", "y"])
    await memory.write("b", 4, owner="ada")
    equal(await memory.list_keys(), ["a*", "a:1", "a:2", "b"], "all")
    equal(await memory.list_keys("a:*"), ["a:1", "a:2"], "by a pattern")
    equal(await memory.list_keys("?"), ["b"], "by a pattern of one character")
    equal(await memory.list_keys("a"), [], "by an exact key that is not there")
    equal(await memory.list_keys(literal("a*")), ["a*"], "by a quoted key")
    equal(await memory.list_keys(tags=["y", "z"]), ["a*", "a:2"], "by tags")
    equal(await memory.list_keys(owner="ada", tags=["x"]), ["a*", "a:1"], "by owner and tags")
    equal([entry.value async for entry in memory.entries("a:*", owner="bob")], [2], "the values")


@case(EXACT_ACCESS_COUNTS)
async def reads_are_counted_in_the_entry(h: Harness) -> None:
    """`access_count` says how often the key was read."""
    memory = (await h.open()).memory
    await memory.write("k", 1, owner="ada")
    for _ in range(4):
        await memory.read("k", reader="bob")
    entry = await memory.read_with_metadata("k", reader="bob")
    equal(None if entry is None else entry.access_count, 5, "the access count")


@case()
async def snapshot_is_restored_in_one_commit(h: Harness) -> None:
    """`restore` puts the matching keys back as they were: values, owners and tags; keys written since are removed."""
    memory = (await h.open()).memory
    await memory.write("a", 1, owner="ada", tags=["x"])
    await memory.write("b", 2, owner="bob")
    await memory.write("same", 3, owner="bob")
    snapshot = await memory.snapshot()
    await memory.write("a", 9, owner="eve")
    await memory.delete("b", requester="eve")
    await memory.write("new", 1, owner="eve")
    equal(await memory.restore(snapshot, requester="ada"), 3, "how many keys were changed")
    found = {entry.key: (entry.value, entry.owner, entry.tags) async for entry in memory.entries()}
    equal(found, {"a": (1, "ada", ("x",)), "b": (2, "bob", ()), "same": (3, "bob", ())}, "the entries")
    equal(await memory.restore(await memory.snapshot(), requester="ada"), 0, "what a second restore changes")


@case()
async def snapshot_leaves_the_rest_alone(h: Harness) -> None:
    """`restore` touches only keys that match the snapshot's pattern, and goes on counting versions."""
    memory = (await h.open()).memory
    await memory.write("a:1", 1, owner="ada")
    snapshot = await memory.snapshot("a:*")
    await memory.write("a:1", 2, owner="ada")
    await memory.write("b", 1, owner="ada")
    await memory.restore(snapshot, requester="ada")
    entry = await memory.read_with_metadata("a:1", reader="ada")
    equal(None if entry is None else (entry.value, entry.version), (1, 3), "value and version")
    equal(await _value(h, "b"), 1, "the other key")


@case()
async def restored_keys_keep_the_time_they_had_left(h: Harness) -> None:
    """An entry whose time is over by now stays away when restored; another expires when it would have."""
    memory = (await h.open()).memory
    await memory.write("short", 1, owner="ada", ttl=unit(h))
    await memory.write("long", 1, owner="ada", ttl=4 * unit(h))
    snapshot = await memory.snapshot()
    await memory.delete("long", requester="ada")
    await pass_time(h, 1.6)
    await memory.restore(snapshot, requester="ada")
    equal(await memory.list_keys(), ["long"], "the keys")
    await pass_time(h, 3.0)
    equal(await memory.list_keys(), [], "the keys at the end")


@case()
async def accesses_are_logged(h: Harness) -> None:
    """The access log has operation, key, agent and success of the latest accesses, newest last."""
    memory = (await h.open()).memory
    await memory.write("k", 1, owner="ada")
    await memory.read("k", reader="bob")
    await memory.read("absent", reader="bob")
    with suppress(KeyExistsError):
        await memory.create("k", 1, owner="eve")
    got = [(entry.operation, entry.key, entry.agent, entry.ok) for entry in memory.access_log()]
    wanted = [
        ("write", "k", "ada", True),
        ("read", "k", "bob", True),
        ("read", "absent", "bob", False),
        ("create", "k", "eve", False),
    ]
    equal(got, wanted, "the log")
    equal([entry.operation for entry in memory.access_log(limit=1)], ["create"], "the log's last entry")


@case()
async def stats_describe_the_memory(h: Harness) -> None:
    """`get_stats` counts entries, bytes and owners, and has the space's revision."""
    memory = (await h.open()).memory
    await memory.write("a", "x" * 100, owner="ada")
    last = await memory.write("b", "y" * 100, owner="bob")
    stats = await memory.get_stats()
    equal(
        (stats.total_entries, stats.entries_by_owner, stats.revision),
        (2, {"ada": 1, "bob": 1}, last.revision),
        "the figures",
    )
    expect(stats.total_bytes >= len("xy") * 100, "the bytes should count the values")


@case()
async def typed_read_rebuilds_or_refuses(h: Harness) -> None:
    """With `type` a value is checked and rebuilt; DecodeError says where it is of another type, and changes nothing."""
    memory = (await h.open()).memory
    await memory.write("k", {"1": [1, 2]}, owner="ada")
    equal(await memory.read("k", reader="ada", type=dict[str, tuple[int, ...]]), {"1": (1, 2)}, "the value")
    with raises(DecodeError) as caught:
        await memory.read("k", reader="ada", type=dict[str, list[str]])
    expect("$" in str(caught[0]), f"the error should say where: {caught[0]}")
    equal(await _value(h, "k"), {"1": [1, 2]}, "the value, read without a type")


@case()
async def closing_the_space_ends_its_watches(h: Harness) -> None:
    """A watch that waits ends when the space is closed; calls after that raise SpaceClosedError."""
    other = await h.open_again()
    await other.memory.write("k", 1, owner="ada")

    async def watch() -> list[str]:
        async with other.memory.watch() as changes:
            return [change.key async for change in changes]

    async with running(watch()) as task:
        await pause(h)
        await other.aclose()
        equal(await within(task), [], "what the watcher saw")
    for call in (
        other.memory.read("k", reader="ada"),
        other.memory.write("k", 2, owner="ada"),
        other.memory.list_keys(),
        other.memory.subscribe("k", print),
    ):
        with raises(SpaceClosedError):
            await within(call)
    equal(await _value(h, "k"), 1, "the value")


@case()
async def agents_state_outlives_the_agent(h: Harness) -> None:
    """A MemoryAwareAgent's state is found again under its name, by itself only; its shared results by all."""
    memory = (await h.open()).memory
    ada, bob = MemoryAwareAgent("ada", memory), MemoryAwareAgent("bob", memory)
    await ada.save_state({"step": 1})
    await ada.share_result("sum", 0, ttl=unit(h))
    again = MemoryAwareAgent("ada", (await h.open_again()).memory)
    equal((await again.load_state(), await bob.load_state(default="none")), ({"step": 1}, "none"), "the states")
    equal(await bob.get_shared_result("sum", default="none"), 0, "the shared result, though it is falsy")
    await pass_time(h, 1.6)
    equal(await bob.get_shared_result("sum", default="none"), "none", "the shared result past its time")
