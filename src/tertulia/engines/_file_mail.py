"""Messages in the file: storing, claiming and settling them, each inside a session's transaction."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import msgspec

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
    place_in,
    read_notes,
    row_checksum,
    rows,
)
from tertulia.engines._file_rows import Box, Message
from tertulia.engines._file_session import HandedOver, Session
from tertulia.engines._file_time import FileClock
from tertulia.engines.base import Claimed, Publish, Send, Sent, Settle
from tertulia.errors import (
    AlreadySettledError,
    CorruptRecordError,
    EngineError,
    MailboxFullError,
    UnknownAgentError,
)
from tertulia.records import WhenFull

WAITING, LEASED, DELAYED = range(3)
WHEN_FULL = (WhenFull.REJECT, WhenFull.WAIT, WhenFull.DROP_OLDEST)  # as the file has them: never reorder
DEDUPE = 1  # of a message's flags: its id is remembered after it was settled
WAITS = (WAITING, 0.0, 0)  # state, time when it is due, and attempts of a message that was just sent
HANDED = 32 * 1024  # bytes of a message that may be handed over: with its names it fits into a datagram
FORGET_EVERY = 512  # remembered ids between two looks at whether a mailbox remembers too many

COLUMNS = (
    "place, sequence, box, message_id, state, due, attempt, failures, flags, stored_at, notes, body_crc, crc, body"
)
_META = 12  # of those columns are covered by `crc`, which follows them
_INSERT = f"INSERT INTO messages({COLUMNS}) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_READY = f"SELECT {COLUMNS} FROM messages WHERE box = ? AND due = 0.0 ORDER BY sequence LIMIT ?"  # noqa: S608
_BY_PLACE = f"SELECT {COLUMNS} FROM messages WHERE place = ?"  # noqa: S608
_DUE = f"SELECT {COLUMNS} FROM messages WHERE box = ? AND due > 0.0 AND due <= ?"  # noqa: S608
_ALL = f"SELECT {COLUMNS} FROM messages WHERE box = ? ORDER BY sequence LIMIT ?"  # noqa: S608
_CHANGE = (
    "UPDATE messages SET state = ?, due = ?, attempt = ?, failures = ?, flags = ?, notes = ?, crc = ? WHERE place = ?"
)
_LOOK = (
    "SELECT id, packed, (SELECT due FROM messages WHERE box = h.id AND due > 0.0 ORDER BY due LIMIT 1),"
    " (SELECT sequence FROM messages WHERE box = h.id AND due = 0.0 ORDER BY sequence LIMIT 1)"
    " FROM heads h WHERE name = ?"
)
_HANDED = "FROM messages WHERE box = ? AND due > ? AND state = 1 AND attempt = 1 AND flags >> 1 = ?"
_HANDED_TO = f"SELECT {COLUMNS} {_HANDED}"
_SEQUENCES_HANDED_TO = f"SELECT sequence {_HANDED}"
_WHOSE = "SELECT box, message_id FROM messages WHERE place = ?"
_sequence = attrgetter("sequence")
_SENT = Sent(1)
_DUPLICATE = Sent(0, duplicate=True)
_TAKEN_BY_NOBODY = Sent(0)


HEADS = "SELECT name, id, size, packed, crc FROM heads"
_BOX = HEADS + " WHERE name = ?"
RESIZE = "UPDATE heads SET size = ? WHERE name = ?"
_read_settings = msgspec.msgpack.Decoder(tuple[int, int, int, int]).decode


def pack_settings(name: str, number: int, settings: tuple[int, int, int, int]) -> tuple[bytes, int]:
    """Return what is stored of the size limit, what happens when full, the attempts and whether it is ordered."""
    packed = encode(settings)
    return packed, row_checksum(name, number, packed)


def find_box(execute: Execute, name: str) -> Box | None:
    """Return a mailbox."""
    row = execute(_BOX, (name,)).get
    return None if row is None else load_box(row)


def known_box(session: Session, name: str) -> Box | None:
    """Return a mailbox inside a session's transaction; whoever changes it in the file changes the object too."""
    box = session.known.boxes.get(name)
    if box is None and (box := find_box(session.execute, name)) is not None:
        session.known.keep_box(box)
    return box


def load_box(row: tuple[Any, ...]) -> Box:
    """Return a mailbox, or raise CorruptRecordError that names it."""
    name, number, size, packed, crc = row
    if row_checksum(name, number, packed) != crc or not isinstance(size, int):
        raise CorruptRecordError(str(name), "the mailbox does not match its checksum")
    return Box(name, number, size, *_read_settings(packed))


