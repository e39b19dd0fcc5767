"""The values that cross the API: frozen, with aware UTC instants and seconds as floats.

They are `msgspec.Struct`s, so they compare by value, encode, and cost about as little as a tuple to make.
"""

from __future__ import annotations

import itertools
import os
import time
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Literal

from msgspec import Struct, field

from tertulia._clock import instant


class Keep(Enum):
    """The type of KEEP: leave this setting as it is."""

    KEEP = "keep"


class Missing(Enum):
    """The type of MISSING: no value was given, where None is one."""

    MISSING = "missing"


KEEP: Literal[Keep.KEEP] = Keep.KEEP
MISSING: Literal[Missing.MISSING] = Missing.MISSING


class MemoryAccessMode(Enum):
    """What a region allows an agent.

    EXCLUSIVE is both ways and for one holder: while its lease lasts everyone else is refused.
    """

    READ = "read"
    WRITE = "write"
    READ_WRITE = "read_write"
    EXCLUSIVE = "exclusive"


class DeliveryMode(Enum):
    """How hard the space tries to deliver a message.

    AT_MOST_ONCE is never stored and never repeated, and may be lost. AT_LEAST_ONCE is stored before `send`
    returns and redelivered until acknowledged. EXACTLY_ONCE, besides, stores a repeated send of the same id
    once, and applies what the handler does through its transaction once.
    """

    AT_MOST_ONCE = "at_most_once"
    AT_LEAST_ONCE = "at_least_once"
    EXACTLY_ONCE = "exactly_once"


class WhenFull(Enum):
    """What a full mailbox does with one more message: its owner's choice, never silent."""

    REJECT = "reject"  # the sender gets MailboxFullError
    WAIT = "wait"  # the sender waits for room, up to its timeout
    DROP_OLDEST = "drop_oldest"  # the oldest waiting message goes; the sender's receipt names it


# --- Memory --------------------------------------------------------------------------------------


class MemoryEntry(Struct, frozen=True, kw_only=True):
    """A key's value with its metadata, as it was when read.

    `version` counts 1, 2, 3… since the key was created. `revision` is space-wide, ever increasing and never
    reused, so it tells apart a key that was deleted and written again. `created_revision` is the revision of
    the write that created the key: it stays while the key lives, which is what a fence needs.
    `created`, `updated` and `expires` are seconds since the epoch; `created_at` and so on are instants.
    """

    key: str
    value: Any
    owner: str
    version: int
    revision: int
    created_revision: int
    created: float
    updated: float
    expires: float | None = None
    ttl: float | None = None
    tags: tuple[str, ...] = ()
    access_count: int = 0

    @property
    def created_at(self) -> datetime:
        """When the key was created."""
        return instant(self.created)

    @property
    def updated_at(self) -> datetime:
        """When this version was written."""
        return instant(self.updated)

    @property
    def expires_at(self) -> datetime | None:
        """When the key will read as absent, or None for never."""
        return None if self.expires is None else instant(self.expires)

    def is_expired(self, now: datetime | None = None) -> bool:
        """Tell whether the entry's time is over at `now` (default: the machine's clock)."""
        return self.expires_at is not None and (now or datetime.now(UTC)) >= self.expires_at

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dict with ISO instants, ready for JSON if the value is."""
        return {
            "key": self.key,
            "value": self.value,
            "owner": self.owner,
            "created_at": self.created_at.isoformat(),
            "updated_at": self.updated_at.isoformat(),
            "expires_at": None if self.expires_at is None else self.expires_at.isoformat(),
            "ttl": self.ttl,
            "version": self.version,
            "revision": self.revision,
            "access_count": self.access_count,
            "tags": list(self.tags),
        }


class ChangeKind(Enum):
    """What happened to a key."""

    PUT = "put"
    DELETE = "delete"
    EXPIRE = "expire"


class MemoryChange(Struct, frozen=True, kw_only=True):
    """One committed edit, as a watcher sees it; `entry` is None for a delete or an expiry."""

    kind: ChangeKind
    key: str
    revision: int
    at: datetime
    entry: MemoryEntry | None = None

    @property
    def value(self) -> Any:
        """The value written, or None when the key is gone."""
        return None if self.entry is None else self.entry.value


class Snapshot(Struct, frozen=True, kw_only=True):
    """A consistent cut of the entries that matched a pattern, in key order."""

    pattern: str
    revision: int
    taken_at: datetime
    entries: tuple[MemoryEntry, ...]


class MemoryStats(Struct, frozen=True, kw_only=True):
    """Figures about a memory; expired entries are not counted."""

    total_entries: int
    total_bytes: int
    entries_by_owner: dict[str, int]
    subscribers: int
    access_log_size: int
    revision: int


class AccessRecord(Struct, frozen=True, kw_only=True):
    """One access that this handle of the space made."""

    operation: str
    key: str
    agent: str
    at: datetime
    ok: bool = True


# --- Messages ------------------------------------------------------------------------------------


# Ids are 80 random bits per process and a counter: unique, in order per process, and half the cost of a UUID.
_id_prefix = os.urandom(10).hex() + "-"
_next_number = itertools.count(1).__next__


def _reseed_ids() -> None:
    global _id_prefix  # noqa: PLW0603 - a forked child must not repeat its parent's ids
    _id_prefix = os.urandom(10).hex() + "-"


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reseed_ids)


def new_id() -> str:
    """Return an id that no other process or call returns."""
    return _id_prefix + str(_next_number())


class Message(Struct, frozen=True, kw_only=True, array_like=True):
    """One message, as a sender makes it and a receiver gets it.

    `correlation_id`: the id of the message this one answers or belongs to. `sent` and `expires` are seconds
    since the epoch; `timestamp` and `expires_at` are the same as instants. Past `expires` the message is not
    handed to a handler any more. `hops`: the agents that this message's causes came through, oldest first.
    `attempt`: 1 for the first delivery.
    """

    id: str = field(default_factory=new_id)
    sender: str = ""
    receiver: str = ""
    content: Any = None
    sent: float = field(default_factory=time.time)
    reply_to: str | None = None
    correlation_id: str | None = None
    delivery_mode: DeliveryMode = DeliveryMode.AT_LEAST_ONCE
    topic: str | None = None
    headers: dict[str, str] | None = None
    expires: float | None = None
    hops: tuple[str, ...] = ()
    attempt: int = 1

    @property
    def timestamp(self) -> datetime:
        """When the message was made."""
        return instant(self.sent)

    @property
    def expires_at(self) -> datetime | None:
        """When the message stops being of use, or None for never."""
        return None if self.expires is None else instant(self.expires)

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dict with ISO instants, ready for JSON if the content is."""
        return {
            "id": self.id,
            "sender": self.sender,
            "receiver": self.receiver,
            "content": self.content,
            "timestamp": self.timestamp.isoformat(),
            "reply_to": self.reply_to,
            "correlation_id": self.correlation_id,
            "delivery_mode": self.delivery_mode.value,
            "topic": self.topic,
            "headers": dict(self.headers or {}),
            "expires_at": None if self.expires_at is None else self.expires_at.isoformat(),
            "hops": list(self.hops),
            "attempt": self.attempt,
        }


