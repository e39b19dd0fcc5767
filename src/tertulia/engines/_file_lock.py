"""The writers' lock: one writer at a time over all processes, in the order in which they came, and counted."""

from __future__ import annotations

import fcntl
import mmap
import os
import sys
from fcntl import LOCK_UN, flock
from pathlib import Path

from tertulia.engines._file_format import translated

LOCKS = Path("/proc/locks")  # of Linux; elsewhere nobody knows who holds a lock
_NOW = fcntl.LOCK_EX | fcntl.LOCK_NB
TURN_BYTES = 8  # of the lock file: how often the lock was taken or let go
_STATES = {"T": "was stopped", "t": "is stopped by a debugger", "D": "waits for the disk", "Z": "has just ended"}


class WriterLock:
    """A lock file beside the space's file; each holder has a descriptor of its own. The file is never removed.

    SQLite has a lock of its own, but who waits for that must poll, and a busy neighbour then wins for half a second.

    `turns[0]` is a number in memory that all processes share. It is odd from before a writer's first step until after
    its last, and then another one than ever before; a writer that was killed leaves it odd for the next one. So where
    it is even, and as it was, nobody has written in between. It stays odd for who opened before `prepare` was called.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(path, flags, 0o600)
        self._map: mmap.mmap | None = None
        self.turns = _no_turns()
        self._is_held = False
        self._look_at_turns()

    def _look_at_turns(self) -> None:
        if os.fstat(self._file).st_size >= TURN_BYTES:
            self._map = mmap.mmap(self._file, TURN_BYTES)
            self.turns = memoryview(self._map).cast("Q")

    def prepare(self) -> None:
        """Have turns counted in the file from now on; for who holds the lock."""
        if self._map is not None:
            return
        try:
            os.pwrite(self._file, bytes(TURN_BYTES), 0)  # so that the disk has room for it
            self._look_at_turns()
        except OSError as error:
            raise translated(error, "the lock file") from error
        self._begin_turn()

    def _begin_turn(self) -> None:
        self._is_held = True
        if self._map is not None:
            turn = self.turns[0]
            self.turns[0] = turn + 1 if turn % 2 == 0 else turn + 2

    def try_acquire(self) -> bool:
        """Take the lock if it is free."""
        try:
            flock(self._file, _NOW)
            self._begin_turn()
        except BlockingIOError:
            return False
        except OSError as error:
            raise translated(error, "the lock file") from error
        return True

    def acquire(self) -> None:
        """Wait for the lock. Not for the event loop's thread."""
        try:
            flock(self._file, fcntl.LOCK_EX)
            self._begin_turn()
        except OSError as error:
            raise translated(error, "the lock file") from error

    def release(self) -> None:
        """Let the next one in."""
        self._end_turn()
        flock(self._file, LOCK_UN)

    def _end_turn(self) -> None:
        if self._is_held:
            self._is_held = False
            if self._map is not None:
                self.turns[0] += 1

    def holder(self) -> str:
        """Return in words who holds the lock, and in which state, as far as the system tells."""
        file = os.fstat(self._file)
        place = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
        for line in _lines(LOCKS):
            fields = line.split()  # 1: FLOCK ADVISORY WRITE 4711 08:01:131084 0 EOF
            if fields[1:2] == ["FLOCK"] and fields[5:6] == [place]:
                return f"process {fields[4]} holds its lock, and {_state(fields[4])}"
        return "another process holds its lock"

    def close(self) -> None:
        """Give the descriptor back, and the lock with it."""
        if self._is_held:
            self.release()
        if self._map is not None:
            self.turns.release()
            self.turns = _no_turns()
            self._map.close()
        os.close(self._file)


def _no_turns() -> memoryview:
    """Return turns that nobody counts, and that are odd for ever."""
    return memoryview((1).to_bytes(TURN_BYTES, sys.byteorder)).cast("Q")


def _state(pid: str) -> str:
    for line in _lines(Path("/proc", pid, "status")):
        if line.startswith("State:"):
            return _STATES.get(line.split()[1], "runs")
    return "cannot be looked at"


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # gone meanwhile, or a system without such files
        return []
