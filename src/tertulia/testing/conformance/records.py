"""Records: versions, revisions, lifetimes, and what reads show."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tertulia.engines.base import Check, CheckFailed, Commit, Delete, Put
from tertulia.records import KEEP, ChangeKind
from tertulia.testing.conformance._expect import equal, expect, no, raises, within, yes
from tertulia.testing.conformance._registry import EXACT_ACCESS_COUNTS, LINEARIZABLE_READS, MANUAL_CLOCK, case
from tertulia.testing.conformance._steps import changes, delete, keys, live, pass_time, put, unit
from tertulia.testing.conformance.harness import Harness

ODD_KEYS = (
    "a*b", "a?b", "[a]", "a b", " a", "a ", ".", "..", "a/../b", "a.b.>", "*", ">", "$KV.a", "%s", "%5F", "_", "__",
    "' OR 1=1 --", '"', "\\", "`", ";", "ñandú", "日本語", "🎻", "e\u0301", "é", "A", "a", ":", "::", "a:b:c", "-",
)  # fmt: skip


@case()
async def absent_key_reads_as_none(h: Harness) -> None:
    """`get` returns None when the key is absent."""
    equal(await h.engine.get("nothing"), None)


@case()
async def new_record_has_what_was_put(h: Harness) -> None:
    """A new key has the body, owner and tags of its put, version 1, and is created and updated by that put."""
    put_record = await put(h.engine, "k", b"body", owner="ada", tags=("x", "y"))
    got = await live(h.engine, "k")
    equal((got.key, got.body, got.owner, got.version, got.tags), ("k", b"body", "ada", 1, ("x", "y")))
    equal(got.created_revision, got.revision, "created_revision")
    equal(got.created, got.updated, "the time of creation")
    equal((got.ttl, got.expires), (None, None), "the lifetime")
    equal((put_record.revision, put_record.version), (got.revision, 1), "the record that commit returned")


@case()
async def version_counts_writes_and_creation_stays(h: Harness) -> None:
    """The version becomes one more with each put; `created` and `created_revision` stay while the key lives."""
    first = await put(h.engine, "k", b"1")
    await pass_time(h, 0.5)
    await put(h.engine, "k", b"2")
    third = await put(h.engine, "k", b"3")
    equal(third.version, 3, "the version")
    equal((third.created, third.created_revision), (first.created, first.created_revision), "the creation")
    expect(third.updated > first.updated, "the later write should have the later stamp")


@case()
async def recreated_key_is_told_apart_by_its_revisions(h: Harness) -> None:
    """A key that was deleted and written again has version 1 again, but another revision and created_revision."""
    before = await put(h.engine, "k")
    await delete(h.engine, "k")
    after = await put(h.engine, "k")
    equal(after.version, 1, "the version")
    expect(after.revision > before.revision, "a revision should never be used again")
    expect(after.created_revision > before.created_revision, "created_revision should tell the two lives apart")


@case()
async def key_written_after_its_expiry_is_new(h: Harness) -> None:
    """A put on a key whose time is over creates it: version 1, a new created_revision, nothing kept."""
    before = await put(h.engine, "k", owner="ada", ttl=unit(h), tags=("old",))
    await pass_time(h, 1.6)
    after = await put(h.engine, "k", owner=KEEP, ttl=KEEP, tags=KEEP)
    equal((after.version, after.owner, after.ttl, after.tags), (1, "", None, ()))
    expect(after.created_revision > before.created_revision, "created_revision should be a new one")
    expect(after.created > before.created, "it should be created later")


@case()
async def revisions_only_grow(h: Harness) -> None:
    """Each put and delete has a revision greater than any before it, whatever its key."""
    seen = [(await put(h.engine, "a")).revision, (await put(h.engine, "b")).revision]
    seen.append((await h.engine.commit(Commit(deletes=(Delete("a"),)))).revision)
    seen.append((await put(h.engine, "a")).revision)
    seen.append((await put(h.engine, "a")).revision)
    equal(seen, sorted(set(seen)), "the revisions")


@case()
async def parts_of_a_commit_have_revisions_of_their_own(h: Harness) -> None:
    """Each put and delete of one commit has its own revision, in order; `revision` is the space's after it."""
    await put(h.engine, "old")
    stream = await h.engine.watch("*")
    done = await h.engine.commit(
        Commit(puts=(Put("b", b"", "ada"), Put("a", b"", "ada")), deletes=(Delete("old"),)),
    )
    seen = [await within(anext(stream)) for _ in range(3)]
    revisions = [change.revision for change in seen]
    equal([change.key for change in seen], ["b", "a", "old"], "the keys in order")
    equal(revisions, sorted(set(revisions)), "the revisions")
    equal([record.revision for record in done.records], revisions[:2], "the revisions that commit returned")
    equal(done.revision, revisions[-1], "the space's revision")
    equal((await h.engine.stats()).revision, done.revision, "the revision in stats")
    await stream.aclose()


