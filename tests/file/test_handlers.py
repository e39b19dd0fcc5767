"""Of messages whose handlers raise, hang, stop and die with their process, each ends once, one way or the other."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

import tertulia
from tertulia import DeliveryMode, Message, Space
from tests.figures import Figures
from tests.file.agents import ATTEMPTS, DEADLY, LONGER, NAME, Met
from tests.file.pool import Pool, Worker
from tests.profile import times

MESSAGES = 1_000
PROCESSES = 4
LIMIT = 280.0  # seconds for a round, which takes less than a tenth of it


class Ward:
    """The processes of the agent; who dies is replaced, who hangs is killed, who was stopped is woken."""

    def __init__(self, pool: Pool[Met], url: str, seed: int) -> None:
        self.pool = pool
        self.url = url
        self.seed = seed
        self.workers: dict[int, Worker] = {}
        self.asleep: dict[int, float] = {}  # since when
        self.fates: dict[int, str] = {}  # the last one of each
        self.met: list[Met] = []
        self.deaths = 0

    async def start(self) -> None:
        worker = await self.pool.start("agent", "tests.file.agents:agent", self.url, f"{self.seed} {self.deaths}")
        self.workers[worker.pid] = worker

    async def work(self, space: Space) -> None:
        for _ in range(PROCESSES):
            await self.start()
        while await left(space):
            await asyncio.sleep(0.02)
            ended = await self.pool.ended()
            for pid, worker in list(self.workers.items()):
                await self.look_after(worker, ended.get(pid))

    async def look_after(self, worker: Worker, status: int | None) -> None:
        if news := self.pool.news(worker):
            self.met += news
            self.fates[worker.pid] = news[-1].fate
            if news[-1].fate == "stop":
                self.asleep[worker.pid] = time.monotonic()
        fate = self.fates.get(worker.pid)
        if status is not None:
            assert fate in DEADLY, f"{worker.name} ended ({status}):\n{self.pool.errors(worker)}"
        elif fate == "hang":
            await self.pool.kill(worker)
        if status is not None or fate == "hang":
            del self.workers[worker.pid], self.fates[worker.pid]
            self.deaths += 1
            await self.start()
        if time.monotonic() - self.asleep.get(worker.pid, time.monotonic()) > LONGER:
            del self.asleep[worker.pid]
            await self.pool.signal(worker, signal.SIGCONT)


async def left(space: Space) -> int:
    stats = await space.broker.mailbox_stats(NAME)
    return stats.waiting + stats.pending + stats.delayed


@pytest.mark.campaign
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(times(1, 20)))
async def test_each_message_is_handled_or_given_up_once_however_its_handlers_end(
    tmp_path: Path, seed: int, figures: Figures
):
    url = f"file:{tmp_path}/space.db"
    async with (
        tertulia.connect(url) as space,
        Pool(tmp_path / "logs", Met, "tests.file.agents") as pool,
        asyncio.timeout(LIMIT),
    ):
        await space.broker.register_agent(NAME, max_queue_size=MESSAGES, max_attempts=ATTEMPTS)
        for number in range(MESSAGES):
            mode = (DeliveryMode.AT_LEAST_ONCE, DeliveryMode.EXACTLY_ONCE)[number % 2]
            await space.broker.send(Message(id=str(number), receiver=NAME, delivery_mode=mode))
        ward = Ward(pool, url, seed)
        await ward.work(space)
        done = {entry.key.removeprefix("done:"): entry async for entry in space.memory.entries("done:*")}
        letters = await space.broker.dead_letters(NAME, limit=MESSAGES)
    fates = Counter(met.fate for met in ward.met)
    figures(handlers=len(ward.met), messages=MESSAGES, deaths=ward.deaths, given_up=len(letters))

    given_up = [letter.message.id for letter in letters]
    assert sorted([*done, *given_up]) == sorted(str(number) for number in range(MESSAGES))
    assert {entry.version for entry in done.values()} == {1}
    failed = Counter(met.message_id for met in ward.met if met.fate in (*DEADLY, "raise", "sleep", "stop"))
    for letter in letters:
        refused = letter.history[-1].reason == "unwanted"
        assert refused or failed[letter.message.id] >= ATTEMPTS, f"given up too early: {letter}"
    assert ward.deaths > MESSAGES / 5
    assert min(fates.values()) > MESSAGES / 100
