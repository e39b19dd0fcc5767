"""Voting in a workspace, on every engine: terms that are pinned, votes, outcomes, and closing exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from tertulia import (
    Ballot,
    Ballots,
    BallotState,
    Candidate,
    CollaborativeWorkspace,
    Message,
    MessagePassingAgent,
    Outcome,
    Space,
    VotingRule,
)
from tertulia.errors import (
    AlreadyVotedError,
    BallotClosedError,
    BallotExistsError,
    EngineUnavailableError,
    InvalidInputError,
    InvalidKeyError,
    InvalidNameError,
    InvalidTermError,
    NotAMemberError,
    NotAnElectorError,
    SpaceClosedError,
    TertuliaError,
    TooManyBallotsError,
    UnknownBallotError,
    UnknownChoiceError,
    UnknownWorkspaceError,
    VersionConflictError,
    WorkspaceArchivedError,
)
from tertulia.testing.conformance import SpaceHarness
from tests.patterns.handles import another_process

LEASE = 3.0  # seconds of presence; short, since on some engines time really has to pass
DEADLINE = 2.0  # seconds, for ballots that are to reach it
LIMIT = 5  # seconds of real time for what happens at once unless something is broken
TEAM = ["ann", "bob", "cid", "dan", "eve"]


async def soon(awaitable: Any) -> Any:
    return await asyncio.wait_for(awaitable, LIMIT)


def workspace_of(space: Space) -> CollaborativeWorkspace:
    return CollaborativeWorkspace("report", space, presence_lease=LEASE)


@pytest.fixture
async def workspace(space: Space) -> CollaborativeWorkspace:
    """A workspace with five participants, whose plan is at version 3."""
    workspace = workspace_of(space)
    for agent in TEAM:
        await workspace.join(agent)
    for draft in ("a", "b", "c"):
        await workspace.set_shared_data("plan", draft, setter="ann")
    return workspace


async def votes(workspace: CollaborativeWorkspace, ballot: Ballot, **choices: Any) -> Ballot:
    """Cast votes, by voter; return the ballot after the last."""
    for voter, choice in choices.items():
        ballot = await workspace.vote(voter, ballot.id, choice)
    return ballot


async def received(space: Space, agent: str) -> list[Message]:
    """All that is in a mailbox, acknowledged."""
    found: list[Message] = []
    while (delivery := await space.broker.receive(agent, timeout=0)) is not None:
        await delivery.acknowledge()
        found.append(delivery.message)
    return found


async def plan(workspace: CollaborativeWorkspace) -> tuple[Any, int]:
    entry = await workspace.get_shared_entry("plan", getter="ann")
    assert entry is not None
    return entry.value, entry.version


# --- The faults of the sketch ------------------------------------------------------------------------


async def test_a_change_is_decided_by_votes_and_at_once_when_they_are_enough(
    workspace: CollaborativeWorkspace,
) -> None:
    ballot = await workspace.propose_change("ann", "plan", "d", reason="c is too long")
    assert (ballot.state, ballot.question, ballot.reason) == (BallotState.OPEN, "change plan", "c is too long")
    assert (await votes(workspace, ballot, ann=True, bob="no", cid="yes")).is_open
    assert await plan(workspace) == ("c", 3)

    closed = await workspace.vote("dan", ballot.id, "yes", reason="shorter")  # three of five; nobody waited

    assert closed.result is not None
    assert (closed.result.outcome, closed.result.winner, closed.result.applied) == (Outcome.PASSED, "yes", True)
    assert (closed.result.early, closed.result.tally, closed.result.silent) == (True, {"yes": 3, "no": 1}, ("eve",))
    assert await plan(workspace) == ("d", 4)


async def test_a_change_that_cannot_pass_any_more_fails_at_once(workspace: CollaborativeWorkspace) -> None:
    ballot = await workspace.propose_change("ann", "plan", "d")
    closed = await votes(workspace, ballot, bob="no", cid="no", dan="no")
    assert closed.result is not None
    assert (closed.result.outcome, closed.result.applied) == (Outcome.FAILED, False)
    assert await plan(workspace) == ("c", 3)


async def test_whoever_joins_later_does_not_count(workspace: CollaborativeWorkspace) -> None:
    ballot = await workspace.propose_change("ann", "plan", "d")
    for late in ("fay", "gus", "hal"):
        await workspace.join(late)
    with pytest.raises(NotAnElectorError) as caught:
        await workspace.vote("fay", ballot.id, "no")
    assert (caught.value.agent_id, caught.value.ballot_id) == ("fay", ballot.id)
    closed = await votes(workspace, ballot, ann="yes", bob="yes", cid="yes")
    assert closed.result is not None
    assert (closed.result.outcome, closed.result.denominator) == (Outcome.PASSED, 5)


async def test_a_change_proposed_over_one_version_is_not_applied_over_another(
    workspace: CollaborativeWorkspace,
) -> None:
    ballot = await workspace.propose_change("ann", "plan", "d")
    await votes(workspace, ballot, ann="yes", bob="yes")
    await workspace.set_shared_data("plan", "hotfix", setter="eve")

    closed = await workspace.vote("cid", ballot.id, "yes")

    assert closed.result is not None
    assert (closed.result.outcome, closed.result.applied) == (Outcome.PASSED, False)
    moved = closed.result.superseded
    assert moved is not None
    assert (moved.key, moved.version, moved.actual_version) == ("plan", 3, 4)
    assert await plan(workspace) == ("hotfix", 4)


@pytest.mark.parametrize("then", ["deleted", "made anew", "created"])
async def test_a_key_that_was_deleted_or_made_anew_is_another_version_too(
    workspace: CollaborativeWorkspace, then: str
) -> None:
    key = "fresh" if then == "created" else "plan"
    ballot = await workspace.propose_change("ann", key, "d")
    await workspace.delete_shared_data("plan", requester="ann")
    if then != "deleted":
        for draft in ("x", "y", "z"):  # at version 3 again, but not the one that was voted on
            await workspace.set_shared_data(key, draft, setter="eve")
    closed = await votes(workspace, ballot, ann="yes", bob="yes", cid="yes")
    assert closed.result is not None
    assert closed.result.superseded is not None
    assert (closed.result.applied, closed.result.superseded.version) == (False, None if then == "created" else 3)
    assert await workspace.get_shared_data(key, getter="ann") == (None if then == "deleted" else "z")


async def test_a_member_that_left_counts_no_longer_among_those_present_and_still_among_the_eligible(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    terms: dict[str, Any] = {"deadline": DEADLINE, "denominator": "present"}
    present = await workspace.propose_change("ann", "plan", "present", **terms)
    eligible = await workspace.propose_change("ann", "note", "eligible", deadline=DEADLINE)
    for ballot in (present, eligible):
        await votes(workspace, ballot, ann="yes", bob="yes", cid="no")
    for agent in ("dan", "eve"):
        await workspace.leave(agent)
    assert (await workspace.proposal(present.id)).is_open  # they could still come back and vote
    with pytest.raises(NotAMemberError):
        await workspace.vote("dan", present.id, "no")

    await harness.advance(DEADLINE + 0.1)

    results = [await workspace.result(ballot.id) for ballot in (present, eligible)]
    assert [(one.outcome, one.denominator) for one in results if one] == [(Outcome.PASSED, 3), (Outcome.FAILED, 5)]


async def test_a_member_whose_presence_ran_out_counts_no_longer_among_those_present(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    deadline = LEASE + 1.0
    async with another_process(harness) as other:
        theirs = workspace_of(other.space)
        for agent in ("fay", "gus"):
            await theirs.join(agent)
        terms: dict[str, Any] = {"deadline": deadline, "denominator": "present", "quorum": 3}
        ballot = await workspace.propose_change(
            "ann", "plan", "d", electorate=["ann", "bob", "cid", "fay", "gus"], **terms
        )
        await votes(workspace, ballot, ann="yes", bob="yes", cid="no")
        other.crash()
        await harness.advance(deadline + 0.1)
        result = await workspace.result(ballot.id)
    assert result is not None
    assert (result.outcome, result.denominator, result.silent) == (Outcome.PASSED, 3, ("fay", "gus"))


async def test_whoever_is_there_and_silent_counts_among_those_present(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    ballot = await workspace.propose_change("ann", "plan", "d", deadline=DEADLINE, denominator="present")
    await votes(workspace, ballot, ann="yes", bob="yes")
    await harness.advance(DEADLINE + 0.1)
    result = await workspace.result(ballot.id)
    assert result is not None
    assert (result.outcome, result.denominator) == (Outcome.FAILED, 5)


async def test_a_vote_stays_when_its_voter_leaves(workspace: CollaborativeWorkspace) -> None:
    ballot = await workspace.propose_change("ann", "plan", "d")
    await votes(workspace, ballot, eve="yes")
    await workspace.leave("eve")
    closed = await votes(workspace, ballot, ann="yes", bob="yes")
    assert closed.result is not None
    assert closed.result.tally == {"yes": 3, "no": 0}


# --- Votes -------------------------------------------------------------------------------------------


async def test_a_vote_can_be_changed_until_the_ballot_closes_and_counts_once(
    workspace: CollaborativeWorkspace,
) -> None:
    ballot = await workspace.propose_change("ann", "plan", "d")
    for choice in ("yes", "no", "yes", "no"):
        assert (await workspace.vote("bob", ballot.id, choice, reason=f"{choice}!")).voted == ("bob",)
    closed = await votes(workspace, ballot, ann="yes", cid="yes", dan="yes")
    assert closed.result is not None
    assert closed.result.tally == {"yes": 3, "no": 1}
    assert [(vote.voter, vote.choice, vote.reason) for vote in closed.result.dissent] == [("bob", "no", "no!")]


async def test_where_votes_cannot_be_changed_the_second_is_an_error(workspace: CollaborativeWorkspace) -> None:
    ballot = await workspace.propose_change("ann", "plan", "d", changeable=False)
    await votes(workspace, ballot, bob="yes")
    for choice in ("no", "yes"):
        with pytest.raises(AlreadyVotedError) as caught:
            await workspace.vote("bob", ballot.id, choice)
        assert caught.value.voter == "bob"
    closed = await votes(workspace, ballot, ann="yes", cid="yes")
    assert closed.result is not None
    assert closed.result.tally == {"yes": 3, "no": 0}


async def test_abstaining_takes_part_and_is_not_silence(workspace: CollaborativeWorkspace) -> None:
    terms: dict[str, Any] = {"denominator": "cast", "quorum": 4}
    ballot = await workspace.propose_change("ann", "plan", "d", **terms)
    await votes(workspace, ballot, ann="yes", bob="abstain", cid="abstain")
    closed = await votes(workspace, ballot, dan="abstain")
    assert closed.is_open  # the last could still make it a tie
    closed = await votes(workspace, ballot, eve="abstain")
    assert closed.result is not None
    assert (closed.result.outcome, closed.result.abstained) == (Outcome.PASSED, ("bob", "cid", "dan", "eve"))
    assert closed.result.dissent == ()


async def test_sealed_votes_cannot_be_read_before_the_ballot_closes_and_can_afterwards(
    workspace: CollaborativeWorkspace, space: Space
) -> None:
    ballot = await workspace.propose_change("ann", "plan", "d")
    after = await workspace.vote("bob", ballot.id, "no", reason="secret")
    for seen in (
        after,
        await workspace.proposal(ballot.id),
        *await workspace.proposals(),
        *await workspace.proposals(state="open"),
    ):
        assert (seen.voted, seen.votes, seen.result) == (("bob",), (), None)
    key = f"_tertulia:workspace:report:ballot:open:{ballot.id}"
    for call in (space.memory.read(key, reader="ann"), space.memory.delete(key, requester="ann")):
        with pytest.raises(InvalidKeyError):
            await call
    assert await space.memory.list_keys("*") == []
    closed = await votes(workspace, ballot, ann="no", cid="no")
    assert [(vote.voter, vote.choice, vote.reason) for vote in closed.votes] == [
        ("ann", "no", ""),
        ("bob", "no", "secret"),
        ("cid", "no", ""),
    ]


async def test_votes_of_a_ballot_that_is_not_sealed_can_be_read_at_once(workspace: CollaborativeWorkspace) -> None:
    ballot = await workspace.propose_change("ann", "plan", "d", sealed=False)
    await votes(workspace, ballot, bob="no")
    (seen,) = await workspace.proposals(state=BallotState.OPEN)
    assert [(vote.voter, vote.choice) for vote in seen.votes] == [("bob", "no")]


async def test_a_veto_ends_a_ballot_at_once_and_is_for_those_who_may(workspace: CollaborativeWorkspace) -> None:
    ballot = await workspace.propose_change("ann", "plan", "d", veto=["eve"])
    with pytest.raises(UnknownChoiceError):
        await workspace.vote("bob", ballot.id, "veto")
    assert (await votes(workspace, ballot, ann="yes", bob="yes", cid="yes")).is_open  # eve may still veto it
    closed = await workspace.vote("eve", ballot.id, "veto", reason="it is not safe")
    assert closed.result is not None
    assert (closed.result.outcome, closed.result.why) == (Outcome.VETOED, "vetoed by eve")
    assert await plan(workspace) == ("c", 3)


async def test_weights_count_instead_of_heads(workspace: CollaborativeWorkspace) -> None:
    weights = {"ann": 4, "bob": 0.5}
    ballot = await workspace.propose_change("bob", "plan", "d", rule=VotingRule.WEIGHTED, weights=weights)
    closed = await votes(workspace, ballot, bob="no", cid="no", dan="no")
    assert closed.is_open  # 2.5 of 7.5 against, and ann alone has more than half
    closed = await votes(workspace, ballot, ann="yes")
    assert closed.result is not None
    assert (closed.result.outcome, closed.result.tally) == (Outcome.PASSED, {"yes": 4, "no": 2.5})


# --- Several options ---------------------------------------------------------------------------------


async def test_the_winner_of_several_options_is_written_where_it_belongs(workspace: CollaborativeWorkspace) -> None:
    drafts = [Candidate(name=name, key="plan", value=f"draft {name}") for name in ("x", "y", "z")]
    ballot = await workspace.open_ballot("ann", "which draft?", drafts, rule="plurality", deadline=60)
    assert [(one.key, one.version, one.value) for one in ballot.options[:1]] == [("plan", 3, "draft x")]
    closed = await votes(workspace, ballot, ann="x", bob="y", cid="y", dan="y")
    assert closed.result is not None
    assert (closed.result.winner, closed.result.applied) == ("y", True)
    assert await plan(workspace) == ("draft y", 4)


async def test_a_ranked_ballot_is_an_instant_runoff(workspace: CollaborativeWorkspace) -> None:
    ballot = await workspace.open_ballot("ann", "where?", ("rome", "oslo", "lima"), rule="ranked")
    closed = await votes(
        workspace,
        ballot,
        ann=["rome", "lima"],
        bob=["rome"],
        cid=("oslo", "lima", "rome"),
        dan=["lima", "oslo"],
        eve=["oslo"],
    )
    assert closed.result is not None
    assert (closed.result.winner, len(closed.result.rounds)) == ("oslo", 2)
    assert [vote.voter for vote in closed.result.dissent] == ["ann", "bob", "dan"]


async def test_in_an_approval_ballot_one_may_approve_several(workspace: CollaborativeWorkspace) -> None:
    ballot = await workspace.open_ballot("ann", "which?", ("x", "y", "z"), rule="approval")
    closed = await votes(workspace, ballot, ann=["y", "x"], bob="y", cid={"z", "y"}, dan=["x"], eve="abstain")
    assert closed.result is not None
    assert (closed.result.winner, closed.result.tally) == ("y", {"x": 2, "y": 3, "z": 1})
    assert [(vote.voter, vote.choice) for vote in closed.result.dissent] == [("dan", ("x",))]


async def test_candidates_are_pinned_at_their_versions_and_a_winner_that_moved_on_says_so(
    workspace: CollaborativeWorkspace,
) -> None:
    await workspace.set_shared_data("rival", "r", setter="bob")
    options = [Candidate(name="plan", key="plan", version=3), Candidate(name="rival", key="rival"), "neither"]
    ballot = await workspace.open_ballot("ann", "which?", options)
    assert [(one.name, one.version) for one in ballot.options] == [("plan", 3), ("rival", 1), ("neither", None)]
    await workspace.set_shared_data("rival", "r2", setter="bob")
    closed = await votes(workspace, ballot, ann="rival", bob="rival", cid="rival")
    assert closed.result is not None
    assert closed.result.superseded is not None
    assert (closed.result.winner, closed.result.applied) == ("rival", False)
    assert (closed.result.superseded.version, closed.result.superseded.actual_version) == (1, 2)


# --- Closing -----------------------------------------------------------------------------------------


async def test_a_ballot_that_is_not_decided_closes_at_its_deadline_by_itself(
    harness: SpaceHarness, space: Space
) -> None:
    workspace = CollaborativeWorkspace("report", space, presence_lease=1_000)  # nothing else happens in time
    for agent in ("ann", "bob", "cid"):
        await workspace.join(agent)
    await space.broker.register_agent("bob")
    slow = await workspace.propose_change("ann", "note", "x", deadline=2 * DEADLINE)
    ballot = await workspace.propose_change("ann", "plan", "d", deadline=DEADLINE)
    await harness.advance(DEADLINE + 0.1)
    (message,) = await received(space, "bob")  # nobody has looked at the ballot since
    assert (message.content["ballot"], message.content["outcome"]) == (ballot.id, "expired")
    assert (await workspace.proposal(slow.id)).is_open


async def test_who_has_voted_closes_the_ballot_of_a_dead_proposer_at_its_deadline(
    harness: SpaceHarness, space: Space
) -> None:
    workspace = CollaborativeWorkspace("report", space, presence_lease=1_000)
    await workspace.join("ann")
    await space.broker.register_agent("ann")
    async with another_process(harness) as other:
        theirs = workspace_of(other.space)
        await theirs.join("fay")
        ballot = await theirs.propose_change("fay", "plan", "d", deadline=DEADLINE, denominator="cast")
        await workspace.vote("ann", ballot.id, "yes")
        other.crash()
        await harness.advance(DEADLINE + 0.1)
        (message,) = await received(space, "ann")
    assert message.content["outcome"] == "passed"


async def test_when_the_proposer_is_dead_any_participant_closes_the_ballot_in_time(
    workspace: CollaborativeWorkspace, harness: SpaceHarness, space: Space
) -> None:
    await space.broker.register_agent("bob")
    assert "bob" in await workspace.participants()
    async with another_process(harness) as other:
        theirs = workspace_of(other.space)
        await theirs.join("fay")
        await theirs.propose_change("fay", "plan", "d", deadline=DEADLINE, denominator="cast", quorum=1)
        other.crash()
        await harness.advance(LEASE)  # the others come across it when they renew their presence
        (message,) = await received(space, "bob")
    assert message.content["outcome"] == "expired"


async def test_when_everybody_is_dead_the_next_reader_closes_the_ballot(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    async with another_process(harness) as other:
        theirs = workspace_of(other.space)
        await theirs.join("fay")
        terms: dict[str, Any] = {"deadline": DEADLINE, "denominator": "cast", "electorate": ["fay", "gus"]}
        ballots = [await theirs.propose_change("fay", f"key-{number}", 1, **terms) for number in range(4)]
        for ballot in ballots:
            await theirs.vote("fay", ballot.id, "yes")
        other.crash()
        for agent in TEAM:
            await workspace.leave(agent)
        await harness.advance(DEADLINE + 0.1)
        reader = workspace_of(await harness.open_again())
        result = await reader.result(ballots[0].id)
        assert result is not None
        assert (result.outcome, result.applied) == (Outcome.PASSED, True)
        waited = await soon(reader.wait(ballots[1].id))
        assert (waited.outcome, waited.applied) == (Outcome.PASSED, True)
        with pytest.raises(BallotClosedError) as caught:
            await reader.vote("gus", ballots[2].id, "no")  # too late
        assert caught.value.outcome == "passed"
        assert await reader.proposals(state="open") == []
        assert [one.result is not None for one in await reader.history()] == [True] * 4


async def test_waiting_ends_with_the_result_or_after_its_time(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    ballot = await workspace.propose_change("ann", "plan", "d", deadline=60)
    elsewhere = workspace_of(await harness.open_again())
    waiting = asyncio.create_task(elsewhere.wait(ballot.id))
    impatient = asyncio.create_task(elsewhere.wait(ballot.id, timeout=1.0))
    assert await elsewhere.wait(ballot.id, timeout=0) is None
    await harness.advance(1.1)
    assert await soon(impatient) is None
    assert not waiting.done()
    await votes(workspace, ballot, ann="yes", bob="yes", cid="yes")
    result = await soon(waiting)
    assert (result.outcome, result.ballot_id) == (Outcome.PASSED, ballot.id)
    assert await elsewhere.wait(ballot.id, timeout=0) == result


async def test_waiting_ends_with_the_space(workspace: CollaborativeWorkspace, harness: SpaceHarness) -> None:
    ballot = await workspace.propose_change("ann", "plan", "d", deadline=60)
    space = await harness.open_again()
    waiting = asyncio.create_task(workspace_of(space).wait(ballot.id))
    await harness.advance(0)
    await space.aclose()
    with pytest.raises(SpaceClosedError):
        await soon(waiting)


async def test_waiting_ends_at_the_deadline_with_nobody_else_there(harness: SpaceHarness) -> None:
    async with another_process(harness) as other:
        theirs = workspace_of(other.space)
        await theirs.join("fay")
        ballot = await theirs.propose_change("fay", "plan", "d", deadline=DEADLINE)
        other.crash()
    elsewhere = workspace_of(await harness.open_again())
    waiting = asyncio.create_task(elsewhere.wait(ballot.id))
    await harness.advance(DEADLINE + 0.1)
    assert (await soon(waiting)).outcome is Outcome.EXPIRED


async def test_a_vote_after_the_close_is_an_error_and_changes_nothing(workspace: CollaborativeWorkspace) -> None:
    ballot = await workspace.propose_change("ann", "plan", "d")
    closed = await votes(workspace, ballot, ann="yes", bob="yes", cid="yes")
    for voter in ("ann", "eve"):
        with pytest.raises(BallotClosedError) as caught:
            await workspace.vote(voter, ballot.id, "no")
        assert caught.value.outcome == "passed"
    assert await workspace.proposal(ballot.id) == closed


@pytest.mark.parametrize("decided_by", ["the last vote", "the deadline"])
async def test_of_many_handles_that_race_to_close_a_ballot_one_applies_the_change_once(
    workspace: CollaborativeWorkspace, harness: SpaceHarness, space: Space, decided_by: str
) -> None:
    await space.broker.register_agent("ann")
    stack = AsyncExitStack()
    processes = [await stack.enter_async_context(another_process(harness, seed)) for seed in range(4)]
    handles = [workspace, *[workspace_of(process.space) for process in processes]]
    early = decided_by == "the last vote"
    ballots = [
        await workspace.propose_change(
            "ann",
            f"key-{number}",
            "new",
            deadline=60 if early else DEADLINE,
            denominator="eligible" if early else "cast",
        )
        for number in range(10)
    ]
    for ballot in ballots:
        await votes(workspace, ballot, ann="yes", bob="yes")
        if early:
            casting = [
                handle.vote(voter, ballot.id, "yes")
                for handle, voter in zip(handles[1:], ["cid", "dan", "eve", "cid"], strict=True)
            ]
            outcomes = await asyncio.gather(*casting, return_exceptions=True)
            assert all(isinstance(one, (Ballot, BallotClosedError)) for one in outcomes), outcomes
    if not early:
        await harness.advance(DEADLINE + 0.1)
    for ballot in ballots:
        found = await asyncio.gather(*(handle.result(ballot.id) for handle in handles))
        assert found[0] is not None
        assert all(one == found[0] for one in found)
        assert found[0].applied
    for number in range(10):
        entry = await workspace.get_shared_entry(f"key-{number}", getter="ann")
        assert entry is not None
        assert (entry.value, entry.version) == ("new", 1)
    told = [message.content["ballot"] for message in await received(space, "ann")]
    assert sorted(told) == sorted(ballot.id for ballot in ballots)
    await stack.aclose()


async def test_votes_that_are_cast_at_the_same_moment_all_count(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    ballot = await workspace.propose_change("ann", "plan", "d", quorum=5)
    async with another_process(harness) as other:
        theirs = workspace_of(other.space)
        other.before_next_commit(lambda: votes(workspace, ballot, ann="yes", bob="no", cid="yes"))
        after = await theirs.vote("dan", ballot.id, "yes")
        assert after.voted == ("ann", "bob", "cid", "dan")
        other.before_next_commit(lambda: votes(workspace, ballot, eve="no", bob="yes"))
        with pytest.raises(BallotClosedError):  # bob's second vote came too late for the count, and dan's too
            await theirs.vote("dan", ballot.id, "no")
    result = await workspace.result(ballot.id)
    assert result is not None
    assert result.tally == {"yes": 3, "no": 2}


async def test_a_voter_that_leaves_before_its_vote_is_counted_has_not_voted(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    ballot = await workspace.propose_change("ann", "plan", "d")
    async with another_process(harness) as other:
        other.before_next_commit(lambda: workspace.leave("eve"))
        with pytest.raises(NotAMemberError):
            await workspace_of(other.space).vote("eve", ballot.id, "yes")
        assert (await workspace.proposal(ballot.id)).voted == ()
        await votes(workspace, ballot, ann="yes", bob="yes")
        other.before_next_commit(lambda: workspace.leave("cid"))
        with pytest.raises(NotAMemberError):  # nor does its vote decide
            await workspace_of(other.space).vote("cid", ballot.id, "yes")
    assert (await workspace.proposal(ballot.id)).is_open


async def test_a_decision_that_is_overtaken_by_the_archiving_is_none(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    ballot = await workspace.propose_change("ann", "plan", "d")
    await votes(workspace, ballot, ann="yes", bob="yes")
    async with another_process(harness) as other:
        other.before_next_commit(lambda: workspace.archive("ann"))
        with pytest.raises(BallotClosedError) as caught:
            await workspace_of(other.space).vote("cid", ballot.id, "yes")
    assert caught.value.outcome == "expired"
    assert await plan(workspace) == ("c", 3)


@pytest.mark.parametrize("meanwhile", ["a vote", "an opening"])
async def test_an_archiving_that_is_overtaken_ends_the_ballots_as_they_are_then(
    workspace: CollaborativeWorkspace, harness: SpaceHarness, meanwhile: str
) -> None:
    first = await workspace.propose_change("ann", "plan", "d")

    async def overtake() -> None:
        if meanwhile == "a vote":
            await votes(workspace, first, bob="yes")
        else:
            await workspace.propose_change("ann", "late", 1, proposal_id="second")

    async with another_process(harness) as other:
        other.before_next_commit(overtake)
        assert await workspace_of(other.space).archive("ann")
    ended = {ballot.id: ballot.voted for ballot in await workspace.history()}
    assert ended == ({first.id: ("bob",)} if meanwhile == "a vote" else {first.id: (), "second": ()})


async def test_when_the_archiver_dies_before_it_has_ended_the_ballots_whoever_looks_does(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    first, second, third = [await workspace.propose_change("ann", f"key-{n}", n, deadline=DEADLINE) for n in range(3)]
    await votes(workspace, first, ann="yes", bob="yes")
    waiting = asyncio.create_task(workspace.wait(second.id))
    async with another_process(harness) as other:
        other.crash_after_commits(1)
        with pytest.raises(EngineUnavailableError):
            await workspace_of(other.space).archive("eve")
    with pytest.raises((WorkspaceArchivedError, BallotClosedError)):
        await workspace.vote("cid", first.id, "yes")
    await harness.advance(DEADLINE + 0.1)
    assert (await soon(waiting)).outcome is Outcome.EXPIRED
    for ballot in await workspace.proposals():
        assert ballot.result is not None
        assert (ballot.result.outcome, ballot.result.applied) == (Outcome.EXPIRED, False)
    assert (await workspace.proposal(third.id)).voted == ()
    assert await workspace.get_shared_data("key-0", getter="ann") is None


async def test_of_two_who_archive_at_once_one_did_it(workspace: CollaborativeWorkspace, harness: SpaceHarness) -> None:
    async with another_process(harness) as other:
        other.before_next_commit(lambda: workspace.archive("ann"))
        assert not await workspace_of(other.space).archive("bob")


async def test_a_ballot_pins_what_is_there_when_it_is_opened_and_not_what_was_read_before(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    async with another_process(harness) as other:
        theirs = workspace_of(other.space)
        other.before_next_commit(lambda: workspace.set_shared_data("plan", "hotfix", setter="eve"))
        ballot = await theirs.propose_change("ann", "plan", "d")
        assert ballot.options[0].version == 4
        other.before_next_commit(lambda: workspace.set_shared_data("plan", "hotfix 2", setter="eve"))
        with pytest.raises(VersionConflictError):
            await theirs.propose_change("ann", "plan", "d", expected_version=4)


async def test_a_change_that_is_overtaken_while_it_is_applied_is_not_applied(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    ballot = await workspace.propose_change("ann", "plan", "d")
    await votes(workspace, ballot, ann="yes", bob="yes")
    async with another_process(harness) as other:
        other.before_next_commit(lambda: workspace.set_shared_data("plan", "hotfix", setter="eve"))
        closed = await workspace_of(other.space).vote("cid", ballot.id, "yes")
    assert closed.result is not None
    assert (closed.result.applied, closed.result.superseded is not None) == (False, True)
    assert await plan(workspace) == ("hotfix", 4)


async def test_an_approved_change_keeps_whose_the_value_is(workspace: CollaborativeWorkspace) -> None:
    for key, owner in (("plan", "ann"), ("new", "bob")):
        ballot = await workspace.propose_change("bob", key, "d")
        await votes(workspace, ballot, cid="yes", dan="yes", eve="yes")
        entry = await workspace.get_shared_entry(key, getter="ann")
        assert entry is not None
        assert entry.owner == owner


async def test_a_proposer_that_dies_after_the_commit_has_closed_the_ballot_with_everything(
    workspace: CollaborativeWorkspace, harness: SpaceHarness, space: Space
) -> None:
    await space.broker.register_agent("bob")
    ballot = await workspace.propose_change("ann", "plan", "d")
    await votes(workspace, ballot, ann="yes", bob="yes")
    async with another_process(harness) as other:
        other.crash_after_commits(1)
        with pytest.raises(EngineUnavailableError):
            await workspace_of(other.space).vote("cid", ballot.id, "yes")
    result = await workspace.result(ballot.id)
    assert result is not None
    assert (result.outcome, result.applied) == (Outcome.PASSED, True)
    assert await plan(workspace) == ("d", 4)
    assert len(await received(space, "bob")) == 1


# --- Outcomes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "terms", "outcome"),
    [
        ({}, {}, Outcome.EXPIRED),
        ({}, {"quorum": 2}, Outcome.EXPIRED),
        ({"ann": "yes"}, {"quorum": 2, "denominator": "cast"}, Outcome.NO_QUORUM),
        ({"ann": "yes"}, {"quorum": 0.2, "denominator": "cast"}, Outcome.PASSED),
        ({"ann": "yes"}, {}, Outcome.FAILED),
        ({"ann": "yes", "bob": "no"}, {"denominator": "cast"}, Outcome.TIED),
        ({"ann": "yes", "bob": "no"}, {"denominator": "cast", "tie_break": "status_quo"}, Outcome.FAILED),
        ({"ann": "yes", "bob": "no"}, {"denominator": "cast", "tie_break": "chair", "chair": "ann"}, Outcome.PASSED),
        ({"ann": "abstain"}, {"denominator": "cast"}, Outcome.FAILED),
        ({"ann": "yes", "bob": "yes"}, {"denominator": "cast", "rule": "unanimous"}, Outcome.PASSED),
        ({"ann": "yes", "bob": "yes", "cid": "no"}, {"denominator": "cast", "rule": "supermajority"}, Outcome.PASSED),
    ],
)
async def test_the_outcome_at_the_deadline_says_what_happened(
    workspace: CollaborativeWorkspace,
    harness: SpaceHarness,
    choices: dict[str, str],
    terms: dict[str, Any],
    outcome: Outcome,
) -> None:
    ballot = await workspace.propose_change("ann", "plan", "d", deadline=DEADLINE, **terms)
    assert (await votes(workspace, ballot, **choices)).is_open
    await harness.advance(DEADLINE + 0.1)
    result = await workspace.result(ballot.id)
    assert result is not None
    assert (result.outcome, result.early) == (outcome, False)
    assert result.passed == result.applied == (outcome is Outcome.PASSED)


async def test_terms_are_pinned_when_the_ballot_is_opened(workspace: CollaborativeWorkspace, space: Space) -> None:
    at = datetime.fromtimestamp(space.clock.time(), UTC) + timedelta(hours=1)
    ballot = await workspace.propose_change(
        "ann", "plan", "d", rule="supermajority", threshold=0.75, quorum=0.5, deadline=at, veto=["ann"]
    )
    terms = (await workspace.proposal(ballot.id)).terms
    assert (terms.rule, terms.threshold, terms.quorum) == (VotingRule.SUPERMAJORITY, 0.75, 3)
    assert (terms.electorate, terms.veto, terms.deadline_at) == (tuple(TEAM), ("ann",), at)
    assert (ballot.options[0].version, ballot.options[0].value) == (3, "d")


# --- Announcements -----------------------------------------------------------------------------------


async def test_the_outcome_is_announced_to_every_elector_with_a_mailbox_and_to_the_topic(
    workspace: CollaborativeWorkspace, space: Space
) -> None:
    for agent in ("ann", "bob", "observer", "stranger"):
        await space.broker.register_agent(agent)
    for agent in ("bob", "observer"):
        await space.broker.subscribe(agent, workspace.topic)
    ballot = await workspace.propose_change("ann", "plan", "d")
    closed = await votes(workspace, ballot, ann="yes", bob="yes", cid="yes")
    assert closed.result is not None
    for agent in ("ann", "bob", "observer"):
        (message,) = await received(space, agent)  # bob is told once, though there are two ways to it
        assert message.content == {
            "type": "ballot_closed",
            "workspace": "report",
            "ballot": ballot.id,
            "question": "change plan",
            "outcome": "passed",
            "winner": "yes",
            "applied": True,
            "tally": {"yes": 3, "no": 0},
            "why": closed.result.why,
        }
    assert await received(space, "stranger") == []


async def test_a_full_mailbox_holds_up_no_decision_and_the_result_says_who_was_not_told(
    workspace: CollaborativeWorkspace, space: Space, caplog: pytest.LogCaptureFixture
) -> None:
    for agent in ("ann", "bob", "watcher"):
        await space.broker.register_agent(agent, max_queue_size=1)
    for agent in ("bob", "watcher"):
        await space.broker.subscribe(agent, workspace.topic)
        await space.broker.send(Message(receiver=agent))
    ballot = await workspace.propose_change("ann", "plan", "d")
    closed = await votes(workspace, ballot, ann="yes", bob="yes", cid="yes")
    assert closed.result is not None
    assert (closed.result.applied, set(closed.result.unannounced)) == (True, {"bob", workspace.topic})
    assert "without telling bob" in caplog.text
    assert [len(await received(space, agent)) for agent in ("ann", "bob", "watcher")] == [1, 1, 1]


async def test_a_ballot_may_be_closed_without_announcing_it(workspace: CollaborativeWorkspace, space: Space) -> None:
    await space.broker.register_agent("ann")
    ballot = await workspace.propose_change("ann", "plan", "d", announce=False)
    await votes(workspace, ballot, ann="yes", bob="yes", cid="yes")
    assert await received(space, "ann") == []


# --- Voting by message -------------------------------------------------------------------------------


@pytest.fixture
async def agents(space: Space) -> AsyncIterator[dict[str, MessagePassingAgent]]:
    """An agent for each participant but ann, that answers vote requests once it is given an answer."""
    async with asyncio.TaskGroup() as group:
        agents = {name: MessagePassingAgent(name, space.broker) for name in TEAM[1:]}
        for agent in agents.values():
            agent.on_message("ballot_closed")(lambda _: None)
            group.create_task(agent.start())
    yield agents
    for agent in agents.values():
        await agent.stop(grace=0)


async def test_agents_vote_by_answering_a_request(
    workspace: CollaborativeWorkspace, agents: dict[str, MessagePassingAgent]
) -> None:
    asked: list[dict[str, Any]] = []

    @agents["bob"].on_message("vote_request")
    async def bob(message: Message) -> str:
        asked.append(message.content)
        return "no"

    agents["cid"].on_message("vote_request")(lambda _: {"choice": "yes", "reason": "shorter"})
    agents["dan"].on_message("vote_request")(lambda _: True)
    ballot = await workspace.propose_change("ann", "plan", "d", reason="c is too long")
    await workspace.vote("ann", ballot.id, "yes")

    answers = await soon(workspace.request_votes("ann", ballot.id, voters=["bob", "cid", "dan"]))

    assert answers.ballot.result is not None
    assert (answers.ballot.result.outcome, answers.ballot.result.applied) == (Outcome.PASSED, True)
    assert sorted(answers.voted) == ["bob", "cid", "dan"]
    assert {vote.voter: vote.reason for vote in answers.ballot.votes}["cid"] == "shorter"
    (request,) = asked
    assert request["workspace"] == "report"
    assert (request["question"], request["reason"], request["proposer"]) == ("change plan", "c is too long", "ann")
    assert request["choices"] == ["yes", "no", "abstain"]
    assert request["candidates"] == [{"name": "yes", "key": "plan", "version": 3, "value": "d"}]


async def test_whoever_does_not_answer_with_a_vote_is_named_and_can_be_asked_again(
    workspace: CollaborativeWorkspace, agents: dict[str, MessagePassingAgent], harness: SpaceHarness
) -> None:
    answers: dict[str, object] = {"bob": "maybe", "cid": None}

    @agents["eve"].on_message("vote_request")
    async def never(_: Message) -> None:
        await asyncio.Event().wait()

    for name in ("bob", "cid"):
        agents[name].on_message("vote_request")(lambda message: answers[message.receiver])
    ballot = await workspace.propose_change("ann", "plan", "d")
    asking = asyncio.create_task(workspace.request_votes("ann", ballot.id, timeout=1.0))
    await harness.advance(1.1)

    first = await soon(asking)
    assert (first.voted, first.ballot.is_open) == ((), True)
    assert {voter: why.split(":")[0] for voter, why in first.failed.items()} == {
        "bob": "UnknownChoiceError",
        "cid": "UnknownChoiceError",
        "dan": "RemoteError",  # it has no handler
        "eve": "RequestTimeoutError",
    }

    answers.update(bob="yes", cid="yes")
    await workspace.vote("ann", ballot.id, "yes")
    second = await soon(workspace.request_votes("ann", ballot.id, voters=["bob", "cid"]))
    assert second.failed == {}
    assert second.ballot.result is not None


async def test_asking_ends_when_the_ballot_closes_and_waits_for_nobody_then(
    workspace: CollaborativeWorkspace, agents: dict[str, MessagePassingAgent]
) -> None:
    @agents["eve"].on_message("vote_request")
    async def never(_: Message) -> None:
        await asyncio.Event().wait()

    for name in ("bob", "cid", "dan"):
        agents[name].on_message("vote_request")(lambda _: "no")
    ballot = await workspace.propose_change("ann", "plan", "d")
    answers = await soon(workspace.request_votes("ann", ballot.id))
    assert answers.ballot.result is not None
    assert answers.failed == {"eve": "the ballot was closed before it answered"}
    with pytest.raises(BallotClosedError):
        await workspace.request_votes("ann", ballot.id)


async def test_an_agent_may_vote_directly_from_its_handler(
    workspace: CollaborativeWorkspace, agents: dict[str, MessagePassingAgent]
) -> None:
    ballot = await workspace.propose_change("ann", "plan", "d")
    for name in ("bob", "cid", "dan"):

        @agents[name].on_message("please vote")
        async def handle(message: Message) -> None:
            await workspace.vote(message.receiver, message.content["ballot"], "yes")

    await workspace.broadcast("ann", {"type": "please vote", "ballot": ballot.id})
    result = await soon(workspace.wait(ballot.id))
    assert result.outcome is Outcome.PASSED


async def test_a_large_value_does_not_travel_with_every_request(
    workspace: CollaborativeWorkspace, agents: dict[str, MessagePassingAgent]
) -> None:
    seen: list[Any] = []

    @agents["bob"].on_message("vote_request")
    async def bob(message: Message) -> str:
        seen.extend(message.content["candidates"])
        seen.append((await workspace.proposal(message.content["ballot"])).options[0].value)
        return "yes"

    ballot = await workspace.propose_change("ann", "plan", "x" * 100_000)
    answers = await soon(workspace.request_votes("ann", ballot.id, voters=["bob"]))
    assert answers.voted == ("bob",)
    assert seen == [{"name": "yes", "key": "plan", "version": 3}, "x" * 100_000]


# --- Looking back ------------------------------------------------------------------------------------


async def test_history_keeps_votes_reasons_and_dissent_in_the_order_of_closing(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    first, second, third = [await workspace.propose_change("ann", f"key-{n}", n) for n in range(3)]
    for ballot in (second, first):
        await workspace.vote("eve", ballot.id, "no", reason="too early")
        await votes(workspace, ballot, ann="yes", bob="yes", cid="yes")
    elsewhere = workspace_of(await harness.open_again())
    history = await elsewhere.history()
    assert [ballot.id for ballot in history] == [second.id, first.id]
    assert [ballot.id for ballot in await elsewhere.history(limit=1)] == [first.id]
    for ballot in history:
        assert ballot.result is not None
        assert [(vote.voter, vote.reason) for vote in ballot.result.dissent] == [("eve", "too early")]
        assert len(ballot.votes) == 4
    assert [ballot.id for ballot in await elsewhere.proposals()] == [first.id, second.id, third.id]
    assert [ballot.id for ballot in await elsewhere.proposals(state="open")] == [third.id]
    assert [ballot.id for ballot in await elsewhere.proposals(state="closed")] == [first.id, second.id]


async def test_archiving_ends_open_ballots_and_applies_nothing(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    ballot = await workspace.propose_change("ann", "plan", "d", denominator="cast")
    await votes(workspace, ballot, ann="yes", bob="yes")
    elsewhere = workspace_of(await harness.open_again())
    waiting = asyncio.create_task(elsewhere.wait(ballot.id))
    await harness.advance(0)
    await workspace.archive("eve")
    result = await soon(waiting)
    assert (result.outcome, result.applied, result.why) == (Outcome.EXPIRED, False, "the workspace was archived")
    assert [vote.voter for vote in result.votes] == ["ann", "bob"]
    with pytest.raises(BallotClosedError):
        await workspace.vote("cid", ballot.id, "yes")
    for call in (workspace.propose_change("ann", "plan", "e", electorate=TEAM), workspace.open_ballot("ann", "more?")):
        with pytest.raises(WorkspaceArchivedError):
            await call
    assert await plan(workspace) == ("c", 3)
    assert len(await elsewhere.history()) == 1


async def test_a_ballot_opened_while_the_workspace_is_archived_is_refused_or_ended(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    elsewhere = workspace_of(await harness.open_again())

    some = asyncio.Event()

    async def open_many() -> int:
        for opened in range(100):
            try:
                await workspace.propose_change("ann", f"key-{opened}", 1)
            except WorkspaceArchivedError:
                return opened
            if opened == 5:
                some.set()
            await asyncio.sleep(0)
        return 100

    async def archive() -> None:
        await some.wait()
        await elsewhere.archive("bob")

    opened, _ = await asyncio.gather(open_many(), archive())
    assert opened  # where commits travel, a proposer in a hurry may leave the archiver waiting to the end
    closed = await elsewhere.history(limit=1000)
    assert [ballot.result.outcome for ballot in closed if ballot.result] == [Outcome.EXPIRED] * opened
    assert await elsewhere.proposals(state="open") == []


async def test_a_removed_workspace_has_no_ballots_and_ends_the_waiting(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    ballot = await workspace.propose_change("ann", "plan", "d")
    elsewhere = workspace_of(await harness.open_again())
    waiting = asyncio.create_task(elsewhere.wait(ballot.id))
    await harness.advance(0)
    await workspace.remove("ann")
    with pytest.raises((UnknownBallotError, UnknownWorkspaceError)):
        await soon(waiting)
    await workspace.join("ann")
    assert await workspace.proposals() == []
    with pytest.raises(UnknownBallotError):
        await workspace.vote("ann", ballot.id, "yes")


# --- Bad input ---------------------------------------------------------------------------------------

BAD_TERMS: list[tuple[str, dict[str, Any]]] = [
    ("electorate", {"electorate": []}),
    ("electorate", {"electorate": "ann"}),
    ("electorate", {"electorate": ["ann", "ann"]}),
    ("electorate", {"electorate": [f"agent-{number}" for number in range(251)]}),
    ("quorum", {"quorum": 6}),
    ("quorum", {"quorum": -1}),
    ("quorum", {"quorum": 1.0}),
    ("quorum", {"quorum": True}),
    ("quorum", {"quorum": "half"}),
    ("weights", {"weights": {"ann": -1}}),
    ("weights", {"weights": {"ann": 0}}),
    ("weights", {"weights": {"ann": float("nan")}}),
    ("weights", {"weights": {"ann": float("inf")}}),
    ("weights", {"weights": {"ann": "1"}}),
    ("weights", {"weights": {"stranger": 1}}),
    ("weights", {"weights": ["ann"]}),
    ("weights", {"rule": "weighted"}),
    ("rule", {"rule": "dictatorship"}),
    ("rule", {"rule": "ranked"}),
    ("rule", {"rule": 7}),
    ("denominator", {"denominator": "alive"}),
    ("denominator", {"rule": "plurality", "denominator": "cast"}),
    ("threshold", {"threshold": 0.6}),
    ("threshold", {"rule": "supermajority", "threshold": 0.5}),
    ("threshold", {"rule": "supermajority", "threshold": 1.1}),
    ("deadline", {"deadline": 0}),
    ("deadline", {"deadline": -5}),
    ("deadline", {"deadline": float("nan")}),
    ("deadline", {"deadline": None}),
    ("deadline", {"deadline": datetime(2020, 1, 1, tzinfo=UTC)}),
    ("deadline", {"deadline": datetime(2999, 1, 1, tzinfo=UTC)}),
    ("deadline", {"deadline": datetime(2030, 1, 1)}),  # noqa: DTZ001 - it lacks a time zone on purpose
    ("veto", {"veto": ["stranger"]}),
    ("veto", {"veto": "ann"}),
    ("tie_break", {"tie_break": "coin"}),
    ("chair", {"tie_break": "chair"}),
    ("chair", {"chair": "ann"}),
    ("chair", {"tie_break": "chair", "chair": "stranger"}),
    ("sealed", {"sealed": "yes"}),
    ("changeable", {"changeable": 1}),
    ("announce", {"announce": None}),
]


@pytest.mark.parametrize(("term", "terms"), BAD_TERMS, ids=[f"{term} {terms}"[:60] for term, terms in BAD_TERMS])
async def test_a_term_that_cannot_be_is_named_and_nothing_is_opened(
    workspace: CollaborativeWorkspace, term: str, terms: dict[str, Any]
) -> None:
    with pytest.raises(InvalidTermError) as caught:
        await workspace.propose_change("ann", "plan", "d", **terms)
    assert caught.value.term == term
    assert await workspace.proposals() == []


@pytest.mark.parametrize(
    "options",
    [
        "ab",
        [],
        ["only"],
        ["twice", "twice"],
        ["", "b"],
        ["a", 7],
        ["a", "abstain"],
        ["a", "veto"],
        [f"option-{number}" for number in range(51)],
        [Candidate(name="a", value=1), "b"],
        [Candidate(name="a", version=1), "b"],
        7,
    ],
)
async def test_options_are_several_different_names(workspace: CollaborativeWorkspace, options: Any) -> None:
    with pytest.raises(InvalidTermError) as caught:
        await workspace.open_ballot("ann", "which?", options)
    assert caught.value.term == "options"
    assert await workspace.proposals() == []


async def test_a_ranked_ballot_has_at_most_eight_options(workspace: CollaborativeWorkspace) -> None:
    options = [f"option-{number}" for number in range(9)]
    with pytest.raises(InvalidTermError):
        await workspace.open_ballot("ann", "which?", options, rule="ranked")
    assert (await workspace.open_ballot("ann", "which?", options[:8], rule="ranked")).is_open


@pytest.mark.parametrize("choice", ["maybe", "", None, 7, ["yes"], "veto", "YES", 1])
async def test_a_choice_that_is_not_on_the_ballot_is_an_error(workspace: CollaborativeWorkspace, choice: Any) -> None:
    ballot = await workspace.propose_change("ann", "plan", "d")
    with pytest.raises(UnknownChoiceError) as caught:
        await workspace.vote("ann", ballot.id, choice)
    assert caught.value.ballot_id == ballot.id
    assert (await workspace.proposal(ballot.id)).voted == ()


@pytest.mark.parametrize(
    ("rule", "choice"),
    [
        ("ranked", ["x", "x"]),
        ("ranked", []),
        ("ranked", {"x", "y"}),  # has no order
        ("ranked", ["x", "w"]),
        ("ranked", 5),
        ("approval", []),
        ("approval", ["x", None]),
        ("approval", True),
        ("plurality", ["x"]),
        ("plurality", True),
    ],
)
async def test_a_choice_has_the_form_that_its_rule_asks_for(
    workspace: CollaborativeWorkspace, rule: str, choice: Any
) -> None:
    ballot = await workspace.open_ballot("ann", "which?", ("x", "y", "z"), rule=rule)
    with pytest.raises(UnknownChoiceError):
        await workspace.vote("ann", ballot.id, choice)
    assert (await workspace.proposal(ballot.id)).voted == ()


async def test_only_participants_propose_and_vote(workspace: CollaborativeWorkspace) -> None:
    await workspace.leave("eve")
    for agent in ("eve", "stranger"):
        with pytest.raises(NotAMemberError):
            await workspace.propose_change(agent, "plan", "d")
    ballot = await workspace.propose_change("ann", "plan", "d", electorate=[*TEAM, "invited"])
    with pytest.raises(NotAnElectorError):
        await workspace.vote("stranger", ballot.id, "yes")
    for agent in ("eve", "invited"):
        with pytest.raises(NotAMemberError):
            await workspace.vote(agent, ballot.id, "yes")
    await workspace.join("invited")
    assert (await votes(workspace, ballot, invited="yes")).voted == ("invited",)


async def test_an_unknown_ballot_is_an_error_everywhere(workspace: CollaborativeWorkspace) -> None:
    for call in (
        workspace.vote("ann", "none", "yes"),
        workspace.proposal("none"),
        workspace.result("none"),
        workspace.wait("none"),
        workspace.request_votes("ann", "none"),
    ):
        with pytest.raises(UnknownBallotError) as caught:
            await call
        assert caught.value.ballot_id == "none"


async def test_in_a_workspace_that_nobody_has_made_there_is_nothing_to_decide(space: Space) -> None:
    workspace = workspace_of(space)
    for call in (
        workspace.propose_change("ann", "plan", "d"),
        workspace.propose_change("ann", "plan", "d", electorate=["ann"]),
        workspace.open_ballot("ann", "well?"),
        workspace.proposals(),
        workspace.history(),
        workspace.result("none"),
        workspace.wait("none"),
        workspace.request_votes("ann", "none"),
    ):
        with pytest.raises(UnknownWorkspaceError):
            await call


async def test_of_two_who_open_a_ballot_of_one_id_at_once_one_does(
    workspace: CollaborativeWorkspace, harness: SpaceHarness
) -> None:
    async with another_process(harness) as other:
        other.before_next_commit(lambda: workspace.open_ballot("ann", "first?", proposal_id="one"))
        with pytest.raises(BallotExistsError):
            await workspace_of(other.space).open_ballot("bob", "second?", proposal_id="one")
    assert [ballot.question for ballot in await workspace.proposals()] == ["first?"]


async def test_a_repeated_opening_is_recognised_by_its_id(workspace: CollaborativeWorkspace) -> None:
    ballot = await workspace.propose_change("ann", "plan", "d", proposal_id="ship-it")
    assert ballot.id == "ship-it"
    with pytest.raises(BallotExistsError):
        await workspace.propose_change("ann", "plan", "d", proposal_id="ship-it")
    await votes(workspace, ballot, ann="no", bob="no", cid="no")
    with pytest.raises(BallotExistsError):
        await workspace.propose_change("ann", "plan", "d", proposal_id="ship-it")
    for bad in ("a:b", "x" * 101, ""):
        with pytest.raises(InvalidNameError):
            await workspace.propose_change("ann", "plan", "d", proposal_id=bad)


async def test_a_change_can_be_proposed_over_the_version_that_the_proposer_has_read(
    workspace: CollaborativeWorkspace,
) -> None:
    for version in (2, 4, 0):
        with pytest.raises(VersionConflictError) as caught:
            await workspace.propose_change("ann", "plan", "d", expected_version=version)
        assert (caught.value.key, caught.value.actual_version) == ("plan", 3)
    assert await workspace.proposals() == []
    assert (await workspace.propose_change("ann", "plan", "d", expected_version=3)).options[0].version == 3
    assert (await workspace.propose_change("ann", "new", "d", expected_version=0)).options[0].version is None


@pytest.mark.parametrize("text", ["x" * 2_001, "\0", 7, "é" * 1_500])
async def test_reasons_are_texts_that_somebody_reads(workspace: CollaborativeWorkspace, text: Any) -> None:
    with pytest.raises(InvalidInputError):
        await workspace.propose_change("ann", "plan", "d", reason=text)
    with pytest.raises(InvalidInputError):
        await workspace.open_ballot("ann", text)
    ballot = await workspace.propose_change("ann", "plan", "d", reason="two\r\nlines")
    assert ballot.reason == "two\r\nlines"
    with pytest.raises(InvalidInputError):
        await workspace.vote("ann", ballot.id, "yes", reason=text)
    assert (await workspace.proposal(ballot.id)).voted == ()


async def test_a_question_needs_a_text_and_a_change_a_key(workspace: CollaborativeWorkspace) -> None:
    with pytest.raises(InvalidInputError):
        await workspace.open_ballot("ann", "")
    for key in ("", "x" * 500, None):
        with pytest.raises(InvalidKeyError):
            await workspace.propose_change("ann", key, "d")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidInputError):
        await workspace.propose_change("ann", "plan", object())
    assert await workspace.proposals() == []


async def test_as_many_ballots_can_be_open_as_people_can_follow(workspace: CollaborativeWorkspace) -> None:
    ballots = [await workspace.open_ballot("ann", f"question {number}?") for number in range(200)]
    with pytest.raises(TooManyBallotsError) as caught:
        await workspace.open_ballot("ann", "one more?")
    assert caught.value.limit == 200
    with pytest.raises(BallotExistsError):  # one that is there is told as such, full or not
        await workspace.open_ballot("ann", "again?", proposal_id=ballots[7].id)
    await votes(workspace, ballots[0], ann="no", bob="no", cid="no")
    assert (await workspace.open_ballot("ann", "one more?")).is_open


async def test_a_ballot_that_is_opened_can_take_all_votes_with_the_longest_reasons(space: Space) -> None:
    limit = 150_000
    space.engine.capabilities = replace(space.engine.capabilities, max_value_bytes=limit)
    options = ["o" * 128, "p" * 128, "q" * 128]
    ballots = Ballots(space, "_tertulia:test:")

    async def largest(voters: int) -> Ballot:
        names = [f"{number:0128}" for number in range(voters)]
        terms: dict[str, Any] = {"electorate": names, "quorum": voters, "rule": "ranked"}
        return await ballots.open("ann", "?" * 2_000, options, reason="r" * 2_000, **terms)

    with pytest.raises(InvalidTermError) as caught:
        await largest(60)
    assert caught.value.term == "electorate"
    ballot = await largest(40)
    for name in ballot.terms.electorate[:-1]:
        ballot = await ballots.vote(name, ballot.id, options, reason="x" * 2_000)
    sizes = [len(record.body) for record in (await space.engine.scan("_tertulia:test:"))[1]]
    ballot = await ballots.vote(ballot.terms.electorate[-1], ballot.id, options, reason="x" * 2_000)
    sizes += [len(record.body) for record in (await space.engine.scan("_tertulia:test:"))[1]]
    assert ballot.result is not None
    assert len(ballot.result.votes) == 40
    assert limit / 2 < max(sizes) <= limit


# --- Ballots without a workspace ---------------------------------------------------------------------


async def test_ballots_need_no_workspace(space: Space, harness: SpaceHarness) -> None:
    await space.memory.write("hypothesis:1", "rain", owner="ann")
    ballots = Ballots(space, "_tertulia:board:sky:")
    options = [Candidate(name="rain", key="hypothesis:1"), "sun"]
    ballot = await ballots.open("ann", "what comes?", options, electorate=["ann", "bob"])
    elsewhere = Ballots(await harness.open_again(), "_tertulia:board:sky:")
    await elsewhere.vote("bob", ballot.id, "rain", reason="clouds")
    closed = await ballots.vote("ann", ballot.id, "rain")
    assert closed.result is not None
    assert (closed.result.winner, closed.result.superseded) == ("rain", None)
    with pytest.raises(InvalidTermError):
        await ballots.open("ann", "who is there?", electorate=["ann"], denominator="present")
    with pytest.raises(InvalidTermError):
        await ballots.open("ann", "who votes?")
    for key in ("region:a:b", "_tertulia:workspace:x:state"):
        with pytest.raises(TertuliaError):
            await ballots.open("ann", "sneak in?", [Candidate(name="a", key=key, value=1), "b"], electorate=["ann"])
