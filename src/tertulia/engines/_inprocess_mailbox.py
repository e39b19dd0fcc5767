"""A mailbox of the in-process engine: what is stored in it, and in which state."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from math import inf

from msgspec import Struct

from tertulia._clock import Alarm, Clock
from tertulia.engines.base import Claimed, MailboxCounts, MailboxOptions, Publish, Send, Sent, Stored
from tertulia.errors import MailboxFullError
from tertulia.records import WhenFull

DEDUP_WINDOW = 3600.0  # seconds; a sender that retries for longer than an hour is no longer retrying
DEDUP_COUNT = 1_000_000  # ids remembered per mailbox, about 150 bytes each
GHOSTS = 1_000  # settled messages left in a queue before it is swept

_WAITING, _LEASED, _DELAYED, _GONE = range(4)
_STATES = ("waiting", "leased", "delayed", "gone")
_STORED_ONCE = Sent(1)
_DUPLICATE = Sent(0, duplicate=True)


class Item(Struct, eq=False, gc=False):
    """A message in a mailbox."""

    message_id: str
    body: bytes
    sequence: int
    dedupe: bool
    notes: tuple[bytes, ...]
    stored_at: float
    transient: bool = False
    state: int = _WAITING
    attempt: int = 0
    failures: int = 0
    lease_until: float = 0.0

    def shown(self, mailbox: str) -> Stored:
        """Return the message as `browse` shows it."""
        return Stored(
            mailbox,
            self.message_id,
            self.body,
            self.sequence,
            _STATES[self.state],
            self.attempt,
            self.failures,
            self.notes,
            self.stored_at,
        )


class MailSchedule:
    """What the mailboxes of a space share: the order of all messages, and when the next one is due."""

    def __init__(self, clock: Clock, on_due: Callable[[], None]) -> None:
        self.clock = clock
        self.time = clock.time
        self.monotonic = clock.monotonic
        self.sequence = 0
        self.delayed: list[tuple[float, int, Mailbox, Item]] = []
        self.alarm = Alarm(clock, on_due)

    def next_sequence(self) -> int:
        """Return the place of one more message in the order of the space's messages."""
        self.sequence += 1
        return self.sequence


