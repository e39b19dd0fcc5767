"""Regions as a team uses them: from several processes at once, while permissions change under the work."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tertulia import MemoryAccessMode, MemoryRegion, Space, connect
from tertulia.errors import AccessDeniedError, KeyNotFoundError, VersionConflictError
from tertulia.testing.clock import ManualClock


async def soon(awaitable: Any) -> Any:
    """Await with a bound in real time, so that a hang is a failure and not a stuck test run."""
    return await asyncio.wait_for(awaitable, 5)


async def test_permissions_hold_in_every_handle_on_the_space(clock: ManualClock) -> None:
    async with connect("memory:team", clock=clock) as one, connect("memory:team", clock=clock) as two:
        here, there = (MemoryRegion("plans", space.memory) for space in (one, two))
        await here.grant_access("ann", MemoryAccessMode.READ_WRITE)
        await there.write("k", 1, agent_id="ann")
        assert await there.permissions() == {"ann": MemoryAccessMode.READ_WRITE}
        assert await there.revoke_access("ann")
        with pytest.raises(AccessDeniedError):
            await here.read("k", agent_id="ann")


async def test_of_many_that_want_a_region_exclusively_one_gets_it_at_a_time(clock: ManualClock) -> None:
    async with connect("memory:team", clock=clock) as one, connect("memory:team", clock=clock) as two:
        regions = [MemoryRegion("ledger", space.memory) for space in (one, two)]
        agents = [f"agent{number}" for number in range(6)]
        served: list[str] = []
        waiting = list(agents)
        while waiting:
            tries = [
                regions[number % 2].grant_access(agent, MemoryAccessMode.EXCLUSIVE)
                for number, agent in enumerate(waiting)
            ]
            outcomes = await asyncio.gather(*tries, return_exceptions=True)
            winners = [agent for agent, outcome in zip(waiting, outcomes, strict=True) if outcome is None]
            assert len(winners) == 1
            assert sum(isinstance(outcome, AccessDeniedError) for outcome in outcomes) == len(waiting) - 1
            await regions[0].write("balance", winners[0], agent_id=winners[0])
            await regions[1].revoke_access(winners[0])
            served += winners
            waiting.remove(winners[0])
    assert sorted(served) == agents


async def test_an_exclusive_holder_keeps_it_by_asking_again(space: Space, clock: ManualClock) -> None:
    region = MemoryRegion("ledger", space.memory)
    await region.grant_access("clerk", MemoryAccessMode.READ)
    for _ in range(5):
        await region.grant_access("auditor", MemoryAccessMode.EXCLUSIVE, lease=10)
        await clock.advance(9)
    with pytest.raises(AccessDeniedError):
        await region.read("k", agent_id="clerk")
    await clock.advance(1)
    assert await region.read("k", agent_id="clerk") is None
    assert await region.permissions() == {"clerk": MemoryAccessMode.READ}


async def test_a_watch_on_a_region_ends_when_its_watcher_may_not_read_any_more(space: Space) -> None:
    region = MemoryRegion("lab", space.memory)
    for agent in ("ann", "bob"):
        await region.grant_access(agent, MemoryAccessMode.READ_WRITE)
    async with region.watch(agent_id="bob") as changes:
        await region.write("k", 1, agent_id="ann")
        assert (await soon(anext(changes))).value == 1
        await region.revoke_access("bob")
        await region.write("k", 2, agent_id="ann")
        with pytest.raises(AccessDeniedError):
            await soon(anext(changes))


async def test_two_regions_keep_their_keys_apart_and_the_whole_memory_does_not_show_them(space: Space) -> None:
    regions = [MemoryRegion(name, space.memory) for name in ("a", "a*", "ab")]
    for region in regions:
        await region.grant_access("ann", MemoryAccessMode.READ_WRITE)
        await region.write("k", region.name, agent_id="ann")
    assert [await region.read("k", agent_id="ann") for region in regions] == ["a", "a*", "ab"]
    assert [await region.list_keys("*", agent_id="ann") for region in regions] == [["k"]] * 3
    assert await space.memory.list_keys() == []
    assert (await space.memory.snapshot()).entries == ()


async def test_a_conflict_in_a_region_names_the_key_as_its_user_knows_it(space: Space) -> None:
    region = MemoryRegion("lab", space.memory)
    await region.grant_access("ann", MemoryAccessMode.READ_WRITE)
    entry = await region.write("k", 1, agent_id="ann")
    assert entry.key == "k"
    with pytest.raises(VersionConflictError) as moved:
        await region.update("k", 2, agent_id="ann", expected_version=7)
    with pytest.raises(KeyNotFoundError) as missing:
        await region.update("other", 2, agent_id="ann")
    assert (moved.value.key, missing.value.key) == ("k", "other")
