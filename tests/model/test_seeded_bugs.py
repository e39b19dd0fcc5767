"""The checkers and the machines are checked: each bug here is planted, named, and has to be caught.

Every procedure also runs with no fault, and with the faults that the contract allows, and has to pass: otherwise
catching a bug would prove nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tertulia import Space
from tertulia.engines.base import Engine
from tertulia.errors import EngineUnavailableError, OutcomeUnknownError
from tertulia.testing import linearizability, mailboxes, watches
from tertulia.testing.clock import ManualClock
from tertulia.testing.faults import SLOW_CALL, Fault, FaultyEngine
from tests.model.engines import EngineCase, in_memory, on_every_engine, open_space
from tests.model.procedures import Doubt, Rates, mailbox_run, memory_history, watch_run
from tests.model.test_mailbox_machine import MailboxMachine
from tests.model.test_memory_machine import MemoryMachine

SEED = 1
RATE = 0.02  # rare enough that most calls are sound, as with a real bug
# What an engine may do to its users. Few of a key's operations may be in doubt, or nobody could judge it.
ALLOWED: Rates = {
    Fault.UNAVAILABLE: RATE,
    Fault.OUTCOME_UNKNOWN_APPLIED: 0.001,
    Fault.OUTCOME_UNKNOWN_NOT_APPLIED: 0.001,
}


async def judged_memory(engine: EngineCase, rates: Rates, doubt: Doubt = Doubt.DOUBTS) -> linearizability.Verdict:
    history = await memory_history(engine, seed=SEED, rates=rates, operations=4_000, keys=10, doubt=doubt)
    return linearizability.check(history)


async def judged_messages(engine: EngineCase, rates: Rates) -> mailboxes.Report:
    return mailboxes.check(await mailbox_run(engine, seed=SEED, rates=rates, messages=2_000), ordered=True)


async def judged_watches(engine: EngineCase, rates: Rates) -> watches.Report:
    committed, watched = await watch_run(engine, seed=SEED, rates=rates, commits=1_000, watches=60)
    return watches.check(committed, watched)


# --- the procedures pass when nothing is wrong ---------------------------------------------------


@on_every_engine
async def test_nothing_is_found_in_a_sound_memory(engine: EngineCase):
    verdict = await judged_memory(engine, {})
    assert verdict.ok, verdict.describe()


@on_every_engine
async def test_nothing_is_found_in_a_memory_whose_engine_fails_as_it_may(engine: EngineCase):
    history = await memory_history(engine, seed=SEED, rates=ALLOWED, operations=4_000, keys=10)
    assert len(history) < 3_990, "the engine was meant to be unavailable at times"
    assert any(operation.outcome is linearizability.Outcome.UNKNOWN for operation in history)
    verdict = linearizability.check(history)
    assert verdict.ok, verdict.describe()


@on_every_engine
async def test_nothing_is_found_in_sound_mailboxes(engine: EngineCase):
    report = await judged_messages(engine, {})
    assert report.ok, report.describe()


@on_every_engine
async def test_nothing_is_found_in_mailboxes_whose_engine_fails_as_it_may(engine: EngineCase):
    rates = {Fault.UNAVAILABLE: RATE, Fault.OUTCOME_UNKNOWN_APPLIED: RATE, Fault.OUTCOME_UNKNOWN_NOT_APPLIED: RATE}
    events = await mailbox_run(engine, seed=SEED, rates=rates, messages=2_000)
    assert any(isinstance(event, mailboxes.Acknowledged) and not event.confirmed for event in events)
    report = mailboxes.check(events, ordered=True)
    assert report.ok, report.describe()


@on_every_engine
async def test_nothing_is_found_in_sound_watches(engine: EngineCase):
    report = await judged_watches(engine, {})
    assert report.ok, report.describe()


# --- bugs that the linearizability checker kills -------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.STALE_READ, Fault.LOST_UPDATE, Fault.REUSED_REVISION])
@on_every_engine
async def test_the_linearizability_checker_kills(engine: EngineCase, fault: Fault):
    verdict = await judged_memory(engine, {fault: RATE})
    assert verdict.violations, f"{fault} was not caught"


@on_every_engine
async def test_the_linearizability_checker_kills_a_client_that_takes_doubt_for_failure(engine: EngineCase):
    rates = {Fault.OUTCOME_UNKNOWN_APPLIED: RATE}
    assert (await judged_memory(engine, rates, Doubt.DESPAIRS)).violations


@on_every_engine
async def test_the_linearizability_checker_kills_a_client_that_takes_doubt_for_success(engine: EngineCase):
    rates = {Fault.OUTCOME_UNKNOWN_NOT_APPLIED: RATE}
    assert (await judged_memory(engine, rates, Doubt.TRUSTS)).violations


# --- bugs that the mailbox checker kills ---------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "flaw"),
    [
        (Fault.DROPPED_MESSAGE, "lost"),
        (Fault.EARLY_ACKNOWLEDGE, "lost"),
        (Fault.DUPLICATE_DELIVERY, "delivered after it was settled"),
        (Fault.DOUBLE_APPLY, "acknowledged twice"),
    ],
)
@on_every_engine
async def test_the_mailbox_checker_kills(engine: EngineCase, fault: Fault, flaw: str):
    report = await judged_messages(engine, {fault: RATE})
    assert flaw in report.counts, f"{fault} was not caught: {report.describe()}"


# --- bugs that the watch checker kills -----------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "flaw"),
    [
        (Fault.SKIPPED_CHANGE, "skipped"),
        (Fault.REORDERED_CHANGES, "out of order"),
        (Fault.REUSED_REVISION, "revision reused"),
    ],
)
@on_every_engine
async def test_the_watch_checker_kills(engine: EngineCase, fault: Fault, flaw: str):
    report = await judged_watches(engine, {fault: RATE})
    assert flaw in report.counts, f"{fault} was not caught: {report.describe()}"


# --- bugs that the state machines kill -----------------------------------------------------------

QUICK = settings(
    max_examples=60,
    stateful_step_count=40,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # that it fails is enough here, how small the example can be does not matter
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


CAUGHT = (AssertionError, pytest.fail.Exception)  # an expectation of the machine was not met


def run_quickly(machine: type[RuleBasedStateMachine], engine: EngineCase, rates: Rates) -> None:
    def wrap(inside: Engine) -> Engine:
        return FaultyEngine(inside, rates, seed=SEED)

    members: dict[str, Any] = {"engine": engine, "wrap": staticmethod(wrap)}
    run_state_machine_as_test(type("Machine", (machine,), members), settings=QUICK)


@in_memory  # on the others the machines try much more than this
def test_the_memory_machine_finds_nothing_in_a_sound_engine(engine: EngineCase):
    run_quickly(MemoryMachine, engine, {})


@in_memory  # on the others the machines try much more than this
def test_the_mailbox_machine_finds_nothing_in_a_sound_engine(engine: EngineCase):
    run_quickly(MailboxMachine, engine, {})


@pytest.mark.parametrize(
    "fault",
    [
        Fault.STALE_READ,
        Fault.LOST_UPDATE,
        Fault.REUSED_REVISION,
        Fault.DOUBLE_APPLY,
        Fault.SKIPPED_CHANGE,
        Fault.REORDERED_CHANGES,
    ],
)
@on_every_engine
def test_the_memory_machine_kills(engine: EngineCase, fault: Fault):
    with pytest.raises(CAUGHT):
        run_quickly(MemoryMachine, engine, {fault: 0.2})


@pytest.mark.parametrize(
    "fault", [Fault.DROPPED_MESSAGE, Fault.EARLY_ACKNOWLEDGE, Fault.DUPLICATE_DELIVERY, Fault.DOUBLE_APPLY]
)
@on_every_engine
def test_the_mailbox_machine_kills(engine: EngineCase, fault: Fault):
    with pytest.raises(CAUGHT):
        run_quickly(MailboxMachine, engine, {fault: 0.2})


# --- the faulty engine itself --------------------------------------------------------------------


@on_every_engine
async def test_a_call_to_an_unavailable_engine_has_not_happened(engine: EngineCase):
    async with open_space(engine, wrap=lambda inside: FaultyEngine(inside, {Fault.UNAVAILABLE: 1.0})) as space:
        with pytest.raises(EngineUnavailableError):
            await space.memory.write("key", 1, owner="ana")
        assert await faults_end(space).memory.read("key", reader="ana") is None


@pytest.mark.parametrize(
    ("fault", "value"), [(Fault.OUTCOME_UNKNOWN_APPLIED, 1), (Fault.OUTCOME_UNKNOWN_NOT_APPLIED, None)]
)
@on_every_engine
async def test_a_commit_of_unknown_outcome_has_happened_or_not_as_the_fault_says(
    engine: EngineCase, fault: Fault, value: int | None
):
    async with open_space(engine, wrap=lambda inside: FaultyEngine(inside, {fault: 1.0})) as space:
        with pytest.raises(OutcomeUnknownError):
            await space.memory.write("key", 1, owner="ana")
        assert await faults_end(space).memory.read("key", reader="ana") == value


@on_every_engine
async def test_a_slow_call_takes_the_clocks_time(engine: EngineCase):
    clock = ManualClock()
    rates = {Fault.SLOW: 1.0}
    async with open_space(engine, clock=clock, wrap=lambda inside: FaultyEngine(inside, rates, clock=clock)) as space:
        reading = asyncio.create_task(space.memory.read("key", reader="ana"))
        await clock.advance(0)
        assert not reading.done()
        await clock.advance(SLOW_CALL)
        assert reading.done()


@on_every_engine
async def test_a_cancelled_call_ends_its_task(engine: EngineCase):
    async with open_space(engine, wrap=lambda inside: FaultyEngine(inside, {Fault.CANCELLED: 1.0})) as space:
        reading = asyncio.create_task(space.memory.read("key", reader="ana"))
        await asyncio.wait([reading])
        assert reading.cancelled()


@on_every_engine
async def test_the_same_seed_makes_the_same_faults(engine: EngineCase):
    def struck(seed: int) -> list[bool]:
        faulty = FaultyEngine(space.engine, {Fault.STALE_READ: 0.5}, seed=seed)
        return [faulty.strikes(Fault.STALE_READ) for _ in range(100)]

    async with open_space(engine) as space:
        assert struck(1) == struck(1)
        assert struck(1) != struck(2)


def faults_end(space: Space) -> Space:
    """Let the engine work as it should from now on."""
    assert isinstance(space.engine, FaultyEngine)
    space.engine.rates.clear()
    return space
