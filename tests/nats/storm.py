"""What the clients of a storm do while servers fail, and what they write down: what they try, and what they are told.

All of them are tasks of the test's own process, which is never killed: here it is the servers that die. So whatever a
call raised is known, and held to its word: what failed with EngineUnavailableError has not happened, what was
acknowledged has, and only what failed with OutcomeUnknownError may have done either.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable
from enum import Enum
from typing import TypeVar

from msgspec.structs import replace

from tertulia import Delivery, DeliveryMode, Message, Space
from tertulia.errors import (
    AlreadySettledError,
    ConflictError,
    EngineUnavailableError,
    OutcomeUnknownError,
    WatchLaggedError,
)
from tertulia.records import ChangeKind
from tertulia.testing import linearizability as lin
from tertulia.testing import mailboxes, watches
from tests.model.procedures import Doubt, MemoryClient, chance_of

EXACTLY, LEAST, AUDIT = "exactly", "least", "audit"
LEASE = 1.0  # seconds; what was claimed when a server died comes back soon
OWN_KEYS, COUNTERS, PAIRS, SHARED_KEYS = 8, 4, 6, 6
BACKLOG = 200  # messages that may wait for the consumers, then the authors write memory alone
PAUSE = 0.002  # seconds between two calls of a client, so that others have their turn
HANG = 60.0  # seconds after which a call counts as hanging: none may take longer than its handle's timeout says
PATTERNS = ("w:*", "c:*", "p:*", "[wcp]:*")
LAST = ("w:end", "c:end", "p:end")  # keys that are written when all is over, in this order
MOST_EVENTS = 60  # of a short watch
PART = 10  # calls of a client of shared keys until it sees whether it is over
AROUND = 1_500  # revisions: short watches start a little further back, too, than the history goes

T = TypeVar("T")


class Told(Enum):
    """What a call said of its outcome."""

    DONE = "done"
    NOT_DONE = "not done"
    UNKNOWN = "unknown"


class Book:
    """What all clients of a run wrote down. `done` counts successes by kind; they are what going on is seen by."""

    def __init__(self) -> None:
        self.stopping = False
        self.done: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.slowest = 0.0  # seconds of a call
        self.events: list[mailboxes.Event] = []
        self.committed: list[watches.Change] = []
        self.doubtful: list[watches.Change] = []
        self.watches: list[watches.Watch] = []
        self.gaps = 0
        self.history = lin.History(clock=time.monotonic_ns, sink=self._on_operation)
        self.not_happened: set[int] = set()
        self.sent = self.handled = 0

    async def tell(self, kind: str, work: Awaitable[T]) -> tuple[Told, T | None]:
        """Await a call, and write down what it said. What neither succeeds nor says why ends the test."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(HANG):
                value = await work
        except OutcomeUnknownError as error:
            self.errors[type(error).__name__] += 1
            return Told.UNKNOWN, None
        except EngineUnavailableError as error:
            self.errors[type(error).__name__] += 1
            return Told.NOT_DONE, None
        finally:
            self.slowest = max(self.slowest, time.monotonic() - started)
        self.done[kind] += 1
        return Told.DONE, value

    def take(self, told: Told, revision: int | None, *changes: watches.Change) -> None:
        """Take in changes of one commit; `revision` is the last one's, and the others have those before it."""
        if told is Told.DONE:
            first = (revision or 0) - len(changes) + 1
            self.committed += [replace(change, revision=first + place) for place, change in enumerate(changes)]
        elif told is Told.UNKNOWN:
            self.doubtful += changes

    def _on_operation(self, operation: lin.Operation) -> None:
        self.done["share"] += operation.outcome is lin.Outcome.OK

    @property
    def operations(self) -> list[lin.Operation]:
        """What the clients of the shared keys saw, without what certainly was nothing."""
        return [one for one in self.history.operations if one.number not in self.not_happened]


def put(key: str, value: object) -> watches.Change:
    """Return a change whose revision is not known yet."""
    return watches.Change(0, key, ChangeKind.PUT, value)


# --- authors -------------------------------------------------------------------------------------


