"""Opening a space's file: how it is made and checked, and what connections to it are like."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import apsw
from msgspec import Struct

from tertulia._background import logger
from tertulia.engines._file_format import (
    APPLICATION_ID,
    COUNTERS,
    FAILURES,
    FORMAT,
    PAGE_SIZE,
    SCHEMA,
    Execute,
    counters_in,
    crc32,
    encode,
    executor,
    row_checksum,
    rows,
    tag_checksum,
    translated,
)
from tertulia.engines._file_lock import WriterLock
from tertulia.engines._file_mail import COLUMNS, DELAYED, LEASED, change, load
from tertulia.engines._file_path import check_sqlite, lock_beside, prepare
from tertulia.engines._file_session import Session
from tertulia.engines._file_time import GIVEN, FileClock
from tertulia.errors import CorruptRecordError, EngineError, EngineUnavailableError, IncompatibleFormatError

OPEN_LIMIT = 10.0  # seconds to wait for others who open, or for a writer that was stopped
WAIT_HERE = 100  # ms that a statement on the event loop may wait for a crashed neighbour's recovery
WAIT_THERE = 10_000  # ms, in a thread
CACHE_KIB = 16 * 1024  # of pages for a connection: the inner pages of a million keys, and a team's working set
CHECKED_BYTES = 8 * 2**20  # a file up to this is checked whole when it is opened: 20 to 50 ms
LONG_AGO = 1e-6  # on the shared time; 0 would mean a message that waits
_NOT_WAITING = f"SELECT {COLUMNS} FROM messages WHERE due > 0.0"  # noqa: S608 - constants
_STATEMENTS = {statement.strip() for statement in SCHEMA.split(";")} - {""}
DURABILITIES = {"process": "NORMAL", "power": "FULL"}


class Place(Struct, frozen=True):
    """A space's file that was found good to open."""

    path: str
    device: int
    inode: int
    vfs: str | None = None  # SQLite's own way to files; another one is for tests


def connect(path: str, durability: str, wait: int, vfs: str | None) -> apsw.Connection:
    """Open a connection. A file that is made has the lock file's permissions."""
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_NOFOLLOW
    uri = f"file:{_quoted(path)}?modeof={_quoted(str(lock_beside(Path(path))))}"
    connection = apsw.Connection(uri, flags=flags, vfs=vfs)
    try:
        _set_up(connection, durability, wait)
    except BaseException:
        connection.close()
        raise
    return connection


def _set_up(connection: apsw.Connection, durability: str, wait: int) -> None:
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # a file that is refused stays as it is, with its log
    connection.set_busy_timeout(wait)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
    # Without it the planner looks at the values that are bound, and prepares many a statement anew for each of them.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    for pragma in (
        f"synchronous = {DURABILITIES[durability]}",
        "wal_autocheckpoint = 0",
        f"cache_size = -{CACHE_KIB}",
        "cell_size_check = ON",
        "temp_store = MEMORY",
    ):
        executor(connection)(f"PRAGMA {pragma}").fetchall()


def close(connection: apsw.Connection) -> None:
    """Close a connection. All that was acknowledged is in the file or its log by now, whatever fails here."""
    try:
        connection.close()
    except FAILURES as error:
        logger.warning("a connection was closed, and its file or log left as it was: %s", translated(error))


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23").replace("&", "%26")


def open_file(path: Path, durability: str, clock: FileClock, vfs: str | None) -> tuple[Place, apsw.Connection]:
    """Open or make the space's file, one process at a time; return the connection for the event loop.

    Not for the event loop's thread. Raises EngineError, and changes nothing then.
    """
    check_sqlite()
    prepare(path)
    lock_path = lock_beside(path)
    had_lock = lock_path.exists()
    try:
        lock = WriterLock(lock_path)
    except OSError as error:
        raise EngineUnavailableError(f"{lock_path} cannot be opened: {error.strerror}") from error
    try:
        _acquire(lock, path)
        try:
            lock.prepare()
            return _open_locked(path, durability, clock, vfs)
        except IncompatibleFormatError:
            if not had_lock:
                lock_path.unlink(missing_ok=True)
            raise
        except FAILURES as error:
            raise translated(error, str(path)) from error
    finally:
        lock.close()


def _acquire(lock: WriterLock, path: Path) -> None:
    deadline = time.monotonic() + OPEN_LIMIT
    while not lock.try_acquire():
        if time.monotonic() > deadline:
            raise EngineUnavailableError(f"{path} was busy for {OPEN_LIMIT:g} s: {lock.holder()}")
        time.sleep(0.002)


def _open_locked(path: Path, durability: str, clock: FileClock, vfs: str | None) -> tuple[Place, apsw.Connection]:
    is_new = not path.exists()
    connection = connect(str(path), durability, WAIT_THERE, vfs)  # whoever closes as the last one holds it for a moment
    try:
        if executor(connection)("SELECT count(*) FROM sqlite_schema").get:
            _check_format(path, connection)
        else:
            _check_empty(path, connection)
            _make(connection)
        if not is_new:
            _check_whole(path, connection)
        _begin_boot(connection, clock)
        found = path.lstat()
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
        connection.set_busy_timeout(WAIT_HERE)
        return Place(str(path), found.st_dev, found.st_ino, vfs), connection
    except BaseException:
        connection.close()
        raise


