"""One connection to a space's file, and the transaction that every write goes through.

A session is used by one thread at a time. While a transaction runs, its session holds the counters of the space and
collects what the outside has to learn about it once it is committed.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple, TypeVar

import apsw
from msgspec import Struct

from tertulia.engines._file_format import (
    COUNTERS,
    FAILURES,
    HISTORY_BYTES,
    HISTORY_CHANGES,
    counters_in,
    crc32,
    encode,
    executor,
    translated,
)
from tertulia.engines._file_known import Known
from tertulia.engines._file_time import FileClock
from tertulia.engines.base import Claimed
from tertulia.errors import EngineError, OutcomeUnknownError

T = TypeVar("T")

TRIM_EVERY = 64  # revisions; the log is a little longer than it need be, so that not every write trims it
UNKNOWN = -1  # version of the file's data that no connection has ever seen
CHECKPOINT_PAGES = 8_000  # 8 MiB of log before a checkpoint: rare enough to cost nothing, small enough to be read fast

NORMAL = 1  # of `PRAGMA synchronous`: commits are not synced
WATCHERS = "w"  # topic of interest: any change
INTERESTED = 10_000  # topics and private mailboxes of which a session remembers who waits for them
_INTERESTED = (
    "SELECT b.instance, b.path, i.lease FROM interests i JOIN bells b ON b.instance = i.instance WHERE i.topic = ?"
)
_LISTENER = "SELECT b.instance, b.path, 0.0 FROM listeners l JOIN bells b ON b.instance = l.instance WHERE l.name = ?"
_COUNT = "UPDATE heads SET packed = ?, crc = ? WHERE name = ''"


class HandedOver(NamedTuple):
    """A message that was stored as claimed by another instance, whose bell is to be rung with it."""

    instance: str
    path: str
    claimed: Claimed
    due: float  # when the lease ends, on the shared time


class Effects(Struct, gc=False):
    """What others have to learn about a committed transaction."""

    boxes: list[str] = []  # with something new to claim, once for each message
    room: list[str] = []  # with more room, or other options
    letters: list[tuple[str, Claimed]] = []  # to listeners of this instance
    reads: dict[str, int] = {}  # of keys, that are now counted in the file
    others_sent: bool = False  # so that letters of other instances may come before those
    changed: bool = False
    expires: float = inf
    ring: dict[str, str] = {}  # other instances to be woken, with their bells' paths
    posts: list[tuple[str, str, Claimed]] = []  # the same, with what was stored for their listeners
    handed: list[HandedOver] = []

    def copy(self) -> Effects:
        """Return effects that start with these."""
        more = Effects()
        more.boxes, more.room, more.letters = [*self.boxes], [*self.room], [*self.letters]
        more.changed, more.expires, more.ring = self.changed, self.expires, dict(self.ring)
        more.others_sent, more.reads = self.others_sent, dict(self.reads)
        more.posts, more.handed = [*self.posts], [*self.handed]
        return more


class Session:
    """A connection with its transaction."""

    def __init__(self, connection: apsw.Connection, clock: FileClock, instance: str, reads: dict[str, int]) -> None:
        self.connection = connection
        self.clock = clock
        self.instance = instance
        self.reads = reads
        self.execute = executor(connection)
        self._left = -1  # the last sequence when this session last committed
        self._version = UNKNOWN  # of the file's data after that; another one tells that somebody else has committed
        self.known = Known()  # at that version, and in the transaction that runs
        self.effects = Effects()
        self.pages = 0  # in the write-ahead log after the last commit
        self.revision = self.sequence = self.topics = self.bells = self.log_bytes = self.boxes = 0
        self._loaded = (0, 0, 0, 0, 0, 0)
        self._row: Any = None
        self._interested: dict[str, list[tuple[str, str, float]]] = {}
        self._interested_at = -1  # `bells` when that was read
        self.patterns: tuple[int, dict[str, list[tuple[int, str]]]] = (-1, {})
        connection.set_wal_hook(self._on_commit)

    def _on_commit(self, connection: apsw.Connection, name: str, pages: int) -> int:  # noqa: ARG002 - SQLite's shape
        self.pages = pages
        return 0

    # --- transactions ---

    def run(self, work: Callable[[Session], T]) -> tuple[T, Effects]:
        """Do the work in a transaction of its own; the caller holds the writers' lock. Nothing happens if it raises.

        Raises OutcomeUnknownError when the disk failed while the commit was being written down.
        """
        self.begin()
        try:
            result = work(self)
            self.finish()
        except BaseException as error:
            self.rollback()
            if isinstance(error, FAILURES):
                raise translated(error) from error
            raise
        return result, self.commit()

    def begin(self) -> None:
        """Start a transaction that may write. Raises EngineUnavailableError."""
        try:
            self.execute("BEGIN IMMEDIATE")
        except FAILURES as error:
            raise translated(error) from error
        try:
            if self.connection.data_version() == self._version:
                self._go_on()
            else:
                self.known.clear()
                self.load()
        except BaseException as error:
            self.rollback()
            if isinstance(error, FAILURES):
                raise translated(error) from error
            raise

    def load(self) -> None:
        """Read the counters anew, and forget what was collected."""
        row = self.execute(COUNTERS).get
        if row != self._row:  # else they have been checked
            self._loaded, self._row = counters_in(row), row
        self._go_on()

    def _go_on(self) -> None:
        """Begin with the counters as they are known to be in the file."""
        self.revision, self.sequence, self.topics, self.bells, self.log_bytes, self.boxes = self._loaded
        self.effects = Effects(others_sent=self.sequence != self._left)

    def finish(self) -> None:
        """Write the counters, if something changed, and trim the log of changes."""
        if self.revision // TRIM_EVERY != self._loaded[0] // TRIM_EVERY or self.log_bytes > HISTORY_BYTES:
            self._trim()
        counters = (self.revision, self.sequence, self.topics, self.bells, self.log_bytes, self.boxes)
        if counters != self._loaded:
            packed = encode(counters)
            self._loaded, self._row = counters, (packed, crc32(packed))  # which a rollback makes void
            self.execute(_COUNT, self._row)

    def commit(self) -> Effects:
        """Make it last. Raises EngineError, and OutcomeUnknownError when it may have happened all the same."""
        try:
            self.execute("COMMIT")
        except FAILURES as error:
            self.rollback()
            if self._may_be_written(error) and not self._write_over():
                message = "the disk failed while the commit was being synced; it may be there after a crash"
                raise OutcomeUnknownError(message) from error
            raise translated(error) from error
        self._left = self.sequence
        self._version = self.connection.data_version()
        return self.effects

    def _may_be_written(self, error: Exception) -> bool:
        """Tell whether a commit that failed may lie in the log as a whole, where a crash would bring it to life."""
        code = getattr(error, "extendedresult", 0)
        if not isinstance(error, apsw.IOError) or code == apsw.SQLITE_IOERR_WRITE:
            return False
        syncs_commits = self.execute("PRAGMA synchronous").get > NORMAL
        return syncs_commits or code != apsw.SQLITE_IOERR_FSYNC  # else only the log's head is synced, before a commit

    def _write_over(self) -> bool:
        """Write something harmless where such a commit would lie; return whether that could be done.

        Nobody has seen it, so the next commit takes its place in the log; until there is one its fate is open.
        """
        try:
            self.begin()
            self.bells += 1
            self.finish()
            self.execute("COMMIT")
        except (*FAILURES, EngineError):
            self.rollback()
            return False
        return True

    def rollback(self) -> None:
        """Undo what has not been committed."""
        if self.connection.in_transaction:
            self.execute("ROLLBACK")
        self._forget()

    def save(self) -> tuple[int, int, int, int, int, int, Effects]:
        """Begin one of several writes in a transaction; return what `restore` needs to end it without a trace."""
        effects = self.effects
        self.effects = effects.copy()
        return self.revision, self.sequence, self.topics, self.bells, self.log_bytes, self.boxes, effects

    def restore(self, saved: tuple[int, int, int, int, int, int, Effects]) -> None:
        """Forget a write that was undone."""
        self.revision, self.sequence, self.topics, self.bells, self.log_bytes, self.boxes, self.effects = saved
        self._forget()

    def _forget(self) -> None:
        """Forget what was read in a transaction that is undone, if it may have been its own doing."""
        self._version, self._row = UNKNOWN, None
        self.known.clear()
        self.patterns = (-1, {})
        self._interested_at = -1

    def _trim(self) -> None:
        gone = self.execute(
            "SELECT count(*), total(length(body)) FROM changes WHERE revision <= ?", (self.revision - HISTORY_CHANGES,)
        ).get
        if gone[0]:
            self.execute("DELETE FROM changes WHERE revision <= ?", (self.revision - HISTORY_CHANGES,))
            self.log_bytes -= int(gone[1])
        while self.log_bytes > HISTORY_BYTES:
            oldest = self.execute(
                "SELECT revision, coalesce(length(body), 0) FROM changes WHERE revision < ? ORDER BY revision LIMIT 1",
                (self.revision,),
            ).get
            if oldest is None:
                return
            self.execute("DELETE FROM changes WHERE revision = ?", (oldest[0],))
            self.log_bytes -= oldest[1]

    def count_reads(self, key: str) -> int:
        """Return how often a key was read here since its reads were last counted; from this commit on they are."""
        reads = self.reads.get(key, 0) - self.effects.reads.get(key, 0)
        if reads > 0:
            self.effects.reads[key] = self.effects.reads.get(key, 0) + reads
        return max(reads, 0)

    # --- whom to wake ---

    def call(self, topic: str) -> None:
        """Have those other instances woken that asked for a topic."""
        for instance, path, _ in self._who(topic, _INTERESTED, topic):
            if instance != self.instance:
                self.effects.ring[instance] = path

    def only_claimant(self, box: str) -> tuple[str, str, float] | None:
        """Return the one other instance that waits for a mailbox from time to time, its bell, and its leases' time."""
        found = self._who("m:" + box, _INTERESTED, "m:" + box)
        if len(found) != 1 or found[0][0] == self.instance or not found[0][1] or not found[0][2]:
            return None
        return found[0]

    def listener_of(self, name: str) -> tuple[str, str] | None:
        """Return the instance that listens to a private mailbox, with its bell's path."""
        found = self._who("l:" + name, _LISTENER, name)
        return found[0][:2] if found else None

    def _who(self, topic: str, sql: str, value: str) -> list[tuple[str, str, float]]:
        """Ask the file once, until somebody comes or goes."""
        known = self._interested
        if self._interested_at != self.bells or len(known) > INTERESTED:
            known.clear()
            self._interested_at = self.bells
        found = known.get(topic)
        if found is None:
            found = known[topic] = self.execute(sql, (value,)).fetchall()
        return found

    def changes_made(self) -> None:
        """Note that keys changed."""
        if not self.effects.changed:
            self.effects.changed = True
            if self._interested_at != self.bells or self._interested.get(WATCHERS) != []:  # else nobody watches
                self.call(WATCHERS)

    def claimable(self, box: str) -> None:
        """Note that one more message of a mailbox can be claimed."""
        boxes = self.effects.boxes
        if box not in boxes:
            self.call("m:" + box)
        boxes.append(box)

    def roomier(self, box: str) -> None:
        """Note that a mailbox may take more."""
        room = self.effects.room
        if box not in room:
            room.append(box)
            self.call("r:" + box)
