"""Transactions: memory and messages in one atomic commit."""

# pyright: reportPrivateUsage=false
# The modules of the core are friends: what they share with each other is no promise to users.

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from msgspec.structs import replace

from tertulia._background import logger
from tertulia._codec import convert, decode_plain
from tertulia._commits import check_commit_size, conflict
from tertulia._names import check_key
from tertulia.engines.base import (
    Check,
    CheckFailed,
    Commit,
    Committed,
    Delete,
    Publish,
    Put,
    Record,
    Send,
    Sent,
    Settle,
)
from tertulia.errors import ConflictError, InvalidInputError, KeyExistsError, KeyNotFoundError, TertuliaError
from tertulia.messaging.outbox import Outbox
from tertulia.records import KEEP, DeliveryMode, Keep, MemoryEntry, Message


class Transaction:
    """Writes and messages that are gathered, then committed together: `async with space.transaction() as tx`.

    Leaving the block commits; leaving it by an exception, or calling `cancel`, commits nothing. Nothing is visible
    to others before. `read` remembers the revision it saw, and the commit fails with VersionConflictError
    (KeyNotFoundError, KeyExistsError) if any key that was read has changed by then: what was decided from reads is
    still true when it is written. Nothing was changed then, and the whole block can be tried again.

    `lost_race` tells, after a failed commit, that it failed for what had been read.

    Values are checked and encoded at the call, so bad input raises before anything is committed.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._memory = outbox.memory
        self._outbox = outbox
        self._engine = outbox.engine
        self._checks: list[Check] = []
        self._read: dict[str, Record | None] = {}
        self._writes: dict[str, Put | Delete] = {}
        self._sends: list[Send | Publish] = []
        self._stamps: dict[int, str] = {}  # by place in `_sends`: the key whose revision the message names
        self._emits: list[Send | Publish] = []
        self._messages: list[Message] = []
        self._settles: tuple[Settle, ...] = ()
        self._state = "open"
        self._seen_checks: list[Check] = []
        self._guards: dict[Check, Callable[[], ConflictError]] = {}
        self._records: tuple[Record, ...] = ()
        self._sent: tuple[Sent, ...] = ()
        self.revision: int | None = None
        self.lost_race = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None and self._state == "open":
            await self.commit()
        else:
            self.cancel()

    # --- memory ---

    async def read(self, key: str, *, reader: str, default: Any = None, type: Any = None) -> Any:
        """Return the value as this transaction sees it, or `default`; the commit relies on it."""
        self._check(key, reader)
        write = self._writes.get(key)
        if write is None:
            record = await self._seen(key)
            body = None if record is None else record.body
        else:
            body = write.body if isinstance(write, Put) else None
        if body is None:
            return default
        value = decode_plain(body)
        return value if type is None else convert(value, type)

    def write(self, key: str, value: object, *, owner: str, ttl: float | None = None, tags: Iterable[str] = ()) -> None:
        """Create or replace the key."""
        self._put(key, value, owner, ttl, tags, keep_owner=False)

    def create(
        self, key: str, value: object, *, owner: str, ttl: float | None = None, tags: Iterable[str] = ()
    ) -> None:
        """Create the key; the commit raises KeyExistsError if it is there.

        After a `delete` of the key in the same transaction it is a replacement: the version goes on counting.
        """
        mine = self._writes.get(key)
        if isinstance(mine, Put):
            raise KeyExistsError(key)
        self._put(key, value, owner, ttl, tags, keep_owner=False)
        if mine is None:
            self._checks.append(Check(key, absent=True))

    def update(
        self,
        key: str,
        value: object,
        *,
        updater: str,
        expected_version: int | None = None,
        expected_revision: int | None = None,
        ttl: float | Keep | None = KEEP,
        tags: Iterable[str] | Keep = KEEP,
    ) -> None:
        """Replace the value of a key that exists, at the expected version or revision if one is given."""
        mine = self._writes.get(key)
        if isinstance(mine, Delete):
            raise KeyNotFoundError(key)
        self._put(key, value, updater, ttl, tags, keep_owner=True)
        if mine is None:
            self._checks.append(Check(key, expected_revision, expected_version))
        elif expected_version is not None or expected_revision is not None:
            message = f"key {key!r} was written in this transaction, so it has no version yet"
            raise InvalidInputError(message)

    def delete(self, key: str, *, requester: str, expected_version: int | None = None) -> None:
        """Remove the key, if it is there."""
        self._check(key, requester)
        self._writes[key] = Delete(key)
        if expected_version is not None:
            self._checks.append(Check(key, version=expected_version))

    def require(self, key: str, *, revision: int | None = None, fence: int | None = None) -> None:
        """Commit only if the key is there: at this revision, or alive since it was created at `fence`."""
        self._check_open()
        self._checks.append(Check(check_key(key), revision, created_revision=fence))

    # --- messages ---

    def send(self, message: Message, *, delay: float = 0.0, stamp: str | None = None) -> None:
        """Send the message with the commit, to be delivered `delay` seconds after it.

        `stamp` is a key that this transaction has written: the message's content, a dict, then comes to its receiver
        with the "revision" and "version" that the commit gave the key. An AT_MOST_ONCE message goes out after the
        commit, may be lost, and takes no stamp.
        """
        self._check_open()
        self._add(self._outbox.send_of(message, delay), message, stamp)

    def publish(self, topic: str, message: Message, *, delay: float = 0.0, stamp: str | None = None) -> None:
        """Publish the message with the commit; see `send`."""
        self._check_open()
        self._add(self._outbox.publish_of(topic, message, delay), message, stamp)

    # --- the end ---

    async def commit(self) -> None:
        """Apply everything, or nothing. `revision` is the space's after it.

        Raises ConflictErrors when what was relied upon changed; UnknownAgentError, MailboxFullError when a message
        cannot be stored; OutcomeUnknownError when the engine could not learn whether it happened.
        """
        self._check_open()
        puts = tuple(put for put in self._writes.values() if isinstance(put, Put))
        sends = self._stamped_sends(puts) if self._stamps else tuple(self._sends)
        self._state = "committing"
        deletes = tuple(delete for delete in self._writes.values() if isinstance(delete, Delete))
        commit = Commit(tuple(self._checks), self._settles, puts, deletes, sends)
        check_commit_size(self._engine, commit)
        try:
            committed = await self._apply(commit)
        except CheckFailed as failed:
            self.lost_race = failed.check in self._seen_checks
            refusal = self._guards.get(failed.check)
            raise (conflict(failed, failed.check.key) if refusal is None else refusal()) from None
        finally:
            self._state = "ended"
        self.revision = committed.revision
        self._records, self._sent = committed.records, committed.sent
        self._outbox.log_commit(self._messages)
        for send in self._emits:
            await self._emit(send)

    async def _emit(self, send: Send | Publish) -> None:
        """Send out an AT_MOST_ONCE message. It may be lost, but the commit it went with stands."""
        try:
            await self._engine.emit(send)
        except TertuliaError as error:
            logger.warning("message %s of a transaction was lost after the commit: %s", send.message_id, error)

    def cancel(self) -> None:
        """Drop everything that was gathered."""
        self._state = "ended"

    def entry(self, key: str) -> MemoryEntry:
        """Return the entry that the commit made of a key. Raises InvalidInputError unless it wrote the key."""
        for record in self._records:
            if record.key == key:
                return self._memory._entry(record, decode_plain(record.body))
        raise InvalidInputError(f"this transaction has committed no write of {key!r}")

    # --- inside ---

    async def _apply(self, commit: Commit) -> Committed:
        return await self._outbox.commit(commit)

    def _guard(self, check: Check, refusal: Callable[[], ConflictError]) -> None:
        """Commit only if this holds; `refusal` returns the error for when it does not."""
        self._check_open()
        self._checks.append(check)
        self._guards[check] = refusal

    def _check(self, key: str, agent: str) -> None:
        self._check_open()
        self._memory._check_access(key, agent)

    def _check_open(self) -> None:
        if self._state != "open":
            message = "this transaction has ended"
            raise InvalidInputError(message)

    async def _seen(self, key: str) -> Record | None:
        if key not in self._read:
            record = await self._engine.get(key)
            self._read[key] = record
            seen = Check(key, absent=True) if record is None else Check(key, record.revision)
            self._checks.append(seen)
            self._seen_checks.append(seen)
        return self._read[key]

    def _put(
        self,
        key: str,
        value: object,
        agent: str,
        ttl: float | Keep | None,
        tags: Iterable[str] | Keep,
        *,
        keep_owner: bool,
    ) -> None:
        self._check_open()
        put = self._memory._make_put(key, value, agent, ttl, tags, keep_owner=keep_owner)
        mine = self._writes.get(key)
        if isinstance(mine, Put):  # what is kept is what this transaction wrote
            put = Put(
                key,
                put.body,
                mine.owner if put.owner is KEEP else put.owner,
                mine.ttl if put.ttl is KEEP else put.ttl,
                mine.tags if put.tags is KEEP else put.tags,
            )
        self._writes[key] = put

    def _add(self, send: Send | Publish, message: Message, stamp: str | None) -> None:
        if stamp is not None:
            self._check_stamp(stamp, message)
        letter = isinstance(send, Send) and send.mailbox != message.receiver  # it goes in circles
        if message.delivery_mode is DeliveryMode.AT_MOST_ONCE and not letter:
            self._emits.append(send)
        else:
            if stamp is not None:
                self._stamps[len(self._sends)] = stamp
            self._sends.append(send)
        self._messages.append(message)

    def _check_stamp(self, key: str, message: Message) -> None:
        if not isinstance(self._writes.get(key), Put):
            raise InvalidInputError(f"a stamp is a key that this transaction has written, not {key!r}")
        if not isinstance(message.content, dict):
            raise InvalidInputError(f"a content that takes a stamp is a dict, not {type(message.content).__name__}")
        if message.delivery_mode is DeliveryMode.AT_MOST_ONCE:
            raise InvalidInputError("an AT_MOST_ONCE message is not part of the commit, so it takes no stamp")

    def _stamped_sends(self, puts: tuple[Put, ...]) -> tuple[Send | Publish, ...]:
        """Return the sends with the places of the puts that they are about."""
        places = {put.key: place for place, put in enumerate(puts)}
        sends = list(self._sends)
        for number, key in self._stamps.items():
            if key not in places:
                raise InvalidInputError(f"a message is about the write of {key!r}, which was deleted afterwards")
            sends[number] = replace(sends[number], stamp=places[key])
        return tuple(sends)
