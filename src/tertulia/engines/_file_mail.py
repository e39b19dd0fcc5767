"""Messages in the file: storing, claiming and settling them, each inside a session's transaction."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from tertulia._names import topic_matcher
from tertulia.engines._file_format import (
    DEDUP_COUNT,
    DEDUP_WINDOW,
    INLINE_BODY,
    NO_NOTES,
    Execute,
    crc32,
    encode,
    is_intact,
    read_notes,
    row_checksum,
    rows,
)
from tertulia.engines._file_session import Session
from tertulia.engines.base import Claimed, Publish, Send, Sent, Settle
from tertulia.errors import AlreadySettledError, CorruptRecordError, MailboxFullError, UnknownAgentError
from tertulia.records import WhenFull

WAITING, LEASED, DELAYED = range(3)
WHEN_FULL = (WhenFull.REJECT, WhenFull.WAIT, WhenFull.DROP_OLDEST)  # as the file has them: never reorder
FORGET_EVERY = 512  # remembered ids between two looks at whether a mailbox remembers too many

COLUMNS = "sequence, box, message_id, state, due, attempt, failures, dedupe, stored_at, notes, body_crc, crc, body"
_META = 11  # of those columns are covered by `crc`, which follows them
_INSERT = f"INSERT INTO messages({COLUMNS}) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_READY = f"SELECT {COLUMNS} FROM messages WHERE box = ? AND state = 0 ORDER BY sequence LIMIT ?"  # noqa: S608
_BY_ID = f"SELECT {COLUMNS} FROM messages WHERE box = ? AND message_id = ?"  # noqa: S608
_DUE = f"SELECT {COLUMNS} FROM messages WHERE box = ? AND state > 0 AND due <= ? ORDER BY sequence"  # noqa: S608
_ALL = f"SELECT {COLUMNS} FROM messages WHERE box = ? ORDER BY sequence LIMIT ?"  # noqa: S608
_CHANGE = "UPDATE messages SET state = ?, due = ?, attempt = ?, failures = ?, notes = ?, crc = ? WHERE sequence = ?"
_TO_SETTLE = (
    "SELECT m.sequence, m.dedupe, m.body IS NULL, b.id, b.name, b.max_size, b.when_full, b.max_attempts, b.ordered,"
    " b.crc, b.size FROM boxes b CROSS JOIN messages m ON m.box = b.id AND m.message_id = ? WHERE b.name = ?"
)
_LOOK = (
    "SELECT id, ordered, (SELECT min(due) FROM messages WHERE box = b.id AND state > 0),"
    " (SELECT sequence FROM messages WHERE box = b.id AND state = 0 ORDER BY sequence LIMIT 1)"
    " FROM boxes b WHERE name = ?"
)
_SENT = Sent(1)
_DUPLICATE = Sent(0, duplicate=True)
_TAKEN_BY_NOBODY = Sent(0)


class Message(Struct, gc=False):
    """A message's row; `body` is None where it lies beside."""

    sequence: int
    box: int
    message_id: str
    state: int
    due: float
    attempt: int
    failures: int
    dedupe: int
    stored_at: float
    notes: bytes
    body_crc: int
    crc: int
    body: bytes | None

    def checksum(self) -> int:
        """Return the checksum over all but the body."""
        return crc32(
            encode(
                (
                    self.sequence, self.box, self.message_id, self.state, self.due, self.attempt, self.failures,
                    self.dedupe, self.stored_at, self.notes, self.body_crc,
                )
            )
        )  # fmt: skip


class Box(Struct, gc=False):
    """A mailbox's row, after the last change."""

    id: int
    name: str
    max_size: int
    when_full: int
    max_attempts: int
    ordered: int
    crc: int
    size: int


_BOX = "id, name, max_size, when_full, max_attempts, ordered, crc, size"
_BOX_BY_NAME = f"SELECT {_BOX} FROM boxes WHERE name = ?"  # noqa: S608 - constants


def find_box(execute: Execute, name: str) -> Box | None:
    """Return a mailbox."""
    row = execute(_BOX_BY_NAME, (name,)).get
    return None if row is None else checked_box(row)


