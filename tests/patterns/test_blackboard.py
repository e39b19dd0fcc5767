"""A blackboard takes every contribution, in one order, and ranks and votes on what could be the solution."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tertulia
from tertulia import Space, connect
from tertulia._rules.ranking import combine, score
from tertulia.ballots import Outcome
from tertulia.errors import (
    BallotClosedError,
    BlackboardError,
    InvalidHypothesisError,
    InvalidInputError,
    InvalidNameError,
    NotAnElectorError,
    RetractedError,
    SupersededError,
    TertuliaError,
    UnknownChoiceError,
    UnknownHypothesisError,
)
from tertulia.hypotheses import BoardAction, HypothesisState
from tertulia.patterns.blackboard.board import Blackboard
from tertulia.testing.clock import ManualClock
from tertulia.testing.conformance import SpaceHarness
from tests.engines import SEPARATE_PROCESSES

PACKAGE = Path(tertulia.__file__).parents[1]
WRITERS, POSTS = 8, 500
RETRY = 3.0  # seconds, by which a message that failed once comes again
SECTIONS = ("symptoms", "causes", "diagnosis")


@pytest.fixture
def board(space: Space) -> Blackboard:
    return Blackboard(space, "case-7", sections=SECTIONS)


async def test_hypotheses_stand_beside_each_other_in_the_order_of_their_posting(board: Blackboard):
    first = await board.post_hypothesis("ana", "causes", "virus", confidence=0.4)
    second = await board.post_hypothesis("ben", "causes", {"what": "bacteria"}, confidence=0.6, reason="fever")
    found = await board.read_section("causes")
    assert [one.id for one in found] == [first.id, second.id]
    assert found[1] == second
    assert (second.content, second.author, second.confidence, second.version) == ({"what": "bacteria"}, "ben", 0.6, 1)
    assert first.order < second.order
    assert await board.read_section("symptoms") == []


async def test_a_refinement_keeps_the_chain_and_the_alternatives(board: Blackboard):
    old = await board.post_hypothesis("ana", "causes", "virus", confidence=0.4)
    better = await board.refine_hypothesis("ben", old.id, "influenza", confidence=0.7)
    other = await board.refine_hypothesis("eva", old.id, confidence=0.1)
    old = await board.get(old.id)
    assert (old.state, old.refined_by, old.content) == (HypothesisState.REFINED, (better.id, other.id), "virus")
    assert (better.refines, better.author, better.section) == (old.id, "ben", "causes")
    assert (other.content, other.confidence) == ("virus", 0.1)


async def test_what_was_retracted_counts_no_more_but_can_be_seen(board: Blackboard):
    one = await board.post_hypothesis("ana", "causes", "virus")
    gone = await board.retract("ana", one.id, reason="the test was negative")
    assert (gone.state, gone.reason) == (HypothesisState.RETRACTED, "the test was negative")
    assert await board.read_section("causes") == []
    assert [seen.id for seen in await board.read_section("causes", all_states=True)] == [one.id]
    for build_on_it in (
        board.refine_hypothesis("ben", one.id, "influenza"),
        board.retract("ben", one.id),
        board.vote_on_solution("ana", one.id),
    ):
        with pytest.raises(RetractedError):
            await build_on_it


async def test_candidates_are_ranked_by_what_speaks_for_and_against_them_with_the_reasons(board: Blackboard):
    flu = await board.post_hypothesis("ana", "diagnosis", "flu", confidence=0.5)
    cold = await board.post_hypothesis("ana", "diagnosis", "cold", confidence=0.5)
    await board.post_hypothesis("ben", "symptoms", "high fever", confidence=0.9, supports=[flu.id])
    doubt = await board.post_hypothesis("eva", "symptoms", "sneezing", confidence=0.8)
    await board.link("eva", doubt.id, supports=[cold.id], contradicts=[flu.id])
    lines = {one.hypothesis.content: one for one in await board.get_solution_candidates()}
    assert list(lines) == ["cold", "flu"]
    assert lines["cold"].score == pytest.approx(score(0.5, [0.8], []))
    assert lines["flu"].score == pytest.approx(score(0.5, [0.9], [0.8]))
    assert lines["flu"].reasons == (
        "ana holds it with confidence 0.5",
        "ben supports it with confidence 0.9",
        "eva contradicts it with confidence 0.8",
    )
    await board.retract("eva", doubt.id)
    assert [one.hypothesis.content for one in await board.get_solution_candidates()] == ["flu", "cold"]
    assert [one.hypothesis.content for one in await board.get_solution_candidates(limit=1)] == ["flu"]


async def test_a_refined_candidate_gives_way_to_what_refines_it(board: Blackboard):
    old = await board.post_hypothesis("ana", "diagnosis", "flu", confidence=0.9)
    await board.refine_hypothesis("ana", old.id, "influenza A", confidence=0.3)
    assert [one.hypothesis.content for one in await board.get_solution_candidates()] == ["influenza A"]


# --- voting --------------------------------------------------------------------------------------


async def test_a_vote_that_passes_makes_the_solution_and_keeps_the_dissent(board: Blackboard):
    one = await board.post_hypothesis("ana", "diagnosis", "flu")
    await board.post_hypothesis("ben", "symptoms", "fever", supports=[one.id])
    await board.post_hypothesis("eva", "symptoms", "cough")
    await board.vote_on_solution("ana", one.id)
    await board.vote_on_solution("eva", one.id, "no", reason="no fever here")
    ballot = await board.vote_on_solution("ben", one.id)
    assert ballot.result is not None
    assert ballot.result.outcome is Outcome.PASSED
    solution = await board.solution()
    assert solution is not None
    assert (solution.id, solution.state) == (one.id, HypothesisState.ACCEPTED)
    (kept,) = await board.ballots()
    assert kept.result is not None
    assert {vote.voter: (vote.choice, vote.reason) for vote in kept.result.votes}["eva"] == ("no", "no fever here")
    assert (await board.history())[-1].kind is BoardAction.ACCEPTED


async def test_a_vote_is_on_a_version_and_a_superseded_one_is_refused(board: Blackboard):
    one = await board.post_hypothesis("ana", "diagnosis", "flu")
    other = await board.post_hypothesis("ben", "diagnosis", "cold")
    await board.vote_on_solution("ana", one.id, version=1)
    changed = await board.link("ana", one.id, contradicts=[other.id])
    with pytest.raises(SupersededError) as caught:
        await board.vote_on_solution("ben", one.id, version=1)
    assert (caught.value.expected, caught.value.actual) == (1, changed.version)
    assert await board.solution() is None
    await board.vote_on_solution("ana", one.id)
    await board.vote_on_solution("ben", one.id)
    assert (await board.solution()) is not None


async def test_who_has_contributed_nothing_has_no_vote_once_it_is_open(board: Blackboard):
    one = await board.post_hypothesis("ana", "diagnosis", "flu")
    await board.post_hypothesis("ben", "diagnosis", "cold")
    await board.vote_on_solution("ana", one.id)
    with pytest.raises(NotAnElectorError):
        await board.vote_on_solution("stranger", one.id)


async def test_a_solution_that_was_voted_down_is_written_down_as_rejected(board: Blackboard):
    one = await board.post_hypothesis("ana", "diagnosis", "flu")
    await board.vote_on_solution("ana", one.id, "no")
    assert await board.solution() is None
    assert (await board.history())[-1].kind is BoardAction.REJECTED


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [-0.01, 1.01, math.nan, math.inf, "high", None, True])
async def test_a_confidence_outside_0_to_1_is_refused(board: Blackboard, confidence: Any):
    with pytest.raises(InvalidHypothesisError, match="confidence"):
        await board.post_hypothesis("ana", "causes", "virus", confidence=confidence)
    assert await board.history() == []


async def test_bad_contributions_are_refused_and_change_nothing(board: Blackboard):
    one = await board.post_hypothesis("ana", "causes", "virus")
    before = await board.export()
    bad: list[tuple[type[TertuliaError], Any]] = [
        (InvalidHypothesisError, board.post_hypothesis("ana", "weather", "rain")),
        (InvalidHypothesisError, board.read_section("weather")),
        (InvalidNameError, board.post_hypothesis("", "causes", "virus")),
        (UnknownHypothesisError, board.post_hypothesis("ana", "causes", "x", supports=["nothing"])),
        (InvalidHypothesisError, board.post_hypothesis("ana", "causes", "x", supports=one.id)),
        (InvalidHypothesisError, board.post_hypothesis("ana", "causes", "x", contradicts=cast("Any", [7]))),
        (UnknownHypothesisError, board.refine_hypothesis("ana", "nothing", "x")),
        (InvalidHypothesisError, board.refine_hypothesis("ana", one.id)),
        (UnknownHypothesisError, board.retract("ana", "nothing")),
        (InvalidHypothesisError, board.link("ana", one.id, supports=[one.id])),
        (InvalidHypothesisError, board.link("ana", one.id)),
        (UnknownHypothesisError, board.link("ana", one.id, contradicts=["nothing"])),
        (UnknownHypothesisError, board.vote_on_solution("ana", "nothing")),
        (UnknownHypothesisError, board.get("nothing")),
        (SupersededError, board.vote_on_solution("ana", one.id, version=9)),
    ]
    for error, call in bad:
        with pytest.raises(error):
            await call
    assert await board.export() == before
    assert issubclass(RetractedError, BlackboardError)


# --- many writers, one order ---------------------------------------------------------------------


async def test_eight_writers_lose_nothing_and_agree_on_one_order(harness: SpaceHarness):

    handles = [await harness.open_again() for _ in range(WRITERS)]

    async def write(number: int) -> None:
        board = Blackboard(handles[number], "busy")
        for post in range(POSTS):
            await board.post_hypothesis(f"writer-{number}", "notes", [number, post])

    await asyncio.gather(*map(write, range(WRITERS)))
    seen = [await Blackboard(handle, "busy").read_section("notes") for handle in handles[:2]]
    assert seen[0] == seen[1]
    assert sorted(one.content for one in seen[0]) == [[n, post] for n in range(WRITERS) for post in range(POSTS)]
    for number in range(WRITERS):
        own = [one.content[1] for one in seen[0] if one.content[0] == number]
        assert own == list(range(POSTS))
    history = await Blackboard(handles[0], "busy").history(limit=WRITERS * POSTS)
    assert [one.hypothesis for one in history] == [one.id for one in seen[0]]


async def test_everything_replays_from_the_record(board: Blackboard):
    one = await board.post_hypothesis("ana", "causes", "virus")
    two = await board.refine_hypothesis("ben", one.id, "influenza")
    await board.link("eva", two.id, supports=[one.id])
    await board.retract("ana", one.id)
    history = await board.history()
    assert [(entry.kind, entry.agent, entry.hypothesis) for entry in history] == [
        (BoardAction.POSTED, "ana", one.id),
        (BoardAction.REFINED, "ben", two.id),
        (BoardAction.LINKED, "eva", two.id),
        (BoardAction.RETRACTED, "ana", one.id),
    ]
    assert history[1].details == {"refines": one.id}
    assert history[2].details == {"supports": [one.id], "contradicts": []}
    assert [entry.order for entry in history] == sorted(entry.order for entry in history)


async def test_a_watch_sees_what_happens(board: Blackboard):
    async with board.watch() as changes:
        one = await board.post_hypothesis("ana", "causes", "virus")
        assert (await anext(changes)).key.endswith(one.id)


async def test_the_whole_board_can_be_handed_to_programs_and_to_people(board: Blackboard):
    one = await board.post_hypothesis("ana", "causes", "virus", confidence=0.4)
    await board.post_hypothesis("ben", "diagnosis", "flu\nor so", supports=[one.id])
    exported = json.loads(json.dumps(await board.export()))
    assert [entry["content"] for entry in exported["hypotheses"]] == ["virus", "flu\nor so"]
    assert [entry["kind"] for entry in exported["history"]] == ["posted", "posted"]
    text = await board.export("markdown")
    assert text.startswith("# case-7\n\n## causes\n\n- virus (`")
    assert f"supports `{one.id}`" in text
    assert "- flu or so (`" in text


# --- work for volunteers -------------------------------------------------------------------------


async def test_work_is_taken_by_one_and_done_with_what_it_contributes(board: Blackboard):
    request = await board.request_work("ana", {"measure": "temperature"})
    async with board.take("ben") as work:
        assert work is not None
        assert (work.task, work.request.requester) == ({"measure": "temperature"}, "ana")
        async with board.take("eva") as nothing:
            assert nothing is None
        await work.draft.post_hypothesis("symptoms", "39.5 degrees", confidence=1.0)
        assert await board.read_section("symptoms") == []
    assert [one.author for one in await board.read_section("symptoms")] == ["ben"]
    assert (await board.history())[-1].details == {"request": request.id}
    async with board.take("eva") as nothing:
        assert nothing is None


async def test_work_whose_taker_fails_comes_back_with_nothing_done(board: Blackboard, harness: SpaceHarness):
    await board.request_work("ana", "measure")

    async def take_and_fail() -> None:
        async with board.take("ben") as work:
            assert work is not None
            await work.draft.post_hypothesis("symptoms", "half done")
            raise ValueError("dropped it")

    with pytest.raises(ValueError, match="dropped it"):
        await take_and_fail()
    await harness.advance(RETRY)
    async with board.take("eva", timeout=5) as work:
        assert work is not None
        assert work.attempt == 2
    assert await board.read_section("symptoms") == []


# --- the rule ------------------------------------------------------------------------------------

certainties = st.floats(-1, 1)
confidences = st.lists(st.floats(0, 1), max_size=6)


@given(certainties, certainties)
def test_combining_is_the_same_either_way_round_and_stays_in_range(first: float, second: float):
    assert combine(first, second) == pytest.approx(combine(second, first))
    assert -1 <= combine(first, second) <= 1


@given(st.floats(0, 1), confidences, confidences, st.floats(0.01, 1))
def test_more_support_never_makes_less_sure_and_more_contradiction_never_more(
    confidence: float, supports: list[float], against: list[float], more: float
):
    before = score(confidence, supports, against)
    assert score(confidence, [*supports, more], against) >= before - 1e-9
    assert score(confidence, supports, [*against, more]) <= before + 1e-9
    assert score(confidence, supports[::-1], against[::-1]) == pytest.approx(before)


# --- writers in processes of their own -----------------------------------------------------------

WRITER = """
import asyncio, sys
from tertulia import connect
from tertulia.patterns.blackboard.board import Blackboard

