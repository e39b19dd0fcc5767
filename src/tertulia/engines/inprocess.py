"""The engine `memory:`: everything in dicts and deques of one event loop. The reference for the contract.

`memory:` is a space of its own; every `memory:NAME` opened in one event loop is the same space, which lasts as long
as one of its handles is open. Nothing survives the process.

A commit runs without a single `await`, which is all that its atomicity needs: it first judges everything that can
fail, then applies what can not.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import inf

from tertulia._clock import Alarm, Clock, wait_for_wake
from tertulia._names import key_matcher, topic_matcher
from tertulia._rules.expiry import kept_owner, kept_tags, kept_ttl
from tertulia.engines.base import (
    DEFAULT_LEASE,
    Capabilities,
    Change,
    Check,
    CheckFailed,
    Claimed,
    Commit,
    Committed,
    Engine,
    EngineStats,
    MailboxCounts,
    MailboxOptions,
    Publish,
    Put,
    Record,
    Send,
    Sent,
    Stored,
)
from tertulia.errors import (
    AlreadySettledError,
    InvalidURLError,
    LeaseLostError,
    MailboxFullError,
    SpaceClosedError,
    UnknownAgentError,
    WatchLaggedError,
)
from tertulia.records import AgentInfo, ChangeKind, Finding, WhenFull

HISTORY_CHANGES = 10_000  # what a watch can resume over: minutes of a busy team
HISTORY_BYTES = 64 * 2**20  # and its bound in memory, whatever the values' sizes
WATCH_BUFFER = 10_000  # changes that a slow watcher may lag before it is told so
EXPIRY_SLACK = 1_000  # stale entries that the expiry heap may hold beside as many live ones
GHOSTS = 1_000  # settled messages left in a queue before it is swept

CAPABILITIES = Capabilities(
    durable=False,
    multi_process=False,
    multi_machine=False,
    linearizable_reads=True,
    exact_bounds=True,
    exact_access_counts=True,
    manual_clock=True,
    max_value_bytes=16 * 2**20,  # a value is copied on every read; larger ones belong in files
    max_commit_operations=10_000,  # a commit holds the event loop while it is applied
    ttl_resolution=0.0,
    dedup_window=3600.0,  # a sender that retries for longer than an hour is no longer retrying
    dedup_count=1_000_000,  # about 150 bytes each
    history=HISTORY_CHANGES,
)

_WAITING, _LEASED, _DELAYED, _GONE = range(4)
_STATES = ("waiting", "leased", "delayed", "gone")


class InProcessEngine(Engine):
    """One handle on an in-process space."""

    capabilities = CAPABILITIES

    def __init__(self, store: _Store) -> None:
        self._store = store
        self._records = store.records
        self._boxes = store.boxes
        self._clock = store.clock
        self._closed = False
        self._streams: set[_ChangeStream] = set()
        self._waiters: set[asyncio.Future[bool]] = set()
        self._listening: list[Callable[[], None]] = []

    # --- records ---

    async def get(self, key: str) -> Record | None:
        record = self._records.get(key)
        if record is None or (record.expires is not None and not self._store.is_live(record, self._clock.time())):
            if self._closed:
                raise SpaceClosedError
            return None
        record.access_count += 1
        return record

    async def scan(
        self,
        prefix: str,
        *,
        matches: Callable[[str], object] | None = None,
        tags: frozenset[str] | None = None,
        owner: str | None = None,
        bodies: bool = True,  # noqa: ARG002 - records are at hand, with or without bodies
    ) -> tuple[int, list[Record]]:
        self._check_open()
        self._store.expire_due()
        found = [
            record
            for key, record in self._records.items()
            if key.startswith(prefix)
            and (matches is None or matches(key))
            and (owner is None or record.owner == owner)
            and (tags is None or not tags.isdisjoint(record.tags))
        ]
        found.sort(key=lambda record: record.key)
        return self._store.revision, found

    async def commit(self, commit: Commit) -> Committed:
        if self._closed:
            raise SpaceClosedError
        return self._store.commit(commit)

    async def watch(self, pattern: str, *, after: int | None = None) -> _ChangeStream:
        self._check_open()
        stream = _ChangeStream(pattern, self._store, self._streams)
        if after is not None:
            stream.replay(after)
        return stream

    # --- mailboxes ---

    async def open_mailbox(self, mailbox: str, options: MailboxOptions) -> bool:
        self._check_open()
        box = self._boxes.get(mailbox)
        if box is None:
            self._boxes[mailbox] = _Box(mailbox, options, self._store)
            return True
        box.options = options
        box.wake_all_senders()
        return False

    async def close_mailbox(self, mailbox: str, *, heir: str | None = None, note: bytes = b"") -> int:
        self._check_open()
        if heir is not None and heir not in self._boxes:
            raise UnknownAgentError(heir)
        box = self._boxes.pop(mailbox, None)
        if box is None:
            return 0
        left = sorted(box.stored.values(), key=lambda item: item.sequence)
        for pattern in list(box.patterns):
            self._store.unsubscribe(box, pattern)
        if heir is not None:
            for item in left:
                notes = (*item.notes, note) if note else item.notes
                self._boxes[heir].store(Send(heir, item.message_id, item.body, notes=notes))
        for item in left:
            item.state = _GONE
        box.close()
        return len(left)

    async def mailboxes(self) -> list[AgentInfo]:
        self._check_open()
        return [
            AgentInfo(
                agent_id=name,
                max_queue_size=box.options.max_size,
                when_full=box.options.when_full,
                max_attempts=box.options.max_attempts,
                ordered=box.options.ordered,
                topics=tuple(sorted(box.patterns)),
            )
            for name, box in sorted(self._boxes.items())
        ]

    async def subscribe(self, mailbox: str, pattern: str) -> bool:
        return self._store.subscribe(self._box(mailbox), pattern)

    async def unsubscribe(self, mailbox: str, pattern: str) -> bool:
        return self._store.unsubscribe(self._box(mailbox), pattern)

    async def claim(
        self,
        mailbox: str,
        *,
        limit: int = 1,
        lease: float = DEFAULT_LEASE,
        wait: float | None = 0.0,
    ) -> list[Claimed]:
        box = self._boxes.get(mailbox)
        if box is None or self._closed:
            self._check_open()
            raise UnknownAgentError(mailbox)
        claimed = box.take(limit, lease)
        if claimed or wait == 0.0:
            return claimed
        return await self._claim_when_woken(box, limit, lease, wait)

    async def _claim_when_woken(self, box: _Box, limit: int, lease: float, wait: float | None) -> list[Claimed]:
        deadline = None if wait is None else self._clock.monotonic() + wait
        while True:
            left = None if deadline is None else deadline - self._clock.monotonic()
            if left is not None and left <= 0:
                return []
            if not await self._wait_in(box.claimants, left, box.wake_claimant):
                self._check_open()
                return []
            if box.closed:
                raise UnknownAgentError(box.name)
            if claimed := box.take(limit, lease):
                return claimed

    async def _wait_in(
        self,
        queue: deque[asyncio.Future[bool]],
        timeout: float | None,
        pass_on: Callable[[], None],
    ) -> bool:
        """Wait in a queue to be woken; whoever is cancelled after being woken wakes the next."""
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        queue.append(waiter)
        self._waiters.add(waiter)
        try:
            return await wait_for_wake(self._clock, waiter, timeout)
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.result():
                pass_on()
            raise
        finally:
            self._waiters.discard(waiter)
            if not waiter.done() or waiter.cancelled() or not waiter.result():
                _discard(queue, waiter)

    async def extend(self, claimed: Claimed, lease: float) -> None:
        item = self._leased(claimed)
        if item is None:
            raise LeaseLostError(claimed.message_id)
        box = self._boxes[claimed.mailbox]
        del box.leased[item.message_id]
        box.lease(item, lease)

    async def release(self, claimed: Claimed, *, delay: float = 0.0, counted: bool = False, note: bytes = b"") -> bool:
        item = self._leased(claimed)
        if item is None:
            return False
        self._boxes[claimed.mailbox].give_back(item, delay=delay, counted=counted, note=note)
        return True

    async def wait_for_room(self, mailbox: str, timeout: float) -> bool:
        box = self._box(mailbox)
        if box.has_room():
            return True
        woken = await self._wait_in(box.senders, timeout, box.wake_sender)
        self._check_open()
        return woken

    async def emit(self, send: Send | Publish) -> int:
        self._check_open()
        if isinstance(send, Publish):
            return sum(box.emit(send) for box in self._store.subscribers(send.topic))
        listener = self._store.listeners.get(send.mailbox)
        if listener is not None:
            listener(Claimed(send.mailbox, send.message_id, send.body, transient=True))
            return 1
        if send.mailbox not in self._boxes and send.optional:
            return 0
        return self._box(send.mailbox).emit(send)

    def listen(self, mailbox: str, callback: Callable[[Claimed], None]) -> Callable[[], None]:
        self._check_open()
        listeners = self._store.listeners
        listeners[mailbox] = callback

        def stop() -> None:
            if listeners.get(mailbox) is callback:
                del listeners[mailbox]

        self._listening.append(stop)
        return stop

    async def browse(self, mailbox: str, *, limit: int = 100, message_id: str | None = None) -> Sequence[Stored]:
        self._check_open()
        box = self._boxes.get(mailbox)
        if box is None:
            return []
        if message_id is not None:
            found = box.stored.get(message_id)
            items: Iterable[_Item] = [] if found is None else [found]
        else:
            items = heapq.nsmallest(limit, box.stored.values(), key=lambda item: item.sequence)
        return [item.shown(mailbox) for item in items]

    # --- the whole ---

    async def stats(self) -> EngineStats:
        self._check_open()
        return self._store.stats()

    async def doctor(self) -> list[Finding]:
        self._check_open()
        return [
            Finding(
                level="note",
                subject="durability",
                detail="an in-process space is gone when its last handle closes; use a file: URL to keep it",
            )
        ]

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        for stop in self._listening:
            stop()
        for stream in list(self._streams):
            await stream.aclose()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(False)
        self._store.drop_handle()

    def _check_open(self) -> None:
        if self._closed:
            raise SpaceClosedError

    def _box(self, mailbox: str) -> _Box:
        self._check_open()
        box = self._boxes.get(mailbox)
        if box is None:
            raise UnknownAgentError(mailbox)
        return box

    def _leased(self, claimed: Claimed) -> _Item | None:
        """Return the message if this attempt still holds its lease."""
        self._check_open()
        box = self._boxes.get(claimed.mailbox)
        item = None if box is None else box.leased.get(claimed.message_id)
        mine = item is not None and item.sequence == claimed.sequence and item.attempt == claimed.attempt
        return item if mine else None


class _Store:
    """What the handles of one space share."""

    def __init__(self, clock: Clock, name: str | None) -> None:
        self.clock = clock
        self.name = name
        self.handles = 0
        self.revision = 0
        self.sequence = 0
        self.records: dict[str, Record] = {}
        self.boxes: dict[str, _Box] = {}
        self.listeners: dict[str, Callable[[Claimed], None]] = {}
        self.topics: dict[str, dict[_Box, None]] = {}
        self.history: deque[Change] = deque()
        self.history_bytes = 0
        self.forgotten = 0
        self.exact_watches: dict[str, list[_ChangeStream]] = {}
        self.pattern_watches: list[_ChangeStream] = []
        self.expiries: list[tuple[float, str, int]] = []
        self.expiring = 0
        self.expiry_alarm = Alarm(clock, self.expire_due)
        self.delayed: list[tuple[float, int, _Box, _Item]] = []
        self.mail_alarm = Alarm(clock, self.deliver_due)

    # --- the commit ---

    def commit(self, commit: Commit) -> Committed:
        """Judge everything, then apply everything."""
        now = self.clock.time()
        for check in commit.checks:
            self._judge_check(check, now)
        for settle in commit.settles:
            box = self.boxes.get(settle.mailbox)
            item = None if box is None else box.stored.get(settle.message_id)
            if item is None or (settle.sequence and item.sequence != settle.sequence):
                raise AlreadySettledError(settle.mailbox, settle.message_id)
        if commit.sends:
            self._judge_sends(commit)
        # From here on nothing can fail.
        for settle in commit.settles:
            self.boxes[settle.mailbox].settle(settle.message_id)
        records = tuple([self._put(put, now) for put in commit.puts]) if commit.puts else ()
        deleted = tuple([self._delete(delete.key, now) for delete in commit.deletes]) if commit.deletes else ()
        sent = tuple([self._send(send) for send in commit.sends]) if commit.sends else ()
        return Committed(self.revision, records, deleted, sent)

    def _judge_check(self, check: Check, now: float) -> None:
        record = self.live(check.key, now)
        if record is None:
            if not check.absent:
                raise CheckFailed(check, None)
        elif (
            check.absent
            or (check.revision is not None and check.revision != record.revision)
            or (check.version is not None and check.version != record.version)
            or (check.created_revision is not None and check.created_revision != record.created_revision)
        ):
            raise CheckFailed(check, record)

    def _judge_sends(self, commit: Commit) -> None:
        """Raise when a mailbox is absent, or would be too full once all of the commit is applied."""
        growth: dict[_Box, int] = {}
        for settle in commit.settles:
            box = self.boxes[settle.mailbox]
            growth[box] = growth.get(box, 0) - 1
        for send in commit.sends:
            for box in self._targets(send):
                if not box.knows(send.message_id):
                    growth[box] = growth.get(box, 0) + 1
                    if len(box.stored) + growth[box] > box.options.max_size:
                        box.check_droppable(growth[box])

    def _targets(self, send: Send | Publish) -> Iterable[_Box]:
        if send.__class__ is Publish:
            return self.subscribers(send.topic)
        box = self.boxes.get(send.mailbox)
        if box is not None:
            return (box,)
        if send.optional or send.mailbox in self.listeners:
            return ()
        raise UnknownAgentError(send.mailbox)

    def _send(self, send: Send | Publish) -> Sent:
        if send.__class__ is Send:
            box = self.boxes.get(send.mailbox)
            if box is not None:
                return box.store(send)
            listener = self.listeners.get(send.mailbox)
            if listener is None:
                return Sent(0)
            self.sequence += 1
            listener(Claimed(send.mailbox, send.message_id, send.body, self.sequence))
            return Sent(1)
        outcomes = [box.store(send) for box in self.subscribers(send.topic)]
        return Sent(
            sum(outcome.delivered for outcome in outcomes),
            bool(outcomes) and all(outcome.duplicate for outcome in outcomes),
            tuple(gone for outcome in outcomes for gone in outcome.dropped),
        )

    # --- records ---

    def _put(self, put: Put, now: float) -> Record:
        old = self.records.get(put.key)
        if old is not None and old.expires is not None:
            old = old if self.is_live(old, now) else None
        self.revision = revision = self.revision + 1
        ttl = kept_ttl(put.ttl, old)
        expires = None if ttl is None else now + ttl
        if old is None:
            record = Record(
                put.key, put.body, kept_owner(put.owner, old), 1, revision, revision, now, now,
                ttl, expires, kept_tags(put.tags, old),
            )  # fmt: skip
        else:
            record = Record(
                put.key, put.body, kept_owner(put.owner, old), old.version + 1, revision, old.created_revision,
                old.created, now, ttl, expires, kept_tags(put.tags, old), old.access_count,
            )  # fmt: skip
        self.records[put.key] = record
        if expires is not None:
            self._schedule_expiry(expires, put.key, revision, now)
        self._announce(Change(ChangeKind.PUT, put.key, revision, now, record))
        return record

    def _delete(self, key: str, now: float) -> bool:
        if self.live(key, now) is None:
            return False
        self._remove(key, ChangeKind.DELETE, now)
        return True

    def _remove(self, key: str, kind: ChangeKind, now: float) -> None:
        del self.records[key]
        self.revision += 1
        self._announce(Change(kind, key, self.revision, now))

    def live(self, key: str, now: float) -> Record | None:
        record = self.records.get(key)
        return record if record is not None and self.is_live(record, now) else None

    def is_live(self, record: Record, now: float) -> bool:
        """Tell whether a record's time is not over; one whose time is over is removed at once."""
        if record.expires is None or record.expires > now:
            return True
        if self.records.get(record.key) is record:
            self._remove(record.key, ChangeKind.EXPIRE, now)
        return False

    def _schedule_expiry(self, expires: float, key: str, revision: int, now: float) -> None:
        heap = self.expiries
        heapq.heappush(heap, (expires, key, revision))
        if len(heap) > EXPIRY_SLACK and len(heap) > 2 * len(self.records):
            self.expiries = [entry for entry in heap if self._is_current(entry)]
            heapq.heapify(self.expiries)
        self.expiry_alarm.ring_in(expires - now)

    def _is_current(self, entry: tuple[float, str, int]) -> bool:
        record = self.records.get(entry[1])
        return record is not None and record.revision == entry[2]

    def expire_due(self) -> None:
        """Remove every record whose time is over, and set the alarm for the next."""
        heap = self.expiries
        now = self.clock.time()
        while heap and (heap[0][0] <= now or not self._is_current(heap[0])):
            entry = heapq.heappop(heap)
            if self._is_current(entry):
                self._remove(entry[1], ChangeKind.EXPIRE, now)
        if heap:
            self.expiry_alarm.ring_in(heap[0][0] - now)

    def _announce(self, change: Change) -> None:
        self.history.append(change)
        if change.record is not None:
            self.history_bytes += len(change.record.body)
        while len(self.history) > HISTORY_CHANGES or self.history_bytes > HISTORY_BYTES:
            gone = self.history.popleft()
            self.forgotten = gone.revision
            if gone.record is not None:
                self.history_bytes -= len(gone.record.body)
        if self.exact_watches:
            for stream in self.exact_watches.get(change.key, ()):
                stream.push(change)
        for stream in self.pattern_watches:
            if stream.matches(change.key):
                stream.push(change)

    # --- topics ---

    def subscribe(self, box: _Box, pattern: str) -> bool:
        boxes = self.topics.setdefault(pattern, {})
        if box in boxes:
            return False
        boxes[box] = None
        box.patterns.add(pattern)
        return True

    def unsubscribe(self, box: _Box, pattern: str) -> bool:
        boxes = self.topics.get(pattern, {})
        if box not in boxes:
            return False
        del boxes[box]
        box.patterns.discard(pattern)
        if not boxes:
            del self.topics[pattern]
        return True

    def subscribers(self, topic: str) -> list[_Box]:
        """Return every mailbox with a pattern that matches, each once, in order of subscription."""
        found: dict[_Box, None] = {}
        for pattern, boxes in self.topics.items():
            if topic_matcher(pattern)(topic):
                found.update(boxes)
        return list(found)

    # --- time ---

    def deliver_due(self) -> None:
        """Give back what is due: delayed messages, and those whose lease ran out."""
        now = self.clock.monotonic()
        while self.delayed and self.delayed[0][0] <= now:
            _, _, box, item = heapq.heappop(self.delayed)
            box.end_delay(item)
        next_due = self.delayed[0][0] if self.delayed else inf
        for box in self.boxes.values():
            if box.leased:
                next_due = min(next_due, box.end_leases(now))
        if next_due < inf:
            self.mail_alarm.ring_in(next_due - now)

    def stats(self) -> EngineStats:
        self.expire_due()
        owners: dict[str, int] = {}
        for record in self.records.values():
            owners[record.owner] = owners.get(record.owner, 0) + 1
        return EngineStats(
            keys=len(self.records),
            bytes=sum(len(record.body) for record in self.records.values()),
            keys_by_owner=owners,
            mailboxes={name: box.counts() for name, box in sorted(self.boxes.items())},
            topics=len(self.topics),
            revision=self.revision,
        )

    def drop_handle(self) -> None:
        self.handles -= 1
        if self.handles:
            return
        self.expiry_alarm.cancel()
        self.mail_alarm.cancel()
        if self.name is not None:
            _SHARED.pop((asyncio.get_running_loop(), self.name), None)


