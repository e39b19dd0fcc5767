"""The manual clock passes time only when told to, and then completely."""

import asyncio
import time
from contextvars import ContextVar

import pytest

from tertulia._clock import Clock, sleep
from tertulia.testing import ManualClock
from tertulia.testing.clock import MAX_TURNS


async def test_time_stands_still_until_it_is_advanced():
    clock: Clock = ManualClock(start=50.0)
    before = clock.monotonic()

    await asyncio.sleep(0.01)

    assert (clock.time(), clock.monotonic() - before) == (50.0, 0.0)


async def test_advancing_moves_both_kinds_of_time():
    clock = ManualClock(start=50.0)
    before = clock.monotonic()

    await clock.advance(2.5)

    assert (clock.time(), clock.monotonic() - before) == (52.5, 2.5)


async def test_a_jump_moves_civil_time_only_and_fires_nothing():
    clock = ManualClock(start=50.0)
    before = clock.monotonic()
    fired: list[str] = []
    clock.call_later(1.0, lambda: fired.append("timer"))

    clock.jump(3600.0)
    await clock.advance(0)
    assert (clock.time(), clock.monotonic() - before, fired) == (3650.0, 0.0, [])

    clock.jump(-7200.0)
    await clock.advance(1.0)
    assert (clock.time(), fired) == (-3549.0, ["timer"])


async def test_timers_fire_in_order_at_their_own_time():
    clock = ManualClock()
    start = clock.monotonic()
    fired: list[tuple[str, float]] = []

    def note(name: str) -> None:
        fired.append((name, clock.monotonic() - start))

    clock.call_later(3.0, lambda: note("third"))
    clock.call_later(1.0, lambda: note("first"))
    clock.call_later(2.0, lambda: note("second"))
    clock.call_later(2.0, lambda: note("second, set later"))
    clock.call_later(9.0, lambda: note("never"))
    await clock.advance(3.0)

    assert fired == [("first", 1.0), ("second", 2.0), ("second, set later", 2.0), ("third", 3.0)]
    assert clock.pending == 1


async def test_timers_set_while_time_passes_fire_in_the_same_advance():
    clock = ManualClock()
    start = clock.monotonic()
    seen: list[float] = []

    async def tick() -> None:
        for _ in range(3):
            await sleep(clock, 1.0)
            seen.append(clock.monotonic() - start)

    ticking = asyncio.create_task(tick())
    await clock.advance(2.5)
    assert seen == [1.0, 2.0]

    await clock.advance(0.5)
    assert (seen, ticking.done()) == ([1.0, 2.0, 3.0], True)


async def test_woken_tasks_have_run_to_their_next_wait_before_the_next_timer():
    clock = ManualClock()
    order: list[str] = []

    async def chain() -> None:
        await sleep(clock, 1.0)
        for step in range(50):
            await asyncio.sleep(0)
            order.append(f"step {step}")

    work = asyncio.create_task(chain())
    clock.call_later(1.0 + 1e-9, lambda: order.append("next timer"))
    await clock.advance(2.0)

    assert work.done()
    assert order == [*(f"step {step}" for step in range(50)), "next timer"]


async def test_a_cancelled_timer_does_not_fire():
    clock = ManualClock()
    fired: list[str] = []
    first = clock.call_later(1.0, lambda: fired.append("first"))
    second = clock.call_later(1.0, lambda: fired.append("second"))
    clock.call_later(0.5, second.cancel)
    first.cancel()

    await clock.advance(5.0)

    assert (fired, clock.pending) == ([], 0)


async def test_a_timer_without_delay_fires_without_advancing():
    clock = ManualClock()
    fired: list[str] = []
    clock.call_later(0.0, lambda: fired.append("now"))
    clock.call_later(-1.0, lambda: fired.append("overdue"))
    clock.call_later(0.0, lambda: fired.append("cancelled")).cancel()

    assert fired == []
    await asyncio.sleep(0)

    assert fired == ["now", "overdue"]


async def test_a_timer_runs_in_the_context_it_was_set_in():
    clock = ManualClock()
    who = ContextVar("who", default="nobody")
    seen: list[str] = []
    who.set("the setter")
    clock.call_later(1.0, lambda: seen.append(who.get()))
    who.set("somebody else")

    await clock.advance(1.0)

    assert seen == ["the setter"]


async def test_an_exception_from_a_timer_comes_out_of_advance_at_its_time():
    clock = ManualClock()
    start = clock.monotonic()
    fired: list[str] = []

    def fail() -> None:
        raise KeyError("from the timer")

    clock.call_later(1.0, fail)
    clock.call_later(2.0, lambda: fired.append("later"))

    with pytest.raises(KeyError, match="from the timer"):
        await clock.advance(5.0)
    assert (clock.monotonic() - start, fired) == (1.0, [])

    await clock.advance(1.0)
    assert fired == ["later"]


async def test_time_never_passes_backwards():
    clock = ManualClock()

    for seconds in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="forwards"):
            await clock.advance(seconds)


async def test_two_advances_at_once_are_refused():
    clock = ManualClock()
    clock.call_later(1.0, lambda: None)
    first = asyncio.create_task(clock.advance(1.0))
    await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="another advance"):
        await clock.advance(1.0)
    await first


async def test_work_that_never_rests_is_an_error_rather_than_a_hang():
    clock = ManualClock()
    turns = 0

    async def spin() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    spinning = asyncio.create_task(spin())
    with pytest.raises(RuntimeError, match="does not come to rest"):
        await clock.advance(0)
    spinning.cancel()

    assert turns >= MAX_TURNS - 1


async def test_time_waits_for_work_in_a_thread():
    clock = ManualClock()
    start = clock.monotonic()
    done: list[float] = []

    def work() -> None:
        release = clock.hold()
        working = asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.05)
        working.add_done_callback(lambda _: (done.append(clock.monotonic() - start), release()))

    clock.call_later(1.0, work)
    clock.call_later(2.0, lambda: done.append(2.0))
    await clock.advance(3.0)

    assert done == [1.0, 2.0]


async def test_work_in_a_thread_that_never_ends_is_an_error_rather_than_a_hang(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tertulia.testing.clock.WORK_LIMIT", 0.01)
    clock = ManualClock()
    release = clock.hold()

    with pytest.raises(RuntimeError, match="has not ended"):
        await clock.advance(1.0)
    release()
    await clock.advance(1.0)