def checked_box(row: tuple[Any, ...]) -> Box:
    """Return a mailbox, or raise CorruptRecordError that names it."""
    if row_checksum(*row[1:6]) != row[6] or not isinstance(row[7], int):
        raise CorruptRecordError(str(row[1]), "the mailbox does not match its checksum")
    return Box(*row)


def look(execute: Execute, name: str) -> tuple[int, int, float | None, int | None]:
    """Return a mailbox's number, whether it is ordered, when something is due, and its oldest waiting message.

    Raises UnknownAgentError.
    """
    found = execute(_LOOK, (name,)).get
    if found is None:
        raise UnknownAgentError(name)
    return found


def load(row: tuple[Any, ...]) -> Message:
    """Return a message, or raise CorruptRecordError that names it. A body that lies beside is not looked at."""
    if crc32(encode(row[:_META])) != row[_META]:
        raise CorruptRecordError(str(row[2]), "the message does not match its checksum")
    if row[12] is not None and not is_intact(row[12], row[10]):
        raise CorruptRecordError(str(row[2]), "the message's body does not match its checksum")
    return Message(*row)


def body_of(execute: Execute, message: Message) -> bytes:
    """Return a message's body, or raise CorruptRecordError."""
    if message.body is not None:
        return message.body
    body = execute("SELECT body FROM bodies WHERE sequence = ?", (message.sequence,)).get
    if body is None or not is_intact(body, message.body_crc):
        raise CorruptRecordError(message.message_id, "the message's body does not match its checksum")
    return body


def browse(execute: Execute, box: int, limit: int, message_id: str | None) -> list[Message]:
    """Return stored messages, oldest first."""
    sql, value = (_ALL, limit) if message_id is None else (_BY_ID, message_id)
    return [load(row) for row in rows(execute(sql, (box, value)).get)]


# --- sending ---


