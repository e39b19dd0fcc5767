"""Reads of many rows at once: scans, each in one short read transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tertulia.engines._file_format import COUNTERS, FAILURES, Execute, counters_in, translated, unpack_record
from tertulia.engines.base import Record

FEW = 200  # rows that are read on the event loop, in about a millisecond; more are read in a thread

Matches = Callable[[str], object] | None


def scan(
    execute: Execute,
    now: float,
    prefix: str,
    matches: Matches,
    tags: frozenset[str] | None,
    owner: str | None,
    *,
    bodies: bool,
    few: bool,
) -> tuple[int, list[Record]] | None:
    """Return the space's revision and the live records in key order; with `few`, None where there are too many."""
    columns = "r.key, r.crc, r.meta, r.body" if bodies else "r.key, r.crc, r.meta, NULL"
    where, values = _conditions(prefix, tags, owner)
    limit = f" LIMIT {FEW + 1}" if few else ""
    sql = f"SELECT {columns} FROM records r WHERE {where} ORDER BY r.key{limit}"  # noqa: S608 - built of constants
    try:
        execute("BEGIN")
        try:
            revision = counters_in(execute(COUNTERS).get)[0]
            found = execute(sql, values).fetchall()
        finally:
            execute("COMMIT")
    except FAILURES as error:
        raise translated(error, f"scan of {prefix!r}") from error
    if few and len(found) > FEW:
        return None
    records = [unpack_record(*row) for row in found if matches is None or matches(row[0])]
    return revision, [
        record
        for record in records
        if (record.expires is None or record.expires > now)
        and (owner is None or record.owner == owner)
        and (tags is None or not tags.isdisjoint(record.tags))
    ]


def _conditions(prefix: str, tags: frozenset[str] | None, owner: str | None) -> tuple[str, tuple[Any, ...]]:
    where, values = ["1"], []
    if prefix:
        where = ["r.key >= ? AND r.key < ?"]
        values = [prefix, _after(prefix)]
    if owner is not None:
        where.append("r.owner = ?")
        values.append(owner)
    if tags is not None:
        marks = ", ".join("?" * len(tags))
        where.append(f"r.id IN (SELECT record FROM tags WHERE tag IN ({marks}))")  # noqa: S608 - question marks
        values.extend(tags)
    return " AND ".join(where), tuple(values)


def _after(prefix: str) -> str:
    """Return the smallest text that is greater than all that start with the prefix."""
    return prefix + "\U0010ffff" * 130  # past any key: one has 512 bytes at most
