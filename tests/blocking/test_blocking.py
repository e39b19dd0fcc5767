"""A space from threads and plain scripts: the calls, the faces, the handlers."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import pytest

import tertulia
from tertulia import ChangeKind, DeliveryMode, MemoryAccessMode, Message, blocking, regions
from tertulia.errors import (
    AccessDeniedError,
    KeyNotFoundError,
    RemoteError,
    RequestTimeoutError,
    UnknownAgentError,
    VersionConflictError,
)

LIMIT = 20  # seconds; a bound for waits that end at once unless something is broken

FACES = [
    "Ballots",
    "CollaborationTask",
    "CollaborativeWorkspace",
    "Delivery",
    "DeliveryTransaction",
    "Election",
    "Grant",
    "HybridAgent",
    "HybridCommunicationSystem",
    "IntelligentRouter",
    "Lock",
    "MemoryAwareAgent",
    "MemoryRegion",
    "MessageBroker",
    "MessagePassingAgent",
    "MessageQueue",
    "Semaphore",
    "SharedMemory",
    "Space",
    "Transaction",
]
# What the library's own parts call, and what has another name where nothing is awaited.
HIDDEN = {
    "Delivery": {"mark_ended", "dead_letter_commit", "settle"},
    "MessageBroker": {"close", "delivery", "admit", "complete", "turn_away"},
    "Space": {"aclose"},
}


@pytest.fixture
def space() -> Iterator[blocking.Space]:
    with blocking.connect("memory:") as space:
        yield space
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("tertulia")] == []


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


def message(receiver: str, content: object, **options: Any) -> Message:
    return Message(sender="test", receiver=receiver, content=content, **options)


def received(space: blocking.Space, agent_id: str, timeout: float = 0) -> blocking.Delivery:
    delivery = space.broker.receive(agent_id, timeout=timeout)
    assert delivery is not None
    return delivery


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


# --- the faces ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FACES)
def test_a_face_has_every_public_method_of_what_it_stands_for(name: str):
    missing = public(getattr(tertulia, name)) - public(getattr(blocking, name))

    assert missing <= HIDDEN.get(name, set())


@pytest.mark.parametrize("name", FACES)
def test_a_face_takes_the_arguments_of_what_it_stands_for(name: str):
    core, face = getattr(tertulia, name), getattr(blocking, name)
    shared = [method for method in public(core) & public(face) if inspect.isroutine(getattr(core, method))]

    def parameters(kind: type, method: str) -> list[tuple[str, object]]:
        found = inspect.signature(getattr(kind, method)).parameters.values()
        return [(parameter.name, parameter.default) for parameter in found]

    assert shared
    for method in shared:
        assert parameters(face, method) == parameters(core, method)


def test_every_call_of_the_memory_blocks_and_returns_what_it_promises(space: blocking.Space):
    memory = space.memory

    assert memory.write("a", [1], owner="ann", tags=["t"]).version == 1
    assert memory.create("b", 2, owner="ann").key == "b"
    assert memory.update("a", [2], updater="ann", expected_version=1).version == 2
    assert memory.compare_and_swap("b", 2, 3, requester="ann") is True
    assert memory.read("a", reader="bob") == [2]
    assert memory.read("a", reader="bob", type=list) == [2]
    entry = memory.read_with_metadata("b", reader="bob")
    assert entry is not None
    assert entry.value == 3
    assert memory.list_keys(tags=["t"]) == ["a"]
    assert [entry.key for entry in memory.entries("*")] == ["a", "b"]
    snapshot = memory.snapshot()
    assert memory.delete("a", requester="ann") is True
    assert memory.restore(snapshot, requester="ann") == 1
    assert memory.get_stats().total_entries == 2
    assert memory.access_log(1)[0].operation == "restore"


def test_a_router_routes_explains_and_reports_without_await(space: blocking.Space):
    space.broker.register_agent("bob")
    router = blocking.IntelligentRouter(space)

    result = router.route("ann", "bob", "hello")
    assert received(space, "bob").message.content == "hello"
    assert result.channel.value in router.explain(router.decide("ann", "bob", "hello"))
    written = router.route("ann", "bob", "look", {"channel": "memory"})
    (found,) = router.available("bob")
    assert found.key == written.key
    assert router.read(found.key, reader="bob") == "look"
    router.save()
    assert sum(router.report().routes.values()) == 2


def test_a_delivery_is_settled_by_blocking_calls(space: blocking.Space):
    broker = space.broker
    broker.register_agent("bob")
    for number in range(4):
        broker.send(message("bob", number))

    first = received(space, "bob")
    assert first.message.content == 0
    assert first.attempt == 1
    first.acknowledge()
    with received(space, "bob") as second:
        assert second.message.content == 1
    third = received(space, "bob")
    third.reject("no use")
    with received(space, "bob") as fourth, fourth.transaction() as tx:
        tx.write("seen", fourth.message.content, owner="bob")

    assert (first.ended, second.ended, third.ended, fourth.ended) == (True, True, True, True)
    assert space.memory.read("seen", reader="bob") == 3
    assert [letter.reason for letter in broker.dead_letters("bob")] == ["no use"]
    assert broker.queue("bob").size() == 0
    assert broker.receive("bob", timeout=0) is None


def test_a_queue_gives_deliveries_that_block_too(space: blocking.Space):
    space.broker.register_agent("bob")
    queue = space.broker.queue("bob")
    queue.enqueue(message("anyone", "hello"))

    delivery = queue.dequeue(timeout=LIMIT)

    assert isinstance(delivery, blocking.Delivery)
    assert queue.get_pending_count() == 1
    delivery.release()
    assert queue.get_pending_count() == 0


def test_a_transaction_commits_memory_and_messages_together_or_not_at_all(space: blocking.Space):
    space.broker.register_agent("bob")
    with space.transaction() as tx:
        tx.write("done", "yes", owner="ann")
        tx.send(message("bob", "look"))
        assert space.memory.read("done", reader="bob") is None
    assert tx.revision is not None

    def fail_half_way() -> None:
        with space.transaction() as tx:
            tx.delete("done", requester="ann")
            tx.send(message("bob", 1 / 0))

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert space.memory.read("done", reader="bob") == "yes"
    assert space.broker.queue("bob").size() == 1


def test_a_transaction_whose_reads_moved_raises_its_conflict(space: blocking.Space):
    space.memory.write("n", 1, owner="ann")

    def add_too_late() -> None:
        with space.transaction() as tx:
            value = tx.read("n", reader="ann")
            space.memory.write("n", 10, owner="bob")
            tx.write("n", value + 1, owner="ann")

    with pytest.raises(VersionConflictError):
        add_too_late()
    assert space.memory.read("n", reader="ann") == 10


def test_a_region_and_a_memory_aware_agent_block_like_the_rest(space: blocking.Space):
    region = blocking.MemoryRegion("plans", space.memory)
    region.grant_access("ann", MemoryAccessMode.READ_WRITE)
    with region.watch(agent_id="ann") as changes:
        region.write("x", 1, agent_id="ann")
        assert next(changes).key == "x"
    agent = blocking.MemoryAwareAgent("ann", space.memory)
    agent.save_state({"step": 2})

    assert region.read("x", agent_id="ann") == 1
    with pytest.raises(AccessDeniedError):
        region.read("x", agent_id="bob")
    assert agent.load_state() == {"step": 2}


# --- many threads ------------------------------------------------------------------------------------


def test_twenty_threads_that_modify_one_key_lose_nothing(space: blocking.Space, threads: ThreadPoolExecutor):
    def count() -> None:
        for _ in range(100):
            space.memory.modify("n", lambda value: value + 1, updater="ann", default=0)

    for done in [threads.submit(count) for _ in range(20)]:
        done.result(LIMIT * 3)

    assert space.memory.read("n", reader="ann") == 2000


def test_the_function_of_modify_runs_in_the_calling_thread_and_may_use_the_space(space: blocking.Space):
    space.memory.write("rate", 3, owner="ann")
    where: list[threading.Thread] = []

    def double(value: int) -> int:
        where.append(threading.current_thread())
        return value * space.memory.read("rate", reader="ann")

    entry = space.memory.modify("n", double, updater="ann", default=2)

    assert entry.value == 6
    assert where == [threading.current_thread()]


def test_producers_and_consumers_in_threads_handle_each_message_once(
    space: blocking.Space, threads: ThreadPoolExecutor
):
    space.broker.register_agent("workers", max_queue_size=50, when_full=tertulia.WhenFull.WAIT)

    def produce(start: int) -> None:
        for number in range(start, start + 100):
            space.broker.send(message("workers", number))

    def consume() -> list[int]:
        taken: list[int] = []
        while True:
            with received(space, "workers", LIMIT) as delivery:
                if delivery.message.content is None:
                    return taken
                taken.append(delivery.message.content)

    consumers = [threads.submit(consume) for _ in range(5)]
    for producer in [threads.submit(produce, start) for start in range(0, 400, 100)]:
        producer.result(LIMIT)
    for _ in consumers:
        space.broker.send(message("workers", None))

    assert sorted(number for consumer in consumers for number in consumer.result(LIMIT)) == list(range(400))


def test_a_watch_in_one_thread_sees_what_another_writes(space: blocking.Space, threads: ThreadPoolExecutor):
    watching = threading.Event()

    def watch() -> list[tuple[str, Any]]:
        with space.memory.watch("x:*") as changes:
            watching.set()
            seen = []
            for change in changes:
                seen.append((change.key, change.value))
                if change.kind is ChangeKind.DELETE:
                    return seen
        raise AssertionError

    seen = threads.submit(watch)
    assert watching.wait(LIMIT)
    space.memory.write("x:1", "one", owner="ann")
    space.memory.write("y:1", "other", owner="ann")
    space.memory.delete("x:1", requester="ann")

    assert seen.result(LIMIT) == [("x:1", "one"), ("x:1", None)]


def test_threads_that_share_a_watch_get_each_change_once(space: blocking.Space, threads: ThreadPoolExecutor):
    with space.memory.watch() as changes:
        takers = [threads.submit(lambda: [next(changes).key for _ in range(50)]) for _ in range(4)]
        for number in range(200):
            space.memory.write(f"k{number:03}", number, owner="ann")
        taken = [key for taker in takers for key in taker.result(LIMIT)]

    assert sorted(taken) == [f"k{number:03}" for number in range(200)]


def test_two_connections_of_one_process_share_a_named_space(threads: ThreadPoolExecutor):
    def write() -> None:
        with blocking.connect("memory:team") as other:
            other.memory.write("from", "elsewhere", owner="bob")

    with blocking.connect("memory:team") as space:
        threads.submit(write).result(LIMIT)
        assert space.memory.read("from", reader="ann") == "elsewhere"


# --- callbacks ---------------------------------------------------------------------------------------


def test_callbacks_may_block_and_use_the_space_while_the_writer_goes_on(space: blocking.Space):
    written, copied = threading.Event(), threading.Event()

    def copy(key: str, event: str, value: object) -> None:
        assert written.wait(LIMIT)
        space.memory.write(f"copy-of-{key}", [event, value], owner="bob")
        copied.set()

    space.memory.subscribe("a", copy)
    space.memory.write("a", 1, owner="ann")
    written.set()

    assert copied.wait(LIMIT)
    assert space.memory.read("copy-of-a", reader="ann") == ["write", 1]


def test_a_callback_that_unsubscribes_itself_is_called_no_more(space: blocking.Space):
    calls: list[object] = []
    ended = threading.Event()

    def once(key: str, event: str, value: object) -> None:
        del key, event
        calls.append(value)
        calls.append(space.memory.unsubscribe("*", once))
        ended.set()

    space.memory.subscribe("*", once)
    space.memory.write("a", 1, owner="ann")
    assert ended.wait(LIMIT)
    space.memory.write("a", 2, owner="ann")

    assert space.memory.unsubscribe("*", once) is False
    assert calls == [1, True]


# --- agents ------------------------------------------------------------------------------------------


def test_plain_handlers_may_block_and_call_back_into_the_space(space: blocking.Space):
    both = threading.Barrier(2)
    agent = blocking.MessagePassingAgent("bob", space.broker, concurrency=2)

    @agent.on_message("meet")
    def meet(message: Message) -> Any:
        both.wait(LIMIT)  # passes only when two handlers block at the same time
        return space.memory.read(message.content["key"], reader="bob")

    space.memory.write("k", "v", owner="ann")
    with agent, ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(agent.request, "bob", {"type": "meet", "key": "k"}) for _ in range(2)]

        assert [answer.result(LIMIT) for answer in asked] == ["v", "v"]


def test_a_plain_handler_may_ask_another_agent_and_passes_on_path_and_deadline(space: blocking.Space):
    first = blocking.MessagePassingAgent("first", space.broker)
    second = blocking.MessagePassingAgent("second", space.broker)
    space.broker.register_agent("second")

    @first.on_message("default")
    def ask(message: Message) -> None:
        first.request("second", message.content, timeout=3600)

    with first, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(space.broker.request_response, message("first", "hi"), timeout=LIMIT)
        with received(space, "second", LIMIT) as delivery:
            request = delivery.message
            second.reply(request, "fine")
        asked.result(LIMIT)

    assert "first" in request.hops
    assert request.expires is not None
    assert request.expires - request.sent <= LIMIT


def test_a_handler_with_a_transaction_commits_it_with_the_reply(space: blocking.Space):
    agent = blocking.MessagePassingAgent("bob", space.broker)

    @agent.on_message("default")
    def handle(message: Message, tx: blocking.DeliveryTransaction) -> str:
        tx.write("seen", message.content, owner="bob")
        assert space.memory.read("seen", reader="bob") is None
        return tx.delivery.message.id

    asked = message("bob", "x")
    with agent:
        assert space.broker.request_response(asked, timeout=LIMIT).content == asked.id

    assert space.memory.read("seen", reader="ann") == "x"


def test_a_plain_generator_streams_its_parts_and_is_closed_when_nobody_wants_more(space: blocking.Space):
    agent = blocking.MessagePassingAgent("bob", space.broker)
    closed = threading.Event()

    @agent.on_message("count")
    def count(message: Message) -> Iterator[int]:
        try:
            yield from range(message.content["to"])
        finally:
            closed.set()

    with agent:
        assert list(agent.request_stream("bob", {"type": "count", "to": 3})) == [0, 1, 2]
        assert closed.wait(LIMIT)
        closed.clear()
        with space.broker.request_stream(message("bob", {"type": "count", "to": 10**9})) as parts:
            assert next(parts).content == 0
        space.close()
        assert closed.wait(LIMIT)


def test_asynchronous_handlers_work_but_may_not_block_the_portal(space: blocking.Space):
    agent = blocking.MessagePassingAgent("bob", space.broker)

    @agent.on_message("polite")
    async def polite(message: Message) -> str:
        return message.sender

    @agent.on_message("rude")
    async def rude(message: Message) -> Any:
        return space.memory.read(message.sender, reader="bob")

    with agent:
        assert agent.request("bob", {"type": "polite"}) == "bob"
        with pytest.raises(RemoteError, match="portal's own thread") as caught:
            agent.request("bob", {"type": "rude"})

    assert caught.value.kind == "RuntimeError"


def test_on_message_returns_the_function_itself(space: blocking.Space):
    agent = blocking.MessagePassingAgent("bob", space.broker)

    def handle(_: Message) -> None: ...

    assert agent.on_message("x")(handle) is handle


def test_a_handler_may_stop_its_own_agent_and_run_returns(space: blocking.Space, threads: ThreadPoolExecutor):
    agent = blocking.MessagePassingAgent("bob", space.broker)

    @agent.on_message("default")
    def stop(_: Message) -> str:
        agent.stop()
        return "stopping"

    agent.start()  # so that the mailbox is there; `run` finds it started
    running = threads.submit(agent.run)

    assert space.broker.request_response(message("bob", "stop"), timeout=LIMIT).content == "stopping"
    assert running.result(LIMIT) is None


def test_run_returns_when_the_space_is_closed(threads: ThreadPoolExecutor):
    with blocking.connect("memory:") as space:
        agent = blocking.MessagePassingAgent("bob", space.broker)
        agent.on_message("default")(lambda message: message.content)
        agent.start()
        running = threads.submit(agent.run)
        assert agent.request("bob", "hi") == "hi"

    assert running.result(LIMIT) is None


def test_a_handler_that_does_not_end_is_given_up_and_its_message_given_back(space: blocking.Space):
    begun, go_on = threading.Event(), threading.Event()
    agent = blocking.MessagePassingAgent("bob", space.broker)

    @agent.on_message("default")
    def slow(_: Message) -> None:
        begun.set()
        go_on.wait(LIMIT)

    try:
        agent.start()
        space.broker.send(message("bob", "x"))
        assert begun.wait(LIMIT)
        agent.stop(grace=0.01)

        assert received(space, "bob").attempt == 2
    finally:
        go_on.set()


# --- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "call"),
    [
        (KeyNotFoundError, lambda space: space.memory.update("none", 1, updater="ann")),
        (UnknownAgentError, lambda space: space.broker.receive("nobody", timeout=0)),
        (ZeroDivisionError, lambda space: space.memory.modify("n", lambda n: 1 / n, updater="ann", default=0)),
        (SystemExit, lambda space: space.memory.modify("n", lambda _: exit(3), updater="ann", default=0)),  # noqa: PLR1722
        (TypeError, lambda space: space.memory.write("n", 1, owner="ann", colour="red")),
        (tertulia.TertuliaError, lambda space: space.memory.write("n", 2**70, owner="ann")),
    ],
)
def test_an_error_travels_with_its_type_and_leaves_the_space_usable(
    space: blocking.Space, expected: type[BaseException], call: Callable[[blocking.Space], object]
):
    with pytest.raises(expected):
        call(space)

    assert space.memory.read("n", reader="ann", default="untouched") == "untouched"


def test_a_request_that_nobody_answers_times_out(space: blocking.Space):
    space.broker.register_agent("bob")

    with pytest.raises(RequestTimeoutError):
        space.broker.request_response(message("bob", "?"), timeout=0.01)


def test_a_failed_handler_answers_with_its_error(space: blocking.Space):
    agent = blocking.MessagePassingAgent("bob", space.broker)

    @agent.on_message("default")
    def fail(_: Message) -> None:
        raise LookupError("nothing here")

    with agent, pytest.raises(RemoteError, match="nothing here") as caught:
        agent.request("bob", "?", delivery_mode=DeliveryMode.AT_MOST_ONCE)

    assert caught.value.kind == "LookupError"


def test_a_handler_that_raises_what_ends_threads_or_iterators_only_fails(space: blocking.Space):
    agent = blocking.MessagePassingAgent("bob", space.broker)
    raised: list[type[BaseException]] = [SystemExit, StopIteration]

    @agent.on_message("default")
    def fail(_: Message) -> None:
        raise raised.pop()

    with agent:
        for name in ("StopIteration", "SystemExit"):
            with pytest.raises(RemoteError, match=name):
                agent.request("bob", "?")


# --- wrapping ----------------------------------------------------------------------------------------


class Shelf:
    """What somebody built on an asynchronous space."""

    def __init__(self, space: tertulia.Space, name: str) -> None:
        assert isinstance(space, tertulia.Space)
        self.name = name
        self.opened = 0
        self._space = space

    async def put(self, book: str) -> None:
        await self._space.memory.write(f"{self.name}:{book}", book, owner="shelf")

    async def books(self):
        async for entry in self._space.memory.entries(f"{self.name}:*"):
            yield entry.value

    async def each(self, change: Callable[[str], Any]) -> list[str]:
        return [await change(book) async for book in self.books()]

    def neighbour(self, name: str) -> Shelf:
        return Shelf(self._space, name)

    async def same_as(self, other: Shelf) -> bool:
        return other is self

    async def __aenter__(self) -> Self:
        self.opened += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self.opened -= 1


def test_whatever_is_built_on_a_space_can_be_wrapped(space: blocking.Space):
    shelf = space.wrap(Shelf, space, "left")
    here = threading.current_thread()

    with shelf as entered:
        assert entered is shelf
        assert shelf.opened == 1
        shelf.put("emma")
        shelf.neighbour("right").put("ulysses")
        assert list(shelf.books()) == ["emma"]
        assert list(shelf.neighbour("right").books()) == ["ulysses"]
        assert shelf.each(lambda book: f"{book} {threading.current_thread() is here}") == ["emma True"]
        assert shelf.same_as(shelf)
        assert not shelf.same_as(shelf.neighbour("left"))

    assert (shelf.name, shelf.opened) == ("left", 0)
    with pytest.raises(AttributeError):
        shelf.no_such_thing  # noqa: B018


def test_a_wrapped_class_of_the_library_gets_its_own_face(space: blocking.Space):
    region = space.wrap(regions.MemoryRegion, "plans", space.memory)

    assert isinstance(region, blocking.MemoryRegion)
    assert region.name == "plans"


def test_a_workspace_is_used_and_decides_without_await(space: blocking.Space, threads: ThreadPoolExecutor):
    workspace = blocking.CollaborativeWorkspace("report", space)
    for agent in ("ann", "bob", "cid"):
        assert workspace.join(agent)
    assert workspace.set_shared_data("plan", "a", setter="ann", expected_version=0).version == 1
    with workspace.watch("plan", getter="bob") as changes:
        ballot = workspace.propose_change("ann", "plan", "b", reason="shorter")
        waiting = threads.submit(workspace.wait, ballot.id)
        assert workspace.vote("ann", ballot.id, choice=True).is_open
        assert not workspace.vote("bob", ballot.id, "yes").is_open
        result = waiting.result(LIMIT)
        assert next(changes).value == "b"
    assert result is not None
    assert (result.outcome, result.applied) == (tertulia.Outcome.PASSED, True)
    assert workspace.participants() == ["ann", "bob", "cid"]
    with pytest.raises(tertulia.TertuliaError):
        workspace.vote("cid", ballot.id, "no")
    assert [one.id for one in workspace.history()] == [ballot.id]
    ballots = blocking.Ballots(space, "_tertulia:test:")
    assert ballots.open("ann", "well?", electorate=["ann"]).is_open