class Receipt(Struct, frozen=True, gc=False):
    """What became of a send or publish.

    `delivered`: how many mailboxes hold the message now (or, at most once, how many it was handed to).
    `duplicate`: it was already stored, so nothing was added. `dropped`: (agent, message id) of what had to
    go because an owner chose DROP_OLDEST. `dead_lettered`: it went to the dead letters instead.
    """

    message_id: str
    delivered: int
    duplicate: bool = False
    dropped: tuple[tuple[str, str], ...] = ()
    dead_lettered: bool = False


class Failure(Struct, frozen=True, kw_only=True, array_like=True):
    """One failed attempt at handling a message; `traceback` is text, cut to a few KiB."""

    attempt: int
    at: datetime
    reason: str
    error: str = ""
    traceback: str = ""


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A message that was given up, why, and every failed attempt."""

    agent_id: str
    message: Message
    reason: str
    error: str
    at: datetime
    history: tuple[Failure, ...]


class QueuedMessage(Struct, frozen=True, kw_only=True):
    """A message in a mailbox, as `peek` shows it; `state` is "waiting", "leased" (with a consumer) or "delayed"."""

    message: Message
    state: str
    failures: int
    stored_at: datetime

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dict with ISO instants, ready for JSON if the content is."""
        return {
            "message": self.message.to_dict(),
            "state": self.state,
            "failures": self.failures,
            "stored_at": self.stored_at.isoformat(),
        }


class MailboxStats(Struct, frozen=True, kw_only=True):
    """One agent's mailbox: `waiting` to be delivered, `pending` with a consumer, `delayed`."""

    agent_id: str
    waiting: int
    pending: int
    delayed: int
    dead_letters: int
    max_queue_size: int


class BrokerStats(Struct, frozen=True, kw_only=True):
    """Figures about messages; the counters are this handle's own since it was opened."""

    registered_agents: int
    topics: int
    queue_sizes: dict[str, int]
    mailboxes: dict[str, MailboxStats]
    sent: int
    delivered: int
    acknowledged: int
    failed: int
    dead_lettered: int
    dropped: int
    late_replies: int
    message_log_size: int


class MessageRecord(Struct, frozen=True, kw_only=True):
    """One thing that happened to a message through this handle of the space."""

    message_id: str
    sender: str
    receiver: str
    status: str
    at: datetime
    detail: str = ""


class AgentInfo(Struct, frozen=True, kw_only=True):
    """A registered agent."""

    agent_id: str
    max_queue_size: int
    when_full: WhenFull
    max_attempts: int
    ordered: bool
    topics: tuple[str, ...]


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that `doctor` looked at; `level` is "ok", "note" or "problem"."""

    level: str
    subject: str
    detail: str


# --- Locks ---------------------------------------------------------------------------------------


class Holder(Struct, frozen=True, kw_only=True):
    """Who holds a lock, a permit of a semaphore, or the leadership of an election.

    `fence` is the revision at which it was granted: later grants have greater ones, renewals change nothing.
    """

    agent_id: str
    name: str
    fence: int
    since: datetime
    expires_at: datetime


class WaitsFor(Struct, frozen=True, kw_only=True):
    """One wait: an agent, what it waits for, since when, and the agents that it waits for.

    `kind` is "lock", "semaphore", "election", or "request": then `name` is the agent that was asked.
    """

    agent_id: str
    kind: str
    name: str
    held_by: tuple[str, ...]
    since: datetime

    def __str__(self) -> str:
        if self.kind == "request":
            return f"{self.agent_id!r} waits for a reply of {self.name!r}"
        holders = " and ".join(map(repr, self.held_by)) or "nobody"
        return f"{self.agent_id!r} waits for {self.kind} {self.name!r}, held by {holders}"
