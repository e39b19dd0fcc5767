"""Records in the file: reading them by key, scanning them, and the edits of a commit."""

from __future__ import annotations

import apsw

from tertulia._rules.expiry import kept_owner, kept_tags, kept_ttl
from tertulia.engines._file_format import (
    FAILURES,
    Execute,
    pack_mark,
    pack_record,
    place_of,
    rows,
    tag_checksum,
    translated,
    unpack_record,
)
from tertulia.engines._file_session import Session
from tertulia.engines.base import Check, Put, Record
from tertulia.errors import CorruptRecordError

SWEEP_BATCH = 500  # keys expired by one transaction: a few milliseconds of holding the writers' lock

_BY_PLACE = "SELECT key, crc, meta, body FROM records WHERE id = ?"
_BY_KEY = "SELECT id, crc, meta, body FROM records WHERE key = ?"
_PUT, _DELETE, _EXPIRE = range(3)
_PAST_ANY_PLACE = 1 << 32  # where the records lie whose place is taken; places are 32 bits wide


def read(execute: Execute, key: str) -> Record | None:
    """Return the key's record, live or not. A key is called absent only when two ways of looking agree."""
    try:
        row = execute(_BY_PLACE, (place_of(key),)).get
        if row is not None and row[0] == key:
            return unpack_record(key, row[1], row[2], row[3])
        row = execute(_BY_KEY, (key,)).get
    except FAILURES as error:
        raise translated(error, key) from error
    return None if row is None else unpack_record(key, row[1], row[2], row[3])


def _find(session: Session, key: str) -> tuple[int, Record | None]:
    """Return where the key's record is, or would go, and the record."""
    known = session.known.records.get(key)
    if known is not None:
        return known
    place = place_of(key)
    try:
        row = session.execute(_BY_PLACE, (place,)).get
        if row is not None and row[0] == key:
            return place, unpack_record(key, row[1], row[2], row[3])
        other = session.execute(_BY_KEY, (key,)).get
    except apsw.CorruptError as error:
        raise translated(error, key) from error
    if other is not None:
        return other[0], unpack_record(key, other[1], other[2], other[3])
    return (place if row is None else _PAST_ANY_PLACE + session.revision), None


def find_live(session: Session, key: str, now: float) -> tuple[int, Record | None]:
    """Return the key's place and its record; one whose time is over is removed at once."""
    place, record = _find(session, key)
    if record is not None and record.expires is not None and record.expires <= now:
        _remove(session, place, record, _EXPIRE, now)
        return _find(session, key)
    return place, record


# --- the parts of a commit ---


def judge(session: Session, check: Check, now: float) -> None:
    """Raise CheckFailed unless the condition holds."""
    check.judge(find_live(session, check.key, now)[1])


def put(session: Session, put: Put, now: float) -> Record:
    """Create or replace one record."""
    place, old = find_live(session, put.key, now)
    session.revision = revision = session.revision + 1
    ttl = kept_ttl(put.ttl, old)
    if ttl is not None:
        ttl = float(ttl)
    expires = None if ttl is None else now + ttl
    tags = kept_tags(put.tags, old)
    owner = kept_owner(put.owner, old)
    reads = session.count_reads(put.key) if session.reads else 0
    if old is None:
        record = Record(put.key, put.body, owner, 1, revision, revision, now, now, ttl, expires, tags, reads)
    else:
        record = Record(
            put.key, put.body, owner, old.version + 1, revision, old.created_revision, old.created, now, ttl,
            expires, tags, old.access_count + reads,
        )  # fmt: skip
    crc, meta = pack_record(record)
    _write(session, place, old, record, crc, meta)
    session.known.keep_record(place, record)
    _log(session, _PUT, crc, meta, record.body)
    if expires is not None and expires < session.effects.expires:
        session.effects.expires = expires
    return record


def _write(session: Session, place: int, old: Record | None, record: Record, crc: int, meta: bytes) -> None:
    execute = session.execute
    if old is None:
        execute(
            "INSERT INTO records(id, key, owner, expires, crc, meta, body) VALUES(?, ?, ?, ?, ?, ?, ?)",
            (place, record.key, record.owner, record.expires, crc, meta, record.body),
        )
    elif old.expires == record.expires:
        execute(
            "UPDATE records SET owner = ?, crc = ?, meta = ?, body = ? WHERE id = ?",
            (record.owner, crc, meta, record.body, place),
        )
    else:
        execute(
            "UPDATE records SET owner = ?, expires = ?, crc = ?, meta = ?, body = ? WHERE id = ?",
            (record.owner, record.expires, crc, meta, record.body, place),
        )
    before = () if old is None else old.tags
    if record.tags != before:
        for tag in before:
            execute("DELETE FROM tags WHERE tag = ? AND record = ?", (tag, place))
        for tag in set(record.tags):
            execute("INSERT INTO tags(tag, record, crc) VALUES(?, ?, ?)", (tag, place, tag_checksum(tag, place)))


def delete(session: Session, key: str, now: float) -> bool:
    """Remove a key; return whether it was there. A damaged record is removed like any other."""
    try:
        place, record = find_live(session, key, now)
    except CorruptRecordError:
        return _remove_damaged(session, key, now)
    if record is None:
        return False
    _remove(session, place, record, _DELETE, now)
    return True


def _remove(session: Session, place: int, record: Record, kind: int, now: float) -> None:
    session.execute("DELETE FROM records WHERE id = ?", (place,))
    session.known.records.pop(record.key, None)
    session.count_reads(record.key)
    for tag in record.tags:
        session.execute("DELETE FROM tags WHERE tag = ? AND record = ?", (tag, place))
    _mark(session, record.key, kind, now)


def _remove_damaged(session: Session, key: str, now: float) -> bool:
    found = session.execute("SELECT id FROM records WHERE id = ? AND key = ?", (place_of(key), key)).get
    if found is None:
        found = session.execute("SELECT id FROM records WHERE key = ?", (key,)).get
    if found is None:
        raise CorruptRecordError(key, "its row cannot be found any more")
    session.execute("DELETE FROM records WHERE id = ?", (found,))
    session.known.records.pop(key, None)
    session.execute("DELETE FROM tags WHERE record = ?", (found,))
    _mark(session, key, _DELETE, now)
    return True


def _mark(session: Session, key: str, kind: int, now: float) -> None:
    session.revision += 1
    _log(session, kind, *pack_mark(key, session.revision, now, kind), None)


def _log(session: Session, kind: int, crc: int, meta: bytes, body: bytes | None) -> None:
    session.execute(
        "INSERT INTO changes(revision, kind, crc, meta, body) VALUES(?, ?, ?, ?, ?)",
        (session.revision, kind, crc, meta, body),
    )
    if body is not None:
        session.log_bytes += len(body)
    session.changes_made()


# --- expiry ---


def next_expiry(execute: Execute) -> float | None:
    """Return when the next key's time is over."""
    return execute("SELECT min(expires) FROM records WHERE expires IS NOT NULL").get


def sweep(session: Session) -> bool:
    """Remove keys whose time is over; return whether there may be more."""
    now = session.clock.time()
    due = rows(
        session.execute(
            "SELECT id, key FROM records WHERE expires <= ? ORDER BY expires LIMIT ?", (now, SWEEP_BATCH)
        ).get
    )
    for place, key in due:
        record = _find(session, key)[1]
        if record is not None and record.expires is not None and record.expires <= now:
            _remove(session, place, record, _EXPIRE, now)
    return len(due) == SWEEP_BATCH
