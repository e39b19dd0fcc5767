"""What is done with the file engine to find a bug in it. Each procedure passes on a sound engine.

They look for what a user would notice, through the library's own methods; the spaces `apart` share nothing but the
file, as those of separate processes do.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import tertulia
from tertulia import DeliveryMode, Message, MessagePassingAgent, Space
from tertulia.engines import _file_session, _file_time, _file_watch
from tertulia.engines.base import MailboxOptions, Publish, Put, Send
from tertulia.errors import CorruptRecordError, MailboxFullError
from tertulia.records import ChangeKind
from tertulia.testing import ManualClock, linearizability, watches
from tests.file.apart import apart
from tests.model.engines import ENGINES
from tests.model.procedures import Doubt, Interleaved, MemoryClient, chance_of, memory_history, watch_run

PATIENCE = 10.0  # seconds; in a sound engine nothing takes a tenth of it, and with a bug less will do
FILE = next(engine for engine in ENGINES if engine.name == "file")
Procedure = Callable[[Path], Awaitable[None]]


# --- one process ---


async def clients_of_one_process(_: Path) -> None:
    """What many clients see of the memory is linearizable."""
    history = await memory_history(FILE, seed=1, operations=2_000, keys=10)
    verdict = linearizability.check(history)
    assert verdict.ok, verdict.describe()


async def watchers(_: Path) -> None:
    """Watches that come and go miss nothing, and are told of no gap: all changes are still kept."""
    committed, watched = await watch_run(FILE, seed=1, commits=1_000, watches=60, patience=PATIENCE)
    report = watches.check(committed, watched)
    assert report.ok, report.describe()
    assert not any(isinstance(event, watches.Gap) for watch in watched for event in watch.events)


async def late_watchers(_: Path) -> None:
    """Watches that begin before the oldest change that is kept are told so."""
    kept = _file_session.HISTORY_CHANGES
    _file_session.HISTORY_CHANGES = _file_watch.HISTORY_CHANGES = 300
    try:
        committed, watched = await watch_run(FILE, seed=2, commits=1_500, watches=100, patience=PATIENCE)
    finally:
        _file_session.HISTORY_CHANGES = _file_watch.HISTORY_CHANGES = kept
    report = watches.check(committed, watched)
    assert report.ok, report.describe()
    assert any(isinstance(event, watches.Gap) for watch in watched for event in watch.events)


async def a_key_that_expires(directory: Path) -> None:
    """Who watches a key learns that its time is over."""
    clock = ManualClock()
    url = f"file:{directory}/space.db"
    async with (
        tertulia.connect(url, clock=clock) as space,
        space.memory.watch("*") as changes,
        asyncio.timeout(PATIENCE),
    ):
        await space.memory.write("k", 1, owner="ada", ttl=5.0)
        await clock.advance(6.0)
        kinds = [(await anext(changes)).kind for _ in range(2)]
    assert kinds == [ChangeKind.PUT, ChangeKind.EXPIRE]


async def a_commit_that_fails(directory: Path) -> None:
    """When one part of a commit cannot be done, none of it is."""
    async with tertulia.connect(f"file:{directory}/space.db") as space:
        await space.engine.open_mailbox("work", MailboxOptions())
        await space.engine.open_mailbox("full", MailboxOptions(max_size=1))
        for mailbox in ("work", "full"):
            await space.broker.send(Message(receiver=mailbox))
        delivery = await space.broker.receive("work", timeout=0)
        assert delivery is not None
        transaction = delivery.transaction()
        transaction.write("k", 1, owner="ada")
        transaction.send(Message(receiver="full"))
        with suppress(MailboxFullError):
            await transaction.commit()
        assert await space.memory.list_keys() == []
        await delivery.acknowledge()


async def a_small_mailbox_in_use(directory: Path) -> None:
    """What was settled takes no room."""
    async with tertulia.connect(f"file:{directory}/space.db") as space:
        await space.broker.register_agent("tiny", max_queue_size=2)
        for _ in range(5):
            await space.broker.send(Message(receiver="tiny"))
            delivery = await space.broker.receive("tiny", timeout=0)
            assert delivery is not None
            await delivery.acknowledge()


async def an_ordered_mailbox(directory: Path) -> None:
    """Nothing is handed out before what was sent earlier is settled."""
    async with tertulia.connect(f"file:{directory}/space.db") as space:
        await space.broker.register_agent("ada", ordered=True)
        for number in range(2):
            await space.broker.send(Message(receiver="ada", content=number))
        first = await space.broker.receive("ada", timeout=0)
        assert first is not None
        assert await space.broker.receive("ada", timeout=0) is None
        await first.release(delay=60.0)
        assert await space.broker.receive("ada", timeout=0) is None


async def concurrent_writes_of_which_some_fail(directory: Path) -> None:
    """Writes that share a transaction fail alone, and leave nothing."""
    async with tertulia.connect(f"file:{directory}/space.db", durability="power") as space:
        await space.engine.open_mailbox("tiny", MailboxOptions(max_size=3))

        async def both(number: int) -> bool:
            async with space.transaction() as transaction:
                transaction.write(f"k:{number}", number, owner="ada")
                transaction.send(Message(receiver="tiny"))
            return True

        done = await asyncio.gather(*map(both, range(30)), return_exceptions=True)
        kept = await space.memory.list_keys("k:*")
    assert done.count(True) == 3
    assert sum(isinstance(error, MailboxFullError) for error in done) == 27
    assert len(kept) == 3


async def cancelled_claims(directory: Path) -> None:
    """A claim that is cancelled at any moment holds nothing."""
    async with tertulia.connect(f"file:{directory}/space.db", durability="power") as space:
        await space.engine.open_mailbox("ada", MailboxOptions())
        took = 0.001  # seconds, the last claim that was not cancelled
        for part in [number / 10 for number in range(20)] * 5:
            await space.engine.send(Send("ada", "m", b""))
            claiming = asyncio.create_task(space.engine.claim("ada", lease=60.0))
            until = time.perf_counter() + took * part
            while time.perf_counter() < until:  # noqa: ASYNC110 - a timer is not as exact
                await asyncio.sleep(0)
            claiming.cancel()
            with suppress(asyncio.CancelledError):
                await claiming
            if claiming.cancelled():
                began = time.perf_counter()
                async with asyncio.timeout(PATIENCE):
                    await space.engine.claim("ada", wait=None)
                took = time.perf_counter() - began
            await space.broker.acknowledge("ada", "m")


async def keys_with_one_checksum(directory: Path) -> None:
    """Keys whose checksums are the same are two keys."""
    names = ("plumless", "buckeroo")
    async with tertulia.connect(f"file:{directory}/space.db") as space:
        for round_ in range(2):
            for name in names:
                await space.memory.write(name, f"{name} {round_}", owner="ada")
        values = [await space.memory.read(name, reader="ada") for name in names]
        await space.memory.delete(names[0], requester="ada")
        assert await space.memory.list_keys() == [names[1]]
    assert values == ["plumless 1", "buckeroo 1"]


async def damage(directory: Path) -> None:
    """Whatever was changed behind the engine's back is an error."""
    path = directory / "space.db"
    async with tertulia.connect(f"file:{path}") as space:
        await space.engine.open_mailbox("ada", MailboxOptions())
        await space.engine.open_mailbox("bo", MailboxOptions())
        await space.engine.put(Put("k", b"value", "ada"))
        await space.engine.send(Send("ada", "m", b"body"))
        await space.engine.send(Send("bo", "m", b"body"))
    with sqlite3.connect(path) as other:
        other.execute("UPDATE records SET body = x'33'")
        other.execute("UPDATE changes SET body = x'33'")
        other.execute("UPDATE messages SET body = x'33' WHERE sequence = 1")
        other.execute("UPDATE messages SET failures = 3 WHERE sequence = 2")
    other.close()
    async with tertulia.connect(f"file:{path}") as space:
        stream = await space.engine.watch("*", after=0)
        looks = {
            "the record": space.engine.get("k"),
            "the change": anext(stream),
            "the message": space.engine.claim("ada"),
            "the message's metadata": space.engine.claim("bo"),
        }
        unnoticed = [what for what, look in looks.items() if not await _raises(look)]
    assert unnoticed == []


