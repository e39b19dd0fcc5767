"""What a session knows of the file since it last wrote there: good for its next transaction if nobody else wrote since.

Whether somebody did, SQLite tells for nothing once a transaction has begun. An agent that works with the space by
itself for a while is so spared reading again what it has just written; another one's commit makes all of it void.
"""

from __future__ import annotations

from typing import TypeVar

from tertulia.engines._file_rows import Box, Message
from tertulia.engines.base import Record

K = TypeVar("K")
V = TypeVar("V")

KNOWN = 4_096  # of each kind: a team's working set, some 4 MiB at most
KNOWN_BODY = 1_024  # bytes of a record's body; for larger ones reading is the smaller part of writing


class Known:
    """Records by key with their places, mailboxes by name, and messages by sequence, as they are in the file.

    Whoever writes one of them through the session puts it here, or takes it out.
    """

    __slots__ = ("boxes", "messages", "records")

    def __init__(self) -> None:
        self.records: dict[str, tuple[int, Record]] = {}
        self.boxes: dict[str, Box] = {}
        self.messages: dict[int, Message] = {}

    def keep_record(self, place: int, record: Record) -> None:
        """Know a record, unless it is too large to be kept."""
        if len(record.body) <= KNOWN_BODY:
            _keep(self.records, record.key, (place, record))
        else:
            self.records.pop(record.key, None)

    def keep_box(self, box: Box) -> None:
        """Know a mailbox; what changes it in the file must change this object too."""
        _keep(self.boxes, box.name, box)

    def keep_message(self, message: Message) -> None:
        """Know a message as it was just written."""
        _keep(self.messages, message.sequence, message)

    def clear(self) -> None:
        """Know nothing any more."""
        self.records.clear()
        self.boxes.clear()
        self.messages.clear()


def _keep(known: dict[K, V], name: K, value: V) -> None:
    known[name] = value
    if len(known) > KNOWN:
        del known[next(iter(known))]  # the one that was new the longest ago
