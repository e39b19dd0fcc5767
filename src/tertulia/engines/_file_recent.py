"""What was read here and is still so, because nobody has written to the file since: no read need ask SQLite again."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from tertulia.engines._file_known import KNOWN, KNOWN_BODY
from tertulia.engines._file_lock import WriterLock
from tertulia.engines.base import Record

TRUST = 0.25  # seconds for which turns are believed, as late as a lost ring may be: who takes none may not write here


class Recent:
    """Records as they were when somebody last wrote to the file, and the processes that consume a mailbox.

    Whether somebody has written since, the writers' turns tell: see WriterLock.
    """

    def __init__(self, lock: WriterLock, clock: Callable[[], float] = monotonic) -> None:
        self._lock = lock
        self._clock = clock
        self._turn = -1
        self._until = 0.0
        self._records: dict[str, Record] = {}
        self._consumers: dict[str, list[tuple[str, str]]] = {}

    def record(self, key: str) -> Record | None:
        """Return a key's record, if it was read since the last write."""
        record = self._records.get(key)
        if record is None or self._lock.turns[0] != self._turn or self._clock() > self._until:
            return None
        return record

    def consumers(self, mailbox: str) -> list[tuple[str, str]] | None:
        """Return who consumes a mailbox elsewhere, if it was read since the last write."""
        found = self._consumers.get(mailbox)
        if found is None or self._lock.turns[0] != self._turn or self._clock() > self._until:
            return None
        return found

    def turn(self) -> int:
        """Return the turn, to be handed to `keep_...` with what is read from now on."""
        return self._lock.turns[0]

    def keep_record(self, turn: int, record: Record) -> None:
        """Know a record that was read in a turn, if that is not over."""
        if len(record.body) <= KNOWN_BODY and self._is_good(turn) and len(self._records) < KNOWN:
            self._records[record.key] = record

    def keep_consumers(self, turn: int, mailbox: str, found: list[tuple[str, str]]) -> None:
        """Know who consumes a mailbox, as it was read in a turn, if that is not over."""
        if self._is_good(turn) and len(self._consumers) < KNOWN:
            self._consumers[mailbox] = found

    def _is_good(self, turn: int) -> bool:
        """Tell whether what was read in a turn is still so; what is known from an earlier one is dropped."""
        if turn % 2 or self._lock.turns[0] != turn:
            return False
        now = self._clock()
        if turn != self._turn or now > self._until:
            self._records.clear()
            self._consumers.clear()
            self._turn, self._until = turn, now + TRUST
        return True
