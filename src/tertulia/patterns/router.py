"""A router: says what is to be communicated, to whom, and lets measurements decide how."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from time import perf_counter
from typing import Any

from tertulia._arguments import check_seconds
from tertulia._codec import convert
from tertulia._names import check_key, check_name
from tertulia._rules.routing import (
    MEMORY,
    Cell,
    Figures,
    Seen,
    believed_seconds,
    choose,
    estimate,
    observation,
)
from tertulia._rules.routing_costs import LINES
from tertulia._rules.sizes import estimated_size
from tertulia.errors import InvalidHintError, InvalidInputError, KeyNotFoundError
from tertulia.patterns._routing_cells import (
    CHANNELS,
    PLACES,
    cell_name,
    cell_parts,
    kind_of,
    latency_of,
    open_places,
    refusals,
)
from tertulia.patterns._routing_hints import Hints, hints_of
from tertulia.patterns._routing_profile import TOTAL, Learned, News
from tertulia.patterns._routing_report import explanation, report_of
from tertulia.patterns._routing_targets import ROUTED, SEVERAL, Registered, Target, target_of
from tertulia.patterns._routing_ways import CELL_TAG, Ways
from tertulia.routes import (
    Channel,
    Latency,
    RoutedContent,
    RouteDecision,
    RouteResult,
    RouterReport,
)
from tertulia.space import Space

PRICE_PER_BYTE = 1e-9  # seconds: a gigabyte a second, about what a disk, a network or a decoder moves
EXPECTED_SUBSCRIBERS = 2.0  # of a topic, until it is seen how many there are


class IntelligentRouter:
    """Routes contents between agents by the cheapest channel: `await router.route(sender, receiver, content)`.

    Small things go in messages; large ones that several read are kept in memory once, with a message that points at
    them to each; what receivers may or may not look at is only written, where the caller allows it; and where a reply
    is wanted it is a request. Receivers see no difference between a message and a pointer. What is cheapest is
    predicted from measurements, corrected by what the calls of this sender to these receivers have taken, and written
    down in the space, so that it outlives the process and is shared with others.

    `price_per_byte` is what a byte that is written, or that a receiver reads, is worth, in seconds. `timer` gives
    seconds for measuring calls.
    """

    def __init__(
        self, space: Space, *, price_per_byte: float = PRICE_PER_BYTE, timer: Callable[[], float] = perf_counter
    ) -> None:
        self.space = space
        self.price_per_byte = check_seconds("price_per_byte", price_per_byte, zero=True)
        self._timer = timer
        scheme = space.url.partition(":")[0]
        self._lines = LINES["memory" if scheme == "memory" else "nats" if scheme in ("nats", "tls") else "file"]
        self._ways = Ways(space, Registered(space.broker, space.clock))
        self._learned: dict[str, Learned] = {}

    # --- routing ---

    async def route(
        self,
        sender: str,
        receiver: str | Iterable[str],
        content: object,
        hints: Mapping[str, Any] | None = None,
    ) -> RouteResult:
        """Bring the content to the receiver: an agent, several agents, or "topic:NAME" for whoever subscribed.

        Hints: `latency` "low", "normal" or "relaxed"; `durability`, a DeliveryMode; `reply` True, or the seconds to
        wait for it; `ttl` in seconds, after which nobody has to handle it any more; `channel`, which pins one;
        `message_id`, by which a repeated route is recognised. All receivers get it, or on an error none.

        Raises, before anything is stored, UnknownHintError, InvalidHintError, UnknownAgentError, MailboxFullError,
        EncodeError and what else sending raises; for a request what `broker.request_response` raises, and of several
        an ExceptionGroup.

        Cancellation: a cancelled route either happened or did not.
        """
        wanted = hints_of(hints)
        target = target_of(receiver)
        learned = self._learned.get(sender) or await self._learn(sender)
        decision, cell = self._decide(learned, sender, target, content, wanted)
        contents = self.space.broker.contents
        stored, start = contents.stored_bytes, self._timer()
        sent = await self._ways.take(decision.channel, sender, target, content, wanted, cell)
        seconds, stored = self._timer() - start, contents.stored_bytes - stored
        receipt = sent.receipt
        if not receipt.duplicate:
            self._observe(learned, cell, decision, seconds=seconds, stored=stored, delivered=receipt.delivered)
        return RouteResult(
            channel=decision.channel,
            message_id=receipt.message_id,
            delivered=receipt.delivered,
            decision=decision,
            key=sent.key,
            reply=sent.reply,
            duplicate=receipt.duplicate,
        )

    async def decide(
        self,
        sender: str,
        receiver: str | Iterable[str],
        content: object,
        hints: Mapping[str, Any] | None = None,
    ) -> RouteDecision:
        """Return how `route` would send this now, and send nothing. Raises UnknownHintError, InvalidHintError."""
        wanted = hints_of(hints)
        target = target_of(receiver)
        learned = self._learned.get(sender) or await self._learn(sender)
        return self._decide(learned, sender, target, content, wanted)[0]

    # --- what was only written ---

    async def available(self, reader: str) -> list[RoutedContent]:
        """Return what was routed by memory to this agent, or to "topic:NAME", and is there still; oldest first."""
        target = target_of(reader)
        engine = self.space.engine
        _, records = await engine.scan(target.prefix, bodies=False)
        if target.names:
            tags = frozenset(target.names)
            _, shared = await engine.scan(f"{ROUTED}{SEVERAL}:", tags=tags, bodies=False)
            records = sorted((*records, *shared), key=lambda record: record.revision)
        return [
            RoutedContent(
                key=record.key,
                sender=record.owner,
                revision=record.revision,
                expires=record.expires,
                reads=record.access_count,
            )
            for record in records
        ]

    async def read(self, key: str, *, reader: str, type: Any = None) -> Any:
        """Return what was routed by memory under this key, as often as it is wanted; the router learns how often.

        Raises KeyNotFoundError when its time is over, and DecodeError for content that is not of the type.
        """
        if not check_key(key).startswith(ROUTED):
            raise InvalidInputError(f"{key!r} is no key of a routed content")
        entry = await self.space.memory.read_with_metadata(key, reader=reader)
        if entry is None:
            raise KeyNotFoundError(key)
        cell = next((tag.removeprefix(CELL_TAG) for tag in entry.tags if tag.startswith(CELL_TAG)), None)
        if cell is not None and entry.owner:
            learned = self._learned.get(entry.owner) or await self._learn(entry.owner)
            self._see(learned, News(cell, MEMORY, Seen(reads=1.0)))
        return entry.value if type is None else convert(entry.value, type)

    # --- figures ---

    def explain(self, decision: RouteDecision) -> str:
        """Return why a route went as it did: each channel's figures, as they were then, and what decided."""
        return explanation(decision)

    async def report(self) -> RouterReport:
        """Return what was routed how, what it cost, and how much less the cheapest channels would have cost.

        Writes down what was learned first, so it counts what all processes have written down by now.
        """
        await self.save()
        contents = self.space.broker.contents
        cells = [
            (sender, name, cell, self._costs_of(learned, name, cell))
            for sender, learned in self._learned.items()
            for name, cell in learned.known.cells.items()
            if name != TOTAL and cell.routes
        ]
        return report_of(cells, fetched=contents.fetches, fetched_bytes=contents.fetched_bytes)

    async def save(self) -> None:
        """Write down in the space what was learned since the last time, as is done every 128 routes of a sender."""
        for learned in list(self._learned.values()):
            await learned.save()

    # --- inside ---

    async def _learn(self, sender: str) -> Learned:
        learned = Learned(self.space.engine, check_name(sender))
        await learned.load()
        return self._learned.setdefault(sender, learned)

    def _decide(
        self, learned: Learned, sender: str, target: Target, content: object, hints: Hints
    ) -> tuple[RouteDecision, str]:
        size = estimated_size(content)
        kind = kind_of(hints)
        name = cell_name(target, size, kind)
        cell = learned.known.cell(name)
        readers = float(len(target.names)) if target.topic is None else _subscribers(cell)
        price = 0.0 if hints.latency is Latency.LOW else self.price_per_byte
        closed = refusals(kind, target, hints.channel)
        figures = self._figures(learned.speeds, cell, size, readers, price, closed)
        chosen, explored = choose(figures, cell)
        if chosen < 0:
            pinned = hints.channel or Channel.MESSAGE
            raise InvalidHintError("channel", pinned.value, closed[PLACES[pinned]])
        decision = RouteDecision(
            sender=sender,
            receivers=target.names,
            topic=target.topic,
            channel=CHANNELS[chosen],
            size=size,
            readers=readers,
            latency=hints.latency,
            delivery_mode=hints.mode,
            reply=hints.reply,
            pinned=hints.channel is not None,
            explored=explored and hints.channel is None,
            price=price,
            figures=tuple(figures),
        )
        return decision, name

    def _figures(
        self, speeds: list[float], cell: Cell, size: float, readers: float, price: float, closed: Sequence[str]
    ) -> list[Figures | str]:
        """Return what a route is expected to cost by each channel, or why it cannot take it."""
        figures: list[Figures | str] = []
        for place, reason in enumerate(closed):
            if reason:
                figures.append(reason)
                continue
            line, seen = self._lines[place], cell.seen[place]
            figures.append(estimate(place, line, seen, size, readers, speeds[place], price))
        return figures

    def _observe(
        self, learned: Learned, name: str, decision: RouteDecision, *, seconds: float, stored: int, delivered: int
    ) -> None:
        """Learn from one route: what its call took, and what it had to store."""
        place, size = PLACES[decision.channel], float(decision.size)
        line = self._lines[place]
        receivers = float(delivered or len(decision.receivers))
        believed = believed_seconds(line, learned.known.cell(name).seen[place], size, receivers, learned.speeds[place])
        written = min(float(stored), size)
        seen = observation(line, size, receivers, seconds, believed=believed, written=written, nominal=size)
        if decision.pinned:
            seen.pinned = 1
        else:
            seen.routes = 1
        if place == MEMORY:
            seen.readable = decision.readers
        self._see(learned, News(name, place, seen, size, decision.explored))

    def _see(self, learned: Learned, news: News) -> None:
        if learned.see(news):
            self.space.background.start(learned.save(), "tertulia router saving")

    def _costs_of(self, learned: Learned, name: str, cell: Cell) -> dict[Channel, float]:
        """Return what a route of a cell is expected to cost now, by the channels that are open to it."""
        kind = cell_parts(name)[1]
        price = 0.0 if latency_of(kind) is Latency.LOW else self.price_per_byte
        receivers = _subscribers(cell)
        places = open_places(kind)
        closed = ["" if place in places else kind for place in range(len(CHANNELS))]
        found = self._figures(learned.speeds, cell, cell.size / cell.routes, receivers, price, closed)
        return {CHANNELS[place]: one[3] for place, one in enumerate(found) if not isinstance(one, str)}


def _subscribers(cell: Cell) -> float:
    """Return how many receivers the routes of a cell had, on the average."""
    return max((seen.receivers / seen.weight for seen in cell.seen if seen.weight), default=EXPECTED_SUBSCRIBERS)