@case()
async def removing_an_absent_key_is_no_change(h: Harness) -> None:
    """Removing an absent key is no error and makes no change."""
    before = (await put(h.engine, "k")).revision
    done = await h.engine.commit(Commit(deletes=(Delete("nothing"),)))
    equal(done.deleted, (False,), "what commit says of the delete")
    equal((await h.engine.stats()).revision, before, "the revision")


@case()
async def removed_key_is_gone(h: Harness) -> None:
    """A deleted key reads as absent, and the commit says that it was there."""
    await put(h.engine, "k")
    yes(await delete(h.engine, "k"), "what commit says of the delete")
    equal((await h.engine.get("k"), await keys(h.engine)), (None, []))


@case()
async def put_replaces_what_it_does_not_keep(h: Harness) -> None:
    """A put replaces body, owner, ttl and tags."""
    await put(h.engine, "k", b"1", owner="ada", ttl=100.0, tags=("x",))
    after = await put(h.engine, "k", b"2", owner="bob")
    equal((after.body, after.owner, after.ttl, after.expires, after.tags), (b"2", "bob", None, None, ()))


@case()
async def kept_owner_and_tags_stay(h: Harness) -> None:
    """KEEP leaves owner and tags as they were."""
    await put(h.engine, "k", owner="ada", tags=("x", "y"))
    after = await put(h.engine, "k", b"2", owner=KEEP, tags=KEEP)
    equal((after.body, after.owner, after.tags), (b"2", "ada", ("x", "y")))


@case()
async def kept_ttl_starts_anew(h: Harness) -> None:
    """A kept ttl counts from this write."""
    await put(h.engine, "k", ttl=2 * unit(h))
    await pass_time(h, 1.2)
    kept = await put(h.engine, "k", b"2", ttl=KEEP)
    equal(kept.ttl, 2 * unit(h), "the ttl")
    await pass_time(h, 1.2)
    equal((await live(h.engine, "k")).body, b"2", "the body, past the first write's end")
    await pass_time(h, 1.6)
    equal(await h.engine.get("k"), None, "the key, past its end")


@case()
async def keep_of_a_new_key_means_nothing(h: Harness) -> None:
    """KEEP on a new key gives no owner, no ttl and no tags."""
    record = await put(h.engine, "k", owner=KEEP, ttl=KEEP, tags=KEEP)
    equal((record.owner, record.ttl, record.expires, record.tags), ("", None, None, ()))


@case()
async def ttl_counts_from_the_last_write(h: Harness) -> None:
    """`ttl` counts from this write, not from the first."""
    await put(h.engine, "k", ttl=2 * unit(h))
    await pass_time(h, 1.2)
    await put(h.engine, "k", ttl=2 * unit(h))
    await pass_time(h, 1.2)
    await live(h.engine, "k")


@case()
async def write_without_ttl_makes_a_key_last(h: Harness) -> None:
    """A put without a ttl takes an earlier one away."""
    await put(h.engine, "k", ttl=unit(h))
    await put(h.engine, "k", b"2")
    await pass_time(h, 1.6)
    equal((await live(h.engine, "k")).body, b"2", "the body")


@case()
async def expired_key_is_absent_from_every_read(h: Harness) -> None:
    """A key whose time is over is absent from get, scan and stats."""
    await put(h.engine, "short", b"123", owner="ada", ttl=unit(h))
    await put(h.engine, "long", b"4567", owner="bob")
    await pass_time(h, 1.6)
    equal(await h.engine.get("short"), None, "get")
    equal(await keys(h.engine), ["long"], "scan")
    stats = await h.engine.stats()
    equal((stats.keys, stats.bytes, stats.keys_by_owner), (1, 4, {"bob": 1}), "stats")