async def main(url, number, posts):
    async with connect(url) as space:
        board = Blackboard(space, "busy")
        for post in range(int(posts)):
            await board.post_hypothesis(f"writer-{number}", "notes", [int(number), post])

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("url", SEPARATE_PROCESSES, indirect=True)
async def test_eight_processes_lose_nothing_and_agree_on_one_order(url: str):

    writers = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            WRITER,
            url,
            str(number),
            str(POSTS),
            env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        )
        for number in range(WRITERS)
    ]
    assert [await writer.wait() for writer in writers] == [0] * WRITERS
    async with connect(url) as space:
        board = Blackboard(space, "busy")
        seen = await board.read_section("notes")
        history = await board.history(limit=WRITERS * POSTS)
    assert sorted(one.content for one in seen) == [[n, post] for n in range(WRITERS) for post in range(POSTS)]
    for number in range(WRITERS):
        assert [one.content[1] for one in seen if one.content[0] == number] == list(range(POSTS))
    assert [one.hypothesis for one in history] == [one.id for one in seen]


# --- what hostile or careless callers do -------------------------------------------------------------


async def test_a_reason_that_is_no_text_is_refused_and_spoils_nothing(board: Blackboard):
    symptom = await board.post_hypothesis("ana", "symptoms", "fever")
    wrong: list[Any] = [3, None, "x" * 20_001, b"because"]
    for reason in wrong:
        with pytest.raises(InvalidHypothesisError, match="reason"):
            await board.post_hypothesis("ana", "symptoms", "cough", reason=reason)
        with pytest.raises(InvalidHypothesisError, match="reason"):
            await board.refine_hypothesis("ana", symptom.id, "high fever", reason=reason)
        with pytest.raises(InvalidHypothesisError, match="reason"):
            await board.retract("ana", symptom.id, reason=reason)
    assert await board.hypotheses(all_states=True) == [symptom]
    kept = await board.post_hypothesis("ana", "symptoms", "cough", reason="a\ud800b\nc")
    assert (await board.get(kept.id)).reason == "a\\ud800b\nc"


