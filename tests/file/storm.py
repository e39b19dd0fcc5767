"""What the processes of the kill storm do, and what they write down before they go on.

Authors write memory and send messages, consumers handle them, readers look and watch. Whatever one is about to do it
writes down first (`Tried`, an event not confirmed), and what it was told afterwards (`Done`, the same event confirmed):
after a kill, only the last thing of each is in doubt.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress

from msgspec import Struct
from msgspec.structs import replace

import tertulia
from tertulia import DeliveryMode, Message, Space
from tertulia.errors import AlreadySettledError, ConflictError, WatchLaggedError
from tertulia.records import ChangeKind
from tertulia.testing import mailboxes, watches
from tests.file.nursery import Log

LEASE = 0.5  # seconds; what a killed consumer held comes back soon
EXACTLY, LEAST, AUDIT = "exactly", "least", "audit"
OWN_KEYS, COUNTERS, PAIRS = 8, 4, 6
PATTERNS = ("w:*", "c:*", "p:*", "[wcp]:*")
READERS = 4  # tasks of a reading process
MOST_EVENTS = 60  # of one watch
QUIET = 1.0  # seconds in which a watch that is due something gets it, rings lost or not
AROUND = 13_000  # revisions: watches start a little further back, too, than the log goes


class Opened(Struct, tag=True):
    """A process has opened the space."""

    seconds: float


class Tried(Struct, tag=True):
    """These changes are about to be made, all or none; their revisions are yet unknown."""

    number: int
    changes: tuple[watches.Change, ...]


class Done(Struct, tag=True):
    """They are made; `revision` is the last one's, and the others have those before it."""

    number: int
    revision: int


class Refused(Struct, tag=True):
    """Nothing of it was done."""

    number: int


class Watched(Struct, tag=True):
    """A watch has ended."""

    watch: watches.Watch


Entry = (
    Opened | Tried | Done | Refused | Watched
    | mailboxes.Sent | mailboxes.Delivered | mailboxes.Acknowledged | mailboxes.DeadLettered
)  # fmt: skip


async def opened(log: Log, url: str) -> Space:
    before = time.perf_counter()
    space = await tertulia.connect(url)
    log.say(Opened(time.perf_counter() - before))
    return space


def chance_of(name: str) -> random.Random:
    return random.Random(name)  # noqa: S311 - to be repeated, not to be secret


# --- authors -------------------------------------------------------------------------------------


async def author(log: Log, url: str, slot: str, life: int, sent: int, quota: int) -> None:
    """Write and send until killed. `sent` messages that must have their effect once were acknowledged before."""
    space = await opened(log, url)
    await Author(log, space, slot, life, sent, quota).work()


