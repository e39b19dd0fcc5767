"""The mailboxes themselves in the file: made, changed, removed, subscribed; and figures about all of it."""

from __future__ import annotations

from tertulia.engines._file_format import (
    COUNTERS,
    Execute,
    counters_in,
    encode,
    place_in,
    read_notes,
    row_checksum,
    rows,
)
from tertulia.engines._file_mail import (
    HEADS,
    RESIZE,
    WAITS,
    WHEN_FULL,
    body_of,
    browse,
    find,
    find_box,
    insert,
    load_box,
    pack_settings,
)
from tertulia.engines._file_rows import Box
from tertulia.engines._file_session import Session
from tertulia.engines.base import EngineStats, MailboxCounts, MailboxOptions
from tertulia.errors import UnknownAgentError
from tertulia.records import AgentInfo

EVERYTHING = -1  # SQLite's LIMIT for no limit


def open_box(session: Session, name: str, options: MailboxOptions) -> bool:
    """Make the mailbox, or give it these options; return whether it was made."""
    settings = (options.max_size, WHEN_FULL.index(options.when_full), options.max_attempts, int(options.ordered))
    box = find_box(session.execute, name)
    if box is None:
        session.boxes += 1
        values = (name, session.boxes, *pack_settings(name, session.boxes, settings))
        session.execute("INSERT INTO heads(name, id, size, packed, crc) VALUES(?, ?, 0, ?, ?)", values)
        return True
    if settings != (box.max_size, box.when_full, box.max_attempts, box.ordered):
        values = (*pack_settings(name, box.id, settings), name)
        session.execute("UPDATE heads SET packed = ?, crc = ? WHERE name = ?", values)
        session.known.boxes.pop(name, None)
        session.claimable(name)
        session.roomier(name)
    return False


def close_box(session: Session, name: str, heir: str | None, note: bytes) -> int:
    """Remove the mailbox; its messages go to the heir or are gone. Return how many there were."""
    execute = session.execute
    to = None if heir is None else find_box(execute, heir)
    if heir is not None and to is None:
        raise UnknownAgentError(heir)
    box = find_box(execute, name)
    if box is None:
        return 0
    count = execute("SELECT count(*) FROM messages WHERE box = ?", (box.id,)).get
    if to is not None and to.id != box.id:
        _move(session, box, to, note)
    execute("DELETE FROM bodies WHERE sequence IN (SELECT sequence FROM messages WHERE box = ?)", (box.id,))
    for table in ("messages", "markers", "topics"):
        execute(f"DELETE FROM {table} WHERE box = ?", (box.id,))  # noqa: S608 - names from the line above
    execute("DELETE FROM heads WHERE name = ?", (name,))
    session.known.clear()
    session.topics += 1
    session.claimable(name)  # who waits there learns that it is gone
    session.roomier(name)
    return count


def _move(session: Session, box: Box, heir: Box, note: bytes) -> None:
    for message in browse(session.execute, box.id, EVERYTHING, None):
        message_id = message.message_id
        if find(session.execute, heir.id, message_id) is not None:
            message_id = f"{message_id}#{message.sequence}"
        notes = read_notes(message.notes)
        packed = encode((*notes, note) if note else notes)
        place = place_in(heir.id, message_id)
        insert(session, heir, place, message_id, body_of(session.execute, message), WAITS, 0, packed)
    session.execute(RESIZE, (heir.size, heir.name))


def subscribe(session: Session, name: str, pattern: str) -> bool:
    """Add a topic pattern; return whether it is new."""
    box = _known(session, name)
    if _has(session, box, pattern):
        return False
    session.execute(
        "INSERT INTO topics(box, pattern, crc) VALUES(?, ?, ?)", (box.id, pattern, row_checksum(box.id, pattern))
    )
    session.topics += 1
    return True


def unsubscribe(session: Session, name: str, pattern: str) -> bool:
    """Take a topic pattern away; return whether it was there."""
    box = _known(session, name)
    if not _has(session, box, pattern):
        return False
    session.execute("DELETE FROM topics WHERE box = ? AND pattern = ?", (box.id, pattern))
    session.topics += 1
    return True


def _has(session: Session, box: Box, pattern: str) -> bool:
    found = session.execute("SELECT 1 FROM topics WHERE box = ? AND pattern = ?", (box.id, pattern)).get
    return found is not None


def _known(session: Session, name: str) -> Box:
    box = find_box(session.execute, name)
    if box is None:
        raise UnknownAgentError(name)
    return box


# --- what there is ---


def infos(execute: Execute) -> list[AgentInfo]:
    """Return all mailboxes in name order."""
    patterns: dict[int, list[str]] = {}
    for box, pattern in execute("SELECT box, pattern FROM topics ORDER BY pattern").fetchall():
        patterns.setdefault(box, []).append(pattern)
    return [
        AgentInfo(
            agent_id=box.name,
            max_queue_size=box.max_size,
            when_full=WHEN_FULL[box.when_full],
            max_attempts=box.max_attempts,
            ordered=bool(box.ordered),
            topics=tuple(patterns.get(box.id, ())),
        )
        for box in map(load_box, rows(execute(f"{HEADS} WHERE name != '' ORDER BY name").get))
    ]


def stats(execute: Execute, civil: float, now: float) -> EngineStats:
    """Return figures about the space; the caller holds one read transaction."""
    owners = {
        owner: (count, size)
        for owner, count, size in rows(
            execute(
                "SELECT owner, count(*), sum(length(body)) FROM records WHERE expires IS NULL OR expires > ?"
                " GROUP BY owner",
                (civil,),
            ).get
        )
    }
    counts = {
        name: MailboxCounts(waiting or 0, leased or 0, delayed or 0)
        for name, waiting, leased, delayed in rows(
            execute(
                "SELECT h.name, sum(m.state = 0 OR m.due <= ?), sum(m.state = 1 AND m.due > ?),"
                " sum(m.state = 2 AND m.due > ?) FROM heads h LEFT JOIN messages m ON m.box = h.id"
                " WHERE h.name != '' GROUP BY h.name ORDER BY h.name",
                (now, now, now),
            ).get
        )
    }
    return EngineStats(
        keys=sum(count for count, _ in owners.values()),
        bytes=sum(size for _, size in owners.values()),
        keys_by_owner={owner: count for owner, (count, _) in owners.items()},
        mailboxes=counts,
        topics=execute("SELECT count(DISTINCT pattern) FROM topics").get,
        revision=counters_in(execute(COUNTERS).get)[0],
    )
