"""Mailboxes and messages as rows of the file."""

from __future__ import annotations

from msgspec import Struct

from tertulia.engines._file_format import crc32, encode


class Message(Struct, gc=False):
    """A message's row; `body` is None where it lies beside."""

    place: int
    sequence: int
    box: int
    message_id: str
    state: int
    due: float
    attempt: int
    failures: int
    flags: int
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
                    self.place, self.sequence, self.box, self.message_id, self.state, self.due, self.attempt,
                    self.failures, self.flags, self.stored_at, self.notes, self.body_crc,
                )
            )
        )  # fmt: skip


class Box(Struct, gc=False):
    """A mailbox's row, after the last change."""

    name: str
    id: int
    size: int
    max_size: int
    when_full: int
    max_attempts: int
    ordered: int
