"""Watches: every change, in order, from wherever the watcher wants."""

from __future__ import annotations

import asyncio

from tertulia._names import literal
from tertulia.engines.base import ChangeStream, Commit, Delete, Engine, Put
from tertulia.errors import WatchLaggedError
from tertulia.records import KEEP, ChangeKind
from tertulia.testing.conformance._expect import equal, expect, raises, running, within
from tertulia.testing.conformance._registry import BOUNDED_HISTORY, MANUAL_CLOCK, case
from tertulia.testing.conformance._steps import changes, delete, pass_time, pause, put, unit
from tertulia.testing.conformance.harness import Harness

PUT, DELETE, EXPIRE = ChangeKind.PUT, ChangeKind.DELETE, ChangeKind.EXPIRE


async def _matching(h: Harness, pattern: str, keys: list[str]) -> list[str]:
    """Return which of the keys a watch on the pattern sees."""
    stream = await h.engine.watch(pattern)
    for key in keys:
        await put(h.engine, key)
    await put(h.engine, "end")
    seen: list[str] = []
    whole = await h.engine.watch("*", after=0)
    async with asyncio.timeout(10):
        async for change in whole:  # all commits have reached watchers once this one has seen the last
            if change.key == "end":
                break
    async with running(_read(stream, seen)):
        await pause(h)
    await stream.aclose()
    await whole.aclose()
    return seen


async def _read(stream: ChangeStream, seen: list[str]) -> None:
    async for change in stream:
        seen.append(change.key)  # noqa: PERF401 - the caller looks at the list while this still waits


@case()
async def changes_come_in_revision_order(h: Harness) -> None:
    """A watch yields every put and delete in revision order; a put carries its record, a delete none."""
    stream = await h.engine.watch("*")
    first = await put(h.engine, "a", b"1", owner="ada", tags=("x",))
    second = await put(h.engine, "b")
    await delete(h.engine, "a")
    seen = [await within(anext(stream)) for _ in range(3)]
    equal([(change.kind, change.key) for change in seen], [(PUT, "a"), (PUT, "b"), (DELETE, "a")], "the changes")
    equal([change.revision for change in seen[:2]], [first.revision, second.revision], "the revisions")
    expect(seen[2].revision > second.revision, "the delete's revision should be the greatest")
    record = seen[0].record
    expect(record is not None, "a put should carry its record")
    if record is not None:
        equal((record.body, record.owner, record.tags, record.version), (b"1", "ada", ("x",), 1), "the record")
    equal(seen[2].record, None, "the record of a delete")
    await stream.aclose()


@case()
async def watch_starts_when_the_call_returns(h: Harness) -> None:
    """Without `after` a watch shows what is committed from the moment the call returned, and nothing older."""
    await put(h.engine, "old")
    stream = await h.engine.watch("*")
    await put(h.engine, "new")
    equal(await changes(stream, 1), [(PUT, "new")], "the first change")
    await stream.aclose()


@case()
async def waiting_watcher_is_woken(h: Harness) -> None:
    """A reader that waits gets the next change as soon as it is committed."""
    stream = await h.engine.watch("*")
    async with running(changes(stream, 1)) as task:
        await pause(h)
        expect(not task.done(), "there is nothing to read yet")
        await put(h.engine, "k")
        equal(await within(task), [(PUT, "k")], "the change")
    await stream.aclose()


@case()
async def watch_resumes_after_a_revision(h: Harness) -> None:
    """With `after` a watch begins with the changes after that revision, and goes on with new ones without a gap."""
    await put(h.engine, "a")
    second = await put(h.engine, "b")
    await delete(h.engine, "a")
    await put(h.engine, "c")
    stream = await h.engine.watch("*", after=second.revision)
    await put(h.engine, "d")
    equal(await changes(stream, 3), [(DELETE, "a"), (PUT, "c"), (PUT, "d")], "the changes")
    await stream.aclose()


