"""The arithmetic of the benchmarks on made-up numbers, and one quick run that looks at everything but the times."""

from __future__ import annotations

import gc
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from bench import __main__ as command
from bench.report import as_json, print_report
from bench.rows import Direction, Pair, Row, Scale
from bench.runner import QUICK, Result, Settings, Summary, run_row, summarize

MACHINE = {
    "processor": "an abacus",
    "cores": 2,
    "memory_gib": 1.0,
    "system": "Linux",
    "python": "CPython",
    "packages": {"peer": None},
    "programs": {"its-server": "1.2.3"},
    "load": 0.5,
}


def row_of(
    *,
    target: float | None = 1.0,
    direction: Direction = Direction.TIME_AT_MOST,
    package: str | None = None,
    program: str | None = None,
) -> Row:
    return Row(
        name="made-up",
        what="ours",
        peer="cache[key]",
        target=target,
        direction=direction,
        measure=slow_peer,
        package=package,
        program=program,
    )


def result_of(row: Row, *ratios: float) -> Result:
    """Return a result whose rounds have these ratios."""
    if row.direction is Direction.TIME_AT_MOST:
        return Result(row=row, peer_times=(1e-6,) * len(ratios), our_times=tuple(ratio * 1e-6 for ratio in ratios))
    return Result(row=row, peer_times=tuple(ratio * 1e-6 for ratio in ratios), our_times=(1e-6,) * len(ratios))


@asynccontextmanager
async def slow_peer(_: Scale) -> AsyncIterator[Pair]:
    """A peer that claims four seconds per operation, and one of ours that claims one."""

    async def peer(count: int) -> float:
        return 4.0 * count

    async def ours(count: int) -> float:
        return 1.0 * count

    yield Pair(peer, ours)


# --- Statistics ----------------------------------------------------------------------------------


def test_a_summary_has_the_median_the_quartiles_and_the_extremes():
    assert summarize([5, 1, 4, 2, 3]) == Summary(1, 2, 3, 4, 5)


def test_one_wild_round_moves_neither_the_median_nor_the_quartiles():
    calm = summarize([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6])
    wild = summarize([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 99.0])
    assert (wild.lower_quartile, wild.median, wild.upper_quartile) == (
        calm.lower_quartile,
        calm.median,
        calm.upper_quartile,
    )
    assert wild.high == 99.0


def test_the_summary_of_one_number_is_that_number():
    assert summarize([2.0]) == Summary(2.0, 2.0, 2.0, 2.0, 2.0)


def test_ratios_are_taken_round_by_round():
    """When both sides slow down together in a round, its ratio stays."""
    result = Result(row=row_of(), peer_times=(1e-6, 10e-6), our_times=(2e-6, 20e-6))
    assert result.ratios == (2.0, 2.0)


def test_a_time_ratio_is_ours_over_the_peers():
    assert Direction.TIME_AT_MOST.ratio(peer=4.0, ours=1.0) == 0.25


def test_a_speed_ratio_is_how_many_times_faster_ours_is():
    assert Direction.SPEED_AT_LEAST.ratio(peer=4.0, ours=1.0) == 4.0


# --- Verdicts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("direction", "ratios", "verdict"),
    [
        (Direction.TIME_AT_MOST, (0.7, 0.8, 0.9), "reached"),
        (Direction.TIME_AT_MOST, (1.0, 1.0, 1.0), "reached"),
        (Direction.TIME_AT_MOST, (1.1, 1.2, 1.3), "not reached"),
        (Direction.TIME_AT_MOST, (0.8, 0.9, 1.4), "reached, barely"),
        (Direction.TIME_AT_MOST, (0.6, 1.1, 1.2), "not reached, barely"),
        (Direction.SPEED_AT_LEAST, (1.1, 1.2, 1.3), "reached"),
        (Direction.SPEED_AT_LEAST, (0.7, 0.8, 0.9), "not reached"),
        (Direction.SPEED_AT_LEAST, (0.6, 1.1, 1.2), "reached, barely"),
    ],
)
def test_the_median_decides_and_disagreeing_quartiles_are_said(
    direction: Direction, ratios: tuple[float, ...], verdict: str
):
    assert result_of(row_of(direction=direction), *ratios).verdict == verdict


def test_a_row_without_a_target_is_for_information():
    assert result_of(row_of(target=None), 9.0, 9.0, 9.0).verdict == "for information"


# --- The runner ----------------------------------------------------------------------------------


def test_every_round_samples_the_peer_and_then_ours():
    calls: list[str] = []

    @asynccontextmanager
    async def noting(_: Scale) -> AsyncIterator[Pair]:
        async def peer(count: int) -> float:
            calls.append("peer")
            return count * 1.0

        async def ours(count: int) -> float:
            calls.append("ours")
            return count * 1.0

        yield Pair(peer, ours)

    row = Row(name="noting", what="", peer="", target=None, direction=Direction.TIME_AT_MOST, measure=noting)
    result = run_row(row, Settings(rounds=7, sample=0.01))
    assert calls == ["peer", "ours"] + ["peer", "ours"] * 7
    assert len(result.ratios) == 7


def test_times_are_per_operation_whatever_the_length_of_a_sample():
    result = run_row(row_of(), QUICK)
    assert result.peer_times == (4.0,) * QUICK.rounds
    assert result.our_times == (1.0,) * QUICK.rounds
    assert result.verdict == "reached"


