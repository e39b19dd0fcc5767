# pyright: strict
"""The public API as a type checker sees it. Never run: `make check` reads it."""

from dataclasses import dataclass
from typing import assert_type

from tertulia import (
    Ballot,
    BallotResult,
    Ballots,
    BroadcastReceipt,
    CacheInfo,
    Candidate,
    Collaboration,
    CollaborationTask,
    CollaborativeWorkspace,
    Delivery,
    DeliveryTransaction,
    Election,
    Grant,
    Holder,
    HybridAgent,
    HybridCommunicationSystem,
    IntelligentRouter,
    Lock,
    MemoryAccessMode,
    MemoryChange,
    MemoryEntry,
    MemoryRegion,
    Message,
    MessagePassingAgent,
    Notified,
    Receipt,
    RoutedContent,
    RouteDecision,
    RouteResult,
    RouterReport,
    Semaphore,
    Space,
    Transaction,
    VoteAnswers,
    VotingRule,
    WaitsFor,
    connect,
)


@dataclass
class Finding:
    title: str
    score: float


async def spaces() -> None:
    async with connect("memory:") as space:
        assert_type(space, Space)
    awaited = await connect("memory:")
    assert_type(awaited, Space)


async def memory(space: Space) -> None:
    assert_type(await space.memory.write("key", {"any": "value"}, owner="a", ttl=1.5, tags=["x"]), MemoryEntry)
    assert_type(await space.memory.read("key", reader="a", type=Finding), Finding | None)
    assert_type(await space.memory.read_with_metadata("key", reader="a"), MemoryEntry | None)
    assert_type(await space.memory.compare_and_swap("key", 1, 2, requester="a"), bool)
    assert_type(await space.memory.list_keys("key*"), list[str])
    async for entry in space.memory.entries():
        assert_type(entry, MemoryEntry)
    async with space.memory.watch("key*") as changes:
        async for change in changes:
            assert_type(change, MemoryChange)


async def regions(space: Space) -> None:
    region = MemoryRegion("finance", space.memory)
    await region.grant_access("a", MemoryAccessMode.READ_WRITE)
    assert_type(await region.write("key", 1, agent_id="a"), MemoryEntry)
    assert_type(await region.permissions(), dict[str, MemoryAccessMode])


async def locks(space: Space) -> None:
    lock = Lock(space, "a", "b")
    async with lock.hold("ann", lease=5.0, timeout=None) as grant:
        assert_type(grant, Grant)
        assert_type(await grant.write("key", 1), MemoryEntry)
        assert_type(grant.transaction(), Transaction)
    assert_type(await lock.try_acquire("ann"), Grant | None)
    assert_type(await lock.waiting(), list[WaitsFor])
    assert_type(await Semaphore(space, "s", 3).holders(), list[Holder])
    election = Election(space, "e")
    assert_type(await election.leader(), Holder | None)
    async with election.observe() as leaders:
        async for leader in leaders:
            assert_type(leader, Holder | None)


async def guarded(grant: Grant, transaction: DeliveryTransaction) -> None:
    assert_type(grant.guard(transaction), DeliveryTransaction)


async def messages(space: Space) -> None:
    assert_type(await space.broker.send(Message(sender="a", receiver="b", content=1)), Receipt)
    delivery = await space.broker.receive("b", timeout=1.0)
    assert_type(delivery, Delivery | None)
    if delivery is not None:
        async with delivery.transaction() as transaction:
            assert_type(transaction, DeliveryTransaction)
            transaction.write("key", 1, owner="b")


def handlers(space: Space) -> None:
    agent = MessagePassingAgent("a", space.broker)

    @agent.on_message("plain")
    async def plain(message: Message) -> int:
        return len(message.content)

    @agent.on_message(Finding)
    async def typed(message: Message, transaction: DeliveryTransaction) -> None:
        transaction.write("seen", message.content.title, owner="a")

    del plain, typed


async def workspaces(space: Space) -> None:
    workspace = CollaborativeWorkspace("report", space, presence_lease=10.0)
    assert_type(await workspace.join("a"), bool)
    assert_type(await workspace.participants(), list[str])
    assert_type(await workspace.set_shared_data("plan", 1, setter="a", expected_version=0), MemoryEntry)
    assert_type(await workspace.broadcast("a", "hello"), BroadcastReceipt)
    ballot = await workspace.propose_change("a", "plan", 2, rule="majority", quorum=0.5, veto=["a"], deadline=60)
    assert_type(ballot, Ballot)
    assert_type(await workspace.vote("a", ballot.id, choice=True), Ballot)
    assert_type(await workspace.wait(ballot.id, timeout=1.0), BallotResult | None)
    assert_type(await workspace.request_votes("a", ballot.id), VoteAnswers)
    options = ["x", Candidate(name="y", key="plan")]
    assert_type(await workspace.open_ballot("a", "which?", options, rule=VotingRule.RANKED), Ballot)
    assert_type(await Ballots(space, "_tertulia:x:").history(), list[Ballot])


async def hybrid(space: Space) -> None:
    system = HybridCommunicationSystem(space, lease=5.0)
    assert_type(await system.write_and_notify("a", "key", 1, notify=["b"], expected_version=0), Notified)
    assert_type(await system.delete_and_notify("a", "key", topic="news"), Notified | None)
    await system.get_or_compute("key", lambda: 1, ttl=None, tags=["x"])
    assert_type(await system.invalidate(tag="x"), int)
    assert_type(system.cache_info(), CacheInfo)
    agent = HybridAgent("a", system)

    @agent.on_task
    async def contribute(task: CollaborationTask) -> float:
        return task.remaining()

    assert_type(await agent.collaborate("report", ["b"], {"topic": "sales"}), Collaboration)
    del contribute


async def routing(space: Space) -> None:
    router = IntelligentRouter(space, price_per_byte=2e-9)
    result = await router.route("a", ["b", "c"], {"x": 1}, {"latency": "relaxed", "ttl": 60})
    assert_type(result, RouteResult)
    assert_type(await router.decide("a", "topic:news", "x"), RouteDecision)
    assert_type(router.explain(result.decision), str)
    assert_type(await router.available("b"), list[RoutedContent])
    assert_type(await router.report(), RouterReport)
    assert_type(await space.broker.send_by_pointer(Message(content="x"), ["b"], ttl=60.0), Receipt)
    assert_type(await space.broker.publish_by_pointer("news", Message(content="x")), Receipt)