class Sending:
    """The sends of one commit: what is dropped for them was waiting before it began."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._droppable: dict[int, int] = {}

    def send(self, send: Send | Publish) -> Sent:
        """Store a message. Raises UnknownAgentError and MailboxFullError."""
        if isinstance(send, Publish):
            return self._publish(send)
        box = find_box(self._session.execute, send.mailbox)
        if box is not None:
            return self._store(box, send)
        if hand_to_listener(self._session, send):
            return _SENT
        if send.optional:
            return _TAKEN_BY_NOBODY
        raise UnknownAgentError(send.mailbox)

    def _publish(self, publish: Publish) -> Sent:
        boxes = [box for box in subscribers(self._session, publish.topic) if box is not None]
        outcomes = [self._store(box, publish) for box in boxes]
        return Sent(
            sum(outcome.delivered for outcome in outcomes),
            bool(outcomes) and all(outcome.duplicate for outcome in outcomes),
            tuple(gone for outcome in outcomes for gone in outcome.dropped),
        )

    def _store(self, box: Box, send: Send | Publish) -> Sent:
        if _is_known(self._session, box.id, send):
            return _DUPLICATE
        dropped: tuple[tuple[str, str], ...] = ()
        if box.size >= box.max_size:
            dropped = self._make_room(box)
        session = self._session
        notes = encode(send.notes) if send.notes else NO_NOTES
        state, due = WAITING, 0.0
        if send.delay > 0.0:
            state, due = DELAYED, session.clock.now() + send.delay
        insert(session, box, send.message_id, send.body, state, due, int(send.dedupe), notes)
        session.execute("UPDATE boxes SET size = ? WHERE id = ?", (box.size, box.id))
        return Sent(1, dropped=dropped) if dropped else _SENT

    def _make_room(self, box: Box) -> tuple[tuple[str, str], ...]:
        """Drop what waits longest, of what waited before this commit, until one more fits."""
        session = self._session
        if WHEN_FULL[box.when_full] is not WhenFull.DROP_OLDEST:
            raise MailboxFullError(box.name, box.size, waits=WHEN_FULL[box.when_full] is WhenFull.WAIT)
        if box.id not in self._droppable:
            return_due(session, box)
            waiting = session.execute("SELECT count(*) FROM messages WHERE box = ? AND state = 0", (box.id,)).get
            self._droppable[box.id] = waiting
        excess = box.size + 1 - box.max_size
        if excess > self._droppable[box.id]:
            raise MailboxFullError(box.name, box.size)
        self._droppable[box.id] -= excess
        dropped: list[tuple[str, str]] = []
        for row in rows(session.execute(_READY, (box.id, excess)).get):
            _remove(session, row[0], beside=row[12] is None)
            box.size -= 1
            dropped.append((box.name, row[2]))
        return tuple(dropped)


def insert(
    session: Session, box: Box, message_id: str, body: bytes, state: int, due: float, dedupe: int, notes: bytes
) -> None:
    """Store a message as the newest of its mailbox; the mailbox's row is the caller's to write."""
    session.sequence += 1
    beside = len(body) > INLINE_BODY
    message = Message(
        session.sequence, box.id, message_id, state, due, 0, 0, dedupe, session.clock.time(), notes, crc32(body), 0,
        None if beside else body,
    )  # fmt: skip
    session.execute(
        _INSERT,
        (
            message.sequence, box.id, message_id, state, due, 0, 0, dedupe, message.stored_at, notes,
            message.body_crc, message.checksum(), message.body,
        ),
    )  # fmt: skip
    if beside:
        session.execute("INSERT INTO bodies(sequence, body) VALUES(?, ?)", (session.sequence, body))
    box.size += 1
    session.claimable(box.name)  # delayed ones too: who waits learns when they are due


def subscribers(session: Session, topic: str) -> list[Box | None]:
    """Return every mailbox with a pattern that matches, each once, in order of subscription."""
    if session.patterns[0] != session.topics:
        by_pattern: dict[str, list[tuple[int, str]]] = {}
        for box, name, pattern in session.execute(
            "SELECT t.box, b.name, t.pattern FROM topics t JOIN boxes b ON b.id = t.box ORDER BY t.id"
        ).fetchall():
            by_pattern.setdefault(pattern, []).append((box, name))
        session.patterns = (session.topics, by_pattern)
    names: dict[str, None] = {}
    for pattern, boxes in session.patterns[1].items():
        if topic_matcher(pattern)(topic):
            names.update(dict.fromkeys(name for _, name in boxes))
    return [find_box(session.execute, name) for name in names]


def hand_to_listener(session: Session, send: Send) -> bool:
    """Give a message to whoever listens to its mailbox, if anybody does."""
    found = session.listener_of(send.mailbox)
    if found is None:
        return False
    session.sequence += 1
    letter = Claimed(send.mailbox, send.message_id, send.body, session.sequence)
    instance, path = found
    if instance == session.instance:
        session.effects.letters.append((send.mailbox, letter))
        return True
    crc = crc32(send.body, row_checksum(send.mailbox, send.message_id, session.sequence))
    session.execute(
        "INSERT INTO letters(sequence, instance, name, message_id, crc, body) VALUES(?, ?, ?, ?, ?, ?)",
        (session.sequence, instance, send.mailbox, send.message_id, crc, send.body),
    )
    session.effects.posts.append((instance, path, letter))
    return True


def _is_known(session: Session, box: int, send: Send | Publish) -> bool:
    place = (box, send.message_id)
    if session.execute("SELECT 1 FROM messages WHERE box = ? AND message_id = ?", place).get is not None:
        return True
    if not send.dedupe:
        return False
    until = session.execute("SELECT until FROM markers WHERE box = ? AND message_id = ?", place).get
    return until is not None and until > session.clock.now()


# --- claiming ---


def claim(session: Session, name: str, limit: int, lease: float) -> list[Claimed]:
    """Take up to `limit` messages under a lease, oldest first. Raises UnknownAgentError."""
    box = find_box(session.execute, name)
    if box is None:
        raise UnknownAgentError(name)
    return_due(session, box)
    if box.ordered:
        if is_held_back(session.execute, box.id):
            return []
        limit = 1
    due = session.clock.now() + lease
    until = session.clock.in_process(due)
    taken: list[Claimed] = []
    found = rows(session.execute(_READY, (box.id, limit + 1)).get)
    if len(found) > limit and not box.ordered:
        session.effects.boxes.append(name)  # there is more for the next consumer here
    for row in found[:limit]:
        message = load(row)
        change(session, message, LEASED, due, attempt=message.attempt + 1)
        taken.append(
            Claimed(
                name, message.message_id, body_of(session.execute, message), message.sequence, message.attempt,
                message.failures, read_notes(message.notes), False, until, box.max_attempts,  # noqa: FBT003 - transient
            )
        )  # fmt: skip
    return taken


def is_held_back(execute: Execute, box: int) -> bool:
    """Tell whether an ordered mailbox waits for a message that is leased or delayed."""
    first = execute("SELECT min(sequence) FROM messages WHERE box = ? AND state = 0", (box,)).get
    leased = execute("SELECT 1 FROM messages WHERE box = ? AND state = 1 LIMIT 1", (box,)).get
    delayed = execute("SELECT min(sequence) FROM messages WHERE box = ? AND state = 2", (box,)).get
    return leased is not None or (delayed is not None and (first is None or delayed < first))


def return_due(session: Session, box: Box) -> None:
    """Give back what is due: delayed messages, and those whose lease ran out."""
    for row in rows(session.execute(_DUE, (box.id, session.clock.now())).get):
        message = load(row)
        failures = message.failures + (message.state == LEASED)
        change(session, message, WAITING, 0.0, failures=failures)
        session.claimable(box.name)


def change(
    session: Session,
    message: Message,
    state: int,
    due: float,
    *,
    attempt: int | None = None,
    failures: int | None = None,
    notes: bytes | None = None,
) -> None:
    """Write a message's new state."""
    message.state, message.due = state, due
    if attempt is not None:
        message.attempt = attempt
    if failures is not None:
        message.failures = failures
    if notes is not None:
        message.notes = notes
    session.execute(
        _CHANGE,
        (state, due, message.attempt, message.failures, message.notes, message.checksum(), message.sequence),
    )


