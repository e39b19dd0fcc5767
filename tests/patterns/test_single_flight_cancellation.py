"""Whoever is cancelled, at whatever await, of those who ask for a cached key: the others are served, without a delay.

Cancellations come after a random number of the event loop's turns, and the engines give way at random, so that over
the many they hit every await of a call. No time passes, so a lease that is left behind would never end.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tertulia import HybridCommunicationSystem
from tertulia.errors import ComputeFailedError
from tertulia.patterns.caching import FLIGHT_KEYS
from tertulia.testing.clock import ManualClock, come_to_rest
from tests.model.engines import EngineCase, Place, on_every_engine
from tests.model.procedures import Interleaved, chance_of
from tests.profile import times

ROUNDS = times(400, 20_000)
CALLERS = 6


@asynccontextmanager
async def two_systems(engine: EngineCase, clock: ManualClock) -> AsyncIterator[list[HybridCommunicationSystem]]:
    """Open two handles on one space that give way at random; once they are closed, no task may be left."""
    before = asyncio.all_tasks()
    place = Place(engine)
    spaces = [
        await place.open(clock=clock, wrap=lambda inside, seed=seed: Interleaved(inside, None, seed=seed))
        for seed in range(2)
    ]
    try:
        yield [HybridCommunicationSystem(space) for space in spaces]
    finally:
        for space in spaces:
            await space.aclose()
        place.remove()
    await come_to_rest()
    assert asyncio.all_tasks() == before, "a task was leaked"


async def pause(chance: random.Random, most: int) -> None:
    for _ in range(chance.randrange(most)):
        await asyncio.sleep(0)


class Round:
    """One key, asked for by several callers, of which some are cancelled."""

    def __init__(self, number: int, systems: list[HybridCommunicationSystem], chance: random.Random) -> None:
        self.key = f"k{number}"
        self.systems = systems
        self.chance = chance
        self.computed = 0

    async def function(self) -> int:
        await pause(self.chance, 30)
        self.computed += 1
        if self.chance.random() < 0.2:
            raise ValueError("bad luck")
        return self.computed

    async def ask(self) -> str:
        """Come at some time and ask; say what became of it."""
        await pause(self.chance, 30)
        try:
            value = await self.chance.choice(self.systems).get_or_compute(self.key, self.function)
        except ComputeFailedError:
            return "failed"
        assert 1 <= value <= self.computed
        return "served"

    async def leave(self, task: asyncio.Task[Any]) -> None:
        await pause(self.chance, 90)
        task.cancel()

    async def take_back(self) -> None:
        await pause(self.chance, 60)
        await self.chance.choice(self.systems).invalidate(key=self.key)

    async def play(self) -> list[asyncio.Task[str]]:
        callers = [asyncio.create_task(self.ask()) for _ in range(CALLERS)]
        others = [asyncio.create_task(self.leave(caller)) for caller in callers if self.chance.random() < 0.6]
        if self.chance.random() < 0.3:
            others.append(asyncio.create_task(self.take_back()))
        await asyncio.wait([*callers, *others], timeout=20)
        return callers


@on_every_engine
async def test_those_who_are_not_cancelled_are_served_at_once_and_nothing_is_left_behind(engine: EngineCase) -> None:
    clock, chance = ManualClock(), chance_of("single flight")
    fates: Counter[str] = Counter()
    async with two_systems(engine, clock) as systems:
        for number in range(ROUNDS):
            one = Round(number, systems, chance)
            for caller in await one.play():
                assert caller.done(), "a caller waits though nobody computes for him"
                fates["cancelled" if caller.cancelled() else caller.result()] += 1
            await clock.advance(0)
            for system in systems:
                assert await system.space.engine.get(FLIGHT_KEYS + one.key) is None, "a lease was left behind"
    assert min(fates[fate] for fate in ("cancelled", "served", "failed")) > ROUNDS // 5
    refused = sum(system.cache_info().refused for system in systems)
    assert refused > 0, "no key was ever taken back while it was computed"