class _Item:
    """A message in a mailbox."""

    __slots__ = (
        "attempt", "body", "dedupe", "failures", "lease_until", "message_id", "notes", "sequence",
        "state", "stored_at", "transient",
    )  # fmt: skip

    def __init__(self, message_id: str, body: bytes, sequence: int) -> None:
        self.message_id = message_id
        self.body = body
        self.sequence = sequence
        self.state = _WAITING
        self.attempt = 0
        self.failures = 0
        self.notes: tuple[bytes, ...] = ()
        self.dedupe = False
        self.transient = False
        self.lease_until = 0.0
        self.stored_at = 0.0

    def shown(self, mailbox: str) -> Stored:
        return Stored(
            mailbox, self.message_id, self.body, self.sequence, _STATES[self.state],
            self.attempt, self.failures, self.notes, self.stored_at,
        )  # fmt: skip


class _Box:
    """A mailbox. `stored` holds all of its messages; `ready` and `returned` those to be claimed."""

    def __init__(self, name: str, options: MailboxOptions, store: _Store) -> None:
        self.name = name
        self.options = options
        self.space = store
        self.clock = store.clock
        self.closed = False
        self.stored: dict[str, _Item] = {}
        self.ready: deque[_Item] = deque()
        self.returned: list[tuple[int, _Item]] = []  # a heap by sequence: given back, older than `ready`
        self.leased: dict[str, _Item] = {}
        self.delayed: dict[str, _Item] = {}
        self.markers: dict[str, float] = {}
        self.transients = 0
        self.ghosts = 0
        self.patterns: set[str] = set()
        self.claimants: deque[asyncio.Future[bool]] = deque()
        self.senders: deque[asyncio.Future[bool]] = deque()

    # --- storing ---

    def knows(self, message_id: str) -> bool:
        """Tell whether a message of this id is stored, or was and is remembered."""
        if message_id in self.stored:
            return True
        until = self.markers.get(message_id) if self.markers else None
        return until is not None and until > self.clock.monotonic()

    def check_droppable(self, growth: int) -> None:
        """Raise MailboxFullError unless the owner chose to drop, and enough messages wait to be dropped."""
        excess = len(self.stored) + growth - self.options.max_size
        waiting = len(self.stored) - len(self.leased) - len(self.delayed)
        if self.options.when_full is not WhenFull.DROP_OLDEST or excess > waiting:
            raise MailboxFullError(self.name, len(self.stored), waits=self.options.when_full is WhenFull.WAIT)

    def store(self, send: Send | Publish) -> Sent:
        message_id = send.message_id
        if self.knows(message_id):
            return Sent(0, True)
        space = self.space
        space.sequence = sequence = space.sequence + 1
        item = _Item(message_id, send.body, sequence)
        item.dedupe = send.dedupe
        item.stored_at = self.clock.time()
        if send.__class__ is Send:
            item.notes = send.notes
        self.stored[message_id] = item
        if send.delay > 0.0:
            self._delay(item, send.delay)
        else:
            self.ready.append(item)
            if self.claimants:
                self.wake_claimant()
        if len(self.stored) > self.options.max_size:
            return Sent(1, False, self._drop_excess())
        return _STORED_ONCE

    def emit(self, send: Send | Publish) -> int:
        """Keep a message for the next claim only, unless the mailbox is full; return 1 if kept."""
        if len(self.stored) + self.transients >= self.options.max_size:
            return 0
        self.space.sequence += 1
        item = _Item(send.message_id, send.body, self.space.sequence)
        item.transient = True
        self.transients += 1
        self.ready.append(item)
        self.wake_claimant()
        return 1

    def _drop_excess(self) -> tuple[tuple[str, str], ...]:
        dropped: list[tuple[str, str]] = []
        while len(self.stored) > self.options.max_size:
            item = self._next_ready(keep_transients=True)
            if item is None:
                break
            self._forget(item)
            dropped.append((self.name, item.message_id))
        return tuple(dropped)

    def _forget(self, item: _Item) -> None:
        item.state = _GONE
        del self.stored[item.message_id]

    # --- claiming ---

    def take(self, limit: int, lease: float) -> list[Claimed]:
        taken: list[Claimed] = []
        while len(taken) < limit and (self.ready or self.returned):
            if self.options.ordered and (self.leased or self._delayed_is_first()):
                break
            item = self._next_ready()
            if item is None:
                break
            if item.transient:
                self.transients -= 1
                taken.append(Claimed(self.name, item.message_id, item.body, item.sequence, transient=True))
                continue
            item.attempt += 1
            self.lease(item, lease)
            taken.append(
                Claimed(
                    self.name,
                    item.message_id,
                    item.body,
                    item.sequence,
                    item.attempt,
                    item.failures,
                    item.notes,
                    False,
                    item.lease_until,
                    self.options.max_attempts,
                )  # fmt: skip
            )
        return taken

    def _next_ready(self, *, keep_transients: bool = False) -> _Item | None:
        """Take the oldest waiting message out of the queues."""
        kept: list[_Item] = []
        found = None
        while self.ready or self.returned:
            ready = self.ready
            if self.returned and (not ready or self.returned[0][0] < ready[0].sequence):
                item = heapq.heappop(self.returned)[1]
            else:
                item = ready.popleft()
            if item.state != _WAITING:
                continue
            if item.transient and keep_transients:
                kept.append(item)
                continue
            found = item
            break
        if kept:
            self.ready.extendleft(reversed(kept))
        return found

    def lease(self, item: _Item, lease: float) -> None:
        item.state = _LEASED
        until = self.clock.monotonic() + lease
        item.lease_until = until
        self.leased[item.message_id] = item
        self.space.mail_alarm.ring_at(until)

    def give_back(self, item: _Item, *, delay: float, counted: bool, note: bytes) -> None:
        del self.leased[item.message_id]
        if counted:
            item.failures += 1
        if note:
            item.notes = (*item.notes, note)
        if delay > 0.0:
            self._delay(item, delay)
        else:
            self._return(item)

    def _delay(self, item: _Item, delay: float) -> None:
        item.state = _DELAYED
        self.delayed[item.message_id] = item
        due = self.clock.monotonic() + delay
        heapq.heappush(self.space.delayed, (due, item.sequence, self, item))
        self.space.mail_alarm.ring_at(due)

    def end_delay(self, item: _Item) -> None:
        if item.state == _DELAYED:
            del self.delayed[item.message_id]
            self._return(item)

    def end_leases(self, now: float) -> float:
        """Give back messages whose lease ran out; return when the next one does."""
        next_due = inf
        for item in list(self.leased.values()):
            if item.lease_until <= now:
                self.give_back(item, delay=0.0, counted=True, note=b"")
            else:
                next_due = min(next_due, item.lease_until)
        return next_due

    def _return(self, item: _Item) -> None:
        item.state = _WAITING
        heapq.heappush(self.returned, (item.sequence, item))
        self.wake_claimant()

    def _delayed_is_first(self) -> bool:
        if not self.delayed:
            return False
        oldest = min(item.sequence for item in self.delayed.values())
        heads = [self.ready[0].sequence] if self.ready else []
        heads += [self.returned[0][0]] if self.returned else []
        return oldest < min(heads, default=inf)

    # --- settling ---

    def settle(self, message_id: str) -> None:
        item = self.stored.pop(message_id)
        if item.state == _LEASED:
            del self.leased[message_id]
        elif item.state == _DELAYED:
            del self.delayed[message_id]
        else:
            self._leave_ghost()
        item.state = _GONE
        item.body = b""
        if item.dedupe:
            self._remember(message_id)
        if self.senders:
            self.wake_sender()
        if self.claimants and self.options.ordered:
            self.wake_claimant()

    def _leave_ghost(self) -> None:
        """Count a settled message that is still queued; now and then sweep them out."""
        self.ghosts += 1
        if self.ghosts > GHOSTS and self.ghosts > len(self.stored):
            self.ready = deque(item for item in self.ready if item.state == _WAITING)
            self.returned = [pair for pair in self.returned if pair[1].state == _WAITING]
            heapq.heapify(self.returned)
            self.ghosts = 0

    def _remember(self, message_id: str) -> None:
        markers = self.markers
        now = self.clock.monotonic()
        markers[message_id] = now + CAPABILITIES.dedup_window
        while len(markers) > CAPABILITIES.dedup_count or markers[next(iter(markers))] <= now:
            del markers[next(iter(markers))]

    # --- waiting ---

    def has_room(self) -> bool:
        return len(self.stored) < self.options.max_size

    def wake_claimant(self) -> None:
        _wake_one(self.claimants)

    def wake_sender(self) -> None:
        _wake_one(self.senders)

    def wake_all_senders(self) -> None:
        while self.senders:
            _wake_one(self.senders)

    def close(self) -> None:
        self.closed = True
        while self.claimants:
            _wake_one(self.claimants)
        self.wake_all_senders()

    def counts(self) -> MailboxCounts:
        leased, delayed = len(self.leased), len(self.delayed)
        return MailboxCounts(len(self.stored) - leased - delayed, leased, delayed)


