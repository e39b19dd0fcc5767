"""What is told to the servers of a stream's messages, and what they answer: headers, and JSON."""

from __future__ import annotations

import random
import re
from typing import Any

import msgspec
from msgspec import Struct

from tertulia.engines._nats_client import DESCRIPTION, STATUS
from tertulia.engines._nats_patience import Unanswered
from tertulia.errors import EngineError

_WRONG_SEQUENCE, _IN_FLIGHT = 10071, 10164
_NOT_BEGUN = (10210, 10176)  # too many open batches, a batch that lost a member
_NOT_NOW = (10008, 10023)  # no leader, no resources
NOT_FOUND, NO_STREAM = 10037, 10059
BUSY = 0.002  # seconds, about, until a write in flight beside another is over
_LAST = re.compile(r"wrong last sequence: (\d+)")


class Found(Struct, gc=False):
    """A stored message; `at` is when it was stored, where that is told without asking for it."""

    subject: str
    seq: int
    data: bytes
    at: str = ""


class Write(Struct, gc=False):
    """One message to be stored. `expected`: the sequence that its subject must be at, 0 for none, None for any.

    With `check` the message only carries that expectation for this other subject. `ttl`: whole seconds until the server
    removes it.
    """

    subject: str
    data: bytes
    op: str = ""
    expected: int | None = None
    check: str = ""
    ttl: int = 0

    def headers(self) -> dict[str, str] | None:
        """Return the headers that say so."""
        if self.expected is None and not self.ttl:
            return None
        headers: dict[str, str] = {}
        if self.expected is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(self.expected)
        if self.check:
            headers["Nats-Expected-Last-Subject-Sequence-Subject"] = self.check
        if self.ttl:
            headers["Nats-TTL"] = str(self.ttl)
        return headers


class WrongSequence(Exception):  # noqa: N818 - a signal between the engine's modules
    """A subject is not where a write expected it; nothing was stored. `busy`: another write to it is in flight."""

    def __init__(self, *, busy: bool = False, last: int = -1) -> None:
        super().__init__("a subject has moved on")
        self.busy = busy
        self.last = last


class Refusal(Struct):
    """An error, as the servers tell it."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class Ack(Struct):
    """The answer to a publish."""

    seq: int = 0
    error: Refusal | None = None


class Stored(Struct):
    """A message, as the leader shows it."""

    subject: str
    seq: int
    data: bytes = b""


class Got(Struct):
    """The leader's answer to a read."""

    message: Stored | None = None
    error: Refusal | None = None


class StreamState(Struct, frozen=True):
    """Part of what the server tells of a stream."""

    last_seq: int = 0
    first_seq: int = 0
    messages: int = 0
    bytes: int = 0
    num_subjects: int = 0


class StreamInfo(Struct):
    """What the server tells of a stream; `ts` is its own time."""

    config: dict[str, Any] = {}
    state: StreamState = StreamState()
    created: str = ""
    ts: str = ""
    error: Refusal | None = None
    cluster: dict[str, Any] = {}


decode_ack = msgspec.json.Decoder(Ack).decode
decode_got = msgspec.json.Decoder(Got).decode
decode_info = msgspec.json.Decoder(StreamInfo).decode
encode_request = msgspec.json.Encoder().encode


def found_in(answer: Any) -> Found:
    """Return the message in an answer to a direct get."""
    headers = answer.headers
    return Found(headers["Nats-Subject"], int(headers["Nats-Sequence"]), answer.data, headers["Nats-Time-Stamp"])


def check_nothing(headers: dict[str, str]) -> None:
    """Return None for an answer that says that there is nothing. Raises Unanswered for any other."""
    if headers[STATUS] != "404":
        raise Unanswered(f"the stream answers: {headers[STATUS]} {headers.get(DESCRIPTION, '')}", sent=False)


def failure_of(error: Refusal | None, *, alone: bool = True) -> Exception:
    """Return what an error of the server means. `alone`: no other server can have acted on the same call."""
    if error is None:
        return EngineError("the NATS server's answer cannot be understood")
    if error.err_code in (_WRONG_SEQUENCE, _IN_FLIGHT):
        last = _LAST.search(error.description)
        return WrongSequence(busy=error.err_code == _IN_FLIGHT, last=int(last.group(1)) if last else -1)
    if error.err_code in (*_NOT_BEGUN, *_NOT_NOW) or error.code == 503:  # noqa: PLR2004 - not available
        return Unanswered(error.description, sent=not alone and error.err_code not in _NOT_BEGUN)
    if error.err_code == NO_STREAM:
        return EngineError("the space's stream is gone from the NATS server")
    return EngineError(f"the NATS server refused it: {error.description} ({error.err_code})")


def pause_for(conflict: WrongSequence, attempt: int) -> float:
    """Return how long to wait before the next try at something that others write, too."""
    if attempt <= 1 and not conflict.busy:
        return 0.0
    return BUSY * random.uniform(0.25, 1.0) * min(attempt, 16)  # noqa: S311 - not a secret
