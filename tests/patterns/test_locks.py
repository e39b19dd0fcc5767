"""Locks: who holds what, in which order it is passed on, and that a holder that lost it changes nothing any more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tertulia import (
    DeliveryTransaction,
    Lock,
    MemoryAccessMode,
    MemoryRegion,
    Message,
    MessagePassingAgent,
    Space,
)
from tertulia.engines.base import Commit, Committed, Delete
from tertulia.errors import (
    AlreadyHeldError,
    EngineUnavailableError,
    InvalidInputError,
    InvalidNameError,
    KeyExistsError,
    LineFullError,
    LockLostError,
    LockTimeoutError,
    NotHolderError,
    OutcomeUnknownError,
    RemoteError,
    SpaceClosedError,
)
from tertulia.patterns import _line
from tertulia.patterns.locks import locks
from tertulia.testing.conformance import SpaceHarness
from tertulia.testing.conformance._steps import until as until_holds
from tertulia.testing.faults import Fault, FaultyEngine
from tests.patterns.handles import another_process
from tests.patterns.locking import PATIENCE, in_time, kept, nothing_is_left, soon, together, until, wait_in_line

LEASE = 3.0  # seconds


# --- holding -------------------------------------------------------------------------------------------


async def test_one_agent_at_a_time_holds_a_lock_whatever_handle_it_uses(harness: SpaceHarness, space: Space):
    lock, elsewhere = Lock(space, "report"), Lock(await harness.open_again(), "report")

    async with lock.hold("ann") as grant:
        assert await lock.try_acquire("bob") is None
        assert await elsewhere.try_acquire("bob") is None
        assert await elsewhere.try_acquire("ann") is None
        assert [(held.agent_id, held.name, held.fence) for held in await elsewhere.holders()] == [
            ("ann", "report", grant.fence)
        ]
        assert grant.held
    assert not grant.held
    assert await lock.holders() == []
    assert await elsewhere.try_acquire("bob") is not None


async def test_a_lock_is_passed_on_at_once_when_it_is_released(harness: SpaceHarness, space: Space):
    elsewhere = Lock(await harness.open_again(), "report")
    grant = await Lock(space, "report").acquire("ann")
    waiting = await wait_in_line(harness, elsewhere, "bob", timeout=None)

    await grant.release()

    assert (await soon(harness, waiting)).agent_id == "bob"


async def test_those_who_wait_are_served_first_come_first(harness: SpaceHarness, space: Space):
    handles = [Lock(space, "report"), Lock(await harness.open_again(), "report")]
    grant = await handles[0].acquire("first")
    tasks = [await wait_in_line(harness, handles[number % 2], f"a{number}", timeout=None) for number in range(6)]
    assert [wait.agent_id for wait in await handles[1].waiting()] == [f"a{number}" for number in range(6)]

    for task in tasks:
        await grant.release()
        grant = await soon(harness, task)

    assert grant.agent_id == "a5"
    await grant.release()
    await nothing_is_left(harness, space)


async def test_a_crowd_in_one_process_gets_through_and_nobody_is_left_waiting(harness: SpaceHarness, space: Space):
    turns = dict.fromkeys(range(32), 0)
    rounds = 30 if space.url.startswith("memory:") else 5  # as fast as commits are, so does the crowd move

    async def come_again(number: int) -> None:
        for _ in range(rounds):
            async with Lock(space, "report").hold(f"a{number}", timeout=None):
                turns[number] += 1

    async with asyncio.timeout(PATIENCE):
        await together(*(come_again(number) for number in turns))

    assert set(turns.values()) == {rounds}
    await nothing_is_left(harness, space)


async def test_an_agent_that_does_not_wait_never_passes_one_that_does(harness: SpaceHarness, space: Space):
    lock = Lock(space, "report")
    grant = await lock.acquire("ann")
    waiting = await wait_in_line(harness, lock, "bob", timeout=None)

    await grant.release()
    assert await lock.try_acquire("carl") is None
    late = asyncio.create_task(lock.acquire("carl", timeout=None))

    grant = await soon(harness, waiting)
    assert not late.done()
    await grant.release()
    assert (await soon(harness, late)).agent_id == "carl"


async def test_a_lease_is_renewed_for_as_long_as_it_is_held(harness: SpaceHarness, space: Space):
    lock = Lock(space, "report")
    async with lock.hold("ann", lease=LEASE) as grant:
        for _ in range(5):
            await harness.advance(LEASE)
        [holder] = await lock.holders()
        assert holder.fence == grant.fence
        assert holder.expires_at.timestamp() > space.clock.time()
        await grant.write("report", "done")
    assert await space.memory.read("report", reader="bob") == "done"


async def test_every_later_grant_has_a_greater_fence_though_nothing_was_written_in_between(space: Space):
    lock = Lock(space, "report")
    fences: list[int] = []
    for agent_id in ("ann", "bob", "ann"):
        async with lock.hold(agent_id) as grant:
            fences.append(grant.fence)

    assert fences == sorted(set(fences))


async def test_releasing_twice_changes_nothing(space: Space):
    lock = Lock(space, "report")
    grant = await lock.acquire("ann")
    await grant.release()
    other = await lock.acquire("bob")

    await grant.release()

    assert [holder.agent_id for holder in await lock.holders()] == ["bob"]
    assert other.held


async def test_a_lock_is_released_by_the_name_of_its_holder_and_of_nobody_else(harness: SpaceHarness, space: Space):
    lock, elsewhere = Lock(space, "report"), Lock(await harness.open_again(), "report")
    await lock.acquire("ann")

    for other, agent_id in ((lock, "bob"), (elsewhere, "bob"), (elsewhere, "ann")):
        with pytest.raises(NotHolderError) as refused:
            await other.release(agent_id)
        assert refused.value.holders == ("ann",)
        assert [holder.agent_id for holder in await lock.holders()] == ["ann"]

    await lock.release("ann")
    assert await lock.holders() == []
    with pytest.raises(NotHolderError, match="nobody does"):
        await lock.release("ann")


async def test_an_agent_that_would_wait_for_itself_is_told_so_at_once(space: Space):
    lock = Lock(space, "report")
    async with lock.hold("ann") as grant:
        with pytest.raises(AlreadyHeldError) as refused:
            await lock.acquire("ann")
        assert refused.value.names == ("report",)
        with pytest.raises(AlreadyHeldError):  # the block's own code, whatever agent it speaks for
            await Lock(space, "other", "report").acquire("bob")
        with pytest.raises(AlreadyHeldError):
            await asyncio.gather(lock.acquire("ann"))
        assert grant.held
    async with lock.hold("ann"):
        pass


async def test_one_agent_in_two_places_waits_for_itself(space: Space):
    lock = Lock(space, "report")
    order: list[str] = []

    async def work(name: str) -> None:
        async with lock.hold("ann", timeout=None):
            order.append(name)

    async with asyncio.timeout(30):
        await asyncio.gather(*(work(name) for name in "abc"))
    assert order == ["a", "b", "c"]


# --- several names -------------------------------------------------------------------------------------


async def test_several_names_are_taken_together_or_not_at_all(harness: SpaceHarness, space: Space):
    both = Lock(space, "b", "a", "b")
    assert both.names == ("a", "b")
    assert locks(space, {"b", "a"}).names == ("a", "b")
    grant = await Lock(space, "b").acquire("bob")

    assert await both.try_acquire("ann") is None
    waiting = await wait_in_line(harness, both, "ann", timeout=None)
    only_a = await Lock(space, "a").try_acquire("carl")  # which nobody holds while ann waits
    assert only_a is not None
    await grant.release()
    await harness.advance(0)
    assert not waiting.done()

    await only_a.release()
    held = await soon(harness, waiting)
    assert held.names == ("a", "b")
    assert held.fence == max(held.fences.values())
    assert sorted(holder.name for holder in await both.holders()) == ["a", "b"]
    assert await Lock(space, "a", "c").try_acquire("bob") is None
    await held.release()
    await nothing_is_left(harness, space)


async def test_a_free_lock_is_not_kept_from_one_agent_by_another_that_waits_for_more(
    harness: SpaceHarness, space: Space
):
    a, b = Lock(space, "a"), Lock(space, "b")
    held = await a.acquire("ann")
    both = await wait_in_line(harness, Lock(space, "a", "b"), "bob", timeout=None)

    for _ in range(3):
        async with b.hold("carl", timeout=1):
            assert not both.done()
    await held.release()

    assert (await soon(harness, both)).names == ("a", "b")


async def test_neighbours_that_take_two_names_at_once_all_get_their_turn(harness: SpaceHarness, space: Space):
    meals = 0

    async def dine(seat: int) -> None:
        nonlocal meals
        for _ in range(4):
            async with Lock(space, f"fork{seat}", f"fork{(seat + 1) % 5}").hold(f"p{seat}", timeout=None):
                meals += 1
                await asyncio.sleep(0)

    await in_time(harness, asyncio.gather(*(dine(seat) for seat in range(5))), step=0)
    assert meals == 20
    await nothing_is_left(harness, space)


# --- giving up -----------------------------------------------------------------------------------------


async def test_a_wait_ends_with_its_timeout_and_leaves_nothing_behind(harness: SpaceHarness, space: Space):
    lock = Lock(space, "report")
    grant = await lock.acquire("ann")
    waiting = asyncio.create_task(lock.acquire("bob", timeout=LEASE))

    with pytest.raises(LockTimeoutError) as late:
        await in_time(harness, waiting, step=1)
    assert (late.value.agent_id, late.value.names, late.value.holders) == ("bob", ("report",), ("ann",))
    assert isinstance(late.value, TimeoutError)
    with pytest.raises(LockTimeoutError):
        await lock.acquire("bob", timeout=0)

    await nothing_is_left(harness, space, "holder:lock:0:report")
    await grant.release()
    await nothing_is_left(harness, space)


async def test_a_cancelled_wait_leaves_nothing_behind(harness: SpaceHarness, space: Space):
    lock = Lock(space, "a", "b")
    grant = await lock.acquire("ann")
    tasks = [await wait_in_line(harness, lock, agent_id, timeout=None) for agent_id in ("bob", "carl", "dora")]

    tasks[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]
    assert [wait.agent_id for wait in await Lock(space, "a").waiting()] == ["bob", "dora"]
    await grant.release()
    grant = await soon(harness, tasks[0])
    await grant.release()

    assert (await soon(harness, tasks[2])).agent_id == "dora"


async def test_a_call_that_is_cancelled_anywhere_holds_nothing_and_waits_for_nothing(
    harness: SpaceHarness, space: Space
):
    lock = Lock(space, "a", "b")
    for turns in range(40):
        grant = await lock.acquire("ann") if turns % 2 else None
        task = asyncio.create_task(lock.acquire("bob", timeout=None))
        for _ in range(turns // 2):
            await asyncio.sleep(0)
        if grant is not None:
            await grant.release()
            for _ in range(turns // 4):
                await asyncio.sleep(0)
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        if not isinstance(outcome, BaseException):
            await outcome.release()
        await nothing_is_left(harness, space)


class Late(FaultyEngine):
    """An engine whose commits happen even if whoever made them was cancelled: later than anything it then sees."""

    async def commit(self, commit: Commit) -> Committed:
        async def later() -> Committed:
            for _ in range(8):
                await asyncio.sleep(0)
            return await self.inside.commit(commit)

        return await asyncio.shield(asyncio.create_task(later()))


@pytest.mark.parametrize("others", [False, True])
async def test_a_commit_that_happens_after_its_call_was_cancelled_leaves_nothing_either(
    harness: SpaceHarness, url: str, space: Space, *, others: bool
):
    late = Space(url, Late((await harness.open_again()).engine, {}), space.clock)
    for turns in range(12):
        grant = await Lock(space, "a").acquire("ann", lease=1000) if others else None
        task = asyncio.create_task(Lock(late, "a", "b").acquire("bob", timeout=None))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await nothing_is_left(harness, space, *(["holder:lock:0:a"] if others else []))
        if grant is not None:
            await grant.release()
    await late.aclose()


async def test_the_engine_may_fail_or_be_in_doubt_at_any_call_and_no_lock_stays_locked(
    harness: SpaceHarness, url: str, space: Space
):
    rates = {Fault.UNAVAILABLE: 0.03, Fault.OUTCOME_UNKNOWN_APPLIED: 0.1, Fault.OUTCOME_UNKNOWN_NOT_APPLIED: 0.1}
    inside = (await harness.open_again()).engine
    faulty = FaultyEngine(inside, rates, seed=5, clock=space.clock)
    troubled = Space(url, faulty, space.clock)
    lock = Lock(troubled, "a", "b")
    got = 0
    for number in range(150):
        try:
            grant = await lock.acquire(f"a{number}", lease=LEASE, timeout=0)
            got += 1
            assert [holder.agent_id for holder in await Lock(space, "a", "b").holders()] == [grant.agent_id] * 2
            await grant.release()
        except (EngineUnavailableError, OutcomeUnknownError, LockLostError, LockTimeoutError):
            await harness.advance(LEASE)  # what could not be given back has run out
    assert got > 50
    assert sum(faulty.injected.values()) > 50
    faulty.rates.clear()
    await in_time(harness, lock.acquire("last"), step=1)
    await troubled.aclose()


@pytest.mark.parametrize("fault", [Fault.OUTCOME_UNKNOWN_APPLIED, Fault.OUTCOME_UNKNOWN_NOT_APPLIED])
async def test_who_cannot_learn_whether_it_got_a_lock_looks(
    harness: SpaceHarness, url: str, space: Space, fault: Fault
):
    faulty = FaultyEngine((await harness.open_again()).engine, {fault: 1.0}, clock=space.clock)
    troubled = Space(url, faulty, space.clock)

    acquiring = asyncio.create_task(Lock(troubled, "a", "b").acquire("ann", timeout=20))
    await harness.advance(0)
    faulty.rates.clear()
    if fault is Fault.OUTCOME_UNKNOWN_NOT_APPLIED:
        with pytest.raises(OutcomeUnknownError):
            await acquiring
        assert await Lock(space, "a", "b").try_acquire("bob") is not None
    else:
        grant = await soon(harness, acquiring)
        assert [holder.fence for holder in await Lock(space, "a", "b").holders()] == list(grant.fences.values())
    await troubled.aclose()


async def test_no_more_than_a_thousand_wait_for_a_lock(
    harness: SpaceHarness, space: Space, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_line, "MAX_LINE", 2)
    lock = Lock(space, "report")
    grant = await lock.acquire("ann")
    tasks = [await wait_in_line(harness, lock, agent_id, timeout=None) for agent_id in ("bob", "carl")]

    with pytest.raises(LineFullError) as full:
        await lock.acquire("dora", timeout=None)
    assert full.value.limit == 2
    await grant.release()
    await (await soon(harness, tasks[0])).release()
    assert (await soon(harness, tasks[1])).agent_id == "carl"


# --- losing it -----------------------------------------------------------------------------------------


async def test_a_lock_whose_holder_died_is_free_once_its_lease_is_over(harness: SpaceHarness, space: Space):
    lock = Lock(space, "report")
    async with another_process(harness) as process:
        dead = await Lock(process.space, "report").acquire("ann", lease=LEASE)
        process.crash()
        waiting = await wait_in_line(harness, lock, "bob", timeout=None)
        assert not waiting.done()

        grant = await in_time(harness, waiting, step=1)

        assert grant.fence > dead.fence
        assert dead.lost.is_set()
        assert not dead.held


async def test_a_holder_that_was_taken_over_changes_nothing(harness: SpaceHarness, space: Space):
    memory = space.memory
    await memory.write("a", 1, owner="test")
    await memory.write("b", 1, owner="test")
    await space.broker.register_agent("carl")
    async with another_process(harness) as process:
        region = MemoryRegion("finance", process.space.memory)
        await region.grant_access("ann", MemoryAccessMode.READ_WRITE)
        stale = await Lock(process.space, "report").acquire("ann", lease=LEASE)
        transaction = stale.transaction()
        transaction.write("a", 2, owner="ann")
        transaction.send(Message(sender="ann", receiver="carl", content="a is 2"))
        process.crash()
        await harness.advance(LEASE + 0.5)
        process.recover()
        async with Lock(space, "report").hold("bob") as grant:
            before = await _contents(space)

            async def modify() -> None:
                await stale.memory.modify("a", lambda value: value + 1, updater="ann")

            async def write_in_region() -> None:
                await MemoryRegion("finance", stale.memory).write("c", 2, agent_id="ann")

            for attempt in (
                stale.write("a", 2),
                stale.create("c", 2),
                stale.update("a", 2),
                stale.delete("b"),
                stale.memory.compare_and_swap("a", 1, 2, requester="ann"),
                modify(),
                write_in_region(),
                transaction.commit(),
            ):
                with pytest.raises(LockLostError) as lost:
                    await attempt
                assert (lost.value.agent_id, lost.value.names, lost.value.kind) == ("ann", ("report",), "lock")

            assert await _contents(space) == before
            assert await region.list_keys(agent_id="ann") == []
            assert await space.broker.receive("carl", timeout=0) is None
            with pytest.raises(LockLostError):
                await stale.release()
            assert grant.held
            assert (await grant.write("a", 3)).value == 3


async def test_a_lease_that_ran_out_is_lost_even_if_nobody_took_the_lock(harness: SpaceHarness, space: Space):
    async with another_process(harness) as process:
        stale = await Lock(process.space, "report").acquire("ann", lease=LEASE)
        process.crash()
        await harness.advance(LEASE + 0.5)
        process.recover()

        with pytest.raises(LockLostError):
            await stale.write("a", 1)

        assert stale.lost.is_set()
        assert await space.memory.read("a", reader="bob") is None


async def test_what_is_written_through_a_grant_is_written_while_it_stands(space: Space):
    await space.broker.register_agent("carl")
    async with Lock(space, "report").hold("ann") as grant:
        assert (await grant.create("a", 1)).owner == "ann"
        assert (await grant.update("a", 2, expected_version=1)).version == 2
        with pytest.raises(KeyExistsError):
            await grant.create("a", 1)
        async with grant.transaction() as transaction:
            assert await transaction.read("a", reader="ann") == 2
            transaction.write("b", 1, owner="ann", ttl=5)
            transaction.send(Message(sender="ann", receiver="carl", content="hello"))
        assert await grant.delete("a") is True
        assert await grant.memory.list_keys() == ["b"]
        assert grant.held
    assert await space.broker.receive("carl", timeout=0) is not None
    with pytest.raises(LockLostError, match="released"):
        await grant.write("a", 1)


async def test_a_handler_commits_under_a_lock_and_handles_its_message_in_one_commit(
    harness: SpaceHarness, space: Space
):
    lock = Lock(space, "balance")
    seen: list[bool] = []

    async with MessagePassingAgent("teller", space.broker) as teller:

        @teller.on_message("default")
        async def book(message: Message, transaction: DeliveryTransaction) -> None:
            grant = await lock.acquire("teller")
            try:
                guarded: DeliveryTransaction = grant.guard(transaction)
                guarded.write("balance", message.content, owner="teller")
                if message.content == "late":
                    await grant.release()
                else:
                    await guarded.commit()
                seen.append(grant.held)
            finally:
                await grant.release()

        await MessagePassingAgent("ann", space.broker).send("teller", "in time")
        await until_holds(harness, lambda: seen)
        assert (await space.broker.get_stats()).failed == 0
        with pytest.raises(RemoteError, match="LockLostError"):
            await soon(harness, MessagePassingAgent("ann", space.broker).request("teller", "late"))
    assert await space.memory.read("balance", reader="ann") == "in time"


async def test_a_block_whose_lease_is_lost_is_cancelled_and_says_so(harness: SpaceHarness):
    async with another_process(harness) as process:

        async def work() -> None:
            async with Lock(process.space, "report").hold("ann", lease=LEASE):
                process.crash()
                await asyncio.Event().wait()

        with pytest.raises(LockLostError):
            await in_time(harness, asyncio.create_task(work()), step=1)

        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


async def test_a_block_that_does_not_hear_of_the_loss_says_so_at_its_end(harness: SpaceHarness):
    async with another_process(harness) as process:

        async def deaf(error: type[Exception] | None) -> None:
            async with Lock(process.space, "report").hold("ann", lease=LEASE) as grant:
                process.crash()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    assert grant.lost.is_set()
                if error is not None:
                    raise error

        for error, raised in ((None, LockLostError), (KeyError, KeyError)):
            with pytest.raises(raised):
                await in_time(harness, asyncio.create_task(deaf(error)), step=1)
            process.recover()


async def test_a_block_that_is_cancelled_from_outside_stays_cancelled(harness: SpaceHarness, space: Space):
    lock = Lock(space, "report")
    entered = asyncio.Event()

    async def work() -> None:
        async with lock.hold("ann"):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await soon(harness, entered.wait())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await lock.holders() == []


async def test_an_error_inside_a_block_comes_out_of_it_and_releases_the_lock(space: Space):
    lock = Lock(space, "report")
    with pytest.raises(ZeroDivisionError):
        async with lock.hold("ann"):
            raise ZeroDivisionError
    assert await lock.holders() == []


async def test_a_block_is_entered_once(space: Space):
    block = Lock(space, "report").hold("ann")
    async with block:
        pass
    with pytest.raises(RuntimeError, match="entered before"):
        async with block:
            pass


async def test_a_dead_waiter_is_passed_over_and_one_that_comes_back_goes_to_the_end(
    harness: SpaceHarness, space: Space
):
    lock = Lock(space, "report")
    grant = await lock.acquire("ann", lease=1000)
    async with another_process(harness) as process:
        stopped = await wait_in_line(harness, Lock(process.space, "report"), "stopped", timeout=None)
        alive = await wait_in_line(harness, lock, "alive", timeout=None)
        process.crash()
        with pytest.raises(EngineUnavailableError):
            await in_time(harness, stopped, step=1)
        for _ in range(6):
            await harness.advance(1)
        await grant.release()
        grant = await soon(harness, alive)
        process.recover()
        again = await wait_in_line(harness, Lock(process.space, "report"), "stopped", timeout=None)
        await grant.release()
        assert (await soon(harness, again)).agent_id == "stopped"


async def test_a_wait_that_was_forgotten_goes_to_the_end_of_the_line(harness: SpaceHarness, space: Space):
    lock = Lock(space, "report")
    grant = await lock.acquire("ann")
    first = await wait_in_line(harness, lock, "first", timeout=None)
    for key in await kept(space):
        if key.startswith(("wait:", "line:")):  # what a process that was stopped for long finds when it goes on
            await _delete(space, f"_tertulia:lease:{key}")
    second = await wait_in_line(harness, lock, "second", timeout=None)

    async def both_wait() -> bool:
        await harness.advance(0.5)
        return [wait.agent_id for wait in await lock.waiting()] == ["second", "first"]

    await until(harness, both_wait)
    await grant.release()
    await (await soon(harness, second)).release()
    assert (await soon(harness, first)).agent_id == "first"


async def test_closing_a_space_releases_what_it_holds_and_ends_its_waits(harness: SpaceHarness, space: Space):
    other = await harness.open_again()
    held = await Lock(other, "a").acquire("ann", lease=1000)
    await Lock(space, "b").acquire("bob")
    waiting = await wait_in_line(harness, Lock(other, "b"), "carl", timeout=None)
    behind = await wait_in_line(harness, Lock(space, "a"), "dora", timeout=None)

    await other.aclose()

    with pytest.raises(SpaceClosedError):
        await waiting
    assert (await soon(harness, behind)).agent_id == "dora"
    assert held.lost.is_set()
    with pytest.raises(LockLostError, match="closed"):
        await held.release()


async def test_a_handler_waits_for_a_lock_no_longer_than_its_requester_does(harness: SpaceHarness, space: Space):
    lock = Lock(space, "report")
    ended: list[Exception] = []

    async with MessagePassingAgent("bob", space.broker) as bob:

        @bob.on_message("default")
        async def handle(_: Message) -> None:
            try:
                await lock.acquire("bob", timeout=None)
            except LockTimeoutError as error:
                ended.append(error)
                raise

        await lock.acquire("ann", lease=1000)
        with pytest.raises((TimeoutError, RemoteError)):
            await in_time(harness, MessagePassingAgent("carl", space.broker).request("bob", 1, timeout=2), step=0.5)
        await until_holds(harness, lambda: ended)


async def test_a_lock_is_invisible_to_the_memory_and_counts_as_no_key_of_the_users(space: Space):
    async with Lock(space, "report").hold("ann"):
        assert await space.memory.list_keys() == []


# --- bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", " a", "a\n", "_mine", "x" * 257, 3, None, ["a"]])
async def test_a_name_that_is_no_name_is_refused(space: Space, name: Any):
    with pytest.raises(InvalidNameError):
        Lock(space, "good", name)


@pytest.mark.parametrize("name", ["a", "shared:report", "*", "[x]", "ü" * 128, "x" * 256, "../a", "a b"])
async def test_a_lock_may_have_the_name_of_a_key_and_nothing_in_it_is_a_wildcard(space: Space, name: str):
    async with Lock(space, name).hold("ann"):
        assert [holder.name for holder in await Lock(space, name).holders()] == [name]
        async with Lock(space, "another").hold("bob"):
            pass


async def test_bad_arguments_are_refused_before_anything_is_stored(space: Space):
    lock = Lock(space, "report")
    for names in ((), tuple(map(str, range(65)))):
        with pytest.raises(InvalidInputError):
            Lock(space, *names)
    for lease in (0, -1, float("nan"), "3", None, True):
        with pytest.raises(InvalidInputError):
            await lock.acquire("ann", lease=lease)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    for timeout in (-1, "3", float("inf"), True):
        with pytest.raises(InvalidInputError):
            await lock.acquire("ann", timeout=timeout)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    for agent_id in ("", "_ann", "a:b", 3, None):
        for call in (lock.acquire, lock.try_acquire, lock.release):
            with pytest.raises(InvalidNameError):
                await call(agent_id)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert await kept(space) == []


async def _contents(space: Space) -> list[tuple[str, object, int]]:
    return [(entry.key, entry.value, entry.revision) async for entry in space.memory.entries()]


async def _delete(space: Space, key: str) -> None:
    await space.engine.commit(Commit(deletes=(Delete(key),)))
