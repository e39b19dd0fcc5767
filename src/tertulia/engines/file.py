"""The engine `file:`: a space in one SQLite file, shared by the processes of one machine, without any server.

`file:PATH`, or the path alone. With `durability="process"` what was acknowledged survives the death of any process; a
power cut may take the newest commits, never older ones. `durability="power"` waits for the disk, and survives
that too; commits that wait at the same time share one sync.

Nothing but SQLite ever opens the file. Short statements run on the event loop; whatever may wait for another process
or for the disk runs in a thread. Handles of one process on one file, in one event loop, share its connections.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from msgspec.structs import replace

from tertulia._clock import Clock, TimerHandle, hold
from tertulia.engines import _file_boxes as boxes
from tertulia.engines import _file_mail as mail
from tertulia.engines import _file_records as records
from tertulia.engines import _file_work as work
from tertulia.engines._file_bell import Rung, pack_carried
from tertulia.engines._file_doctor import examine
from tertulia.engines._file_format import (
    COUNTERS,
    DEDUP_COUNT,
    DEDUP_WINDOW,
    FAILURES,
    HISTORY_CHANGES,
    Execute,
    counters_in,
    executor,
    translated,
)
from tertulia.engines._file_hub import READS, Hub
from tertulia.engines._file_open import DURABILITIES, open_file
from tertulia.engines._file_path import path_of
from tertulia.engines._file_reads import scan as scan_rows
from tertulia.engines._file_session import WATCHERS, Session
from tertulia.engines._file_time import FileClock
from tertulia.engines._file_waiters import Waiters, wake_all, wake_one
from tertulia.engines._file_watch import WatchStream
from tertulia.engines.base import (
    DEFAULT_LEASE,
    Capabilities,
    Claimed,
    Commit,
    Committed,
    Engine,
    EngineStats,
    MailboxOptions,
    Publish,
    Put,
    Record,
    Send,
    Sent,
    Settle,
    Stored,
)
from tertulia.errors import EngineError, InvalidInputError, LeaseLostError, SpaceClosedError, UnknownAgentError
from tertulia.records import AgentInfo, Finding

T = TypeVar("T")

CAPABILITIES = Capabilities(
    durable=True,
    multi_process=True,
    multi_machine=False,
    linearizable_reads=True,
    exact_bounds=True,
    exact_access_counts=False,  # counting a read would make it a write; each process counts its own, until it writes
    manual_clock=True,
    max_value_bytes=16 * 2**20,  # a value is copied on every read; larger ones belong in files of their own
    max_commit_operations=10_000,  # a commit keeps other writers out, and may hold the event loop, while it is applied
    ttl_resolution=0.0,
    dedup_window=DEDUP_WINDOW,
    dedup_count=DEDUP_COUNT,
    history=HISTORY_CHANGES,
)
EMIT_TRIES = 20  # for a consumer whose bell is full of rings: 40 ms in all, then the message is lost, as it may be
EMIT_PAUSE = 0.002


class FileEngine(Engine):
    """One handle on a space in a file."""

    capabilities = CAPABILITIES

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._clock = hub.clock
        self._execute = hub.execute
        self._reads = hub.reads
        self._recent = hub.writer.recent
        self._write = hub.writer.write
        self._closed = False
        self._streams: set[WatchStream] = set()
        self._listening: list[Callable[[], None]] = []

    # --- records ---

    async def get(self, key: str) -> Record | None:
        if self._closed or self._hub.forked:
            self._check_open()
        recent = self._recent
        if (record := recent.record(key)) is None:
            turn = recent.turn()
            record = records.read(self._execute, key)
            if record is None:
                return None
            record.access_count += self._reads.get(key, 0)
            recent.keep_record(turn, record)
        if record.expires is not None and record.expires <= self._clock.time():
            await self._write(lambda session: records.find_live(session, key, session.clock.time()))
            return None
        reads = self._reads
        reads[key] = reads.get(key, 0) + 1
        if len(reads) > READS:
            reads.clear()
        record.access_count += 1
        return record

    async def scan(
        self,
        prefix: str,
        *,
        matches: Callable[[str], object] | None = None,
        tags: frozenset[str] | None = None,
        owner: str | None = None,
        bodies: bool = True,
    ) -> tuple[int, list[Record]]:
        self._check_open()
        await self._sweep()
        now = self._clock.time()
        few = scan_rows(self._execute, now, prefix, matches, tags, owner, bodies=bodies, few=True)
        if few is not None:
            return self._with_reads(*few)

        def all_of_them(execute: Execute) -> tuple[int, list[Record]]:
            found = scan_rows(execute, now, prefix, matches, tags, owner, bodies=bodies, few=False)
            assert found is not None  # noqa: S101 - only with `few`
            return found

        return self._with_reads(*await self._in_thread(all_of_them))

    async def _sweep(self) -> None:
        """Remove the keys whose time is over: once somebody was told so, no jump of the clock brings them back."""
        while (expires := self._hub.read(records.next_expiry)) is not None and expires <= self._clock.time():
            await self._write(records.sweep)

    def _with_reads(self, revision: int, found: list[Record]) -> tuple[int, list[Record]]:
        """Add the reads that this process has not written down yet."""
        if self._reads:
            for record in found:
                record.access_count += self._reads.get(record.key, 0)
        return revision, found

    async def commit(self, commit: Commit) -> Committed:
        if self._closed or (hub := self._hub).forked or hub.setup is not None:
            await self._ready()
        return await self._write(lambda session: work.commit(session, commit))

    async def put(self, put: Put) -> Record:
        if self._closed or (hub := self._hub).forked or hub.setup is not None:
            await self._ready()
        return await self._write(lambda session: records.put(session, put, session.clock.time()))

    async def send(self, send: Send | Publish) -> Sent:
        if self._closed or (hub := self._hub).forked or hub.setup is not None:
            await self._ready()
        return await self._write(lambda session: mail.Sending(session).send(send))

    async def settle(self, settle: Settle) -> None:
        if self._closed or (hub := self._hub).forked or hub.setup is not None:
            await self._ready()
        await self._write(lambda session: mail.settle(session, settle))

    async def watch(self, pattern: str, *, after: int | None = None) -> WatchStream:
        self._check_open()
        hub = self._hub
        await hub.take_interest(WATCHERS)
        self._check_open()
        revision: int = hub.read(_revision)
        start = revision if after is None else after
        stream = WatchStream(pattern, self._execute, start, self._streams, resumed=after is not None)
        stream.check_start(revision)
        hub.streams.add(stream)
        return stream

    # --- mailboxes ---

    async def open_mailbox(self, mailbox: str, options: MailboxOptions) -> bool:
        await self._ready()
        return await self._write(lambda session: boxes.open_box(session, mailbox, options))

    async def close_mailbox(self, mailbox: str, *, heir: str | None = None, note: bytes = b"") -> int:
        await self._ready()
        count = await self._write(lambda session: boxes.close_box(session, mailbox, heir, note))
        self._hub.transients.pop(mailbox, None)
        wake_all(self._hub.claimants.get(mailbox))
        return count

    async def mailboxes(self) -> list[AgentInfo]:
        self._check_open()
        return self._hub.read(boxes.infos)

    async def subscribe(self, mailbox: str, pattern: str) -> bool:
        await self._ready()
        return await self._write(lambda session: boxes.subscribe(session, mailbox, pattern))

    async def unsubscribe(self, mailbox: str, pattern: str) -> bool:
        await self._ready()
        return await self._write(lambda session: boxes.unsubscribe(session, mailbox, pattern))

    async def claim(
        self,
        mailbox: str,
        *,
        limit: int = 1,
        lease: float = DEFAULT_LEASE,
        wait: float | None = 0.0,
    ) -> list[Claimed]:
        self._check_open()
        hub = self._hub
        if mailbox in hub.stocked or hub.is_claimable(mailbox):
            if taken := await self._take(mailbox, limit, lease):
                return taken
            looked = False
        else:
            looked = hub.has_interest(f"m:{mailbox}", lease)  # so that nothing can come unnoticed from now on
        if wait == 0.0:
            return []
        deadline = None if wait is None else self._clock.monotonic() + wait
        try:
            if not looked:
                await hub.take_interest(f"m:{mailbox}", lease)
            woken = False
            while True:
                self._check_open()
                if woken or (not looked and (hub.has_transient(mailbox) or hub.is_claimable(mailbox))):
                    if taken := await self._take(mailbox, limit, lease):
                        return taken
                    woken = looked = False
                else:
                    woken = await self._wait_in(hub.claimants, mailbox, deadline)
                    if not woken:
                        return []
        except (asyncio.CancelledError, SpaceClosedError):
            hub.handed.wake_next(mailbox)
            raise

    async def _take(self, mailbox: str, limit: int, lease: float) -> list[Claimed]:
        """Claim what can be claimed now."""
        hub = self._hub
        if handed := hub.handed.take(mailbox):
            return await self._with_lease(handed, lease)
        if mailbox in hub.transients and (hub.has_transient(mailbox) or hub.is_claimable(mailbox)):
            return hub.take_transients(mailbox, limit)
        hub.stocked.discard(mailbox)  # the claim says if there is more
        heard = hub.handed.newest(mailbox)
        taken = await self._write(lambda session: mail.claim(session, mailbox, limit, lease, heard), hub.unclaim)
        if taken is None:
            return await self._take_unheard(mailbox, limit, lease)
        if self._closed:
            hub.unclaim(taken)
            raise SpaceClosedError
        if taken and hub.claimants:
            hub.due_alarm.ring_in(lease)
        return taken

    async def _take_unheard(self, mailbox: str, limit: int, lease: float) -> list[Claimed]:
        """Take the message that was handed over to this process, and that is older than all that can be claimed."""
        hub = self._hub
        self._check_open()
        if handed := hub.handed.take(mailbox) or self._find_handed(mailbox):
            return await self._with_lease(handed, lease)
        return await self._take(mailbox, limit, lease)  # somebody else here has got it by now

    def _find_handed(self, mailbox: str) -> Claimed | None:
        hub = self._hub
        return hub.read(hub.handed.find_one, mailbox, hub.time, hub.instance)

    async def _with_lease(self, handed: Claimed, lease: float) -> list[Claimed]:
        """Return a message that was handed over, with the lease that was asked for; nothing if that is lost."""
        if self._hub.interests.get(f"m:{handed.mailbox}") == lease:
            return [handed]
        try:
            await self.extend(handed, lease)
        except LeaseLostError:
            return []
        except BaseException:
            self._hub.unclaim([handed])
            raise
        return [replace(handed, lease_until=self._clock.monotonic() + lease)]

    async def _wait_in(self, waiters: Waiters, mailbox: str, deadline: float | None) -> bool:
        """Wait in a queue to be woken; return False at the deadline.

        Raises SpaceClosedError when this handle closes. Whoever is woken and does not look must wake the next.
        """
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        queue = waiters.setdefault(mailbox, deque())
        queue.append(waiter)
        timer = None if deadline is None else self._time_out_at(deadline, waiter)
        try:
            woken = await waiter
        finally:
            if timer is not None:
                timer.cancel()
            if waiter in queue:
                queue.remove(waiter)
            if not queue and waiters.get(mailbox) is queue:
                del waiters[mailbox]
        if self._closed:
            wake_one(waiters.get(mailbox))
            raise SpaceClosedError
        return woken

    def _time_out_at(self, deadline: float, waiter: asyncio.Future[bool]) -> TimerHandle:
        left = max(0.0, deadline - self._clock.monotonic())
        return self._clock.call_later(left, lambda: waiter.done() or waiter.set_result(False))

    async def extend(self, claimed: Claimed, lease: float) -> None:
        self._check_open()
        await self._write(lambda session: work.extend(session, claimed, lease))

    async def release(self, claimed: Claimed, *, delay: float = 0.0, counted: bool = False, note: bytes = b"") -> bool:
        self._check_open()
        return await self._write(lambda session: work.release(session, claimed, delay, note, counted=counted))

    async def wait_for_room(self, mailbox: str, timeout: float) -> bool:
        self._check_open()
        hub = self._hub
        deadline = self._clock.monotonic() + timeout
        if self._has_room(mailbox):
            return True
        await hub.take_interest(f"r:{mailbox}")
        self._check_open()
        while not self._has_room(mailbox):
            if not await self._wait_in(hub.senders, mailbox, deadline):
                return False
        return True

    def _has_room(self, mailbox: str) -> bool:
        box = self._hub.read(mail.find_box, mailbox)
        if box is None:
            raise UnknownAgentError(mailbox)
        return box.size < box.max_size

    # --- messages that are not stored ---

    async def emit(self, send: Send | Publish) -> int:
        if self._closed or (hub := self._hub).forked or hub.setup is not None:
            await self._ready()
        hub = self._hub
        if isinstance(send, Send):
            if send.mailbox in hub.listeners:
                hub.letters.read()  # they were here first
                return int(hub.take_emitted(send.mailbox, send.message_id, send.body))
            return int(await self._emit_to(send.mailbox, send, optional=send.optional))
        names = hub.read(_subscribers, hub.session, send.topic)
        return sum([await self._emit_to(name, send, optional=True) for name in names])

    async def _emit_to(self, mailbox: str, send: Send | Publish, *, optional: bool) -> bool:
        hub = self._hub
        if hub.claimants.get(mailbox):
            return hub.take_emitted(mailbox, send.message_id, send.body)
        if (others := self._recent.consumers(mailbox)) is None:
            turn = self._recent.turn()
            others = hub.read(hub.consumers_elsewhere, mailbox)
            self._recent.keep_consumers(turn, mailbox, others)
        if not others and hub.read(mail.find_box, mailbox) is None:
            if optional:
                return False
            raise UnknownAgentError(mailbox)
        datagram = pack_carried(Claimed(mailbox, send.message_id, send.body))
        if datagram is not None:
            for instance, path in others:
                if await self._ring_with(instance, path, datagram):
                    return True
        return hub.consumes(mailbox) and hub.take_emitted(mailbox, send.message_id, send.body)

    async def _ring_with(self, instance: str, path: str, datagram: bytes) -> bool:
        hub = self._hub
        hub.open_bell()
        for _ in range(EMIT_TRIES):
            if hub.bell is None or self._closed:
                return False
            if hub.rings.in_order(instance, path):
                rung = hub.bell.ring(path, datagram)
                if rung is Rung.GONE:
                    hub.forget(instance)
                if rung is not Rung.FULL:
                    return rung is Rung.YES
            await asyncio.sleep(EMIT_PAUSE)
        return False

    def listen(self, mailbox: str, callback: Callable[[Claimed], None]) -> Callable[[], None]:
        self._check_open()
        stop = self._hub.listen(mailbox, callback)
        self._listening.append(stop)
        return stop

    async def browse(self, mailbox: str, *, limit: int = 100, message_id: str | None = None) -> Sequence[Stored]:
        self._check_open()
        return self._hub.read(work.browse, mailbox, limit, message_id, self._hub.time)

    # --- the whole ---

    async def stats(self) -> EngineStats:
        self._check_open()
        await self._sweep()
        civil, now = self._clock.time(), self._hub.time.now()
        return await self._in_thread(lambda execute: _at_one_moment(execute, lambda: boxes.stats(execute, civil, now)))

    async def doctor(self) -> list[Finding]:
        self._check_open()
        hub = self._hub
        return await self._in_thread(lambda execute: examine(execute, hub.place, hub.durability, hub.instance))

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        hub = self._hub
        if hub.forked:
            return
        for stop in self._listening:
            stop()
        for stream in list(self._streams):
            hub.streams.discard(stream)
            await stream.aclose()
        for queue in (*hub.claimants.values(), *hub.senders.values()):
            wake_all(queue)  # those of this handle end, those of others wait again
        await _drop_handle(hub)

    async def _in_thread(self, read: Callable[[Execute], T]) -> T:
        """Read with a connection of its own, in a thread."""

        def run() -> T:
            try:
                connection = self._hub.connect()
                try:
                    return read(executor(connection))
                finally:
                    connection.close()
            except FAILURES as error:
                raise translated(error) from error

        release = hold(self._clock)
        try:
            return await asyncio.get_running_loop().run_in_executor(None, run)
        finally:
            release()

    async def _ready(self) -> None:
        """Check that the handle is open, and wait until others can reach its listeners."""
        if self._closed or self._hub.forked:
            self._check_open()
        if self._hub.setup is not None:
            await asyncio.wait([self._hub.setup])

    def _check_open(self) -> None:
        if self._closed:
            raise SpaceClosedError
        if self._hub.forked:
            raise EngineError("this process was forked from the one that opened the space; connect anew")


# --- reads ---


def _subscribers(_: Execute, session: Session, topic: str) -> list[str]:
    """Return the subscribed mailboxes; the session is in no transaction."""
    session.load()
    return mail.subscribers(session, topic)


def _revision(execute: Execute) -> int:
    return counters_in(execute(COUNTERS).get)[0]


def _at_one_moment(execute: Execute, read: Callable[[], T]) -> T:
    execute("BEGIN")
    try:
        return read()
    finally:
        execute("COMMIT")


# --- opening ---

# What the handles of one event loop on one file share; and all of them, for a fork.
_SHARED: dict[tuple[asyncio.AbstractEventLoop, str, str, int, str | None], Hub] = {}
_HUBS: weakref.WeakSet[Hub] = weakref.WeakSet()


async def open_engine(url: str, *, clock: Clock, durability: str = "process", _vfs: str | None = None) -> FileEngine:
    """Open `file:PATH`, or make it. `durability` is "process" or "power". `_vfs` is for tests of the disk's faults."""
    if durability not in DURABILITIES:
        raise InvalidInputError(f"durability must be one of {', '.join(DURABILITIES)}, not {durability!r}")
    path = path_of(url)
    place = (asyncio.get_running_loop(), str(path), durability, id(clock), _vfs)
    if place not in _SHARED:
        opened, connection = await asyncio.to_thread(open_file, path, durability, FileClock(clock), _vfs)
        if place in _SHARED:  # another task was faster
            connection.close()
        else:
            _SHARED[place] = Hub(opened, connection, durability, clock)
            _HUBS.add(_SHARED[place])
    hub = _SHARED[place]
    hub.handles += 1
    return FileEngine(hub)


async def _drop_handle(hub: Hub) -> None:
    """Close the file with its last handle."""
    hub.handles -= 1
    if hub.handles:
        return
    for place, other in list(_SHARED.items()):
        if other is hub:
            del _SHARED[place]
    await hub.aclose()


def _abandon_all() -> None:
    _SHARED.clear()
    for hub in list(_HUBS):
        hub.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
