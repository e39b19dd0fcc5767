"""The router against what would have been best in hindsight, against the better fixed choice, and its own time.

The contests are told by the processor's time: all of their work is done in one process, and what else the machine does
falls on one contestant or the other by chance.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from time import perf_counter, process_time

from bench.routing import ENGINES, LEARNING, MIXES, PRICE, contest, whose
from bench.rows import CONTENT, Direction, Pair, Row, Scale
from tertulia import IntelligentRouter, Message, Space, connect

DECIDE = 10e-6  # seconds that a decision may take
REGRET = 1.10  # of the cost in hindsight
NEVER_WORSE = 1.05  # than the better fixed choice


def _contest(mix: str, engine: str, rival: str) -> Callable[[Scale], AbstractAsyncContextManager[Pair]]:
    """Return a row's measurement: the rival's sampler makes each route by both, one after the other, and ours tells."""

    @asynccontextmanager
    async def measure(_: Scale) -> AsyncIterator[Pair]:
        async with contest(mix, engine, process_time) as made:
            ours = 0.0

            async def sample_rival(count: int) -> float:
                nonlocal ours
                tallies = await made.play(count, (rival, "router"))
                ours = tallies["router"].cost / count
                return tallies[rival].cost

            async def sample_ours(count: int) -> float:
                return ours * count

            yield Pair(peer=sample_rival, ours=sample_ours)

    return measure


def _rows() -> list[Row]:
    rows: list[Row] = []
    for mix, (what, _) in MIXES.items():
        about = f"{what} ({whose()})" if mix == "conversations" else what
        for engine in ENGINES:
            told = (
                f"processor time and {PRICE * 1e9:g} ns a byte of routes on {engine}: {about}; after {LEARNING} routes"
            )
            for name, rival, peer, target in (
                (f"router-{mix}-{engine}", "hindsight", "the best channel of each kind in hindsight", REGRET),
                (f"router-{mix}-{engine}-fixed", "fixed", "the better of always message, always pointer", NEVER_WORSE),
            ):
                rows.append(
                    Row(
                        name=name,
                        what=told,
                        peer=peer,
                        target=target,
                        direction=Direction.TIME_AT_MOST,
                        measure=_contest(mix, engine, rival),
                    )
                )
    return rows


@asynccontextmanager
async def _learned() -> AsyncIterator[tuple[Space, IntelligentRouter]]:
    """Open a space with a reader, and a router that knows the way."""
    async with connect("memory:") as space:
        await space.broker.register_agent("reader")
        router = IntelligentRouter(space)
        for _ in range(LEARNING):
            await router.route("writer", "reader", CONTENT)
            await _take(space)
        yield space, router


async def _take(space: Space) -> None:
    delivery = await space.broker.receive("reader", timeout=0)
    assert delivery is not None
    assert delivery.message.content == CONTENT
    await delivery.acknowledge()


@asynccontextmanager
async def _deciding(_: Scale) -> AsyncIterator[Pair]:
    async with _learned() as (_space, router):

        async def limit(count: int) -> float:
            return DECIDE * count

        async def decide(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                await router.decide("writer", "reader", CONTENT)
            return perf_counter() - start

        yield Pair(peer=limit, ours=decide)


@asynccontextmanager
async def _alone(_: Scale) -> AsyncIterator[Pair]:
    async with _learned() as (space, router):

        async def send(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                await space.broker.send(Message(sender="writer", receiver="reader", content=CONTENT))
                await _take(space)
            return perf_counter() - start

        async def route(count: int) -> float:
            start = perf_counter()
            for _ in range(count):
                await router.route("writer", "reader", CONTENT)
                await _take(space)
            return perf_counter() - start

        yield Pair(peer=send, ours=route)


ROWS: tuple[Row, ...] = (
    *_rows(),
    Row(
        name="router-decide",
        what="router.decide for a small content",
        peer="10 µs",
        target=1.0,
        direction=Direction.TIME_AT_MOST,
        measure=_deciding,
    ),
    Row(
        name="router-alone",
        what="router.route of a small content in process, received and acknowledged",
        peer="broker.send of the same",
        target=None,
        direction=Direction.TIME_AT_MOST,
        measure=_alone,
    ),
)
