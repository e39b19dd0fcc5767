"""Turns: how a process knows, without asking SQLite, that nobody has written to the file since it read there."""

import itertools
from pathlib import Path
from typing import Any

import apsw
import pytest

import tertulia
from tertulia.engines import _file_recent, _file_records
from tertulia.engines._file_lock import WriterLock
from tertulia.engines._file_recent import TRUST, Recent
from tertulia.engines.base import Put, Record
from tertulia.testing import ManualClock
from tests.file.apart import apart


@pytest.fixture
def lock_path(tmp_path: Path) -> Path:
    path = tmp_path / "space.db-lock"
    first = WriterLock(path)
    assert first.try_acquire()
    first.prepare()
    first.close()
    return path


def a_record(key: str, body: bytes = b"") -> Record:
    return Record(key, body, "ada", 1, 1, 1, 0.0, 0.0)


def test_a_turn_is_odd_while_somebody_writes_and_never_the_same_afterwards(lock_path: Path):
    reader, writer = WriterLock(lock_path), WriterLock(lock_path)
    seen = [reader.turns[0]]
    for _ in range(3):
        assert writer.try_acquire()
        during = reader.turns[0]
        writer.release()
        seen.append(reader.turns[0])
        assert during % 2 == 1
    reader.close()
    writer.close()

    assert all(turn % 2 == 0 for turn in seen)
    assert sorted(set(seen)) == seen


def test_a_writer_that_was_killed_leaves_no_turn_that_was_there_before(lock_path: Path):
    reader, killed, writer = WriterLock(lock_path), WriterLock(lock_path), WriterLock(lock_path)
    before = reader.turns[0]
    killed._begin_turn()  # noqa: SLF001 - and never ends it; the system lets go of its lock
    left = reader.turns[0]
    writer.acquire()
    during = reader.turns[0]
    writer.release()
    after = reader.turns[0]
    for lock in (reader, killed, writer):
        lock.close()

    assert (left % 2, during % 2, after % 2) == (1, 1, 0)
    assert after > during > left > before


def test_a_file_whose_turns_nobody_counts_is_always_asked(tmp_path: Path):
    lock = WriterLock(tmp_path / "space.db-lock")
    recent = Recent(lock)
    recent.keep_record(recent.turn(), a_record("k"))
    known = recent.record("k")
    lock.close()

    assert known is None


def test_what_was_read_while_somebody_wrote_is_not_kept(lock_path: Path):
    lock, other = WriterLock(lock_path), WriterLock(lock_path)
    recent = Recent(lock)
    turn = recent.turn()
    assert other.try_acquire()
    other.release()
    recent.keep_record(turn, a_record("k"))
    over = recent.record("k")
    assert other.try_acquire()
    recent.keep_record(recent.turn(), a_record("k"))
    other.release()
    beside = recent.record("k")
    lock.close()
    other.close()

    assert (over, beside) == (None, None)


def test_turns_are_believed_for_a_moment_only(lock_path: Path):
    lock = WriterLock(lock_path)
    times = itertools.count()
    recent = Recent(lock, lambda: next(times) * TRUST * 0.6)
    recent.keep_record(recent.turn(), a_record("k"))
    soon, late = recent.record("k"), recent.record("k")
    lock.close()

    assert soon is not None
    assert late is None


async def test_a_key_is_read_from_the_file_once_as_long_as_nobody_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_file_recent, "TRUST", 3600.0)
    url = f"file:{tmp_path}/space.db"
    asked: list[str] = []
    sound = _file_records.read

    def read(execute: Any, key: str) -> Record | None:
        asked.append(key)
        return sound(execute, key)

    monkeypatch.setattr(_file_records, "read", read)
    async with await apart(url) as here, await apart(url) as there:
        await there.engine.put(Put("k", b"1", "ada"))
        first = [await here.engine.get("k") for _ in range(3)]
        await there.engine.put(Put("other", b"", "ada"))
        second = [await here.engine.get("k") for _ in range(3)]
        await there.engine.put(Put("k", b"2", "ada"))
        third = [await here.engine.get("k") for _ in range(3)]

    assert asked == ["k"] * 3
    assert [record.body for record in (*first, *second, *third) if record is not None] == [b"1"] * 6 + [b"2"] * 3


async def test_a_key_that_expires_is_not_read_from_what_was_read_before(tmp_path: Path):
    clock = ManualClock()
    async with tertulia.connect(f"file:{tmp_path}/space.db", clock=clock) as space:
        await space.memory.write("k", 1, owner="ada", ttl=10.0)
        before = await space.memory.read("k", reader="ada")
        await clock.advance(11.0)
        after = await space.memory.read("k", reader="ada")

    assert (before, after) == (1, None)


async def test_reads_are_counted_wherever_they_are_read_from(tmp_path: Path):
    async with tertulia.connect(f"file:{tmp_path}/space.db") as space:
        await space.memory.write("k", 1, owner="ada")
        for _ in range(4):
            await space.memory.read("k", reader="ada")
        fifth = await space.memory.read_with_metadata("k", reader="ada")
        written = await space.memory.write("k", 2, owner="ada")

    assert fifth is not None
    assert (fifth.access_count, written.access_count) == (5, 5)


async def test_who_writes_to_the_file_past_the_library_is_seen_before_long(tmp_path: Path):
    path = tmp_path / "space.db"
    async with tertulia.connect(f"file:{path}") as space:
        await space.memory.write("k", 1, owner="ada")
        assert await space.memory.read("k", reader="ada") == 1
        stranger = apsw.Connection(str(path))
        stranger.execute("DELETE FROM records")
        stranger.close()
        while await space.memory.read("k", reader="ada") is not None:  # bounded by the test's own limit
            pass
