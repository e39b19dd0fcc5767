"""Semaphores: as many holders as there are permits, with the promises of a lock."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tertulia import Semaphore, Space
from tertulia.errors import (
    DeadlockError,
    InvalidInputError,
    InvalidNameError,
    LockLostError,
    LockTimeoutError,
    NotHolderError,
)
from tertulia.testing.conformance import SpaceHarness
from tests.patterns.handles import another_process
from tests.patterns.locking import in_time, kept, nothing_is_left, soon, together, wait_in_line

LEASE = 3.0  # seconds
PERMITS = "permits:search"  # stays, so that everybody agrees


async def test_as_many_agents_hold_a_semaphore_as_it_has_permits(harness: SpaceHarness, space: Space):
    semaphore, elsewhere = Semaphore(space, "search", 3), Semaphore(await harness.open_again(), "search", 3)
    grants = [await (semaphore if number % 2 else elsewhere).acquire(f"a{number}", timeout=0) for number in range(3)]

    assert await semaphore.try_acquire("b") is None
    assert await elsewhere.try_acquire("b") is None
    assert sorted(holder.agent_id for holder in await semaphore.holders()) == ["a0", "a1", "a2"]
    assert len({grant.fence for grant in grants}) == 3

    await grants[1].release()
    assert (await semaphore.acquire("b", timeout=0)).fence > max(grant.fence for grant in grants)


async def test_never_more_than_the_permits_are_held_at_once(harness: SpaceHarness, space: Space):
    handles = [space, await harness.open_again(), await harness.open_again()]
    inside, most = 0, 0
    full = asyncio.Event()

    async def work(number: int) -> None:
        nonlocal inside, most
        semaphore = Semaphore(handles[number % 3], "search", 4)
        for _ in range(5):
            async with semaphore.hold(f"a{number}", timeout=None):
                inside += 1
                most = max(most, inside)
                if inside == 4:
                    full.set()
                await full.wait()  # the first ones, until there are as many as may be
                await asyncio.sleep(0)
                inside -= 1

    await in_time(harness, together(*(work(number) for number in range(12))), step=0)

    assert most == 4
    await nothing_is_left(harness, space, PERMITS)


async def test_those_who_wait_for_a_permit_are_served_first_come_first(harness: SpaceHarness, space: Space):
    semaphore = Semaphore(space, "search", 2)
    held = [await semaphore.acquire("x"), await semaphore.acquire("y")]
    tasks = [await wait_in_line(harness, semaphore, f"a{number}", timeout=None) for number in range(4)]
    assert [sorted(wait.held_by) for wait in await semaphore.waiting()] == [["x", "y"]] * 4

    for number, task in enumerate(tasks):
        await held.pop(number % 2).release()
        held.append(await soon(harness, task))
        assert [wait.agent_id for wait in await semaphore.waiting()] == [f"a{late}" for late in range(number + 1, 4)]


async def test_an_agent_may_hold_several_permits_and_gives_back_the_oldest_first(space: Space):
    semaphore = Semaphore(space, "search", 2)
    async with semaphore.hold("ann") as first, semaphore.hold("ann") as second:
        await semaphore.release("ann")
        assert (first.held, second.held) == (False, True)
        await semaphore.release("ann")
        with pytest.raises(NotHolderError):
            await semaphore.release("ann")


async def test_an_agent_that_waits_for_its_own_permits_alone_is_told_so(harness: SpaceHarness, space: Space):
    semaphore = Semaphore(space, "search", 2)
    async with semaphore.hold("ann"), semaphore.hold("ann"):
        with pytest.raises(DeadlockError) as deadlock:
            await in_time(harness, asyncio.create_task(semaphore.acquire("ann", timeout=None)))
        assert [(wait.agent_id, wait.name) for wait in deadlock.value.cycle] == [("ann", "search")]


async def test_writes_through_a_permit_that_was_lost_are_refused_though_others_hold_theirs(
    harness: SpaceHarness, space: Space
):
    semaphore = Semaphore(space, "search", 2)
    async with another_process(harness) as process, semaphore.hold("bob") as other:
        stale = await Semaphore(process.space, "search", 2).acquire("ann", lease=LEASE)
        process.crash()
        for _ in range(5):
            await harness.advance(1)
        process.recover()
        assert await semaphore.try_acquire("carl") is not None

        with pytest.raises(LockLostError) as lost:
            await stale.write("a", 1)
        assert (lost.value.kind, lost.value.names) == ("semaphore", ("search",))
        assert (await other.write("a", 2)).version == 1


async def test_a_wait_for_a_permit_ends_with_its_timeout_and_names_the_holders(harness: SpaceHarness, space: Space):
    semaphore = Semaphore(space, "search", 2)
    async with semaphore.hold("ann"), semaphore.hold("bob"):
        with pytest.raises(LockTimeoutError) as late:
            await in_time(harness, asyncio.create_task(semaphore.acquire("carl", timeout=2)), step=1)
        assert sorted(late.value.holders) == ["ann", "bob"]
    await nothing_is_left(harness, space, PERMITS)


async def test_another_number_of_permits_is_refused_until_it_is_changed_for_all(harness: SpaceHarness, space: Space):
    semaphore, other = Semaphore(space, "search", 2), Semaphore(await harness.open_again(), "search", 3)
    held = [await semaphore.acquire("ann"), await semaphore.acquire("bob")]
    for call in (other.acquire, other.try_acquire):
        with pytest.raises(InvalidInputError, match="has 2 permits in this space, not 3"):
            await call("carl")
    waiting = await wait_in_line(harness, semaphore, "dora", timeout=None)

    await Semaphore(space, "search", 5).resize(3, requester="carl")

    third = await other.acquire("carl")
    with pytest.raises(InvalidInputError, match="has 3 permits"):
        await semaphore.acquire("dora")
    with pytest.raises(InvalidInputError, match="has 3 permits"):
        await in_time(harness, waiting)
    await other.resize(1, requester="carl")
    assert [grant.held for grant in (*held, third)] == [True] * 3
    for grant in (*held, third):
        await grant.release()
    async with other.hold("carl"):
        assert await other.try_acquire("ann") is None
    await nothing_is_left(harness, space, PERMITS)


@pytest.mark.parametrize("permits", [0, -1, 1_001, 1.5, "3", True, None])
async def test_a_number_of_permits_that_is_none_is_refused(space: Space, permits: Any):
    with pytest.raises(InvalidInputError):
        Semaphore(space, "search", permits)
    with pytest.raises(InvalidInputError):
        await Semaphore(space, "search", 1).resize(permits, requester="ann")
    assert await kept(space) == []


async def test_bad_names_are_refused(space: Space):
    with pytest.raises(InvalidNameError):
        Semaphore(space, "", 1)
    with pytest.raises(InvalidNameError):
        await Semaphore(space, "search", 1).acquire("")
    with pytest.raises(InvalidNameError):
        await Semaphore(space, "search", 1).resize(2, requester="a:b")
    assert await kept(space) == []
