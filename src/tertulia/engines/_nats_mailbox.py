"""One handle's view of a mailbox: what is stored in it, in which state, and which messages can be claimed.

The view is a copy. Every decision made with it is carried out by compare-and-set on the message's subject, so a view
that is behind costs a second try, never a message claimed twice.
"""

from __future__ import annotations

import heapq
from asyncio import Future
from collections import deque
from collections.abc import Iterable

from msgspec import Struct

from tertulia.engines._nats_format import DELAYED, LEASED, LIVE, ROLL, STATES, WAITING, MailState
from tertulia.engines._nats_roll import Roll, read_roll
from tertulia.engines.base import Claimed, MailboxCounts, Stored

KEPT_BODIES = 16 * 2**20  # bytes of waiting messages kept at hand; what is beyond it is read again when claimed
TRANSIENTS = 1_000  # emitted messages that wait for this handle's claims; more are lost, as they may be
REMEMBERED = 10_000  # settled messages remembered, so that news of them that come late are known to be old


class Item(Struct, eq=False, gc=False):
    """A message as it was written at `seq`. A `bare` one's body is not at hand."""

    message_id: str
    seq: int
    first: int
    mail: MailState
    bare: bool = False
    taken: bool = False  # by a claim of this handle that is under way

    def is_claimable(self, now: float) -> bool:
        """Tell whether it waits, or its lease or delay is over."""
        return self.mail.state == WAITING or self.mail.due <= now

    def state(self, now: float) -> int:
        """Return its state."""
        return WAITING if self.is_claimable(now) else self.mail.state

    @property
    def failures(self) -> int:
        """Failures so far, if it can be claimed now: a lease that ran out is one."""
        return self.mail.failures + (self.mail.state == LEASED)

    def shown(self, mailbox: str, now: float) -> Stored:
        """Return the message as `browse` shows it."""
        mail, state = self.mail, self.state(now)
        failures = self.failures if state == WAITING else mail.failures
        return Stored(
            mailbox, self.message_id, mail.body, self.first, STATES[state], mail.attempt, failures,
            mail.notes_at(self.first), mail.at,
        )  # fmt: skip


