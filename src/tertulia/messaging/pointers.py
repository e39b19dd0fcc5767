"""Pointers: what a message carries in place of a content that is kept in the space once for all its receivers.

The claim check of Hohpe and Woolf, "Enterprise Integration Patterns" (2003).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from tertulia.engines.base import STAMP
from tertulia.errors import DecodeError
from tertulia.records import Message

POINTER_HEADER = "tertulia-pointer"
CONTENTS = "_tertulia:content:"
LEDGERS = "_tertulia:pointers:"
DIGEST_DIGITS = 32  # 128 bits: nobody meets two contents of one digest by chance

_HEADER = re.compile(r"([0-9a-f]{32}):([0-9a-f]{12}):(\d{1,12})(?::(\d{1,20}))?", re.ASCII)


class Pointer(Struct, frozen=True, kw_only=True, gc=False):
    """Where a content is: a copy of it, at a revision, with a digest of its bytes and their number.

    `revision` is None while only the message's stamp knows it: the content was written in the same commit.
    """

    digest: str
    copy: str
    size: int
    revision: int | None = None

    @property
    def key(self) -> str:
        """The key that the content is kept under."""
        return f"{CONTENTS}{self.digest}:{self.copy}"

    @property
    def ledger(self) -> str:
        """The key of the ledger that counts the pointers to it."""
        return LEDGERS + self.digest

    @property
    def header(self) -> str:
        """The pointer as a header's text."""
        known = "" if self.revision is None else f":{self.revision}"
        return f"{self.digest}:{self.copy}:{self.size}{known}"


def digest_of(body: bytes) -> str:
    """Return the digest of a content's bytes: of SHA-256, which processors have instructions for, the first half."""
    return hashlib.sha256(body).hexdigest()[:DIGEST_DIGITS]


def has_pointer(message: Message) -> bool:
    """Tell whether the message came with a pointer in place of its content."""
    return message.headers is not None and POINTER_HEADER in message.headers


def pointer_of(message: Message, notes: Sequence[bytes] = ()) -> Pointer:
    """Return the pointer of a message that has one; its revision comes from the stamp where it is not in the header.

    Only the library's own contents can be pointed at, whatever a sender wrote. Raises DecodeError.
    """
    text = (message.headers or {}).get(POINTER_HEADER, "")
    found = _HEADER.fullmatch(text)
    if found is None:
        raise DecodeError(f"message {message.id!r} has a pointer that is none: {text[:100]!r}")
    digest, copy, size, revision = found.groups()
    known = _stamped_revision(notes) if revision is None else int(revision)
    return Pointer(digest=digest, copy=copy, size=int(size), revision=known)


def without_pointer(message: Message) -> Message:
    """Return the message without the header of a pointer: whoever sends a content on sends it, not the pointer."""
    headers = {name: text for name, text in (message.headers or {}).items() if name != POINTER_HEADER}
    return replace(message, headers=headers or None)


def _stamped_revision(notes: Sequence[bytes]) -> int | None:
    if not notes or not notes[0].startswith(STAMP):
        return None
    return int(notes[0].removeprefix(STAMP).partition(b":")[0])