class Author:
    def __init__(self, log: Log, space: Space, slot: str, life: int, sent: int, quota: int) -> None:
        self.log = log
        self.space = space
        self.slot = slot
        self.life = life
        self.sent = sent
        self.quota = quota
        self.least = 0
        self.number = 0
        self.chance = chance_of(f"{slot} {life}")

    async def work(self) -> None:
        memory = (self.write, self.write, self.delete, self.count)
        messages = (self.write_and_send, self.write_and_send, self.send_exactly, self.send_exactly, self.send_least)
        ways = (*memory, *messages)
        while True:
            await self.chance.choice(ways)()
            await asyncio.sleep(0.01 if self.sent >= self.quota else 0)  # the others have work to do yet

    # --- memory ---

    def tried(self, *changes: tuple[str, object]) -> int:
        self.number += 1
        puts = tuple(
            watches.Change(0, key, ChangeKind.DELETE if value is None else ChangeKind.PUT, value)
            for key, value in changes
        )
        self.log.say(Tried(self.number, puts))
        return self.number

    def own_key(self) -> str:
        return f"w:{self.slot}:{self.chance.randrange(OWN_KEYS)}"

    async def write(self) -> None:
        key, value = self.own_key(), f"{self.slot} {self.life} {self.number}"
        number = self.tried((key, value))
        entry = await self.space.memory.write(key, value, owner=self.slot)
        self.log.say(Done(number, entry.revision))

    async def delete(self) -> None:
        """Delete in a transaction, which tells the revision, a key that must be there."""
        key = self.own_key()
        transaction = self.space.transaction()
        if await transaction.read(key, reader=self.slot) is None:
            return
        transaction.delete(key, requester=self.slot)
        number = self.tried((key, None))
        await transaction.commit()
        self.log.say(Done(number, transaction.revision or 0))

    async def count(self) -> None:
        """Count one more, by compare-and-set; somebody else may be faster."""
        key = f"c:{self.chance.randrange(COUNTERS)}"
        entry = await self.space.memory.read_with_metadata(key, reader=self.slot)
        value = 0 if entry is None else entry.value + 1
        number = self.tried((key, value))
        try:
            if entry is None:
                entry = await self.space.memory.create(key, value, owner=self.slot)
            else:
                entry = await self.space.memory.update(key, value, updater=self.slot, expected_revision=entry.revision)
        except ConflictError:
            self.log.say(Refused(number))
        else:
            self.log.say(Done(number, entry.revision))

    # --- messages ---

    def message(
        self, mailbox: str, sequence: int, message_id: str, mode: DeliveryMode
    ) -> tuple[Message, mailboxes.Sent]:
        message = Message(id=message_id, sender=self.slot, receiver=mailbox, content=sequence, delivery_mode=mode)
        sent = mailboxes.Sent(
            at=time.monotonic_ns(),
            producer=self.slot,
            mailbox=mailbox,
            message_id=message_id,
            sequence=sequence,
            confirmed=False,
        )
        self.log.say(sent)
        return message, sent

    def confirm(self, sent: mailboxes.Sent) -> None:
        self.log.say(replace(sent, confirmed=True))

    def exactly(self) -> tuple[Message, mailboxes.Sent]:
        """Return the next message that must have its effect once; the last life may have sent it already."""
        sequence = self.sent + 1
        return self.message(EXACTLY, sequence, f"{self.slot}-{sequence}", DeliveryMode.EXACTLY_ONCE)

    async def send_exactly(self) -> None:
        if self.sent >= self.quota:
            return
        if self.sent and self.chance.random() < 0.05:
            await self.repeat()
        message, sent = self.exactly()
        await self.space.broker.send(message)
        self.confirm(sent)
        self.sent += 1

    async def repeat(self) -> None:
        """Send one again that was stored: it is known, whether it was handled or not."""
        known = f"{self.slot}-{self.chance.randint(max(1, self.sent - 1_000), self.sent)}"
        message = Message(id=known, sender=self.slot, receiver=EXACTLY, delivery_mode=DeliveryMode.EXACTLY_ONCE)
        receipt = await self.space.broker.send(message)
        assert receipt.duplicate, f"{known} was stored again"

    async def write_and_send(self) -> None:
        """Write a pair of keys and send a message, in one commit."""
        if self.sent >= self.quota:
            return
        pair, value = f"p:{self.slot}:{self.chance.randrange(PAIRS)}", f"{self.slot} {self.life} {self.number}"
        message, sent = self.exactly()
        number = self.tried((f"{pair}:a", value), (f"{pair}:b", value))
        async with self.space.transaction() as transaction:
            transaction.write(f"{pair}:a", value, owner=self.slot)
            transaction.write(f"{pair}:b", value, owner=self.slot)
            transaction.send(message)
        self.log.say(Done(number, transaction.revision or 0))
        self.confirm(sent)
        self.sent += 1

    async def send_least(self) -> None:
        if self.least >= self.quota:
            return
        self.least += 1
        sequence = self.life * 1_000_000 + self.least
        message, sent = self.message(LEAST, sequence, f"{self.slot}+{sequence}", DeliveryMode.AT_LEAST_ONCE)
        await self.space.broker.send(message)
        self.confirm(sent)


# --- consumers -----------------------------------------------------------------------------------


async def consumer(log: Log, url: str, slot: str) -> None:
    """Handle what comes to both mailboxes, until killed."""
    space = await opened(log, url)
    async with asyncio.TaskGroup() as group:
        group.create_task(_consume(log, space, slot, EXACTLY))
        group.create_task(_consume(log, space, slot, LEAST))


