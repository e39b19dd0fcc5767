"""What `doctor` says about a file: whether it is sound, safe and well kept."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import apsw

from tertulia.engines._file_bell import runtime_directory
from tertulia.engines._file_format import FAILURES, Execute, unpack_change, unpack_record
from tertulia.engines._file_mail import COLUMNS, body_of, load
from tertulia.engines._file_open import Place, damaged_rows
from tertulia.engines._file_path import file_system
from tertulia.errors import CorruptRecordError
from tertulia.records import Finding

LARGE_LOG = 64 * 2**20  # bytes of write-ahead log: eight times what a checkpoint leaves
NAMED = 10  # damaged records that are named; the rest are counted
OTHERS = 0o077


def examine(
    execute: Execute,
    place: Place,
    durability: str,
    me: str,
) -> list[Finding]:
    """Return what was found, good and bad; reads the whole file."""
    path = Path(place.path)
    return [
        Finding(level="ok", subject="sqlite", detail=f"SQLite {apsw.sqlite_lib_version()}"),
        _durability(durability),
        Finding(level="ok", subject="file system", detail=file_system(path.parent) or "of unknown type"),
        _permissions(path),
        _log(path),
        _bells(execute, me),
        *_damage(execute),
    ]


def _durability(durability: str) -> Finding:
    if durability == "power":
        return Finding(level="ok", subject="durability", detail="what is acknowledged survives a power cut")
    detail = 'survives the end of any process; a power cut may take the newest commits (durability="power" keeps them)'
    return Finding(level="note", subject="durability", detail=detail)


def _permissions(path: Path) -> Finding:
    loose = [
        name.name
        for name in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-lock"))
        if name.exists() and stat.S_IMODE(name.stat().st_mode) & OTHERS
    ]
    if loose:
        return Finding(level="note", subject="permissions", detail=f"other users may open {', '.join(loose)}")
    return Finding(level="ok", subject="permissions", detail="the files are this user's alone")


def _log(path: Path) -> Finding:
    log = path.with_name(path.name + "-wal")
    size = log.stat().st_size if log.exists() else 0
    level = "ok" if size <= LARGE_LOG else "problem"
    return Finding(level=level, subject="write-ahead log", detail=f"{size:,} bytes")


def _bells(execute: Execute, me: str) -> Finding:
    if runtime_directory() is None:
        detail = "no private directory for sockets, so processes look for news instead of being rung"
        return Finding(level="note", subject="doorbells", detail=detail)
    others = execute("SELECT pid FROM bells WHERE instance != ?", (me,)).fetchall()
    pids = ", ".join(str(pid) for (pid,) in others) or "none"
    return Finding(level="ok", subject="doorbells", detail=f"other processes with a doorbell: {pids}")


def _damage(execute: Execute) -> list[Finding]:
    try:
        found = [str(row[0]) for row in execute("PRAGMA integrity_check(10)").fetchall() if row[0] != "ok"]
        found += damaged_rows(execute) + _damaged(execute)
    except FAILURES as error:
        found = [str(error)]
    if not found:
        return [Finding(level="ok", subject="contents", detail="every record and message matches its checksum")]
    more = [f"and {len(found) - NAMED:,} more"] if len(found) > NAMED else []
    return [Finding(level="problem", subject="contents", detail=text) for text in (*found[:NAMED], *more)]


def _damaged(execute: Execute) -> list[str]:
    def message_with_body(*row: Any) -> None:
        body_of(load_body, load(row))

    def load_body(*arguments: Any) -> Any:
        return execute(*arguments)

    found: list[str] = []
    for sql, check in (
        ("SELECT key, crc, meta, body FROM records", unpack_record),
        ("SELECT revision, kind, crc, meta, body FROM changes", unpack_change),
        (f"SELECT {COLUMNS} FROM messages", message_with_body),  # noqa: S608 - constants
    ):
        for row in execute(sql):
            try:
                check(*row)
            except CorruptRecordError as error:
                found.append(str(error))
    return found