def _check_format(path: Path, connection: apsw.Connection) -> None:
    if _pragma(connection, "application_id") != APPLICATION_ID:
        raise IncompatibleFormatError(f"{path} is a database, but not a space")
    stored = _pragma(connection, "user_version")
    if stored != FORMAT:
        age = "newer" if stored > FORMAT else "older"
        raise IncompatibleFormatError(f"{path} has format {stored}, {age} than this version's format {FORMAT}")


def _pragma(connection: apsw.Connection, name: str) -> int:
    return executor(connection)(f"PRAGMA {name}").get


def _check_empty(path: Path, connection: apsw.Connection) -> None:
    known = ((0, APPLICATION_ID), (0, FORMAT))
    if any(
        _pragma(connection, name) not in good
        for name, good in zip(("application_id", "user_version"), known, strict=True)
    ):
        raise IncompatibleFormatError(f"{path} is an empty database of another program")


def _make(connection: apsw.Connection) -> None:
    execute = executor(connection)
    execute(f"PRAGMA page_size = {PAGE_SIZE}").fetchall()
    execute("PRAGMA journal_mode = wal").fetchall()
    counters = encode((0, 0, 0, 0, 0, 0))
    execute("BEGIN IMMEDIATE")
    execute(f"PRAGMA application_id = {APPLICATION_ID}")
    execute(f"PRAGMA user_version = {FORMAT}")
    execute(SCHEMA)
    execute("INSERT INTO heads(name, id, size, packed, crc) VALUES('', 0, 0, ?, ?)", (counters, crc32(counters)))
    execute("COMMIT")


def _check_whole(path: Path, connection: apsw.Connection) -> None:
    """Check a small file from end to end; what a larger one has is checked as it is read, and by `doctor`."""
    try:
        is_small = path.lstat().st_size <= CHECKED_BYTES
        findings = damage(connection) if is_small else damaged_schema(executor(connection))
        counters_in(executor(connection)(COUNTERS).get)
    except (CorruptRecordError, *FAILURES) as error:
        findings = [str(error)]
    if findings:
        raise EngineError(f"{path} is damaged: {'; '.join(findings[:3])}")


def damage(connection: apsw.Connection) -> list[str]:
    """Return what SQLite's own check finds wrong with the file."""
    execute = executor(connection)
    found = execute("PRAGMA integrity_check(10)").fetchall()
    return [str(text) for (text,) in found if text != "ok"] + damaged_rows(execute)


def damaged_schema(execute: Execute) -> list[str]:
    """Return what is wrong with the texts that say what the tables are: one letter there can change every answer."""
    found = {text for (text,) in execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()}
    return [] if found == _STATEMENTS else ["its tables are not as they were made"]


def damaged_rows(execute: Execute) -> list[str]:
    """Return what else is not as it was written, where only looking at everything can tell."""
    tags = [
        f"the tag {tag!r} of record {place}"
        for tag, place, crc in execute("SELECT tag, record, crc FROM tags").fetchall()
        if tag_checksum(tag, place) != crc
    ]
    topics = [
        f"the topic {pattern!r} of mailbox {box}"
        for box, pattern, crc in execute("SELECT box, pattern, crc FROM topics").fetchall()
        if row_checksum(box, pattern) != crc
    ]
    markers = [
        f"what was remembered of message {message_id!r}"
        for message_id, *row, crc in execute("SELECT message_id, box, message_id, until, crc FROM markers")
        if row_checksum(*row) != crc
    ]
    heads = [
        f"the mailbox {name!r}"
        for name, number, packed, crc in execute("SELECT name, id, packed, crc FROM heads WHERE name != ''")
        if row_checksum(name, number, packed) != crc
    ]
    boxes = execute(
        "SELECT name FROM heads h WHERE size != (SELECT count(*) FROM messages m WHERE m.box = h.id)"
    ).fetchall()
    return (
        damaged_schema(execute)
        + tags
        + topics
        + markers
        + heads
        + [f"the size of mailbox {name!r}" for (name,) in boxes]
    )


def _begin_boot(connection: apsw.Connection, clock: FileClock) -> None:
    """Carry leases and delays over to this machine's present boot, if the file is from an earlier one."""
    known = executor(connection)("SELECT boot, civil FROM boot").get
    if clock.boot == GIVEN or (known is not None and known[0] == clock.boot):
        return
    civil = clock.time() - clock.now()  # when the shared time began
    session = Session(connection, clock, "", {})
    session.begin()
    try:
        session.execute("INSERT OR REPLACE INTO boot(id, boot, civil) VALUES(1, ?, ?)", (clock.boot, civil))
        if known is not None:
            _carry_over(session, known[1] - civil)
        session.finish()
    except BaseException:
        session.rollback()
        raise
    session.commit()


def _carry_over(session: Session, shift: float) -> None:
    """End the leases of an earlier boot, whose holders are gone, and let delays end at the same civil time."""
    for row in rows(session.execute(_NOT_WAITING).get):
        message = load(row)
        if message.state == LEASED:
            change(session, message, LEASED, LONG_AGO)
        elif message.state == DELAYED:
            change(session, message, DELAYED, max(message.due + shift, LONG_AGO))
    connection: Any = session.connection
    connection.create_scalar_function("checksum", row_checksum)
    session.execute(
        "UPDATE markers SET until = until + ?1, crc = checksum(box, message_id, until + ?1)"
        " WHERE crc = checksum(box, message_id, until)",
        (shift,),
    )
