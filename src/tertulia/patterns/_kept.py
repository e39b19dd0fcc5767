"""What the space keeps about leases and those who wait for them: keys, bodies, and how they are read.

Every key starts with `_tertulia:lease:` and every record but the permits of a semaphore has a time to live, so what a
dead process leaves behind goes by itself.

    holder:KIND:SLOT:NAME   a grant. Its creation revision is the fence; a lock and an election have one slot, a
                            semaphore one for each permit.
    line:KIND:NAME          the ids of those who wait, first come first. It is absent while nobody waits.
    wait:ID                 one wait, alive while it is renewed.
    held-up:NODE            the ids of the waits that hold up a node: a grant, or the handling of a message.
    permits:NAME            how many permits a semaphore has.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TypeVar

import msgspec
from msgspec import Struct

from tertulia._codec import decoder_for
from tertulia._names import RESERVED_KEYS, text_fault
from tertulia.engines.base import Engine, Record
from tertulia.errors import CorruptRecordError, InvalidNameError

T = TypeVar("T")

PREFIX = RESERVED_KEYS + "lease:"
HOLDERS = PREFIX + "holder:"
WAITS = PREFIX + "wait:"

LOCK, SEMAPHORE, ELECTION, REQUEST = "lock", "semaphore", "election", "request"

MAX_LEASE_NAME_BYTES = 256  # leaves room for the rest of the key, and for the name of a region's key
WAIT_LEASE = 3.0  # seconds that a dead process's wait still counts, and keeps those behind it waiting
RENEW_WAIT = WAIT_LEASE / 3  # two more chances before it is forgotten; who is forgotten alive only loses its place
LINE_TTL = 600.0  # seconds that a line is kept that nobody looks after any more

_ENCODER = msgspec.msgpack.Encoder()


class Holding(Struct, frozen=True, array_like=True, gc=False):
    """The body of a grant. `token` is the same on all keys of one grant, and no other's."""

    token: str
    agent_id: str
    name: str
    since: float


class Waiting(Struct, frozen=True, array_like=True, gc=False):
    """The body of a wait.

    `names`: what is waited for, all of it; of a request, the one agent that was asked. `slots`: how many may hold
    each. `message_id`: of a request. `owes`: if the wait is made while a request is handled, whether its requester
    still waits for the reply.
    """

    id: str
    kind: str
    agent_id: str
    names: tuple[str, ...]
    since: float
    slots: int = 1
    message_id: str = ""
    owes: bool = True


_HOLDINGS = decoder_for(Holding)
_WAITINGS = decoder_for(Waiting)
_IDS = decoder_for(tuple[str, ...])
_PERMITS = decoder_for(int)


def check_lease_name(name: str) -> str:
    """Return the name of a lock, semaphore or election, or raise InvalidNameError.

    Unlike an agent's it may have levels, so that a lock can have the name of the key that it is about.
    """
    reason = text_fault(name, MAX_LEASE_NAME_BYTES)
    if not reason and name.startswith("_"):
        reason = "names that start with '_' are reserved"
    if not reason and name != name.strip():
        reason = "it starts or ends with white space"
    if reason:
        raise InvalidNameError(name, reason)
    return name


def holder_key(kind: str, name: str, slot: int = 0) -> str:
    """Return the key of a grant."""
    return f"{HOLDERS}{kind}:{slot}:{name}"


def line_key(kind: str, name: str) -> str:
    """Return the key of those who wait."""
    return f"{PREFIX}line:{kind}:{name}"


def wait_key(wait_id: str) -> str:
    """Return the key of one wait."""
    return WAITS + wait_id


def node_key(node: str) -> str:
    """Return the key of the waits that hold up a node."""
    return f"{PREFIX}held-up:{node}"


def permits_key(name: str) -> str:
    """Return the key of a semaphore's number of permits."""
    return f"{PREFIX}permits:{name}"


def grant_node(token: str) -> str:
    """Return the node of a grant."""
    return "g-" + token


def handling_node(mailbox: str, message_id: str, attempt: int) -> str:
    """Return the node of one attempt at handling a message; ids may be too long for a key, and of any characters."""
    place = f"{mailbox}\0{message_id}\0{attempt}".encode(errors="backslashreplace")
    return "h-" + blake2b(place, digest_size=16).hexdigest()


def encode_kept(body: object) -> bytes:
    """Return the bytes of a body."""
    return _ENCODER.encode(body)


def holding_of(record: Record) -> Holding:
    """Return the body of a grant."""
    return _decode(_HOLDINGS, record)


def waiting_of(record: Record) -> Waiting:
    """Return the body of a wait."""
    return _decode(_WAITINGS, record)


def ids_of(record: Record | None) -> tuple[str, ...]:
    """Return the ids in a line, or of the waits that hold up a node."""
    return () if record is None else _decode(_IDS, record)


def permits_of(record: Record) -> int:
    """Return a semaphore's number of permits."""
    return _decode(_PERMITS, record)


async def holders_of(engine: Engine, kind: str, name: str, slots: int) -> list[tuple[int, Record | None]]:
    """Return who holds each slot of a name."""
    return [(slot, await engine.get(holder_key(kind, name, slot))) for slot in range(slots)]


def _decode(decoder: msgspec.msgpack.Decoder[T], record: Record) -> T:
    try:
        return decoder.decode(record.body)
    except (msgspec.MsgspecError, ValueError) as error:
        raise CorruptRecordError(record.key, f"it is no record of a lease: {error}") from error