def look(execute: Execute, name: str) -> tuple[int, int, float | None, int | None]:
    """Return a mailbox's number, whether it is ordered, when something is due, and its oldest waiting message.

    Raises UnknownAgentError.
    """
    found = execute(_LOOK, (name,)).get
    if found is None:
        raise UnknownAgentError(name)
    number, packed, due, ready = found
    return number, _read_settings(packed)[3], due, ready


def load(row: tuple[Any, ...]) -> Message:
    """Return a message, or raise CorruptRecordError that names it. A body that lies beside is not looked at."""
    if crc32(encode(row[:_META])) != row[_META]:
        raise CorruptRecordError(str(row[3]), "the message does not match its checksum")
    if row[13] is not None and not is_intact(row[13], row[11]):
        raise CorruptRecordError(str(row[3]), "the message's body does not match its checksum")
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
    if message_id is None:
        return [load(row) for row in rows(execute(_ALL, (box, limit)).get)]
    message = find(execute, box, message_id)
    return [] if message is None else [message]


def find(execute: Execute, box: int, message_id: str) -> Message | None:
    """Return a stored message by its id."""
    row = execute(_BY_PLACE, (place_in(box, message_id),)).get
    if row is None:
        return None
    message = load(row)
    return message if (message.box, message.message_id) == (box, message_id) else None


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
        box = known_box(self._session, send.mailbox)
        if box is not None:
            return self._store(box, send)
        if hand_to_listener(self._session, send):
            return _SENT
        if send.optional:
            return _TAKEN_BY_NOBODY
        raise UnknownAgentError(send.mailbox)

    def _publish(self, publish: Publish) -> Sent:
        boxes = [known_box(self._session, name) for name in subscribers(self._session, publish.topic)]
        outcomes = [self._store(box, publish) for box in boxes if box is not None]
        return Sent(
            sum(outcome.delivered for outcome in outcomes),
            bool(outcomes) and all(outcome.duplicate for outcome in outcomes),
            tuple(gone for outcome in outcomes for gone in outcome.dropped),
        )

    def _store(self, box: Box, send: Send | Publish) -> Sent:
        place = place_in(box.id, send.message_id)
        if _is_known(self._session, box, place, send):
            return _DUPLICATE
        dropped: tuple[tuple[str, str], ...] = ()
        if box.size >= box.max_size:
            dropped = self._make_room(box)
        session = self._session
        notes = encode(send.notes) if send.notes else NO_NOTES
        stage, flags = WAITS, int(send.dedupe)
        if send.delay > 0.0:
            stage = (DELAYED, session.clock.now() + send.delay, 0)
        elif box.size == 0 and not box.ordered and (handed := _hand_over(session, box, send, notes)):
            stage, flags = (LEASED, handed.due, 1), flags | _mark_of(handed.instance)
        insert(session, box, place, send.message_id, send.body, stage, flags, notes)
        session.execute(RESIZE, (box.size, box.name))
        return Sent(1, dropped=dropped) if dropped else _SENT

    def _make_room(self, box: Box) -> tuple[tuple[str, str], ...]:
        """Drop what waits longest, of what waited before this commit, until one more fits."""
        session = self._session
        if WHEN_FULL[box.when_full] is not WhenFull.DROP_OLDEST:
            raise MailboxFullError(box.name, box.size, waits=WHEN_FULL[box.when_full] is WhenFull.WAIT)
        if box.id not in self._droppable:
            return_due(session, box)
            waiting = session.execute("SELECT count(*) FROM messages WHERE box = ? AND due = 0.0", (box.id,)).get
            self._droppable[box.id] = waiting
        excess = box.size + 1 - box.max_size
        if excess > self._droppable[box.id]:
            raise MailboxFullError(box.name, box.size)
        self._droppable[box.id] -= excess
        dropped: list[tuple[str, str]] = []
        for row in rows(session.execute(_READY, (box.id, excess)).get):
            message = load(row)
            _remove(session, message)
            box.size -= 1
            dropped.append((box.name, message.message_id))
        return tuple(dropped)


def insert(
    session: Session,
    box: Box,
    place: int,
    message_id: str,
    body: bytes,
    stage: tuple[int, float, int],
    flags: int,
    notes: bytes,
) -> None:
    """Store a message as the newest of its mailbox; the mailbox's row is the caller's to write."""
    session.sequence = sequence = session.sequence + 1
    beside = len(body) > INLINE_BODY
    covered = (
        place, sequence, box.id, message_id, *stage, 0, flags, session.clock.time(), notes, crc32(body),
    )  # fmt: skip
    session.execute(_INSERT, (*covered, crc32(encode(covered)), None if beside else body))
    if beside:
        session.execute("INSERT INTO bodies(sequence, body) VALUES(?, ?)", (session.sequence, body))
    box.size += 1
    if stage[0] != LEASED:
        session.claimable(box.name)  # delayed ones too: who waits learns when they are due


