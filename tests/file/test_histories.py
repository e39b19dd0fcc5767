"""What clients in several processes saw of one file can be explained by one memory that does one thing at a time."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from tertulia.testing import linearizability
from tests.figures import Figures
from tests.file.pool import PATIENCE, Pool, Worker
from tests.model.procedures import overlapping
from tests.profile import times

PROCESSES, CLIENTS = 4, 4
OPERATIONS = times(10_000, 100_000)
KILLS = 3  # in every other history: more would leave more in doubt than a checker can sort out
PARTS = 5 * PROCESSES  # of the work; what a killed process leaves of one is not done
BYTES = 200 * OPERATIONS // PARTS  # of a log: about half of a part's


class Run:
    """Processes that share out the work of one history, some of which are killed."""

    def __init__(self, pool: Pool[linearizability.Operation], url: str, seed: int) -> None:
        self.pool = pool
        self.url = url
        self.seed = seed
        self.chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self.part = 0
        self.workers: dict[int, Worker] = {}
        self.operations: list[linearizability.Operation] = []

    async def start(self) -> None:
        """Let one more process do its part."""
        values = (self.url, f"p{self.part}", self.seed, CLIENTS, 10 + 4 * (self.seed % 5), OPERATIONS // PARTS)
        self.workers[self.part] = await self.pool.start("clients", "tests.file.clients:clients", *values)
        self.part += 1

    async def work(self, kills: int) -> None:
        """Keep as many processes at work as there are to be, until all is done; kill some in the middle of a part."""
        for _ in range(PROCESSES):
            await self.start()
        doomed = set(self.chance.sample(range(PARTS), kills))
        while self.workers:
            await asyncio.sleep(0.01)
            for part, worker in [(part, worker) for part, worker in self.workers.items() if part in doomed]:
                if self.pool.size(worker) > BYTES:
                    await self.pool.kill(worker, may_have_ended=True)
                    await self.take(part)
            ended = await self.pool.ended()
            for part, worker in [(part, worker) for part, worker in self.workers.items() if worker.pid in ended]:
                assert ended[worker.pid] == 0, self.pool.errors(worker)
                await self.take(part)

    async def take(self, part: int) -> None:
        """Take in what a process that has ended wrote down, and start the next."""
        self.operations += self.pool.news(self.workers.pop(part))
        if self.part < PARTS:
            await self.start()


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(times(5, 20)))
async def test_what_sixteen_clients_in_four_processes_saw_is_linearizable(tmp_path: Path, seed: int, figures: Figures):
    kills = KILLS if seed % 2 else 0
    async with Pool(tmp_path / "logs", linearizability.Operation, "tests.file.clients") as pool:
        run = Run(pool, f"file:{tmp_path}/space.db", seed)
        async with asyncio.timeout(PATIENCE + OPERATIONS / 100):
            await run.work(kills)
    history = linearizability.merge(run.operations)
    in_doubt = sum(operation.outcome is linearizability.Outcome.UNKNOWN for operation in history)
    figures(histories=1, operations=len(history), in_doubt=in_doubt, kills=kills)

    assert len(history) > OPERATIONS * 3 / 4
    assert (in_doubt > 0) == (kills > 0)
    assert overlapping(history) > OPERATIONS / 20, "the clients were meant to disturb each other"
    verdict = linearizability.check(history)
    assert verdict.ok, verdict.describe()
