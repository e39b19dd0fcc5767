"""Locks between real processes, which are killed while they hold them, and stopped for longer than their leases."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import tertulia
from tertulia import Lock
from tests.engines import ENGINES, SEPARATE_PROCESSES
from tests.file.processes import PATIENCE, ROOT, kill, line

KILLS = {"short": 6, "campaign": 300}[os.environ.get("TERTULIA_PROFILE", "short")]
LEASE = 0.5  # seconds; what a killed process held is free again after them


@pytest.fixture(params=SEPARATE_PROCESSES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a fresh space that several processes can share."""
    return ENGINES[request.param](tmp_path)


@asynccontextmanager
async def started(role: str, url: str, *values: object) -> AsyncIterator[Process]:
    """Run a worker beside the block, and kill it at the end."""
    process = await start(role, url, *values)
    try:
        yield process
    finally:
        await kill(process)


async def start(role: str, url: str, *values: object) -> Process:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    command = (sys.executable, "-m", "tests.patterns.lock_workers", role, url, *map(str, values))
    return await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stdout=PIPE, stderr=PIPE, cwd=ROOT, env=environment
    )


async def test_eight_processes_exclude_each_other_while_their_holders_are_killed(url: str):
    choice = random.Random(8)  # noqa: S311 - to be repeated
    said: list[str] = []
    async with tertulia.connect(url) as space:
        workers = [await start("count", url, f"a{number}", LEASE) for number in range(8)]
        try:
            said += [await line(worker) for worker in workers]  # each has had its turn
            for number in range(KILLS):
                place = choice.randrange(8)
                said += await kill(workers[place])
                workers[place] = await start("count", url, f"b{number}", LEASE)
                said.append(await line(workers[choice.randrange(8)]))
        finally:
            for worker in workers:
                said += await kill(worker)

        done = [entry async for entry in space.memory.entries("done:*")]
        numbers = sorted(entry.value for entry in done)
        assert numbers == list(range(1, len(done) + 1))  # no update was lost: each number was written once
        assert await space.memory.read("count", reader="test") == len(done)
        acknowledged = {word for word in said if word not in ("", "lost")}
        assert acknowledged <= {entry.key.removeprefix("done:") for entry in done}
        assert len(done) - len(acknowledged) <= KILLS + 8
        assert len(done) > 8
        async with asyncio.timeout(PATIENCE):  # whoever was killed holding it has lost it by now
            async with Lock(space, "count").hold("test", timeout=PATIENCE):
                pass


async def test_a_holder_that_was_stopped_past_its_lease_never_writes_again(url: str):
    async with tertulia.connect(url) as space:
        lock = Lock(space, "value")
        for number in range(4):
            async with started("overstay", url, f"stale{number}", LEASE) as stale:
                holding, fence = (await line(stale)).split()
                assert holding == "holding"
                assert stale.stdin is not None
                os.kill(stale.pid, signal.SIGSTOP)
                grant = await lock.acquire("successor", timeout=PATIENCE)
                assert grant.fence > int(fence)
                await grant.write("value", f"successor {number}")
                os.kill(stale.pid, signal.SIGCONT)
                stale.stdin.write(b"\n")

                assert await line(stale) == "refused True"
                assert await space.memory.read("value", reader="test") == f"successor {number}"
                await grant.release()


@pytest.mark.parametrize("ways", [("lock", "lock"), ("lock", "request"), ("request", "request")])
async def test_a_deadlock_of_two_processes_is_broken_once_and_named(url: str, ways: tuple[str, str]):
    wanted = {"lock": ("b", "a"), "request": ("bob", "ann")}
    async with (
        tertulia.connect(url) as space,
        started("hold_and_want", url, "ann", "a", wanted[ways[0]][0], ways[0]) as ann,
        started("hold_and_want", url, "bob", "b", wanted[ways[1]][1], ways[1]) as bob,
    ):
        assert [await line(ann), await line(bob)] == ["holding", "holding"]
        await space.memory.write("go", 1, owner="test")

        words = [await line(ann), await line(bob)]

        assert sorted(word.split()[0] for word in words) == ["deadlock", "done"]
        [deadlock] = [word.split()[1:] for word in words if word != "done"]
        steps = {
            ("ann", "lock"): ["ann>lock:b"],
            ("bob", "lock"): ["bob>lock:a"],
            ("ann", "request"): ["ann>request:bob", "bob-helper>lock:b"],
            ("bob", "request"): ["bob>request:ann", "ann-helper>lock:a"],
        }
        expected = steps["ann", ways[0]] + steps["bob", ways[1]]
        assert deadlock in [expected[at:] + expected[:at] for at in range(len(expected))]
