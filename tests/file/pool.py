"""Processes for a test to kill, stop and replace, each with a log of what it was told by the library."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import msgspec

E = TypeVar("E")
ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds for what takes milliseconds: only a hang meets it
LOOK_EVERY = 0.02


class Worker:
    """One life of a process."""

    def __init__(self, name: str, pid: int, log: Path) -> None:
        self.name = name
        self.pid = pid
        self.log = log
        self.read = 0  # bytes of its log


class Pool(Generic[E]):
    """Starts workers (see nursery.py), and ends every one of them.

    Entries of their logs are of type `entry`; `environment` adds to this process's own.
    """

    def __init__(
        self, directory: Path, entry: Any, *modules: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self._directory = directory
        self._environment = environment or {}
        self._modules = modules
        self._decode = msgspec.json.Decoder(entry).decode
        self._nursery: Process | None = None
        self._turn = asyncio.Lock()
        self._lives = 0

    async def __aenter__(self) -> Self:
        self._directory.mkdir(exist_ok=True)
        path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
        environment = {**os.environ, **self._environment, "PYTHONPATH": path}
        command = (sys.executable, "-m", "tests.file.nursery", str(self._directory), *self._modules)
        self._nursery = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, cwd=ROOT, env=environment
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._nursery is not None
        assert self._nursery.stdin is not None
        self._nursery.stdin.close()
        async with asyncio.timeout(PATIENCE):
            await self._nursery.communicate()

    async def _ask(self, *command: Any) -> Any:
        assert self._nursery is not None
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        async with self._turn, asyncio.timeout(PATIENCE):
            self._nursery.stdin.write(msgspec.json.encode(command) + b"\n")
            return msgspec.json.decode(await self._nursery.stdout.readline())

    async def start(self, name: str, role: str, *values: object) -> Worker:
        """Start a worker that runs a coroutine function, `module:function`."""
        self._lives += 1
        unique = f"{name}.{self._lives}"
        pid = await self._ask("start", unique, role, *values)
        return Worker(unique, pid, self._directory / f"{unique}.log")

    async def signal(self, worker: Worker, number: signal.Signals) -> None:
        await self._ask("signal", worker.pid, number)

    async def has_stopped(self, worker: Worker) -> None:
        """Wait until a worker that stops itself has stopped."""
        async with asyncio.timeout(PATIENCE):
            while not await self._ask("has_stopped", worker.pid):  # noqa: ASYNC110 - a process tells nobody
                await asyncio.sleep(LOOK_EVERY)

    async def kill(self, worker: Worker, *, may_have_ended: bool = False) -> None:
        """End a worker with SIGKILL. One that has ended by itself fails the test, unless it may have done its work."""
        status = await self._ask("kill", worker.pid)
        assert status is None or (may_have_ended and status == 0), (
            f"{worker.name} ended by itself ({status}):\n{self.errors(worker)}"
        )

    async def check(self, workers: Iterable[Worker]) -> None:
        """Fail if one of the workers has ended."""
        ended = dict(await self._ask("ended"))
        for worker in workers:
            assert worker.pid not in ended, f"{worker.name} ended ({ended[worker.pid]}):\n{self.errors(worker)}"

    async def ended(self) -> dict[int, int]:
        """Return the status of workers that have ended since this was last asked, by their pid."""
        return dict(await self._ask("ended"))

    def errors(self, worker: Worker) -> str:
        """Return what the worker wrote to its standard error."""
        path = worker.log.with_suffix(".err")
        return path.read_text() if path.exists() else ""

    def size(self, worker: Worker) -> int:
        """Return how many bytes the worker has written down."""
        return worker.log.stat().st_size if worker.log.exists() else 0

    def news(self, worker: Worker) -> list[E]:
        """Return what a worker's log has in addition to when it was last looked at."""
        if not worker.log.exists():
            return []
        with worker.log.open("rb") as file:
            file.seek(worker.read)
            found = file.read()
        whole = found[: found.rfind(b"\n") + 1]  # a kill may leave half a line
        worker.read += len(whole)
        return [self._decode(line) for line in whole.splitlines()]

    async def wait_for(self, worker: Worker, kind: type[E]) -> list[E]:
        """Wait until the worker has said something of a kind; return all that it said meanwhile."""
        said: list[E] = []
        ended: dict[int, int] = {}
        async with asyncio.timeout(PATIENCE):
            while True:
                said += self.news(worker)
                if any(isinstance(entry, kind) for entry in said):
                    return said
                assert worker.pid not in ended, f"{worker.name} ended ({ended[worker.pid]}):\n{self.errors(worker)}"
                await asyncio.sleep(LOOK_EVERY)
                ended = await self.ended()
