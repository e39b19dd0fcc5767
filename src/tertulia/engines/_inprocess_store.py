"""What the handles of one in-process space share: records, mailboxes, topics, and the commit."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from math import inf

from tertulia._clock import Alarm, Clock
from tertulia._names import topic_matcher
from tertulia._rules.expiry import kept_owner, kept_tags, kept_ttl
from tertulia.engines._inprocess_mailbox import Mailbox, MailSchedule
from tertulia.engines._inprocess_watch import ChangeFeed
from tertulia.engines.base import (
    Change,
    Claimed,
    Commit,
    Committed,
    EngineStats,
    Publish,
    Put,
    Record,
    Send,
    Sent,
    Settle,
    stamped,
)
from tertulia.errors import AlreadySettledError, UnknownAgentError
from tertulia.records import ChangeKind

EXPIRY_SLACK = 1_000  # stale entries that the expiry heap may hold beside as many live ones


class Store:
    """What the handles of one space share."""

    def __init__(self, clock: Clock, name: str | None) -> None:
        self.clock = clock
        self.name = name
        self.handles = 0
        self.revision = 0
        self.records: dict[str, Record] = {}
        self.boxes: dict[str, Mailbox] = {}
        self.listeners: dict[str, Callable[[Claimed], None]] = {}
        self.topics: dict[str, dict[Mailbox, None]] = {}
        self.feed = ChangeFeed()
        self.expiries: list[tuple[float, str]] = []
        self.expiry_alarm = Alarm(clock, self.expire_due)
        self.mail = MailSchedule(clock, self.deliver_due)

    # --- the commit ---

    def commit(self, commit: Commit) -> Committed:
        """Judge everything, then apply everything."""
        checks, settles, puts, deletes, sends = (
            commit.checks, commit.settles, commit.puts, commit.deletes, commit.sends,
        )  # fmt: skip
        now = self.clock.time() if checks or puts or deletes else 0.0
        for check in checks:
            check.judge(self.live(check.key, now))
        for settle in settles:
            self._judge_settle(settle)
        if sends and not (len(sends) == 1 and isinstance(sends[0], Send) and sends[0].mailbox in self.listeners):
            self._judge_sends(sends, settles)
        # From here on nothing can fail.
        for settle in settles:
            self.boxes[settle.mailbox].settle(settle.message_id)
        records = tuple([self.put(put, now) for put in puts]) if puts else ()
        deleted = tuple([self._delete(delete.key, now) for delete in deletes]) if deletes else ()
        if records and sends:
            sends = stamped(sends, records)
        sent = tuple([self._send(send) for send in sends]) if sends else ()
        return Committed(self.revision, records, deleted, sent)

    def send(self, send: Send | Publish) -> Sent:
        """Commit one send."""
        if isinstance(send, Send):
            box = self.boxes.get(send.mailbox)
            if box is not None and len(box.stored) < box.options.max_size:
                return box.store(send)  # the usual case: it is there and has room
        self._judge_sends((send,), ())
        return self._send(send)

    def settle(self, settle: Settle) -> None:
        """Commit one settling."""
        self._judge_settle(settle).settle(settle.message_id)

    def _judge_settle(self, settle: Settle) -> Mailbox:
        box = self.boxes.get(settle.mailbox)
        item = None if box is None else box.stored.get(settle.message_id)
        if box is None or item is None or (settle.sequence and item.sequence != settle.sequence):
            raise AlreadySettledError(settle.mailbox, settle.message_id)
        return box

    def _judge_sends(self, sends: tuple[Send | Publish, ...], settles: tuple[Settle, ...]) -> None:
        """Raise when a mailbox is absent, or would be too full once all of the commit is applied."""
        if len(sends) == 1 and isinstance(sends[0], Send):
            boxes = self._targets(sends[0])
            if not boxes or len(boxes[0].stored) < boxes[0].options.max_size:
                return  # the usual case, without the bookkeeping
        growth: dict[Mailbox, int] = {}
        leaving: set[tuple[Mailbox, str]] = set()
        coming: set[tuple[Mailbox, str]] = set()
        for settle in settles:
            box = self.boxes[settle.mailbox]
            growth[box] = growth.get(box, 0) - 1
            leaving.add((box, settle.message_id))
        for send in sends:
            for box in self._targets(send):
                place = (box, send.message_id)
                known = box.will_know(send) if place in leaving else box.knows(send)
                if not known and place not in coming:
                    coming.add(place)
                    growth[box] = growth.get(box, 0) + 1
                    box.check_room(growth[box])

    def _targets(self, send: Send | Publish) -> Sequence[Mailbox]:
        if isinstance(send, Publish):
            return self.subscribers(send.topic)
        box = self.boxes.get(send.mailbox)
        if box is not None:
            return (box,)
        if send.optional or send.mailbox in self.listeners:
            return ()
        raise UnknownAgentError(send.mailbox)

    def _send(self, send: Send | Publish) -> Sent:
        if isinstance(send, Send):
            box = self.boxes.get(send.mailbox)
            if box is not None:
                return box.store(send)
            listener = self.listeners.get(send.mailbox)
            if listener is None:
                return Sent(0)
            listener(Claimed(send.mailbox, send.message_id, send.body, self.mail.next_sequence()))
            return Sent(1)
        outcomes = [box.store(send) for box in self.subscribers(send.topic)]
        return Sent(
            sum(outcome.delivered for outcome in outcomes),
            bool(outcomes) and all(outcome.duplicate for outcome in outcomes),
            tuple(gone for outcome in outcomes for gone in outcome.dropped),
        )

    # --- records ---

    def put(self, put: Put, now: float) -> Record:
        """Create or replace one record."""
        old = self.records.get(put.key)
        if old is not None and old.expires is not None and old.expires <= now and not self.is_live(old, now):
            old = None
        self.revision = revision = self.revision + 1
        ttl = put.ttl if put.ttl is None or isinstance(put.ttl, float) else kept_ttl(put.ttl, old)
        expires = None if ttl is None else now + ttl
        tags = put.tags and kept_tags(put.tags, old)
        if old is None:
            owner = kept_owner(put.owner, old)
            record = Record(put.key, put.body, owner, 1, revision, revision, now, now, ttl, expires, tags)
        else:
            owner = put.owner if isinstance(put.owner, str) else kept_owner(put.owner, old)
            record = Record(
                put.key, put.body, owner, old.version + 1, revision, old.created_revision,
                old.created, now, ttl, expires, tags, old.access_count,
            )  # fmt: skip
        self.records[put.key] = record
        if expires is not None and (old is None or old.expires is None or old.expires > expires):
            self._schedule_expiry(expires, put.key, now)
        self.feed.announce_put(record)
        return record

    def _delete(self, key: str, now: float) -> bool:
        if self.live(key, now) is None:
            return False
        self._remove(key, ChangeKind.DELETE, now)
        return True

    def _remove(self, key: str, kind: ChangeKind, now: float) -> None:
        del self.records[key]
        self.revision += 1
        self.feed.announce(Change(kind, key, self.revision, now))

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

    def _schedule_expiry(self, expires: float, key: str, now: float) -> None:
        """Look at the key again at that time; a write that only puts it off needs no further look."""
        heapq.heappush(self.expiries, (expires, key))
        if len(self.expiries) > EXPIRY_SLACK + 2 * len(self.records):
            live = {key: self.records[key].expires for _, key in self.expiries if key in self.records}
            self.expiries = [(expires, key) for key, expires in live.items() if expires is not None]
            heapq.heapify(self.expiries)
        self.expiry_alarm.ring_in(expires - now)

    def expire_due(self) -> None:
        """Remove every record whose time is over, and set the alarm for the next."""
        now = self.clock.time()
        while self.expiries and self.expiries[0][0] <= now:
            _, key = heapq.heappop(self.expiries)
            record = self.records.get(key)
            if record is None or record.expires is None:
                continue
            if record.expires <= now:
                self._remove(key, ChangeKind.EXPIRE, now)
            else:
                heapq.heappush(self.expiries, (record.expires, key))
        if self.expiries:
            self.expiry_alarm.ring_in(self.expiries[0][0] - now)

    # --- topics ---

    def subscribe(self, box: Mailbox, pattern: str) -> bool:
        boxes = self.topics.setdefault(pattern, {})
        if box in boxes:
            return False
        boxes[box] = None
        box.patterns.add(pattern)
        return True

    def unsubscribe(self, box: Mailbox, pattern: str) -> bool:
        boxes = self.topics.get(pattern, {})
        if box not in boxes:
            return False
        del boxes[box]
        box.patterns.discard(pattern)
        if not boxes:
            del self.topics[pattern]
        return True

    def subscribers(self, topic: str) -> list[Mailbox]:
        """Return every mailbox with a pattern that matches, each once, in order of subscription."""
        found: dict[Mailbox, None] = {}
        for pattern, boxes in self.topics.items():
            if topic_matcher(pattern)(topic):
                found.update(boxes)
        return list(found)

    # --- time ---

    def deliver_due(self) -> None:
        """Give back what is due: delayed messages, and those whose lease ran out."""
        delayed = self.mail.delayed
        now = self.clock.monotonic()
        while delayed and delayed[0][0] <= now:
            _, _, box, item = heapq.heappop(delayed)
            box.end_delay(item)
        next_due = delayed[0][0] if delayed else inf
        for box in self.boxes.values():
            if box.leased:
                next_due = min(next_due, box.end_leases(now))
        if next_due < inf:
            self.mail.alarm.ring_at(next_due)

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

    def close(self) -> None:
        """Ring no alarm any more."""
        self.expiry_alarm.cancel()
        self.mail.alarm.cancel()
