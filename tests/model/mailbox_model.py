"""Mailboxes as plain lists, for the state machine to compare the library with. It knows nothing about engines."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tertulia import WhenFull
from tertulia.testing.clock import ManualClock

REMEMBERED = 3600.0  # seconds for which the in-process engine knows a settled EXACTLY_ONCE id


@dataclass
class Item:
    """A message in a mailbox. `until` ends its lease or its delay."""

    id: str
    content: int
    sequence: int
    exactly_once: bool = False
    expires: float | None = None
    state: str = "waiting"
    until: float = 0.0
    attempt: int = 0
    failures: int = 0
    history: tuple[str, ...] = ()


@dataclass
class Box:
    """An agent's mailbox with its owner's choices."""

    size: int
    when_full: WhenFull
    max_attempts: int
    ordered: bool
    items: dict[str, Item] = field(default_factory=dict)
    remembered: dict[str, float] = field(default_factory=dict)
    topics: set[str] = field(default_factory=set)

    def in_state(self, state: str) -> list[Item]:
        """Return the messages in a state, oldest first."""
        return sorted((item for item in self.items.values() if item.state == state), key=lambda item: item.sequence)

    def excess(self, freed: int = 0) -> int:
        """Return how many messages have to go before one more fits."""
        return len(self.items) - freed + 1 - self.size

    def refuses(self, freed: int = 0) -> bool:
        """Tell whether one more message cannot be taken."""
        excess = self.excess(freed)
        return excess > 0 and (self.when_full is not WhenFull.DROP_OLDEST or excess > len(self.in_state("waiting")))


class MailboxModel:
    """All mailboxes, all dead letters, and a ledger of what became of every message that was accepted."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.boxes: dict[str, Box] = {}
        self.dead: dict[str, list[Item]] = {}
        self.transients: dict[str, set[int]] = {}  # AT_MOST_ONCE: may come, once
        self.sequence = 0
        self.accepted: Counter[tuple[str, int]] = Counter()
        self.ended: Counter[tuple[str, int]] = Counter()
        self.counters: Counter[str] = Counter()

    # --- in ---

    def knows(self, agent: str, message_id: str, *, exactly_once: bool) -> bool:
        """Tell whether a send is a repetition that must not be stored."""
        box = self.boxes[agent]
        remembered = box.remembered.get(message_id, 0.0) > self.clock.monotonic()
        return message_id in box.items or (exactly_once and remembered)

    def store(self, agent: str, item: Item, *, delay: float = 0.0) -> list[str]:
        """Add a message that fits; return the ids of those that had to make room."""
        box = self.boxes[agent]
        self._number(item)
        item.state = "delayed" if delay else "waiting"
        item.until = self.clock.monotonic() + delay
        box.items[item.id] = item
        dropped: list[str] = []
        while len(box.items) > box.size and box.when_full is WhenFull.DROP_OLDEST:
            oldest = box.in_state("waiting")[0]
            del box.items[oldest.id]
            self.ended[agent, oldest.content] += 1
            dropped.append(oldest.id)
        assert len(box.items) <= box.size
        self.counters["dropped"] += len(dropped)
        return dropped

    def accept(self, agent: str, item: Item, *, delay: float = 0.0) -> list[str]:
        """Store a message that a sender sent."""
        self.accepted[agent, item.content] += 1
        return self.store(agent, item, delay=delay)

    def _number(self, item: Item) -> None:
        self.sequence += 1
        item.sequence = self.sequence

    # --- out ---

    def take(self, agent: str, lease: float) -> Item | None:
        """Claim the next message that may be handled; those before it that may not are buried."""
        box = self.boxes[agent]
        while (item := self._next(box)) is not None:
            item.state, item.until = "leased", self.clock.monotonic() + lease
            item.attempt += 1
            if item.failures >= box.max_attempts:
                self.bury(agent, item, f"given up after {item.failures} failed attempts")
            elif item.expires is not None and item.expires <= self.clock.time():
                self.bury(agent, item, "expired")
            else:
                return item
        return None

    def _next(self, box: Box) -> Item | None:
        waiting = box.in_state("waiting")
        if not waiting:
            return None
        held_back = box.in_state("leased") or [
            item for item in box.in_state("delayed") if item.sequence < waiting[0].sequence
        ]
        return None if box.ordered and held_back else waiting[0]

    def settle(self, agent: str, item: Item) -> None:
        """Take a message out of its mailbox for good."""
        box = self.boxes[agent]
        del box.items[item.id]
        if item.exactly_once:
            box.remembered[item.id] = self.clock.monotonic() + REMEMBERED

    def acknowledge(self, agent: str, item: Item) -> None:
        """Settle a message that was handled."""
        self.settle(agent, item)
        self.ended[agent, item.content] += 1
        self.counters["acknowledged"] += 1

    def bury(self, agent: str, item: Item, reason: str, history: tuple[str, ...] | None = None) -> None:
        """Move a message to the dead letters, with the history that the attempt that gives it up knows."""
        self.settle(agent, item)
        self._move_to_dead(agent, item, reason, item.history if history is None else history)
        self.counters["dead_lettered"] += 1

    def _move_to_dead(self, agent: str, item: Item, reason: str, history: tuple[str, ...]) -> None:
        letter = Item(item.id, item.content, 0, expires=item.expires, history=(*history, reason))
        self._number(letter)
        self.dead[agent].append(letter)

    def give_back(self, item: Item, *, delay: float, counted: bool, reason: str = "") -> None:
        """Make a leased message claimable again."""
        item.state = "delayed" if delay else "waiting"
        item.until = self.clock.monotonic() + delay
        item.failures += counted
        item.history += (reason,) if reason else ()

    # --- dead letters ---

    def redeliver(self, agent: str, letter: Item) -> bool:
        """Move a dead letter back into a mailbox that has room, unless its id is used there again."""
        if letter.id in self.boxes[agent].items:
            return False
        self.dead[agent].remove(letter)
        self.store(agent, Item(letter.id, letter.content, 0, expires=letter.expires, history=letter.history))
        return True

    def purge(self, agent: str, letter: Item) -> None:
        """Remove a dead letter."""
        self.dead[agent].remove(letter)
        self.ended[agent, letter.content] += 1

    # --- agents and time ---

    def unregister(self, agent: str) -> int:
        """Close a mailbox; what is in it goes to the dead letters."""
        self.dead.setdefault(agent, [])
        box = self.boxes.pop(agent, None)
        if box is None:
            return 0
        for item in sorted(box.items.values(), key=lambda item: item.sequence):
            self._move_to_dead(agent, item, "unregistered", item.history)
        self.transients.pop(agent, None)
        return len(box.items)

    def pass_time(self) -> None:
        """End the leases and delays whose time is over."""
        now = self.clock.monotonic()
        for box in self.boxes.values():
            for item in box.items.values():
                if item.state != "waiting" and item.until <= now:
                    item.failures += item.state == "leased"
                    item.state = "waiting"


def topic_matches(pattern: str, topic: str) -> bool:
    """Tell whether a topic pattern matches, level by level."""
    wanted, levels = pattern.split("."), topic.split(".")
    rest = wanted[-1] == ">"
    head = wanted[:-1] if rest else wanted
    enough = len(levels) > len(head) if rest else len(levels) == len(head)
    return enough and all(want in ("*", level) for want, level in zip(head, levels, strict=False))