@case()
async def watch_resumes_with_its_own_pattern_only(h: Harness) -> None:
    """A watch that resumes shows the changes of matching keys only."""
    start = await put(h.engine, "start")
    for key in ("a:1", "b:1", "a:2"):
        await put(h.engine, key)
    stream = await h.engine.watch("a:*", after=start.revision)
    await put(h.engine, "b:2")
    await put(h.engine, "a:3")
    equal([key for _, key in await changes(stream, 3)], ["a:1", "a:2", "a:3"], "the keys")
    await stream.aclose()


@case()
async def watch_from_the_beginning(h: Harness) -> None:
    """`after=0` shows all changes since the space was made, as long as the engine still has them."""
    await put(h.engine, "a")
    await delete(h.engine, "a")
    stream = await h.engine.watch("*", after=0)
    equal(await changes(stream, 2), [(PUT, "a"), (DELETE, "a")], "the changes")
    await stream.aclose()


@case()
async def watch_after_the_latest_shows_only_what_is_new(h: Harness) -> None:
    """`after` the space's present revision shows nothing that is there already."""
    record = await put(h.engine, "old")
    stream = await h.engine.watch("*", after=record.revision)
    await put(h.engine, "new")
    equal(await changes(stream, 1), [(PUT, "new")], "the first change")
    await stream.aclose()


@case()
async def interrupted_watch_goes_on_where_it_was(h: Harness) -> None:
    """A watcher that resumes after the last revision it saw, time and again, sees every change once."""
    wanted = 60

    async def write() -> None:
        for number in range(wanted):
            await put(h.engine, f"k{number:02}")
            await asyncio.sleep(0)

    seen: list[str] = []
    after = 0
    writing = asyncio.create_task(write())
    while len(seen) < wanted:
        stream = await h.engine.watch("k*", after=after)
        for _ in range(min(7, wanted - len(seen))):
            change = await within(anext(stream))
            after = change.revision
            seen.append(change.key)
        await stream.aclose()
    await writing
    equal(seen, [f"k{number:02}" for number in range(wanted)], "the keys seen")


async def _write_many(engine: Engine, count: int) -> None:
    for number in range(count):
        await engine.commit(Commit(puts=(Put("busy", str(number).encode(), "ada"),)))


@case(BOUNDED_HISTORY)
async def resuming_too_late_is_announced(h: Harness) -> None:
    """Where the engine no longer has all changes after `after`, the stream raises WatchLaggedError at once."""
    start = await put(h.engine, "start")
    await _write_many(h.engine, h.capabilities.history + 10)
    stream = await h.engine.watch("*", after=start.revision)
    with raises(WatchLaggedError, last_revision=start.revision):
        await within(anext(stream))
    await stream.aclose()


@case(BOUNDED_HISTORY)
async def resuming_within_the_declared_history_works(h: Harness) -> None:
    """A watch can resume over as many changes as the engine declares."""
    start = await put(h.engine, "start")
    await _write_many(h.engine, h.capabilities.history)
    stream = await h.engine.watch("*", after=start.revision)
    bodies: list[bytes] = []
    for _ in range(h.capabilities.history):
        record = (await within(anext(stream))).record
        bodies.append(b"" if record is None else record.body)
    expect(bodies == [str(number).encode() for number in range(h.capabilities.history)], "no change should be missing")
    await stream.aclose()


@case(BOUNDED_HISTORY)
async def slow_watcher_is_told_what_it_missed(h: Harness) -> None:
    """A watcher that falls behind sees an unbroken run of changes, then all the rest or WatchLaggedError; no gap."""
    stream = await h.engine.watch("busy")
    count = h.capabilities.history + 500
    await _write_many(h.engine, count)
    seen = 0
    last: int | None = None
    try:
        while seen < count:
            change = await within(anext(stream))
            body = b"" if change.record is None else change.record.body
            equal(body, str(seen).encode(), "the next change")
            seen, last = seen + 1, change.revision
    except WatchLaggedError as lagged:
        equal(lagged.last_revision, last, "the last revision, as the error has it")
    await stream.aclose()


