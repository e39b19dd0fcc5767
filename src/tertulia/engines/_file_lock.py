"""The writers' lock: one writer at a time over all processes, in the order in which they came."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from tertulia.engines._file_format import translated


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
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise translated(error, "the lock file") from error
        return True

    def acquire(self) -> None:
        """Wait for the lock. Not for the event loop's thread."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except OSError as error:
            raise translated(error, "the lock file") from error

    def release(self) -> None:
        """Let the next one in."""
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._file)
