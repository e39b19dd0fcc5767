"""A process that makes workers by forking: one starts in milliseconds, because everything is imported already.

`python -m tests.file.nursery DIRECTORY MODULE…` reads a command from each line of its input, and answers with a line.
When its input ends it kills all workers that are left.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

KILLED_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class Log:
    """A worker's log: each entry is in the file before `say` returns, so that no kill can take it back."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._encode = msgspec.json.Encoder().encode

    def say(self, entry: object) -> None:
        os.write(self._file, self._encode(entry) + b"\n")


class Nursery:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._workers: dict[int, str] = {}

    def serve(self) -> None:
        try:
            for line in sys.stdin:
                command, *values = msgspec.json.decode(line)
                answer = getattr(self, command)(*values)
                sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
                sys.stdout.flush()
        finally:
            for pid in list(self._workers):
                self.kill(pid)

    def start(self, name: str, role: str, *values: Any) -> int:
        """Fork a worker that runs the coroutine function `module:function` with a log and the values."""
        pid = os.fork()
        if pid:
            self._workers[pid] = name
            return pid
        try:
            self._run(name, role, values)
        except BaseException:  # noqa: BLE001 - the worker must end here, whatever happens
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    def _run(self, name: str, role: str, values: tuple[Any, ...]) -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(KILLED_WITH_PARENT, signal.SIGKILL)
        errors = os.open(self._directory / f"{name}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDWR)
        for old, new in ((0, nothing), (1, nothing), (2, errors)):
            os.dup2(new, old)
        module, _, function = role.partition(":")
        log = Log(self._directory / f"{name}.log")
        asyncio.run(getattr(import_module(module), function)(log, *values))

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a worker that is there."""
        if pid in self._workers:
            os.kill(pid, number)

    def has_stopped(self, pid: int) -> bool:
        """Tell, once, that a worker was stopped."""
        _, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        return os.WIFSTOPPED(status)

    def kill(self, pid: int) -> int | None:
        """Kill a worker; return the status of one that had ended by itself, else None."""
        if pid not in self._workers:
            return None
        ended, status = os.waitpid(pid, os.WNOHANG)
        if not ended:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        del self._workers[pid]
        return os.waitstatus_to_exitcode(status) if ended else None

    def ended(self) -> list[tuple[int, int]]:
        """Return which workers have ended by themselves, and how."""
        found: list[tuple[int, int]] = []
        for pid in list(self._workers):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._workers[pid]
                found.append((pid, os.waitstatus_to_exitcode(status)))
        return found


def plant(bug: str) -> None:
    """Let all workers have one of the bugs of bugs.py."""
    pytest = import_module("pytest")
    getattr(import_module("tests.file.bugs"), bug)(pytest.MonkeyPatch())


if __name__ == "__main__":
    for module in sys.argv[2:]:
        import_module(module)
    if bug := os.environ.get("TERTULIA_PLANTED_BUG"):
        plant(bug)
    Nursery(Path(sys.argv[1])).serve()
