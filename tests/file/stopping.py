"""What the processes do that stop themselves in the middle of something, as a suspended laptop or a debugger would."""

from __future__ import annotations

import os
import signal
from typing import Any

import apsw
from msgspec import Struct

import tertulia
from tertulia import MemoryAccessMode, MemoryRegion, Message
from tertulia.engines import _file_records as records
from tertulia.engines.base import Commit, Committed, Put
from tertulia.engines.file import FileEngine
from tertulia.errors import AccessDeniedError, AlreadySettledError, ConflictError, LeaseLostError
from tests.file.nursery import Log

LEASE = 0.2  # seconds
HALF = "half"  # a key of a write that may never be committed
HELD = "held"  # a key that is there as long as its holder lives


class Said(Struct):
    """What a process has to say: usually what an attempt came to."""

    what: str


def stop() -> None:
    """Stop here until somebody sends SIGCONT."""
    os.kill(os.getpid(), signal.SIGSTOP)


def engine_of(space: tertulia.Space) -> FileEngine:
    assert isinstance(space.engine, FileEngine)
    return space.engine


async def writer(log: Log, url: str) -> None:
    """Stop in the middle of a write, with all its locks."""
    async with tertulia.connect(url) as space:
        hub = engine_of(space)._hub  # noqa: SLF001 - no other way to be in the middle of a write

        def work(session: Any) -> None:
            records.put(session, Put(HALF, b"", "ada"), session.clock.time())
            stop()

        await hub.writer.write(work)
        log.say(Said("written"))


async def reader(log: Log, url: str) -> None:
    """Stop in the middle of a read, and look again afterwards at what that read sees."""
    async with tertulia.connect(url) as space:
        execute = engine_of(space)._hub.execute  # noqa: SLF001 - no other way to be in the middle of a read
        execute("BEGIN")
        before = execute("SELECT packed FROM heads WHERE name = ''").get
        stop()
        after = execute("SELECT packed FROM heads WHERE name = ''").get
        execute("COMMIT")
        log.say(Said("the same" if before == after else f"{before!r}, then {after!r}"))


async def last_one(log: Log, url: str) -> None:
    """Stop while nobody else may open the file, as is so while the last one who used it tidies it up."""
    connection = apsw.Connection(url.removeprefix("file:"))
    connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
    connection.execute("SELECT count(*) FROM heads").fetchall()
    stop()
    connection.close()
    log.say(Said("closed"))


async def holder(log: Log, url: str, mailbox: str) -> None:
    """Hold a message, stop past the end of its lease, and try afterwards what only a holder may."""
    async with tertulia.connect(url) as space:
        delivery = await space.broker.receive(mailbox, lease=LEASE)
        assert delivery is not None
        stop()
        try:
            await delivery.extend()
            log.say(Said("extended"))
        except LeaseLostError:
            log.say(Said("lease lost"))
        log.say(Said(f"released: {await delivery.release()}"))
        await space.broker.receive("go on")
        transaction = delivery.transaction()
        transaction.write("effect", delivery.attempt, owner="stale")
        transaction.send(Message(sender="stale", receiver="audit"))
        try:
            await transaction.commit()
            log.say(Said("committed"))
        except AlreadySettledError:
            log.say(Said("settled already"))


async def region_holder(log: Log, url: str) -> None:
    """Hold a region and a key alone, and stop in the middle of a write, past the end of both."""
    async with tertulia.connect(url) as space:
        region = MemoryRegion("plans", space.memory)
        await region.grant_access("stale", MemoryAccessMode.EXCLUSIVE, lease=LEASE)
        held = await space.engine.put(Put(HELD, b"", "stale", ttl=LEASE))
        await region.write("plan", "mine", agent_id="stale")
        apply = space.engine.commit

        async def stop_and_commit(commit: Commit) -> Committed:
            space.engine.commit = apply
            stop()
            return await apply(commit)

        space.engine.commit = stop_and_commit  # permitted to write, but not written yet
        try:
            await region.write("plan", "mine again", agent_id="stale")
            log.say(Said("written"))
        except AccessDeniedError:
            log.say(Said("denied"))
        transaction = space.transaction()
        transaction.require(HELD, fence=held.created_revision)
        transaction.write("protected", "mine again", owner="stale")
        try:
            await transaction.commit()
            log.say(Said("committed"))
        except ConflictError:
            log.say(Said("refused"))
