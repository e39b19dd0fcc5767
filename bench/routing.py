"""Contests of the router against fixed choices, on the same routes at the same time.

Every route of a mix is made by each contestant in turn, one right after the other, in an order that changes; each call
is timed, the sender's and those of its receivers, and the bytes that were written and read are counted. The cost is all
that together, with PRICE for a byte. All contestants call `router.route`; those that are fixed pin the channel.

`python -m bench.routing` plays every mix once and shows what each contestant paid and chose; with `--cpu` the time is
the processor's, which other work on the machine disturbs less. Names of mixes or engines choose among them.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import msgspec

from bench.servers import directory
from tertulia import Channel, IntelligentRouter, Space, connect
from tertulia.compare.traces import Conversation, read_conversations
from tertulia.patterns.router import PRICE_PER_BYTE as PRICE

TRACES = "TERTULIA_TRACES"
ROOT = Path(__file__).parents[1]
OWN = ROOT / "examples" / "conversations"
SEED = 7
LEARNING = 500  # routes before anything counts
COUNTED = 500  # routes of a contest that is shown as a table
RARELY = 0.05  # of those that may look at what was only written do
TTL = 600  # seconds; a contest takes less


Kind = tuple[int, int, bool]  # receivers, class of size, relaxed


@dataclass(frozen=True, kw_only=True)
class Route:
    """One thing to be said. `relaxed`: receivers need not be told; then only `looking` want it."""

    receivers: tuple[str, ...]
    content: str
    relaxed: bool = False
    looking: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        """What a choice in hindsight may depend on."""
        return len(self.receivers), len(self.content).bit_length() // 2, self.relaxed


@dataclass(kw_only=True)
class Tally:
    """What a contestant has paid, and which channels it took."""

    seconds: float = 0.0
    bytes: int = 0
    routes: int = 0
    channels: Counter[Channel] = field(default_factory=Counter[Channel])

    @property
    def cost(self) -> float:
        """Seconds, the bytes' price included."""
        return self.seconds + PRICE * self.bytes


# --- mixes ------------------------------------------------------------------------------------------------


def chatty() -> list[Route]:
    """Small talk between two at a time."""
    chance = random.Random(SEED)  # noqa: S311 - no secret
    names = [f"agent-{number}" for number in range(6)]
    return [Route(receivers=(chance.choice(names),), content="x" * chance.randint(40, 400)) for _ in range(200)]


def documents() -> list[Route]:
    """Large documents that many read."""
    chance = random.Random(SEED)  # noqa: S311 - no secret
    readers = tuple(f"agent-{number}" for number in range(12))
    return [Route(receivers=readers, content=_text(chance, chance.randint(100_000, 400_000))) for _ in range(40)]


def mixed() -> list[Route]:
    """Small talk, documents for some, and much that is rarely looked at."""
    chance = random.Random(SEED)  # noqa: S311 - no secret
    names = tuple(f"agent-{number}" for number in range(6))
    routes: list[Route] = []
    for _ in range(200):
        draw = chance.random()
        if draw < 0.5:
            routes.append(Route(receivers=(chance.choice(names),), content="x" * chance.randint(40, 400)))
        elif draw < 0.6:
            routes.append(Route(receivers=names, content=_text(chance, chance.randint(50_000, 200_000))))
        else:
            looking = tuple(name for name in names[:3] if chance.random() < RARELY)
            size = chance.randint(2_000, 60_000)
            routes.append(Route(receivers=names[:3], content=_text(chance, size), relaxed=True, looking=looking))
    return routes


def conversations(found: Sequence[Conversation]) -> list[Route]:
    """Every turn of recorded conversations, from its speaker to whom it is for."""
    routes: list[Route] = []
    for conversation in found:
        names = {name: f"agent-{number}" for number, name in enumerate(conversation.agents)}
        routes += [
            Route(receivers=tuple(names[name] for name in turn.to), content=turn.content)
            for turn in conversation.turns
            if turn.to
        ]
    return routes


def recorded() -> Path | None:
    """Return the folder of recorded conversations, which is no part of the repository, or None where it is absent."""
    named = os.environ.get(TRACES)
    folder = Path(named) if named else ROOT.parent / "shared" / "traces"
    return folder if folder.is_dir() else None


def whose() -> str:
    """Tell which conversations there are to play."""
    return "recorded ones" if recorded() else f"only our own: ${TRACES} names no folder of recorded ones"