async def _raises(look: Awaitable[object]) -> bool:
    try:
        await look
    except CorruptRecordError:
        return True
    return False


async def another_boot(directory: Path) -> None:
    """What was leased when the machine went down is claimable once it is up again."""
    url = f"file:{directory}/space.db"
    async with tertulia.connect(url) as space:
        await space.engine.open_mailbox("ada", MailboxOptions())
        await space.engine.send(Send("ada", "held", b""))
        await space.engine.claim("ada", lease=600.0)
    sound = _file_time._boot_id  # noqa: SLF001 - no other way to boot
    _file_time._boot_id = lambda: "another boot"  # noqa: SLF001
    try:
        async with tertulia.connect(url) as space:
            claimed = await space.engine.claim("ada")
    finally:
        _file_time._boot_id = sound  # noqa: SLF001
    assert [one.attempt for one in claimed] == [2]


# --- several ---


async def clients_of_two_processes(directory: Path) -> None:
    """What the clients of two processes see is linearizable, and none of them meets an error."""
    url = f"file:{directory}/space.db"
    history = linearizability.History()
    async with await apart(url) as one, await apart(url) as two, asyncio.TaskGroup() as group:
        for number in range(8):
            inside = (one, two)[number % 2]
            space = Space(url, Interleaved(inside.engine, None, number), inside.clock)
            client = MemoryClient(f"c{number}", space.memory, history, set(), Doubt.DOUBTS)
            group.create_task(client.work(chance_of(number), [f"k:{key}" for key in range(6)], 150))
    verdict = linearizability.check(history.operations)
    assert verdict.ok, verdict.describe()


