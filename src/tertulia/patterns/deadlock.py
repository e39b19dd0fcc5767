"""Deadlocks: who waits for whom in a space, and whether a wait is one that can never end.

Every wait that holds something up is written down in the space: for a lock, a permit or a leadership by an agent that
holds another or is handling a message, and for a reply by an agent of the same kind. Whoever begins such a wait looks
at what it waits for, at what holds that up, and so on. If nothing there can move any more, the youngest wait of the
circle is ended with DeadlockError.

Nothing here needs a picture of the whole space at one moment. A wait, a grant or a line keeps its id for as long as it
lasts, so what is found twice was there all the time in between: a circle that two looks find alike existed, whole, at
the moment between them. (Two equal collects are a snapshot: Afek et al., "Atomic Snapshots of Shared Memory", Journal
of the ACM 40, 1993.)
"""

from __future__ import annotations

from collections.abc import Mapping

from tertulia._clock import Clock, instant
from tertulia._rules.waits import Step, Wait, circle_to_break, stuck_waits
from tertulia.engines.base import Engine
from tertulia.errors import DeadlockError
from tertulia.patterns._kept import (
    RENEW_WAIT,
    REQUEST,
    WAITS,
    Waiting,
    grant_node,
    handling_node,
    holders_of,
    holding_of,
    ids_of,
    node_key,
    wait_key,
    waiting_of,
)
from tertulia.records import WaitsFor
from tertulia.space import Space

MAX_WAITS = 1_000  # that one look follows; a circle of more agents is left to the timeouts
MAX_BUSY = 1_000  # messages that one agent has in hand at once, as many as its concurrency may be
CONFIRM = 0.05  # seconds between two looks when a circle goes through messages: what was true may be on its way out
CONFIRM_BUSY = 1.0  # and when it goes through a mailbox where a message lies although somebody else may take it
_MOVING = frozenset({"somebody"})  # a need that nothing is known to hold up

_Needs = list[tuple[str, frozenset[str], tuple[str, ...]]]  # of each: name, nodes, agents


