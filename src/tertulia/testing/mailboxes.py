"""What went wrong with the messages of a run, told from what producers and consumers saw.

A queue of a thousand operations is too much for a search over all orders, so this does not search.
Every message has an id of its own in its mailbox, and with unique ids the promises of a queue come
apart into simple ones that are counted in one pass: nothing is lost, invented, repeated or
reordered. This is the "total queue" check of Jepsen with the settling of deliveries added, and the
decomposition that Abdulla and others prove for queues with unique values ("An integrated
specification and verification technique for highly concurrent data structures", 2013).

An event's instant comes from one clock for the whole run: a counter, or `time.monotonic_ns()`,
which the processes of one Linux machine share. A sending is dated when it was called; anything
else when the call returned. Dated so, no flaw is reported of a run that had none.
"""

import sys
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from operator import attrgetter
from typing import final

from msgspec import Struct

__all__ = ["Acknowledged", "DeadLettered", "Delivered", "Event", "Flaw", "Report", "Sent", "check"]

_EXAMPLES = 5  # enough to see a pattern; the count says how many there are
_EXAMPLE_LENGTH = 300  # characters; two events with short values, and large values stay readable


@final
class Sent(Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """A producer called `send`; `sequence` numbers its messages to this mailbox.

    Not `confirmed`: the call failed or was cancelled, or has not returned yet, so the message
    may be stored or not. Of several records of one message, the first dates it and one confirmed
    confirms it.
    """

    at: int
    producer: str
    mailbox: str
    message_id: str
    sequence: int
    confirmed: bool = True


@final
class Delivered(Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """A consumer got a message; `since` is when it began to wait for it.

    With competing consumers or expiring leases give `since`: the message was claimed somewhere
    between `since` and `at`, and what lies in between counts as concurrent.
    """

    at: int
    consumer: str
    mailbox: str
    message_id: str
    attempt: int = 1
    since: int | None = None


@final
class Acknowledged(Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """A consumer's acknowledgement returned; not `confirmed` if its outcome is unknown."""

    at: int
    consumer: str
    mailbox: str
    message_id: str
    confirmed: bool = True


@final
class DeadLettered(Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """A message was seen among the dead letters; not `confirmed` if that is unknown.

    One that is sent again from there starts anew: record it under another id.
    """

    at: int
    mailbox: str
    message_id: str
    confirmed: bool = True


Event = Sent | Delivered | Acknowledged | DeadLettered


class Flaw(Struct, frozen=True, kw_only=True):
    """One way in which a promise was broken, how often, and the first few cases."""

    what: str
    count: int
    examples: tuple[str, ...]


class Report(Struct, frozen=True, kw_only=True):
    """What a check looked at and what it found."""

    checked: str
    flaws: tuple[Flaw, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.flaws

    @property
    def counts(self) -> dict[str, int]:
        """How often each flaw was found."""
        return {flaw.what: flaw.count for flaw in self.flaws}

    def describe(self) -> str:
        """Return what was found, a line for each flaw and each example."""
        lines = [f"{self.checked}: {'no flaws' if self.ok else 'flaws found'}"]
        for flaw in self.flaws:
            lines.append(f"{flaw.what}: {flaw.count}")
            lines += [f"    {example}" for example in flaw.examples]
            if flaw.count > len(flaw.examples):
                lines.append(f"    and {flaw.count - len(flaw.examples)} more")
        return "\n".join(lines)


class Flaws:
    """Collects flaws while a check runs."""

    def __init__(self) -> None:
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._examples: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, what: str, *example: object) -> None:
        """Count a flaw; keep it as an example if there is room."""
        self._counts[what] += 1
        if len(self._examples[what]) < _EXAMPLES:
            self._examples[what].append(" ".join(map(str, example))[:_EXAMPLE_LENGTH])

    def report(self, checked: str) -> Report:
        """Return all that was collected."""
        found = (
            Flaw(what=what, count=count, examples=tuple(self._examples[what])) for what, count in self._counts.items()
        )
        return Report(checked=checked, flaws=tuple(found))


def check(
    events: Iterable[Event],
    *,
    ordered: bool = False,
    once: bool = False,
    lossless: bool = True,
) -> Report:
    """Check a run that was drained: at its end no message waits or is being handled.

    Reports messages that were "lost" (confirmed, and settled by nobody; not with
    `lossless=False`), "invented", "delivered before it was sent", "delivered after it was
    settled", "acknowledged without a delivery", "acknowledged twice", "dead-lettered twice", or
    "acknowledged and dead-lettered". With `once`, also those "delivered more than once"; with
    `ordered`, those "overtaken" by a later message of the same producer to the same mailbox,
    judged by first attempts. One whose sending was never confirmed has no place among the others:
    it may be stored at any time, if it is.

    At most once is `once=True, lossless=False`. At least once is the default, and so is exactly
    once, whose repeated deliveries are allowed as long as one of them settles.

    The events may come in any order; their instants decide, and of equal ones the order given.
    """
    by_mailbox: defaultdict[str, list[Event]] = defaultdict(list)
    for event in events:
        by_mailbox[event.mailbox].append(event)
    flaws = Flaws()
    messages = deliveries = 0
    for events_of_one in by_mailbox.values():
        events_of_one.sort(key=attrgetter("at"))
        mailbox = _Mailbox(flaws, ordered=ordered, once=once)
        mailbox.replay(events_of_one)
        mailbox.finish(lossless=lossless)
        messages += len(mailbox.messages)
        deliveries += sum(message.deliveries for message in mailbox.messages.values())
    return flaws.report(f"{messages} messages, {deliveries} deliveries")


class _Message(Struct, gc=False):
    """What became of one message so far."""

    sent: Sent | None = None
    confirmed: bool = False
    unsent: Delivered | None = None  # the first delivery before it was sent
    deliveries: int = 0
    settled: Acknowledged | DeadLettered | None = None
    doubtful: bool = False  # perhaps settled


class _Mailbox:
    """Replays the events of one mailbox."""

    def __init__(self, flaws: Flaws, *, ordered: bool, once: bool) -> None:
        self._flaws, self._ordered, self._once = flaws, ordered, once
        self._in_order: set[str] = set()  # whose order is judged
        self._streams: defaultdict[str, _Stream] = defaultdict(_Stream)
        self.messages: dict[str, _Message] = {}

    def replay(self, events: list[Event]) -> None:
        messages = self.messages
        if self._ordered:
            self._in_order = {event.message_id for event in events if type(event) is Sent and event.confirmed}
        for event in events:
            message = messages.get(event.message_id)
            if message is None:
                message = messages[event.message_id] = _Message()
            # Not isinstance: for structs it takes the slow path, and doubles the time of the check.
            if type(event) is Sent:
                if message.sent is None:
                    message.sent = event
                if event.confirmed:
                    message.confirmed = True
            elif type(event) is Delivered:
                self._deliver(message, event)
            else:
                self._settle(message, event)

    def _deliver(self, message: _Message, event: Delivered) -> None:
        message.deliveries += 1
        if message.sent is None:
            message.unsent = message.unsent or event
        elif event.attempt == 1 == message.deliveries and event.message_id in self._in_order:
            self._check_order(message.sent, event)
        if message.settled is not None:
            since = event.at if event.since is None else event.since
            if message.settled.at <= since:
                self._flaws.add("delivered after it was settled", event, "after", message.settled)
        if self._once and (message.deliveries > 1 or event.attempt > 1):
            self._flaws.add("delivered more than once", event)

    def _check_order(self, sent: Sent, event: Delivered) -> None:
        stream = self._streams[sent.producer]
        # Without `since` deliveries are as ordered as their records, even at equal instants.
        greatest = stream.greatest_before(sys.maxsize if event.since is None else event.since)
        if greatest > sent.sequence:
            self._flaws.add("overtaken", event, f"of sequence {sent.sequence} after {greatest}")
        stream.append(event.at, sent.sequence)

    def _settle(self, message: _Message, event: Acknowledged | DeadLettered) -> None:
        acknowledged = type(event) is Acknowledged
        if acknowledged and not message.deliveries:
            self._flaws.add("acknowledged without a delivery", event)
        if not event.confirmed:
            message.doubtful = True
        elif message.settled is None:
            message.settled = event
        else:
            what = f"{'acknowledged' if acknowledged else 'dead-lettered'} twice"
            if type(message.settled) is not type(event):
                what = "acknowledged and dead-lettered"
            self._flaws.add(what, event, "after", message.settled)

    def finish(self, *, lossless: bool) -> None:
        """Judge what only the end can tell."""
        for message in self.messages.values():
            if message.unsent is not None:
                what = "delivered before it was sent" if message.sent else "invented"
                self._flaws.add(what, message.unsent)
            if lossless and message.confirmed and not (message.settled or message.doubtful):
                times = f"delivered {message.deliveries} times"
                self._flaws.add("lost", message.sent, times)


class _Stream:
    """What one producer's messages to one mailbox had reached, and when."""

    def __init__(self) -> None:
        self._instants: list[int] = []
        self._greatest: list[int] = []

    def greatest_before(self, instant: int) -> int:
        """Return the greatest sequence delivered before the instant, -1 for none."""
        count = bisect_left(self._instants, instant)
        return self._greatest[count - 1] if count else -1

    def append(self, at: int, sequence: int) -> None:
        reached = self._greatest[-1] if self._greatest else -1
        self._instants.append(at)
        self._greatest.append(max(reached, sequence))