@case(MANUAL_CLOCK)
async def key_is_there_until_the_instant_it_is_not(h: Harness) -> None:
    """A key reads as present just before its time is over, and as absent at once when it is."""
    await put(h.engine, "k", ttl=10.0)
    await h.advance(9.99)
    await live(h.engine, "k")
    await h.advance(0.02)
    equal(await h.engine.get("k"), None)


@case(MANUAL_CLOCK)
async def expiry_goes_by_civil_time(h: Harness) -> None:
    """When the clock jumps past a key's end, every read finds it absent; when it jumps back, it lives longer."""
    await put(h.engine, "a", ttl=100.0)
    await put(h.engine, "b", ttl=100.0)
    h.jump(-50.0)
    await h.advance(120.0)
    equal(await keys(h.engine), ["a", "b"], "the keys after a jump back")
    h.jump(3600.0)
    equal(await h.engine.get("a"), None, "get after a jump ahead")
    equal(await keys(h.engine), [], "scan after a jump ahead")


@case()
async def expired_key_fails_checks_as_an_absent_one(h: Harness) -> None:
    """An expired key does not exist for checks: `absent` holds, everything else fails with no record."""
    record = await put(h.engine, "k", ttl=unit(h))
    await pass_time(h, 1.6)
    check = Check("k", revision=record.revision)
    with raises(CheckFailed, check=check, record=None):
        await h.engine.commit(Commit(checks=(check,)))
    await h.engine.commit(Commit(checks=(Check("k", absent=True),)))


@case()
async def removing_an_expired_key_removes_nothing(h: Harness) -> None:
    """Removing a key whose time is over is removing an absent one; watchers see that it expired, and no delete."""
    stream = await h.engine.watch("k")
    await put(h.engine, "k", ttl=unit(h))
    await pass_time(h, 1.6)
    no(await delete(h.engine, "k"), "what commit says of the delete")
    await put(h.engine, "k")
    equal(
        [kind for kind, _ in await changes(stream, 3)],
        [ChangeKind.PUT, ChangeKind.EXPIRE, ChangeKind.PUT],
        "the changes",
    )
    await stream.aclose()


@case(EXACT_ACCESS_COUNTS)
async def reads_are_counted(h: Harness) -> None:
    """`get` counts an access, `scan` does not, and a write keeps the count."""
    await put(h.engine, "k")
    for _ in range(3):
        await h.engine.get("k")
    await h.engine.scan("")
    await put(h.engine, "k", b"2")
    equal((await live(h.engine, "k")).access_count, 4, "the access count")


@case()
async def scan_is_in_key_order(h: Harness) -> None:
    """`scan` returns the records in key order, by code point, with the space's revision."""
    for key in ("b", "a:2", "a:10", "Z", "ä", "a"):
        await put(h.engine, key)
    last = await put(h.engine, "~")
    revision, records = await h.engine.scan("")
    equal([record.key for record in records], ["Z", "a", "a:10", "a:2", "b", "~", "ä"], "the keys")
    equal(revision, last.revision, "the revision")


@case()
async def scan_takes_a_prefix_literally(h: Harness) -> None:
    """`scan` returns only keys that start with the prefix, whatever characters it has."""
    for key in ("a_b", "axb", "a%b", "a*b", "a[b", "b"):
        await put(h.engine, key)
    for prefix, wanted in (("a_", "a_b"), ("a%", "a%b"), ("a*", "a*b"), ("a[", "a[b")):
        equal(await keys(h.engine, prefix), [wanted], f"the keys with prefix {prefix!r}")


@case()
async def scan_filters(h: Harness) -> None:
    """`scan` returns those that `matches` says, that carry at least one of the tags, and that have the owner."""
    await put(h.engine, "a1", owner="ada", tags=("x",))
    await put(h.engine, "a2", owner="bob", tags=("x", "y"))
    await put(h.engine, "a3", owner="ada", tags=("z",))
    await put(h.engine, "b1", owner="ada", tags=("x",))

    def late(key: str) -> bool:
        return key.endswith(("2", "3"))

    async def found(
        *,
        matches: Callable[[str], object] | None = None,
        tags: frozenset[str] | None = None,
        owner: str | None = None,
    ) -> list[str]:
        _, records = await h.engine.scan("a", matches=matches, tags=tags, owner=owner)
        return [record.key for record in records]

    equal(await found(matches=late), ["a2", "a3"], "by matches")
    equal(await found(tags=frozenset({"y", "z"})), ["a2", "a3"], "by tags")
    equal(await found(tags=frozenset({"nobody's"})), [], "by a tag that none has")
    equal(await found(owner="ada"), ["a1", "a3"], "by owner")
    equal(await found(owner="ada", tags=frozenset({"x"})), ["a1"], "by owner and tags")