async def test_what_cannot_be_an_id_a_link_a_form_or_a_section_is_refused(space: Space, board: Blackboard):
    for wrong in (None, 7, ""):
        with pytest.raises(InvalidHypothesisError):
            await board.get(wrong)  # pyright: ignore[reportArgumentType]
    every: list[Any] = [None, 7, [["a"]], [None]]
    for links in every:
        with pytest.raises(InvalidHypothesisError):
            await board.post_hypothesis("ana", "symptoms", "x", supports=links)
    with pytest.raises(InvalidInputError, match="'xml'"):
        await board.export("xml")
    sections: list[Any] = ["symptoms", (), ("a", "a")]
    for names in sections:
        with pytest.raises(InvalidHypothesisError, match="sections"):
            Blackboard(space, "odd", sections=names)
    with pytest.raises(InvalidNameError, match="at most 117 bytes"):
        Blackboard(space, "x" * 118)


@pytest.mark.parametrize("name", ["case 7", "a*b", "a>b", "x.y", "[a]", "ñandú", "%41", "x" * 117])
async def test_a_board_of_any_name_takes_votes_and_work(space: Space, name: str):
    board, other = Blackboard(space, name), Blackboard(space, name[:2])
    cause = await board.post_hypothesis("ana", "solution", "flu")
    ballot = await board.vote_on_solution("ana", cause.id, electorate=["ana"])
    assert ballot.result is not None
    await board.request_work("ana", "look again")
    async with board.take("ben") as work:
        assert work is not None
    assert (await board.solution()) == await board.get(cause.id)
    assert (await other.history(), await other.hypotheses()) == ([], [])


