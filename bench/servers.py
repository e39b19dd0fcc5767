"""The servers of the peers, started for a row and ended with it, and the second process of rows that need two."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

Redis = Any  # redis.asyncio.Redis; what its annotations say of each answer is a union of all that it could be

START_LIMIT = 10.0  # seconds for a server or a second process to be there; each takes less than one


def program(name: str) -> str | None:
    """Return the path of a program that came with a package of this environment, or is on the PATH."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def program_version(name: str) -> str | None:
    """Return what a program says its version is, or None where there is none."""
    command = program(name)
    if command is None:
        return None
    said = subprocess.run((command, "--version"), stdout=subprocess.PIPE, text=True, check=False, timeout=START_LIMIT)  # noqa: S603 - a name from a row
    found = re.search(r"\d+(\.\d+)+", said.stdout)
    return found.group() if found else "of an unknown version"


@contextmanager
def directory() -> Iterator[Path]:
    """Make a directory with a short path, as sockets need, on the disk that temporary files are on."""
    with tempfile.TemporaryDirectory(prefix="bench-") as path:
        yield Path(path)


@contextmanager
def _running(*command: str) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 - from above
    try:
        yield
    finally:
        process.terminate()
        process.wait(START_LIMIT)


async def _until_it_answers(call: Callable[[], Awaitable[object]], *errors: type[Exception]) -> None:
    async with asyncio.timeout(START_LIMIT):
        while True:
            try:
                await call()
            except errors:
                await asyncio.sleep(0.01)
            else:
                return


# --- Redis ---------------------------------------------------------------------------------------


def redis_client(path: str) -> Redis:
    """Return a client with its defaults, over the Unix socket, which is faster than loopback."""
    from redis import asyncio as redis  # noqa: PLC0415 - a peer is imported only where it is measured

    return redis.Redis(unix_socket_path=path)


@asynccontextmanager
async def redis_server() -> AsyncIterator[tuple[Redis, str]]:
    """Run a Redis that stores nothing on disk; give a client, and the path of its socket."""
    from redis.exceptions import ConnectionError as NotThere  # noqa: PLC0415 - as above

    command = program("redis-server")
    assert command is not None
    with directory() as place:
        path = str(place / "redis")
        options = ("--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no", "--dir", str(place))
        with _running(command, *options):
            client = redis_client(path)
            try:
                await _until_it_answers(client.ping, NotThere)
                yield client, path
            finally:
                await client.aclose()


# --- NATS ----------------------------------------------------------------------------------------


@asynccontextmanager
async def nats_server(*options: str) -> AsyncIterator[str]:
    """Run a nats-server on a free port of loopback; give its URL."""
    command = program("nats-server")
    assert command is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    async def call() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        await writer.wait_closed()

    with _running(command, "--addr", "127.0.0.1", "--port", str(port), *options):
        await _until_it_answers(call, OSError)
        yield f"nats://127.0.0.1:{port}"


# --- The second process --------------------------------------------------------------------------


class Second:
    """Another process that answers requests, as `bench.second` tells."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> str:
        """Return the next line that it says."""
        assert self._process.stdout is not None
        async with asyncio.timeout(START_LIMIT):
            line = await self._process.stdout.readline()
        assert line, "the second process has ended"
        return line.decode().strip()

    async def answered(self) -> int:
        """Return how many requests it has answered so far."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        return int(await self.line())


@asynccontextmanager
async def second_process(kind: str, address: str) -> AsyncIterator[Second]:
    """Run a process that answers requests of a kind; it ends when its standard input does."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.second",
        kind,
        address,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    second = Second(process)
    try:
        assert await second.line() == "ready"
        yield second
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(START_LIMIT):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