class _ChangeStream:
    """A watch: its own bounded buffer, filled by commits and emptied by one reader."""

    def __init__(self, pattern: str, store: _Store, siblings: set[_ChangeStream]) -> None:
        self.pattern = pattern
        self.matches = key_matcher(pattern)
        self._store = store
        self._siblings = siblings
        self._buffer: deque[Change] = deque()
        self._last: int | None = None
        self._lagged = False
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None
        self._place = (
            store.exact_watches.setdefault(pattern, []) if self.matches == pattern.__eq__ else store.pattern_watches
        )
        self._place.append(self)
        siblings.add(self)

    def replay(self, after: int) -> None:
        """Start with the changes after a revision, or with the news that some of them are gone."""
        self._last = after
        if after < self._store.forgotten or after > self._store.revision:
            self._lagged = True
            return
        self._buffer.extend(
            change for change in self._store.history if change.revision > after and self.matches(change.key)
        )

    def push(self, change: Change) -> None:
        if self._lagged:
            return
        if len(self._buffer) >= WATCH_BUFFER:
            self._lagged = True
        else:
            self._buffer.append(change)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> _ChangeStream:
        return self

    async def __anext__(self) -> Change:
        while not self._buffer:
            if self._closed:
                raise StopAsyncIteration
            if self._lagged:
                raise WatchLaggedError(self.pattern, self._last)
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        change = self._buffer.popleft()
        self._last = change.revision
        return change

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._siblings.discard(self)
        self._place.remove(self)
        if not self._place and self._place is not self._store.pattern_watches:
            del self._store.exact_watches[self.pattern]
        self._buffer.clear()
        self._wake()


_STORED_ONCE = Sent(1)

# Spaces with a name, by event loop: the one thing that two `connect` calls of a process have to share.
_SHARED: dict[tuple[asyncio.AbstractEventLoop, str], _Store] = {}


async def open_engine(url: str, *, clock: Clock) -> InProcessEngine:
    """Open `memory:` (a space of its own) or `memory:NAME` (shared in this event loop)."""
    name = url.partition(":")[2]
    if "?" in name or "/" in name:
        raise InvalidURLError(url, "an in-process space is `memory:` or `memory:NAME`")
    store = _store_named(name, clock) if name else _Store(clock, None)
    store.handles += 1
    return InProcessEngine(store)


def _store_named(name: str, clock: Clock) -> _Store:
    place = (asyncio.get_running_loop(), name)
    if place not in _SHARED:
        _SHARED[place] = _Store(clock, name)
    return _SHARED[place]


def _wake_one(queue: deque[asyncio.Future[bool]]) -> None:
    while queue:
        waiter = queue.popleft()
        if not waiter.done():
            waiter.set_result(True)
            return


def _discard(queue: deque[asyncio.Future[bool]], waiter: asyncio.Future[bool]) -> None:
    if waiter in queue:
        queue.remove(waiter)