@case()
async def scan_without_bodies_has_the_rest(h: Harness) -> None:
    """Without `bodies` a scan returns the same records, whose bodies may be empty."""
    await put(h.engine, "k", b"body", owner="ada", tags=("x",))
    _, records = await h.engine.scan("", bodies=False)
    equal([(one.key, one.owner, one.version, one.tags) for one in records], [("k", "ada", 1, ("x",))])
    expect(records[0].body in (b"", b"body"), "the body should be whole or empty")


@case()
async def scan_is_one_moment(h: Harness) -> None:
    """`scan` returns the records as they all were at one revision: it sees all of a commit or nothing of it."""
    await h.engine.commit(Commit(puts=(Put("a", b"0", "ada"), Put("b", b"0", "ada"))))

    async def write() -> None:
        for number in range(1, 30):
            body = str(number).encode()
            await h.engine.commit(Commit(puts=(Put("a", body, "ada"), Put("b", body, "ada"))))
            await asyncio.sleep(0)

    writing = asyncio.create_task(write())
    while not writing.done():
        revision, records = await h.engine.scan("")
        equal(len({record.body for record in records}), 1, "the number of commits seen in one scan")
        equal(max(record.revision for record in records), revision, "the revision of the scan")
        await asyncio.sleep(0)
    await writing


@case(LINEARIZABLE_READS)
async def read_sees_every_commit_that_returned(h: Harness) -> None:
    """`get` sees every commit that returned before it was called, through whichever handle."""
    other = (await h.open_again()).engine
    for number in range(20):
        record = await put(h.engine, "k", str(number).encode())
        equal((await live(other, "k")).revision, record.revision, "the revision read by the other handle")


@case()
async def keys_may_have_any_printable_characters(h: Harness) -> None:
    """Every key of the grammar is kept apart from every other, and none is a wildcard."""
    for key in ODD_KEYS:
        await put(h.engine, key, key.encode())
    equal([(await live(h.engine, key)).body.decode() for key in ODD_KEYS], list(ODD_KEYS), "the bodies")
    equal(await keys(h.engine), sorted(ODD_KEYS), "the keys of a scan")
    await delete(h.engine, "*")
    equal(len(await keys(h.engine)), len(ODD_KEYS) - 1, "the number of keys after one delete")


@case()
async def longest_key_is_kept(h: Harness) -> None:
    """A key of 512 bytes is kept whole, and told from one that differs in its last byte."""
    longest, sibling = "é" * 255 + "xy", "é" * 255 + "xz"
    await put(h.engine, longest, b"1")
    await put(h.engine, sibling, b"2")
    equal([(await live(h.engine, key)).body for key in (longest, sibling)], [b"1", b"2"], "the bodies")


@case()
async def bodies_are_bytes(h: Harness) -> None:
    """A body comes back byte for byte: empty, with every byte there is, and at the size limit."""
    for body in (b"", bytes(range(256)) * 4, b"\x00", b"z" * h.capabilities.max_value_bytes):
        await put(h.engine, "k", body)
        expect((await live(h.engine, "k")).body == body, f"a body of {len(body):,} bytes should come back whole")


@case()
async def stats_count_keys_and_bytes(h: Harness) -> None:
    """`stats` tells keys, bytes of bodies, keys by owner, and the revision."""
    await put(h.engine, "a", b"123", owner="ada")
    await put(h.engine, "b", b"4567", owner="bob")
    last = await put(h.engine, "b", b"89", owner="bob")
    stats = await h.engine.stats()
    equal(
        (stats.keys, stats.bytes, stats.keys_by_owner, stats.revision),
        (2, 5, {"ada": 1, "bob": 1}, last.revision),
        "the figures",
    )
