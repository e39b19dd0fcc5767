"""Processes that are stopped in the middle of something: others go on, and what was theirs is no longer theirs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import tertulia
from tertulia import MemoryAccessMode, MemoryRegion, Message, Space
from tertulia.engines import _file_hub, _file_open, _file_writer, file
from tertulia.engines.base import MailboxOptions, Put
from tertulia.errors import EngineUnavailableError
from tests.file.pool import PATIENCE, Pool, Worker
from tests.file.stopping import HALF, HELD, LEASE, Said

SOON = 0.5  # seconds for what a stopped process holds up; ten in earnest


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[Pool[Said]]:
    async with Pool[Said](tmp_path / "logs", Said, "tests.file.stopping") as workers:
        yield workers


@pytest.fixture
async def space(tmp_path: Path) -> AsyncIterator[Space]:
    async with tertulia.connect(f"file:{tmp_path}/space.db") as opened:
        yield opened


async def stopped(pool: Pool[Said], space: Space, role: str, *values: object) -> Worker:
    """Start a process, and wait until it has stopped itself."""
    worker = await pool.start(role, f"tests.file.stopping:{role}", space.url, *values)
    await pool.has_stopped(worker)
    return worker


async def wake(pool: Pool[Said], worker: Worker, answers: int) -> list[str]:
    """Let a process go on; return what it says."""
    await pool.signal(worker, signal.SIGCONT)
    return await said(pool, worker, answers)


async def said(pool: Pool[Said], worker: Worker, answers: int) -> list[str]:
    heard: list[str] = []
    async with asyncio.timeout(PATIENCE):
        while len(heard) < answers:
            await asyncio.sleep(0.01)
            heard += [entry.what for entry in pool.news(worker)]
    return heard


# --- a writer ---


async def test_a_stopped_writer_holds_others_up_for_a_bounded_time_and_is_named(
    pool: Pool[Said], space: Space, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_file_writer, "LOCK_LIMIT", SOON)
    monkeypatch.setattr(_file_open, "OPEN_LIMIT", SOON)
    await space.memory.write("k", 1, owner="ada")
    worker = await stopped(pool, space, "writer")

    reads = 0
    writing = [asyncio.create_task(space.memory.write(f"refused:{number}", 2, owner="ada")) for number in range(20)]
    async with asyncio.timeout(PATIENCE):
        while not all(task.done() for task in writing):
            assert await space.memory.read("k", reader="ada") == 1
            reads += 1
            await asyncio.sleep(0.001)
    refusals = [task.exception() for task in writing]
    file._SHARED.clear()  # noqa: SLF001 - to open the file as another process would
    with pytest.raises(EngineUnavailableError, match=f"process {worker.pid} holds its lock, and was stopped"):
        await tertulia.connect(space.url)

    assert reads > 20  # the event loop was never held up
    assert {type(error) for error in refusals} == {EngineUnavailableError}
    assert all(f"process {worker.pid} holds its lock, and was stopped" in str(error) for error in refusals)
    assert await wake(pool, worker, 1) == ["written"]
    await space.memory.write("k", 3, owner="ada")
    assert await space.memory.list_keys() == [HALF, "k"]  # what was refused has not happened


async def test_a_stopped_writer_that_goes_on_in_time_has_only_delayed_the_others(pool: Pool[Said], space: Space):
    worker = await stopped(pool, space, "writer")
    writing = [asyncio.create_task(space.memory.write(f"k:{number}", 2, owner="ada")) for number in range(20)]
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in writing)
    await pool.signal(worker, signal.SIGCONT)
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*writing)

    assert len(await space.memory.list_keys("k:*")) == 20


async def test_a_killed_writer_lets_go_of_everything_at_once_and_leaves_nothing_half_done(
    pool: Pool[Said], space: Space
):
    worker = await stopped(pool, space, "writer")
    writing = asyncio.create_task(space.memory.write("k", 2, owner="ada"))
    await asyncio.sleep(0.05)
    assert not writing.done()
    await pool.kill(worker)
    async with asyncio.timeout(PATIENCE):
        await writing

    assert await space.memory.list_keys() == ["k"]
    assert [finding for finding in await space.doctor() if finding.level == "problem"] == []


async def test_closing_does_not_wait_for_a_stopped_writer(
    pool: Pool[Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for module in (_file_writer, _file_hub):
        monkeypatch.setattr(module, "END_LIMIT", SOON)
    space = await tertulia.connect(f"file:{tmp_path}/space.db")
    stream = await space.engine.watch("*")  # so that there is something to sign off from
    worker = await stopped(pool, space, "writer")
    async with asyncio.timeout(PATIENCE):
        await space.aclose()

    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert await wake(pool, worker, 1) == ["written"]


async def test_whoever_is_slow_to_close_the_file_only_delays_those_who_open_it(pool: Pool[Said], tmp_path: Path):
    url = f"file:{tmp_path}/space.db"
    async with tertulia.connect(url) as space:
        await space.memory.write("k", 1, owner="ada")
    worker = await pool.start("last", "tests.file.stopping:last_one", url)
    await pool.has_stopped(worker)

    opening = asyncio.create_task(_read(url))
    await asyncio.sleep(3 * _file_open.WAIT_HERE / 1000)
    assert not opening.done()
    assert await wake(pool, worker, 1) == ["closed"]
    async with asyncio.timeout(PATIENCE):
        assert await opening == 1


async def _read(url: str) -> object:
    async with tertulia.connect(url) as space:
        return await space.memory.read("k", reader="ada")


# --- a reader ---


async def test_a_stopped_reader_holds_nobody_up_and_sees_the_moment_it_was_stopped_at(
    pool: Pool[Said], space: Space, tmp_path: Path
):
    log = tmp_path / "space.db-wal"
    worker = await stopped(pool, space, "reader")
    await fill(space)
    grown = log.stat().st_size
    answers = await wake(pool, worker, 1)
    for _ in range(4):
        await fill(space)
        await asyncio.sleep(0.1)  # for a checkpoint that is under way

    assert answers == ["the same"]
    assert grown > 8 * 2**20
    assert log.stat().st_size < 2 * grown  # it began anew, once nobody needed it any more


async def fill(space: Space) -> None:
    """Write ten megabytes and more."""
    for number in range(120):
        await space.memory.write(f"k:{number}", b"x" * 90_000, owner="ada")


# --- who holds something for a while ---


async def test_a_message_of_a_stopped_process_is_delivered_again_and_its_stale_attempt_is_refused(
    pool: Pool[Said], space: Space
):
    for name in ("work", "go on", "audit"):
        await space.engine.open_mailbox(name, MailboxOptions())
    await space.broker.send(Message(receiver="work"))
    worker = await stopped(pool, space, "holder", "work")

    async with asyncio.timeout(PATIENCE):
        delivery = await space.broker.receive("work")
    assert delivery is not None
    answers = await wake(pool, worker, 2)
    async with delivery.transaction() as transaction:
        transaction.write("effect", delivery.attempt, owner="ada")
    await space.broker.send(Message(receiver="go on"))
    answers += await said(pool, worker, 1)

    assert delivery.attempt == 2
    assert answers == ["lease lost", "released: False", "settled already"]
    assert await space.memory.read("effect", reader="ada") == 2
    assert await space.engine.browse("audit") == []


async def test_what_a_stopped_process_held_alone_can_be_taken_over_and_its_late_writes_are_refused(
    pool: Pool[Said], space: Space
):
    worker = await stopped(pool, space, "region_holder")
    region = MemoryRegion("plans", space.memory)
    await asyncio.sleep(LEASE)
    await region.grant_access("ada", MemoryAccessMode.EXCLUSIVE)
    await space.engine.put(Put(HELD, b"", "ada"))
    await region.write("plan", "ours", agent_id="ada")
    answers = await wake(pool, worker, 2)

    assert answers == ["denied", "refused"]
    assert await region.read("plan", agent_id="ada") == "ours"
    assert await space.memory.list_keys("protected") == []
