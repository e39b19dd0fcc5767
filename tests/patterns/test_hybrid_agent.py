"""An agent with memory and messages under one name, and the collaborations that it asks for and takes part in."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from tertulia import (
    Afterwards,
    BallotState,
    Collaboration,
    CollaborationTask,
    CollaborativeWorkspace,
    ContributionStatus,
    HybridAgent,
    HybridCommunicationSystem,
    MemoryAwareAgent,
    Message,
    MessagePassingAgent,
    Reject,
    RetryLater,
    Space,
    connect,
)
from tertulia.errors import (
    CollaborationError,
    EncodeError,
    EngineUnavailableError,
    InvalidInputError,
    InvalidNameError,
    MailboxFullError,
    NotAMemberError,
    RemoteError,
    SpaceClosedError,
    UnknownAgentError,
    UnknownWorkspaceError,
    WorkspaceAbandonedError,
    WorkspaceArchivedError,
)
from tertulia.patterns._workspaces import list_workspaces
from tertulia.patterns.collaboration import INVITATION
from tertulia.testing.clock import ManualClock
from tertulia.testing.conformance import SpaceHarness
from tests.model.procedures import Interleaved
from tests.patterns.handles import Crashable, another_process

LEASE = 3.0  # seconds that presence lasts; short, since on some engines time really has to pass
LIMIT = 5  # seconds of real time for what happens at once unless something is broken
DONE, DECLINED, FAILED = ContributionStatus.DONE, ContributionStatus.DECLINED, ContributionStatus.FAILED
VANISHED, UNFINISHED, SILENT = ContributionStatus.VANISHED, ContributionStatus.UNFINISHED, ContributionStatus.SILENT

Start = Callable[..., Any]


async def soon(awaitable: Any) -> Any:
    return await asyncio.wait_for(awaitable, LIMIT)


@pytest.fixture
def system(space: Space) -> HybridCommunicationSystem:
    return HybridCommunicationSystem(space)


@pytest.fixture
def chief(system: HybridCommunicationSystem) -> HybridAgent:
    return HybridAgent("chief", system)


@pytest.fixture
async def start(system: HybridCommunicationSystem) -> AsyncIterator[Start]:
    """What starts an agent with a function for tasks, and stops it at the end."""
    async with AsyncExitStack() as stack:

        async def start_one(
            name: str, function: Any = None, *, system: HybridCommunicationSystem = system, **options: Any
        ) -> HybridAgent:
            agent = HybridAgent(name, system, **options)
            if function is not None:
                agent.on_task(function)
            await agent.start()
            stack.push_async_callback(agent.stop, grace=0)
            return agent

        yield start_one


def statuses(collaboration: Collaboration) -> dict[str, ContributionStatus]:
    return {part.agent_id: part.status for part in collaboration.contributions}


def begin(agent: HybridAgent, *names: str, task: object = "report", **options: Any) -> asyncio.Task[Collaboration]:
    options = {"presence_lease": LEASE, **options}
    return asyncio.create_task(agent.collaborate(task, names, {"topic": "sales"}, **options))


def finds(value: object) -> Any:
    async def contribute(_: CollaborationTask) -> object:
        return value

    return contribute


class Held:
    """A function for tasks that waits until it is let go on."""

    def __init__(self, result: object = "held") -> None:
        self.result = result
        self.tasks: list[CollaborationTask] = []
        self.cancelled = 0
        self.gate = asyncio.Event()

    async def __call__(self, task: CollaborationTask) -> object:
        self.tasks.append(task)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.result


# --- one name for both -------------------------------------------------------------------------------


async def test_it_has_memory_and_messages_under_one_name(
    harness: SpaceHarness, system: HybridCommunicationSystem, chief: HybridAgent, start: Start
) -> None:
    assert isinstance(chief, MemoryAwareAgent)
    assert isinstance(chief, MessagePassingAgent)
    ann = await start("ann")
    heard: list[Any] = []
    ann.on_message("memory_update")(lambda message: heard.append((message.sender, message.content["key"])))
    ann.on_message("default")(lambda message: [message.sender, message.content])
    await chief.save_state({"page": 1})
    await chief.share_result("trend", "up")
    done = await chief.write_and_notify("plan", "draft", notify=["ann"])
    assert await soon(chief.request("ann", "hello")) == ["chief", "hello"]
    await harness.advance(0)
    assert heard == [("chief", "plan")]
    assert (done.entry.owner, await chief.load_state()) == ("chief", {"page": 1})
    assert await ann.get_shared_result("trend") == "up"
    assert await system.memory.list_keys(owner="chief") == ["agent:chief:workspace", "plan", "shared:trend"]


class Question(msgspec.Struct):
    about: str


async def test_what_it_caches_carries_its_name_and_typed_questions_find_their_handler(
    system: HybridCommunicationSystem, chief: HybridAgent, start: Start
) -> None:
    ann = await start("ann")
    asked: list[str] = []

    @ann.on_message(Question)
    async def answer(message: Message) -> str:
        asked.append(message.content.about)
        return message.sender

    for _ in range(2):
        assert await soon(chief.request_with_cache("ann", Question("tea"))) == "chief"
        assert await soon(chief.get_or_compute("k", lambda: 7)) == 7
    entry = await system.memory.read_with_metadata("cache:k", reader="ann")
    assert entry is not None
    assert (entry.owner, asked) == ("chief", ["tea"])
    del answer


async def test_it_takes_cached_keys_back_when_a_message_says_so(
    harness: SpaceHarness, system: HybridCommunicationSystem, chief: HybridAgent, start: Start
) -> None:
    await start("ann")
    await chief.get_or_compute("k", lambda: 7)
    await chief.send("ann", {"type": "cache_invalidate", "key": "k"})
    await harness.advance(0)
    assert await system.memory.list_keys("cache:*") == []


# --- everybody contributes ---------------------------------------------------------------------------


async def test_everybody_is_asked_and_the_result_says_who_did_what_and_how_long_it_took(
    harness: SpaceHarness, chief: HybridAgent, start: Start
) -> None:
    other = HybridCommunicationSystem(await harness.open_again())
    quick, slow = Held({"mean": 3}), Held("Sales rise.")
    await start("analyst", quick)
    await start("writer", slow, system=other)
    working = begin(chief, "writer", "analyst")
    await harness.advance(1.0)
    quick.gate.set()
    await harness.advance(1.0)
    assert not working.done()
    slow.gate.set()
    done = await soon(working)

    assert isinstance(done, Collaboration)
    assert (done.task, done.initiator, done.complete, done.missing) == ("report", "chief", True, ())
    assert done.results == {"writer": "Sales rise.", "analyst": {"mean": 3}}
    writer, analyst = done.contributions
    assert [(part.agent_id, part.status) for part in (writer, analyst)] == [("writer", DONE), ("analyst", DONE)]
    assert writer.seconds is not None
    assert analyst.seconds is not None
    assert 0.9 < analyst.seconds < writer.seconds <= done.seconds
    assert writer.started_at is not None
    assert analyst.finished_at is not None
    assert done.started_at <= writer.started_at < analyst.finished_at < done.finished_at
    done.raise_for_missing()
    with pytest.raises(AttributeError):
        done.task = "another"  # pyright: ignore[reportAttributeAccessIssue]


async def test_a_collaborator_is_told_what_to_do_with_what_with_whom_and_until_when(
    harness: SpaceHarness, chief: HybridAgent, start: Start
) -> None:
    ann = Held()
    await start("ann", ann)
    await start("bob", finds(1))
    before = harness.engine
    working = begin(chief, "ann", "bob", task={"what": "report"}, timeout=20.0)
    await harness.advance(5.0)
    (task,) = ann.tasks
    assert (task.task, task.context) == ({"what": "report"}, {"topic": "sales"})
    assert (task.agent_id, task.invited_by, task.collaborators) == ("ann", "chief", ("ann", "bob"))
    assert 0 < task.remaining() <= 15.0
    assert task.attempt == 1
    assert sorted(await task.workspace.participants()) == ["ann", "bob", "chief"]
    assert await task.workspace.get_shared_data("task", getter="ann") == {"what": "report"}
    ann.gate.set()
    done = await soon(working)
    assert abs(task.deadline - done.started_at - timedelta(seconds=20)) < timedelta(milliseconds=1)
    assert before is harness.engine


async def test_collaborators_share_data_and_talk_in_the_workspace(
    harness: SpaceHarness, chief: HybridAgent, start: Start
) -> None:
    async def analyse(task: CollaborationTask) -> str:
        await task.workspace.set_shared_data("figures", [1, 2], setter="ann")
        await task.workspace.broadcast("ann", {"type": "figures"})
        return "analysed"

    told = asyncio.Event()

    async def write(task: CollaborationTask) -> object:
        await told.wait()
        return await task.workspace.get_shared_data("figures", getter="bob")

    bob = await start("bob", write, concurrency=2)
    bob.on_message("figures")(lambda _: told.set())
    await start("ann", analyse)
    working = begin(chief, "ann", "bob")
    await harness.advance(0)
    assert (await soon(working)).results == {"ann": "analysed", "bob": [1, 2]}


async def test_a_plain_function_and_a_falsy_result_contribute(chief: HybridAgent, start: Start) -> None:
    await start("ann", lambda _: None)
    await start("bob", lambda _: 0)
    done = await soon(begin(chief, "ann", "bob"))
    assert (done.complete, done.results) == (True, {"ann": None, "bob": 0})


async def test_several_collaborations_go_on_beside_each_other(chief: HybridAgent, start: Start) -> None:
    await start("ann", lambda task: task.task * 2, concurrency=4)
    done = await soon(asyncio.gather(*[begin(chief, "ann", task=number) for number in range(10)]))
    assert [one.results["ann"] for one in done] == [number * 2 for number in range(10)]
    assert len({one.workspace_id for one in done}) == 10


# --- who drops out -----------------------------------------------------------------------------------


async def test_who_declines_fails_or_cannot_is_told_apart_and_the_others_count(
    chief: HybridAgent, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    def decline(_: CollaborationTask) -> None:
        raise Reject("not my field")

    async def fail(_: CollaborationTask) -> None:
        raise ZeroDivisionError("no sales at all")

    await start("willing", finds("done"))
    await start("unwilling", decline)
    await start("unlucky", fail)
    await start("unable")
    await start("odd", lambda _: object())
    done = await soon(begin(chief, "willing", "unwilling", "unlucky", "unable", "odd"))
    assert statuses(done) == {
        "willing": DONE,
        "unwilling": DECLINED,
        "unlucky": FAILED,
        "unable": DECLINED,
        "odd": FAILED,
    }
    parts = {part.agent_id: part for part in done.contributions}
    assert parts["unwilling"].reason == "not my field"
    assert (parts["unlucky"].error, parts["unlucky"].reason) == ("ZeroDivisionError", "no sales at all")
    assert "on_task" in parts["unable"].reason
    assert parts["odd"].error == "EncodeError"
    assert done.results == {"willing": "done"}
    assert 'raise ZeroDivisionError("no sales at all")' in caplog.text
    with pytest.raises(CollaborationError, match=r"'unwilling' \(declined\), 'unlucky' \(failed\)") as caught:
        done.raise_for_missing()
    assert caught.value.collaboration is done


async def test_who_never_begins_is_silent_and_an_invitation_that_has_expired_begins_nothing(
    harness: SpaceHarness, system: HybridCommunicationSystem, chief: HybridAgent, start: Start
) -> None:
    await system.register_agent("asleep")
    await start("ann", finds("done"))
    working = begin(chief, "asleep", "ann", timeout=4.0)
    await harness.advance(4.5)
    done = await soon(working)
    assert statuses(done) == {"asleep": SILENT, "ann": DONE}
    assert done.contributions[0].started_at is None
    function = Held()
    await start("asleep", function)
    await harness.advance(0)
    assert function.tasks == []
    (letter,) = await system.broker.dead_letters("asleep")
    assert letter.reason == "expired"


async def test_who_is_at_work_when_time_is_over_is_unfinished_and_is_stopped(
    harness: SpaceHarness, chief: HybridAgent, start: Start
) -> None:
    slow = Held()
    await start("ann", slow)
    await start("bob", finds("done"))
    working = begin(chief, "ann", "bob", timeout=4.0)
    await harness.advance(4.5)
    done = await soon(working)
    assert statuses(done) == {"ann": UNFINISHED, "bob": DONE}
    part = done.contributions[0]
    assert (part.seconds, part.started_at is None) == (None, False)
    await harness.advance(0)
    assert slow.cancelled == 1


async def test_what_comes_too_late_is_refused(
    harness: SpaceHarness, system: HybridCommunicationSystem, chief: HybridAgent, start: Start
) -> None:
    class Stubborn(Held):
        async def __call__(self, task: CollaborationTask) -> object:
            self.tasks.append(task)
            while not self.gate.is_set():
                try:
                    await self.gate.wait()
                except asyncio.CancelledError:
                    self.cancelled += 1
            return self.result

    stubborn = Stubborn("late")
    await start("ann", stubborn)
    working = begin(chief, "ann", timeout=2.0)
    await harness.advance(2.5)
    done = await soon(working)
    assert statuses(done) == {"ann": UNFINISHED}
    stubborn.gate.set()
    await harness.advance(0)
    workspace = CollaborativeWorkspace(done.workspace_id, system.space)
    assert await workspace.get_shared_data("contribution:ann", getter="chief") is None
    assert await system.broker.queue("ann").get_pending_count() == 0


async def test_whose_process_dies_is_given_up_when_its_presence_runs_out_and_not_at_the_deadline(
    harness: SpaceHarness, chief: HybridAgent, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "tertulia")
    await start("bob", finds("done"))
    async with another_process(harness) as process:
        dying = Held()
        await start("ann", dying, system=HybridCommunicationSystem(process.space))
        working = begin(chief, "ann", "bob", timeout=1000.0)
        await harness.advance(1.0)
        assert len(dying.tasks) == 1
        process.crash()
        await harness.advance(LEASE + 2.0)
        done = await soon(working)
        assert statuses(done) == {"ann": VANISHED, "bob": DONE}
        assert done.contributions[0].started_at is not None
        process.recover()


async def test_another_process_of_the_same_agent_takes_over_the_part_of_one_that_died(
    harness: SpaceHarness, chief: HybridAgent, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "tertulia")
    async with another_process(harness) as process:
        dying, taking_over = Held(), Held("taken over")
        taking_over.gate.set()
        await start("ann", dying, system=HybridCommunicationSystem(process.space), lease=2 * LEASE)
        working = begin(chief, "ann", timeout=1000.0, takeover=2 * LEASE)
        await harness.advance(1.0)
        assert len(dying.tasks) == 1
        process.crash()
        await start("ann", taking_over, lease=LEASE)
        await harness.advance(LEASE + 1.0)  # its presence has run out, and its lease on the invitation has not
        assert not working.done()
        await harness.advance(LEASE)
        done = await soon(working)
        assert (statuses(done), done.results) == ({"ann": DONE}, {"ann": "taken over"})
        assert taking_over.tasks[0].attempt == 2
        process.recover()


async def test_of_two_processes_that_do_the_same_part_the_first_to_contribute_counts(
    harness: SpaceHarness, chief: HybridAgent, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "tertulia")
    held = Held()
    await start("bob", held)
    async with another_process(harness) as process:
        stopped, taking_over = Held("late"), Held("first")
        taking_over.gate.set()
        await start("ann", stopped, system=HybridCommunicationSystem(process.space), lease=LEASE)
        working = begin(chief, "ann", "bob", timeout=1000.0)
        await harness.advance(1.0)
        process.crash()
        await start("ann", taking_over, lease=LEASE)
        await harness.advance(LEASE + 1.0)
        process.recover()  # as a process that was stopped goes on
        stopped.gate.set()
        await harness.advance(1.0)
        held.gate.set()
        await harness.advance(0)
        assert (len(stopped.tasks), len(taking_over.tasks)) == (1, 1)
        done = await soon(working)
        assert done.results == {"ann": "first", "bob": "held"}
        workspace = CollaborativeWorkspace(done.workspace_id, chief.system.space)
        entry = await workspace.get_shared_entry("contribution:ann", getter="chief")
        assert entry is not None
        assert (entry.version, entry.value["result"]) == (1, "first")


async def test_who_comes_back_and_is_at_work_when_time_is_over_is_unfinished_and_not_vanished(
    harness: SpaceHarness, chief: HybridAgent, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "tertulia")
    await start("bob", Held())
    async with another_process(harness) as process:
        await start("ann", Held(), system=HybridCommunicationSystem(process.space), lease=2 * LEASE)
        working = begin(chief, "ann", "bob", timeout=5 * LEASE)
        await harness.advance(1.0)
        process.crash()
        await start("ann", Held(), lease=2 * LEASE)
        await harness.advance(4 * LEASE)
        assert not working.done()
        await harness.advance(LEASE)
        assert statuses(await soon(working)) == {"ann": UNFINISHED, "bob": UNFINISHED}
        process.recover()


async def test_in_a_workspace_that_stays_open_who_was_stopped_by_the_deadline_has_not_failed(
    harness: SpaceHarness, system: HybridCommunicationSystem, chief: HybridAgent, start: Start
) -> None:
    await start("ann", Held())
    working = begin(chief, "ann", timeout=2.0, afterwards=Afterwards.KEEP)
    await harness.advance(2.5)
    done = await soon(working)
    await harness.advance(0)
    assert statuses(done) == {"ann": UNFINISHED}
    workspace = CollaborativeWorkspace(done.workspace_id, system.space)
    assert await workspace.list_shared_data("contribution:*", getter="chief") == []


async def test_an_agent_that_is_stopped_in_the_middle_of_its_part_is_not_waited_for(
    harness: SpaceHarness, chief: HybridAgent, start: Start
) -> None:
    function = Held()
    agent = await start("ann", function)
    working = begin(chief, "ann", timeout=1000.0)
    await harness.advance(0)
    await agent.stop(grace=0)
    await harness.advance(LEASE)
    done = await soon(working)
    assert statuses(done) == {"ann": VANISHED}
    assert function.cancelled == 1


async def test_who_asks_to_be_called_later_is_called_later(
    harness: SpaceHarness, chief: HybridAgent, start: Start
) -> None:
    attempts: list[int] = []

    async def hesitate(task: CollaborationTask) -> str:
        attempts.append(task.attempt)
        if task.attempt < 3:
            raise RetryLater(1.0)
        return "at last"

    await start("ann", hesitate)
    working = begin(chief, "ann", timeout=1000.0)
    for _ in range(3):
        await harness.advance(1.2)
    assert (await soon(working)).results == {"ann": "at last"}
    assert attempts == [1, 2, 3]


async def test_an_invitation_that_comes_twice_is_followed_once(
    harness: SpaceHarness, system: HybridCommunicationSystem, chief: HybridAgent, start: Start
) -> None:
    calls: list[str] = []
    held = Held()
    await start("ann", lambda task: calls.append(task.agent_id))
    await start("bob", held)
    working = begin(chief, "ann", "bob")
    await harness.advance(0)
    workspace = held.tasks[0].workspace
    content = {
        "type": INVITATION,
        "workspace_id": workspace.workspace_id,
        "initiator": "chief",
        "collaborators": ["ann", "bob"],
        "deadline": held.tasks[0].deadline.timestamp(),
        "presence_lease": LEASE,
    }
    await system.broker.send(Message(sender="chief", receiver="ann", content=content))
    await harness.advance(0)
    held.gate.set()
    assert (await soon(working)).complete
    assert calls == ["ann"]


async def test_an_invitation_that_is_none_goes_to_the_dead_letters(
    harness: SpaceHarness, system: HybridCommunicationSystem, chief: HybridAgent, start: Start
) -> None:
    await start("ann", finds(1))
    await chief.send("ann", {"type": INVITATION, "deadline": "soon"})
    await harness.advance(0)
    (letter,) = await system.broker.dead_letters("ann")
    assert "Invitation" in letter.reason


# --- before anything has begun -----------------------------------------------------------------------


async def test_an_unknown_collaborator_is_an_error_before_anybody_is_asked(
    system: HybridCommunicationSystem, chief: HybridAgent
) -> None:
    await system.register_agent("ann")
    before = await system.space.engine.scan("")
    with pytest.raises(UnknownAgentError) as caught:
        await chief.collaborate("report", ["ann", "bbo"])
    assert caught.value.agent_id == "bbo"
    assert await system.broker.queue("ann").size() == 0
    assert await system.space.engine.scan("") == before


async def test_an_invitation_that_cannot_be_delivered_leaves_nobody_invited_and_no_workspace(
    system: HybridCommunicationSystem, chief: HybridAgent
) -> None:
    await system.register_agent("ann")
    await system.register_agent("busy", max_queue_size=1)
    await system.broker.send(Message(receiver="busy"))
    with pytest.raises(MailboxFullError):
        await chief.collaborate("report", ["ann", "busy"])
    with pytest.raises(EncodeError):
        await chief.collaborate(object(), ["ann"])
    assert await system.broker.queue("ann").size() == 0
    assert (await system.space.engine.scan(""))[1] == []


async def test_nobody_somebody_twice_oneself_and_a_bare_name_are_refused(
    system: HybridCommunicationSystem, chief: HybridAgent
) -> None:
    for name in ("ann", "chief"):
        await system.register_agent(name)
    wrong: list[tuple[type[Exception], Any, str]] = [
        (InvalidInputError, [], "nobody"),
        (InvalidInputError, ["ann", "bob", "ann"], "'ann'"),
        (InvalidInputError, ["ann", "chief"], "itself"),
        (InvalidInputError, "ann", "several"),
        (InvalidInputError, None, "several"),
        (InvalidInputError, [f"a{number}" for number in range(101)], "at most 100"),
        (InvalidNameError, ["ann", ""], "empty"),
    ]
    for error, names, words in wrong:
        with pytest.raises(error, match=words):
            await chief.collaborate("report", names)
    every: list[dict[str, Any]] = [
        {"timeout": 0},
        {"takeover": -1.0},
        {"presence_lease": 0},
        {"afterwards": "archive"},
    ]
    for options in every:
        with pytest.raises(InvalidInputError):
            await chief.collaborate("report", ["ann"], **options)
    assert await system.broker.queue("ann").size() == 0


def test_an_agent_is_made_with_a_system_and_not_with_a_space(space: Space) -> None:
    with pytest.raises(InvalidInputError, match=r"HybridCommunicationSystem\(space\)"):
        HybridAgent("ann", space)  # pyright: ignore[reportArgumentType]


def test_an_agent_has_one_function_for_tasks(chief: HybridAgent) -> None:
    chief.on_task(lambda _: None)
    with pytest.raises(InvalidInputError):
        chief.on_task(lambda _: None)
    with pytest.raises(InvalidInputError):
        HybridAgent("ann", chief.system).on_task("report")  # pyright: ignore[reportArgumentType]


# --- the end -----------------------------------------------------------------------------------------


async def test_the_workspace_is_archived_removed_or_left_open_as_asked(
    system: HybridCommunicationSystem, chief: HybridAgent, start: Start
) -> None:
    await start("ann", finds("done"))
    done = {how: await soon(begin(chief, "ann", afterwards=how)) for how in Afterwards}
    spaces = {how: CollaborativeWorkspace(one.workspace_id, system.space) for how, one in done.items()}
    assert [one.afterwards for one in done.values()] == list(Afterwards)
    assert all(one.results == {"ann": "done"} for one in done.values())

    archived = spaces[Afterwards.ARCHIVE]
    assert await archived.get_shared_data("context", getter="ann") == {"topic": "sales"}
    with pytest.raises(WorkspaceArchivedError):
        await archived.set_shared_data("more", 1, setter="ann")
    with pytest.raises(UnknownWorkspaceError):
        await spaces[Afterwards.REMOVE].participants()
    assert sorted(await spaces[Afterwards.KEEP].participants()) == ["ann", "chief"]
    await spaces[Afterwards.KEEP].set_shared_data("more", 1, setter="ann")


async def test_a_cancelled_collaboration_leaves_no_workspace_and_what_is_contributed_is_refused(
    harness: SpaceHarness, system: HybridCommunicationSystem, chief: HybridAgent, start: Start
) -> None:
    function = Held()
    await start("ann", function)
    working = begin(chief, "ann")
    await harness.advance(0)
    working.cancel()
    await asyncio.wait([working])
    assert working.cancelled()
    function.gate.set()
    await harness.advance(0)
    assert [record.key for record in (await system.space.engine.scan(""))[1]] == []
    assert await system.broker.queue("ann").get_pending_count() == 0


async def test_cancelled_at_any_moment_a_collaboration_leaves_no_workspace(
    harness: SpaceHarness, system: HybridCommunicationSystem, start: Start
) -> None:
    inner = await harness.open_again()
    hesitant = Space(inner.url, Interleaved(inner.engine, None, seed=3), inner.clock)
    chief = HybridAgent("chief", HybridCommunicationSystem(hesitant))
    await start("ann", finds(1))
    fates = Counter[bool]()
    for turns in range(0, 120, 2):
        working = begin(chief, "ann", afterwards=Afterwards.REMOVE)
        for _ in range(turns):
            await asyncio.sleep(0)
        working.cancel()
        await asyncio.wait([working])
        fates[working.cancelled()] += 1
        await harness.advance(0)
        await harness.advance(0)
        assert [record.key for record in (await system.space.engine.scan(""))[1]] == [], turns
    assert fates[True] > 20
    await hesitant.background.aclose()


async def test_one_who_is_let_leave_by_mistake_still_gets_what_he_asked_for(
    harness: SpaceHarness, chief: HybridAgent, start: Start
) -> None:
    held = Held()

    async def push_out(task: CollaborationTask) -> str:
        await task.workspace.leave(task.invited_by)
        return "done"

    await start("ann", push_out)
    await start("bob", held)
    working = begin(chief, "ann", "bob")
    await harness.advance(0)
    held.gate.set()
    await harness.advance(LEASE)
    assert (await soon(working)).results == {"ann": "done", "bob": "held"}


async def test_a_workspace_that_somebody_else_closes_ends_the_collaboration_with_what_there_is(
    harness: SpaceHarness, chief: HybridAgent, start: Start
) -> None:
    held = Held()
    await start("ann", finds("done"))
    await start("bob", held)
    working = begin(chief, "ann", "bob")
    await harness.advance(0)
    await held.tasks[0].workspace.archive("bob")
    await harness.advance(LEASE)
    assert statuses(await soon(working)) == {"ann": DONE, "bob": UNFINISHED}


# --- deadlines that are inherited --------------------------------------------------------------------


async def test_within_a_handler_the_request_bounds_the_collaboration_and_so_what_collaborators_ask(
    harness: SpaceHarness, chief: HybridAgent, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "tertulia")
    ends: list[float] = []
    held = asyncio.Event()

    async def ask_on(task: CollaborationTask) -> Any:
        ends.append(task.remaining())
        return await ann.request("deaf", "?", timeout=1000.0)

    ann = await start("ann", ask_on)
    deaf = await start("deaf")
    deadlines: list[Any] = []

    @deaf.on_message("default")
    async def hear(message: Message) -> None:
        deadlines.append(message.expires)
        await held.wait()

    @chief.on_message("default")
    async def delegate(_: Message) -> None:
        deadlines.append((await chief.collaborate("report", ["ann"], presence_lease=LEASE)).complete)

    async with chief:
        client = MessagePassingAgent("client", chief.broker)
        asked_at = chief.broker.outbox.time()
        asking = asyncio.create_task(client.request("chief", "go", timeout=3.0))
        await harness.advance(3.5)
        with pytest.raises((RemoteError, TimeoutError)):
            await soon(asking)
        held.set()
        await harness.advance(0)
    assert ends[0] <= 3.0
    assert deadlines[0] - asked_at < 3.1
    assert deadlines[1:] == [False]
    del hear, delegate


# --- the end of the one who asked --------------------------------------------------------------------


async def test_when_the_process_that_asked_dies_the_workspace_is_abandoned_and_contributions_are_refused(
    harness: SpaceHarness, system: HybridCommunicationSystem, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "tertulia")
    ann, bob, cid = Held(), Held(), Held()
    await start("ann", ann)
    await start("bob", bob)
    await system.register_agent("cid")
    async with another_process(harness) as process:
        chief = HybridAgent("chief", HybridCommunicationSystem(process.space))
        asking = begin(chief, "ann", "bob", "cid", timeout=1000.0)
        async with asyncio.timeout(6 * LIMIT):
            while not (ann.tasks and bob.tasks):
                await harness.advance(0)
        workspace = CollaborativeWorkspace(ann.tasks[0].workspace.workspace_id, system.space, presence_lease=LEASE)
        ballot = await workspace.open_ballot("ann", "Go on?", deadline=500.0)
        process.crash()
        await harness.advance(LEASE + 0.5)
        (seen,) = await list_workspaces(system.space)
        assert (seen.state, seen.participants, seen.members) == ("abandoned", (), ("ann", "bob", "chief"))
        await workspace.participants()
        await harness.advance(LEASE / 2 + 0.1)
        ann.gate.set()
        await start("cid", cid)
        await harness.advance(0)
        assert await workspace.get_shared_data("contribution:ann", getter="ann") is None
        assert cid.tasks == []
        with pytest.raises(WorkspaceAbandonedError, match="'chief' is gone") as caught:
            await bob.tasks[0].workspace.set_shared_data("more", 1, setter="bob")
        assert (caught.value.owner, isinstance(caught.value, WorkspaceArchivedError)) == ("chief", True)
        assert await workspace.participants() == []
        assert (await workspace.proposal(ballot.id)).state is BallotState.CLOSED
        assert await workspace.get_shared_data("task", getter="ann") == "report"
        process.recover()  # as a process that was stopped goes on
        with pytest.raises(EngineUnavailableError):
            await soon(asking)
    await workspace.remove("bob")
    await harness.advance(0)
    assert (await system.space.engine.scan("_tertulia:workspace:"))[1] == []


class InProcess:
    """A space in this process, time by hand, an agent that is invited, and one who asks through a handle of its own."""

    def __init__(self, clock: ManualClock, place: Space, asking: Crashable) -> None:
        self.clock = clock
        self.held = Held()
        self.asking = asking
        self.system = HybridCommunicationSystem(place)
        self.chief = HybridAgent("chief", HybridCommunicationSystem(asking.space))

    async def begin(self) -> asyncio.Task[Collaboration]:
        working = begin(self.chief, "ann", timeout=1000.0, takeover=2 * LEASE)
        await self.clock.advance(1.0)
        return working

    async def contribute(self) -> None:
        await self.held.tasks[0].workspace.set_shared_data("more", 1, setter="ann")


@pytest.fixture
async def in_process() -> AsyncIterator[InProcess]:
    clock = ManualClock()
    async with connect("memory:abandoned", clock=clock) as place, connect("memory:abandoned", clock=clock) as inner:
        team = InProcess(clock, place, Crashable(inner))
        ann = HybridAgent("ann", team.system)
        ann.on_task(team.held)
        await ann.start()
        yield team
        await ann.stop(grace=0)


async def test_a_handle_that_is_closed_in_the_middle_leaves_an_abandoned_workspace(in_process: InProcess) -> None:
    asking = await in_process.begin()
    await in_process.asking.space.aclose()
    await asyncio.wait([asking])
    assert isinstance(asking.exception(), SpaceClosedError)
    await in_process.clock.advance(LEASE)
    with pytest.raises(WorkspaceAbandonedError):
        await in_process.contribute()


async def test_a_collaboration_that_failed_with_its_engine_keeps_no_workspace_open(
    in_process: InProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "tertulia")
    asking = await in_process.begin()
    in_process.asking.crash()
    await in_process.clock.advance(LEASE / 2)
    with pytest.raises(EngineUnavailableError):
        await soon(asking)
    in_process.asking.recover()  # well before any lease is over, and the process lives on
    for _ in range(5):
        await in_process.clock.advance(LEASE / 2)
    with pytest.raises(WorkspaceAbandonedError):
        await in_process.contribute()
    await in_process.asking.space.aclose()


async def test_a_machine_that_slept_goes_on_with_its_collaborations(
    in_process: InProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "tertulia")
    asking = await in_process.begin()
    for _ in range(2):
        in_process.clock.jump(100.0)  # while it sleeps no monotonic time passes, and every lease runs out
        with pytest.raises(NotAMemberError):
            await in_process.contribute()
        await in_process.clock.advance(LEASE)  # by then all have entered again
        await in_process.contribute()
    in_process.held.gate.set()
    await in_process.clock.advance(0)
    assert (await soon(asking)).results == {"ann": "held"}
