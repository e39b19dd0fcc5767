"""Blackboards: what an activation costs, also on a large board, and what eight writers at once cost each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from itertools import count as counter
from time import perf_counter

from bench.routing import ENGINES
from bench.rows import CONTENT, Direction, Pair, Row, Sampler, Scale
from bench.servers import directory
from tertulia import Blackboard, KnowledgeSource, Message, Space, connect
from tertulia.patterns.blackboard.control import Controller
from tertulia.patterns.blackboard.sources import Situation

WRITERS = 8
LONGEST = 200  # contributions to one board: a run that takes longer begins another, as a team's would
SMALL, LARGE = 100, 5_000  # hypotheses on a board whose growth is looked at
_boards = counter(1)


def _board(space: Space, name: str) -> Blackboard:
    return Blackboard(space, name, sections=("facts", "conclusions"))


async def _conclude(here: Situation) -> None:
    await here.draft.post_hypothesis("conclusions", CONTENT, supports=[here.hypothesis.id])


def _activations(space: Space) -> Sampler:
    async def sample(count: int) -> float:
        seconds = 0.0
        for first in range(0, count, LONGEST):
            facts = min(LONGEST, count - first)
            board = _board(space, f"board-{next(_boards)}")
            for _ in range(facts):
                await board.post_hypothesis("ann", "facts", CONTENT)
            control = Controller(board, [KnowledgeSource(name="conclude", action=_conclude, sections=("facts",))])
            start = perf_counter()
            result = await control.run()
            seconds += perf_counter() - start
            assert result.activations == facts
            assert len(await board.read_section("conclusions")) == facts
        return seconds

    return sample


def _activations_on(space: Space, size: int) -> Sampler:
    """Return what runs activations on a board that has so many hypotheses already; from the first to the last."""
    boards: list[Blackboard] = []
    posted = 0

    async def sample(count: int) -> float:
        nonlocal posted
        if not boards or posted > 2 * size:  # it has grown out of its size
            boards[:], posted = [_board(space, f"board-{next(_boards)}")], size
            for _ in range(size):
                await boards[0].post_hypothesis("ann", "conclusions", CONTENT)
        (board,) = boards
        posted += 2 * count
        for _ in range(count + 1):
            await board.post_hypothesis("ann", "facts", CONTENT)
        moments: list[float] = []

        async def conclude(here: Situation) -> None:
            moments.append(perf_counter())
            await _conclude(here)

        await Controller(board, [KnowledgeSource(name="conclude", action=conclude, sections=("facts",))]).run()
        assert len(moments) == count + 1
        return moments[-1] - moments[0]

    return sample


def _handled(space: Space) -> Sampler:
    async def sample(count: int) -> float:
        start = perf_counter()
        for number in range(count):
            await space.broker.send(Message(sender="ann", receiver="reader", content=CONTENT))
            delivery = await space.broker.receive("reader", timeout=5)
            assert delivery is not None
            async with delivery.transaction() as transaction:
                transaction.write(f"conclusion:{number}", CONTENT, owner="reader")
        return perf_counter() - start

    return sample


def _posting(spaces: list[Space]) -> Sampler:
    """Return what posts a number of hypotheses, spread over one writer in each of the spaces, all at once."""

    async def sample(count: int) -> float:
        seconds = 0.0
        for first in range(0, count, LONGEST):
            posts = min(LONGEST, count - first)
            boards = [_board(space, f"board-{next(_boards)}") for space in spaces[:1]]
            boards += [_board(space, boards[0].name) for space in spaces[1:]]
            numbers = iter(range(posts))

            async def write(place: int, board: Blackboard, numbers: object = numbers) -> None:
                for number in numbers:  # pyright: ignore[reportGeneralTypeIssues] - an iterator that all share
                    await board.post_hypothesis(f"writer-{place}", "facts", number)

            start = perf_counter()
            await asyncio.gather(*(write(place, board) for place, board in enumerate(boards)))
            seconds += perf_counter() - start
            assert sorted(one.content for one in await boards[0].read_section("facts")) == list(range(posts))
        return seconds

    return sample


@asynccontextmanager
async def _spaces(engine: str, handles: int) -> AsyncIterator[list[Space]]:
    with directory() as place:
        url = f"memory:board-{next(_boards)}" if engine == "memory" else f"file:{place}/space.db"
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(connect(url)) for _ in range(handles)]


def _activating(engine: str) -> Callable[[Scale], AbstractAsyncContextManager[Pair]]:
    @asynccontextmanager
    async def measure(_: Scale) -> AsyncIterator[Pair]:
        async with _spaces(engine, 1) as (space,):
            await space.broker.register_agent("reader")
            yield Pair(peer=_handled(space), ours=_activations(space))

    return measure


def _growing(engine: str) -> Callable[[Scale], AbstractAsyncContextManager[Pair]]:
    @asynccontextmanager
    async def measure(_: Scale) -> AsyncIterator[Pair]:
        async with _spaces(engine, 2) as (small, large):
            yield Pair(peer=_activations_on(small, SMALL), ours=_activations_on(large, LARGE))

    return measure


def _contending(engine: str) -> Callable[[Scale], AbstractAsyncContextManager[Pair]]:
    @asynccontextmanager
    async def measure(_: Scale) -> AsyncIterator[Pair]:
        async with _spaces(engine, WRITERS) as spaces:
            yield Pair(peer=_posting(spaces[:1]), ours=_posting(spaces))

    return measure


ROWS: tuple[Row, ...] = tuple(
    row
    for engine in ENGINES
    for row in (
        Row(
            name=f"blackboard-activations-{engine}",
            what=f"an activation that posts a hypothesis, on {engine}",
            peer="send + receive + a transaction that writes a key",
            target=None,
            direction=Direction.TIME_AT_MOST,
            measure=_activating(engine),
        ),
        Row(
            name=f"blackboard-growth-{engine}",
            what=f"an activation on a board of {LARGE:,} hypotheses, on {engine}",
            peer=f"itself, on one of {SMALL:,}",
            target=1.5,
            direction=Direction.TIME_AT_MOST,
            measure=_growing(engine),
        ),
        Row(
            name=f"blackboard-writers-{engine}",
            what=f"a post, of {WRITERS} writers at once with a handle each, on {engine}",
            peer="itself, one writer",
            target=None,
            direction=Direction.TIME_AT_MOST,
            measure=_contending(engine),
        ),
    )
)
