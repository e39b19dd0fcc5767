"""What the processes do of which one's civil clock jumps: they share messages, and take turns in holding a region."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from typing import Any

from msgspec import Struct

import tertulia
from tertulia import MemoryAccessMode, MemoryRegion
from tertulia.engines.base import Commit, Committed
from tertulia.errors import AccessDeniedError, AlreadySettledError
from tests.file.nursery import Log

MAILBOX, REGION = "work", "plans"
LEASE = 0.2  # seconds, of the region


class Said(Struct):
    """What a process got or read."""

    what: str
    value: Any = None


async def consumer(log: Log, url: str) -> None:
    """Handle messages, each in a moment, under the usual lease of half a minute."""
    space = await tertulia.connect(url)
    while True:
        delivery = await space.broker.receive(MAILBOX)
        assert delivery is not None
        log.say(Said(delivery.message.id, delivery.attempt))
        await asyncio.sleep(0.002)
        with suppress(AlreadySettledError):
            async with delivery.transaction() as transaction:
                transaction.write(f"done:{delivery.message.id}", delivery.attempt, owner="x")


async def holder(log: Log, url: str, name: str) -> None:
    """Take the region whenever nobody has it, write into it, and give it back, often later than its lease allows."""
    space = await tertulia.connect(url)
    region = MemoryRegion(REGION, space.memory)
    chance = random.Random(name)  # noqa: S311 - to be repeated, not to be secret
    apply = space.engine.commit

    async def commit_late(commit: Commit) -> Committed:
        await asyncio.sleep(chance.random() * LEASE / 5)
        return await apply(commit)

    space.engine.commit = commit_late  # so that what was checked before may be true no more
    while True:
        try:
            await region.grant_access(name, MemoryAccessMode.EXCLUSIVE, lease=LEASE)
            log.say(Said("held"))
            for number in range(10):
                await region.write("plan", number, agent_id=name)
        except AccessDeniedError:
            pass
        await region.revoke_access(name)
        await asyncio.sleep(chance.random() * 0.02)


async def reader(log: Log, url: str, keys: list[str]) -> None:
    """Say what the civil clock shows and which of the keys are there."""
    async with tertulia.connect(url) as space:
        entries = [await space.memory.read(key, reader="x") for key in keys]
        log.say(Said("there", [key for key, value in zip(keys, entries, strict=True) if value is not None]))


async def clock(log: Log) -> None:
    """Say what the clocks show."""
    log.say(Said("clocks", [time.time(), time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME)]))
