"""The recorded disk: what it holds while the power is on, what it may hold afterwards, and calls that fail."""

import random
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from msgspec.structs import replace

from tertulia.testing.power_loss import SECTOR, Disk, Event, Recording, power_losses
from tertulia.testing.sqlite_files import CallKind, FailingCalls, FileCall, SQLiteFiles

ROUNDS = 300  # states looked at: what happens in one of twenty is missed once in five million times


def _event(kind: CallKind, name: str = "f", *, began: int = 0, **fields: object) -> Event:
    return Event(call=FileCall(kind=kind, path=f"/somewhere/{name}", **fields), began=began)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def _write(offset: int, data: bytes, name: str = "f") -> Event:
    return _event(CallKind.WRITE, name, offset=offset, data=data)


def _after(*events: Event, files: dict[str, bytes] | None = None) -> list[dict[str, bytes]]:
    """Return many states of the disk after a power loss at the end."""
    at = [len(events) - 1] * ROUNDS
    return [state for _, state in power_losses(events, at=at, seed=1, files=files)]


MADE = _event(CallKind.OPEN, made=True)
SYNCED = _event(CallKind.SYNC, began=10, directory=True)
A, B, C = (letter * SECTOR for letter in (b"a", b"b", b"c"))


def test_what_was_synced_is_there_whatever_came_later():
    states = _after(MADE, _write(0, A + B), SYNCED, _write(SECTOR, C))

    assert {state["f"][:SECTOR] for state in states} == {A}
    assert {state["f"][SECTOR:] for state in states} == {B, C}


def test_what_was_written_after_a_sync_began_is_not_certain():
    states = _after(MADE, _write(0, A), _write(0, B), _event(CallKind.SYNC, began=2, directory=True))

    assert {state["f"] for state in states} == {A, B}


def test_writes_that_were_not_synced_are_lost_torn_and_reordered():
    states = _after(_write(0, B + B), _write(2 * SECTOR, C), files={"f": A * 3})

    assert {state["f"] for state in states} == {
        one + two + three for one in (A, B) for two in (A, B) for three in (A, C)
    }


def test_a_sector_may_be_left_as_any_of_its_writes_made_it():
    states = _after(_write(0, B), _write(100, b"!"), _write(0, C), files={"f": A})

    assert {state["f"] for state in states} == {A, B, B[:100] + b"!" + B[101:], C}


def test_a_file_that_grew_may_have_rubbish_where_nothing_was_written():
    states = {state["f"] for state in _after(_write(2 * SECTOR, C), files={"f": A})}
    between = {state[SECTOR : 2 * SECTOR] for state in states if len(state) == 3 * SECTOR}

    assert {A, A + bytes(2 * SECTOR), A + bytes(SECTOR) + C} <= states
    assert len(between) > 20
    assert {len(state) for state in states} == {SECTOR, 3 * SECTOR}


def test_a_file_that_was_cut_may_be_as_long_as_before():
    states = {state["f"] for state in _after(_event(CallKind.TRUNCATE, size=100), files={"f": A + B})}

    assert {A[:100], A + B} <= states
    assert {len(state) for state in states} == {100, 2 * SECTOR}


def test_a_name_is_certain_once_its_directory_is_synced():
    deleted = _event(CallKind.DELETE, directory=False)

    assert {tuple(state) for state in _after(MADE, _write(0, A))} == {(), ("f",)}
    assert {tuple(state) for state in _after(MADE, _write(0, A), SYNCED)} == {("f",)}
    assert {tuple(state) for state in _after(MADE, SYNCED, deleted)} == {(), ("f",)}
    gone = _event(CallKind.DELETE, directory=True)
    assert {tuple(state) for state in _after(MADE, SYNCED, gone)} == {()}


def test_the_same_seed_gives_the_same_states():
    events = [MADE, _write(0, A), _write(SECTOR, B)]

    assert _after(*events) == _after(*events)


def _work(path: Path, vfs: str) -> None:
    with closing(apsw.Connection(str(path), vfs=vfs)) as connection:
        connection.execute("PRAGMA journal_mode = wal").fetchall()
        connection.execute("CREATE TABLE t(x)")
        for number in range(20):
            connection.execute("INSERT INTO t VALUES(zeroblob(?))", (number * 500,))
            if number == 10:
                connection.wal_checkpoint()


def test_the_recorded_disk_is_the_real_one_while_the_power_is_on(tmp_path: Path):
    recording = Recording()
    disk = Disk()
    chance = random.Random(1)  # noqa: S311 - for a test
    with SQLiteFiles(recording) as files:
        _work(tmp_path / "one.db", files.name)
        connection = apsw.Connection(str(tmp_path / "one.db"), vfs=files.name)
        connection.execute("DELETE FROM t WHERE rowid > 5")
        connection.execute("VACUUM")
        shown = {path.name: path.read_bytes() for path in tmp_path.iterdir() if not path.name.endswith("-shm")}
        connection.close()
        closed = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    end = recording.mark("closed")
    before = [index for index, event in enumerate(recording.events) if event.call is not None]
    for event in recording.events[: before[-1] + 1]:
        disk.apply(event)

    assert disk.now() == closed
    assert shown.keys() == {"one.db", "one.db-wal"}
    assert disk.after_power_loss(chance)["one.db"] == closed["one.db"]
    assert end == len(recording.events) - 1
    assert recording.syncs > 20


def test_a_call_fails_when_told_to_and_no_other(tmp_path: Path):
    counting = FailingCalls([CallKind.WRITE], code=apsw.SQLITE_IOERR_WRITE)
    with SQLiteFiles(counting) as files:
        _work(tmp_path / "whole.db", files.name)
    failing = FailingCalls([CallKind.WRITE], code=apsw.SQLITE_FULL, at=counting.seen // 2)
    with SQLiteFiles(failing) as files, pytest.raises(apsw.FullError):
        _work(tmp_path / "failed.db", files.name)

    assert counting.seen > 40
    assert counting.failed == []
    assert len(failing.failed) == 1


def test_a_write_that_fails_half_way_has_written_half(tmp_path: Path):
    recording = Recording()
    failing = FailingCalls([CallKind.WRITE], code=apsw.SQLITE_IOERR_WRITE, at=9, part=0.5)
    path = tmp_path / "one.db"
    with SQLiteFiles(recording, failing) as files, pytest.raises(apsw.IOError) as caught:
        _work(path, files.name)
    (failed,) = failing.failed
    half = replace(failed, data=failed.data[: len(failed.data) // 2])

    assert getattr(caught.value, "extendedresult", None) == apsw.SQLITE_IOERR_WRITE
    assert half in [event.call for event in recording.events]
    assert failed not in [event.call for event in recording.events]