def test_warming_up_goes_on_until_a_sample_is_long_enough():
    counts: list[int] = []

    @asynccontextmanager
    async def quick(_: Scale) -> AsyncIterator[Pair]:
        async def sample(count: int) -> float:
            counts.append(count)
            return count * 1e-6

        yield Pair(sample, sample)

    row = Row(name="quick", what="", peer="", target=None, direction=Direction.TIME_AT_MOST, measure=quick)
    run_row(row, Settings(rounds=7, sample=0.01))
    assert counts[0] < 10_000
    assert counts[-14:] == [10_000] * 14


def test_the_collector_is_on_during_samples_and_as_before_afterwards():
    seen: set[bool] = set()

    @asynccontextmanager
    async def noting(_: Scale) -> AsyncIterator[Pair]:
        async def sample(count: int) -> float:
            seen.add(gc.isenabled())
            return count * 1.0

        yield Pair(sample, sample)

    row = Row(name="noting", what="", peer="", target=None, direction=Direction.TIME_AT_MOST, measure=noting)
    run_row(row, QUICK)
    assert seen == {True}
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_a_missing_peer_is_a_result_that_names_the_package_and_how_to_install_it():
    result = run_row(row_of(package="no-such-distribution"), QUICK)
    assert result.verdict == "not measured: no-such-distribution is not installed"
    text = report_of(result)
    assert "the peer no-such-distribution is not installed" in text
    assert "pip install 'tertulia[bench]'" in text


def test_a_missing_server_is_a_result_that_says_what_was_skipped():
    result = run_row(row_of(package="pytest", program="no-such-server"), QUICK)
    assert result.verdict == "not measured: no-such-server is not on this machine"
    text = report_of(result)
    assert "the peer no-such-server is not on this machine, so this was skipped: ours" in text
    assert "pip install" not in text


def test_work_that_was_not_done_is_a_failure_and_no_figure():
    @asynccontextmanager
    async def idle(_: Scale) -> AsyncIterator[Pair]:
        async def sample(count: int) -> float:
            done = 0
            assert done == count, "nothing was done"
            return 0.0

        yield Pair(sample, sample)

    row = Row(name="idle", what="", peer="", target=1.0, direction=Direction.TIME_AT_MOST, measure=idle)
    result = run_row(row, QUICK)
    assert not result.measured
    assert result.verdict == "failed"
    assert "nothing was done" in report_of(result)


def test_fewer_than_seven_rounds_are_refused():
    with pytest.raises(ValueError, match="at least 7 rounds"):
        Settings(rounds=6)


# --- The report ----------------------------------------------------------------------------------


def report_of(*results: Result) -> str:
    out = StringIO()
    print_report(Console(file=out, width=250), results, QUICK, MACHINE)
    return out.getvalue()


def test_the_table_shows_ratio_spread_target_and_verdict():
    text = report_of(result_of(row_of(), 0.7, 0.8, 0.9))
    assert "0.8× (0.75–0.85; 0.7–0.9)" in text
    assert "time ≤ 1×" in text
    assert "800 ns" in text
    assert "cache[key]" in text  # square brackets are no markup
    assert "an abacus, 2 cores" in text


def test_the_json_has_every_round():
    result = result_of(row_of(), 0.7, 0.8, 0.9)
    document = json.loads(as_json([result], QUICK, MACHINE))
    assert document["machine"] == MACHINE
    assert document["settings"]["rounds"] == QUICK.rounds
    (found,) = document["rows"]
    assert found["our_seconds"] == pytest.approx([0.7e-6, 0.8e-6, 0.9e-6])
    assert found["ratio"]["median"] == pytest.approx(0.8)
    assert (found["target"], found["verdict"]) == (1.0, "reached")


# --- The command ---------------------------------------------------------------------------------


def test_row_names_are_unique_and_rows_with_a_foreign_peer_say_its_package():
    names = [row.name for row in command.ROWS]
    assert len(names) == len(set(names))
    foreign = {row.package for row in command.ROWS} - {None}
    assert foreign == {"cachetools", "langgraph", "autogen-core", "redis", "diskcache", "nats-py"}
    assert {row.program for row in command.ROWS if row.package == "redis"} == {"redis-server"}


def test_a_quick_run_measures_in_process_between_processes_and_against_a_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    figures = tmp_path / "figures.json"
    names = ["request-futures", "stream-queue", "file-request-datagrams", "file-request-nats", "file-growth-keys-read"]
    code = command.main(["--quick", "--only", *names, "--json", str(figures)])
    shown = capsys.readouterr()
    assert code == 0
    assert "request-futures" in shown.out
    assert "stream-queue" in shown.err  # the progress
    rows = {row["name"]: row for row in json.loads(figures.read_text(encoding="utf-8"))["rows"]}
    assert set(rows) == set(names)
    for row in rows.values():
        assert row["failure"] is None
        assert len(row["our_seconds"]) == len(row["peer_seconds"]) == QUICK.rounds


def test_an_unknown_row_is_refused_with_the_names_that_exist(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        command.main(["--only", "no-such-row"])
    assert stopped.value.code == 2
    assert "request-futures" in capsys.readouterr().err


def test_a_row_that_fails_makes_the_command_fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    @asynccontextmanager
    async def broken(_: Scale) -> AsyncIterator[Pair]:
        raise RuntimeError("out of order")
        yield

    row = Row(name="broken", what="", peer="", target=1.0, direction=Direction.TIME_AT_MOST, measure=broken)
    monkeypatch.setattr(command, "ROWS", (row,))
    assert command.main(["--quick"]) == 1
    assert "out of order" in capsys.readouterr().out