async def test_who_votes_when_a_solution_is_accepted_is_too_late_and_opens_no_other_ballot(board: Blackboard):
    cause = await board.post_hypothesis("ana", "causes", "flu")
    for voter in ("ana", "ben"):
        ballot = await board.vote_on_solution(voter, cause.id, electorate=["ana", "ben", "cid"])
    for version in (None, 1):
        with pytest.raises(BallotClosedError) as caught:
            await board.vote_on_solution("cid", cause.id, "no", version=version)
        assert (caught.value.ballot_id, caught.value.outcome) == (ballot.id, Outcome.PASSED)
    assert len(await board.ballots()) == 1


async def test_a_vote_that_cannot_be_cast_opens_no_ballot(board: Blackboard):
    cause = await board.post_hypothesis("ana", "causes", "flu")
    with pytest.raises(UnknownChoiceError):
        await board.vote_on_solution("ana", cause.id, "maybe")
    with pytest.raises(NotAnElectorError):
        await board.vote_on_solution("ana", cause.id, electorate=["ben"])
    with pytest.raises(InvalidInputError):
        await board.vote_on_solution("ana", cause.id, reason=3)  # pyright: ignore[reportArgumentType]
    assert await board.ballots() == []


async def test_how_a_vote_ended_at_its_deadline_is_written_down_and_a_candidate_that_moved_on_was_not_accepted(
    harness: SpaceHarness, board: Blackboard
):
    one, other = [await board.post_hypothesis("ana", "causes", name) for name in ("flu", "cold")]
    for cause in (one, other):
        await board.vote_on_solution(
            "ana", cause.id, electorate=["ana", "ben", "cid"], denominator="cast", deadline=0.5
        )
    await board.link("ben", one.id, contradicts=[other.id])
    await harness.advance(0.6)
    ended = [record for record in await board.history() if record.kind in (BoardAction.ACCEPTED, BoardAction.REJECTED)]
    assert {(record.hypothesis, record.kind, record.details.get("superseded_by")) for record in ended} == {
        (one.id, BoardAction.REJECTED, 2),
        (other.id, BoardAction.ACCEPTED, None),
    }
    assert await board.history() == await board.history()
    solution = await board.solution()
    assert solution is not None
    assert solution.id == other.id


async def test_each_failure_at_work_is_written_down_and_work_that_is_put_aside_can_be_offered_again():
    clock = ManualClock()
    async with connect("memory:", clock=clock) as space:
        board = Blackboard(space, "case-7")
        request = await board.request_work("ana", "impossible")
        for _ in range(20):
            with pytest.raises(ValueError, match="no idea"):
                async with board.take("ben"):
                    raise ValueError("no idea")
            await clock.advance(600.0)
        (letter,) = await space.broker.dead_letters(board.keys.work)
        assert "no idea" in letter.reason
        noted = [one.details for one in await board.history() if one.kind is BoardAction.FAILED]
        assert [one["attempt"] for one in noted] == [1, 2, 3, 4, 5]
        assert {(one["request"], one["error"]) for one in noted} == {(request.id, "no idea")}
        await space.broker.redeliver(board.keys.work)
        async with board.take("ben") as work:
            assert work is not None
            assert work.task == "impossible"
