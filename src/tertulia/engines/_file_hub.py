"""What the handles of one process on one file share: connections, the bell, and everybody who waits."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections import deque
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import apsw
from msgspec.structs import replace

from tertulia._background import logger
from tertulia._clock import Alarm, Clock
from tertulia.engines._file_bell import RING, Bell, clear_away, pack_carried, runtime_directory, unpack_carried
from tertulia.engines._file_format import COUNTERS, FAILURES, Execute, counters_in, translated
from tertulia.engines._file_handed import Handed
from tertulia.engines._file_letters import Letters
from tertulia.engines._file_lock import WriterLock
from tertulia.engines._file_mail import find_box, is_held_back, look, unclaim
from tertulia.engines._file_open import WAIT_THERE, Place, close, connect
from tertulia.engines._file_path import lock_beside
from tertulia.engines._file_presence import CONSUMERS, all_bells, join, leave, stop_listening
from tertulia.engines._file_records import next_expiry, sweep
from tertulia.engines._file_rings import Rings
from tertulia.engines._file_session import Effects, Session
from tertulia.engines._file_time import FileClock
from tertulia.engines._file_waiters import Waiters, wake_all, wake_one
from tertulia.engines._file_watch import WatchStream
from tertulia.engines._file_writer import END_LIMIT, Writer, aside
from tertulia.engines.base import Claimed
from tertulia.errors import EngineError, UnknownAgentError

T = TypeVar("T")

POLL = 0.25  # seconds between two looks while somebody waits: how late a lost ring can be
POLL_ONLY = 0.02  # the same where there are no bells
TRANSIENTS = 1_000  # emitted messages that wait for a mailbox's consumers; more are lost, as they may be
STOCKED = 10_000  # mailboxes of which it is known that they hold something; for others a claim looks first
MANY_LEASES = 0.0  # in place of the one that all claims of a mailbox ask for
READS = 10_000  # keys whose reads are counted until they are written again; the counts are estimates anyway
RETRY_SWEEP = 0.05  # seconds until the next batch of expired keys, so that others can write meanwhile
RETRY_LOOK = 0.25  # seconds until the file is read again for those who wait, when it could not be; as often as POLL


class Hub:
    """One process's use of one file, on one event loop."""

    def __init__(self, place: Place, connection: apsw.Connection, durability: str, clock: Clock) -> None:
        self.loop = asyncio.get_running_loop()
        self.place = place
        self.durability = durability
        self.clock = clock
        self.time = FileClock(clock)
        self.instance = uuid4().hex[:16]
        self.handles = 0
        self.forked = False
        self.reads: dict[str, int] = {}
        self.session = Session(connection, self.time, self.instance, self.reads)
        self.execute = self.session.execute
        self.writer = Writer(
            self.session, self._lock_file, self._new_session, self.announce, syncs=durability == "power"
        )
        self.claimants: Waiters = {}
        self.senders: Waiters = {}
        self.streams: set[WatchStream] = set()
        self.listeners: dict[str, Callable[[Claimed], None]] = {}
        self.transients: dict[str, deque[Claimed]] = {}
        self.ordered: set[str] = set()  # mailboxes that were, when last looked at
        self.interests: dict[str, float] = {}
        self._consumers: tuple[int, dict[str, list[tuple[str, str]]]] = (-1, {})
        self.bell: Bell | None = None
        self.setup: asyncio.Future[Any] | None = None
        self._no_bell = False
        self._poll: asyncio.TimerHandle | None = None
        self._data_version = -1
        self.letters = Letters(self.execute, self.instance, self.listeners, self.write_soon)
        self.rings = Rings(self.open_bell, self.forget)
        self.handed = Handed(self.claimants, self.unclaim)
        self.stocked: set[str] = set()  # mailboxes that a claim need not look into before it writes
        self._emitted = 0
        self.due_alarm = Alarm(clock, self._on_due)
        self.expiry_alarm = Alarm(clock, self._on_expiry)
        self._set_expiry_alarm()

    def _lock_file(self) -> WriterLock:
        return WriterLock(lock_beside(Path(self.place.path)))

    def connect(self) -> apsw.Connection:
        """Return one more connection, for a thread."""
        return connect(self.place.path, self.durability, WAIT_THERE, self.place.vfs)

    def _new_session(self) -> Session:
        return Session(self.connect(), self.time, self.instance, self.reads)

    def read(self, function: Callable[..., T], *values: Any) -> T:
        """Call a function that reads with the connection of the event loop."""
        try:
            return function(self.execute, *values)
        except FAILURES as error:
            raise translated(error) from error

    def write_soon(self, work: Callable[[Session], Any]) -> asyncio.Future[Any] | None:
        """Write in the background; what fails is logged."""
        try:
            return self.writer.write_soon(work)
        except EngineError:
            logger.exception("a write in the background failed")
            return None

    # --- what a commit brings about ---

    def announce(self, effects: Effects) -> None:
        """Wake everybody, here and elsewhere, whom a commit concerns."""
        if effects.reads:
            self._forget_reads(effects.reads)
        if effects.letters:
            self._hand_over(effects.letters, others_sent=effects.others_sent)
        for name in effects.boxes:
            if len(self.stocked) < STOCKED:
                self.stocked.add(name)
            wake_one(self.claimants.get(name))
        for name in effects.room:
            wake_all(self.senders.get(name))
        if effects.changed and self.streams:
            for stream in list(self.streams):
                stream.wake()
        if effects.expires < inf:
            self.expiry_alarm.ring_in(effects.expires - self.clock.time())
        if effects.posts or effects.ring or effects.handed:
            self._wake_others(effects)

    def _wake_others(self, effects: Effects) -> None:
        for instance, path, claimed, due in effects.handed:
            carried = pack_carried(claimed, due)
            if carried is None or not self.rings.hand(instance, path, carried):
                self.unclaim([claimed])
        for instance, path, letter in effects.posts:
            self.rings.ring(instance, path, pack_carried(letter) or RING)
        for instance, path in effects.ring.items():
            self.rings.ring(instance, path)

    def _forget_reads(self, counted: dict[str, int]) -> None:
        for key, count in counted.items():
            left = self.reads.get(key, 0) - count
            if left > 0:
                self.reads[key] = left
            else:
                self.reads.pop(key, None)

    def _hand_over(self, letters: list[tuple[str, Claimed]], *, others_sent: bool) -> None:
        if others_sent:
            self.letters.read()
        for name, claimed in letters:
            listener = self.listeners.get(name)
            if listener is not None:
                listener(claimed)

    def forget(self, instance: str) -> None:
        """Clean up after a process that is gone."""
        self.write_soon(lambda session: leave(session, instance))

    def _forget_the_dead(self) -> None:
        """Clean up after processes that were killed, and that nobody has rung since."""
        try:
            bells = self.read(all_bells)
        except EngineError:
            logger.exception("the doorbells of %s could not be read", self.place.path)
            return
        if dead := [instance for instance, path in bells if path and not Path(path).exists()]:
            self.write_soon(lambda session: [leave(session, instance) for instance in dead])

    def unclaim(self, claims: list[Claimed] | None) -> None:
        """Give back what was claimed, if anything, for somebody who went away meanwhile."""
        stored = [claimed for claimed in claims or () if not claimed.transient]
        if stored:
            self.write_soon(lambda session: unclaim(session, stored))

    # --- being woken ---

    def has_interest(self, topic: str, lease: float) -> bool:
        """Tell whether this process is rung when a topic's time has come, and looks from time to time besides."""
        if self.interests.get(topic) not in (lease, MANY_LEASES):
            return False
        self.start_poll()
        return True

    async def take_interest(self, topic: str, lease: float = MANY_LEASES) -> None:
        """Have this process rung from now on when a topic's time has come.

        `lease` is what claims of a mailbox ask for, if they all ask for the same.
        """
        if self.has_interest(topic, lease):
            return
        lease = MANY_LEASES if topic in self.interests else lease
        self.open_bell()
        if self.bell is not None:
            await self.writer.write(lambda session: join(session, self._bell_row(), {topic: lease}, ()))
            self.interests[topic] = lease
        self.start_poll()

    def listen(self, name: str, callback: Callable[[Claimed], None]) -> Callable[[], None]:
        """Hand a mailbox's messages to a callback."""
        self.open_bell()
        self.listeners[name] = callback
        row = self._bell_row()
        self._set_up(self.write_soon(lambda session: join(session, row, {}, (name,))))
        self.start_poll()

        def stop() -> None:
            if self.listeners.get(name) is callback:
                del self.listeners[name]
                self._set_up(self.write_soon(lambda session: stop_listening(session, name)))

        return stop

    def _set_up(self, pending: asyncio.Future[Any] | None) -> None:
        if pending is not None:
            self.setup = pending
            pending.add_done_callback(self._is_set_up)

    def _is_set_up(self, done: asyncio.Future[Any]) -> None:
        if self.setup is done:
            self.setup = None

    def _bell_row(self) -> tuple[str, str, int, float]:
        path = "" if self.bell is None else self.bell.path
        return (self.instance, path, os.getpid(), self.clock.time())

    def open_bell(self) -> Bell | None:
        """Return this process's bell, or None where there is none to be had."""
        if self.bell is not None or self._no_bell:
            return self.bell
        directory = runtime_directory()
        try:
            if directory is not None:
                space = f"{self.place.device:x}-{self.place.inode:x}-"
                clear_away(directory, space)
                self.bell = Bell(directory, space + self.instance)
                self.loop.add_reader(self.bell.socket.fileno(), self._on_rung)
                self._forget_the_dead()
        except (OSError, NotImplementedError) as error:
            logger.warning("no doorbell for %s, so its users look for news themselves: %s", self.place.path, error)
        self._no_bell = self.bell is None
        return self.bell

    def _on_rung(self) -> None:
        assert self.bell is not None  # noqa: S101 - it is the bell that was rung
        datagram = self.bell.next()
        if datagram is None or self._take_carried(datagram):
            return
        later = self.bell.heard()  # one look around is enough for all rings that have come
        self.look_around()
        for datagram in later:
            self._take_carried(datagram)

    def _take_carried(self, datagram: bytes) -> bool:
        """Take what a datagram carries, if anything."""
        carried = unpack_carried(datagram)
        if carried is None:
            return False
        claimed, due = carried
        if due:
            left = due - self.time.now()
            if left > 0.0:  # else it is late, and will come again
                self.handed.put(replace(claimed, lease_until=self.clock.monotonic() + left))
                self.due_alarm.ring_in(left)
        elif claimed.sequence:
            self.letters.take(claimed)
        else:
            self.take_emitted(claimed.mailbox, claimed.message_id, claimed.body)
        return True

    def look_around(self) -> bool:
        """See what others have committed, and wake whom it concerns; return whether it could be read."""
        is_read = not self.listeners or self.letters.read()
        try:
            for stream in list(self.streams):
                stream.wake()
            self._wake_claimants()
            for name, waiting in list(self.senders.items()):
                if waiting and self.has_room(name):
                    wake_all(waiting)
        except (*FAILURES, EngineError):
            self._log_failed_look()
            return False
        return is_read

    def _log_failed_look(self) -> None:
        logger.exception("%s could not be read for those who wait; it will be tried again", self.place.path)

    def has_room(self, name: str) -> bool:
        """Tell whether a mailbox takes one more message, or is gone."""
        box = find_box(self.execute, name)
        return box is None or box.size < box.max_size

    # --- looking by itself, as a backstop ---

    def _waits(self) -> bool:
        return (
            bool(self.streams or self.listeners)
            or any(map(len, self.claimants.values()))
            or any(map(len, self.senders.values()))
        )

    def start_poll(self) -> None:
        """Look from time to time, as long as somebody waits."""
        if self._poll is None:
            self._poll = self.loop.call_later(POLL_ONLY if self._no_bell else POLL, self._on_poll)

    def _on_poll(self) -> None:
        self._poll = None
        if not self._waits():
            return
        self.start_poll()
        try:
            version = self.execute("PRAGMA data_version").get
            if version != self._data_version and self.look_around():
                self.handed.find(self.execute, self.time, self.instance)
                self._set_expiry_alarm()
                self._stay_known()
                self._data_version = version
        except FAILURES:
            self._log_failed_look()

    def _stay_known(self) -> None:
        """Register anew if somebody took this process for dead."""
        if self.bell is None or not (self.interests or self.listeners):
            return
        known = self.execute("SELECT 1 FROM bells WHERE instance = ?", (self.instance,)).get
        if known is None:
            row, topics, names = self._bell_row(), dict(self.interests), tuple(self.listeners)
            self.write_soon(lambda session: join(session, row, topics, names))

    # --- emitted messages ---

    def take_emitted(self, mailbox: str, message_id: str, body: bytes) -> bool:
        """Hand a message that is stored nowhere to whoever consumes here."""
        self._emitted -= 1  # their places are before those of stored messages
        claimed = Claimed(mailbox, message_id, body, self._emitted, transient=True)
        listener = self.listeners.get(mailbox)
        if listener is not None:
            listener(claimed)
            return True
        waiting = self.transients.setdefault(mailbox, deque())
        if len(waiting) >= TRANSIENTS:
            return False
        waiting.append(claimed)
        wake_one(self.claimants.get(mailbox))
        return True

    def take_transients(self, mailbox: str, limit: int) -> list[Claimed]:
        """Take emitted messages out, and let the next consumer know of what is left."""
        waiting = self.transients[mailbox]
        taken = [waiting.popleft() for _ in range(min(limit, len(waiting)))]
        if waiting:
            wake_one(self.claimants.get(mailbox))
        else:
            del self.transients[mailbox]
        return taken

    def consumes(self, mailbox: str) -> bool:
        """Tell whether somebody here claims from a mailbox, now or from time to time."""
        return f"m:{mailbox}" in self.interests or bool(self.claimants.get(mailbox))

    def consumers_elsewhere(self, execute: Execute, mailbox: str) -> list[tuple[str, str]]:
        """Return the other instances, with their bells, that listen to a mailbox or claim from it."""
        bells = counters_in(execute(COUNTERS).get)[3]
        if self._consumers[0] != bells:
            self._consumers = (bells, {})
        known = self._consumers[1]
        if mailbox not in known:
            known[mailbox] = execute(CONSUMERS, (self.instance, mailbox, f"m:{mailbox}")).fetchall()
        return known[mailbox]

    # --- time ---

    def is_claimable(self, mailbox: str) -> bool:
        """Tell whether a claim would find something; if not, see to it that its time is not missed.

        Raises UnknownAgentError.
        """
        try:
            box, ordered, due, ready = look(self.execute, mailbox)
            if due is not None:
                left = due - self.time.now()
                if left <= 0:
                    return True
                self.due_alarm.ring_in(left)
                if ordered and is_held_back(self.execute, box):
                    return False
        except FAILURES as error:
            raise translated(error, mailbox) from error
        if ordered:
            self.ordered.add(mailbox)
        else:
            self.ordered.discard(mailbox)
        return ready is not None or mailbox in self.transients

    def has_transient(self, mailbox: str) -> bool:
        """Tell whether there is an emitted message that may be taken without looking into the file."""
        return mailbox in self.transients and mailbox not in self.ordered

    def _on_due(self) -> None:
        try:
            self._wake_claimants()
        except EngineError:
            self._log_failed_look()
            self.due_alarm.ring_in(RETRY_LOOK)

    def _wake_claimants(self) -> None:
        """Wake who waits for a mailbox in which something can be claimed, or that is gone."""
        for name, waiting in list(self.claimants.items()):
            if not waiting:
                continue
            try:
                claimable = self.is_claimable(name)
            except UnknownAgentError:
                wake_all(waiting)
                continue
            if claimable:
                wake_one(waiting)

    def _set_expiry_alarm(self) -> None:
        """See to it that the next key whose time is over goes in time; what is overdue goes very soon."""
        try:
            expires = next_expiry(self.execute)
        except FAILURES:
            self._log_failed_look()
            self.expiry_alarm.ring_in(RETRY_LOOK)
            return
        if expires is not None:
            left = expires - self.clock.time()
            self.expiry_alarm.ring_in(left if left > 0 else RETRY_SWEEP)

    def _on_expiry(self) -> None:
        try:
            expires = next_expiry(self.execute)
            swept = None
            if expires is not None and expires <= self.clock.time():
                swept = self.writer.write_soon(sweep)
        except (*FAILURES, EngineError):
            logger.exception("keys of %s whose time is over could not be removed", self.place.path)
            self.expiry_alarm.ring_in(RETRY_LOOK)
            return
        if swept is None:
            self._set_expiry_alarm()
        else:
            swept.add_done_callback(self._is_swept)

    def _is_swept(self, done: asyncio.Future[Any]) -> None:
        if not self.handles:
            return
        if done.cancelled() or done.exception() is not None:  # the writer has logged it
            self.expiry_alarm.ring_in(RETRY_LOOK)
        else:
            self._set_expiry_alarm()

    # --- the end ---

    async def aclose(self) -> None:
        """Leave the file as if this process had never been; the last one out removes SQLite's helper files."""
        self.due_alarm.cancel()
        self.expiry_alarm.cancel()
        self.letters.close()
        self.rings.close()
        if self._poll is not None:
            self._poll.cancel()
        if self.bell is not None:
            self.loop.remove_reader(self.bell.socket.fileno())
        try:
            if self.interests or self.bell is not None or self._no_bell:
                async with asyncio.timeout(END_LIMIT):  # otherwise the next to ring here cleans up
                    await self.writer.write(lambda session: leave(session, self.instance))
        except (EngineError, TimeoutError):
            logger.exception("%s could not be left properly", self.place.path)
        if self.bell is not None:
            for datagram in self.bell.take_down():
                self._take_carried(datagram)  # nobody waits here any more, so what is handed over is given back
        await self.writer.aclose()
        if self.bell is not None:
            self.bell.close()
        await aside(close, self.session.connection)

    def abandon(self) -> None:
        """In a forked child: touch nothing of the parent's, and never let SQLite close it."""
        self.forked = True
        for kept in (self.session.connection, self.session, self.writer, self):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
