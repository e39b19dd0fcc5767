"""The cache that agents share: what is a hit, for how long, what a failure does, and how keys are taken back."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

import pytest

from tertulia import CacheInfo, HybridCommunicationSystem, Message, MessagePassingAgent, Space
from tertulia.errors import (
    ComputeFailedError,
    ComputeTimeoutError,
    DecodeError,
    InvalidInputError,
    InvalidKeyError,
    InvalidNameError,
)
from tertulia.patterns.caching import FLIGHT_KEYS, MAX_CACHE_KEY
from tertulia.testing.conformance import SpaceHarness
from tests.patterns.computing import Function

TTL = 4.0  # seconds; short, since on some engines time really has to pass
HALF = 2.0
LIMIT = 5  # seconds of real time for what happens at once unless something is broken


@pytest.fixture
def system(space: Space) -> HybridCommunicationSystem:
    return HybridCommunicationSystem(space)


async def soon(awaitable: Any) -> Any:
    return await asyncio.wait_for(awaitable, LIMIT)


# --- hits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("falsy", [None, 0, "", [], {}, False, 0.0, b""])
async def test_a_falsy_value_is_a_hit(system: HybridCommunicationSystem, falsy: object) -> None:
    function = Function(falsy, "another")
    for _ in range(3):
        assert await system.get_or_compute("k", function) == falsy
    assert function.calls == 1
    assert system.cache_info() == CacheInfo(hits=2, misses=1, computed=1)


async def test_plain_functions_compute_too(system: HybridCommunicationSystem) -> None:
    assert await system.get_or_compute("k", lambda: 7) == 7
    assert await system.get_or_compute("k", lambda: 8) == 7


async def test_what_is_cached_is_cached_for_every_handle(
    harness: SpaceHarness, system: HybridCommunicationSystem
) -> None:
    other = HybridCommunicationSystem(await harness.open_again())
    assert await system.get_or_compute("k", Function()) == 1
    function = Function("not called")
    assert await other.get_or_compute("k", function) == 1
    assert (function.calls, other.cache_info().hits) == (0, 1)


async def test_everybody_gets_a_copy_and_the_same_plain_types_whoever_computed(
    system: HybridCommunicationSystem,
) -> None:
    made = {"steps": ("read", "write")}
    first, second = await asyncio.gather(
        system.get_or_compute("k", lambda: made), system.get_or_compute("k", lambda: made)
    )
    first["steps"].append("changed")
    assert second == {"steps": ["read", "write"]}
    assert await system.get_or_compute("k", Function()) == {"steps": ["read", "write"]}


@dataclass
class Price:
    amount: int
    currency: str


async def test_a_value_is_rebuilt_as_the_type_asked_for_whoever_computed_it(system: HybridCommunicationSystem) -> None:
    for _ in range(2):
        assert await system.get_or_compute("k", lambda: Price(3, "EUR"), type=Price) == Price(3, "EUR")
    with pytest.raises(DecodeError):
        await system.get_or_compute("k", Function(), type=list)


async def test_a_cached_key_is_an_entry_of_the_memory(system: HybridCommunicationSystem) -> None:
    await system.get_or_compute("prices:tea", lambda: 3, agent="ann", tags=["prices"])
    entry = await system.memory.read_with_metadata("cache:prices:tea", reader="bob")
    assert entry is not None
    assert (entry.value["value"], entry.value["computed_by"], entry.owner) == (3, "ann", "ann")
    assert await system.memory.list_keys(tags=["prices"]) == ["cache:prices:tea"]


async def test_something_else_under_a_cached_key_is_no_hit_and_is_replaced(
    system: HybridCommunicationSystem, caplog: pytest.LogCaptureFixture
) -> None:
    await system.memory.write("cache:k", "by hand", owner="ann")
    assert await soon(system.get_or_compute("k", lambda: 7)) == 7
    assert "'cache:k' holds no cached value" in caplog.text
    assert await system.get_or_compute("k", lambda: 8) == 7


async def test_wildcards_in_a_key_are_plain_characters(system: HybridCommunicationSystem) -> None:
    assert await system.get_or_compute("a*", lambda: 1) == 1
    assert await system.get_or_compute("ab", lambda: 2) == 2
    assert await system.invalidate(key="a*") == 1
    assert await system.get_or_compute("ab", Function()) == 2


# --- lifetime ----------------------------------------------------------------------------------------


async def test_a_value_is_computed_anew_once_its_time_is_over(
    harness: SpaceHarness, system: HybridCommunicationSystem
) -> None:
    function = Function()
    assert await system.get_or_compute("k", function, ttl=TTL) == 1
    await harness.advance(HALF)
    assert await system.get_or_compute("k", function, ttl=TTL) == 1
    await harness.advance(HALF + 0.5)
    assert await system.get_or_compute("k", function, ttl=TTL) == 2


async def test_without_a_lifetime_a_value_stays(harness: SpaceHarness, system: HybridCommunicationSystem) -> None:
    await system.get_or_compute("k", Function(), ttl=None)
    if harness.capabilities.manual_clock:
        await harness.advance(10 * 365 * 86_400.0)
    entry = await system.memory.read_with_metadata("cache:k", reader="ann")
    assert entry is not None
    assert entry.expires is None


async def test_a_stale_value_is_served_at_once_while_it_is_computed_anew_once(
    harness: SpaceHarness, system: HybridCommunicationSystem
) -> None:
    function = Function()
    options: dict[str, Any] = {"ttl": TTL, "stale_while_revalidate": TTL}
    assert await system.get_or_compute("k", function, **options) == 1
    await harness.advance(TTL + 0.5)
    function.gate.clear()
    for _ in range(5):
        assert await soon(system.get_or_compute("k", function, **options)) == 1
        await harness.advance(0)
    assert function.calls == 2
    function.gate.set()
    await harness.advance(0)
    assert await system.get_or_compute("k", function, **options) == 2
    assert system.cache_info() == CacheInfo(hits=1, stale_hits=5, misses=1, computed=2)


async def test_a_stale_value_is_computed_anew_once_by_all_handles_together(
    harness: SpaceHarness, system: HybridCommunicationSystem
) -> None:
    systems = [system, *[HybridCommunicationSystem(await harness.open_again()) for _ in range(2)]]
    functions = [Function() for _ in systems]
    options: dict[str, Any] = {"ttl": TTL, "stale_while_revalidate": TTL}
    await system.get_or_compute("k", lambda: "old", **options)
    await harness.advance(TTL + 0.5)
    for function in functions:
        function.gate.clear()
    for one, function in [*zip(systems, functions, strict=True)] * 3:
        assert await one.get_or_compute("k", function, **options) == "old"
        await harness.advance(0)
    assert sum(function.calls for function in functions) == 1
    for function in functions:
        function.gate.set()
    await harness.advance(0)
    assert [await one.get_or_compute("k", Function("no"), **options) for one in systems] == [1, 1, 1]


async def test_past_the_time_in_which_it_may_be_stale_a_value_is_gone(
    harness: SpaceHarness, system: HybridCommunicationSystem
) -> None:
    function = Function()
    options: dict[str, Any] = {"ttl": HALF, "stale_while_revalidate": HALF}
    await system.get_or_compute("k", function, **options)
    await harness.advance(2 * HALF + 0.5)
    assert await system.get_or_compute("k", function, **options) == 2
    assert system.cache_info().stale_hits == 0


async def test_who_comes_when_the_stale_value_is_gone_gets_the_refresh_that_is_under_way(
    harness: SpaceHarness, system: HybridCommunicationSystem
) -> None:
    function = Function()
    options: dict[str, Any] = {"ttl": HALF, "stale_while_revalidate": HALF}
    await system.get_or_compute("k", function, **options)
    await harness.advance(HALF + 0.5)
    function.gate.clear()
    assert await system.get_or_compute("k", function, **options) == 1
    await harness.advance(HALF)
    waiting = asyncio.create_task(system.get_or_compute("k", function, **options))
    await harness.advance(0)
    assert not waiting.done()
    function.gate.set()
    assert await soon(waiting) == 2
    assert function.calls == 2


async def test_a_refresh_that_fails_is_logged_and_the_old_value_stays(
    harness: SpaceHarness, system: HybridCommunicationSystem, caplog: pytest.LogCaptureFixture
) -> None:
    function = Function("old", ValueError("no price"), "new")
    options: dict[str, Any] = {"ttl": HALF, "stale_while_revalidate": 2 * TTL}
    await system.get_or_compute("k", function, **options)
    await harness.advance(HALF + 0.5)
    assert await system.get_or_compute("k", function, **options) == "old"
    await harness.advance(0)
    assert "ValueError: no price" in caplog.text
    assert await system.get_or_compute("k", function, **options) == "old"  # and it is tried again
    await harness.advance(0)
    assert await system.get_or_compute("k", function, **options) == "new"
    assert (function.calls, system.cache_info().failures) == (3, 1)


async def test_a_cached_failure_keeps_a_stale_value_from_being_refreshed_again_and_again(
    harness: SpaceHarness, system: HybridCommunicationSystem, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "tertulia")
    function = Function("old", ValueError("no price"), "new")
    options: dict[str, Any] = {"ttl": HALF, "stale_while_revalidate": 5 * TTL, "negative_ttl": TTL}
    await system.get_or_compute("k", function, **options)
    await harness.advance(HALF + 0.5)
    for _ in range(5):
        assert await system.get_or_compute("k", function, **options) == "old"
        await harness.advance(0)
    assert function.calls == 2
    await harness.advance(TTL + 0.5)
    await system.get_or_compute("k", function, **options)
    await harness.advance(0)
    assert await system.get_or_compute("k", function, **options) == "new"


async def test_a_refresh_is_given_up_after_the_timeout(
    harness: SpaceHarness, system: HybridCommunicationSystem, caplog: pytest.LogCaptureFixture
) -> None:
    function = Function()
    options: dict[str, Any] = {"ttl": HALF, "stale_while_revalidate": 5 * TTL, "timeout": HALF}
    await system.get_or_compute("k", function, **options)
    await harness.advance(HALF + 0.5)
    function.gate.clear()
    assert await system.get_or_compute("k", function, **options) == 1
    await harness.advance(HALF + 0.5)
    assert "TimeoutError" in caplog.text
    assert await system.space.engine.get(FLIGHT_KEYS + "k") is None


async def test_closing_the_space_ends_a_refresh(harness: SpaceHarness, system: HybridCommunicationSystem) -> None:
    other = HybridCommunicationSystem(await harness.open_again())
    function = Function("old")
    await other.get_or_compute("k", function, ttl=HALF, stale_while_revalidate=TTL)
    await harness.advance(HALF + 0.5)
    function.gate.clear()
    assert await other.get_or_compute("k", function, ttl=HALF, stale_while_revalidate=TTL) == "old"
    await harness.advance(0)
    assert await system.space.engine.get(FLIGHT_KEYS + "k") is not None
    await soon(other.space.aclose())
    assert await system.space.engine.get(FLIGHT_KEYS + "k") is None


# --- failures ----------------------------------------------------------------------------------------


async def test_a_failure_says_what_failed_and_the_next_caller_tries_anew(system: HybridCommunicationSystem) -> None:
    cause = ValueError("no price")
    function = Function(cause, 2)
    with pytest.raises(ComputeFailedError) as caught:
        await system.get_or_compute("k", function, agent="ann")
    error = caught.value
    assert (error.key, error.computed_by, error.kind, error.detail) == ("k", "ann", "ValueError", "no price")
    assert error.__cause__ is cause
    assert await system.get_or_compute("k", function, agent="ann") == 2
    assert system.cache_info() == CacheInfo(misses=2, computed=1, failures=1)


async def test_a_cached_failure_is_served_without_calling_until_its_time_is_over(
    harness: SpaceHarness, system: HybridCommunicationSystem
) -> None:
    other = HybridCommunicationSystem(await harness.open_again())
    function = Function(ValueError("no price"), 2)
    for one in (system, system, other):
        with pytest.raises(ComputeFailedError, match="no price") as caught:
            await one.get_or_compute("k", function, agent="ann", negative_ttl=TTL)
        assert (caught.value.computed_by, caught.value.kind) == ("ann", "ValueError")
    assert (function.calls, system.cache_info().negative_hits, other.cache_info().negative_hits) == (1, 1, 1)
    await harness.advance(TTL + 0.5)
    assert await other.get_or_compute("k", function, negative_ttl=TTL) == 2


async def test_a_value_that_cannot_be_stored_is_a_failure(system: HybridCommunicationSystem) -> None:
    with pytest.raises(ComputeFailedError) as caught:
        await system.get_or_compute("k", object)
    assert caught.value.kind == "EncodeError"


async def test_an_exception_whose_text_cannot_be_told_is_a_failure_all_the_same(
    system: HybridCommunicationSystem,
) -> None:
    class Mute(Exception):  # noqa: N818 - it is what it says
        def __str__(self) -> str:
            raise RuntimeError("no words")

    with pytest.raises(ComputeFailedError) as caught:
        await system.get_or_compute("k", Function(Mute()))
    assert (caught.value.kind, caught.value.detail) == ("Mute", "its text cannot be shown (RuntimeError)")
    with pytest.raises(ComputeFailedError) as caught:
        await system.get_or_compute("k", Function(ValueError("\ud800" + "x" * 10_000)))
    assert caught.value.detail.startswith("\\ud800xxx")
    assert len(caught.value.detail) < 5_000


async def test_a_function_that_awaits_what_was_cancelled_has_failed(system: HybridCommunicationSystem) -> None:
    async def lose_a_task() -> None:
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lost.cancel()
        await lost

    with pytest.raises(ComputeFailedError) as caught:
        await soon(system.get_or_compute("k", lose_a_task))
    assert caught.value.kind == "CancelledError"


# --- taking keys back --------------------------------------------------------------------------------


async def test_keys_are_taken_back_by_name_by_pattern_and_by_tag(system: HybridCommunicationSystem) -> None:
    async def fill() -> None:
        for key, tags in (("a:1", ["x"]), ("a:2", ["x", "y"]), ("b:1", ["y"])):
            await system.get_or_compute(key, lambda: 0, tags=tags)

    async def left() -> list[str]:
        return [key.removeprefix("cache:") for key in await system.memory.list_keys("cache:*")]

    await fill()
    assert (await system.invalidate(key="a:1"), await left()) == (1, ["a:2", "b:1"])
    await fill()
    assert (await system.invalidate(pattern="a:*"), await left()) == (2, ["b:1"])
    await fill()
    assert (await system.invalidate(tag="y"), await left()) == (2, ["a:1"])
    assert (await system.invalidate(tag="y"), await system.invalidate(key="nothing")) == (0, 0)
    await fill()
    assert (await system.invalidate(pattern="*"), await left()) == (3, [])
    assert system.cache_info().invalidated == 8


async def test_many_keys_are_taken_back_at_once(system: HybridCommunicationSystem) -> None:
    for number in range(250):
        await system.get_or_compute(f"k{number}", lambda: 0, tags=["t"])
    await system.memory.write("mine", 1, owner="ann", tags=["t"])
    assert await system.invalidate(tag="t") == 250
    assert await system.memory.list_keys() == ["mine"]


@pytest.mark.parametrize("how", [{"key": "k"}, {"pattern": "k*"}, {"tag": "t"}], ids=lambda how: next(iter(how)))
async def test_what_is_being_computed_while_its_key_is_taken_back_is_not_stored(
    harness: SpaceHarness, system: HybridCommunicationSystem, how: dict[str, str]
) -> None:
    other = HybridCommunicationSystem(await harness.open_again())
    old, new = Function.held("old"), Function("new")
    early = [asyncio.create_task(system.get_or_compute("k", old, tags=["t"])) for _ in range(2)]
    await harness.advance(0)
    assert await other.invalidate(**how) == 0
    old_caller = asyncio.create_task(other.get_or_compute("k", new, tags=["t"]))
    assert await soon(old_caller) == "new"
    assert await soon(system.get_or_compute("k", Function("unused"))) == "new"
    old.gate.set()
    await soon(asyncio.wait(early))
    assert {task.result() for task in early} <= {"old", "new"}  # they had asked before
    assert await system.get_or_compute("k", Function("unused")) == "new"
    assert (system.cache_info().computed, system.cache_info().refused) == (1, 1)


async def test_who_asks_after_a_key_was_taken_back_does_not_get_what_was_begun_before(
    harness: SpaceHarness, system: HybridCommunicationSystem
) -> None:
    function = Function.held("old", "new")
    early = asyncio.create_task(system.get_or_compute("k", function))
    await harness.advance(0)
    await system.invalidate(key="k")
    late = asyncio.create_task(system.get_or_compute("k", function))
    await harness.advance(0)
    assert function.calls == 2
    function.gate.set()
    assert await soon(late) == "new"
    assert await soon(early) in ("old", "new")
    assert await system.get_or_compute("k", function) == "new"


async def test_a_refresh_whose_key_is_taken_back_stores_nothing(
    harness: SpaceHarness, system: HybridCommunicationSystem
) -> None:
    function = Function("old", "older than it seems", "new")
    options: dict[str, Any] = {"ttl": HALF, "stale_while_revalidate": TTL}
    await system.get_or_compute("k", function, **options)
    await harness.advance(HALF + 0.5)
    function.gate.clear()
    await system.get_or_compute("k", function, **options)
    await harness.advance(0)
    await system.invalidate(key="k")
    function.gate.set()
    await harness.advance(0)
    assert await system.get_or_compute("k", function, **options) == "new"


async def test_a_cached_failure_is_taken_back_too(system: HybridCommunicationSystem) -> None:
    function = Function(ValueError("no"), 2)
    with pytest.raises(ComputeFailedError):
        await system.get_or_compute("k", function, negative_ttl=1000.0, tags=["t"])
    await system.invalidate(tag="t")
    assert await system.get_or_compute("k", function) == 2


async def test_what_to_take_back_is_said_in_one_way(system: HybridCommunicationSystem) -> None:
    for wrong in ({}, {"key": "k", "tag": "t"}, {"pattern": "k*", "key": "k"}):
        with pytest.raises(InvalidInputError):
            await system.invalidate(**wrong)
        with pytest.raises(InvalidInputError):
            await system.request_invalidation("ann", **wrong)
    for wrong in ({"key": ""}, {"pattern": ""}, {"tag": ""}):
        with pytest.raises(InvalidInputError):
            await system.invalidate(**wrong)


async def test_keys_are_taken_back_by_message(harness: SpaceHarness, system: HybridCommunicationSystem) -> None:
    keeper = MessagePassingAgent("keeper", system.broker)
    keeper.on_message("cache_invalidate")(system.on_invalidation)
    for key in ("a:1", "a:2", "b:1"):
        await system.get_or_compute(key, lambda: 0)
    other = HybridCommunicationSystem(await harness.open_again())
    async with keeper:
        await keeper.subscribe("cache.invalidate")
        assert (await other.request_invalidation("ann", pattern="a:*")).delivered == 1
        await other.broker.send(Message(receiver="keeper", content={"type": "cache_invalidate", "colour": "red"}))
        await harness.advance(0)
        await harness.advance(0)
    assert await system.memory.list_keys("cache:*") == ["cache:b:1"]
    (letter,) = await system.broker.dead_letters("keeper")
    assert "one of key=, pattern= and tag=" in letter.reason


# --- bad input ---------------------------------------------------------------------------------------


async def test_bad_input_is_refused_before_anything_is_computed(system: HybridCommunicationSystem) -> None:
    function = Function()
    wrong: list[tuple[type[Exception], dict[str, Any]]] = [
        (InvalidInputError, {"ttl": 0}),
        (InvalidInputError, {"ttl": -1.0}),
        (InvalidInputError, {"stale_while_revalidate": -1.0}),
        (InvalidInputError, {"stale_while_revalidate": 5.0, "ttl": None}),
        (InvalidInputError, {"negative_ttl": 0}),
        (InvalidInputError, {"timeout": 0}),
        (InvalidInputError, {"tags": "tag"}),
        (InvalidNameError, {"agent": "a:b"}),
    ]
    for error, options in wrong:
        with pytest.raises(error):
            await system.get_or_compute("k", function, **options)
    for key in ("", "x" * (MAX_CACHE_KEY + 1), "line\nfeed"):
        with pytest.raises(InvalidKeyError):
            await system.get_or_compute(key, function)
    with pytest.raises(InvalidInputError):
        await system.get_or_compute("k", 7)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidInputError):
        HybridCommunicationSystem(system.space, lease=0)
    assert function.calls == 0
    assert await system.get_or_compute("x" * MAX_CACHE_KEY, function) == 1


async def test_a_function_that_needs_its_own_key_is_told_so(system: HybridCommunicationSystem) -> None:
    async def outer() -> Any:
        return await system.get_or_compute("inner", inner)

    async def inner() -> Any:
        return await system.get_or_compute("outer", outer)

    with pytest.raises(ComputeFailedError, match="outer > inner > outer"):
        await soon(system.get_or_compute("outer", outer))
    assert await soon(system.get_or_compute("inner", lambda: 1)) == 1


async def test_a_function_may_use_other_keys(system: HybridCommunicationSystem) -> None:
    async def outer() -> Any:
        return 1 + await system.get_or_compute("inner", lambda: 1)

    assert await soon(asyncio.gather(*[system.get_or_compute(key, outer) for key in ("a", "b", "a")])) == [2, 2, 2]


async def test_nobody_waits_longer_than_he_said(harness: SpaceHarness, system: HybridCommunicationSystem) -> None:
    function = Function.held()
    waiting = asyncio.create_task(system.get_or_compute("k", function, timeout=HALF))
    await harness.advance(HALF + 0.5)
    with pytest.raises(ComputeTimeoutError) as caught:
        await soon(waiting)
    assert (caught.value.key, caught.value.timeout) == ("k", HALF)
    assert isinstance(caught.value, TimeoutError)
