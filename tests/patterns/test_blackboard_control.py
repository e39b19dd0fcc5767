"""Control runs the knowledge source with the most to gain, and leaves all that it knows on the board."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tertulia import Message, MessagePassingAgent, Space
from tertulia._rules.agenda import Activation, Ranking, rate
from tertulia.engines.base import Record
from tertulia.errors import InvalidHypothesisError, InvalidInputError, UnknownAgentError
from tertulia.hypotheses import BoardAction, Hypothesis
from tertulia.patterns.blackboard.board import Blackboard
from tertulia.patterns.blackboard.control import Controller, RunEnd
from tertulia.patterns.blackboard.sources import KnowledgeSource, Situation, remote
from tertulia.testing.conformance import SpaceHarness
from tertulia.testing.faults import FaultyEngine
from tests.model.procedures import Interleaved

LONGEST = 30.0  # seconds that only a hang takes


@pytest.fixture
def board(space: Space) -> Blackboard:
    return Blackboard(space, "sums", sections=("numbers", "squares", "totals"))


async def square(situation: Situation) -> None:
    number = situation.hypothesis
    await situation.draft.post_hypothesis("squares", number.content**2, confidence=1, supports=[number.id])


async def add_up(situation: Situation) -> None:
    squares = await situation.board.read_section("squares")
    await situation.draft.post_hypothesis("totals", sum(one.content for one in squares), confidence=1)


SQUARE = KnowledgeSource(name="square", action=square, sections=("numbers",))
ADD_UP = KnowledgeSource(name="add-up", action=add_up, sections=("squares",), cost=2)


async def post_numbers(board: Blackboard, count: int = 5) -> list[Hypothesis]:
    return [await board.post_hypothesis("ana", "numbers", number, confidence=0.5) for number in range(count)]


def kinds(history: Any) -> Counter[BoardAction]:
    return Counter(one.kind for one in history)


async def contents(board: Blackboard, section: str) -> list[Any]:
    return [one.content for one in await board.read_section(section)]


# --- how a run ends ------------------------------------------------------------------------------


async def test_a_run_ends_by_quiescence_when_nobody_has_anything_to_add(board: Blackboard):
    await post_numbers(board)
    result = await Controller(board, [SQUARE, ADD_UP]).run()
    assert result.ended is RunEnd.QUIESCENCE
    assert sorted(await contents(board, "squares")) == [0, 1, 4, 9, 16]
    assert (await contents(board, "totals"))[-1] == 30
    assert (result.activations, result.failed, result.dropped) == (10, 0, 0)
    again = await Controller(board, [SQUARE, ADD_UP]).run()
    assert (again.ended, again.activations) == (RunEnd.QUIESCENCE, 0)


async def test_a_run_ends_when_there_is_what_it_was_to_run_until(board: Blackboard):
    await post_numbers(board)

    async def until(board: Blackboard) -> bool:
        return bool(await board.read_section("squares"))

    result = await Controller(board, [SQUARE]).run(until=until)
    assert (result.ended, result.activations) == (RunEnd.SOLUTION, 1)


async def test_a_run_ends_when_a_vote_has_accepted_a_solution(board: Blackboard):
    async def propose(situation: Situation) -> None:
        made = await situation.draft.post_hypothesis("totals", "enough")
        voted.append(made)

    voted: list[str] = []

    async def vote(situation: Situation) -> None:
        await situation.board.vote_on_solution("judge", situation.hypothesis.id, electorate=["judge"])

    await post_numbers(board)
    result = await Controller(
        board,
        [
            KnowledgeSource(name="propose", action=propose, sections=("numbers",)),
            KnowledgeSource(name="judge", action=vote, sections=("totals",), benefit=5),
        ],
    ).run()
    assert result.ended is RunEnd.SOLUTION
    assert result.solution is not None
    assert result.solution.id in voted


async def test_a_run_ends_when_its_budget_is_spent(board: Blackboard):
    await post_numbers(board)
    result = await Controller(board, [SQUARE]).run(budget=3)
    assert (result.ended, result.activations) == (RunEnd.BUDGET, 3)
    assert len(await contents(board, "squares")) == 3


async def test_a_run_ends_at_its_deadline_while_somebody_else_still_works(harness: SpaceHarness):
    one = Blackboard(await harness.open_again(), "sums")
    other = Blackboard(await harness.open_again(), "sums")
    working, go_on = asyncio.Event(), asyncio.Event()

    async def ponder(_: Situation) -> None:
        working.set()
        await go_on.wait()

    await one.post_hypothesis("ana", "numbers", 1)
    busy = asyncio.create_task(Controller(one, [KnowledgeSource(name="ponder", action=ponder)]).run())
    await asyncio.wait_for(working.wait(), LONGEST)
    waiting = asyncio.create_task(Controller(other, [KnowledgeSource(name="ponder", action=ponder)]).run(deadline=1.0))
    await harness.advance(0.5)
    assert not waiting.done()
    await harness.advance(0.6)
    assert (await asyncio.wait_for(waiting, LONGEST)).ended is RunEnd.DEADLINE
    go_on.set()
    assert (await asyncio.wait_for(busy, LONGEST)).ended is RunEnd.QUIESCENCE


# --- which activation comes first ----------------------------------------------------------------


async def test_the_activation_with_the_most_to_gain_for_its_cost_runs_first_and_the_choice_is_written_down(
    board: Blackboard,
):
    order: list[str] = []

    def source(name: str, *, benefit: float, cost: float) -> KnowledgeSource:
        return KnowledgeSource(name=name, action=lambda _: order.append(name), benefit=benefit, cost=cost)

    await post_numbers(board, 1)
    await Controller(
        board, [source("dear", benefit=9, cost=9), source("best", benefit=4, cost=2), source("poor", benefit=1, cost=2)]
    ).run()
    assert order == ["best", "dear", "poor"]
    chosen = [one.details for one in await board.history() if one.kind is BoardAction.CHOSEN]
    assert [one["source"] for one in chosen] == order
    assert chosen[0]["rating"] == pytest.approx(1.0)
    assert [(one["source"], one["rating"]) for one in chosen[0]["over"]] == [("dear", 0.5), ("poor", 0.25)]


async def test_focus_turns_the_attention_of_all_controllers_to_a_section(board: Blackboard):
    order: list[str] = []
    for section in ("numbers", "squares"):
        await board.post_hypothesis("ana", section, 1)
    watching = KnowledgeSource(name="watch", action=lambda situation: order.append(situation.hypothesis.section))
    controller = Controller(board, [watching])
    await controller.agenda.set_focus({"squares": 3.0}, agent="ana", reason="they are new")
    await controller.run()
    assert order == ["squares", "numbers"]
    assert kinds(await board.history())[BoardAction.FOCUSED] == 1


async def test_an_activation_whose_condition_no_longer_holds_is_dropped_with_the_reason(board: Blackboard):
    numbers = await post_numbers(board, 3)

    async def retract_the_others(situation: Situation) -> None:
        for number in numbers:
            if number.id != situation.hypothesis.id and (await situation.board.get(number.id)).is_live:
                await situation.draft.retract(number.id)

    result = await Controller(
        board,
        [
            KnowledgeSource(name="clean", action=retract_the_others, sections=("numbers",), benefit=9),
            KnowledgeSource(name="square", action=square, sections=("numbers",)),
            KnowledgeSource(name="never", action=square, precondition=lambda *_: False),
        ],
    ).run()
    dropped = [one.details for one in await board.history() if one.kind is BoardAction.DROPPED]
    assert result.dropped == len(dropped)
    assert {one["why"] for one in dropped} == {
        "the hypothesis is at version 2 by now",
        "its precondition does not hold",
    }
    assert await contents(board, "squares") == [0]


# --- failures ------------------------------------------------------------------------------------


async def test_a_source_that_fails_is_tried_again_and_then_given_up_and_contributes_nothing(
    board: Blackboard, caplog: pytest.LogCaptureFixture
):
    async def fail(situation: Situation) -> None:
        await situation.draft.post_hypothesis("squares", "half a thought")
        raise ValueError("no idea")

    await post_numbers(board, 1)
    with caplog.at_level(logging.CRITICAL, logger="tertulia"):
        result = await Controller(
            board, [KnowledgeSource(name="bad", action=fail, sections=("numbers",)), SQUARE]
        ).run()
    assert (result.ended, result.failed, result.activations) == (RunEnd.QUIESCENCE, 3, 1)
    failures = [one.details for one in await board.history() if one.kind is BoardAction.FAILED]
    assert [one["attempt"] for one in failures] == [1, 2, 3]
    assert failures[0]["error"] == "ValueError: no idea"
    assert await contents(board, "squares") == [0]


async def test_a_cancelled_run_gives_its_activation_back_with_nothing_applied(board: Blackboard):
    working = asyncio.Event()

    async def ponder(situation: Situation) -> None:
        await situation.draft.post_hypothesis("squares", "half a thought")
        working.set()
        await asyncio.Event().wait()

    await post_numbers(board, 1)
    running = asyncio.create_task(Controller(board, [KnowledgeSource(name="ponder", action=ponder)]).run())
    await asyncio.wait_for(working.wait(), LONGEST)
    running.cancel()
    await asyncio.wait([running])
    assert await contents(board, "squares") == []
    done = await Controller(board, [KnowledgeSource(name="ponder", action=square)]).run(budget=1)
    assert done.activations == 1
    assert await contents(board, "squares") == [0]


# --- several controllers, and remote sources -----------------------------------------------------


async def test_several_controllers_run_each_activation_once(harness: SpaceHarness):
    boards = [Blackboard(await harness.open_again(), "sums") for _ in range(4)]
    await post_numbers(boards[0], 20)
    results = await asyncio.gather(*(Controller(board, [SQUARE]).run() for board in boards))
    assert {result.ended for result in results} == {RunEnd.QUIESCENCE}
    assert sum(result.activations for result in results) == 20
    assert sorted(await contents(boards[0], "squares")) == [number**2 for number in range(20)]
    assert kinds(await boards[0].history())[BoardAction.RAN] == 20


async def test_a_restart_goes_on_from_the_board(harness: SpaceHarness):
    first = Blackboard(await harness.open_again(), "sums")
    await post_numbers(first, 6)
    await Controller(first, [SQUARE]).run(budget=2)
    second = Blackboard(await harness.open_again(), "sums")
    rest = await Controller(second, [SQUARE]).run()
    assert rest.activations == 4
    assert sorted(await contents(second, "squares")) == [0, 1, 4, 9, 16, 25]


async def test_a_remote_agent_contributes_by_answering(board: Blackboard, space: Space):
    agent = MessagePassingAgent("squarer", space.broker)

    @agent.on_message("contribute")
    def contribute(message: Message) -> list[dict[str, Any]] | None:
        hypothesis = message.content["hypothesis"]
        if hypothesis["content"] == 0:
            return None
        return [{"section": "squares", "hypothesis": hypothesis["content"] ** 2, "supports": [hypothesis["id"]]}]

    await post_numbers(board, 3)
    async with agent:
        result = await Controller(
            board, [KnowledgeSource(name="far", action=remote("squarer"), sections=("numbers",))]
        ).run()
    assert (result.activations, result.failed) == (3, 0)
    assert await contents(board, "squares") == [1, 4]
    assert {one.author for one in await board.read_section("squares")} == {"far"}


async def test_a_remote_agent_that_is_not_there_is_a_failure_that_is_written_down(
    board: Blackboard, caplog: pytest.LogCaptureFixture
):
    await post_numbers(board, 1)
    with caplog.at_level(logging.CRITICAL, logger="tertulia"):
        result = await Controller(board, [KnowledgeSource(name="far", action=remote("nobody"))]).run()
    assert result.failed == 3
    (*_, last) = [one for one in await board.history() if one.kind is BoardAction.FAILED]
    assert last.details["error"].startswith(UnknownAgentError.__name__)


# --- bad input, and the rule ---------------------------------------------------------------------


async def test_control_refuses_what_makes_no_sense(board: Blackboard):
    with pytest.raises(InvalidInputError, match="same name"):
        Controller(board, [SQUARE, SQUARE])
    with pytest.raises(InvalidHypothesisError, match="cost"):
        KnowledgeSource(name="odd", action=square, cost=-1)
    wrong: list[dict[str, Any]] = [{"budget": 0}, {"deadline": -1.0}]
    for bad in wrong:
        with pytest.raises(InvalidInputError):
            await Controller(board, [SQUARE]).run(**bad)


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 100)), max_size=20))
def test_what_is_chosen_first_has_the_highest_rating_and_of_equals_is_the_oldest(found: list[tuple[float, int]]):
    rated = [
        (Activation(source="s", hypothesis=str(place), version=1, section="x", confidence=1, order=order), rating)
        for place, (rating, order) in enumerate(found)
    ]
    ranking = Ranking()
    for activation, rating in rated:
        ranking.add(activation, rating)
        ranking.add(activation, rating)  # as after the board was read anew
    best = sorted(rated, key=lambda one: (-one[1], one[0].order, one[0].id))
    ids = [activation.id for activation, _ in best]
    assert ranking.first(len(rated) + 1, lambda _: True, lambda _: True) == ids
    last, free = set(ids[-1:]), ids[1::2]
    there = [one for one in free if one not in last]
    assert ranking.first(2, lambda one: one not in last, free.__contains__) == there[:2]
    assert ranking.first(len(rated), lambda _: True, lambda _: True)[: len(ids) - 1] == ids[:-1]


def test_a_source_that_costs_nothing_does_not_always_come_first():
    activation = Activation(source="s", hypothesis="h", version=1, section="x", confidence=0.5, order=1)
    assert rate(activation, 1.0, 0.0, {}) < 1e6
    assert rate(activation, 1.0, 1.0, {"x": 2.0}) == pytest.approx(1.0)


# --- others, and what goes wrong -----------------------------------------------------------------


async def test_what_waits_for_sources_that_nobody_has_is_left_after_a_while_and_does_not_keep_a_run_going(
    harness: SpaceHarness,
):
    board = Blackboard(await harness.open_again(), "sums")
    await post_numbers(board, 3)
    assert (await Controller(board, [SQUARE]).run(budget=1)).activations == 1
    alone = asyncio.create_task(Controller(board, [ADD_UP], lease=1.0).run())
    await harness.advance(0.5)
    assert not alone.done()  # somebody may still take them up
    async with asyncio.timeout(LONGEST):
        while not alone.done():
            await harness.advance(0.2)
    result = await alone
    assert (result.ended, result.activations) == (RunEnd.QUIESCENCE, 1)
    assert await contents(board, "totals") == [0]


async def test_a_source_that_never_ends_does_not_outlast_the_deadline_and_its_activation_is_given_back(
    harness: SpaceHarness, board: Blackboard
):
    async def ponder(_: Situation) -> None:
        await asyncio.Event().wait()

    await post_numbers(board, 1)
    running = asyncio.create_task(
        Controller(board, [KnowledgeSource(name="square", action=ponder, sections=("numbers",))]).run(deadline=1.0)
    )
    await harness.advance(0.5)
    await harness.advance(0.6)
    result = await asyncio.wait_for(running, LONGEST)
    assert (result.ended, result.activations, result.failed) == (RunEnd.DEADLINE, 0, 0)
    assert (await Controller(board, [SQUARE]).run()).activations == 1


async def test_a_precondition_that_fails_is_a_failure_of_its_source_and_a_trigger_that_fails_triggers_nothing(
    board: Blackboard, caplog: pytest.LogCaptureFixture
):
    def fail(*_: object) -> bool:
        raise ValueError("no idea")

    await post_numbers(board, 1)
    odd = KnowledgeSource(name="odd", action=square, precondition=fail)
    never = KnowledgeSource(name="never", action=square, trigger=fail)
    with caplog.at_level(logging.CRITICAL + 1, logger="tertulia"):
        result = await Controller(board, [odd, never, SQUARE]).run()
    assert (result.ended, result.activations, result.failed) == (RunEnd.QUIESCENCE, 1, 6)
    failures = [one.details for one in await board.history() if one.kind is BoardAction.FAILED]
    assert {(one["source"], one["error"]) for one in failures} == {("odd", "ValueError: no idea")}


async def test_an_activation_whose_hypothesis_somebody_deleted_is_dropped(board: Blackboard, space: Space):
    numbers = await post_numbers(board, 2)

    async def delete(situation: Situation) -> None:
        other = next(one for one in numbers if one.id != situation.hypothesis.id)
        await space.memory.delete(board.keys.hypothesis(other.id), requester="ana")

    result = await Controller(board, [KnowledgeSource(name="delete", action=delete, sections=("numbers",))]).run()
    assert (result.ended, result.activations, result.dropped) == (RunEnd.QUIESCENCE, 1, 1)


async def test_a_controller_runs_once_at_a_time(board: Blackboard):
    await post_numbers(board, 1)
    controller = Controller(board, [SQUARE])
    first, second = await asyncio.gather(controller.run(), controller.run(), return_exceptions=True)
    assert isinstance(second, InvalidInputError)
    assert not isinstance(first, BaseException)
    assert (await controller.run()).ended is RunEnd.QUIESCENCE


class Counting(FaultyEngine):
    """Counts the records that are read and the changes that are seen."""

    records = 0

    async def get(self, key: str) -> Record | None:
        self.records += 1
        return await super().get(key)

    async def scan(self, *args: Any, **options: Any) -> tuple[int, list[Record]]:
        revision, records = await super().scan(*args, **options)
        self.records += len(records)
        return revision, records


async def test_what_an_activation_reads_does_not_grow_with_the_board(harness: SpaceHarness):
    reads: list[float] = []
    for count in (10, 80):
        inner = await harness.open_again()
        engine = Counting(inner.engine, {})
        board = Blackboard(Space(inner.url, engine, inner.clock), f"sums-{count}", sections=("numbers", "squares"))
        await post_numbers(board, count)
        engine.records = 0
        assert (await Controller(board, [SQUARE]).run()).activations == count
        reads.append(engine.records / count)
    assert reads[1] <= reads[0] * 1.1


async def test_cancelled_at_any_moment_a_run_holds_no_activation_and_loses_none(harness: SpaceHarness):
    inner = await harness.open_again()
    for turns in range(0, 120, 4):
        space = Space(inner.url, Interleaved(inner.engine, None, seed=turns), inner.clock)
        board = Blackboard(space, f"sums-{turns}", sections=("numbers", "squares"))
        await post_numbers(board, 2)
        running = asyncio.create_task(Controller(board, [SQUARE]).run())
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait([running])
        await harness.advance(0)
        assert await space.memory.list_keys(f"{board.keys.running}*") == [], turns
        assert (await Controller(board, [SQUARE]).run()).ended is RunEnd.QUIESCENCE
        assert await contents(board, "squares") == [0, 1]
        await space.background.aclose()
