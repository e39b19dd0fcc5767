"""The engine contract. What this page says outweighs what any engine does.

An engine keeps one space: records under keys, and messages in mailboxes. It takes bytes and gives bytes back.
Encoding, validation of names, permissions, retry policy and every convenience are written once above it, so an
engine can assume that keys, names and topics obey the grammar, and that bodies are at most `max_value_bytes`.

Three rules hold for all of it:

1. **One commit.** `commit` is the only way to change records, store messages or settle deliveries, and all of a
   commit happens or none of it does. What comes back without an exception is kept as `capabilities` promise.
2. **Errors.** Engines raise the errors of `tertulia.errors` and nothing else; an exception of an engine's own
   libraries is wrapped at its edge (`raise EngineError(...) from error`).
3. **Cancellation.** A call that is cancelled while it waits has not happened: nothing is claimed, stored or lost.
   A `commit` cancelled once it is under way may have happened.

The values here hold bytes, strings and numbers and so can be part of no reference cycle: `gc=False` spares the garbage
collector from looking at them, which is worth more than any other single measure to an engine's speed.

Times are seconds. Civil times (expiry, stamps) are seconds since the epoch; durations are measured on a clock that
does not jump.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from tertulia.records import AgentInfo, ChangeKind, Finding, Keep, WhenFull

DEFAULT_LEASE = 30.0  # long enough for a slow handler's renewal, short enough to wait for after a crash
DEAD_LETTERS = "_dead:"  # mailbox that keeps an agent's dead letters: this prefix and its name
REPLIES = "_reply:"  # mailbox that takes the replies to one handle's requests


class Capabilities(Struct, frozen=True, kw_only=True):
    """What an engine can keep. Data, so that tests and users can ask.

    `durable`: what was acknowledged survives the end of every process. `multi_process`, `multi_machine`: who can
    share a space. `linearizable_reads`: `get` sees every commit that returned before it was called.
    `exact_bounds`: concurrent senders never exceed a mailbox's size. `exact_access_counts`: every read counts.
    `manual_clock`: time is the injected clock's, not a server's. `dedup_window` and `dedup_count`: how long, and
    for how many messages of a mailbox, an EXACTLY_ONCE id is remembered after its message was settled; the
    shorter of the two rules. `history`: how many changes a watch can resume over.
    """

    durable: bool
    multi_process: bool
    multi_machine: bool
    linearizable_reads: bool
    exact_bounds: bool
    exact_access_counts: bool
    manual_clock: bool
    max_value_bytes: int
    max_commit_operations: int
    ttl_resolution: float
    dedup_window: float
    dedup_count: int
    history: int


# --- Records -------------------------------------------------------------------------------------


class Record(Struct, gc=False):
    """A key as it is kept; to be read, never changed, by whoever gets it from an engine.

    `expires` is civil time, None for never; see MemoryEntry for the rest. `access_count` may still grow: it is
    the key's, not this version's.
    """

    key: str
    body: bytes
    owner: str
    version: int
    revision: int
    created_revision: int
    created: float
    updated: float
    ttl: float | None = None
    expires: float | None = None
    tags: tuple[str, ...] = ()
    access_count: int = 0


class Change(Struct, frozen=True, gc=False):
    """One committed edit of a key; `record` is None unless it is a put."""

    kind: ChangeKind
    key: str
    revision: int
    at: float
    record: Record | None = None


class Check(Struct, frozen=True, gc=False):
    """A condition on a key, judged on the state before the commit.

    With `absent`, the key must not exist (an expired key does not). Otherwise it must exist, at each of
    `revision`, `version` and `created_revision` that is not None. A check on `created_revision` is a fence: it
    fails once the key was deleted or expired, even when somebody has written it again.
    """

    key: str
    revision: int | None = None
    version: int | None = None
    created_revision: int | None = None
    absent: bool = False

    def judge(self, record: Record | None) -> None:
        """Raise CheckFailed unless the condition holds for the key's live record, None when there is none."""
        if record is None:
            if not self.absent:
                raise CheckFailed(self, None)
        elif (
            self.absent
            or (self.revision is not None and self.revision != record.revision)
            or (self.version is not None and self.version != record.version)
            or (self.created_revision is not None and self.created_revision != record.created_revision)
        ):
            raise CheckFailed(self, record)


