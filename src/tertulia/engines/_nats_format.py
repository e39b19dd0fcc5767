"""What is stored under a space's subjects, as MessagePack arrays; a format of our own, so it carries a number.

Each begins with its kind, the id of the operation that wrote it, and the sequence of what it replaced (0: nothing).
The id tells a writer that lost an acknowledgement whether it was its own write that is there; the sequence makes of a
subject's messages a chain, in which a watcher sees at once whether it missed one.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from tertulia.engines.base import STAMP, Change, Record
from tertulia.errors import CorruptRecordError
from tertulia.records import ChangeKind

FORMAT = 1
LIVE, GONE, EXPIRED, ROLL = 1, 2, 3, 4  # kinds; of a key that is gone, GONE was deleted
WAITING, LEASED, DELAYED = range(3)
STATES = ("waiting", "leased", "delayed")
MAX_NOTES_BYTES = 32 * 1024  # of notes that travel with a message: six tracebacks; beyond it the oldest go

T = TypeVar("T")


class Head(Struct, array_like=True, gc=False):
    """What all have in common."""

    kind: int
    op: str
    prev: int


class KeyState(Struct, array_like=True, gc=False):
    """A key: its record, or when it went. `created_revision` 0 means this very write.

    `horizon` is the instant from which on all that this replaced would be over by its own time to live, if a server
    brought it back; the server must not remove this before that.
    """

    kind: int
    op: str
    prev: int
    at: float
    body: bytes = b""
    owner: str = ""
    version: int = 0
    created_revision: int = 0
    created: float = 0.0
    ttl: float | None = None
    expires: float | None = None
    tags: tuple[str, ...] = ()
    access_count: int = 0
    horizon: float = 0.0

    def record(self, key: str, revision: int) -> Record:
        """Return the record that was written at a revision."""
        return Record(
            key, self.body, self.owner, self.version, revision, self.created_revision or revision, self.created,
            self.at, self.ttl, self.expires, self.tags, self.access_count,
        )  # fmt: skip

    def change(self, key: str, revision: int) -> Change:
        """Return the change that this write was."""
        if self.kind == LIVE:
            return Change(ChangeKind.PUT, key, revision, self.at, self.record(key, revision))
        return Change(ChangeKind.DELETE if self.kind == GONE else ChangeKind.EXPIRE, key, revision, self.at)


class Letter(Struct, array_like=True, gc=False):
    """A message to a listener."""

    mailbox: str
    message_id: str
    body: bytes
    sequence: int = 0
    transient: bool = False  # emitted, so it comes at most once
    via: str = ""  # the subject of the request that this is the end of
    author: str = ""  # not what a receiver relies on: that is the subject that it came by


class MailState(Struct, array_like=True, gc=False):
    """A message in a mailbox, with what became of it so far; or, of kind GONE, that it was settled.

    `first` is the sequence it was stored at (0: this one), `origin` the operation that stored it. `due` is when a lease
    or a delay ends, by the server's clock. `home` is the listener that waits for an answer and looks for it here. A
    settled message's `at` is when that was, `box` the mailbox's creation, and `remembered` says that its id counts as
    known for the deduplication window. A `stamp` is how far before the message the put it is about was stored, and the
    version that this gave its key: a batch is stored in one piece, so the distance is known before the sequences are. A
    `lasting` marker has no time to live. Of kind ROLL it is no message: see `_nats_roll`.
    """

    kind: int
    op: str
    prev: int
    origin: str = ""
    first: int = 0
    at: float = 0.0
    body: bytes = b""
    dedupe: bool = False
    state: int = WAITING
    due: float = 0.0
    attempt: int = 0
    failures: int = 0
    notes: tuple[bytes, ...] = ()
    home: str = ""
    box: int = 0
    remembered: bool = False
    letters: tuple[Letter, ...] = ()
    stamp: tuple[int, int] | None = None
    lasting: bool = False

    def notes_at(self, first: int) -> tuple[bytes, ...]:
        """Return the notes of a message that was stored at a sequence, that of its stamp first."""
        if self.stamp is None:
            return self.notes
        before, version = self.stamp
        return (STAMP + b"%d:%d" % (first - before, version), *self.notes)


class BoxState(Struct, array_like=True, gc=False):
    """A mailbox: its settings and subscriptions; of kind GONE, that it was closed."""

    kind: int
    op: str
    prev: int
    created: int = 0
    max_size: int = 0
    when_full: str = "reject"
    max_attempts: int = 0
    ordered: bool = False
    patterns: tuple[str, ...] = ()


class LetterState(Struct, array_like=True, gc=False):
    """A stored letter; of kind GONE, that it was handed over."""

    kind: int
    op: str
    prev: int
    letter: Letter | None = None


class Entry(Struct, array_like=True, gc=False):
    """A change in the history: the key, the revision, and its state then."""

    key: str
    revision: int
    state: msgspec.Raw


class Entries(Struct, array_like=True, gc=False):
    """Changes that were sent to the history together."""

    changes: tuple[Entry, ...]


encode = msgspec.msgpack.Encoder().encode
decode_head = msgspec.msgpack.Decoder(Head).decode
_KEYS = msgspec.msgpack.Decoder(KeyState)
_MAIL = msgspec.msgpack.Decoder(MailState)
_BOXES = msgspec.msgpack.Decoder(BoxState)
_LETTERS = msgspec.msgpack.Decoder(LetterState)
_LETTER = msgspec.msgpack.Decoder(Letter)
_ENTRIES = msgspec.msgpack.Decoder(Entries)


def _decoded(decoder: msgspec.msgpack.Decoder[T], what: str, data: Any) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CorruptRecordError(what, f"its bytes cannot be read: {error}") from error


def key_state(key: str, data: Any) -> KeyState:
    """Return a key's state. Raises CorruptRecordError."""
    return _decoded(_KEYS, key, data)


def mail_state(message_id: str, data: Any) -> MailState:
    """Return a message's state. Raises CorruptRecordError."""
    return _decoded(_MAIL, message_id, data)


def box_state(mailbox: str, data: Any) -> BoxState:
    """Return a mailbox's state. Raises CorruptRecordError."""
    return _decoded(_BOXES, mailbox, data)


def letter_state(mailbox: str, data: Any) -> LetterState:
    """Return a stored letter. Raises CorruptRecordError."""
    return _decoded(_LETTERS, mailbox, data)


def read_letter(data: Any) -> Letter:
    """Return a letter that was handed over. Raises CorruptRecordError."""
    return _decoded(_LETTER, "a letter", data)


def read_entries(data: Any) -> tuple[Entry, ...]:
    """Return changes of the history. Raises CorruptRecordError."""
    return _decoded(_ENTRIES, "the history", data).changes


def bounded_notes(notes: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Return notes without the oldest, where together they are too large to travel; a stamp stays."""
    if not notes:
        return notes
    size = sum(map(len, notes))
    stamp = notes[:1] if notes and notes[0].startswith(STAMP) else ()
    notes = notes[len(stamp) :]
    while size > MAX_NOTES_BYTES and len(notes) > 1:
        size -= len(notes[0])
        notes = notes[1:]
    return (*stamp, *notes)
