"""What a space looks like inside its SQLite file: tables, packed records, and the checksums over them."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, cast

import apsw
import msgspec

from tertulia.engines.base import Change, Record
from tertulia.errors import CorruptRecordError, EngineError, EngineUnavailableError, IncompatibleFormatError
from tertulia.records import ChangeKind

APPLICATION_ID = 0x54455254  # "TERT", in the header of the file
PAGE_SIZE = 1_024  # bytes; a commit logs every page it touches, so small ones make small commits fast
FORMAT = 1  # raised with every change that an older version cannot read
HISTORY_CHANGES = 10_000  # what a watch can resume over: minutes of a busy team
HISTORY_BYTES = 64 * 2**20  # and its bound in the file, whatever the values' sizes
DEDUP_WINDOW = 3600.0  # seconds; a sender that retries for longer than an hour is no longer retrying
DEDUP_COUNT = 1_000_000  # ids remembered per mailbox, about 100 bytes each
INLINE_BODY = 700  # bytes; a message's larger body lies beside its row, so that a claim need not rewrite it

# What a commit costs is above all the pages that it touches, and those that it reads anew when another process has
# written. So there are few trees, and few of them are touched by one commit.
#
# A record's row lies where the checksum of its key says, so a read by key is one step; `key` is for scans, and to
# check twice before a key is called absent. `heads` has a row for each mailbox, and one, without a name, for the space
# itself: its counters. A message's row lies where the hash of mailbox and id says, which keeps ids apart without an
# index for that, and so does its marker, once it is settled; what waits has 0 for the time when it is due.
SCHEMA = """
CREATE TABLE heads(
  name TEXT PRIMARY KEY, id INTEGER NOT NULL, size INTEGER NOT NULL, packed BLOB NOT NULL, crc INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE boot(id INTEGER PRIMARY KEY, boot TEXT NOT NULL, civil REAL NOT NULL);
CREATE TABLE records(
  id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, expires REAL, crc INTEGER NOT NULL,
  meta BLOB NOT NULL, body BLOB NOT NULL
);
CREATE INDEX records_expires ON records(expires) WHERE expires IS NOT NULL;
CREATE TABLE tags(tag TEXT NOT NULL, record INTEGER NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY(tag, record))
  WITHOUT ROWID;
CREATE TABLE changes(
  revision INTEGER PRIMARY KEY, kind INTEGER NOT NULL, crc INTEGER NOT NULL, meta BLOB NOT NULL, body BLOB
);
CREATE TABLE topics(
  id INTEGER PRIMARY KEY, box INTEGER NOT NULL, pattern TEXT NOT NULL, crc INTEGER NOT NULL, UNIQUE(box, pattern)
);
CREATE TABLE messages(
  place INTEGER PRIMARY KEY, sequence INTEGER NOT NULL, box INTEGER NOT NULL, message_id TEXT NOT NULL,
  state INTEGER NOT NULL, due REAL NOT NULL, attempt INTEGER NOT NULL, failures INTEGER NOT NULL,
  flags INTEGER NOT NULL, stored_at REAL NOT NULL, notes BLOB NOT NULL, body_crc INTEGER NOT NULL,
  crc INTEGER NOT NULL, body BLOB
);
CREATE INDEX messages_order ON messages(box, due, sequence);
CREATE TABLE bodies(sequence INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE markers(
  place INTEGER PRIMARY KEY, box INTEGER NOT NULL, message_id TEXT NOT NULL, until REAL NOT NULL, crc INTEGER NOT NULL
);
CREATE INDEX markers_until ON markers(box, until);
CREATE TABLE bells(
  instance TEXT PRIMARY KEY, path TEXT NOT NULL, pid INTEGER NOT NULL, since REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE interests(
  topic TEXT NOT NULL, instance TEXT NOT NULL, lease REAL NOT NULL, PRIMARY KEY(topic, instance)
) WITHOUT ROWID;
CREATE TABLE listeners(name TEXT PRIMARY KEY, instance TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE letters(
  sequence INTEGER PRIMARY KEY, instance TEXT NOT NULL, name TEXT NOT NULL, message_id TEXT NOT NULL,
  crc INTEGER NOT NULL, body BLOB NOT NULL
);
"""

Execute = Callable[..., Any]  # apsw.Cursor.execute; its annotations are unknown in part

NOT_AS_WRITTEN = (msgspec.MsgspecError, TypeError)  # what damage looks like that changes a value's type
DAMAGE = (apsw.CorruptError, UnicodeDecodeError, msgspec.MsgspecError)  # the others: damaged text, and packed values
FAILURES = (apsw.Error, *DAMAGE)  # what SQLite, apsw and reading what they found raise

encode = msgspec.msgpack.Encoder().encode
crc32 = zlib.crc32
_KINDS = (ChangeKind.PUT, ChangeKind.DELETE, ChangeKind.EXPIRE)
_Meta = tuple[str, str, int, int, int, float, float, float | None, float | None, tuple[str, ...], int, int]
_read_meta = msgspec.msgpack.Decoder(_Meta).decode
_read_counters = msgspec.msgpack.Decoder(tuple[int, int, int, int, int, int]).decode
_read_mark = msgspec.msgpack.Decoder(tuple[str, int, float]).decode
read_notes = msgspec.msgpack.Decoder(tuple[bytes, ...]).decode
NO_NOTES = encode(())


def place_of(key: str) -> int:
    """Return where a key's record lies, unless another key is there already."""
    return crc32(key.encode())


def place_in(box: int, message_id: str) -> int:
    """Return where a message of a mailbox lies: a number of 63 bits, so that two never share one but by a miracle."""
    digest = blake2b(b"%d:%b" % (box, message_id.encode()), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def pack_record(record: Record) -> tuple[int, bytes]:
    """Return a record's checksum and all of it but the body, which is checksummed inside."""
    meta = encode(
        (
            record.key, record.owner, record.version, record.revision, record.created_revision, record.created,
            record.updated, record.ttl, record.expires, record.tags, record.access_count, crc32(record.body),
        )
    )  # fmt: skip
    return crc32(meta), meta


def unpack_record(key: str | None, crc: int, meta: bytes, body: bytes | None) -> Record:
    """Return a stored record, or raise CorruptRecordError. A body of None was not read, and is left out."""
    try:
        if crc32(meta) != crc:
            raise CorruptRecordError(key or "?", "its metadata does not match the checksum")
        fields = _read_meta(meta)
        body_crc = fields[11] if body is None else crc32(body)
    except NOT_AS_WRITTEN as error:
        raise CorruptRecordError(key or "?", str(error)) from error
    if key is not None and fields[0] != key:
        raise CorruptRecordError(key, "another key's record lies in its place")
    if body is None:
        return Record(fields[0], b"", *fields[1:11])
    if body_crc != fields[11]:
        raise CorruptRecordError(fields[0], "its value does not match the checksum")
    return Record(fields[0], body, *fields[1:11])


COUNTERS = "SELECT packed, crc FROM heads WHERE name = ''"


def counters_in(row: tuple[bytes, int] | None) -> tuple[int, int, int, int, int, int]:
    """Return revision, sequence, topics, bells, bytes in the log, mailboxes. Raises CorruptRecordError."""
    if row is None or not is_intact(*row):
        raise CorruptRecordError("(counters)", "the space's counters do not match their checksum")
    return _read_counters(row[0])


def tag_checksum(tag: str, place: int) -> int:
    """Return the checksum of a tag's row."""
    return crc32(encode((tag, place)))


def pack_mark(key: str, revision: int, at: float, kind: int) -> tuple[int, bytes]:
    """Return checksum and content of a change that has no record; the checksum is over its kind too."""
    meta = encode((key, revision, at))
    return crc32(meta, kind), meta


def unpack_change(revision: int, kind: int, crc: int, meta: bytes, body: bytes | None) -> Change:
    """Return a stored change, or raise CorruptRecordError."""
    if kind == 0:
        record = unpack_record(None, crc, meta, body or b"")
        if record.revision == revision:
            return Change(ChangeKind.PUT, record.key, revision, record.updated, record)
    elif kind in (1, 2) and is_intact(meta, crc, kind):
        key, at_revision, at = _read_mark(meta)
        if at_revision == revision:
            return Change(_KINDS[kind], key, revision, at)
    raise CorruptRecordError(f"change {revision}", "it does not match the checksum")


def is_intact(content: object, crc: int, start: int = 0) -> bool:
    """Tell whether bytes match their checksum; what damage made no bytes at all does not."""
    return isinstance(content, bytes) and crc32(content, start) == crc


def row_checksum(*columns: object) -> int:
    """Return the checksum over a row's columns."""
    return crc32(encode(columns))


_MEANINGS: tuple[tuple[tuple[type[Exception], ...], type[EngineError], str], ...] = (
    ((apsw.BusyError, apsw.LockedError), EngineUnavailableError, "another process holds the file for too long"),
    ((apsw.NotADBError,), IncompatibleFormatError, "the file is not a database"),
    ((apsw.FullError,), EngineError, "the disk is full"),
    ((apsw.ReadOnlyError, apsw.PermissionsError, PermissionError), EngineUnavailableError, "it cannot be written"),
    ((apsw.CantOpenError,), EngineUnavailableError, "the file cannot be opened"),
    ((apsw.IOError,), EngineError, "the disk failed"),
)


def translated(error: Exception, what: str = "") -> EngineError:
    """Return what an error of SQLite or the system means to callers."""
    if isinstance(error, DAMAGE):
        return CorruptRecordError(what or "?", f"the database file is damaged ({error})")
    code = apsw.mapping_extended_result_codes.get(getattr(error, "extendedresult", 0), "")
    text = ": ".join(str(part) for part in (what, code, error) if str(part))
    for kinds, meaning, words in _MEANINGS:
        if isinstance(error, kinds):
            return meaning(f"{words} ({text})")
    return EngineError(f"the file engine failed ({type(error).__name__}: {text})")


def executor(connection: apsw.Connection) -> Execute:
    """Return what executes a statement on a connection: one at a time, each read to its end."""
    return cast("Any", connection).cursor().execute


def rows(found: Any) -> list[Any]:
    """Return what apsw's `Cursor.get` gave for a statement as a list of rows."""
    if found is None:
        return []
    return cast("list[Any]", found) if isinstance(found, list) else [found]
