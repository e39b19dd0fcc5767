"""Of all who miss a key at once one computes it: with what happens when somebody fails, leaves, dies or is late."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self, cast

import pytest

from tertulia import CacheInfo, HybridCommunicationSystem, Message, MessagePassingAgent, Space
from tertulia.engines.base import ChangeStream, Commit, Committed, Record
from tertulia.errors import (
    ComputeFailedError,
    ComputeTimeoutError,
    EngineUnavailableError,
    RemoteError,
    SpaceClosedError,
    WatchLaggedError,
)
from tertulia.patterns.caching import CACHE_KEYS, FAILURE_KEYS, FLIGHT_KEYS
from tertulia.testing.conformance import SpaceHarness
from tertulia.testing.faults import Fault, FaultyEngine
from tests.patterns.computing import Function
from tests.patterns.handles import another_process

LEASE = 3.0  # seconds; short, since on some engines time really has to pass
LIMIT = 5  # seconds of real time for what happens at once unless something is broken


async def soon(awaitable: Any) -> Any:
    return await asyncio.wait_for(awaitable, LIMIT)


def system_of(space: Space, *, lease: float = LEASE) -> HybridCommunicationSystem:
    return HybridCommunicationSystem(space, lease=lease)


def call(system: HybridCommunicationSystem, function: Any, **options: Any) -> asyncio.Task[Any]:
    return asyncio.create_task(system.get_or_compute("k", function, **options))


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def nobody_computes(space: Space) -> bool:
    return await space.engine.get(FLIGHT_KEYS + "k") is None


@pytest.fixture
def system(space: Space) -> HybridCommunicationSystem:
    return system_of(space)


@pytest.fixture
async def other(harness: SpaceHarness) -> HybridCommunicationSystem:
    """A system on another handle of the same space."""
    return system_of(await harness.open_again())


# --- one computes ------------------------------------------------------------------------------------


async def test_concurrent_misses_of_several_handles_compute_once(harness: SpaceHarness) -> None:
    systems = [system_of(await harness.open_again()) for _ in range(3)]
    function = Function.held()
    calls = [call(systems[number % 3], function) for number in range(90)]
    await harness.advance(0)
    assert function.calls == 1
    function.gate.set()
    assert await soon(asyncio.gather(*calls)) == [1] * 90
    infos = [system.cache_info() for system in systems]
    assert sum(info.misses for info in infos) == 90
    assert sum(info.shared for info in infos) == 89
    assert sum(info.computed for info in infos) == 1
    assert await nobody_computes(systems[0].space)


async def test_other_keys_are_computed_beside_each_other(system: HybridCommunicationSystem) -> None:
    slow, quick = Function.held(), Function()
    waiting = call(system, slow)
    assert await soon(system.get_or_compute("other", quick)) == 1
    slow.gate.set()
    assert await soon(waiting) == 1


async def test_a_lease_is_renewed_for_as_long_as_the_function_takes(
    harness: SpaceHarness, system: HybridCommunicationSystem, other: HybridCommunicationSystem
) -> None:
    function, unused = Function.held(), Function()
    calls = [call(system, function)]
    await harness.advance(0)
    calls.append(call(other, unused))
    for _ in range(3):
        await harness.advance(LEASE * 0.9)
    assert (function.calls, unused.calls) == (1, 0)
    function.gate.set()
    assert await soon(asyncio.gather(*calls)) == [1, 1]


class Counting(FaultyEngine):
    """An engine that counts what is read through it."""

    reads = 0

    async def get(self, key: str) -> Record | None:
        self.reads += 1
        return await super().get(key)


async def test_who_waits_is_woken_and_does_not_look_again_and_again(
    harness: SpaceHarness, system: HybridCommunicationSystem
) -> None:
    inner = await harness.open_again()
    engine = Counting(inner.engine, {})
    waiting = system_of(Space(inner.url, engine, inner.clock))
    function = Function.held()
    calls = [call(system, function)]
    await harness.advance(0)
    calls += [call(waiting, Function()) for _ in range(10)]
    await harness.advance(0)
    before = engine.reads
    await harness.advance(2 * LEASE)
    assert engine.reads == before
    function.gate.set()
    assert await soon(asyncio.gather(*calls)) == [1] * 11
    await waiting.space.background.aclose()


class Meddling(FaultyEngine):
    """An engine that lets something happen right after a key was read."""

    def __init__(self, inner: Space) -> None:
        super().__init__(inner.engine, {})
        self.after: dict[str, Callable[[], Awaitable[object]]] = {}

    async def get(self, key: str) -> Record | None:
        record = await super().get(key)
        if key in self.after:
            await self.after.pop(key)()
        return record


@asynccontextmanager
async def meddled_with(harness: SpaceHarness) -> AsyncIterator[tuple[Meddling, HybridCommunicationSystem]]:
    inner = await harness.open_again()
    engine = Meddling(inner)
    space = Space(inner.url, engine, inner.clock)
    yield engine, system_of(space)
    await space.background.aclose()


async def test_who_saw_no_value_just_before_it_was_stored_does_not_compute_it_again(
    harness: SpaceHarness, other: HybridCommunicationSystem
) -> None:
    async with meddled_with(harness) as (engine, system):
        quick, late = Function("quick"), Function("late")
        engine.after[CACHE_KEYS + "k"] = lambda: other.get_or_compute("k", quick)
        assert await soon(call(system, late)) == "quick"
        assert (quick.calls, late.calls) == (1, 0)


async def test_a_value_is_not_overshadowed_by_an_older_failure(
    harness: SpaceHarness, other: HybridCommunicationSystem
) -> None:
    async with meddled_with(harness) as (engine, system):

        async def fail() -> None:
            with pytest.raises(ComputeFailedError):
                await other.get_or_compute("k", Function(ValueError("no")), negative_ttl=1000.0)

        engine.after[FAILURE_KEYS + "k"] = fail  # after this caller has seen that there is none
        assert await soon(call(system, Function("value"), ttl=1.0)) == "value"
        await harness.advance(1.5)
        assert await soon(call(other, Function("next"))) == "next"


class Lagging(FaultyEngine):
    """An engine whose watches fall behind, or break, before anything was read from them."""

    def __init__(self, inner: Space, *errors: Exception) -> None:
        super().__init__(inner.engine, {})
        self.errors = list(errors)

    async def watch(self, pattern: str, *, after: int | None = None) -> ChangeStream:
        stream = await super().watch(pattern, after=after)
        return cast("ChangeStream", _Broken(stream, self.errors.pop(0))) if self.errors else stream


class _Broken:
    def __init__(self, stream: ChangeStream, error: Exception) -> None:
        self.error = error
        self.aclose = stream.aclose

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> None:
        await asyncio.sleep(0)
        raise self.error


@pytest.mark.parametrize(
    "error", [WatchLaggedError("k", 1), EngineUnavailableError("gone")], ids=lambda e: type(e).__name__
)
async def test_who_waits_is_woken_though_the_watch_fell_behind_or_broke(
    harness: SpaceHarness,
    system: HybridCommunicationSystem,
    error: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "tertulia")
    inner = await harness.open_again()
    space = Space(inner.url, Lagging(inner, error, error), inner.clock)
    function = Function.held()
    calls = [call(system, function)]
    await harness.advance(0)
    calls += [call(system_of(space), Function()) for _ in range(3)]
    await harness.advance(2.5)
    assert not any(task.done() for task in calls)
    function.gate.set()
    await harness.advance(0)
    assert await soon(asyncio.gather(*calls)) == [1] * 4
    await space.background.aclose()


# --- its error reaches everybody ---------------------------------------------------------------------


async def test_a_failure_reaches_everybody_who_waits_in_every_handle(
    harness: SpaceHarness, system: HybridCommunicationSystem, other: HybridCommunicationSystem
) -> None:
    function, unused = Function.held(ValueError("no price")), Function("unused")
    calls = [call(system, function, agent="ann") for _ in range(3)]
    await harness.advance(0)
    calls += [call(other, unused, agent="bob") for _ in range(3)]
    await harness.advance(0)
    function.gate.set()
    errors = await soon(asyncio.gather(*calls, return_exceptions=True))
    for error in errors:
        assert isinstance(error, ComputeFailedError)
        assert (error.computed_by, error.kind, error.detail) == ("ann", "ValueError", "no price")
    assert [error.__cause__ is not None for error in errors] == [True] * 3 + [False] * 3
    assert (function.calls, unused.calls) == (1, 0)
    assert await soon(call(other, unused)) == "unused"  # the next who comes tries anew


# --- cancellation ------------------------------------------------------------------------------------


async def test_a_cancelled_waiter_harms_nobody(
    harness: SpaceHarness, system: HybridCommunicationSystem, other: HybridCommunicationSystem
) -> None:
    function = Function.held()
    calls = [call(system, function) for _ in range(3)]
    await harness.advance(0)
    waiting = [call(other, Function()) for _ in range(3)]
    await harness.advance(0)
    await cancel(calls.pop())
    await cancel(waiting.pop())
    function.gate.set()
    assert await soon(asyncio.gather(*calls, *waiting)) == [1] * 4
    assert function.calls == 1


async def test_when_the_first_caller_is_cancelled_its_function_goes_on_for_the_others_in_its_handle(
    harness: SpaceHarness, system: HybridCommunicationSystem
) -> None:
    function = Function.held()
    first = call(system, function)
    await harness.advance(0)
    others = [call(system, function) for _ in range(2)]
    await harness.advance(0)
    await cancel(first)
    function.gate.set()
    assert await soon(asyncio.gather(*others)) == [1, 1]
    assert (function.calls, function.cancelled) == (1, 0)


async def test_when_the_last_caller_in_a_handle_is_cancelled_another_handle_takes_over_at_once(
    harness: SpaceHarness, system: HybridCommunicationSystem, other: HybridCommunicationSystem
) -> None:
    first, second = Function.held("first"), Function("second")
    leaving = call(system, first)
    await harness.advance(0)
    waiting = call(other, second)
    await harness.advance(0)
    assert second.calls == 0
    await cancel(leaving)
    await harness.advance(0)
    assert await soon(waiting) == "second"
    assert (first.calls, first.cancelled) == (1, 1)


async def test_who_comes_just_when_the_last_caller_was_cancelled_is_served(
    harness: SpaceHarness, system: HybridCommunicationSystem
) -> None:
    first, second = Function.held("first"), Function("second")
    leaving = call(system, first)
    await harness.advance(0)
    leaving.cancel()
    coming = call(system, second)
    assert await soon(coming) == "second"
    assert await nobody_computes(system.space)


async def test_a_caller_that_is_cancelled_before_anything_has_begun_leaves_nothing(
    harness: SpaceHarness, system: HybridCommunicationSystem
) -> None:
    for turns in range(12):
        function = Function.held()
        task = call(system, function)
        for _ in range(turns):
            await asyncio.sleep(0)
        await cancel(task)
        await harness.advance(0)
        assert await nobody_computes(system.space)
    assert await soon(call(system, lambda: 7)) == 7


async def test_closing_a_space_ends_its_callers_and_lets_another_handle_take_over_at_once(
    harness: SpaceHarness, system: HybridCommunicationSystem, other: HybridCommunicationSystem
) -> None:
    first, second = Function.held(), Function("second")
    closing = [call(other, first) for _ in range(2)]
    await harness.advance(0)
    waiting = call(system, second)
    await harness.advance(0)
    await soon(other.space.aclose())
    for task in closing:
        with pytest.raises(SpaceClosedError):
            await soon(task)
    assert await soon(waiting) == "second"
    assert first.cancelled == 1


# --- death and delay ---------------------------------------------------------------------------------


async def test_when_the_process_that_computes_dies_one_of_the_others_takes_over(
    harness: SpaceHarness, system: HybridCommunicationSystem, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "tertulia")
    lost, taking_over = Function.held(), Function("taken over")
    async with another_process(harness) as process:
        dying = call(system_of(process.space), lost)
        await harness.advance(0)
        waiting = [call(system, taking_over) for _ in range(5)]
        await harness.advance(0)
        process.crash()
        await harness.advance(LEASE * 0.5)
        assert taking_over.calls == 0
        await harness.advance(LEASE)
        assert await soon(asyncio.gather(*waiting)) == ["taken over"] * 5
        assert taking_over.calls == 1
        await cancel(dying)


async def test_what_a_process_brings_that_was_stopped_past_its_lease_is_not_stored(
    harness: SpaceHarness, system: HybridCommunicationSystem, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "tertulia")
    old, new = Function.held("old"), Function("new")
    async with another_process(harness) as process:
        stopped = system_of(process.space)
        late = call(stopped, old)
        await harness.advance(0)
        waiting = call(system, new)
        await harness.advance(0)
        process.crash()  # nothing that it does reaches the space, its renewals least of all
        await harness.advance(LEASE * 1.5)
        assert await soon(waiting) == "new"
        process.recover()
        old.gate.set()
        assert await soon(late) == "new"
        assert stopped.cache_info().refused == 1
    assert await soon(call(system, Function("unused"))) == "new"


async def test_a_late_failure_does_not_end_the_computation_of_who_took_over(
    harness: SpaceHarness, system: HybridCommunicationSystem, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "tertulia")
    old, new = Function.held(ValueError("late")), Function.held("new")
    async with another_process(harness) as process:
        late = call(system_of(process.space), old)
        await harness.advance(0)
        process.crash()
        await harness.advance(LEASE * 1.5)
        taking_over = [call(system, new)]
        await harness.advance(0)
        process.recover()
        old.gate.set()
        with pytest.raises(ComputeFailedError):
            await soon(late)
        taking_over.append(call(system, Function("unused")))
        await harness.advance(0)
        assert not await nobody_computes(system.space)
        new.gate.set()
        assert await soon(asyncio.gather(*taking_over)) == ["new", "new"]


# --- time --------------------------------------------------------------------------------------------


async def test_when_the_time_of_the_first_caller_is_over_its_function_goes_on_for_the_more_patient(
    harness: SpaceHarness, system: HybridCommunicationSystem
) -> None:
    function = Function.held()
    hasty = call(system, function, timeout=1.0)
    await harness.advance(0)
    patient = call(system, function, timeout=100.0)
    await harness.advance(1.5)
    with pytest.raises(ComputeTimeoutError):
        await soon(hasty)
    function.gate.set()
    assert await soon(patient) == 1
    assert function.calls == 1


async def test_who_waits_elsewhere_takes_over_when_the_time_of_the_only_caller_is_over(
    harness: SpaceHarness, system: HybridCommunicationSystem, other: HybridCommunicationSystem
) -> None:
    hasty = call(system, Function.held(), timeout=1.0)
    await harness.advance(0)
    patient = call(other, Function("mine"), timeout=100.0)
    await harness.advance(1.5)
    with pytest.raises(ComputeTimeoutError):
        await soon(hasty)
    assert await soon(patient) == "mine"


async def test_who_waits_for_another_handle_waits_no_longer_than_he_said(
    harness: SpaceHarness, system: HybridCommunicationSystem, other: HybridCommunicationSystem
) -> None:
    function = Function.held()
    patient = call(system, function)
    await harness.advance(0)
    hasty = call(other, Function(), timeout=1.0)
    await harness.advance(1.5)
    with pytest.raises(ComputeTimeoutError):
        await soon(hasty)
    function.gate.set()
    assert await soon(patient) == 1


async def test_within_a_handler_the_deadline_of_the_request_bounds_the_wait_and_its_failure_is_its_own(
    harness: SpaceHarness, system: HybridCommunicationSystem, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "tertulia")
    front, back = MessagePassingAgent("front", system.broker), MessagePassingAgent("back", system.broker)
    asked: list[object] = []
    answers = asyncio.Event()

    @back.on_message("default")
    async def answer(message: Message) -> str:
        asked.append(message.content)
        await answers.wait()
        return "answer"

    async def ask_back() -> Any:
        return await front.request("back", "question", timeout=100.0)

    @front.on_message("default")
    async def handle(_: Message) -> Any:
        return await system.get_or_compute("k", ask_back, timeout=100.0)

    async with front, back:
        client = MessagePassingAgent("client", system.broker)
        hasty = asyncio.create_task(client.request("front", "?", timeout=1.0))
        await harness.advance(0)
        patient = call(system, ask_back, timeout=100.0)
        await harness.advance(1.5)
        with pytest.raises((RemoteError, TimeoutError)):
            await soon(hasty)
        answers.set()
        await harness.advance(0)
        assert await soon(patient) == "answer"


async def test_a_refresh_has_more_time_than_the_request_that_found_the_value_stale(
    harness: SpaceHarness, system: HybridCommunicationSystem
) -> None:
    front, back = MessagePassingAgent("front", system.broker), MessagePassingAgent("back", system.broker)
    answers = asyncio.Event()

    @back.on_message("default")
    async def answer(_: Message) -> str:
        await answers.wait()
        return "new"

    @front.on_message("default")
    async def handle(_: Message) -> Any:
        async def ask_back() -> Any:
            return await front.request("back", "question", timeout=100.0)

        return await system.get_or_compute("k", ask_back, ttl=1.0, stale_while_revalidate=100.0, timeout=100.0)

    async with front, back:
        await system.get_or_compute("k", lambda: "old", ttl=1.0, stale_while_revalidate=100.0)
        await harness.advance(1.5)
        client = MessagePassingAgent("client", system.broker)
        assert await soon(client.request("front", "?", timeout=1.0)) == "old"
        await harness.advance(1.5)
        answers.set()
        await harness.advance(0)
        await harness.advance(0)
        assert await soon(call(system, Function("unused"))) == "new"


# --- an engine that does not say what happened -------------------------------------------------------


class Unsure(FaultyEngine):
    """An engine that does not say what became of the next commit, after which it has happened, or not."""

    def __init__(self, inner: Space) -> None:
        super().__init__(inner.engine, {})
        self.doubted: list[Fault | None] = []

    async def commit(self, commit: Commit) -> Committed:
        fault = self.doubted.pop(0) if self.doubted else None
        if fault is not None:
            self.rates[fault] = 1.0
        try:
            return await super().commit(commit)
        finally:
            self.rates.clear()


@asynccontextmanager
async def unsure(harness: SpaceHarness) -> AsyncIterator[tuple[Unsure, HybridCommunicationSystem]]:
    inner = await harness.open_again()
    engine = Unsure(inner)
    space = Space(inner.url, engine, inner.clock)
    yield engine, system_of(space)
    await space.background.aclose()


DOUBTS = (Fault.OUTCOME_UNKNOWN_APPLIED, Fault.OUTCOME_UNKNOWN_NOT_APPLIED)


@pytest.mark.parametrize("doubt", DOUBTS)
async def test_a_value_is_stored_once_though_the_engine_does_not_say_whether_it_was(
    harness: SpaceHarness, doubt: Fault, other: HybridCommunicationSystem
) -> None:
    async with unsure(harness) as (engine, system):
        engine.doubted = [None, doubt]  # the lease is taken; then the value is stored
        function = Function()
        assert await soon(call(system, function)) == 1
        entry = await other.memory.read_with_metadata(CACHE_KEYS + "k", reader="ann")
        assert entry is not None
        assert (entry.version, entry.value["value"]) == (1, 1)
        assert system.cache_info() == CacheInfo(misses=1, computed=1)
        assert await nobody_computes(system.space)


@pytest.mark.parametrize("doubt", DOUBTS)
async def test_no_lease_is_left_behind_though_the_engine_does_not_say_whether_it_was_taken(
    harness: SpaceHarness, doubt: Fault
) -> None:
    async with unsure(harness) as (engine, system):
        engine.doubted = [doubt]
        function = Function()
        assert await soon(call(system, function)) == 1
        assert await nobody_computes(system.space)
        assert function.calls == 1


async def test_a_value_that_the_engine_cannot_store_is_returned_all_the_same(
    harness: SpaceHarness, caplog: pytest.LogCaptureFixture
) -> None:
    async with unsure(harness) as (engine, system):
        engine.doubted = [None, Fault.UNAVAILABLE]
        function = Function("dear")
        assert await soon(call(system, function)) == "dear"
        assert "could not be stored" in caplog.text
        assert system.cache_info().refused == 1
        assert await nobody_computes(system.space)


async def test_an_engine_that_cannot_be_reached_is_told_to_everybody_who_asked(harness: SpaceHarness) -> None:
    async with unsure(harness) as (engine, system):
        engine.doubted = [Fault.UNAVAILABLE]
        calls = [call(system, Function()) for _ in range(3)]
        for error in await soon(asyncio.gather(*calls, return_exceptions=True)):
            assert isinstance(error, EngineUnavailableError)
        assert await soon(call(system, Function())) == 1
