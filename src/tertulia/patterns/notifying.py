"""Writes that notify: a key and the messages about it, in one commit."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from typing import Any

from msgspec import Struct

from tertulia._arguments import check_revision
from tertulia._names import check_name
from tertulia.errors import InvalidInputError, KeyNotFoundError, VersionConflictError
from tertulia.records import MemoryEntry, Message, new_id
from tertulia.space import Space
from tertulia.transaction import Transaction

NOTICE = "memory_update"  # the type of a notice's content
MAX_RACES = 1_000  # lost in a row over the key to delete; somebody wins each, so more means a fault elsewhere


class Notified(Struct, frozen=True, kw_only=True):
    """What `write_and_notify` did: the entry as it is now, and how many mailboxes hold the notice of it.

    `message_id` is the notice's, the same in all mailboxes; empty when nobody was to be told. For a deletion `entry`
    is what was deleted.
    """

    entry: MemoryEntry
    message_id: str = ""
    delivered: int = 0


class NotifyingWrites:
    """Changes of a space's memory that tell agents of themselves."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.memory = space.memory
        self.broker = space.broker

    async def write_and_notify(
        self,
        agent: str,
        key: str,
        value: object,
        *,
        notify: Iterable[str] = (),
        topic: str | None = None,
        expected_version: int | None = None,
        include_value: bool = False,
        ttl: float | None = None,
        tags: Iterable[str] = (),
    ) -> Notified:
        """Write the key and tell agents of it, in one commit: never a write without its notices, nor the reverse.

        Each agent in `notify`, and each that is subscribed to `topic`, gets a message of its own, once, from `agent`:
        {"type": "memory_update", "action": "write", "key", "version", "revision", "writer"}, and with `include_value`
        the "value". Whoever reads the key then sees this write or a later one.

        With `expected_version` the key is updated, its owner staying, if it is at that version; 0 means that it must
        not be there. Raises VersionConflictError, KeyNotFoundError, KeyExistsError when it is elsewhere, and
        UnknownAgentError, MailboxFullError when an agent cannot be told: nothing was written or sent then.

        Cancellation: all of it happened, or nothing.
        """
        transaction = self.space.transaction()
        message_id = self.add_write_and_notify(
            transaction,
            agent,
            key,
            value,
            notify=notify,
            topic=topic,
            expected_version=expected_version,
            include_value=include_value,
            ttl=ttl,
            tags=tags,
        )
        await transaction.commit()
        return Notified(entry=transaction.entry(key), message_id=message_id, delivered=_delivered(transaction))

    def add_write_and_notify(  # noqa: PLR0913 - as `write_and_notify`, and the transaction
        self,
        transaction: Transaction,
        agent: str,
        key: str,
        value: object,
        *,
        notify: Iterable[str] = (),
        topic: str | None = None,
        expected_version: int | None = None,
        include_value: bool = False,
        ttl: float | None = None,
        tags: Iterable[str] = (),
    ) -> str:
        """Make a write and its notices part of a transaction; return the notice's message id, "" for none.

        In a handler's transaction they are committed with the acknowledgement, so exactly once. Errors as in
        `write_and_notify`: bad input here, lost races and agents that cannot be told from the commit.
        """
        check_revision("expected_version", expected_version)
        receivers = _receivers(notify)
        if expected_version is None:
            transaction.write(key, value, owner=agent, ttl=ttl, tags=tags)
        elif expected_version == 0:
            transaction.create(key, value, owner=agent, ttl=ttl, tags=tags)
        else:
            transaction.update(key, value, updater=agent, expected_version=expected_version, ttl=ttl, tags=tags)
        content: dict[str, Any] = {
            "type": NOTICE,
            "action": "write",
            "key": key,
            "version": None,
            "revision": None,
            "writer": agent,
        }
        if include_value:
            content["value"] = value
        return self._notify(transaction, content, receivers, topic, stamp=key)

    async def delete_and_notify(
        self,
        agent: str,
        key: str,
        *,
        notify: Iterable[str] = (),
        topic: str | None = None,
        expected_version: int | None = None,
    ) -> Notified | None:
        """Delete the key and tell agents of it, in one commit; return None, telling nobody, when it was not there.

        The notice is that of `write_and_notify` with the action "delete", and the version and revision that the key
        had. Raises VersionConflictError when it is at another version than `expected_version`; UnknownAgentError,
        MailboxFullError.
        """
        check_revision("expected_version", expected_version)
        receivers = _receivers(notify)
        for _ in range(MAX_RACES):
            entry = await self.memory.read_with_metadata(key, reader=agent)
            if entry is None:
                return None
            transaction = self.space.transaction()
            transaction.require(key, revision=entry.revision)
            transaction.delete(key, requester=agent, expected_version=expected_version)
            content = {
                "type": NOTICE, "action": "delete", "key": key, "version": entry.version,
                "revision": entry.revision, "writer": agent,
            }  # fmt: skip
            message_id = self._notify(transaction, content, receivers, topic, stamp=None)
            try:
                await transaction.commit()
            except (VersionConflictError, KeyNotFoundError):
                if expected_version not in (None, entry.version):
                    raise
                continue  # it has changed since it was read: look again
            return Notified(entry=entry, message_id=message_id, delivered=_delivered(transaction))
        raise VersionConflictError(key, expected="rest", actual_version=None, actual_revision=None)

    def _notify(
        self,
        transaction: Transaction,
        content: dict[str, Any],
        receivers: tuple[str, ...],
        topic: str | None,
        *,
        stamp: str | None,
    ) -> str:
        """Add a message for each receiver, and one for the topic's subscribers, under one id: a mailbox holds one."""
        if not receivers and topic is None:
            return ""
        message_id = new_id()
        now, sender = self.space.clock.time(), content["writer"]
        for receiver in receivers:
            message = Message(id=message_id, sender=sender, receiver=receiver, content=content, sent=now)
            transaction.send(message, stamp=stamp)
        if topic is not None:
            message = Message(id=message_id, sender=sender, content=content, sent=now)
            transaction.publish(topic, message, stamp=stamp)
        return message_id


def _receivers(notify: Iterable[str]) -> tuple[str, ...]:
    """Return each receiver once, or raise InvalidInputError, InvalidNameError."""
    if isinstance(notify, str) or not isinstance(notify, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInputError(f"notify is several agents, not {reprlib.repr(notify)}")
    return tuple(dict.fromkeys(check_name(receiver) for receiver in notify))


def _delivered(transaction: Transaction) -> int:
    return sum(sent.delivered for sent in transaction._sent)  # noqa: SLF001 - shown to nobody else yet