def _hand_over(session: Session, box: Box, send: Send | Publish, notes: bytes) -> HandedOver | None:
    """Claim the message that is about to be stored for who waits for it, if only one process does."""
    claimant = session.only_claimant(box.name)
    if claimant is None or len(send.body) + len(notes) > HANDED:
        return None
    instance, path, lease = claimant
    claimed = Claimed(
        box.name, send.message_id, send.body, session.sequence + 1, notes=send.notes, max_attempts=box.max_attempts
    )
    handed = HandedOver(instance, path, claimed, session.clock.now() + lease)
    session.effects.handed.append(handed)
    return handed


def _mark_of(instance: str) -> int:
    """Return the flags of a message that was handed over to a process: a number for it, beside the first bit."""
    return crc32(instance.encode()) << 1


def handed_to(execute: Execute, clock: FileClock, name: str, instance: str) -> list[Claimed]:
    """Return the messages of a mailbox that were handed over to a process, and are still leased to it."""
    box = find_box(execute, name)
    if box is None:
        return []
    found = rows(execute(_HANDED_TO, (box.id, clock.now(), _mark_of(instance) >> 1)).get)
    return [_as_claimed(execute, box, load(row), clock) for row in found]


def _as_claimed(execute: Execute, box: Box, message: Message, clock: FileClock) -> Claimed:
    return Claimed(
        box.name, message.message_id, body_of(execute, message), message.sequence, message.attempt, message.failures,
        read_notes(message.notes), False, clock.in_process(message.due), box.max_attempts,  # noqa: FBT003 - transient
    )  # fmt: skip


def subscribers(session: Session, topic: str) -> list[str]:
    """Return the name of every mailbox with a pattern that matches, each once, in order of subscription."""
    if session.patterns[0] != session.topics:
        by_pattern: dict[str, list[tuple[int, str]]] = {}
        for box, name, pattern in session.execute(
            "SELECT t.box, h.name, t.pattern FROM topics t JOIN heads h ON h.id = t.box ORDER BY t.id"
        ).fetchall():
            by_pattern.setdefault(pattern, []).append((box, name))
        session.patterns = (session.topics, by_pattern)
    names: dict[str, None] = {}
    for pattern, boxes in session.patterns[1].items():
        if topic_matcher(pattern)(topic):
            names.update(dict.fromkeys(name for _, name in boxes))
    return list(names)


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


def _is_known(session: Session, box: Box, place: int, send: Send | Publish) -> bool:
    stored = session.execute(_WHOSE, (place,)).get
    if stored is not None:
        if stored != (box.id, send.message_id):
            raise EngineError(f"{send.message_id!r} cannot be told from message {stored[1]!r}; choose another id")
        return True
    if not send.dedupe:
        return False
    marker = session.execute("SELECT box, message_id, until, crc FROM markers WHERE place = ?", (place,)).get
    if marker is None:
        return False
    if row_checksum(*marker[:3]) != marker[3]:
        raise CorruptRecordError(send.message_id, "what was remembered of the message does not match its checksum")
    return marker[:2] == (box.id, send.message_id) and marker[2] > session.clock.now()


# --- claiming ---


def claim(session: Session, name: str, limit: int, lease: float, heard: int = 0) -> list[Claimed] | None:
    """Take up to `limit` messages under a lease, oldest first. Raises UnknownAgentError.

    None where this instance was handed a message and has not heard of it, but only of those up to the sequence `heard`:
    that one comes before them.
    """
    box = known_box(session, name)
    if box is None:
        raise UnknownAgentError(name)
    return_due(session, box)
    if box.ordered:
        if is_held_back(session.execute, box.id):
            return []
        limit = 1
    due = session.clock.now() + lease
    taken: list[Claimed] = []
    found = rows(session.execute(_READY, (box.id, limit + 1)).get)
    if found and len(found) < box.size and any(one > heard for one in _handed_sequences(session, box)):
        return None
    if len(found) > limit and not box.ordered:
        session.effects.boxes.append(name)  # there is more for the next consumer here
    for row in found[:limit]:
        message = load(row)
        change(session, message, LEASED, due, attempt=message.attempt + 1)
        session.known.keep_message(message)
        taken.append(_as_claimed(session.execute, box, message, session.clock))
    return taken


def _handed_sequences(session: Session, box: Box) -> list[int]:
    """Return which messages of a mailbox were handed over to this instance, and are still leased to it."""
    values = (box.id, session.clock.now(), _mark_of(session.instance) >> 1)
    return [sequence for (sequence,) in session.execute(_SEQUENCES_HANDED_TO, values).fetchall()]