class Picture:
    """What one look at the space found: the waits that a wait depends on, and what they hold up."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.delay = 0.0 if engine.capabilities.linearizable_reads else CONFIRM
        self.waitings: dict[str, Waiting] = {}
        self.ages: dict[str, int] = {}
        self.needs: dict[str, _Needs] = {}
        self._lists: dict[str, tuple[str, ...]] = {}

    async def follow(self, start: str) -> None:
        """Find everything that this wait depends on."""
        ahead = [start]
        while ahead and len(self.waitings) < MAX_WAITS:
            wait_id = ahead.pop()
            if wait_id in self.waitings:
                continue
            record = await self._engine.get(wait_key(wait_id))
            if record is None:
                continue
            waiting = self.waitings[wait_id] = waiting_of(record)
            self.ages[wait_id] = record.created_revision
            needs = self.needs[wait_id] = await self._needs_of(waiting)
            for _, nodes, _ in needs:
                for node in nodes:
                    ahead += await self._list(node)

    @property
    def waits(self) -> dict[str, Wait]:
        """The waits, as the rules take them."""
        return {
            wait_id: Wait(self.ages[wait_id], tuple(nodes for _, nodes, _ in needs))
            for wait_id, needs in self.needs.items()
        }

    @property
    def held_up(self) -> Mapping[str, list[str]]:
        """By node, the waits that hold it up; an answer that was given already is held up by nothing."""
        found: dict[str, list[str]] = {}
        for node, wait_ids in self._lists.items():
            known = [wait_id for wait_id in wait_ids if wait_id in self.waitings]
            found[node] = known
            found[_answer(node)] = [wait_id for wait_id in known if self.waitings[wait_id].owes]
        return found

    def describe(self, circle: tuple[Step, ...]) -> tuple[WaitsFor, ...]:
        """Return the waits of a circle as people read them."""
        return tuple(self._describe(step) for step in circle)

    def _describe(self, step: Step) -> WaitsFor:
        waiting = self.waitings[step.wait]
        name, agents = next((name, agents) for name, nodes, agents in self.needs[step.wait] if step.node in nodes)
        return _waits_for(waiting, name, agents)

    async def _needs_of(self, waiting: Waiting) -> _Needs:
        if waiting.kind == REQUEST:
            return [(waiting.names[0], await self._reply_needs(waiting), waiting.names)]
        needs: _Needs = []
        for name in waiting.names:
            held = await holders_of(self._engine, waiting.kind, name, waiting.slots)
            holdings = [holding_of(record) for _, record in held if record is not None]
            if len(holdings) == len(held):  # else one is free: it is about to be taken
                agents = tuple(holding.agent_id for holding in holdings)
                needs.append((name, frozenset(grant_node(holding.token) for holding in holdings), agents))
        return needs

    async def _reply_needs(self, waiting: Waiting) -> frozenset[str]:
        """Return what gives a reply: the handling of the request, or of what keeps its receiver busy."""
        self.delay = max(self.delay, CONFIRM)
        receiver = waiting.names[0]
        stored = await self._engine.browse(receiver, message_id=waiting.message_id)
        state, attempt = (stored[0].state, stored[0].attempt) if stored else ("leased", 1)  # not stored: at most once
        if state == "leased":
            return frozenset({_answer(handling_node(receiver, waiting.message_id, attempt))})
        if state != "waiting":
            return _MOVING
        self.delay = max(self.delay, CONFIRM_BUSY)
        queue = await self._engine.browse(receiver, limit=MAX_BUSY)
        in_hand = [item for item in queue if item.state == "leased"]
        if not in_hand or len(queue) == MAX_BUSY:
            return _MOVING
        return frozenset(handling_node(receiver, item.message_id, item.attempt) for item in in_hand)

    async def _list(self, node: str) -> tuple[str, ...]:
        node = node.removeprefix(_ANSWER)
        if node not in self._lists:
            self._lists[node] = ids_of(await self._engine.get(node_key(node)))
        return self._lists[node]


class DeadlockCheck:
    """The looks that one wait takes while it lasts. `due`: when to take the next, on the monotonic clock."""

    def __init__(self, engine: Engine, clock: Clock, waiting: Waiting) -> None:
        self._engine = engine
        self._clock = clock
        self._waiting = waiting
        self._suspected: dict[str, Wait] = {}
        self.due = clock.monotonic()

    async def look(self) -> DeadlockError | None:
        """Look; return the error that this wait has to end with once two looks have found the same."""
        while True:
            picture = Picture(self._engine)
            await picture.follow(self._waiting.id)
            waits, held_up = picture.waits, picture.held_up
            stuck = stuck_waits(waits, held_up)
            circle = circle_to_break(self._waiting.id, waits, held_up, stuck)
            now = self._clock.monotonic()
            if circle is None:
                self._suspected = {}
                self.due = now + RENEW_WAIT
                return None
            before, self._suspected = self._suspected, {wait: waits[wait] for wait in stuck}
            if before and all(self._suspected.get(wait) == found for wait, found in before.items()):
                return DeadlockError(self._waiting.kind, self._waiting.names, picture.describe(circle))
            self.due = now + picture.delay
            if picture.delay:
                return None


async def waits_for(space: Space) -> list[WaitsFor]:
    """Return who waits for what in the space, the longest wait first.

    All waits for locks, permits and leaderships, and those for a reply that hold something up.
    """
    engine = space.engine
    _, records = await engine.scan(WAITS)
    found: list[WaitsFor] = []
    for waiting in sorted(map(waiting_of, records), key=lambda waiting: waiting.since):
        for name in waiting.names:
            agents: tuple[str, ...] = waiting.names
            if waiting.kind != REQUEST:
                held = await holders_of(engine, waiting.kind, name, waiting.slots)
                agents = tuple(holding_of(record).agent_id for _, record in held if record is not None)
            found.append(_waits_for(waiting, name, agents))
    return found


_ANSWER = "answer-"


def _answer(node: str) -> str:
    """Return the node of the reply that a handling gives, where `node` is all that it does."""
    return _ANSWER + node


def _waits_for(waiting: Waiting, name: str, agents: tuple[str, ...]) -> WaitsFor:
    return WaitsFor(
        agent_id=waiting.agent_id, kind=waiting.kind, name=name, held_by=agents, since=instant(waiting.since)
    )
