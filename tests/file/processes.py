"""Starting other processes on a space, and ending every one of them."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 40.0  # seconds for a process to do its work; only a hang meets it


async def start(role: str, url: str, *values: object, module: str = "tests.file.workers") -> Process:
    """Start a worker of a module."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    command = (sys.executable, "-m", module, role, url, *map(str, values))
    return await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, cwd=ROOT, env=environment)


@asynccontextmanager
async def started(role: str, url: str, *values: object) -> AsyncIterator[Process]:
    """Run a worker beside the block, and kill it at the end."""
    process = await start(role, url, *values)
    try:
        yield process
    finally:
        await kill(process)


async def kill(process: Process) -> list[str]:
    """Kill a process if it still runs; return the whole lines that it said."""
    if process.returncode is None:
        process.kill()
    output, _ = await process.communicate()
    return [line.decode() for line in output.split(b"\n")[:-1]]


async def line(process: Process) -> str:
    """Return the next line that a worker says."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        return (await process.stdout.readline()).decode().strip()


async def run(*calls: tuple[object, ...]) -> list[list[str]]:
    """Run workers beside each other to their ends, which must be good; return what they said."""
    processes = [await start(str(role), str(url), *values) for role, url, *values in calls]
    said: list[list[str]] = []
    try:
        for process in processes:
            async with asyncio.timeout(PATIENCE):
                output, errors = await process.communicate()
            assert process.returncode == 0, errors.decode()
            said.append(output.decode().splitlines())
    finally:
        for process in processes:
            await kill(process)
    return said