def is_held_back(execute: Execute, box: int) -> bool:
    """Tell whether an ordered mailbox waits for a message that is leased or delayed."""
    first = execute("SELECT min(sequence) FROM messages WHERE box = ? AND due = 0.0", (box,)).get
    leased = execute("SELECT 1 FROM messages WHERE box = ? AND due > 0.0 AND state = 1 LIMIT 1", (box,)).get
    delayed = execute("SELECT min(sequence) FROM messages WHERE box = ? AND due > 0.0 AND state = 2", (box,)).get
    return leased is not None or (delayed is not None and (first is None or delayed < first))


def return_due(session: Session, box: Box) -> None:
    """Give back what is due: delayed messages, and those whose lease ran out."""
    for message in sorted(map(load, rows(session.execute(_DUE, (box.id, session.clock.now())).get)), key=_sequence):
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
    flags: int | None = None,
) -> None:
    """Write a message's new state."""
    message.state, message.due = state, due
    if attempt is not None:
        message.attempt = attempt
    if failures is not None:
        message.failures = failures
    if notes is not None:
        message.notes = notes
    if flags is not None:
        message.flags = flags
    session.known.messages.pop(message.sequence, None)
    session.execute(
        _CHANGE,
        (
            state, due, message.attempt, message.failures, message.flags, message.notes, message.checksum(),
            message.place,
        ),
    )  # fmt: skip


def leased(session: Session, claimed: Claimed) -> Message | None:
    """Return the message if this attempt still holds its lease."""
    box = known_box(session, claimed.mailbox)
    message = None if box is None else _find_known(session, box.id, claimed.message_id, claimed.sequence)
    if message is None or message.sequence != claimed.sequence:
        return None
    if message.state != LEASED or message.attempt != claimed.attempt:
        return None
    return message if message.due > session.clock.now() else None


def _find_known(session: Session, box: int, message_id: str, sequence: int) -> Message | None:
    """Return a stored message by its id; its sequence, or 0, helps to find it."""
    message = session.known.messages.get(sequence)
    if message is not None and message.message_id == message_id and message.box == box:
        return message
    return find(session.execute, box, message_id)


def unclaim(session: Session, claims: list[Claimed]) -> None:
    """Take claims back that nobody got.

    The attempt does not count if the message is still the newest. Otherwise another process may have taken a later one
    meanwhile, and only a message that is tried again may be overtaken.
    """
    for claimed in claims:
        message = leased(session, claimed)
        if message is not None:
            attempt = message.attempt - (message.sequence == session.sequence)
            change(session, message, WAITING, 0.0, attempt=attempt, flags=message.flags & DEDUPE)
            session.claimable(claimed.mailbox)


# --- settling ---


def settle(session: Session, settle: Settle) -> None:
    """Take a stored message out for good. Raises AlreadySettledError."""
    box = known_box(session, settle.mailbox)
    message = None if box is None else _find_known(session, box.id, settle.message_id, settle.sequence)
    if box is None or message is None or (settle.sequence and message.sequence != settle.sequence):
        raise AlreadySettledError(settle.mailbox, settle.message_id)
    _remove(session, message)
    was_full = box.size >= box.max_size
    box.size -= 1
    session.execute(RESIZE, (box.size, box.name))
    if message.flags & DEDUPE:
        _remember(session, message)
    if was_full:
        session.roomier(box.name)
    if box.ordered:
        session.claimable(box.name)


def _remove(session: Session, message: Message) -> None:
    session.known.messages.pop(message.sequence, None)
    session.execute("DELETE FROM messages WHERE place = ?", (message.place,))
    if message.body is None:
        session.execute("DELETE FROM bodies WHERE sequence = ?", (message.sequence,))


def _remember(session: Session, message: Message) -> None:
    now = session.clock.now()
    box, until = message.box, now + DEDUP_WINDOW
    session.execute(
        "INSERT OR REPLACE INTO markers(place, box, message_id, until, crc) VALUES(?, ?, ?, ?, ?)",
        (message.place, box, message.message_id, until, row_checksum(box, message.message_id, until)),
    )
    session.execute(
        "DELETE FROM markers WHERE place IN (SELECT place FROM markers WHERE box = ? AND until <= ? LIMIT 2)",
        (box, now),
    )
    if session.sequence % FORGET_EVERY == 0:
        session.execute(
            "DELETE FROM markers WHERE place IN"
            " (SELECT place FROM markers WHERE box = ? ORDER BY until DESC LIMIT -1 OFFSET ?)",
            (box, DEDUP_COUNT),
        )