class Put(Struct, frozen=True, gc=False):
    """Create or replace a key. `owner`, `ttl` and `tags` may be KEEP: as they were (nothing, for a new key).

    The version becomes 1 for a new key, one more otherwise; `created` and `created_revision` stay while the key
    lives. `ttl` counts from this write, a kept one too.
    """

    key: str
    body: bytes
    owner: str | Keep
    ttl: float | Keep | None = None
    tags: tuple[str, ...] | Keep = ()


class Delete(Struct, frozen=True, gc=False):
    """Remove a key; removing an absent one is no error and makes no change."""

    key: str


# --- Messages ------------------------------------------------------------------------------------


class MailboxOptions(Struct, frozen=True, kw_only=True):
    """A mailbox's settings, chosen by its owner.

    `max_size` bounds what is stored in it: waiting, delayed and leased together. `ordered`: a message that is
    leased or delayed holds back all that were sent after it. `max_attempts` is kept for the layer above.
    """

    max_size: int = 1000
    when_full: WhenFull = WhenFull.REJECT
    max_attempts: int = 5
    ordered: bool = False


class Send(Struct, frozen=True, gc=False):
    """Store a message in a mailbox, to be claimed after `delay` seconds.

    The id is unique in a mailbox: while a message of that id is stored there, a second one is a duplicate: it is
    not stored, and that is no error. A send with `dedupe` has its id remembered after settling too, for the
    `dedup_window`, and is itself a duplicate of an id so remembered; a send without it is not. `notes` are carried
    along, as `release` adds them. An absent mailbox raises UnknownAgentError, or, when the send is `optional`, takes
    nothing. `stamp` is the place, in the `puts` of the same commit, of a put that the message is about: the first of
    its notes is then the `stamp_note` of that put's record, since nobody knows a revision before the commit.
    `answer_to` is a hint: the mailbox that this handle listens to for an answer to the message. `author` is the agent
    in whose name it is sent, "" for none: an engine that can have its servers refuse a wrong one does, and there the id
    is unique among this author's messages.
    """

    mailbox: str
    message_id: str
    body: bytes
    delay: float = 0.0
    dedupe: bool = False
    notes: tuple[bytes, ...] = ()
    optional: bool = False
    stamp: int | None = None
    answer_to: str = ""
    author: str = ""


class Publish(Struct, frozen=True, gc=False):
    """Store a copy in every mailbox subscribed to a pattern that matches the topic; each at most once.

    Who is subscribed is judged in the commit. No subscriber is no error. The rest is as in a Send.
    """

    topic: str
    message_id: str
    body: bytes
    delay: float = 0.0
    dedupe: bool = False
    notes: tuple[bytes, ...] = ()
    stamp: int | None = None
    author: str = ""


STAMP = b"stamp:"  # what the note of a stamp starts with; notes of the layer above never do


def stamp_note(record: Record) -> bytes:
    """Return the note that names a put's outcome: `stamp:REVISION:VERSION`."""
    return STAMP + b"%d:%d" % (record.revision, record.version)


def stamped(sends: tuple[Send | Publish, ...], records: Sequence[Record]) -> tuple[Send | Publish, ...]:
    """Return a commit's sends with the notes that their stamps ask for; `records` are what its puts made."""
    return tuple(
        [
            send if send.stamp is None else replace(send, notes=(stamp_note(records[send.stamp]), *send.notes))
            for send in sends
        ]
    )


class Settle(Struct, frozen=True, gc=False):
    """Take a message out of its mailbox for good.

    Raises AlreadySettledError when it is not there any more. Which attempt settles does not matter, as long as it
    is the first: an attempt whose lease ran out may still commit if nobody else has. `sequence` (as claimed; 0 for
    any) tells the message from a later one of the same id, `author` (as claimed; "" for any) from another author's.
    """

    mailbox: str
    message_id: str
    sequence: int = 0
    author: str = ""


class Commit(Struct, frozen=True, gc=False):
    """One atomic edit. Checks are judged before, everything else is applied in the order of the fields.

    The same key may be put or deleted once; the same message settled once.
    """

    checks: tuple[Check, ...] = ()
    settles: tuple[Settle, ...] = ()
    puts: tuple[Put, ...] = ()
    deletes: tuple[Delete, ...] = ()
    sends: tuple[Send | Publish, ...] = ()