class View:
    """What this handle knows of a mailbox. `last` is the sequence up to which it knows all.

    `live`: all was read, and the feed keeps it up to date. `opening`: it is being read, with the feed on. Senders alone
    have views that are neither; they look from time to time. With `whole_feed` what comes by the feed comes without a
    gap, as long as the connection holds.

    `revived` are settled messages that a server has brought back; `lasting` says that there are markers to be let go.
    What was stored before `floor` was in another mailbox of the same name.
    """

    def __init__(self, mailbox: str, *, whole_feed: bool) -> None:
        self.mailbox = mailbox
        self.whole_feed = whole_feed
        self.items: dict[str, Item] = {}
        self.last = 0
        self.live = False
        self.opening = False
        self.closed = False
        self.used = 0.0
        self.looked = 0.0
        self.sent = 0  # messages stored through this handle since it last looked
        self.claimants: deque[Future[bool]] = deque()
        self.senders: deque[Future[bool]] = deque()
        self.transients: deque[Claimed] = deque()
        self.revived: dict[str, tuple[int, MailState]] = {}
        self.lasting = False
        self.floor = 0
        self._roll = Roll()
        self._roll_seq = 0
        self._gone: dict[str, int] = {}
        self._ready: list[tuple[int, str]] = []
        self._timed: list[tuple[float, int, str]] = []
        self._bodies = 0

    # --- learning ---

    def learn(self, message_id: str, seq: int, mail: MailState) -> None:
        """Take in what was written at a sequence; what is older than what is known changes nothing."""
        if self.whole_feed and (self.live or self.opening) and seq > self.last:
            self.last = seq
        if mail.kind == ROLL:
            self._take_roll(seq, mail)
            return
        self.lasting = self.lasting or mail.lasting
        old = self.items.get(message_id)
        if (old is not None and old.seq >= seq) or self._gone.get(message_id, 0) >= seq:
            return
        if mail.kind == LIVE and self.is_gone(message_id, seq):
            return
        if old is not None:
            self._bodies -= 0 if old.bare else len(old.mail.body)
        if mail.kind != LIVE:
            self.remove(message_id, seq)
            return
        item = Item(message_id, seq, mail.first or seq, mail)
        self.items[message_id] = item
        self._keep_body(item)
        self._queue(item)

    def drop(self, message_id: str) -> None:
        """Forget a message that was not found, which is no proof of its end: a replica that lags does not find it."""
        item = self.items.pop(message_id, None)
        if item is not None:
            self._bodies -= 0 if item.bare else len(item.mail.body)
            self._wake_for_room()

    def is_gone(self, message_id: str, seq: int) -> bool:
        """Tell whether what was stored of a message at a sequence is known to be over, whatever a server says."""
        return self._gone.get(message_id, 0) >= seq or seq < self.floor or self._roll.is_over(seq)

    def revive(self, message_id: str, seq: int, mail: MailState) -> None:
        """Take in that a server shows a message that is gone."""
        mail.body = b""
        self.revived[message_id] = seq, mail

    def _take_roll(self, seq: int, mail: MailState) -> None:
        if seq <= self._roll_seq:
            return
        self._roll, self._roll_seq = read_roll(mail), seq
        for item in [one for one in self.items.values() if self._roll.is_over(one.seq)]:
            self._bodies -= 0 if item.bare else len(item.mail.body)
            self.revive(item.message_id, item.seq, item.mail)
            self.remove(item.message_id, item.seq)

    def remove(self, message_id: str, seq: int) -> None:
        """Take in that a message, and what was written of it up to a sequence, is gone."""
        there = self.items.pop(message_id, None)
        known = self._gone.get(message_id, 0)
        self._gone[message_id] = seq
        if there is None and known:
            return  # its marker was written anew
        if len(self._gone) > REMEMBERED:
            del self._gone[next(iter(self._gone))]
        self._wake_for_room()

    def _wake_for_room(self) -> None:
        if self.senders:
            wake_all(self.senders)
        if self.claimants:
            wake_one(self.claimants)  # in an ordered mailbox it may be the next one's turn

    def _keep_body(self, item: Item) -> None:
        size = len(item.mail.body)
        if not (self.live or self.opening) or self._bodies + size > KEPT_BODIES:
            item.mail.body = b""
            item.bare = bool(size)
        else:
            self._bodies += size

    def _queue(self, item: Item) -> None:
        if item.mail.state == WAITING:
            heapq.heappush(self._ready, (item.first, item.message_id))
            if self.claimants:
                wake_one(self.claimants)
        else:
            heapq.heappush(self._timed, (item.mail.due, item.seq, item.message_id))

    def forget_all(self, last: int) -> None:
        """Know nothing any more but what is over; waiters stay.

        Nor is it known what was over later than the stream's last sequence: a power cut has taken that from the server.
        """
        self._gone = {message_id: seq for message_id, seq in self._gone.items() if seq <= last}
        self._roll, self._roll_seq = Roll(), 0
        self.items.clear()
        self._ready.clear()
        self._timed.clear()
        self.revived.clear()
        self.last = 0
        self._bodies = 0

    # --- choosing ---

    def choose(self, limit: int, now: float, *, ordered: bool) -> list[Item]:
        """Return the oldest messages that can be claimed, marked as taken."""
        self._return_due(now)
        if ordered:
            first = min(self.items.values(), key=lambda item: item.first, default=None)
            chosen = [first] if first is not None and first.is_claimable(now) and not first.taken else []
        else:
            chosen: list[Item] = []
            while self._ready and len(chosen) < limit:
                first, message_id = heapq.heappop(self._ready)
                item = self.items.get(message_id)
                if item is not None and item.first == first and item.is_claimable(now) and not item.taken:
                    item.taken = True  # so that a second entry of it does not count
                    chosen.append(item)
        for item in chosen:
            item.taken = True
        return chosen

    def put_back(self, item: Item) -> None:
        """Undo the choice of a message that could not be claimed, if it is still there."""
        item.taken = False
        if self.items.get(item.message_id) is item:
            self._queue(item)

    def _return_due(self, now: float) -> None:
        while self._timed and self._timed[0][0] <= now:
            _, seq, message_id = heapq.heappop(self._timed)
            item = self.items.get(message_id)
            if item is not None and item.seq == seq:
                heapq.heappush(self._ready, (item.first, message_id))

    def has_claimable(self, now: float, *, ordered: bool) -> bool:
        """Tell whether a claim would choose something."""
        if self.transients:
            return True
        if ordered:
            first = min(self.items.values(), key=lambda item: item.first, default=None)
            return first is not None and first.is_claimable(now) and not first.taken
        self._return_due(now)
        while self._ready:
            first, message_id = self._ready[0]
            item = self.items.get(message_id)
            if item is not None and item.first == first and item.is_claimable(now) and not item.taken:
                return True
            heapq.heappop(self._ready)
        return False

    def next_due(self) -> float | None:
        """Return when the next lease or delay ends."""
        while self._timed:
            due, seq, message_id = self._timed[0]
            item = self.items.get(message_id)
            if item is not None and item.seq == seq:
                return due
            heapq.heappop(self._timed)
        return None

    def droppable(self, count: int, now: float) -> list[Item]:
        """Return so many of the oldest messages that wait, or fewer where there are not so many."""
        waiting = [item for item in self.items.values() if item.is_claimable(now) and not item.taken]
        return heapq.nsmallest(count, waiting, key=lambda item: item.first)

    # --- waiting ---

    def add_transient(self, claimed: Claimed) -> bool:
        """Keep an emitted message for the next claim, unless there are too many."""
        if len(self.transients) >= TRANSIENTS:
            return False
        self.transients.append(claimed)
        wake_one(self.claimants)
        return True

    def wake_everybody(self) -> None:
        """Let all who wait look again."""
        wake_all(self.claimants)
        wake_all(self.senders)

    @property
    def idle(self) -> bool:
        """Whether nobody here waits, nothing is to be tidied up, and nothing is kept that only this handle has."""
        busy = self.claimants or self.senders or self.transients or self.lasting or self.revived
        return not (busy or any(one.taken for one in self.items.values()))


def items_of(records: Iterable[tuple[str, int, MailState]]) -> list[Item]:
    """Return the messages among all records of a mailbox, oldest first; what its roll says is over is none."""
    records = list(records)
    roll = next((read_roll(mail) for _, _, mail in records if mail.kind == ROLL), Roll())
    items = [
        Item(message_id, seq, mail.first or seq, mail)
        for message_id, seq, mail in records
        if mail.kind == LIVE and not roll.is_over(seq)
    ]
    return sorted(items, key=lambda item: item.first)


def counts_of(items: Iterable[MailState], now: float) -> MailboxCounts:
    """Return how many messages are in which state."""
    counts = [0, 0, 0]
    for mail in items:
        counts[WAITING if mail.state == WAITING or mail.due <= now else mail.state] += 1
    return MailboxCounts(counts[WAITING], counts[LEASED], counts[DELAYED])


def wake_one(queue: deque[Future[bool]]) -> None:
    """Wake the longest-waiting of a queue, if anybody waits."""
    while queue:
        waiter = queue.popleft()
        if not waiter.done():
            waiter.set_result(True)
            return


def wake_all(queue: deque[Future[bool]]) -> None:
    """Wake everybody in a queue."""
    while queue:
        wake_one(queue)
