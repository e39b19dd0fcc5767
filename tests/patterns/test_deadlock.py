"""Deadlocks: found where they are, named as they are, broken once; and never seen where there is none."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tertulia import Election, Lock, Message, MessagePassingAgent, Semaphore, Space, WaitsFor
from tertulia._clock import sleep
from tertulia._rules.waits import Wait, circle_to_break, stuck_waits
from tertulia.engines.base import DEFAULT_LEASE, Claimed
from tertulia.errors import DeadlockError, RemoteError, RequestTimeoutError
from tertulia.messaging.context import WAITS_HEADER
from tertulia.patterns.deadlock import waits_for
from tertulia.testing.conformance import SpaceHarness
from tertulia.testing.faults import FaultyEngine
from tests.patterns.handles import another_process
from tests.patterns.locking import in_time, kept, nothing_is_left, soon, together, until, wait_in_line
from tests.patterns.orderly import AGENTS, ROUNDS, Program
from tests.patterns.rings import Edge, Ring

RUNS = {"short": 200, "campaign": 5_000}[os.environ.get("TERTULIA_PROFILE", "short")]
AT_ONCE = 25  # rings or programs that share a space
DELAY = 0.3  # seconds that a message takes to a sluggish process: more than it takes to suspect a circle


# --- the rules -----------------------------------------------------------------------------------------

_IDS = "abcdef"
_NODES = "uvwxyz"


@st.composite
def graphs(draw: st.DrawFn) -> tuple[dict[str, Wait], dict[str, list[str]]]:
    """Waits of one or two needs, each of one to three nodes, and nodes held up by any of the waits."""
    ids = draw(st.lists(st.sampled_from(_IDS), unique=True, min_size=1))
    need = st.frozensets(st.sampled_from(_NODES), min_size=1, max_size=3)
    needs = st.lists(need, min_size=1, max_size=2).map(tuple)
    waits = {wait: Wait(age, draw(needs)) for age, wait in enumerate(draw(st.permutations(ids)))}
    held_up = {node: draw(st.lists(st.sampled_from(ids), unique=True, max_size=2)) for node in _NODES}
    return waits, held_up


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(graphs())
def test_stuck_are_those_waits_that_only_wait_for_each_other(graph: tuple[dict[str, Wait], dict[str, list[str]]]):
    waits, held_up = graph

    def only_for_each_other(group: tuple[str, ...]) -> bool:
        return all(
            any(all(set(held_up[node]) & set(group) for node in need) for need in waits[wait].needs) for wait in group
        )

    groups = itertools.chain(*(itertools.combinations(waits, size) for size in range(len(waits) + 1)))
    expected = {wait for group in groups if only_for_each_other(group) for wait in group}

    assert stuck_waits(waits, held_up) == expected


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(graphs())
def test_one_wait_of_every_knot_of_circles_gives_way_and_names_a_circle_that_is_there(
    graph: tuple[dict[str, Wait], dict[str, list[str]]],
):
    waits, held_up = graph
    stuck = stuck_waits(waits, held_up)
    needed = {
        wait: {
            other
            for need in waits[wait].needs
            if all(set(held_up[node]) & stuck for node in need)
            for node in need
            for other in held_up[node]
            if other in stuck
        }
        for wait in stuck
    }
    reached = {wait: set(needed[wait]) for wait in stuck}
    for _ in stuck:
        reached = {wait: found.union(*(needed[other] for other in found)) for wait, found in reached.items()}
    knots = {frozenset(other for other in reached[wait] if wait in reached[other]) for wait in stuck} - {frozenset()}

    broken = {wait: circle for wait in waits if (circle := circle_to_break(wait, waits, held_up, stuck)) is not None}

    assert set(broken) == {max(knot, key=lambda wait: waits[wait].age) for knot in knots}
    for wait, circle in broken.items():
        path = [step.wait for step in circle]
        assert path[0] == wait
        assert len(set(path)) == len(path)
        for step, after in zip(circle, [*path[1:], wait], strict=True):
            assert any(step.node in need for need in waits[step.wait].needs)
            assert after in held_up[step.node]


# --- circles -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 4, 5])
async def test_a_circle_of_locks_is_broken_once_and_named(harness: SpaceHarness, space: Space, size: int):
    spaces = [space, await harness.open_again(), await harness.open_again()]
    closed = asyncio.Barrier(size)

    def take_two(number: int) -> Coroutine[Any, Any, DeadlockError | None]:
        mine = Lock(spaces[number % 3], f"lock{number}")
        after = Lock(spaces[number % 3], f"lock{(number + 1) % size}")
        return hold_and_want(mine, after, f"agent{number}", closed)

    outcomes = await soon(harness, together(*(take_two(number) for number in range(size))))

    [deadlock] = [outcome for outcome in outcomes if outcome is not None]
    assert deadlock.agent_id == f"agent{outcomes.index(deadlock)}"
    assert deadlock.cycle[0].agent_id == deadlock.agent_id
    expected = [(f"agent{n}", "lock", f"lock{(n + 1) % size}") for n in range(size)]
    assert is_rotation(edges(deadlock), expected)
    assert all(wait.held_by == (after.agent_id,) for wait, after in pairs(deadlock))
    assert "held by" in str(deadlock)
    await nothing_is_left(harness, space)


async def test_an_agent_that_asks_while_it_holds_what_the_asked_needs_is_told(harness: SpaceHarness, space: Space):
    other = await harness.open_again()
    lock = Lock(space, "report")
    async with MessagePassingAgent("bob", other.broker) as bob:

        @bob.on_message("default")
        async def handle(_: Message) -> str:
            async with Lock(other, "report").hold("bob"):
                return "done"

        ann = MessagePassingAgent("ann", space.broker)

        async def ask() -> str:
            async with lock.hold("ann"):
                return await ann.request("bob", "please")

        with pytest.raises((DeadlockError, RemoteError)) as told:
            await in_time(harness, asyncio.create_task(ask()))
        if isinstance(told.value, RemoteError):  # where waiting is seen only eventually, bob may be the one to close it
            assert harness.url.startswith("nats:")
            assert told.value.kind == DeadlockError.__name__
        else:
            assert edges(told.value) == [("ann", "request", "bob"), ("bob", "lock", "report")]
            assert (told.value.kind, told.value.names) == ("request", ("bob",))
        assert await in_time(harness, asyncio.create_task(ann.request("bob", "please"))) == "done"
    await nothing_is_left(harness, space)


async def test_a_circle_through_a_helper_s_helper_and_parallel_requests_is_found(harness: SpaceHarness, space: Space):
    other = await harness.open_again()
    async with AsyncExitStack() as stack:
        carl = await serve(stack, other, "carl", lambda _: hold(Lock(other, "report"), "carl"))
        bob = await serve(stack, space, "bob", lambda message: bob.request("carl", message.content))
        await serve(stack, other, "idle", lambda _: asyncio.sleep(0, "done"))
        ann = MessagePassingAgent("ann", space.broker)

        async def ask() -> None:
            async with Lock(space, "report").hold("ann"):
                await asyncio.gather(ann.request("idle", 1), ann.request("bob", 1))

        with pytest.raises((DeadlockError, RemoteError)) as deadlock:
            await in_time(harness, asyncio.create_task(ask()))
        if isinstance(deadlock.value, DeadlockError):
            assert edges(deadlock.value) == [
                ("ann", "request", "bob"),
                ("bob", "request", "carl"),
                ("carl", "lock", "report"),
            ]
        assert carl.agent_id == "carl"


async def test_a_request_to_an_agent_that_is_busy_waiting_for_the_requester_is_told(
    harness: SpaceHarness, space: Space
):
    lock = Lock(space, "report")
    async with AsyncExitStack() as stack:
        await serve(stack, space, "bob", lambda _: hold(lock, "bob"))
        ann = MessagePassingAgent("ann", space.broker)
        go = asyncio.Event()

        async def ask() -> object:
            async with lock.hold("ann"):
                await ann.send("bob", "first")
                await go.wait()
                return await ann.request("bob", "second")

        asking = asyncio.create_task(ask())
        await until(harness, lock.waiting)
        go.set()
        with pytest.raises(DeadlockError) as deadlock:
            await in_time(harness, asking)
        assert edges(deadlock.value) == [("ann", "request", "bob"), ("bob", "lock", "report")]
    await nothing_is_left(harness, space)


async def test_two_handlers_that_ask_each_other_are_told(harness: SpaceHarness, space: Space):
    told: list[DeadlockError] = []
    Lock(space, "any")  # a handle that uses locks sees all waits of its handlers

    async with AsyncExitStack() as stack:

        async def ask(agent: MessagePassingAgent, other: str, depth: int) -> object:
            if not depth:
                return "the bottom"
            try:
                return await agent.request(other, depth - 1)
            except DeadlockError as deadlock:
                told.append(deadlock)
                return "broken"

        ann = await serve(stack, space, "ann", lambda message: ask(ann, "bob", message.content))
        bob = await serve(stack, space, "bob", lambda message: ask(bob, "ann", message.content))

        outside = MessagePassingAgent("carl", space.broker)
        assert await in_time(harness, asyncio.create_task(outside.request("ann", 2)), step=0.2) == "broken"
        assert len(told) == 1
        assert is_rotation(edges(told[0]), [("ann", "request", "bob"), ("bob", "request", "ann")])


async def test_a_victim_that_handles_a_request_answers_it_with_the_deadlock(harness: SpaceHarness, space: Space):
    first, second = Lock(space, "first"), Lock(space, "second")
    holding, go = asyncio.Event(), asyncio.Event()
    async with AsyncExitStack() as stack:

        async def both(_: Message) -> str:
            async with second.hold("bob"):
                holding.set()
                await go.wait()
                async with first.hold("bob"):
                    return "done"

        await serve(stack, space, "bob", both)

        async def rival() -> None:
            async with first.hold("carl"):
                asked = asyncio.create_task(MessagePassingAgent("ann", space.broker).request("bob", 1))
                await holding.wait()
                async with second.hold("carl"):
                    pass
            await asked

        first_to_wait = asyncio.create_task(rival())
        await until(harness, second.waiting)
        go.set()
        with pytest.raises(RemoteError) as failed:
            await in_time(harness, first_to_wait)
        assert failed.value.kind == "DeadlockError"
        assert failed.value.detail.startswith("deadlock: 'bob' waits for lock 'first', held by 'carl'; 'carl' waits")


async def test_a_circle_through_an_election_is_found(harness: SpaceHarness, space: Space):
    lock, election = Lock(space, "report"), Election(space, "chair")
    async with election.lead("ann"):
        holding = asyncio.create_task(hold_and_want(lock, election, "bob"))
        await until(harness, election.candidates)

        with pytest.raises(DeadlockError) as deadlock:
            await soon(harness, asyncio.create_task(lock.acquire("ann", timeout=None)))
        assert edges(deadlock.value) == [("ann", "lock", "report"), ("bob", "election", "chair")]
    assert await soon(harness, holding) is None


async def test_a_circle_through_a_semaphore_is_a_deadlock_only_if_every_permit_is_held_in_it(
    harness: SpaceHarness, space: Space
):
    semaphore, lock = Semaphore(space, "search", 2), Lock(space, "report")
    outside = await semaphore.acquire("outside")
    closed = asyncio.Barrier(2)
    circle = together(hold_and_want(semaphore, lock, "ann", closed), hold_and_want(lock, semaphore, "bob", closed))
    await until(harness, semaphore.waiting)
    for _ in range(10):
        await harness.advance(1)  # one permit is with somebody who may still give it back
    assert not circle.done()

    await outside.release()
    assert await soon(harness, circle) == [None, None]
    await nothing_is_left(harness, space, "permits:search")


async def test_a_circle_through_all_permits_is_broken(harness: SpaceHarness, space: Space):
    semaphore, lock = Semaphore(space, "search", 2), Lock(space, "report")
    closed = asyncio.Barrier(3)

    outcomes = await in_time(
        harness,
        together(
            hold_and_want(semaphore, lock, "ann", closed),
            hold_and_want(semaphore, lock, "bob", closed),
            hold_and_want(lock, semaphore, "carl", closed),
        ),
    )

    found = [outcome for outcome in outcomes if outcome is not None]
    assert len(found) == 1
    assert ("carl", "semaphore", "search") in edges(found[0])
    carl = next(wait for wait in found[0].cycle if wait.agent_id == "carl")
    assert sorted(carl.held_by) == ["ann", "bob"]


# --- no circles ----------------------------------------------------------------------------------------


async def test_agents_that_are_slow_are_not_deadlocked(harness: SpaceHarness, space: Space):
    lock = Lock(space, "report")
    go = asyncio.Event()
    async with AsyncExitStack() as stack:

        async def slow(_: Message) -> str:
            await go.wait()
            return "done"

        await serve(stack, space, "bob", slow)
        ann = MessagePassingAgent("ann", space.broker)

        async def ask() -> object:
            async with lock.hold("ann", lease=1000):
                return await asyncio.gather(*(ann.request("bob", n, timeout=1000) for n in range(3)))

        asking = asyncio.create_task(ask())
        await until(harness, lock.holders)
        waiting = [await wait_in_line(harness, lock, agent_id, timeout=None) for agent_id in ("carl", "dora")]
        for _ in range(20):
            await harness.advance(1)
        assert not asking.done()

        go.set()
        assert await soon(harness, asking) == ["done"] * 3
        for task in waiting:
            await (await soon(harness, task)).release()


async def test_a_second_handler_that_is_free_soon_is_not_a_deadlock(harness: SpaceHarness, space: Space):
    lock = Lock(space, "report")
    go = asyncio.Event()
    async with AsyncExitStack() as stack:
        bob = MessagePassingAgent("bob", space.broker, concurrency=2)

        @bob.on_message("default")
        async def handle(message: Message) -> str:
            if message.content == "lock":
                return await hold(lock, "bob")
            if message.content == "slow":
                await go.wait()
            return "done"

        await stack.enter_async_context(bob)
        ann = MessagePassingAgent("ann", space.broker)

        async def ask() -> object:
            async with lock.hold("ann", lease=1000):
                await ann.send("bob", "lock")
                await ann.send("bob", "slow")
                await ready.wait()
                return await ann.request("bob", "quick", timeout=1000)

        ready = asyncio.Event()
        asking = asyncio.create_task(ask())
        await until(harness, lock.waiting)
        ready.set()
        for _ in range(10):
            await harness.advance(1)
        assert not asking.done()
        go.set()
        assert await in_time(harness, asking) == "done"


async def test_a_handler_that_is_slow_to_take_a_message_is_not_taken_for_a_busy_one(
    harness: SpaceHarness, space: Space
):
    lock = Lock(space, "report")
    async with sluggish(harness) as slow, AsyncExitStack() as stack:
        bob = MessagePassingAgent("bob", slow.broker, concurrency=2)

        @bob.on_message("default")
        async def handle(message: Message) -> str:
            return "done" if message.content == "quick" else await hold(lock, "bob")

        await stack.enter_async_context(bob)
        ann = MessagePassingAgent("ann", space.broker)
        go = asyncio.Event()

        async def ask() -> object:
            async with lock.hold("ann", lease=1000):
                await ann.send("bob", "lock")
                await go.wait()
                return await ann.request("bob", "quick", timeout=1000)

        asking = asyncio.create_task(ask())
        while not await lock.waiting():
            await harness.advance(0.1)
        go.set()
        assert await in_time(harness, asking) == "done"


async def test_a_requester_that_has_its_answer_already_is_not_in_the_circle(harness: SpaceHarness, space: Space):
    lock = Lock(space, "report")
    answer, ended = asyncio.Event(), asyncio.Event()
    async with sluggish(harness) as slow, AsyncExitStack() as stack:
        bob = MessagePassingAgent("bob", space.broker)

        @bob.on_message("default")
        async def handle(message: Message) -> None:
            await answer.wait()
            await bob.reply(message, "soon")
            async with lock.hold("bob", timeout=None):
                ended.set()

        await stack.enter_async_context(bob)
        ann = MessagePassingAgent("ann", slow.broker)  # whose replies take their time

        async def ask() -> object:
            async with Lock(slow, "report").hold("ann", lease=1000):
                return await ann.request("bob", 1)

        asking = asyncio.create_task(ask())
        await until(harness, lock.holders)
        await harness.advance(0.2)  # the request is written down
        answer.set()
        assert await in_time(harness, asking) == "soon"
        await soon(harness, ended.wait())


async def test_a_request_that_timed_out_holds_nothing_up_any_more(harness: SpaceHarness, space: Space):
    first, second = Lock(space, "first"), Lock(space, "second")
    async with AsyncExitStack() as stack:
        bob = MessagePassingAgent("bob", space.broker)

        @bob.on_message("default")
        async def handle(_: Message) -> None:
            async with first.hold("bob", timeout=None):
                pass

        await stack.enter_async_context(bob)
        ann = MessagePassingAgent("ann", space.broker)
        async with second.hold("ann"):
            other = await first.acquire("carl", lease=1000)
            with pytest.raises((RequestTimeoutError, RemoteError)):
                await in_time(harness, asyncio.create_task(ann.request("bob", 1, timeout=0.5)), step=0.1)
            assert [wait.kind for wait in await waits_for(space) if wait.agent_id == "ann"] == []
        await other.release()


async def test_what_is_started_in_a_block_for_another_agent_is_not_part_of_it(harness: SpaceHarness, space: Space):
    a, b = Lock(space, "a"), Lock(space, "b")
    async with a.hold("ann"):
        holds_b = asyncio.create_task(hold_and_want(b, a, "carl"))
        await until(harness, a.waiting)
        waits_for_b = await wait_in_line(harness, b, "bob", timeout=None)  # in ann's block, but not for ann
        for _ in range(5):
            await harness.advance(1)
        assert not waits_for_b.done()
    await soon(harness, holds_b)
    await soon(harness, waits_for_b)


async def test_a_dead_agent_s_wait_is_no_edge_once_it_ran_out(harness: SpaceHarness, space: Space):
    a, b = Lock(space, "a"), Lock(space, "b")
    async with another_process(harness) as process:
        gone = Lock(process.space, "a")
        await gone.acquire("ann", lease=60)
        await b.acquire("bob", lease=1000)
        stuck = await wait_in_line(harness, Lock(process.space, "b"), "ann", timeout=None)
        process.crash()
        for _ in range(6):
            await harness.advance(1)
        assert [wait.agent_id for wait in await waits_for(space)] == []

        waiting = await wait_in_line(harness, a, "bob", timeout=100)  # not a deadlock: ann's lease ends, too
        assert (await in_time(harness, waiting, step=5)).agent_id == "bob"
        with pytest.raises(Exception, match="cannot be reached"):
            await stuck


async def test_a_program_without_locks_is_not_observed_and_writes_nothing(harness: SpaceHarness, space: Space):
    async with AsyncExitStack() as stack:
        headers: list[object] = []

        async def note(message: Message) -> str:
            headers.append(message.headers)
            return "done"

        await serve(stack, space, "bob", note)
        ann = MessagePassingAgent("ann", space.broker)
        assert await soon(harness, ann.request("bob", 1)) == "done"
        assert space.broker.desk.observers == ()
        assert await kept(space) == []

        async with Lock(space, "report").hold("ann"):
            await soon(harness, ann.request("bob", 1))
            await soon(harness, space.broker.request_response(Message(sender="ann", receiver="bob")))
        await soon(harness, ann.request("bob", 1))
        assert headers == [None, {WAITS_HEADER: "1"}, {WAITS_HEADER: "1"}, None]


async def test_all_waits_can_be_looked_at(harness: SpaceHarness, space: Space):
    lock = Lock(space, "report")
    async with AsyncExitStack() as stack:
        go = asyncio.Event()
        await serve(stack, space, "bob", lambda _: go.wait())
        ann = MessagePassingAgent("ann", space.broker)

        async def ask() -> object:
            async with lock.hold("ann", lease=1000):
                return await ann.request("bob", 1, timeout=1000)

        asking = asyncio.create_task(ask())
        await until(harness, lock.holders)
        await harness.advance(0.5)
        waiting = await wait_in_line(harness, lock, "carl", timeout=None)

        async def both() -> bool:
            return len(await waits_for(space)) == 2

        await until(harness, both)
        first, second = await waits_for(space)
        assert (first.agent_id, first.kind, first.name, first.held_by) == ("ann", "request", "bob", ("bob",))
        assert (second.agent_id, second.kind, second.name, second.held_by) == ("carl", "lock", "report", ("ann",))
        assert str(first) == "'ann' waits for a reply of 'bob'"
        assert str(second) == "'carl' waits for lock 'report', held by 'ann'"
        for task in (asking, waiting):
            task.cancel()
        await asyncio.gather(asking, waiting, return_exceptions=True)
        go.set()
    await nothing_is_left(harness, space)


# --- many, at random -----------------------------------------------------------------------------------


@pytest.mark.timeout(600)
async def test_every_random_deadlock_is_broken_once_and_its_circle_is_the_real_one(harness: SpaceHarness, space: Space):
    choice = random.Random(20)  # noqa: S311 - to be repeated
    spaces = [space, await harness.open_again(), await harness.open_again()]
    for start in range(0, RUNS, AT_ONCE):
        rings = [Ring(number, spaces, choice) for number in range(start, start + AT_ONCE)]
        await in_time(harness, together(*(ring.run() for ring in rings)), step=0.1)
        for ring in rings:
            assert len(ring.deadlocks) == 1, (ring.ways, ring.deadlocks)
            assert is_rotation(edges(ring.deadlocks[0]), ring.expected())
            assert len(ring.finished) >= ring.size - 1
            assert set(ring.failed) <= {"DeadlockError", "RemoteError"}
    await nothing_is_left(harness, space, *[key for key in await kept(space) if key.startswith("permits:")])


@pytest.mark.timeout(600)
async def test_no_random_program_that_keeps_an_order_is_ever_told_of_a_deadlock(harness: SpaceHarness, space: Space):
    choice = random.Random(30)  # noqa: S311 - to be repeated
    spaces = [space, await harness.open_again(), await harness.open_again()]
    for start in range(0, RUNS, AT_ONCE):
        programs = [Program(number, spaces, choice) for number in range(start, start + AT_ONCE)]
        await in_time(harness, together(*(program.run() for program in programs)), step=0.1)
        assert [program.done for program in programs] == [AGENTS * ROUNDS] * AT_ONCE


class Sluggish(FaultyEngine):
    """An engine through which messages come late, as they do in a process that has little of its machine."""

    async def claim(
        self, mailbox: str, *, limit: int = 1, lease: float = DEFAULT_LEASE, wait: float | None = 0.0
    ) -> list[Claimed]:
        assert wait is None
        while not (claimed := await self.inside.claim(mailbox, limit=limit, lease=lease)):
            await sleep(self._clock, DELAY)
        return claimed

    def listen(self, mailbox: str, callback: Callable[[Claimed], None]) -> Callable[[], None]:
        def later(claimed: Claimed) -> None:
            self._clock.call_later(DELAY, lambda: callback(claimed))

        return self.inside.listen(mailbox, later)


@asynccontextmanager
async def sluggish(harness: SpaceHarness) -> AsyncIterator[Space]:
    """Open one more handle, whose messages come late."""
    inside = await harness.open_again()
    slow = Space(inside.url, Sluggish(inside.engine, {}, clock=inside.clock), inside.clock)
    try:
        yield slow
    finally:
        await slow.aclose()


# --- steps ---------------------------------------------------------------------------------------------


def edges(deadlock: DeadlockError) -> list[Edge]:
    return [(wait.agent_id, wait.kind, wait.name) for wait in deadlock.cycle]


def pairs(deadlock: DeadlockError) -> list[tuple[WaitsFor, WaitsFor]]:
    cycle = deadlock.cycle
    return list(zip(cycle, (*cycle[1:], cycle[0]), strict=True))


def is_rotation(found: list[Edge], expected: list[Edge]) -> bool:
    return found in [expected[at:] + expected[:at] for at in range(len(expected))]


async def serve(
    stack: AsyncExitStack, space: Space, name: str, handle: Callable[[Message], Awaitable[object]]
) -> MessagePassingAgent:
    """Run an agent with one handler for the rest of the test."""
    agent = MessagePassingAgent(name, space.broker)

    @agent.on_message("default")
    async def handler(message: Message) -> object:
        return await handle(message)

    return await stack.enter_async_context(agent)


async def hold_and_want(
    mine: Lock | Semaphore, other: Lock | Semaphore | Election, agent_id: str, ready: asyncio.Barrier | None = None
) -> DeadlockError | None:
    """Hold one thing and wait for another as well; return the deadlock that this was, if it was one."""
    try:
        async with mine.hold(agent_id, lease=1000):
            if ready is not None:
                await ready.wait()
            if isinstance(other, Election):
                async with other.lead(agent_id):
                    return None
            async with other.hold(agent_id, timeout=None):
                return None
    except DeadlockError as deadlock:
        return deadlock


async def hold(lock: Lock, agent_id: str) -> str:
    async with lock.hold(agent_id, timeout=None):
        return "done"
