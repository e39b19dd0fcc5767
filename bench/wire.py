"""How a peer's content becomes bytes; Tertulia has a codec of its own."""

from __future__ import annotations

import json
from typing import Any

import msgspec


def to_bytes(content: object) -> bytes:
    """Encode as JSON, as the users of Redis and NATS do."""
    return json.dumps(content).encode()


def from_bytes(data: bytes) -> Any:
    return json.loads(data)


# What costs least, for a peer that is a floor.
pack = msgspec.msgpack.Encoder().encode
unpack = msgspec.msgpack.Decoder().decode
