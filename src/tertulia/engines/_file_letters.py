"""Letters: messages for the listeners of this process, stored by other processes until they are handed over.

A letter comes twice: in the file, where it outlives the process that wrote it, and by the bell, which is faster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tertulia._background import logger
from tertulia.engines._file_format import FAILURES, Execute, crc32, row_checksum
from tertulia.engines._file_session import Session
from tertulia.engines.base import Claimed

LETTERS = 256  # replies read at once
LETTERS_LEFT = 0.2  # seconds until rows of replies that were handed over are removed, so that not each costs a write
_REMOVE = "DELETE FROM letters WHERE sequence > ? AND sequence <= ? AND instance = ?"


class Letters:
    """Hands over this process's letters in their order, and removes them in batches."""

    def __init__(
        self,
        execute: Execute,
        instance: str,
        listeners: dict[str, Callable[[Claimed], None]],
        write_soon: Callable[[Callable[[Session], Any]], object],
    ) -> None:
        self._execute = execute
        self._instance = instance
        self._listeners = listeners
        self._write_soon = write_soon
        self._last = 0  # what was stored up to here has been read
        self._removed = 0  # and up to here removed
        self._carried: set[int] = set()  # what came by the bell since
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def read(self) -> bool:
        """Hand over what has come; return whether it could be read."""
        try:
            while self._read_some() == LETTERS:
                pass
        except FAILURES:
            logger.exception("replies of other processes could not be read")
            return False
        return True

    def _read_some(self) -> int:
        found = self._execute(
            "SELECT sequence, name, message_id, crc, body FROM letters WHERE sequence > ? AND instance = ?"
            " ORDER BY sequence LIMIT ?",
            (self._last, self._instance, LETTERS),
        ).fetchall()
        for sequence, name, message_id, crc, body in found:
            self._last = sequence
            if sequence in self._carried:
                self._carried.discard(sequence)
            elif not isinstance(body, bytes) or crc32(body, row_checksum(name, message_id, sequence)) != crc:
                logger.error("a message to %s was damaged in the file, and is lost", name)
            else:
                self._hand_over(Claimed(name, message_id, body, sequence))
        if found:
            self._remove_soon()
        return len(found)

    def take(self, letter: Claimed) -> None:
        """Hand over a letter that came by the bell, unless it has been read."""
        if letter.sequence > self._last and letter.sequence not in self._carried:
            self._carried.add(letter.sequence)
            self._hand_over(letter)
            if len(self._carried) < LETTERS:
                self._remove_soon()
            elif len(self._carried) == LETTERS:
                asyncio.get_running_loop().call_soon(self._remove)

    def _hand_over(self, letter: Claimed) -> None:
        listener = self._listeners.get(letter.mailbox)
        if listener is not None:
            listener(letter)

    def _remove_soon(self) -> None:
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(LETTERS_LEFT, self._remove)

    def _remove(self) -> None:
        self._timer = None
        if self._closed:
            return
        if not self.read():
            self._remove_soon()
            return
        # Who wrote the last one that was carried saw all before it in the file, so there is no other left up to there.
        self._last = max(self._last, *self._carried, 0)
        self._carried.clear()
        values = (self._removed, self._last, self._instance)
        self._removed = self._last
        self._write_soon(lambda session: session.execute(_REMOVE, values))

    def close(self) -> None:
        """Read and remove nothing any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