async def a_busy_file(directory: Path) -> None:
    """Nobody writes while another process does."""
    async with tertulia.connect(f"file:{directory}/space.db") as space:
        lock = os.open(directory / "space.db-lock", os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX)
        writing = asyncio.create_task(space.memory.write("k", 1, owner="ada"))
        await asyncio.sleep(0.05)
        waited = not writing.done()
        os.close(lock)
        async with asyncio.timeout(PATIENCE):
            await writing
    assert waited


async def news_from_another_process(directory: Path) -> None:
    """Watches, consumers and those who wait for room learn of what another process does, in good time."""
    url = f"file:{directory}/space.db"
    async with await apart(url) as here, await apart(url) as there, asyncio.timeout(PATIENCE):
        await here.engine.open_mailbox("ada", MailboxOptions())
        await here.engine.open_mailbox("tiny", MailboxOptions(max_size=1))
        await there.engine.send(Send("tiny", "m", b""))
        stream = await here.engine.watch("k")
        waiting = [
            asyncio.ensure_future(anext(stream)),
            asyncio.create_task(here.engine.claim("ada", wait=None)),
            asyncio.create_task(here.engine.wait_for_room("tiny", PATIENCE * 2)),
        ]
        await asyncio.sleep(0.02)
        await there.engine.put(Put("k", b"", "ada"))
        await there.engine.send(Send("ada", "m", b""))
        await there.broker.acknowledge("tiny", "m")
        await asyncio.gather(*waiting)


async def room_in_one_process(directory: Path) -> None:
    """Who waits for room is told of it at once: it does not take another look of its own."""
    async with tertulia.connect(f"file:{directory}/space.db") as space:
        await space.engine.open_mailbox("tiny", MailboxOptions(max_size=1))
        await space.engine.send(Send("tiny", "m", b""))
        waiting = asyncio.create_task(space.engine.wait_for_room("tiny", PATIENCE))
        await asyncio.sleep(0.02)
        await space.broker.acknowledge("tiny", "m")
        for _ in range(10):
            await asyncio.sleep(0)
        told = waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting])
    assert told


async def requests_between_processes(directory: Path) -> None:
    """Every request is answered, though replies are many and their reader is slow."""
    url = f"file:{directory}/space.db"
    async with await apart(url) as here, await apart(url) as there:
        agent = MessagePassingAgent("echo", there.broker)

        @agent.on_message("default")
        async def echo(message: Message) -> int:
            return message.content

        async with agent, asyncio.timeout(PATIENCE):
            requests = [
                here.broker.request_response(Message(sender="me", receiver="echo", content=number))
                for number in range(40)
            ]
            answers = await asyncio.gather(*requests)
    assert [answer.content for answer in answers] == list(range(40))


async def topics_of_two_processes(directory: Path) -> None:
    """What is published reaches whoever has subscribed by then, in any process."""
    url = f"file:{directory}/space.db"
    async with await apart(url) as here, await apart(url) as there:
        delivered: list[int] = []
        for name in ("ada", "bo"):
            await here.engine.open_mailbox(name, MailboxOptions())
            await here.engine.subscribe(name, "news.*")
            delivered.append((await there.engine.send(Publish("news.eu", f"for {name}", b""))).delivered)
    assert delivered == [1, 2]


async def repetitions_from_two_processes(directory: Path) -> None:
    """A message that is sent again, from anywhere, before or after it was handled, is not stored again."""
    url = f"file:{directory}/space.db"
    message = Message(id="once", receiver="ada", delivery_mode=DeliveryMode.EXACTLY_ONCE)
    async with await apart(url) as here, await apart(url) as there:
        await here.broker.register_agent("ada")
        known = [(await space.broker.send(message)).duplicate for space in (here, there)]
        delivery = await there.broker.receive("ada", timeout=0)
        assert delivery is not None
        async with delivery.transaction() as transaction:
            transaction.write("effect", 1, owner="ada")
        known += [(await space.broker.send(message)).duplicate for space in (here, there)]
        left = await here.broker.receive("ada", timeout=0)
    assert known == [False, True, True, True]
    assert left is None


async def a_lease_that_runs_out(directory: Path) -> None:
    """A message has one holder at a time; when its lease is over the next gets it, and the first has no rights left."""
    url, clock = f"file:{directory}/space.db", ManualClock()
    async with await apart(url, clock=clock) as here, await apart(url, clock=clock) as there:
        await here.broker.register_agent("ada")
        await here.broker.send(Message(receiver="ada"))
        first = await here.broker.receive("ada", timeout=0, lease=30.0)
        assert first is not None
        await here.broker.send(Message(id="other", receiver="ada"))
        other = await there.broker.receive("ada", timeout=0)
        assert other is not None
        assert other.message.id == "other"
        await other.acknowledge()
        await clock.advance(31.0)
        second = await there.broker.receive("ada", timeout=0, lease=30.0)
        assert second is not None
        assert (second.attempt, second.failures) == (2, 1)
        assert not await first.release()
        assert await here.broker.receive("ada", timeout=0) is None
        await second.acknowledge()
