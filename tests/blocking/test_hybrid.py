"""The hybrid system and its agents from threads and plain scripts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tertulia import ContributionStatus, Message, Reject, blocking
from tertulia.errors import ComputeFailedError, UnknownAgentError

LIMIT = 20  # seconds; a bound for waits that end at once unless something is broken


@pytest.fixture
def space() -> Iterator[blocking.Space]:
    with blocking.connect("memory:") as space:
        yield space


@pytest.fixture
def system(space: blocking.Space) -> blocking.HybridCommunicationSystem:
    return blocking.HybridCommunicationSystem(space)


def test_a_plain_function_computes_in_the_calling_thread_and_once(system: blocking.HybridCommunicationSystem):
    threads: list[int] = []

    def compute() -> None:
        threads.append(threading.get_ident())

    assert [system.get_or_compute("k", compute) for _ in range(3)] == [None] * 3
    assert threads == [threading.get_ident()]
    assert system.cache_info().hits == 2


def test_a_function_may_use_the_space(space: blocking.Space, system: blocking.HybridCommunicationSystem):
    space.memory.write("price", 3, owner="ann")

    def compute() -> int:
        return 2 * space.memory.read("price", reader="ann")

    assert system.get_or_compute("k", compute, tags=["prices"]) == 6
    assert system.invalidate(tag="prices") == 1


def test_threads_that_miss_at_once_compute_once(system: blocking.HybridCommunicationSystem):
    calls: list[int] = []
    begun, gate = threading.Event(), threading.Event()

    def compute() -> int:
        calls.append(1)
        begun.set()
        assert gate.wait(LIMIT)
        return len(calls)

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(system.get_or_compute, "k", compute) for _ in range(8)]
        assert begun.wait(LIMIT)
        gate.set()
        assert [one.result(LIMIT) for one in asking] == [1] * 8
    assert calls == [1]


def test_a_failure_comes_out_as_what_it_is(system: blocking.HybridCommunicationSystem):
    def fail() -> None:
        raise ZeroDivisionError("no sales")

    with pytest.raises(ComputeFailedError, match="ZeroDivisionError: no sales"):
        system.get_or_compute("k", fail)


def test_writes_notify_and_requests_are_cached(space: blocking.Space, system: blocking.HybridCommunicationSystem):
    system.register_agent("ann")
    done = system.write_and_notify("bob", "k", 1, notify=["ann"])
    delivery = space.broker.receive("ann", timeout=LIMIT)
    assert delivery is not None
    assert delivery.message.content["revision"] == done.entry.revision
    delivery.acknowledge()
    with pytest.raises(UnknownAgentError):
        system.write_and_notify("bob", "k", 2, notify=["nobody"])
    assert system.delete_and_notify("bob", "k") is not None
    with space.transaction() as transaction:
        system.add_write_and_notify(transaction, "bob", "k", 3, notify=["ann"])
    assert space.memory.read("k", reader="ann") == 3

    oracle = blocking.MessagePassingAgent("oracle", space.broker)
    asked: list[object] = []

    @oracle.on_message("question")
    def answer(message: Message) -> int:
        asked.append(message.content)
        return 42

    oracle.on_message("cache_invalidate")(system.on_invalidation)
    with oracle:
        oracle.subscribe("cache.invalidate")
        assert [system.request_with_cache("bob", "oracle", {"type": "question"}) for _ in range(2)] == [42, 42]
        assert system.request_invalidation("bob", pattern="*").delivered == 1
    assert len(asked) == 1
    del answer


def test_agents_collaborate_with_plain_functions_that_block(system: blocking.HybridCommunicationSystem):
    chief = blocking.HybridAgent("chief", system)
    ann, bob = blocking.HybridAgent("ann", system), blocking.HybridAgent("bob", system)

    @ann.on_task
    def analyse(task: blocking.CollaborationTask) -> object:
        task.workspace.set_shared_data("figures", [1, 2], setter="ann")
        assert 0 < task.remaining() <= LIMIT
        return [task.agent_id, task.invited_by, task.task, task.context, task.collaborators, task.attempt]

    @bob.on_task
    def refuse(task: blocking.CollaborationTask) -> None:
        raise Reject(f"not before {task.deadline.year}")

    chief.save_state({"page": 1})
    with ann, bob:
        done = chief.collaborate("report", ["ann", "bob"], {"topic": "sales"}, timeout=LIMIT)
    assert done.results == {"ann": ["ann", "chief", "report", {"topic": "sales"}, ["ann", "bob"], 1]}
    assert [part.status for part in done.missing] == [ContributionStatus.DECLINED]
    assert chief.load_state() == {"page": 1}
    del analyse, refuse