class Author:
    """Writes keys of its own, counts in shared ones, and sends, alone and together with writes."""

    def __init__(self, book: Book, space: Space, name: str) -> None:
        self.book = book
        self.space = space
        self.name = name
        self.chance = chance_of(name)
        self.numbers = itertools.count(1)
        self.exactly = self.least = 0

    async def work(self) -> None:
        memory = (self.write, self.write, self.delete, self.count)
        messages = (self.write_and_send, self.send_exactly, self.send_exactly, self.send_least)
        while not self.book.stopping:
            ways = memory if self.book.sent - self.book.handled > BACKLOG else (*memory, *messages)
            await self.chance.choice(ways)()
            await asyncio.sleep(PAUSE)

    def own_key(self) -> str:
        return f"w:{self.name}:{self.chance.randrange(OWN_KEYS)}"

    async def write(self) -> None:
        key, value = self.own_key(), f"{self.name} {next(self.numbers)}"
        told, entry = await self.book.tell("write", self.space.memory.write(key, value, owner=self.name))
        self.book.take(told, entry and entry.revision, put(key, value))

    async def delete(self) -> None:
        """Delete in a transaction, which tells the revision, a key that must be there as it was read."""
        key = self.own_key()
        transaction = self.space.transaction()
        told, value = await self.book.tell("read", transaction.read(key, reader=self.name))
        if told is not Told.DONE or value is None:
            return
        transaction.delete(key, requester=self.name)
        try:
            told, _ = await self.book.tell("delete", transaction.commit())
        except ConflictError:  # a write of unknown outcome came through after all
            return
        self.book.take(told, transaction.revision, watches.Change(0, key, ChangeKind.DELETE))

    async def count(self) -> None:
        """Count one more, by compare-and-set; somebody else may be faster."""
        key = f"c:{self.chance.randrange(COUNTERS)}"
        memory = self.space.memory
        told, entry = await self.book.tell("read", memory.read_with_metadata(key, reader=self.name))
        if told is not Told.DONE:
            return
        value = 0 if entry is None else entry.value + 1
        if entry is None:
            work = memory.create(key, value, owner=self.name)
        else:
            work = memory.update(key, value, updater=self.name, expected_revision=entry.revision)
        try:
            told, entry = await self.book.tell("count", work)
        except ConflictError:
            return
        self.book.take(told, entry and entry.revision, put(key, value))

    # --- messages ---

    def message(self, mailbox: str, sequence: int, mode: DeliveryMode) -> tuple[Message, mailboxes.Sent]:
        message_id = f"{self.name}-{mailbox}-{sequence}"
        message = Message(id=message_id, sender=self.name, receiver=mailbox, content=sequence, delivery_mode=mode)
        sent = mailboxes.Sent(
            at=time.monotonic_ns(), producer=self.name, mailbox=mailbox, message_id=message_id, sequence=sequence,
            confirmed=False,
        )  # fmt: skip
        self.book.events.append(sent)
        return message, sent

    def confirm(self, told: Told, sent: mailboxes.Sent) -> bool:
        if told is Told.DONE:
            self.book.events.append(replace(sent, confirmed=True))
            self.book.sent += 1
        return told is Told.DONE

    async def send_exactly(self) -> None:
        """Send the next message that must have its effect once, or the last one again until it is acknowledged."""
        message, sent = self.message(EXACTLY, self.exactly + 1, DeliveryMode.EXACTLY_ONCE)
        told, _ = await self.book.tell("send", self.space.broker.send(message))
        self.exactly += self.confirm(told, sent)

    async def write_and_send(self) -> None:
        """Write a pair of keys and send a message, in one commit."""
        pair, value = f"p:{self.name}:{self.chance.randrange(PAIRS)}", f"{self.name} {next(self.numbers)}"
        message, sent = self.message(EXACTLY, self.exactly + 1, DeliveryMode.EXACTLY_ONCE)
        transaction = self.space.transaction()
        for half in "ab":
            transaction.write(f"{pair}:{half}", value, owner=self.name)
        transaction.send(message)
        told, _ = await self.book.tell("commit", transaction.commit())
        pair_of = (put(f"{pair}:a", value), put(f"{pair}:b", value))
        revision = transaction.entry(f"{pair}:b").revision if told is Told.DONE else None  # not the message's
        self.book.take(told, revision, *pair_of)
        self.exactly += self.confirm(told, sent)

    async def send_least(self) -> None:
        self.least += 1
        message, sent = self.message(LEAST, self.least, DeliveryMode.AT_LEAST_ONCE)
        told, _ = await self.book.tell("send", self.space.broker.send(message))
        self.confirm(told, sent)


# --- consumers -----------------------------------------------------------------------------------


class Consumer:
    """Handles what comes to a mailbox: acknowledges it, or has its effects together with its end."""

    def __init__(self, book: Book, space: Space, name: str, mailbox: str) -> None:
        self.book = book
        self.space = space
        self.name = name
        self.mailbox = mailbox
        self.ended = False

    async def work(self) -> None:
        while not self.ended:
            since = time.monotonic_ns()
            told, delivery = await self.book.tell(
                "receive", self.space.broker.receive(self.mailbox, timeout=0.5, lease=LEASE)
            )
            if told is not Told.DONE or delivery is None:
                continue
            delivered = mailboxes.Delivered(
                at=time.monotonic_ns(), consumer=self.name, mailbox=self.mailbox, message_id=delivery.message.id,
                attempt=delivery.attempt, since=since,
            )  # fmt: skip
            self.book.events.append(delivered)
            try:
                await self.handle(delivery)
            except (AlreadySettledError, ConflictError):  # the lease ran out, and another was faster
                continue

    async def handle(self, delivery: Delivery) -> None:
        work = delivery.acknowledge() if self.mailbox == LEAST else self.apply(delivery)
        told, _ = await self.book.tell("handle", work)
        if told is Told.NOT_DONE:
            return
        acknowledged = mailboxes.Acknowledged(
            at=time.monotonic_ns(), consumer=self.name, mailbox=self.mailbox, message_id=delivery.message.id,
            confirmed=told is Told.DONE,
        )  # fmt: skip
        self.book.events.append(acknowledged)
        self.book.handled += 1

    async def apply(self, delivery: Delivery) -> None:
        """Do what a message is for: two writes, one of which would show a repetition, and a message, in one commit."""
        async with delivery.transaction() as transaction:
            total = await transaction.read(f"total:{self.name}", reader=self.name, default=0)
            transaction.write(f"total:{self.name}", total + 1, owner=self.name)
            transaction.write(f"effect:{delivery.message.id}", delivery.attempt, owner=self.name)
            transaction.send(Message(sender=self.name, receiver=AUDIT, content=delivery.message.id))


