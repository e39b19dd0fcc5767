"""Processes whose clients read and write a few keys at once, and write down each call and its answer."""

from __future__ import annotations

import asyncio
import time

import tertulia
from tertulia import Space
from tertulia.testing import linearizability as lin
from tests.file.nursery import Log
from tests.model.procedures import Doubt, Interleaved, MemoryClient, chance_of


async def clients(log: Log, url: str, name: str, seed: int, count: int, keys: int, operations: int) -> None:
    """Let some clients do their operations; the instants are those of the machine's own clock."""
    opened = await tertulia.connect(url)
    space = Space(url, Interleaved(opened.engine, None, seed), opened.clock)
    history = lin.History(clock=time.monotonic_ns, sink=log.say)
    names = [f"k:{number}" for number in range(keys)]
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            client = MemoryClient(f"{name}-{number}", space.memory, history, set(), Doubt.DOUBTS)
            group.create_task(client.work(chance_of(f"{seed} {name} {number}"), names, operations // count))
    await space.aclose()
