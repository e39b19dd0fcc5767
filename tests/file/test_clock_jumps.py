"""The civil clock of one process jumps by an hour, ahead and back: nothing is held twice, and nothing for an hour."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import tertulia
from tertulia import Message
from tertulia.engines.base import Change
from tertulia.records import ChangeKind
from tests.figures import Figures
from tests.file.jumping import MAILBOX, Said
from tests.file.pool import PATIENCE, Pool, Worker
from tests.profile import times

HOUR = 3600
LIBRARY = "vendor/libfaketime/src/libfaketime.so.1"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a library stand in for the clock")


class JumpingPool(Pool[Said]):
    """Processes that share a civil clock of their own; what does not jump is left to them."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._offset = directory / "offset"
        self.set_clock(0)
        found = find_spec("libfaketime")
        assert found is not None
        assert found.submodule_search_locations
        environment = {
            "LD_PRELOAD": str(Path(found.submodule_search_locations[0]) / LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        super().__init__(directory, Said, "tests.file.jumping", environment=environment)

    def set_clock(self, offset: int) -> None:
        """Let the civil clock be so many seconds ahead of everybody's else."""
        new = self._offset.with_suffix(".new")
        new.write_text(f"{offset:+d}\n")
        new.replace(self._offset)

    async def do(self, role: str, *values: object) -> Said:
        """Let a process do something, and return what it has to say."""
        worker = await self.start(role, f"tests.file.jumping:{role}", *values)
        said = await self.wait_for(worker, Said)
        await self.kill(worker, may_have_ended=True)
        return said[0]


@pytest.fixture
async def jumping(tmp_path: Path) -> AsyncIterator[JumpingPool]:
    """A pool whose clock can be set; skips where the library does not work, as on another processor."""
    async with JumpingPool(tmp_path / "jumping") as pool:
        pool.set_clock(HOUR)
        civil, *others = (await pool.do("clock")).value
        pool.set_clock(0)
        if abs(civil - time.time() - HOUR) > PATIENCE:
            pytest.skip("libfaketime does not work here")
        real = (time.monotonic(), boot_time())
        assert all(abs(one - other) < PATIENCE for one, other in zip(others, real, strict=True))
        yield pool


@pytest.fixture
async def steady(tmp_path: Path) -> AsyncIterator[Pool[Said]]:
    async with Pool(tmp_path / "steady", Said, "tests.file.jumping") as pool:
        yield pool


def boot_time() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


async def jump(jumping: JumpingPool, chance: random.Random) -> None:
    """Set the clock ahead, back and right again, without end."""
    while True:
        jumping.set_clock(chance.choice((-HOUR, 0, HOUR)))
        await asyncio.sleep(chance.uniform(0.02, 0.1))


async def three_and_one(steady: Pool[Said], jumping: JumpingPool, role: str, *values: object) -> list[Worker]:
    """Start three processes with the right clock, and one whose clock jumps."""
    names = [("one", steady), ("two", steady), ("three", steady), ("jumper", jumping)]
    return [
        await pool.start(role, f"tests.file.jumping:{role}", *values, *([name] if role == "holder" else []))
        for name, pool in names
    ]


@pytest.mark.campaign
async def test_messages_are_handed_out_once_and_in_time_whatever_one_clock_shows(
    tmp_path: Path, steady: Pool[Said], jumping: JumpingPool, figures: Figures
):
    messages = times(1_000, 20_000)
    chance = random.Random(7)  # noqa: S311 - to be repeated, not to be secret
    async with tertulia.connect(f"file:{tmp_path}/space.db") as space, asyncio.timeout(PATIENCE + messages / 50):
        await space.broker.register_agent(MAILBOX, max_queue_size=messages)
        workers = await three_and_one(steady, jumping, "consumer", space.url)
        jumps = asyncio.create_task(jump(jumping, chance))
        for number in range(messages):
            message = Message(id=str(number), receiver=MAILBOX)
            await space.broker.send(message, delay=chance.choice((0.0, 0.0, 0.05, 0.3)))
            await asyncio.sleep(0.001)
        while len(done := await space.memory.list_keys("done:*")) < messages:  # noqa: ASYNC110 - processes tell nobody
            await asyncio.sleep(0.05)
        jumps.cancel()
        versions = {entry.version async for entry in space.memory.entries("done:*")}
    got = [said for worker in workers[:3] for said in steady.news(worker)]
    by_jumper = jumping.news(workers[3])
    figures(messages=messages)

    assert sorted(said.what for said in [*got, *by_jumper]) == sorted(
        map(str, range(messages))
    )  # nobody got what another held
    assert {said.value for said in [*got, *by_jumper]} == {1}
    assert len(done) == messages
    assert versions == {1}
    assert len(by_jumper) > messages / 20


@pytest.mark.campaign
async def test_a_region_has_one_holder_whatever_one_clock_shows(
    tmp_path: Path, steady: Pool[Said], jumping: JumpingPool, figures: Figures
):
    writes = times(300, 5_000)
    turns: list[str] = []
    holder, written = None, 0
    async with tertulia.connect(f"file:{tmp_path}/space.db") as space, asyncio.timeout(PATIENCE + writes / 10):
        stream = await space.engine.watch("*")
        await three_and_one(steady, jumping, "holder", space.url)
        jumps = asyncio.create_task(jump(jumping, random.Random(8)))  # noqa: S311 - to be repeated
        while written < writes or len(set(turns)) < 4:
            change = await anext(stream)
            if change.key.endswith(":exclusive"):
                holder = owner(change)
                turns += [holder] if holder else []
            elif change.key.endswith(":plan"):
                assert owner(change) == holder, f"{owner(change)} has written what {holder} holds"
                written += 1
        jumps.cancel()
        await stream.aclose()
    figures(writes_under_a_lease=written, takeovers=len(turns))


def owner(change: Change) -> str | None:
    return change.record.owner if change.kind is ChangeKind.PUT and change.record is not None else None


async def test_a_key_is_over_for_all_once_it_is_over_by_the_clock_of_whoever_looks(
    tmp_path: Path, jumping: JumpingPool
):
    async with tertulia.connect(f"file:{tmp_path}/space.db") as space:
        await space.memory.write("minute", 1, owner="ada", ttl=60.0)
        await space.memory.write("day", 1, owner="ada", ttl=86_400.0)
        jumping.set_clock(-HOUR)
        before = await jumping.do("reader", space.url, ["minute", "day"])
        jumping.set_clock(HOUR)
        ahead = await jumping.do("reader", space.url, ["minute", "day"])
        here = await space.memory.list_keys()
        jumping.set_clock(-HOUR)
        after = await jumping.do("reader", space.url, ["minute", "day"])

    assert before.value == ["minute", "day"]
    assert ahead.value == here == after.value == ["day"]