@case()
async def every_watcher_sees_every_change(h: Harness) -> None:
    """Watches do not compete: each of several, on whatever handle, sees all changes."""
    other = (await h.open_again()).engine
    streams = [await h.engine.watch("*"), await h.engine.watch("*"), await other.watch("a*")]
    await put(h.engine, "a1")
    await put(other, "a2")
    for stream in streams:
        equal([key for _, key in await changes(stream, 2)], ["a1", "a2"], "the keys")
        await stream.aclose()


@case()
async def pattern_without_wildcard_is_one_key(h: Harness) -> None:
    """A pattern without a wildcard matches that exact key: no longer key, no other case, no part of it."""
    equal(await _matching(h, "a:b", ["a:b:c", "xa:b", "A:b", "a:", "a:b", "a"]), ["a:b"])


@case()
async def star_matches_any_run_of_characters(h: Harness) -> None:
    """`*` matches any run of characters, levels included, an empty one too; the rest must match the whole key."""
    equal(await _matching(h, "a:*:z", ["a:z", "a::z", "a:b:z", "a:b:c:z", "a:b:zz", "xa:b:z"]), [
        "a::z", "a:b:z", "a:b:c:z",
    ])  # fmt: skip


@case()
async def question_mark_and_sets_match_one_character(h: Harness) -> None:
    """`?` matches one character, `[seq]` one of a set, `[!seq]` one outside it."""
    equal(await _matching(h, "k?", ["k", "k1", "kñ", "k12"]), ["k1", "kñ"])
    equal(await _matching(h, "s[ab]", ["sa", "sb", "sc", "s[ab]"]), ["sa", "sb"])
    equal(await _matching(h, "n[!ab]", ["na", "nc", "n!"]), ["nc", "n!"])


@case()
async def quoted_pattern_matches_one_odd_key(h: Harness) -> None:
    """`literal` makes a pattern that matches exactly a key, whatever wildcard characters it has."""
    for key in ("a*", "a?[b]", "[x]"):
        equal(await _matching(h, literal(key), ["ab", "a*b", "a1b", "a?b", "x", key]), [key], f"for {key!r}")


@case()
async def characters_of_other_grammars_are_no_wildcards(h: Harness) -> None:
    """What is a wildcard elsewhere (`%`, `_`, `.`, `>`) matches itself only."""
    equal(await _matching(h, "a_%.>*", ["ab1cd", "a_%.>", "a_%.>x", "a_%x>"]), ["a_%.>", "a_%.>x"])


@case()
async def expiry_is_announced_without_any_read(h: Harness) -> None:
    """A key whose time is over appears as an `expire` change, in good time, though nobody reads it."""
    stream = await h.engine.watch("k")
    record = await put(h.engine, "k", ttl=unit(h))
    await pass_time(h, 1.6)
    equal((await within(anext(stream))).kind, PUT, "the first change")
    change = await within(anext(stream))
    equal((change.kind, change.key, change.record), (EXPIRE, "k", None), "the change")
    expect(change.revision > record.revision, "an expiry should have a revision of its own")
    expect(change.at > record.updated, "it should be later than the write")
    await stream.aclose()


@case()
async def expiry_is_announced_once_and_only_if_it_happens(h: Harness) -> None:
    """A key that is rewritten in time does not expire, and one that does expires once, for all watchers alike."""
    streams = [await h.engine.watch("*"), await (await h.open_again()).engine.watch("*")]
    await put(h.engine, "k", ttl=2 * unit(h))
    await pass_time(h, 1.2)
    await put(h.engine, "k", ttl=KEEP)
    await pass_time(h, 2.6)
    await h.engine.get("k")
    await h.engine.scan("")
    await put(h.engine, "end")
    for stream in streams:
        equal(await changes(stream, 4), [(PUT, "k"), (PUT, "k"), (EXPIRE, "k"), (PUT, "end")], "the changes")
        await stream.aclose()


