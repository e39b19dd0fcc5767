"""Runs of many clients at once whose histories a checker can judge, on any engine, sound or faulty.

In process a call may end without ever giving way to another task, so that nothing would overlap. `Interleaved` makes
every call give way at random before and after it happens; what clients then do to each other is what a real network
makes them do.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum

from tertulia import Delivery, DeliveryMode, Message, SharedMemory, Space
from tertulia.engines.base import Claimed, Commit, Committed, Engine, Record
from tertulia.errors import (
    AlreadySettledError,
    ConflictError,
    EngineError,
    EngineUnavailableError,
    KeyNotFoundError,
    OutcomeUnknownError,
    VersionConflictError,
    WatchLaggedError,
)
from tertulia.records import ChangeKind
from tertulia.testing import linearizability as lin
from tertulia.testing import mailboxes as mail
from tertulia.testing import watches as seen
from tertulia.testing.clock import ManualClock
from tertulia.testing.faults import Fault, FaultyEngine
from tests.model.engines import EngineCase, open_space

Rates = dict[Fault, float]

PAUSES = (0, 0, 1, 1, 2)  # turns of the event loop that a call gives way, before and after it happens
LEASE = 30.0
ROUND = 250  # messages that a producer sends before time passes


def chance_of(seed: object) -> random.Random:
    """Return a source of chance that the seed decides."""
    return random.Random(str(seed))  # noqa: S311 - to be repeated, not to be secret


class Interleaved(FaultyEngine):
    """Gives way to other tasks before and after reads, commits and releases; faulty if asked for."""

    def __init__(self, engine: Engine, rates: Rates | None, seed: int) -> None:
        super().__init__(engine, rates or {}, seed=seed)
        self._pauses = chance_of(seed)

    async def pause(self) -> None:
        for _ in range(self._pauses.choice(PAUSES)):
            await asyncio.sleep(0)

    async def get(self, key: str) -> Record | None:
        await self.pause()
        record = await super().get(key)
        await self.pause()
        return record

    async def commit(self, commit: Commit) -> Committed:
        await self.pause()
        committed = await super().commit(commit)
        await self.pause()
        return committed

    async def release(self, claimed: Claimed, *, delay: float = 0.0, counted: bool = False, note: bytes = b"") -> bool:
        await self.pause()
        return await super().release(claimed, delay=delay, counted=counted, note=note)


class Doubt(Enum):
    """What a client takes an unknown outcome for. Only one of these is right."""

    DOUBTS = "neither a failure nor a success"
    DESPAIRS = "a failure"
    TRUSTS = "a success"


# --- memory --------------------------------------------------------------------------------------


async def memory_history(
    engine: EngineCase,
    *,
    seed: int,
    rates: Rates | None = None,
    clients: int = 16,
    operations: int = 10_000,
    keys: int = 20,
    doubt: Doubt = Doubt.DOUBTS,
) -> list[lin.Operation]:
    """Let clients read and write a few keys at once; return what each saw, in the order of the calls."""
    history = lin.History()
    not_happened: set[int] = set()
    names = [f"k:{number}" for number in range(keys)]
    async with (
        open_space(engine, wrap=lambda inside: Interleaved(inside, rates, seed)) as space,
        asyncio.TaskGroup() as group,
    ):
        for number in range(clients):
            client = MemoryClient(f"c{number}", space.memory, history, not_happened, doubt)
            group.create_task(client.work(chance_of(f"{seed}-{number}"), names, operations // clients))
    return [operation for operation in history.operations if operation.number not in not_happened]


class MemoryClient:
    """One client: it remembers the revisions that it saw, and makes its compare-and-sets with them."""

    def __init__(
        self, name: str, memory: SharedMemory, history: lin.History, not_happened: set[int], doubt: Doubt
    ) -> None:
        self.name = name
        self.memory = memory
        self.history = history
        self.not_happened = not_happened
        self.doubt = doubt
        self.seen: dict[str, int] = {}

    async def work(self, chance: random.Random, keys: list[str], operations: int) -> None:
        for number in range(operations):
            kind = chance.choice(_KINDS)
            key = chance.choice(keys)
            expected = self.seen.get(key)
            if kind is lin.Kind.COMPARE_AND_SET and not expected:
                kind = lin.Kind.GET
            expected = expected if kind is lin.Kind.COMPARE_AND_SET else None
            value = None if kind in (lin.Kind.GET, lin.Kind.DELETE) else f"{self.name}-{number}"
            called = self.history.invoke(kind, key, client=self.name, argument=value, expected=expected)
            await self.record(called)

    async def record(self, called: lin.Operation) -> None:
        complete = self.history.complete
        try:
            value, revision = await self.do(called)
        except EngineUnavailableError:
            self.not_happened.add(called.number)
        except OutcomeUnknownError:
            self.take_in_doubt(called)
        except VersionConflictError as conflict:
            self.seen[called.key] = conflict.actual_revision or 0
            complete(called, outcome=lin.Outcome.CONFLICT, revision=conflict.actual_revision)
        except ConflictError:  # a create found the key there, or the key to change is gone
            complete(called, outcome=lin.Outcome.CONFLICT)
        else:
            if revision is not None:
                self.seen[called.key] = revision
            complete(called, value=value, revision=revision)

    def take_in_doubt(self, called: lin.Operation) -> None:
        if self.doubt is Doubt.DESPAIRS:
            self.not_happened.add(called.number)
        elif self.doubt is Doubt.TRUSTS:
            self.history.complete(called)
        else:
            self.history.complete(called, outcome=lin.Outcome.UNKNOWN)

    async def do(self, called: lin.Operation) -> tuple[object, int | None]:
        """Make the call; return the value and the revision that it answered."""
        memory, key, me = self.memory, called.key, self.name
        match called.kind:
            case lin.Kind.GET:
                entry = await memory.read_with_metadata(key, reader=me)
                return (None, 0) if entry is None else (entry.value, entry.revision)
            case lin.Kind.PUT:
                return None, (await memory.write(key, called.argument, owner=me)).revision
            case lin.Kind.CREATE:
                return None, (await memory.create(key, called.argument, owner=me)).revision
            case lin.Kind.COMPARE_AND_SET:
                entry = await memory.update(key, called.argument, updater=me, expected_revision=called.expected)
                return None, entry.revision
            case _:
                if not await memory.delete(key, requester=me):
                    raise KeyNotFoundError(key)
                return None, None


_KINDS = (
    *(lin.Kind.GET, lin.Kind.GET, lin.Kind.PUT, lin.Kind.CREATE),
    *(lin.Kind.COMPARE_AND_SET, lin.Kind.COMPARE_AND_SET, lin.Kind.DELETE),
)


def overlapping(history: list[lin.Operation]) -> int:
    """Count the pairs of operations on one key of which each was called before the other returned."""
    running: dict[str, list[lin.Operation]] = {}
    pairs = 0
    for operation in history:  # in the order of their calls
        others = [o for o in running.get(operation.key, []) if (o.returned_at or 0) > operation.called_at]
        pairs += len(others)
        running[operation.key] = [*others, operation]
    return pairs


# --- messages ------------------------------------------------------------------------------------


async def mailbox_run(
    engine: EngineCase,
    *,
    seed: int,
    rates: Rates | None = None,
    messages: int = 10_000,
    mailboxes: int = 2,
    producers: int = 4,
    consumers: int = 4,
) -> list[mail.Event]:
    """Let producers send and competing consumers handle, give back, refuse or forget, until all is settled."""
    clock = ManualClock()
    async with open_space(engine, clock=clock, wrap=lambda inside: Interleaved(inside, rates, seed)) as space:
        run = _MailboxRun(space, chance_of(seed))
        names = [f"box{number}" for number in range(mailboxes)]
        for name in names:
            await run.until_it_works(lambda name=name: space.broker.register_agent(name, max_queue_size=messages))
        crowd = [
            asyncio.create_task(run.consume(f"{name}-{number}", name)) for name in names for number in range(consumers)
        ]
        each = messages // producers
        for first in range(0, each, ROUND):
            async with asyncio.TaskGroup() as group:
                for number in range(producers):
                    part = range(first, min(first + ROUND, each))
                    group.create_task(run.produce(f"p{number}", names, part))
            await clock.advance(LEASE + 1)
        await run.finish(clock, names)
        for consumer in crowd:
            consumer.cancel()
        await asyncio.wait(crowd)
        return run.events


class _MailboxRun:
    """What the producers and consumers of a run share."""

    def __init__(self, space: Space, chance: random.Random) -> None:
        self.space = space
        self.broker = space.broker
        self.chance = chance
        self.events: list[mail.Event] = []
        self.now = itertools.count(1).__next__

    async def until_it_works(self, call: Callable[[], Awaitable[object]]) -> None:
        """Try again while the engine cannot be reached, or does not say what became of a repeatable call."""
        while True:
            try:
                await call()
            except EngineError:
                continue
            return

    async def produce(self, name: str, mailboxes: list[str], numbers: range) -> None:
        for number in numbers:
            mailbox = self.chance.choice(mailboxes)
            message = Message(
                id=f"{name}-{number}",
                sender=name,
                receiver=mailbox,
                content=number,
                delivery_mode=DeliveryMode.EXACTLY_ONCE,
            )
            at = self.now()
            await self.until_it_works(lambda message=message: self.broker.send(message))
            self.events.append(mail.Sent(at=at, producer=name, mailbox=mailbox, message_id=message.id, sequence=number))

    async def consume(self, name: str, mailbox: str) -> None:
        while True:
            since = self.now()
            try:
                delivery = await self.broker.receive(mailbox, lease=LEASE)
            except EngineError:
                continue
            if delivery is None:
                continue
            self.events.append(
                mail.Delivered(
                    at=self.now(),
                    consumer=name,
                    mailbox=mailbox,
                    message_id=delivery.message.id,
                    attempt=delivery.attempt,
                    since=since,
                )
            )
            with suppress(AlreadySettledError):
                await self.handle(name, mailbox, delivery)

    async def handle(self, name: str, mailbox: str, delivery: Delivery) -> None:
        """Acknowledge most messages; give some back, refuse a few, and let go of the rest until their lease ends."""
        luck = self.chance.random()
        if luck < 0.8:
            await self.acknowledge(name, mailbox, delivery)
        elif luck < 0.9:
            delay = self.chance.choice((0.0, 0.0, 5.0))
            with suppress(EngineError):
                await delivery.release(delay=delay, counted=self.chance.random() < 0.5)
        elif luck < 0.93:
            with suppress(EngineError):
                await delivery.reject("refused")

    async def acknowledge(self, name: str, mailbox: str, delivery: Delivery) -> None:
        confirmed = True
        try:
            await delivery.acknowledge()
        except EngineUnavailableError:
            return
        except OutcomeUnknownError:
            confirmed = False
        self.events.append(
            mail.Acknowledged(
                at=self.now(), consumer=name, mailbox=mailbox, message_id=delivery.message.id, confirmed=confirmed
            )
        )

    async def finish(self, clock: ManualClock, mailboxes: list[str]) -> None:
        """Without further faults, let leases and delays end until nothing is left; then collect the dead letters."""
        assert isinstance(self.space.engine, FaultyEngine)
        self.space.engine.rates.clear()
        for _ in range(100):
            await clock.advance(LEASE + 1)
            stats = [await self.broker.mailbox_stats(name) for name in mailboxes]
            if not any(box.waiting + box.pending + box.delayed for box in stats):
                break
        for name in mailboxes:
            for letter in await self.broker.dead_letters(name, limit=10_000):
                self.events.append(mail.DeadLettered(at=self.now(), mailbox=name, message_id=letter.message.id))


# --- watches -------------------------------------------------------------------------------------


async def watch_run(
    engine: EngineCase,
    *,
    seed: int,
    rates: Rates | None = None,
    commits: int = 2_000,
    watches: int = 100,
    patience: float = 20.0,
) -> tuple[list[seen.Change], list[seen.Watch]]:
    """Let watchers come and go, from now or from an earlier revision, while writers write and delete."""
    async with open_space(engine, wrap=lambda inside: Interleaved(inside, rates, seed)) as space:
        run = _WatchRun(space, chance_of(seed))
        faithful = [asyncio.create_task(run.watch(pattern, 0, to_the_end=True)) for pattern in PATTERNS]
        visitors = [asyncio.create_task(run.come_and_go(watches // VISITORS)) for _ in range(VISITORS)]
        async with asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                group.create_task(run.write(f"w{number}", commits // WRITERS))
        assert isinstance(space.engine, FaultyEngine)
        space.engine.rates.clear()  # the end must be seen
        for pattern in PATTERNS:
            await run.put(pattern.replace("*", END), "the end", "w0")
        _, waiting = await asyncio.wait(faithful, timeout=patience)
        assert not waiting, "a watch did not reach the end"
        for visitor in visitors:
            visitor.cancel()
        await asyncio.wait(visitors)
        return run.committed, run.watches


WRITERS = 8
VISITORS = 10
PATTERNS = ("a:*", "b:*", "*")
END = "end"  # what the last key of each pattern has in the wildcard's place


class _WatchRun:
    """What the writers and watchers of a run share."""

    def __init__(self, space: Space, chance: random.Random) -> None:
        self.space = space
        self.chance = chance
        self.committed: list[seen.Change] = []
        self.watches: list[seen.Watch] = []

    async def write(self, name: str, commits: int) -> None:
        for number in range(commits):
            key = f"{self.chance.choice('abc')}:{self.chance.randrange(5)}"
            if self.chance.random() < 0.2:
                await self.delete(key, name)
            else:
                await self.put(key, f"{name}-{number}", name)

    async def put(self, key: str, value: str, owner: str) -> None:
        entry = await self.space.memory.write(key, value, owner=owner)
        self.committed.append(seen.Change(entry.revision, key, ChangeKind.PUT, value))

    async def delete(self, key: str, requester: str) -> None:
        """Delete in a transaction, which tells the revision, a key that must be there."""
        transaction = self.space.transaction()
        if await transaction.read(key, reader=requester) is None:
            return
        transaction.delete(key, requester=requester)
        with suppress(ConflictError):
            await transaction.commit()
            assert transaction.revision is not None
            self.committed.append(seen.Change(transaction.revision, key, ChangeKind.DELETE))

    async def come_and_go(self, times: int) -> None:
        """Watch a little, close, and most times go on where the last watch ended."""
        after: int | None = None
        pattern = PATTERNS[0]
        for _ in range(times):
            if after is None or self.chance.random() < 0.3:
                pattern = self.chance.choice(PATTERNS)
                after = self.chance.choice(
                    (None, 0, self.chance.choice(self.committed).revision if self.committed else 0)
                )
            after = await self.watch(pattern, after)

    async def watch(self, pattern: str, after: int | None, *, to_the_end: bool = False) -> int | None:
        """Watch for a while, or until the end; return where to go on."""
        events: list[seen.Change | seen.Gap] = []
        length = self.chance.randrange(1, 60)
        until = None
        try:
            async with self.space.memory.watch(pattern, after=after) as changes:
                async for change in changes:
                    events.append(seen.Change(change.revision, change.key, change.kind, change.value))
                    if to_the_end and change.key == pattern.replace("*", END):
                        until = change.revision
                        break
                    if not to_the_end and len(events) == length:
                        break
                    await asyncio.sleep(0)  # what is in the buffer comes at once; writers get their turn
        except WatchLaggedError:
            events.append(seen.Gap())
        finally:
            name = f"{pattern} {len(self.watches)}"
            self.watches.append(seen.Watch(name=name, after=after, events=tuple(events), pattern=pattern, until=until))
        last = events[-1] if events else None
        return last.revision if isinstance(last, seen.Change) else None
