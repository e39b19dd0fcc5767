"""Whom a route is for, and under which keys what is routed by memory is found."""

from __future__ import annotations

import hashlib
import reprlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, cast

from msgspec import Struct

from tertulia._clock import Clock
from tertulia._names import check_name, check_topic
from tertulia.errors import InvalidInputError, UnknownAgentError
from tertulia.messaging.broker import MAX_RECEIVERS, MessageBroker

TOPIC = "topic:"  # what a receiver that is a topic starts with: no agent's name has a colon
ROUTED = "routed:"  # keys of what is routed by memory
SEVERAL = "_several"  # as the reader in such a key; no agent's name starts with an underscore
TOPICS = "_topic:"
MAX_TAGGED = 60  # receivers of one entry: they are its tags, of which there are 64 at most
LONGEST_LABEL = 64  # characters; longer lists of receivers are told apart by a digest
KNOWN_FOR = 1.0  # seconds for which an agent that was registered is taken to be so still


class Target(Struct, frozen=True, gc=False):
    """One agent, several, or a topic. `label` names it in figures, `prefix` starts the keys of what is for it."""

    names: tuple[str, ...]
    topic: str | None
    label: str
    prefix: str


def target_of(receiver: object) -> Target:
    """Return whom a receiver means. Raises InvalidNameError, InvalidTopicError, InvalidInputError."""
    if receiver.__class__ is str:
        return _one(cast("str", receiver))
    if isinstance(receiver, (str, bytes, Mapping)) or not isinstance(receiver, Iterable):
        shown = reprlib.repr(cast("object", receiver))
        raise InvalidInputError(f"a receiver is an agent, several, or 'topic:NAME', not {shown}")
    names = tuple(dict.fromkeys(check_name(cast("Any", name)) for name in cast("Iterable[object]", receiver)))
    if not 0 < len(names) <= MAX_RECEIVERS:
        raise InvalidInputError(f"a route has 1 to {MAX_RECEIVERS} receivers, not {len(names)}")
    if len(names) == 1:
        return _one(names[0])
    label = ",".join(sorted(names))
    if len(label) > LONGEST_LABEL:
        label = f"{len(names)}#{hashlib.sha256(label.encode()).hexdigest()[:16]}"
    return Target(names, None, label, f"{ROUTED}{SEVERAL}:")


@lru_cache(4096)  # a team's working set of names
def _one(receiver: str) -> Target:
    if receiver.startswith(TOPIC):
        topic = check_topic(receiver.removeprefix(TOPIC))
        label = receiver
        if len(label) > LONGEST_LABEL:
            label = TOPIC + hashlib.sha256(topic.encode()).hexdigest()[:16]
        return Target((), topic, label, f"{ROUTED}{TOPICS}{topic}:")
    check_name(receiver)
    label = receiver if len(receiver) <= LONGEST_LABEL else hashlib.sha256(receiver.encode()).hexdigest()[:16]
    return Target((receiver,), None, label, f"{ROUTED}{receiver}:")


class Registered:
    """Who is registered, as it was known a second ago at most."""

    def __init__(self, broker: MessageBroker, clock: Clock) -> None:
        self._broker = broker
        self._clock = clock
        self._names: frozenset[str] = frozenset()
        self._until = clock.monotonic()

    async def check(self, names: Iterable[str]) -> None:
        """Raise UnknownAgentError for the first that is not registered."""
        if self._clock.monotonic() >= self._until or not self._names.issuperset(names):
            self._names = frozenset(info.agent_id for info in await self._broker.agents())
            self._until = self._clock.monotonic() + KNOWN_FOR
        for name in names:
            if name not in self._names:
                raise UnknownAgentError(name)