@case()
async def deleted_key_does_not_expire(h: Harness) -> None:
    """A key that was deleted, or written without a ttl, leaves no `expire` change."""
    stream = await h.engine.watch("*")
    await put(h.engine, "a", ttl=unit(h))
    await put(h.engine, "b", ttl=unit(h))
    await delete(h.engine, "a")
    await put(h.engine, "b")
    await pass_time(h, 1.6)
    await put(h.engine, "end")
    equal(
        await changes(stream, 5),
        [(PUT, "a"), (PUT, "b"), (DELETE, "a"), (PUT, "b"), (PUT, "end")],
        "the changes",
    )
    await stream.aclose()


@case(MANUAL_CLOCK)
async def keys_expire_in_the_order_of_their_ends(h: Harness) -> None:
    """Keys that nobody touches expire each at its own time."""
    stream = await h.engine.watch("*")
    for key, ttl in (("late", 30.0), ("soon", 10.0), ("later", 20.0)):
        await put(h.engine, key, ttl=ttl)
    await h.advance(31.0)
    equal([key for _, key in await changes(stream, 6)], ["late", "soon", "later", "soon", "later", "late"], "the keys")
    await stream.aclose()


@case()
async def changes_of_one_commit_stay_together(h: Harness) -> None:
    """The changes of one commit follow each other; those of another do not come in between."""
    stream = await h.engine.watch("*")
    other = (await h.open_again()).engine

    async def write(engine: Engine, name: str) -> None:
        for _ in range(10):
            await engine.commit(
                Commit(puts=(Put(f"{name}1", b"", name), Put(f"{name}2", b"", name)), deletes=(Delete("x"),)),
            )
            await asyncio.sleep(0)

    await asyncio.gather(write(h.engine, "a"), write(other, "b"))
    seen = [key for _, key in await changes(stream, 40)]
    pairs = [(seen[at], seen[at + 1]) for at in range(0, 40, 2)]
    equal(set(pairs), {("a1", "a2"), ("b1", "b2")}, "the pairs of changes")
    await stream.aclose()


@case()
async def closing_a_watch_ends_its_reader(h: Harness) -> None:
    """A reader that waits while its watch is closed sees the end, and so does whoever reads afterwards."""
    stream = await h.engine.watch("*")
    seen: list[str] = []
    async with running(_read(stream, seen)) as task:
        await pause(h)
        await stream.aclose()
        await within(task)
    with raises(StopAsyncIteration):
        await within(anext(stream))
    await put(h.engine, "after")
    equal(seen, [], "what the reader saw")
    await stream.aclose()


@case()
async def closing_a_handle_ends_its_watches(h: Harness) -> None:
    """A watch ends when its engine handle closes, and only then: another handle's goes on."""
    other = await h.open_again()
    ending, lasting = await other.engine.watch("*"), await h.engine.watch("*")
    async with running(_read(ending, [])) as task:
        await pause(h)
        await other.aclose()
        await within(task)
    await put(h.engine, "k")
    equal(await changes(lasting, 1), [(PUT, "k")], "what the other handle's watch sees")
    await lasting.aclose()


@case()
async def cancelled_read_loses_no_change(h: Harness) -> None:
    """A read that is cancelled while it waits, even just after a change came, takes nothing from the watch."""
    stream = await h.engine.watch("*")
    task = asyncio.create_task(changes(stream, 1))
    await pause(h)
    await put(h.engine, "k")
    task.cancel()
    try:
        seen = await task
    except asyncio.CancelledError:
        seen = await changes(stream, 1)
    equal(seen, [(PUT, "k")], "the change")
    await stream.aclose()