class Sent(Struct, frozen=True, gc=False):
    """What became of one Send or Publish: mailboxes that hold it, and what had to go to make room."""

    delivered: int
    duplicate: bool = False
    dropped: tuple[tuple[str, str], ...] = ()


class Committed(Struct, frozen=True, gc=False):
    """The outcome of a commit, in the order of its parts. `revision` is the space's after it."""

    revision: int
    records: tuple[Record, ...] = ()
    deleted: tuple[bool, ...] = ()
    sent: tuple[Sent, ...] = ()


class CheckFailed(Exception):  # noqa: N818 - a signal between layers; users see ConflictError
    """A commit's check failed; nothing changed. `record` is the key's current record or None."""

    def __init__(self, check: Check, record: Record | None) -> None:
        super().__init__(f"check failed: {check!r}")
        self.check = check
        self.record = record


class Claimed(Struct, frozen=True, gc=False):
    """One attempt at delivering a message, under a lease.

    `attempt` counts claims, `failures` those that ended badly: a counted release, or a lease that ran out.
    `transient` messages were emitted, not stored: they have no lease and need no settling. `lease_until` is on
    the engine's monotonic clock. `sequence` is the message's place in the order of the space's messages, never
    reused. `max_attempts` is the mailbox's option. `author` is who sent it, by what the engine itself knows,
    whatever the body says; "" where it knows nothing.
    """

    mailbox: str
    message_id: str
    body: bytes
    sequence: int = 0
    attempt: int = 1
    failures: int = 0
    notes: tuple[bytes, ...] = ()
    transient: bool = False
    lease_until: float = 0.0
    max_attempts: int = 5
    author: str = ""


class Stored(Struct, frozen=True, gc=False):
    """A message in a mailbox, as `browse` shows it; `state` is "waiting", "leased" or "delayed"; else as in Claimed."""

    mailbox: str
    message_id: str
    body: bytes
    sequence: int
    state: str
    attempt: int
    failures: int
    notes: tuple[bytes, ...]
    stored_at: float
    author: str = ""


class MailboxCounts(Struct, frozen=True, gc=False):
    """How many messages of a mailbox are in which state."""

    waiting: int
    leased: int
    delayed: int


class EngineStats(Struct, frozen=True, kw_only=True):
    """Figures about a space."""

    keys: int
    bytes: int
    keys_by_owner: dict[str, int]
    mailboxes: dict[str, MailboxCounts]
    topics: int
    revision: int


class ChangeStream(Protocol):
    """A running watch: an async iterator of Change, to be closed.

    Raises WatchLaggedError where changes were missed, and ends (StopAsyncIteration) when the engine closes.
    """

    def __aiter__(self) -> AsyncIterator[Change]: ...
    async def __anext__(self) -> Change: ...
    async def aclose(self) -> None:
        """Stop watching; a reader that waits sees the end."""
        ...


