"""The mailboxes of a space and who is subscribed to what: a copy that the feed keeps up to date, and its changes.

A mailbox's settings and subscriptions are one subject. Whoever changes any of them also writes the registry's subject,
in the same batch, so that a publication can check that the whole is as it saw it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from tertulia._names import topic_matcher
from tertulia.engines._nats_format import FORMAT, GONE, LIVE, BoxState, Head, box_state, encode
from tertulia.engines._nats_store import Store
from tertulia.engines._nats_stream import Found, Write, WrongSequence, pause_for
from tertulia.engines.base import MailboxOptions
from tertulia.errors import UnknownAgentError
from tertulia.records import AgentInfo, WhenFull

KEEP_CLOSED = 3600  # seconds that a closed mailbox's last word is kept for those who look late
TOPICS = 4_096  # topics whose subscribers are remembered until the next change

Change = Callable[[BoxState | None], BoxState | None]


class Box(Struct, gc=False):
    """A mailbox, as it was written at `seq`."""

    name: str
    seq: int
    state: BoxState

    @property
    def created(self) -> int:
        """The sequence that it was made at: it tells a mailbox from a later one of its name."""
        return self.state.created or self.seq

    @property
    def max_size(self) -> int:
        """Messages that it takes."""
        return self.state.max_size

    @property
    def when_full(self) -> WhenFull:
        """What it does with one more."""
        return WhenFull(self.state.when_full)

    def info(self) -> AgentInfo:
        """Return it as the contract shows mailboxes."""
        state = self.state
        return AgentInfo(
            agent_id=self.name,
            max_queue_size=state.max_size,
            when_full=self.when_full,
            max_attempts=state.max_attempts,
            ordered=state.ordered,
            topics=tuple(sorted(state.patterns)),
        )


class Registry:
    """What this handle knows of all mailboxes. `seq`: the registry's sequence that it knows of."""

    def __init__(self, store: Store, new_op: Callable[[], str]) -> None:
        self._store = store
        self._subjects = store.subjects
        self._new_op = new_op
        self._boxes: dict[str, Box] = {}
        self._closed: dict[str, int] = {}
        self._loaded = False
        self._loading: asyncio.Lock = asyncio.Lock()
        self._subscribed: set[str] = set()
        self._topics: dict[str, list[str]] = {}
        self.seq = 0
        self.on_change: Callable[[str], None] = lambda _: None

    # --- knowing ---

    async def load(self) -> None:
        """Know all mailboxes."""
        if self._loaded:
            return
        async with self._loading:
            if self._loaded:
                return
            subjects, wire = self._subjects, self._store.wire
            for subject in (subjects.all_boxes, subjects.registry):
                if subject not in self._subscribed:
                    await self._store.subscribe(subjects.fed(subject), self._on_fed)
                    self._subscribed.add(subject)
            epoch = wire.epoch
            await self._load_all()
            self._loaded = epoch == wire.epoch

    async def _load_all(self) -> None:
        found, upto = await self._store.many((self._subjects.all_boxes, self._subjects.registry))
        there = {one.subject for one in found}
        for name, box in list(self._boxes.items()):
            if box.seq <= upto and self._subjects.box(name) not in there:
                self.learn(name, upto, BoxState(GONE, "", 0))
        for one in found:
            self._learn_found(one.subject, one.seq, one.data)

    def expire(self) -> None:
        """Something may have been missed: what is known has to be read again."""
        self._loaded = False

    def _on_fed(self, message: Any) -> None:
        self._learn_found(self._subjects.unfed(message.subject), int(message.headers["Nats-Sequence"]), message.data)

    def _learn_found(self, subject: str, seq: int, data: bytes) -> None:
        if subject == self._subjects.registry:
            self._learn_registry(seq)
        else:
            name = self._subjects.last(subject)
            self.learn(name, seq, box_state(name, data))

    def _learn_registry(self, seq: int) -> None:
        self.seq = max(self.seq, seq)
        self._topics.clear()

    def learn(self, name: str, seq: int, state: BoxState) -> None:
        """Take in what was written of a mailbox."""
        old = self._boxes.get(name)
        if (old is not None and old.seq >= seq) or self._closed.get(name, 0) >= seq:
            return
        self._topics.clear()
        if state.kind == LIVE:
            self._boxes[name] = Box(name, seq, state)
            self._closed.pop(name, None)
        else:
            self._boxes.pop(name, None)
            self._closed[name] = seq
        self.on_change(name)

    def known(self, name: str) -> Box | None:
        """Return a mailbox that is known to be there."""
        return self._boxes.get(name)

    async def find(self, name: str) -> Box | None:
        """Return a mailbox; that there is none is asked of the server."""
        await self.load()
        return self._boxes.get(name) or await self.look_up(name)

    async def require(self, name: str) -> Box:
        """Return a mailbox. Raises UnknownAgentError."""
        box = await self.find(name)
        if box is None:
            raise UnknownAgentError(name)
        return box

    async def look_up(self, name: str) -> Box | None:
        """Return a mailbox as the server has it now."""
        found = await self._store.get(self._subjects.box(name))
        if found is not None:
            self.learn(name, found.seq, box_state(name, found.data))
        elif (box := self._boxes.pop(name, None)) is not None:
            self._closed[name] = box.seq
            self._topics.clear()
            self.on_change(name)
        return self._boxes.get(name)

    async def all(self) -> list[Box]:
        """Return all mailboxes as the server has them now, in name order."""
        found, _ = await self._store.many((self._subjects.all_boxes,))
        boxes: list[Box] = []
        for one in found:
            name = self._subjects.last(one.subject)
            state = box_state(name, one.data)
            if state.kind == LIVE:
                boxes.append(Box(name, one.seq, state))
        return sorted(boxes, key=lambda box: box.name)

    async def subscribers(self, topic: str, *, fresh: bool) -> list[str]:
        """Return the mailboxes with a pattern that matches; with `fresh` as they are on the server now."""
        await self.load()
        if fresh:
            newest = await self._store.get(self._subjects.registry)
            if newest is not None and newest.seq > self.seq:
                self.expire()
                await self.load()
        names = self._topics.get(topic)
        if names is None:
            boxes = sorted(self._boxes.values(), key=lambda box: box.created)
            names = [box.name for box in boxes if any(topic_matcher(one)(topic) for one in box.state.patterns)]
            if len(self._topics) >= TOPICS:
                self._topics.clear()
            self._topics[topic] = names
        return names

    # --- changing ---

    async def open(self, name: str, options: MailboxOptions) -> bool:
        """Make a mailbox, or change its settings; return whether it was made."""

        def change(old: BoxState | None) -> BoxState | None:
            new = replace(
                old or BoxState(LIVE, "", 0),
                max_size=options.max_size,
                when_full=options.when_full.value,
                max_attempts=options.max_attempts,
                ordered=options.ordered,
            )
            return None if new == old else new

        return await self._change(name, change) is None

    async def subscribe(self, name: str, pattern: str) -> bool:
        """Add a topic pattern; return whether it is new."""

        def change(old: BoxState | None) -> BoxState | None:
            if old is None:
                raise UnknownAgentError(name)
            return None if pattern in old.patterns else replace(old, patterns=(*old.patterns, pattern))

        before = await self._change(name, change)
        return before is not None and pattern not in before.patterns

    async def unsubscribe(self, name: str, pattern: str) -> bool:
        """Take a topic pattern away; return whether it was there."""

        def change(old: BoxState | None) -> BoxState | None:
            if old is None:
                raise UnknownAgentError(name)
            left = tuple(one for one in old.patterns if one != pattern)
            return None if left == old.patterns else replace(old, patterns=left)

        before = await self._change(name, change)
        return before is not None and pattern in before.patterns

    async def _change(self, name: str, change: Change) -> BoxState | None:
        """Write a mailbox anew as `change` says, if it says so; return what it was."""
        attempt = 0
        while True:
            attempt += 1
            await self.load()
            found = await self._store.get(self._subjects.box(name))
            old = None if found is None else self._learned(name, found)
            new = change(old)
            if new is None:
                return old
            try:
                await self._write(name, new, 0 if found is None else found.seq)
            except WrongSequence as wrong:
                await asyncio.sleep(pause_for(wrong, attempt))
            else:
                return old

    def _learned(self, name: str, found: Found) -> BoxState | None:
        state = box_state(name, found.data)
        self.learn(name, found.seq, state)
        return replace(state, op="", prev=0, created=state.created or found.seq) if state.kind == LIVE else None

    async def _write(self, name: str, state: BoxState, expected: int) -> None:
        op = self._new_op()
        state = replace(state, op=op, prev=expected)
        last = await self._store.write_all(self.writes(name, state, expected), op)
        self.wrote(name, state, last)

    def writes(self, name: str, state: BoxState, expected: int) -> list[Write]:
        """Return the messages that change a mailbox; they come last in their batch."""
        ttl = 0 if state.kind == LIVE else KEEP_CLOSED
        return [
            Write(self._subjects.box(name), encode(state), state.op, expected, ttl=ttl),
            Write(self._subjects.registry, encode(Head(FORMAT, state.op, 0))),
        ]

    def wrote(self, name: str, state: BoxState, last: int) -> None:
        """Take in a change that this handle has made, whose batch ended at a sequence."""
        self.learn(name, last - 1, state)
        self._learn_registry(last)
