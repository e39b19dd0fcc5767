"""Elections: one leader at a time, whom everybody can see, and whose writes end with its leadership."""

from __future__ import annotations

import asyncio

import pytest

from tertulia import Election, Grant, Lock, Semaphore, Space
from tertulia.errors import AlreadyHeldError, InvalidNameError, LockLostError, LockTimeoutError, NotHolderError
from tertulia.testing.conformance import SpaceHarness
from tests.patterns.handles import another_process
from tests.patterns.locking import in_time, nothing_is_left, soon, until

LEASE = 3.0  # seconds


async def candidate(harness: SpaceHarness, election: Election, agent_id: str) -> asyncio.Task[Grant]:
    """Let an agent stand, and return once it does."""
    task = asyncio.create_task(election.campaign(agent_id))

    async def stands() -> bool:
        return agent_id in [wait.agent_id for wait in await election.candidates()]

    await until(harness, stands)
    return task


async def test_the_first_candidate_leads_until_it_resigns_then_the_next(harness: SpaceHarness, space: Space):
    election, elsewhere = Election(space, "chair"), Election(await harness.open_again(), "chair")
    assert await election.leader() is None
    grant = await election.campaign("ann")
    waiting = [await candidate(harness, elsewhere, "bob"), await candidate(harness, election, "carl")]
    leader = await elsewhere.leader()
    assert leader is not None
    assert (leader.agent_id, leader.name, leader.fence) == ("ann", "chair", grant.fence)
    assert [wait.agent_id for wait in await election.candidates()] == ["bob", "carl"]

    await election.resign("ann")

    second = await soon(harness, waiting[0])
    assert second.fence > grant.fence
    await elsewhere.resign("bob")
    await soon(harness, waiting[1])
    leader = await elsewhere.leader()
    assert leader is not None
    assert leader.agent_id == "carl"


async def test_only_the_leader_can_resign(harness: SpaceHarness, space: Space):
    election = Election(space, "chair")
    await election.campaign("ann")
    with pytest.raises(NotHolderError) as refused:
        await election.resign("bob")
    assert refused.value.holders == ("ann",)
    with pytest.raises(NotHolderError):
        await Election(await harness.open_again(), "chair").resign("ann")
    leader = await election.leader()
    assert leader is not None
    assert leader.agent_id == "ann"


async def test_when_the_leader_dies_the_next_is_elected_and_the_old_one_writes_nothing_more(
    harness: SpaceHarness, space: Space
):
    election = Election(space, "chair")
    async with another_process(harness) as process:
        stale = await Election(process.space, "chair").campaign("ann", lease=LEASE)
        await stale.write("plan", 1)
        process.crash()
        grant = await in_time(harness, asyncio.create_task(election.campaign("bob")), step=1)
        process.recover()
        with pytest.raises(LockLostError) as lost:
            await stale.write("plan", 2)
        assert lost.value.kind == "election"
        assert (await grant.update("plan", 3)).version == 2
        await grant.release()
    await nothing_is_left(harness, space)


async def test_a_leader_that_is_deposed_is_stopped(harness: SpaceHarness):
    async with another_process(harness) as process:

        async def lead() -> None:
            async with Election(process.space, "chair").lead("ann", lease=LEASE):
                process.crash()
                await asyncio.Event().wait()

        with pytest.raises(LockLostError):
            await in_time(harness, asyncio.create_task(lead()), step=1)


async def test_a_candidate_may_give_up_and_then_does_not_stand_any_more(harness: SpaceHarness, space: Space):
    election = Election(space, "chair")
    async with election.lead("ann"):
        with pytest.raises(AlreadyHeldError):
            await election.campaign("ann")
        with pytest.raises(LockTimeoutError):
            await in_time(harness, asyncio.create_task(election.campaign("bob", timeout=2)), step=1)
        waiting = await candidate(harness, election, "carl")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await election.candidates() == []
    await nothing_is_left(harness, space)


async def test_an_observer_sees_the_present_leader_and_then_every_change(harness: SpaceHarness, space: Space):
    election = Election(space, "chair")
    async with Election(await harness.open_again(), "chair").observe() as leaders:
        assert await soon(harness, anext(leaders)) is None
        first = await election.campaign("ann", lease=LEASE)
        for _ in range(3):
            await harness.advance(LEASE)  # renewals are no news
        await first.release()
        async with election.lead("bob"):
            seen = [await soon(harness, anext(leaders)) for _ in range(3)]
            assert [leader and leader.agent_id for leader in seen] == ["ann", None, "bob"]
            async with election.observe() as late:
                leader = await soon(harness, anext(late))
                assert leader is not None
                assert leader.agent_id == "bob"
        assert await soon(harness, anext(leaders)) is None
        assert [leader async for leader in late] == []  # it was left


async def test_an_observer_sees_a_leader_whose_lease_ran_out_go(harness: SpaceHarness, space: Space):
    async with another_process(harness) as process, Election(space, "chair").observe() as leaders:
        await Election(process.space, "chair").campaign("ann", lease=LEASE)
        assert await soon(harness, anext(leaders)) is not None
        process.crash()
        assert await in_time(harness, asyncio.ensure_future(anext(leaders)), step=1) is None


async def test_an_observer_ends_with_its_space(harness: SpaceHarness):
    other = await harness.open_again()
    async with Election(other, "chair").observe() as leaders:
        assert await soon(harness, anext(leaders)) is None
        await other.aclose()
        assert [leader async for leader in leaders] == []


async def test_an_observer_has_to_be_entered(space: Space):
    with pytest.raises(RuntimeError, match="async with"):
        await anext(Election(space, "chair").observe())


async def test_elections_locks_and_semaphores_of_one_name_are_different_things(space: Space):
    async with Election(space, "x").lead("ann"), Lock(space, "x").hold("ann"), Semaphore(space, "x", 1).hold("ann"):
        leader = await Election(space, "x").leader()
        assert leader is not None


async def test_bad_names_are_refused(space: Space):
    for name in ("", "_chair", "a\n"):
        with pytest.raises(InvalidNameError):
            Election(space, name)
    with pytest.raises(InvalidNameError):
        await Election(space, "chair").campaign("a:b")