async def _consume(log: Log, space: Space, slot: str, mailbox: str) -> None:
    while True:
        since = time.monotonic_ns()
        delivery = await space.broker.receive(mailbox, lease=LEASE)
        assert delivery is not None
        delivered = mailboxes.Delivered(
            at=time.monotonic_ns(),
            consumer=slot,
            mailbox=mailbox,
            message_id=delivery.message.id,
            attempt=delivery.attempt,
            since=min(since, _leased_at(delivery)),
        )
        log.say(delivered)
        log.say(_acknowledged(delivered, confirmed=False))
        with suppress(AlreadySettledError):  # the lease ran out, and another was faster
            if mailbox == LEAST:
                await delivery.acknowledge()
            else:
                await _apply(slot, delivery)
            log.say(_acknowledged(delivered, confirmed=True))


def _leased_at(delivery: tertulia.Delivery) -> int:
    """Return when a delivery's lease began: for one that its sender claimed for this process, before it was asked for.

    Processes that share a mailbox are given its messages in order, and each then handles its own in its own time.
    """
    return round((delivery._claimed.lease_until - LEASE) * 1e9)  # noqa: SLF001 - of no use to anybody else


def _acknowledged(of: mailboxes.Delivered, *, confirmed: bool) -> mailboxes.Acknowledged:
    return mailboxes.Acknowledged(
        at=time.monotonic_ns(),
        consumer=of.consumer,
        mailbox=of.mailbox,
        message_id=of.message_id,
        confirmed=confirmed,
    )


async def _apply(slot: str, delivery: tertulia.Delivery) -> None:
    """Do what a message is for: two writes, one of which would show a repetition, and a message, in one commit."""
    async with delivery.transaction() as transaction:
        total = await transaction.read(f"total:{slot}", reader=slot, default=0)
        transaction.write(f"total:{slot}", total + 1, owner=slot)
        transaction.write(f"effect:{delivery.message.id}", delivery.attempt, owner=slot)
        transaction.send(Message(sender=slot, receiver=AUDIT, content=delivery.message.id))


# --- readers -------------------------------------------------------------------------------------


async def reader(log: Log, url: str, slot: str, life: int) -> None:
    """Look at the pairs, and watch from all sorts of revisions, several at once, until killed."""
    space = await opened(log, url)
    async with asyncio.TaskGroup() as group:
        for number in range(READERS):
            group.create_task(_look_and_watch(log, space, f"{slot} {life} {number}"))


async def _look_and_watch(log: Log, space: Space, name: str) -> None:
    chance = chance_of(name)
    number = revision = 0
    while True:
        number += 1
        snapshot = await space.memory.snapshot("p:*")
        assert snapshot.revision >= revision, "the space went back in time"
        revision = snapshot.revision
        values = {entry.key: entry.value for entry in snapshot.entries}
        torn = [key for key in values if values.get(key[:-1] + "a") != values.get(key[:-1] + "b")]
        assert not torn, f"half of a commit is there: {torn}"
        after = chance.choice((None, 0, revision, max(0, revision - chance.randrange(AROUND))))
        log.say(Watched(await _watch(space, f"{name} {number}", chance, after, revision)))


async def _watch(space: Space, name: str, chance: random.Random, after: int | None, revision: int) -> watches.Watch:
    """Watch for a while; where nothing comes any more, all up to `revision` must have come."""
    pattern = chance.choice(PATTERNS)
    most = chance.randrange(1, MOST_EVENTS)
    events: list[watches.Change | watches.Gap] = []
    until = None
    try:
        async with space.memory.watch(pattern, after=after) as changes:
            while len(events) < most:
                async with asyncio.timeout(QUIET):
                    change = await anext(changes)
                events.append(watches.Change(change.revision, change.key, change.kind, change.value))
    except WatchLaggedError:
        events.append(watches.Gap())
    except TimeoutError:
        until = revision if after is not None else None
    return watches.Watch(name=name, after=after, events=tuple(events), pattern=pattern, until=until)


# --- visitors ------------------------------------------------------------------------------------


async def visitor(log: Log, url: str, name: str) -> None:
    """Open the space, or make it, write one key, and close it again, until killed."""
    number = 0
    while True:
        space = await opened(log, url)
        number += 1
        change = watches.Change(0, f"{name} {number}", ChangeKind.PUT, number)
        log.say(Tried(number, (change,)))
        entry = await space.memory.write(change.key, number, owner=name)
        log.say(Done(number, entry.revision))
        await space.aclose()