class Mailbox:
    """A mailbox. `stored` holds all of its messages; `ready` and `returned` queue those to be claimed.

    A message that is settled while it waits stays queued as a ghost, state gone, until it is met or swept out.
    """

    def __init__(self, name: str, options: MailboxOptions, schedule: MailSchedule) -> None:
        self.name = name
        self.options = options
        self.schedule = schedule
        self.closed = False
        self.stored: dict[str, Item] = {}
        self.ready: deque[Item] = deque()
        self.returned: list[tuple[int, Item]] = []  # a heap by sequence: given back, older than `ready`
        self.leased: dict[str, Item] = {}
        self.delayed: dict[str, Item] = {}
        self.markers: dict[str, float] = {}
        self.transients = 0
        self.ghosts = 0
        self.patterns: set[str] = set()
        self.claimants: deque[asyncio.Future[bool]] = deque()
        self.senders: deque[asyncio.Future[bool]] = deque()

    # --- storing ---

    def knows(self, send: Send | Publish) -> bool:
        """Tell whether the message is a duplicate: its id is stored or, for one to dedupe, remembered."""
        if send.message_id in self.stored:
            return True
        if not send.dedupe or not self.markers:
            return False
        until = self.markers.get(send.message_id)
        return until is not None and until > self.schedule.monotonic()

    def will_know(self, send: Send | Publish) -> bool:
        """Tell whether the message will be a duplicate once the stored one of its id is settled."""
        return send.dedupe and self.stored[send.message_id].dedupe

    def check_room(self, growth: int) -> None:
        """Raise MailboxFullError unless so many more fit, or the owner drops and enough messages wait."""
        excess = len(self.stored) + growth - self.options.max_size
        if excess <= 0:
            return
        waiting = len(self.stored) - len(self.leased) - len(self.delayed)
        if self.options.when_full is not WhenFull.DROP_OLDEST or excess > waiting:
            raise MailboxFullError(self.name, len(self.stored), waits=self.options.when_full is WhenFull.WAIT)

    def store(self, send: Send | Publish) -> Sent:
        """Store a message that was judged to fit, unless its id is known."""
        message_id = send.message_id
        if message_id in self.stored or (send.dedupe and self.knows(send)):
            return _DUPLICATE
        schedule = self.schedule
        schedule.sequence = sequence = schedule.sequence + 1
        item = Item(message_id, send.body, sequence, send.dedupe, send.notes, schedule.time())
        stored = self.stored
        stored[message_id] = item
        if send.delay:
            self._delay(item, send.delay)
        else:
            self.ready.append(item)
            if self.claimants:
                wake_one(self.claimants)
        options = self.options
        if len(stored) > options.max_size and options.when_full is WhenFull.DROP_OLDEST:
            return Sent(1, dropped=self._drop_excess())
        return _STORED_ONCE

    def inherit(self, item: Item, note: bytes) -> None:
        """Store another mailbox's message, beyond the bound if need be; under a new id where its own is taken."""
        message_id = item.message_id
        if message_id in self.stored:
            message_id = f"{message_id}#{item.sequence}"
        notes = (*item.notes, note) if note else item.notes
        schedule = self.schedule
        mine = Item(
            message_id, item.body, schedule.next_sequence(), dedupe=False, notes=notes, stored_at=schedule.time()
        )
        self.stored[message_id] = mine
        self.ready.append(mine)
        wake_one(self.claimants)

    def emit(self, send: Send | Publish) -> int:
        """Keep a message for the next claim only, unless the mailbox is full; return 1 if kept."""
        if len(self.stored) + self.transients >= self.options.max_size:
            return 0
        item = Item(send.message_id, send.body, self.schedule.next_sequence(), dedupe=False, notes=(), stored_at=0.0)
        item.transient = True
        self.transients += 1
        self.ready.append(item)
        wake_one(self.claimants)
        return 1

    def _drop_excess(self) -> tuple[tuple[str, str], ...]:
        dropped: list[tuple[str, str]] = []
        kept: list[Item] = []  # transient ones do not count, so dropping them would not help
        while len(self.stored) > self.options.max_size and (item := self._next_ready()) is not None:
            if item.transient:
                kept.append(item)
                continue
            item.state = _GONE
            del self.stored[item.message_id]
            dropped.append((self.name, item.message_id))
        self.ready.extendleft(reversed(kept))
        return tuple(dropped)

    # --- claiming ---

    def take(self, limit: int, lease: float) -> list[Claimed]:
        """Claim up to `limit` messages, oldest first."""
        taken: list[Claimed] = []
        options = self.options
        if not self.ready and not self.returned:
            return taken
        until = self.schedule.monotonic() + lease
        for _ in range(limit):
            if options.ordered and (self.leased or self._delayed_is_first()):
                break
            item = self._next_ready()
            if item is None:
                break
            if item.transient:
                self.transients -= 1
                taken.append(Claimed(self.name, item.message_id, item.body, item.sequence, transient=True))
                continue
            item.attempt += 1
            item.state = _LEASED
            item.lease_until = until
            self.leased[item.message_id] = item
            taken.append(
                Claimed(
                    self.name,
                    item.message_id,
                    item.body,
                    item.sequence,
                    item.attempt,
                    item.failures,
                    item.notes,
                    False,  # noqa: FBT003 - positional for speed: `transient`
                    until,
                    options.max_attempts,
                )
            )
        if taken and until < self.schedule.alarm.at:
            self.schedule.alarm.ring_at(until)
        return taken

    def _next_ready(self) -> Item | None:
        """Take the oldest waiting message out of the queues."""
        ready, returned = self.ready, self.returned
        while ready or returned:
            if returned and (not ready or returned[0][0] < ready[0].sequence):
                item = heapq.heappop(returned)[1]
            else:
                item = ready.popleft()
            if item.state == _WAITING:
                return item
            self.ghosts -= 1
        return None

    def lease(self, item: Item, lease: float) -> None:
        """Put a message that is in no queue under a lease."""
        item.state = _LEASED
        item.lease_until = until = self.schedule.monotonic() + lease
        self.leased[item.message_id] = item
        self.schedule.alarm.ring_at(until)

    def give_back(self, item: Item, *, delay: float = 0.0, counted: bool = False, note: bytes = b"") -> None:
        """End a message's lease, so that it can be claimed again after `delay` seconds."""
        del self.leased[item.message_id]
        if counted:
            item.failures += 1
        if note:
            item.notes = (*item.notes, note)
        if delay > 0.0:
            self._delay(item, delay)
        else:
            self._return(item)

    def _delay(self, item: Item, delay: float) -> None:
        item.state = _DELAYED
        self.delayed[item.message_id] = item
        due = self.schedule.monotonic() + delay
        heapq.heappush(self.schedule.delayed, (due, item.sequence, self, item))
        self.schedule.alarm.ring_at(due)

    def end_delay(self, item: Item) -> None:
        """Make a delayed message claimable, if it is still there."""
        if item.state == _DELAYED:
            del self.delayed[item.message_id]
            self._return(item)

    def end_leases(self, now: float) -> float:
        """Give back messages whose lease ran out; return when the next one does."""
        next_due = inf
        for item in list(self.leased.values()):
            if item.lease_until <= now:
                self.give_back(item, counted=True)
            else:
                next_due = min(next_due, item.lease_until)
        return next_due

    def _return(self, item: Item) -> None:
        item.state = _WAITING
        heapq.heappush(self.returned, (item.sequence, item))
        wake_one(self.claimants)

    def _delayed_is_first(self) -> bool:
        if not self.delayed:
            return False
        while self.ready and self.ready[0].state == _GONE:  # a ghost's place says nothing about who is next
            self.ready.popleft()
            self.ghosts -= 1
        while self.returned and self.returned[0][1].state == _GONE:
            heapq.heappop(self.returned)
            self.ghosts -= 1
        oldest = min(item.sequence for item in self.delayed.values())
        heads = [self.ready[0].sequence] if self.ready else []
        heads += [self.returned[0][0]] if self.returned else []
        return oldest < min(heads, default=inf)

    # --- settling ---

    def settle(self, message_id: str) -> None:
        """Take a stored message out for good, whatever its state."""
        item = self.stored.pop(message_id)
        if item.state == _LEASED:
            del self.leased[message_id]
        elif item.state == _DELAYED:
            del self.delayed[message_id]
        else:
            self._leave_ghost(item)
        item.state = _GONE
        if item.dedupe:
            self._remember(message_id)
        if self.senders:
            wake_one(self.senders)
        if self.claimants and self.options.ordered:
            wake_one(self.claimants)

    def _leave_ghost(self, item: Item) -> None:
        """Count a settled message that is still queued; now and then sweep them out."""
        item.body = b""
        item.state = _GONE
        self.ghosts += 1
        if self.ghosts > GHOSTS and self.ghosts > len(self.stored):
            self.ready = deque(item for item in self.ready if item.state == _WAITING)
            self.returned = [pair for pair in self.returned if pair[1].state == _WAITING]
            heapq.heapify(self.returned)
            self.ghosts = 0

    def _remember(self, message_id: str) -> None:
        markers = self.markers
        now = self.schedule.monotonic()
        markers[message_id] = now + DEDUP_WINDOW
        while len(markers) > DEDUP_COUNT or markers[next(iter(markers))] <= now:
            del markers[next(iter(markers))]

    # --- the mailbox itself ---

    def has_room(self) -> bool:
        """Tell whether one more message fits."""
        return len(self.stored) < self.options.max_size

    def change_options(self, options: MailboxOptions) -> None:
        """Take new settings, and let senders that wait look again."""
        self.options = options
        self.wake_all()

    def wake_all(self) -> None:
        """Let everybody who waits look again."""
        for queue in (self.claimants, self.senders):
            while queue:
                wake_one(queue)

    def close(self) -> list[Item]:
        """Let everybody who waits know the end; return what is left, oldest first, as it was."""
        self.closed = True
        self.wake_all()
        left = sorted(self.stored.values(), key=lambda item: item.sequence)
        self.stored.clear()
        self.leased.clear()
        self.delayed.clear()
        for item in left:
            item.state = _GONE
        return left

    def counts(self) -> MailboxCounts:
        """Return how many messages are in which state."""
        leased, delayed = len(self.leased), len(self.delayed)
        return MailboxCounts(len(self.stored) - leased - delayed, leased, delayed)


def wake_one(queue: deque[asyncio.Future[bool]]) -> None:
    """Wake the longest-waiting of a queue, if anybody waits."""
    while queue:
        waiter = queue.popleft()
        if not waiter.done():
            waiter.set_result(True)
            return