# --- watchers ------------------------------------------------------------------------------------


class Watcher:
    """Watches a pattern through the whole run; goes on after the last change that it saw when it is told of a gap."""

    def __init__(self, book: Book, space: Space, pattern: str) -> None:
        self.book = book
        self.space = space
        self.pattern = pattern
        self.last = [key for key in LAST if pattern == "[wcp]:*" or key[0] == pattern[0]][-1]
        self.revision: int | None = None
        self.ready = asyncio.Event()

    async def work(self) -> None:
        for number in itertools.count(1):
            events: list[watches.Change | watches.Gap] = []
            after = self.revision
            ended = await self.watch(events, after)
            name, until = f"{self.pattern} {number}", self.revision if ended else None
            self.book.watches.append(
                watches.Watch(name=name, after=after, events=tuple(events), pattern=self.pattern, until=until)
            )
            if ended:
                return

    async def watch(self, events: list[watches.Change | watches.Gap], after: int | None) -> bool:
        """Watch until the last key is written, which returns True, or a gap is told."""
        try:
            async with self.space.memory.watch(self.pattern, after=after) as changes:
                self.ready.set()
                async for change in changes:
                    self.revision = change.revision
                    self.book.done[f"watch {self.pattern}"] += 1
                    events.append(watches.Change(change.revision, change.key, change.kind, change.value))
                    if change.key == self.last:
                        return True
        except WatchLaggedError:
            events.append(watches.Gap())
            self.revision = None  # from now on
            self.book.gaps += 1
        return False


class Reader:
    """Looks at the pairs, and watches for a while from all sorts of revisions."""

    def __init__(self, book: Book, space: Space, name: str) -> None:
        self.book = book
        self.space = space
        self.name = name
        self.chance = chance_of(name)

    async def work(self) -> None:
        for number in itertools.count(1):
            if self.book.stopping:
                return
            told, snapshot = await self.book.tell("snapshot", self.space.memory.snapshot("p:*"))
            if told is not Told.DONE or snapshot is None:
                continue
            values = {entry.key: entry.value for entry in snapshot.entries}
            torn = [key for key in values if values.get(key[:-1] + "a") != values.get(key[:-1] + "b")]
            assert not torn, f"half of a commit is there: {torn}"
            revision = snapshot.revision
            after = self.chance.choice((None, revision, max(0, revision - self.chance.randrange(AROUND))))
            await self.watch(f"{self.name} {number}", after)

    async def watch(self, name: str, after: int | None) -> None:
        pattern = self.chance.choice(PATTERNS)
        events: list[watches.Change | watches.Gap] = []
        await self.book.tell("short watch", self.collect(pattern, after, events, self.chance.randrange(1, MOST_EVENTS)))
        self.book.watches.append(watches.Watch(name=name, after=after, events=tuple(events), pattern=pattern))

    async def collect(
        self, pattern: str, after: int | None, events: list[watches.Change | watches.Gap], most: int
    ) -> None:
        try:
            async with self.space.memory.watch(pattern, after=after) as changes:
                while len(events) < most and not self.book.stopping:
                    async with asyncio.timeout(1.0):
                        change = await anext(changes)
                    events.append(watches.Change(change.revision, change.key, change.kind, change.value))
        except WatchLaggedError:
            events.append(watches.Gap())
        except TimeoutError:
            return


# --- clients of shared keys ----------------------------------------------------------------------


async def share_keys(book: Book, space: Space, name: str) -> None:
    """Read and write a few keys that others read and write, mostly by compare-and-set."""
    keys = [f"k:{number}" for number in range(SHARED_KEYS)]
    seen: dict[str, int] = {}
    chance = chance_of(name)
    for part in itertools.count(1):
        if book.stopping:
            return
        client = MemoryClient(f"{name}.{part}", space.memory, book.history, book.not_happened, Doubt.DOUBTS)
        client.seen = seen
        await client.work(chance, keys, PART)
        await asyncio.sleep(PAUSE)
