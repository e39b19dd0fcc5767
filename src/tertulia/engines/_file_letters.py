"""Letters: messages for the listeners of this process, stored by other processes until they are handed over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tertulia._background import logger
from tertulia.engines._file_format import FAILURES, Execute, crc32, row_checksum
from tertulia.engines._file_session import Session
from tertulia.engines.base import Claimed

LETTERS = 256  # replies read at once
LETTERS_KEPT = 64  # replies handed over before their rows are removed, so that not each costs a write
LETTERS_LEFT = 0.2  # seconds after which the rest are removed too


class Letters:
    """Reads this process's letters in their order, and removes them in batches: they may come twice, after a crash."""

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
        self._last = 0
        self._kept = 0
        self._closed = False

    def read(self) -> None:
        """Hand over what has come."""
        try:
            while self._read_some() == LETTERS:
                pass
        except FAILURES:
            logger.exception("replies of other processes could not be read")

    def _read_some(self) -> int:
        found = self._execute(
            "SELECT id, name, message_id, sequence, crc, body FROM letters WHERE instance = ? AND id > ?"
            " ORDER BY id LIMIT ?",
            (self._instance, self._last, LETTERS),
        ).fetchall()
        for letter, name, message_id, sequence, crc, body in found:
            self._last = letter
            if not isinstance(body, bytes) or crc32(body, row_checksum(name, message_id, sequence)) != crc:
                logger.error("a message to %s was damaged in the file, and is lost", name)
            elif (listener := self._listeners.get(name)) is not None:
                listener(Claimed(name, message_id, body, sequence))
        if found and not self._kept:
            asyncio.get_running_loop().call_later(LETTERS_LEFT, self._remove)
        self._kept += len(found)
        if self._kept >= LETTERS_KEPT:
            self._remove()
        return len(found)

    def _remove(self) -> None:
        if self._kept and not self._closed:
            self._kept = 0
            values = (self._instance, self._last)
            self._write_soon(
                lambda session: session.execute("DELETE FROM letters WHERE instance = ? AND id <= ?", values)
            )

    def close(self) -> None:
        """Read and remove nothing any more."""
        self._closed = True