def leased(session: Session, claimed: Claimed) -> Message | None:
    """Return the message if this attempt still holds its lease."""
    found = session.execute(
        f"SELECT {COLUMNS} FROM messages WHERE sequence = ? AND message_id = ?",  # noqa: S608 - constants
        (claimed.sequence, claimed.message_id),
    ).get
    message = None if found is None else load(found)
    if message is None or message.state != LEASED or message.attempt != claimed.attempt:
        return None
    return message if message.due > session.clock.now() else None


def unclaim(session: Session, claims: list[Claimed]) -> None:
    """Take claims back that nobody got: the attempts do not count."""
    for claimed in claims:
        message = leased(session, claimed)
        if message is not None:
            change(session, message, WAITING, 0.0, attempt=message.attempt - 1)
            session.claimable(claimed.mailbox)


# --- settling ---


def settle(session: Session, settle: Settle) -> None:
    """Take a stored message out for good. Raises AlreadySettledError."""
    found = session.execute(_TO_SETTLE, (settle.message_id, settle.mailbox)).get
    if found is None or (settle.sequence and found[0] != settle.sequence):
        raise AlreadySettledError(settle.mailbox, settle.message_id)
    box = checked_box(found[3:])
    _remove(session, found[0], beside=bool(found[2]))
    session.execute("UPDATE boxes SET size = size - 1 WHERE id = ?", (box.id,))
    if found[1]:
        _remember(session, box.id, settle.message_id)
    if box.size >= box.max_size:
        session.roomier(box.name)
    if box.ordered:
        session.claimable(box.name)


def _remove(session: Session, sequence: int, *, beside: bool) -> None:
    session.execute("DELETE FROM messages WHERE sequence = ?", (sequence,))
    if beside:
        session.execute("DELETE FROM bodies WHERE sequence = ?", (sequence,))


def _remember(session: Session, box: int, message_id: str) -> None:
    now = session.clock.now()
    session.execute(
        "INSERT OR REPLACE INTO markers(box, message_id, until) VALUES(?, ?, ?)", (box, message_id, now + DEDUP_WINDOW)
    )
    session.execute(
        "DELETE FROM markers WHERE id IN (SELECT id FROM markers WHERE box = ? AND until <= ? LIMIT 2)", (box, now)
    )
    if session.sequence % FORGET_EVERY == 0:
        session.execute(
            "DELETE FROM markers WHERE id IN"
            " (SELECT id FROM markers WHERE box = ? ORDER BY until DESC LIMIT -1 OFFSET ?)",
            (box, DEDUP_COUNT),
        )
