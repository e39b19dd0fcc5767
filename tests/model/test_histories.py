"""Many clients at once: what each of them saw can be explained by one memory, one queue, one order of changes."""

from __future__ import annotations

import pytest

from tertulia.testing import linearizability, mailboxes, watches
from tests.figures import Figures
from tests.model.engines import EngineCase, on_every_engine
from tests.model.procedures import mailbox_run, memory_history, overlapping, watch_run
from tests.profile import times

campaign = pytest.mark.campaign


@campaign
@pytest.mark.parametrize("seed", range(times(10, 20)))
@on_every_engine
async def test_what_sixteen_clients_saw_of_the_memory_is_linearizable(engine: EngineCase, seed: int, figures: Figures):
    operations = times(10_000, 100_000)
    history = await memory_history(engine, seed=seed, clients=16, operations=operations, keys=10 + 4 * seed)
    figures(histories=1, operations=operations)
    assert len(history) == operations // 16 * 16
    assert overlapping(history) > operations // 5, "the clients were meant to disturb each other"
    verdict = linearizability.check(history)
    assert verdict.ok, verdict.describe()


@campaign
@pytest.mark.parametrize("seed", range(times(5, 10)))
@on_every_engine
async def test_of_thousands_of_messages_none_is_lost_doubled_or_overtaken(
    engine: EngineCase, seed: int, figures: Figures
):
    messages = times(20_000 if engine.name == "memory" else 2_000, 100_000)  # ten times as slow where there is a disk
    events = await mailbox_run(engine, seed=seed, messages=messages, mailboxes=1 + seed % 5, producers=8, consumers=4)
    figures(messages=messages)
    assert sum(isinstance(event, mailboxes.Sent) for event in events) == messages // 8 * 8
    report = mailboxes.check(events, ordered=True)
    assert report.ok, report.describe()


@campaign
@pytest.mark.parametrize("seed", range(times(5, 10)))
@on_every_engine
async def test_hundreds_of_watches_that_come_and_go_miss_nothing(engine: EngineCase, seed: int, figures: Figures):
    count = times(200, 2_000)
    committed, watched = await watch_run(engine, seed=seed, commits=20 * count, watches=count)
    figures(watches=len(watched))
    assert len(watched) > count * 3 / 4
    report = watches.check(committed, watched)
    assert report.ok, report.describe()


@on_every_engine
async def test_a_watch_that_resumes_too_late_is_told_so(engine: EngineCase):
    committed, watched = await watch_run(engine, seed=99, commits=15_000, watches=2_000)
    gaps = [watch for watch in watched if any(isinstance(event, watches.Gap) for event in watch.events)]
    assert gaps, "no watch asked for more than is kept"
    report = watches.check(committed, watched)
    assert report.ok, report.describe()
