"""A deadline by the space's clock: when it rings, when it does not, and what a cancellation stays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tertulia._clock import TimerHandle
from tertulia.patterns._deadline import Deadline
from tertulia.testing.clock import ManualClock


async def hang(clock: ManualClock, seconds: float | None) -> None:
    async with Deadline(clock, None if seconds is None else clock.monotonic() + seconds):
        await asyncio.get_running_loop().create_future()


async def test_a_block_that_takes_too_long_ends_with_a_timeout() -> None:
    clock = ManualClock()
    task = asyncio.create_task(hang(clock, 5.0))
    await clock.advance(4.9)
    assert not task.done()
    await clock.advance(0.1)
    with pytest.raises(TimeoutError):
        await task
    assert task.cancelling() == 0


async def test_a_deadline_that_is_over_rings_at_once() -> None:
    clock = ManualClock()
    task = asyncio.create_task(hang(clock, -1.0))
    await clock.advance(0)
    with pytest.raises(TimeoutError):
        await task


async def test_without_a_deadline_nothing_rings() -> None:
    clock = ManualClock()
    task = asyncio.create_task(hang(clock, None))
    await clock.advance(10**6)
    assert not task.done()
    task.cancel()


async def test_a_block_that_ends_in_time_leaves_no_timer() -> None:
    clock = ManualClock()
    async with Deadline(clock, clock.monotonic() + 5.0):
        await asyncio.sleep(0)
    assert clock.pending == 0
    async with Deadline(clock, clock.monotonic() + 5.0):
        with pytest.raises(ValueError, match="own"):
            raise ValueError("own")
    assert clock.pending == 0


class HeldClock(ManualClock):
    """A clock whose callback is called by the test."""

    def call_later(self, delay: float, callback: Callable[[], object]) -> TimerHandle:
        self.ring = callback
        return super().call_later(delay, callback)


@pytest.mark.parametrize("order", ["cancelled first", "rung first"])
async def test_a_cancellation_stays_one_also_when_the_deadline_rings_in_the_same_moment(order: str) -> None:
    clock = HeldClock()
    task = asyncio.create_task(hang(clock, 5.0))
    await asyncio.sleep(0)
    for step in (task.cancel, clock.ring) if order == "cancelled first" else (clock.ring, task.cancel):
        step()
    await asyncio.wait([task])
    assert task.cancelled()
