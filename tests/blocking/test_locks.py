"""Locks, semaphores and elections from threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import tertulia
from tertulia import Message, blocking
from tertulia.engines.base import Commit, Delete
from tertulia.errors import AlreadyHeldError, DeadlockError, LockLostError, LockTimeoutError, NotHolderError

LIMIT = 20  # seconds; a bound for waits that end at once unless something is broken


@pytest.fixture
def space() -> Iterator[blocking.Space]:
    with blocking.connect("memory:") as space:
        yield space


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def test_threads_that_take_a_lock_lose_no_update(space: blocking.Space, threads: ThreadPoolExecutor):
    lock = blocking.Lock(space, "count")

    def count(agent_id: str) -> None:
        for _ in range(10):
            with lock.hold(agent_id, timeout=LIMIT) as grant:
                number = space.memory.read("count", reader=agent_id, default=0)
                grant.write("count", number + 1)

    for done in [threads.submit(count, f"a{number}") for number in range(8)]:
        done.result(LIMIT)

    assert space.memory.read("count", reader="test") == 80
    assert lock.holders() == []


def test_every_call_of_a_lock_and_its_grant_blocks(space: blocking.Space):
    lock = blocking.Lock(space, "b", "a")
    assert lock.names == ("a", "b")
    with lock.hold("ann") as grant:
        assert isinstance(grant, blocking.Grant)
        assert (grant.agent_id, grant.names, grant.held) == ("ann", ("a", "b"), True)
        assert grant.fence == max(grant.fences.values())
        assert grant.lost.is_set() is False
        assert lock.try_acquire("bob") is None
        with pytest.raises(AlreadyHeldError):
            lock.acquire("ann")
        with pytest.raises(NotHolderError):
            lock.release("bob")
        grant.create("k", 1)
        grant.update("k", 2)
        with grant.transaction() as transaction:
            transaction.write("k", 3, owner="ann")
        with grant.guard(space.transaction()) as transaction:
            transaction.write("k", 4, owner="ann")
        assert grant.memory.read("k", reader="ann") == 4
        assert grant.delete("k") is True
    with pytest.raises(LockLostError):
        grant.write("k", 5)
    taken = lock.acquire("bob")
    with pytest.raises(LockTimeoutError):
        lock.acquire("carl", timeout=0)
    assert lock.waiting() == []
    taken.release()


def test_a_semaphore_and_an_election_block(space: blocking.Space):
    semaphore = blocking.Semaphore(space, "search", 2)
    assert (semaphore.name, semaphore.permits) == ("search", 2)
    with semaphore.hold("ann"), semaphore.hold("bob"):
        assert semaphore.try_acquire("carl") is None
        assert len(semaphore.holders()) == 2
    semaphore.resize(1, requester="ann")
    assert semaphore.permits == 1

    election = blocking.Election(space, "chair")
    with election.observe() as leaders:
        assert next(leaders) is None
        with election.lead("ann"):
            leader = next(leaders)
            assert leader is not None
            assert leader.agent_id == "ann"
            assert election.leader() == leader
            assert election.candidates() == []
    election.campaign("bob")
    election.resign("bob")
    assert election.leader() is None


def test_a_deadlock_of_two_threads_is_broken_once(space: blocking.Space, threads: ThreadPoolExecutor):
    closed = threading.Barrier(2)

    def take(agent_id: str, mine: str, other: str) -> DeadlockError | None:
        try:
            with blocking.Lock(space, mine).hold(agent_id):
                closed.wait(LIMIT)
                with blocking.Lock(space, other).hold(agent_id, timeout=LIMIT):
                    return None
        except DeadlockError as deadlock:
            return deadlock

    tasks = [threads.submit(take, "ann", "a", "b"), threads.submit(take, "bob", "b", "a")]
    outcomes = [task.result(LIMIT) for task in tasks]

    [deadlock] = [outcome for outcome in outcomes if outcome is not None]
    assert sorted((wait.agent_id, wait.name) for wait in deadlock.cycle) == [("ann", "b"), ("bob", "a")]


def test_a_thread_that_asks_while_it_holds_what_the_asked_needs_is_told(space: blocking.Space):
    bob = blocking.MessagePassingAgent("bob", space.broker)

    @bob.on_message("default")
    def handle(_: Message) -> str:
        blocking.Lock(space, "report").acquire("bob", timeout=LIMIT).release()
        return "done"

    with bob:
        ann = blocking.MessagePassingAgent("ann", space.broker)
        with (
            pytest.raises(DeadlockError) as deadlock,
            blocking.Lock(space, "report").hold("ann"),
        ):
            ann.request("bob", 1, timeout=LIMIT)
        assert [(wait.agent_id, wait.kind) for wait in deadlock.value.cycle] == [("ann", "request"), ("bob", "lock")]
        assert ann.request("bob", 1, timeout=LIMIT) == "done"


class Thief:
    """Takes a lock away from whoever holds it, as the end of its lease does."""

    def __init__(self, space: tertulia.Space) -> None:
        self._space = space

    async def take_away(self, name: str) -> None:
        key = f"_tertulia:lease:holder:lock:0:{name}"
        committed = await self._space.engine.commit(Commit(deletes=(Delete(key),)))
        assert committed.deleted == (True,)


def test_a_block_whose_lease_is_lost_says_so_at_its_end(space: blocking.Space):
    thief = space.wrap(Thief, space)

    def lose_it() -> None:
        with blocking.Lock(space, "report").hold("ann"):
            thief.take_away("report")

    with pytest.raises(LockLostError):
        lose_it()


def test_a_write_through_a_grant_that_was_lost_is_refused(space: blocking.Space):
    thief = space.wrap(Thief, space)
    grant = blocking.Lock(space, "report").acquire("ann")
    thief.take_away("report")

    with pytest.raises(LockLostError):
        grant.write("report", 1)

    assert grant.lost.is_set()
    assert space.memory.read("report", reader="test") is None
