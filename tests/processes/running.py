"""Running `tertulia run` as a user does: in a directory with a module, beside a test that uses the same space."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import tertulia

PACKAGE = Path(tertulia.__file__).parents[1]
LONGEST = 40.0  # seconds for what takes one or two; only a hang meets it


class Command:
    """A `tertulia run` that runs, and what it has said so far."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.said: list[str] = []

    async def line(self, pattern: str) -> re.Match[str]:
        """Wait for a line of standard error that has this in it; the ones before it are passed over."""
        assert self.process.stderr is not None
        try:
            async with asyncio.timeout(LONGEST):
                while said := await self.process.stderr.readline():
                    self.said.append(said.decode().rstrip("\n"))
                    if found := re.search(pattern, self.said[-1]):
                        return found
        except TimeoutError:
            self.said.append("(and nothing more)")
        raise AssertionError(f"no line with {pattern!r} in:\n" + "\n".join(self.said))

    async def runs(self, name: str) -> int:
        """Wait until a process of this name runs; return its number."""
        return int((await self.line(rf"^\S+ \S+ {re.escape(name)} \| runs in process (\d+)$"))[1])

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the end; return the exit code."""
        async with asyncio.timeout(LONGEST):
            output, errors = await self.process.communicate()
        self.said += errors.decode().splitlines()
        assert output == b"", "standard output is not for talk"
        assert self.process.returncode is not None
        return self.process.returncode


@asynccontextmanager
async def running(directory: Path, *arguments: str, **environment: str) -> AsyncIterator[Command]:
    """Run the command beside the block, and kill it at the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "tertulia", "run", *arguments),
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(PACKAGE), **environment},
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        yield Command(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def gone(pid: int) -> None:
    """Wait until a process that is nobody's child here has ended."""
    async with asyncio.timeout(LONGEST):
        while alive(pid):  # noqa: ASYNC110 - nobody tells of the end of another's child
            await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that has ended, and that nobody has asked for its exit code, does not."""
    try:
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (ProcessLookupError, FileNotFoundError):
        return not Path("/proc").is_dir() and not isinstance(sys.exception(), ProcessLookupError)


def children(pid: int) -> set[int]:
    """Return the processes that a process has started and that have not ended."""
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        if fields[0] != "Z" and int(fields[1]) == pid:
            found.add(int(stat.parent.name))
    return found