class Engine(ABC):
    """What keeps a space. Made and opened by `open_engine`; used from one event loop.

    `identity` is the one agent in whose name this handle may act, where its servers hold it to that; else "".
    """

    capabilities: Capabilities
    identity: str = ""

    # --- records ---

    @abstractmethod
    async def get(self, key: str) -> Record | None:
        """Return the key's record, or None when it is absent or its time is over. Counts an access."""

    @abstractmethod
    async def scan(
        self,
        prefix: str,
        *,
        matches: Callable[[str], object] | None = None,
        tags: frozenset[str] | None = None,
        owner: str | None = None,
        bodies: bool = True,
    ) -> tuple[int, list[Record]]:
        """Return the space's revision and, in key order, the live records as they all were at that revision.

        Only those whose key starts with `prefix` and `matches`, that carry at least one of `tags`, and whose owner is
        `owner`. Without `bodies` the records' bodies may be empty. Counts no access.
        """

    @abstractmethod
    async def commit(self, commit: Commit) -> Committed:
        """Apply all of the commit, or none of it.

        Each put and delete that changes something has a revision of its own, greater than any before it.

        Raises CheckFailed, AlreadySettledError, UnknownAgentError, MailboxFullError (nothing was changed);
        OutcomeUnknownError when the engine could not learn whether it happened.
        """

    # The same as a commit of one part, for which an engine may have a shorter way. They promise neither more nor less.

    async def put(self, put: Put) -> Record:
        """Commit one put, and return the record."""
        return (await self.commit(Commit(puts=(put,)))).records[0]

    async def send(self, send: Send | Publish) -> Sent:
        """Commit one send, and return what became of it."""
        return (await self.commit(Commit(sends=(send,)))).sent[0]

    async def settle(self, settle: Settle) -> None:
        """Commit one settling."""
        await self.commit(Commit(settles=(settle,)))

    @abstractmethod
    async def watch(self, pattern: str, *, after: int | None = None) -> ChangeStream:
        """Return the stream of changes to keys that match the glob, in revision order, none skipped.

        It starts when this call returns: with the changes after revision `after`, else with those committed from
        now on. Where the engine no longer has all changes after `after`, the stream raises WatchLaggedError at
        once. A key whose time is over appears as an `expire` change, in good time.
        """

    # --- mailboxes ---

    @abstractmethod
    async def open_mailbox(self, mailbox: str, options: MailboxOptions) -> bool:
        """Make the mailbox, or give an existing one these options; return whether it was made."""

    @abstractmethod
    async def close_mailbox(self, mailbox: str, *, heir: str | None = None, note: bytes = b"") -> int:
        """Remove the mailbox and its subscriptions; return how many messages it held.

        In the same step they move to the mailbox `heir` with `note` added, beyond its bound if need be, and under the
        id `ID#SEQUENCE` where the heir has a message of that id; without an heir they are gone. Removing an absent
        mailbox returns 0.
        """

    @abstractmethod
    async def mailboxes(self) -> list[AgentInfo]:
        """Return all mailboxes with their options and topics, in name order."""

    @abstractmethod
    async def subscribe(self, mailbox: str, pattern: str) -> bool:
        """Add a topic pattern to the mailbox; return whether it is new. Raises UnknownAgentError."""

    @abstractmethod
    async def unsubscribe(self, mailbox: str, pattern: str) -> bool:
        """Take a topic pattern away; return whether it was there."""

    @abstractmethod
    async def claim(
        self, mailbox: str, *, limit: int = 1, lease: float = DEFAULT_LEASE, wait: float | None = 0.0
    ) -> list[Claimed]:
        """Take up to `limit` messages under a lease, oldest first; wait up to `wait` s for the first.

        None waits for ever. Competing claimants never hold the same message at once. A lease that runs out gives
        the message back, with one more failure. Raises UnknownAgentError, also when the mailbox is closed
        meanwhile.
        """

    @abstractmethod
    async def extend(self, claimed: Claimed, lease: float) -> None:
        """Make the lease end `lease` seconds from now. Raises LeaseLostError when it is not this attempt's."""

    @abstractmethod
    async def release(self, claimed: Claimed, *, delay: float = 0.0, counted: bool = False, note: bytes = b"") -> bool:
        """Give the message back, claimable after `delay` s; return False if the lease was lost or settled.

        With `counted` it is one more failure. A `note` is added to the message's notes.
        """

    @abstractmethod
    async def wait_for_room(self, mailbox: str, timeout: float) -> bool:
        """Wait until the mailbox can take a message; return False after `timeout` s. A hint, no promise."""

    @abstractmethod
    async def emit(self, send: Send | Publish) -> int:
        """Hand a message to whoever consumes now, stored nowhere; return how many mailboxes took it.

        It may be lost, and comes at most once. Raises UnknownAgentError where the engine knows.
        """

    @abstractmethod
    def listen(self, mailbox: str, callback: Callable[[Claimed], None]) -> Callable[[], None]:
        """Hand every message of this mailbox to `callback`, in order, instead of storing it.

        For mailboxes private to one handle (replies). What is committed to it while the handle's process lives
        reaches the callback, at least once. The callback must not raise or wait. Returns what ends it. The
        mailbox exists as long as it is listened to, bounded by nothing but what the handle asked for.
        """

    @abstractmethod
    async def browse(self, mailbox: str, *, limit: int = 100, message_id: str | None = None) -> Sequence[Stored]:
        """Show stored messages without claiming them, oldest first; an absent mailbox has none."""

    # --- the whole ---

    @abstractmethod
    async def stats(self) -> EngineStats:
        """Return figures about the space."""

    @abstractmethod
    async def doctor(self) -> list[Finding]:
        """Examine the engine and its surroundings; return what was found, good and bad."""

    @abstractmethod
    async def aclose(self) -> None:
        """Release what this handle holds; watches end, claims that wait raise SpaceClosedError."""
