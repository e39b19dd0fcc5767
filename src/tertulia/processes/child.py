"""Child processes: clean Python processes that run a module of this package, and end when this process does.

Orders go to a child's standard input, its reports come from its standard output, and whatever else it prints or logs
comes from its standard error, line by line. When this process ends, however it does, the orders end; by that a child
knows (see `parent`), so that none is left behind even where nobody could tell it to stop.

A child has a session of its own: a Ctrl-C in the terminal is for this process alone, which then decides.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from tertulia.processes.frames import Frames, frame

__all__ = ["Child", "ending", "start_child"]

MAX_LINE = 64 * 1024  # bytes; a longer line is passed on in pieces, so that no child fills this process's memory
LAST_WORDS = 1.0  # seconds to wait for the rest of a dead child's output, which a process that it left may hold open
KILLED_SOON = 5.0  # seconds within which the system has ended a killed process; more means a broken disk or driver

_INPUT, _OUTPUT, _ERRORS = 0, 1, 2


class Child:
    """A process that was started here; made by `start_child`. Whoever has one ends it with `aclose`."""

    def __init__(self, transport: asyncio.SubprocessTransport, wires: _Wires) -> None:
        self._transport = transport
        self._wires = wires
        self.pid = transport.get_pid()

    @property
    def returncode(self) -> int | None:
        """The exit code, or minus the number of the signal that killed it; None while it runs."""
        return self._transport.get_returncode()

    def tell(self, order: object) -> None:
        """Send the child an order, in time; one that has ended does not get it."""
        pipe = self._transport.get_pipe_transport(_INPUT)
        if isinstance(pipe, asyncio.WriteTransport) and not pipe.is_closing():
            pipe.write(frame(order))

    def let_go(self) -> None:
        """Send no more orders, which for the child is as if this process were gone."""
        pipe = self._transport.get_pipe_transport(_INPUT)
        if pipe is not None:
            pipe.close()

    async def hear(self) -> bytes | None:
        """Return the child's next report, encoded; None when there will be no more."""
        return await self._wires.reports.get()

    async def ended(self) -> int:
        """Wait until the child has ended, and what it said was passed on; return its exit code as `returncode`."""
        await self._wires.exited.wait()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wires.silent.wait(), LAST_WORDS)
        code = self.returncode
        assert code is not None  # noqa: S101 - it has ended
        return code

    def kill(self) -> None:
        """End the child, and all that it has started and not moved elsewhere, without a chance to say anything."""
        if self.returncode is not None:
            return
        with suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(self.pid, signal.SIGKILL)
            else:
                self._transport.kill()

    async def aclose(self, grace: float = 0.0) -> None:
        """Let go of the child, give it `grace` seconds to end, kill it, and take leave of what is left."""
        try:
            if self.returncode is None and grace > 0:
                self.let_go()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wires.exited.wait(), grace)
        finally:
            self.kill()
            try:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.ended(), KILLED_SOON)
            finally:
                self._transport.close()


async def start_child(
    module: str,
    arguments: Sequence[str] = (),
    *,
    said: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Start a Python of the same sort that runs a module; `said` gets each line of its standard error.

    It is a clean process, not a copy of this one: it shares no memory, lock or open file with it. `environment` is
    added to this process's own. Raises OSError when the system cannot start one more.
    """
    transport, wires = await asyncio.get_running_loop().subprocess_exec(
        lambda: _Wires(said),
        sys.executable,
        *_flags(),
        "-m",
        module,
        *arguments,
        env=None if environment is None else {**os.environ, **environment},
        start_new_session=True,
    )
    return Child(transport, wires)


def ending(code: int) -> str:
    """Say how a process ended: `was killed by SIGKILL`, `ended with exit code 1`."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}"


def _flags() -> list[str]:
    """Return the options of this Python that another one should have too."""
    return [f"-W{option}" for option in sys.warnoptions] + (["-X", "dev"] if sys.flags.dev_mode else [])


class _Wires(asyncio.SubprocessProtocol):
    """Takes what comes from a child: reports, lines, and that it has ended."""

    def __init__(self, said: Callable[[str], None]) -> None:
        self.reports: asyncio.Queue[bytes | None] = asyncio.Queue()  # bounded by what a child of ours has to report
        self.exited = asyncio.Event()
        self.silent = asyncio.Event()
        self._frames = Frames()
        self._said = said
        self._line = bytearray()
        self._open = {_OUTPUT, _ERRORS}

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == _OUTPUT:
            for report in self._frames.feed(data):
                self.reports.put_nowait(report)
        else:
            self._take_lines(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002 - the end is the end
        if fd == _OUTPUT:
            self.reports.put_nowait(None)
        elif fd == _ERRORS and self._line:
            self._take_lines(b"\n")
        self._open.discard(fd)
        if not self._open:
            self.silent.set()

    def process_exited(self) -> None:
        self.exited.set()

    def _take_lines(self, data: bytes) -> None:
        self._line += data
        *lines, rest = self._line.split(b"\n")
        pieces = deque(lines)
        while len(rest) > MAX_LINE:
            pieces.append(rest[:MAX_LINE])
            rest = rest[MAX_LINE:]
        self._line = bytearray(rest)
        for piece in pieces:
            self._said(piece.decode("utf-8", "backslashreplace").rstrip("\r"))
