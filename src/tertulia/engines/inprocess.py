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

from tertulia._clock import Clock, TimerHandle
from tertulia.engines._inprocess_mailbox import DEDUP_COUNT, DEDUP_WINDOW, Item, Mailbox, wake_one
from tertulia.engines._inprocess_store import Store
from tertulia.engines._inprocess_watch import HISTORY_CHANGES, WatchStream
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
from tertulia.errors import InvalidURLError, LeaseLostError, SpaceClosedError, UnknownAgentError
from tertulia.records import AgentInfo, Finding

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
    dedup_window=DEDUP_WINDOW,
    dedup_count=DEDUP_COUNT,
    history=HISTORY_CHANGES,
)


class InProcessEngine(Engine):
    """One handle on an in-process space."""

    capabilities = CAPABILITIES

    def __init__(self, store: Store) -> None:
        self._store = store
        self._records = store.records
        self._boxes = store.boxes
        self._clock = store.clock
        self._closed = False
        self._streams: set[WatchStream] = set()
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

    async def put(self, put: Put) -> Record:
        if self._closed:
            raise SpaceClosedError
        return self._store.put(put, self._clock.time())

    async def send(self, send: Send | Publish) -> Sent:
        if self._closed:
            raise SpaceClosedError
        return self._store.send(send)

    async def settle(self, settle: Settle) -> None:
        if self._closed:
            raise SpaceClosedError
        self._store.settle(settle)

    async def watch(self, pattern: str, *, after: int | None = None) -> WatchStream:
        self._check_open()
        stream = WatchStream(pattern, self._store.feed, self._streams)
        if after is not None:
            stream.replay(after, self._store.revision)
        return stream

    # --- mailboxes ---

    async def open_mailbox(self, mailbox: str, options: MailboxOptions) -> bool:
        self._check_open()
        box = self._boxes.get(mailbox)
        if box is None:
            self._boxes[mailbox] = Mailbox(mailbox, options, self._store.mail)
            return True
        box.change_options(options)
        return False

    async def close_mailbox(self, mailbox: str, *, heir: str | None = None, note: bytes = b"") -> int:
        self._check_open()
        if heir is not None and heir not in self._boxes:
            raise UnknownAgentError(heir)
        box = self._boxes.pop(mailbox, None)
        if box is None:
            return 0
        for pattern in list(box.patterns):
            self._store.unsubscribe(box, pattern)
        left = box.close()
        if heir is not None:
            for item in left:
                self._boxes[heir].inherit(item, note)
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
        taken = box.take(limit, lease)
        if taken or wait == 0.0:
            return taken
        deadline = None if wait is None else self._clock.monotonic() + wait
        while await self._wait_in(box.claimants, deadline):
            if taken := box.take(limit, lease):
                return taken
            if box.closed:
                raise UnknownAgentError(mailbox)
        return []

    async def _wait_in(self, queue: deque[asyncio.Future[bool]], deadline: float | None) -> bool:
        """Wait in a queue to be woken; return False at the deadline.

        Whoever is cancelled after being woken wakes the next. Raises SpaceClosedError when this handle closes.
        """
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        queue.append(waiter)
        timer = None if deadline is None else self._time_out_at(deadline, waiter)
        try:
            woken = await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.result():
                wake_one(queue)
            elif waiter in queue:
                queue.remove(waiter)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if not woken and waiter in queue:
            queue.remove(waiter)
        if self._closed:
            wake_one(queue)
            raise SpaceClosedError
        return woken

    def _time_out_at(self, deadline: float, waiter: asyncio.Future[bool]) -> TimerHandle:
        left = max(0.0, deadline - self._clock.monotonic())
        return self._clock.call_later(left, lambda: waiter.done() or waiter.set_result(False))

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
        return await self._wait_in(box.senders, self._clock.monotonic() + timeout)

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
            items: Iterable[Item] = [] if found is None else [found]
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
        self._records = {}  # so that `get` needs no look at `_closed` where it finds a record
        for stop in self._listening:
            stop()
        for stream in list(self._streams):
            await stream.aclose()
        for box in self._boxes.values():
            box.wake_all()  # those of this handle end, those of others wait again
        _drop_handle(self._store)

    def _check_open(self) -> None:
        if self._closed:
            raise SpaceClosedError

    def _box(self, mailbox: str) -> Mailbox:
        self._check_open()
        box = self._boxes.get(mailbox)
        if box is None:
            raise UnknownAgentError(mailbox)
        return box

    def _leased(self, claimed: Claimed) -> Item | None:
        """Return the message if this attempt still holds its lease."""
        self._check_open()
        box = self._boxes.get(claimed.mailbox)
        item = None if box is None else box.leased.get(claimed.message_id)
        mine = item is not None and item.sequence == claimed.sequence and item.attempt == claimed.attempt
        return item if mine else None


# Spaces with a name, by event loop: the one thing that two `connect` calls of a process have to share.
_SHARED: dict[tuple[asyncio.AbstractEventLoop, str], Store] = {}


async def open_engine(url: str, *, clock: Clock) -> InProcessEngine:
    """Open `memory:` (a space of its own) or `memory:NAME` (shared in this event loop)."""
    name = url.partition(":")[2]
    if "?" in name or "/" in name:
        raise InvalidURLError(url, "an in-process space is `memory:` or `memory:NAME`")
    store = _store_named(name, clock) if name else Store(clock, None)
    store.handles += 1
    return InProcessEngine(store)


def _store_named(name: str, clock: Clock) -> Store:
    place = (asyncio.get_running_loop(), name)
    if place not in _SHARED:
        _SHARED[place] = Store(clock, name)
    return _SHARED[place]


def _drop_handle(store: Store) -> None:
    """Forget the space with its last handle."""
    store.handles -= 1
    if store.handles:
        return
    store.close()
    if store.name is not None:
        _SHARED.pop((asyncio.get_running_loop(), store.name), None)
