"""The writers' lock: one writer at a time over all processes, in the order in which they came."""

from __future__ import annotations

import fcntl
import os
from fcntl import LOCK_UN, flock
from pathlib import Path

from tertulia.engines._file_format import translated

LOCKS = Path("/proc/locks")  # of Linux; elsewhere nobody knows who holds a lock
_NOW = fcntl.LOCK_EX | fcntl.LOCK_NB
_STATES = {"T": "was stopped", "t": "is stopped by a debugger", "D": "waits for the disk", "Z": "has just ended"}


class WriterLock:
    """A lock file beside the space's file; each holder has a descriptor of its own. The file is never removed.

    SQLite has a lock of its own, but who waits for that must poll, and a busy neighbour then wins for half a second.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(path, flags, 0o600)

    def try_acquire(self) -> bool:
        """Take the lock if it is free."""
        try:
            flock(self._file, _NOW)
        except BlockingIOError:
            return False
        except OSError as error:
            raise translated(error, "the lock file") from error
        return True

    def acquire(self) -> None:
        """Wait for the lock. Not for the event loop's thread."""
        try:
            flock(self._file, fcntl.LOCK_EX)
        except OSError as error:
            raise translated(error, "the lock file") from error

    def release(self) -> None:
        """Let the next one in."""
        flock(self._file, LOCK_UN)

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
        """Give the descriptor back."""
        os.close(self._file)


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
