"""Workspaces: who is there, what they share, what they tell each other, and the end of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from tertulia import CollaborativeWorkspace, Message, Space, WhenFull
from tertulia.errors import (
    AccessDeniedError,
    EngineUnavailableError,
    InvalidInputError,
    InvalidKeyError,
    InvalidNameError,
    KeyExistsError,
    KeyNotFoundError,
    MailboxFullError,
    NotAMemberError,
    UnknownWorkspaceError,
    VersionConflictError,
    WorkspaceArchivedError,
)
from tertulia.testing.conformance import SpaceHarness
from tests.patterns.handles import another_process

LEASE = 3.0  # seconds; short, since on some engines time really has to pass
LIMIT = 5  # seconds of real time for what happens at once unless something is broken


async def soon(awaitable: Any) -> Any:
    return await asyncio.wait_for(awaitable, LIMIT)


def workspace_of(space: Space, name: str = "report") -> CollaborativeWorkspace:
    return CollaborativeWorkspace(name, space, presence_lease=LEASE)


@pytest.fixture
async def workspace(space: Space) -> CollaborativeWorkspace:
    """A workspace with ann and bob in it."""
    workspace = workspace_of(space)
    for agent in ("ann", "bob"):
        assert await workspace.join(agent)
    return workspace


async def read(space: Space, agent: str) -> Message:
    delivery = await soon(space.broker.receive(agent, timeout=LIMIT))
    assert delivery is not None
    await delivery.acknowledge()
    return delivery.message


# --- members -----------------------------------------------------------------------------------------


async def test_participants_are_those_who_joined_and_did_not_leave_in_the_order_they_came(space: Space) -> None:
    workspace = workspace_of(space)
    for agent in ("eve", "ann", "bob"):
        await workspace.join(agent)
    await workspace.leave("ann")
    assert await workspace.participants() == ["eve", "bob"]
    assert await workspace_of(space, "another").join("ann")
    assert await workspace.participants() == ["eve", "bob"]


async def test_joining_again_changes_nothing(workspace: CollaborativeWorkspace) -> None:
    assert not await workspace.join("ann")
    assert await workspace.participants() == ["ann", "bob"]


async def test_leaving_twice_is_an_error_and_so_is_leaving_without_having_joined(
    workspace: CollaborativeWorkspace,
) -> None:
    await workspace.leave("bob")
    for agent in ("bob", "eve"):
        with pytest.raises(NotAMemberError) as caught:
            await workspace.leave(agent)
        assert (caught.value.agent_id, caught.value.target) == (agent, "report")
    assert await workspace.participants() == ["ann"]


async def test_of_many_who_let_the_same_agent_leave_one_succeeds(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    others = [workspace_of(await harness.open_again()) for _ in range(4)]
    outcomes = await asyncio.gather(
        *(one.leave("bob") for one in [workspace, *others]),
        return_exceptions=True,
    )
    assert Counter(map(type, outcomes)) == {NotAMemberError: 4, type(None): 1}


async def test_a_member_stays_while_its_handle_lives(workspace: CollaborativeWorkspace, harness: SpaceHarness) -> None:
    await harness.advance(LEASE * 1.5)
    assert await workspace.participants() == ["ann", "bob"]


async def test_a_member_whose_process_crashed_is_there_no_longer_once_its_lease_is_over(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    async with another_process(harness) as other:
        await workspace_of(other.space).join("eve")
        other.crash()
        assert await workspace.participants() == ["ann", "bob", "eve"]
        await harness.advance(LEASE + 0.1)
        assert await workspace.participants() == ["ann", "bob"]


async def test_a_member_whose_handle_is_closed_is_gone_at_once(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    async with another_process(harness) as other:
        await workspace_of(other.space).join("eve")
        assert await workspace.participants() == ["ann", "bob", "eve"]
    assert await workspace.participants() == ["ann", "bob"]


async def test_an_agent_with_two_processes_is_there_as_long_as_one_of_them_is(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    async with another_process(harness) as other:
        assert not await workspace_of(other.space).join("bob")
        await other.space.aclose()
    assert await workspace.participants() == ["ann", "bob"]
    await harness.advance(LEASE + 0.1)
    assert await workspace.participants() == ["ann", "bob"]


async def test_an_agent_with_two_processes_of_which_one_crashes_is_kept_there_by_the_other(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    async with another_process(harness) as other, another_process(harness) as another:
        for process in (other, another):
            await workspace_of(process.space).join("eve")
        other.crash()
        await harness.advance(LEASE * 1.5)
        assert await workspace.participants() == ["ann", "bob", "eve"]
        another.crash()
        await harness.advance(LEASE + 0.1)
        assert await workspace.participants() == ["ann", "bob"]


async def test_processes_that_crashed_long_ago_do_not_keep_an_agent_there(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    async with another_process(harness) as other:
        await workspace_of(other.space).join("eve")
        async with another_process(harness) as living:
            await workspace_of(living.space).join("eve")
            other.crash()
            for _ in range(3):
                await harness.advance(LEASE)
            assert "eve" in await workspace.participants()
        assert "eve" not in await workspace.participants()


async def test_letting_an_agent_leave_ends_it_for_all_its_processes(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    elsewhere = workspace_of(await harness.open_again())
    assert not await elsewhere.join("bob")
    await workspace.leave("bob")
    await harness.advance(LEASE * 1.1)
    assert await elsewhere.participants() == ["ann"]


async def test_a_process_that_was_stopped_for_longer_than_its_lease_enters_again_by_itself(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    async with another_process(harness) as other:
        await workspace_of(other.space).join("eve")
        other.crash()
        await harness.advance(LEASE + 0.1)
        assert "eve" not in await workspace.participants()
        other.recover()
        await harness.advance(LEASE / 2)
        assert "eve" in await workspace.participants()


async def test_a_member_that_somebody_else_let_leave_does_not_come_back_by_itself(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    async with another_process(harness) as other:
        theirs = workspace_of(other.space)
        await theirs.join("eve")
        await workspace.leave("eve")
        await harness.advance(LEASE / 2)
        assert await workspace.participants() == ["ann", "bob"]
        assert await theirs.join("eve")  # but it may, when it is told to
        await harness.advance(LEASE * 1.1)
        assert await workspace.participants() == ["ann", "bob", "eve"]


async def test_members_with_names_that_begin_alike_are_told_apart(workspace: CollaborativeWorkspace) -> None:
    for agent in ("ann b", "ann*", "an"):
        await workspace.join(agent)
    await workspace.leave("ann")
    assert await workspace.participants() == ["bob", "ann b", "ann*", "an"]
    with pytest.raises(NotAMemberError):
        await workspace.set_shared_data("k", 1, setter="ann")


async def test_a_workspace_that_nobody_has_made_is_unknown(space: Space) -> None:
    workspace = workspace_of(space)
    for call in (
        workspace.participants(),
        workspace.leave("ann"),
        workspace.join("ann", create=False),
        workspace.set_shared_data("k", 1, setter="ann"),
        workspace.get_shared_data("k", getter="ann"),
        workspace.broadcast("ann", "hello"),
        workspace.archive("ann"),
        workspace.remove("ann"),
    ):
        with pytest.raises(UnknownWorkspaceError) as caught:
            await call
        assert caught.value.workspace_id == "report"


@pytest.mark.parametrize("name", ["", "a:b", "_own", " x", "x" * 129, None, "." * 100])
async def test_a_workspace_needs_a_good_name(space: Space, name: Any) -> None:
    with pytest.raises(InvalidNameError):
        CollaborativeWorkspace(name, space)


@pytest.mark.parametrize("name", ["", "a:b", "_own", None, 7])
async def test_an_agent_needs_a_good_name(workspace: CollaborativeWorkspace, name: Any) -> None:
    for call in (
        workspace.join(name),
        workspace.leave(name),
        workspace.set_shared_data("k", 1, setter=name),
        workspace.get_shared_data("k", getter=name),
        workspace.broadcast(name, "hello"),
        workspace.archive(name),
        workspace.remove(name),
    ):
        with pytest.raises(InvalidNameError):
            await call
    assert await workspace.participants() == ["ann", "bob"]


@pytest.mark.parametrize("lease", [0, -1, float("nan"), "3", True])
def test_a_lease_is_a_time(lease: Any) -> None:
    async def attempt() -> None:
        from tertulia import connect  # noqa: PLC0415

        async with connect("memory:") as space:
            CollaborativeWorkspace("report", space, presence_lease=lease)

    with pytest.raises(InvalidInputError):
        asyncio.run(attempt())


# --- shared data -------------------------------------------------------------------------------------


async def test_what_one_participant_sets_the_others_get_in_every_handle(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    entry = await workspace.set_shared_data("plan", {"steps": [1, 2]}, setter="ann")
    assert (entry.key, entry.version, entry.owner) == ("plan", 1, "ann")
    elsewhere = workspace_of(await harness.open_again())
    assert await elsewhere.get_shared_data("plan", getter="bob") == {"steps": [1, 2]}
    assert await elsewhere.get_shared_data("none", getter="bob", default="nothing") == "nothing"
    found = await elsewhere.get_shared_entry("plan", getter="bob")
    assert found is not None
    assert (found.version, found.value) == (1, {"steps": [1, 2]})


async def test_a_value_set_over_an_expected_version_never_overwrites_another(
    workspace: CollaborativeWorkspace,
) -> None:
    await workspace.set_shared_data("plan", "a", setter="ann", expected_version=0)
    with pytest.raises(KeyExistsError):
        await workspace.set_shared_data("plan", "b", setter="bob", expected_version=0)
    assert (await workspace.set_shared_data("plan", "b", setter="bob", expected_version=1)).version == 2
    with pytest.raises(VersionConflictError) as caught:
        await workspace.set_shared_data("plan", "c", setter="ann", expected_version=1)
    assert (caught.value.key, caught.value.actual_version) == ("plan", 2)
    with pytest.raises(KeyNotFoundError):
        await workspace.set_shared_data("other", "c", setter="ann", expected_version=1)
    assert await workspace.get_shared_data("plan", getter="ann") == "b"


async def test_shared_data_can_be_listed_and_deleted(workspace: CollaborativeWorkspace) -> None:
    for key in ("plan:a", "plan:b", "notes"):
        await workspace.set_shared_data(key, 1, setter="ann")
    assert await workspace.list_shared_data("plan:*", getter="bob") == ["plan:a", "plan:b"]
    with pytest.raises(VersionConflictError):
        await workspace.delete_shared_data("plan:a", requester="bob", expected_version=2)
    assert await workspace.delete_shared_data("plan:a", requester="bob", expected_version=1)
    assert not await workspace.delete_shared_data("plan:a", requester="bob")
    assert await workspace.list_shared_data(getter="bob") == ["notes", "plan:b"]


async def test_shared_data_are_for_those_who_are_there(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    await workspace.set_shared_data("plan", 1, setter="ann")
    await workspace.leave("bob")
    async with another_process(harness) as other:
        await workspace_of(other.space).join("crashed")
        other.crash()
        await harness.advance(LEASE + 0.1)
    for agent in ("bob", "stranger", "crashed"):
        for call in (
            workspace.set_shared_data("plan", 2, setter=agent),
            workspace.set_shared_data("plan", 2, setter=agent, expected_version=1),
            workspace.delete_shared_data("plan", requester=agent),
            workspace.get_shared_data("plan", getter=agent),
            workspace.get_shared_entry("plan", getter=agent),
            workspace.list_shared_data(getter=agent),
            workspace.watch(getter=agent).__aenter__(),
            workspace.broadcast(agent, "hello"),
        ):
            with pytest.raises(NotAMemberError) as caught:
                await call
            assert caught.value.agent_id == agent
    assert await workspace.get_shared_data("plan", getter="ann") == 1


async def test_shared_data_are_out_of_the_way_of_the_memory(workspace: CollaborativeWorkspace, space: Space) -> None:
    await workspace.set_shared_data("plan", 1, setter="ann")
    assert await space.memory.list_keys() == []
    for key in ("_tertulia:workspace:report:data:plan", "_tertulia:workspace:report:state"):
        with pytest.raises(InvalidKeyError):
            await space.memory.write(key, 2, owner="ann")


async def test_workspaces_do_not_see_each_others_data(space: Space) -> None:
    first, second = workspace_of(space, "a"), workspace_of(space, "a b")
    for one in (first, second):
        await one.join("ann")
        await one.set_shared_data("k", one.workspace_id, setter="ann")
    assert [await one.get_shared_data("k", getter="ann") for one in (first, second)] == ["a", "a b"]
    await first.remove("ann")
    assert await second.get_shared_data("k", getter="ann") == "a b"


@pytest.mark.parametrize("version", [-1, 1.0, True, False, "1"])
async def test_an_expected_version_is_a_count(workspace: CollaborativeWorkspace, version: Any) -> None:
    with pytest.raises(InvalidInputError):
        await workspace.set_shared_data("plan", 1, setter="ann", expected_version=version)
    assert await workspace.list_shared_data(getter="ann") == []


async def test_a_watch_shows_the_changes_of_shared_data_and_ends_with_its_readers_presence(
    workspace: CollaborativeWorkspace,
) -> None:
    async with workspace.watch("plan*", getter="bob") as changes:
        await workspace.set_shared_data("plan", 1, setter="ann")
        await workspace.set_shared_data("notes", 1, setter="ann")
        await workspace.delete_shared_data("plan", requester="ann")
        seen = [await soon(anext(changes)) for _ in range(2)]
        assert [(change.key, change.value) for change in seen] == [("plan", 1), ("plan", None)]
        await workspace.leave("bob")
        await workspace.set_shared_data("plan", 2, setter="ann")
        with pytest.raises(NotAMemberError):
            await soon(anext(changes))


async def test_increments_by_many_participants_in_many_handles_lose_nothing(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    handles = [workspace, *[workspace_of(await harness.open_again()) for _ in range(3)]]
    await workspace.set_shared_data("count", 0, setter="ann")

    async def increment(one: CollaborativeWorkspace, agent: str) -> None:
        await one.join(agent)
        for _ in range(10):
            while True:
                entry = await one.get_shared_entry("count", getter=agent)
                assert entry is not None
                try:
                    await one.set_shared_data("count", entry.value + 1, setter=agent, expected_version=entry.version)
                    break
                except VersionConflictError:
                    await asyncio.sleep(0)

    await asyncio.gather(*(increment(one, f"agent-{number}") for number, one in enumerate(handles)))
    assert await workspace.get_shared_data("count", getter="ann") == 40


# --- messages ----------------------------------------------------------------------------------------


async def test_a_broadcast_goes_to_every_other_participant_that_has_a_mailbox_and_says_to_whom(
    workspace: CollaborativeWorkspace, space: Space
) -> None:
    for agent in ("eve", "dan", "gone"):
        await workspace.join(agent)
    for agent in ("ann", "bob", "dan", "gone", "outsider"):
        await space.broker.register_agent(agent)
    await workspace.leave("gone")

    receipt = await workspace.broadcast("ann", {"type": "start"})

    assert (receipt.delivered, receipt.without_mailbox) == (("bob", "dan"), ("eve",))
    for agent in receipt.delivered:
        message = await read(space, agent)
        assert (message.sender, message.receiver, message.content) == ("ann", agent, {"type": "start"})
        assert (message.id, message.topic) == (receipt.message_id, workspace.topic)
    for agent in ("ann", "gone", "outsider"):
        assert await space.broker.queue(agent).size() == 0


async def test_a_broadcast_that_one_full_mailbox_refuses_reaches_nobody(
    workspace: CollaborativeWorkspace, space: Space
) -> None:
    await workspace.join("full")
    await space.broker.register_agent("bob")
    await space.broker.register_agent("full", max_queue_size=1)
    await space.broker.send(Message(receiver="full"))
    with pytest.raises(MailboxFullError) as caught:
        await workspace.broadcast("ann", "hello")
    assert caught.value.agent_id == "full"
    assert await space.broker.queue("bob").size() == 0


async def test_what_a_broadcast_drops_is_named(workspace: CollaborativeWorkspace, space: Space) -> None:
    await space.broker.register_agent("bob", max_queue_size=1, when_full=WhenFull.DROP_OLDEST)
    first = await workspace.broadcast("ann", "old")
    assert (await workspace.broadcast("ann", "new")).dropped == (("bob", first.message_id),)
    assert (await read(space, "bob")).content == "new"


async def test_a_broadcast_of_the_only_participant_goes_to_nobody(space: Space) -> None:
    workspace = workspace_of(space)
    await workspace.join("ann")
    receipt = await workspace.broadcast("ann", "hello?")
    assert (receipt.delivered, receipt.without_mailbox) == ((), ())


# --- the end -----------------------------------------------------------------------------------------


async def test_an_archived_workspace_can_be_read_by_its_members_and_changed_by_nobody(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    await workspace.set_shared_data("plan", 1, setter="ann")
    await workspace.leave("bob")
    with pytest.raises(NotAMemberError):
        await workspace.archive("stranger")

    assert await workspace.archive("bob")  # it has left, and may clean up all the same
    assert not await workspace.archive("ann")

    elsewhere = workspace_of(await harness.open_again())
    assert await elsewhere.participants() == []
    for agent in ("ann", "bob"):
        assert await elsewhere.get_shared_data("plan", getter=agent) == 1
    with pytest.raises(AccessDeniedError):
        await elsewhere.get_shared_data("plan", getter="stranger")
    for call in (
        workspace.join("ann"),
        workspace.join("eve", create=False),
        workspace.set_shared_data("plan", 2, setter="ann"),
        workspace.delete_shared_data("plan", requester="ann"),
        workspace.broadcast("ann", "hello"),
    ):
        with pytest.raises(WorkspaceArchivedError):
            await call


async def test_nobody_is_kept_present_in_an_archived_workspace(
    workspace: CollaborativeWorkspace, harness: SpaceHarness, space: Space
) -> None:
    await workspace.archive("ann")
    await harness.advance(LEASE + 0.1)
    _, left = await space.engine.scan("_tertulia:workspace:report:present:")
    assert left == []


async def test_a_removed_workspace_leaves_nothing_and_can_be_made_anew(
    workspace: CollaborativeWorkspace, space: Space
) -> None:
    before = (await space.engine.scan(""))[1]
    assert before
    await workspace.set_shared_data("plan", 1, setter="ann")
    with pytest.raises(NotAMemberError):
        await workspace.remove("stranger")
    await workspace.remove("ann")
    assert (await space.engine.scan(""))[1] == []
    with pytest.raises(UnknownWorkspaceError):
        await workspace.participants()

    assert await workspace.join("bob")
    assert await workspace.participants() == ["bob"]
    assert await workspace.list_shared_data(getter="bob") == []
    with pytest.raises(NotAMemberError):
        await workspace.get_shared_data("plan", getter="ann")


async def test_a_removal_that_was_left_half_done_is_completed_by_the_next_who_joins(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    await workspace.set_shared_data("plan", 1, setter="ann")
    async with another_process(harness) as other:
        dying = workspace_of(other.space)
        other.crash_after_commits(1)
        with pytest.raises(EngineUnavailableError):
            await dying.remove("ann")
    for call in (workspace.participants(), workspace.get_shared_data("plan", getter="ann")):
        with pytest.raises(UnknownWorkspaceError):
            await call
    await workspace.join("bob")
    assert await workspace.participants() == ["bob"]
    assert await workspace.list_shared_data(getter="bob") == []


@pytest.mark.parametrize("commits", [1, 2])
async def test_a_removal_that_somebody_else_has_completed_does_not_touch_what_was_made_since(
    workspace: CollaborativeWorkspace, harness: SpaceHarness, commits: int
) -> None:
    async def complete_and_begin_anew() -> None:
        await workspace.join("bob")
        await workspace.set_shared_data("plan", "new", setter="bob")

    async with another_process(harness) as other:
        other.before_next_commit(complete_and_begin_anew, after=commits)
        await workspace_of(other.space).remove("ann")
    assert await workspace.participants() == ["bob"]
    assert await workspace.get_shared_data("plan", getter="bob") == "new"


async def test_whoever_made_a_workspace_may_remove_it_even_if_its_process_died_before_it_was_there(
    space: Space, harness: SpaceHarness
) -> None:
    async with another_process(harness) as other:
        other.crash_after_commits(1)
        with pytest.raises(EngineUnavailableError):
            await workspace_of(other.space).join("ann")

    assert await workspace_of(space).participants() == []
    await workspace_of(space).remove("ann")

    assert (await space.engine.scan(""))[1] == []


async def test_what_is_written_while_a_workspace_is_removed_is_not_left_behind(
    workspace: CollaborativeWorkspace, harness: SpaceHarness, space: Space
) -> None:
    elsewhere = workspace_of(await harness.open_again())

    some = asyncio.Event()

    async def write() -> None:
        for number in range(100):
            await workspace.set_shared_data(f"key-{number}", number, setter="ann")
            if number == 5:
                some.set()
            await asyncio.sleep(0)

    async def remove() -> None:
        await some.wait()
        await elsewhere.remove("bob")

    outcomes = await asyncio.gather(write(), remove(), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [UnknownWorkspaceError, type(None)]
    assert (await space.engine.scan("_tertulia:workspace:"))[1] == []
