"""Contents that are kept in the space once and pointed at by messages: storing, fetching, letting go.

What is promised: a receiver gets exactly the content that was sent or the message goes to its dead letters; a content
is there while a message that points at it is in a mailbox, for as long as the pointer is good; once the last of
them is settled it is deleted, in the same commit. The count of pointers is bookkeeping: where it cannot be kept (a
sender that dies between two commits, a message that had to make room), the content goes when its time is over.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from time import perf_counter

import msgspec
from msgspec.structs import force_setattr, replace

from tertulia._background import logger
from tertulia._codec import decode_plain, decoder_for, encode
from tertulia._commits import check_commit_size
from tertulia._rules.ledger import Copy, Ledger, slack
from tertulia.engines.base import (
    Check,
    CheckFailed,
    Claimed,
    Commit,
    Committed,
    Delete,
    Publish,
    Put,
    Record,
    Send,
    Sent,
)
from tertulia.errors import ContentGoneError, DecodeError
from tertulia.messaging.outbox import Outbox
from tertulia.messaging.pointers import POINTER_HEADER, Pointer, digest_of, has_pointer, pointer_of
from tertulia.records import Message, Receipt

POINTER_TTL = 7 * 86_400.0  # seconds: a receiver that is away for longer has to be told again anyway
MAX_RACES = 100  # lost in a row over one ledger; its count is then left to the content's end
KNOWN_REVISIONS = 1_024  # of copies that this handle wrote or used: what is sent again soon, at 100 bytes each
COUNTING = 3  # operations that a change of a ledger adds to a commit

_LEDGERS = decoder_for(Ledger)

Sends = tuple[Send | Publish, ...]


class Contents:
    """The way out for messages whose content is kept once. One per handle of a space."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._engine = outbox.engine
        # The revision of a copy, and whether its digest is known to be right: a revision is never reused.
        self._revisions: OrderedDict[tuple[str, str], tuple[int, bool]] = OrderedDict()
        self.stored_bytes = 0
        self.fetches = 0
        self.fetched_bytes = 0
        self.fetch_seconds = 0.0

    async def send(
        self,
        messages: Sequence[Message],
        *,
        delay: float,
        ttl: float,
        timeout: float,
    ) -> tuple[Sent, ...]:
        """Store the content that the messages share once, and a message with a pointer for each, in one commit."""
        outbox = self._outbox
        for message in messages:
            outbox.check(message, delay)

        def sends(pointer: Pointer) -> Sends:
            return tuple(outbox.trusted_send_of(_pointing(message, pointer), delay) for message in messages)

        owner = messages[0].sender
        pointer, sent = await self._store(messages[0].content, owner, sends, len(messages), ttl, timeout)
        repeated = sum(one.duplicate for one in sent)
        if repeated:
            await count(outbox, pointer, -repeated)
        return sent

    async def publish(
        self,
        topic: str,
        message: Message,
        *,
        delay: float,
        ttl: float,
        timeout: float,
    ) -> Sent:
        """Store the content once, and a message with a pointer for every subscriber; who they are, the commit tells."""
        outbox = self._outbox
        outbox.check(message, delay)

        def sends(pointer: Pointer) -> Sends:
            return (outbox.trusted_publish_of(topic, _pointing(message, pointer), delay),)

        pointer, (sent,) = await self._store(message.content, message.sender, sends, None, ttl, timeout)
        await count(outbox, pointer, 0 if sent.duplicate else sent.delivered, holds=-1)
        return sent

    async def fetch(self, claimed: Claimed, message: Message) -> Message:
        """Return the message with the content that it points at.

        Raises ContentGoneError when that is not there any more, and DecodeError for a pointer that is none.
        """
        pointer = pointer_of(message, claimed.notes)
        start = perf_counter()
        record = await self._engine.get(pointer.key)
        if record is None:
            raise ContentGoneError(pointer.key, "its time is over, or it was deleted")
        if pointer.revision is not None and record.revision != pointer.revision:
            raise ContentGoneError(pointer.key, f"it is at revision {record.revision}, not {pointer.revision}")
        if self._revisions.get((pointer.digest, pointer.copy)) != (record.revision, True):
            if len(record.body) != pointer.size or digest_of(record.body) != pointer.digest:
                raise ContentGoneError(pointer.key, "what is kept there has another digest")
            self._remember(pointer.digest, pointer.copy, record.revision, checked=True)
        content = decode_plain(record.body)
        force_setattr(message, "content", content)  # it was decoded a moment ago: nobody else has it
        self.fetches += 1
        self.fetched_bytes += len(record.body)
        self.fetch_seconds += perf_counter() - start
        return message

    async def _store(
        self,
        content: object,
        owner: str,
        sends: Callable[[Pointer], Sends],
        pointers: int | None,
        ttl: float,
        timeout: float,
    ) -> tuple[Pointer, tuple[Sent, ...]]:
        """Commit the sends with a copy to point at; without a number of pointers, hold it until they are counted."""
        outbox = self._outbox
        body = encode(content, outbox.limit)
        digest = digest_of(body)
        for race in range(MAX_RACES + 1):
            now = outbox.time()
            record, ledger = await _ledger(outbox, Pointer(digest=digest, copy="", size=0).ledger)
            copy = None if race == MAX_RACES else ledger.lasting(now + ttl)
            revision = None if copy is None else await self._revision(digest, copy.name)
            if copy is None or revision is None:
                name, revision = os.urandom(6).hex(), None
                ledger = ledger.added(Copy(name, now + ttl + slack(ttl), 0), now)
            else:
                name = copy.name
            pointer = Pointer(digest=digest, copy=name, size=len(body), revision=revision)
            ledger, _ = ledger.counted(name, pointers or 0, 0 if pointers else 1)
            commit = _storing(pointer, body, owner, ttl, sends(pointer))
            if race < MAX_RACES:  # else the copy is nobody's but these messages', and goes when its time is over
                commit = _with_ledger(commit, pointer.ledger, record, ledger, now)
            check_commit_size(self._engine, commit)
            try:
                committed = await outbox.commit(commit, timeout=timeout)
            except CheckFailed:
                self._revisions.pop((digest, name), None)
                continue
            if revision is None:
                self._remember(digest, name, committed.records[0].revision, checked=True)
                self.stored_bytes += len(body)
            return pointer, committed.sent
        raise AssertionError("the last attempt checks nothing")

    async def _revision(self, digest: str, name: str) -> int | None:
        """Return the revision of a copy, or None when it is not there any more."""
        known = self._revisions.get((digest, name))
        if known is not None:
            return known[0]
        key = Pointer(digest=digest, copy=name, size=0).key
        _, records = await self._engine.scan(key, matches=key.__eq__, bodies=False)
        if not records:
            return None
        self._remember(digest, name, records[0].revision, checked=False)
        return records[0].revision

    def _remember(self, digest: str, name: str, revision: int, *, checked: bool) -> None:
        self._revisions[digest, name] = revision, checked
        if len(self._revisions) > KNOWN_REVISIONS:
            self._revisions.popitem(last=False)


