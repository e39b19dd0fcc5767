"""Messages through a pipe: each is its length in four bytes, and then MessagePack."""

from __future__ import annotations

import struct

import msgspec

__all__ = ["HEADER", "MAX_FRAME", "Frames", "frame", "length_of"]

MAX_FRAME = 2**30  # bytes; what agents hand over is megabytes at most, so more is a line that is out of step
HEADER = 4

_length = struct.Struct(">I")
_encode = msgspec.msgpack.Encoder().encode


def frame(message: object) -> bytes:
    """Return a message as it goes through the pipe."""
    body = _encode(message)
    return _length.pack(len(body)) + body


def length_of(header: bytes | bytearray) -> int:
    """Return how long the message is that this header announces. Raises ValueError for what is no header."""
    length: int = _length.unpack(header)[0]
    if length > MAX_FRAME:
        raise ValueError(f"a message of {length:,} bytes: somebody else wrote into the pipe")
    return length


class Frames:
    """Puts messages together again from the pieces that a pipe gives."""

    def __init__(self) -> None:
        self._left = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take what came; return the messages that are whole now. Raises ValueError, see length_of."""
        self._left += data
        found: list[bytes] = []
        while len(self._left) >= HEADER:
            end = HEADER + length_of(self._left[:HEADER])
            if len(self._left) < end:
                break
            found.append(bytes(self._left[HEADER:end]))
            del self._left[:end]
        return found