def _text(chance: random.Random, size: int) -> str:
    return chance.randbytes(size // 2).hex()


# --- contests ---------------------------------------------------------------------------------------------


class Contest:
    """One mix on one space, played by contestants side by side."""

    def __init__(self, space: Space, routes: Sequence[Route], timer: Callable[[], float] = perf_counter) -> None:
        self.space = space
        self._timer = timer
        self.routes = routes
        self.best: dict[Kind, Channel] = {}
        self._by_kind = defaultdict[Kind, defaultdict[Channel, float]](lambda: defaultdict(float))
        self.fixed = Channel.MESSAGE
        self._turns = cycle(routes)
        self._chance = random.Random(SEED)  # noqa: S311 - no secret
        self._number = 0
        self._routers: dict[str, IntelligentRouter] = {}

    async def prepare(self) -> dict[str, Tally]:
        """Let the router learn on so many routes, and see what would have been best for each kind of them."""
        for agent in sorted({name for route in self.routes for name in route.receivers}):
            await self.space.broker.register_agent(agent)
        tallies = await self.play(LEARNING // 5, ("message", "pointer", "memory", "router"))
        self.best = {kind: min(costs, key=lambda channel: costs[channel]) for kind, costs in self._by_kind.items()}
        message, pointer = tallies["message"].cost, tallies["pointer"].cost
        self.fixed = Channel.MESSAGE if message <= pointer else Channel.POINTER
        await self.play(LEARNING - LEARNING // 5, ("router",))
        return tallies

    async def play(self, count: int, contestants: Sequence[str]) -> dict[str, Tally]:
        """Make so many routes by each of the contestants, interleaved; return what each paid."""
        tallies = {name: Tally() for name in contestants}
        self._by_kind = defaultdict[Kind, defaultdict[Channel, float]](lambda: defaultdict(float))
        for _ in range(count):
            route = next(self._turns)
            self._number += 1
            order = list(contestants)
            self._chance.shuffle(order)
            for name in order:
                if name == "memory" and not route.relaxed:
                    continue
                before = tallies[name].cost
                await self._make(name, route, tallies[name])
                if name in tuple(Channel):
                    self._by_kind[route.kind][Channel(name)] += tallies[name].cost - before
        return tallies

    async def _make(self, name: str, route: Route, tally: Tally) -> None:
        router = self._routers.get(name)
        if router is None:
            router = self._routers[name] = IntelligentRouter(self.space, timer=self._timer)
        hints: dict[str, Any] = {"latency": "relaxed", "ttl": TTL} if route.relaxed else {}
        if name != "router":
            hints["channel"] = self._pinned(name, route)
        content = f"{self._number:09} {name} {route.content}"  # nobody's copy but this contestant's
        contents = self.space.broker.contents
        stored = contents.stored_bytes
        start = self._timer()
        result = await router.route(f"by-{name}", route.receivers, content, hints or None)
        read = await self._read(router, route, content, result.key)
        tally.seconds += self._timer() - start
        size = len(msgspec.msgpack.encode(content))
        written = {Channel.MESSAGE: size * len(route.receivers), Channel.MEMORY: size}
        tally.bytes += written.get(result.channel, contents.stored_bytes - stored) + size * read
        tally.routes += 1
        tally.channels[result.channel] += 1
        if result.key is not None:
            await self.space.memory.delete(result.key, requester="bench")

    def _pinned(self, name: str, route: Route) -> Channel:
        if name == "hindsight":
            return self.best.get(route.kind, self.fixed)
        return self.fixed if name == "fixed" else Channel(name)

    async def _read(self, router: IntelligentRouter, route: Route, content: str, key: str | None) -> int:
        """Let the receivers have it, those who look if it was only written; return how many did."""
        if key is not None:
            for agent in route.looking:
                assert await router.read(key, reader=agent) == content
            return len(route.looking)
        for agent in route.receivers:
            delivery = await self.space.broker.receive(agent, timeout=5)
            assert delivery is not None
            assert delivery.message.content == content
            await delivery.acknowledge()
        return len(route.receivers)


MIXES = {
    "chatty": ("small talk between two", chatty),
    "documents": ("100 to 400 KB for twelve readers", documents),
    "mixed": ("talk, documents, and what is rarely read", mixed),
    "conversations": ("turns of conversations", lambda: conversations(read_conversations(recorded() or OWN))),
}
ENGINES = ("memory", "file")


@asynccontextmanager
async def contest(mix: str, engine: str, timer: Callable[[], float] = perf_counter) -> AsyncIterator[Contest]:
    """Open a fresh space on an engine, with a contest that is prepared."""
    with directory() as place:
        async with connect("memory:" if engine == "memory" else f"file:{place}/space.db") as space:
            made = Contest(space, MIXES[mix][1](), timer)
            await made.prepare()
            yield made


async def _main() -> None:
    wanted = set(sys.argv[1:]) - {"--cpu"}
    timer, clock = (process_time, "processor") if "--cpu" in sys.argv else (perf_counter, "wall")
    print(f"{clock} time; a byte costs {PRICE * 1e9:g} ns; {COUNTED} routes after {LEARNING} to learn from")
    for engine in [engine for engine in ENGINES if engine in wanted or not wanted & set(ENGINES)]:
        for mix in [mix for mix in MIXES if mix in wanted or not wanted & set(MIXES)]:
            what = MIXES[mix][0]
            what += f", {whose()}" if mix == "conversations" else ""
            async with contest(mix, engine, timer) as made:
                tallies = await made.play(COUNTED, ("message", "pointer", "hindsight", "router"))
                print(f"\n{mix} on {engine} ({what}):")
                best = tallies["hindsight"].cost
                for name, tally in tallies.items():
                    took = ", ".join(f"{count} by {channel}" for channel, count in tally.channels.most_common())
                    print(
                        f"  {name:9} {tally.cost / tally.routes * 1e6:10,.1f} µs a route "
                        f"({tally.seconds / tally.routes * 1e6:,.1f} µs and {tally.bytes / tally.routes:,.0f} bytes), "
                        f"{tally.cost / best:.3f} of hindsight: {took}"
                    )


if __name__ == "__main__":
    asyncio.run(_main())