async def settle(outbox: Outbox, message: Message, commit: Commit) -> Committed:
    """Commit what takes the message out of its mailbox; of a pointer's content the last one deletes it in the same.

    Raises CheckFailed for checks that the commit had before.
    """
    if not has_pointer(message):
        return await outbox.commit(commit)
    try:
        pointer = pointer_of(message)
    except DecodeError:
        return await outbox.commit(commit)
    parts = len(commit.checks) + len(commit.settles) + len(commit.puts) + len(commit.deletes) + len(commit.sends)
    if parts + COUNTING > outbox.engine.capabilities.max_commit_operations:
        committed = await outbox.commit(commit)
        await count(outbox, pointer, -1)
        return committed
    return await _count_with(outbox, pointer, commit, -1, 0)


async def count(outbox: Outbox, pointer: Pointer, pointers: int, *, holds: int = 0) -> None:
    """Write down that there are so many pointers and holds more, or fewer; delete the content if nobody needs it."""
    if pointers or holds:
        await _count_with(outbox, pointer, Commit(), pointers, holds)


async def _count_with(outbox: Outbox, pointer: Pointer, commit: Commit, pointers: int, holds: int) -> Committed:
    for _ in range(MAX_RACES):
        now = outbox.time()
        record, ledger = await _ledger(outbox, pointer.ledger)
        if record is None or ledger.find(pointer.copy) is None:
            break
        left, ends = ledger.counted(pointer.copy, pointers, holds)
        counted = _with_ledger(commit, pointer.ledger, record, left, now)
        if ends:
            counted = replace(counted, deletes=(*counted.deletes, Delete(pointer.key)))
        try:
            return await outbox.commit(counted)
        except CheckFailed as failed:
            if failed.check.key != pointer.ledger:
                raise
    else:
        logger.warning("%s is left to its end: too many settle messages that point at it", pointer.key)
    return await outbox.commit(commit)


async def _ledger(outbox: Outbox, key: str) -> tuple[Record | None, Ledger]:
    record = await outbox.engine.get(key)
    if record is None:
        return None, Ledger()
    try:
        return record, _LEDGERS.decode(record.body)
    except msgspec.MsgspecError as error:
        raise DecodeError(f"the ledger {key!r} cannot be read: {error}") from error


def _with_ledger(commit: Commit, key: str, record: Record | None, ledger: Ledger, now: float) -> Commit:
    """Return the commit with a ledger replaced, if it is still as it was read."""
    check = Check(key, absent=True) if record is None else Check(key, record.revision)
    if not ledger.copies:
        return replace(commit, checks=(*commit.checks, check), deletes=(*commit.deletes, Delete(key)))
    ttl = max(1.0, ledger.expires - now)
    put = Put(key, msgspec.msgpack.encode(ledger), "", ttl)
    return replace(commit, checks=(*commit.checks, check), puts=(*commit.puts, put))


def _storing(pointer: Pointer, body: bytes, owner: str, ttl: float, sends: Sends) -> Commit:
    """Return the commit of the sends, with the content unless it is there, and each message stamped by its put."""
    if pointer.revision is not None:
        return Commit(checks=(Check(pointer.key, pointer.revision),), sends=sends)
    put = Put(pointer.key, body, owner, ttl + slack(ttl))
    return Commit(puts=(put,), sends=tuple(replace(send, stamp=0) for send in sends))


def _pointing(message: Message, pointer: Pointer) -> Message:
    headers = {**(message.headers or {}), POINTER_HEADER: pointer.header}
    return replace(message, content=None, headers=headers)


def receipt(outbox: Outbox, message: Message, sent: Sequence[Sent]) -> Receipt:
    """Return what became of a message that was sent to several."""
    if outbox.goes_in_circles(message):
        return Receipt(message.id, 0, dead_lettered=True)
    dropped = tuple(one for each in sent for one in each.dropped)
    delivered = sum(one.delivered for one in sent)
    return Receipt(message.id, delivered, bool(sent) and all(one.duplicate for one in sent), dropped)
