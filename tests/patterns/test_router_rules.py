"""The pure model of the router: estimates, choices, what is seen, and sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tertulia._rules.routing import (
    EXPLORE_EVERY,
    MEMORY,
    MEMORY_OF,
    MESSAGE,
    OUTLIER,
    POINTER,
    SPEED_RANGE,
    Cell,
    Figures,
    Line,
    Seen,
    believed_seconds,
    choose,
    estimate,
    new_cell,
    observation,
    size_class,
    speed_of,
)
from tertulia._rules.routing_costs import LINES
from tertulia._rules.sizes import estimated_size
from tertulia.patterns._routing_profile import MAX_CELLS, TOTAL, Profile

LINE = Line(1e-5, 2e-6, 1e-9, 1e-10, 5e-6, 1e-9)
PRICE = 1e-9
sizes = st.integers(1, 10_000_000)
readers = st.integers(1, 500)
costs = st.lists(st.one_of(st.none(), st.floats(1e-7, 10.0)), min_size=4, max_size=4)


def figures_of(costs: list[float | None]) -> list[Figures | str]:
    return ["closed" if cost is None else (cost, 0.0, 0.0, cost, 0) for cost in costs]


def ask(channel: int, seen: Seen, size: float = 1_000, receivers: float = 1, speed: float = 1.0) -> Figures:
    return estimate(channel, LINE, seen, size, receivers, speed, PRICE)


def test_every_engine_has_a_line_for_every_channel_and_none_goes_down() -> None:
    assert set(LINES) == {"memory", "file", "nats"}
    for lines in LINES.values():
        assert len(lines) == 4
        for line in lines:
            assert all(part >= 0 for part in msgspec.structs.astuple(line))
            assert line.call + line.per_receiver > 0


@given(st.sampled_from([MESSAGE, POINTER, MEMORY]), sizes, readers, st.floats(*SPEED_RANGE))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_an_estimate_grows_with_size_and_readers_and_is_what_its_parts_say(
    channel: int, size: int, receivers: int, speed: float
) -> None:
    seconds, written, read, cost, _ = ask(channel, Seen(), size, receivers, speed)
    assert cost == pytest.approx(seconds + PRICE * (written + read))
    for larger in (ask(channel, Seen(), 2 * size, receivers, speed), ask(channel, Seen(), size, receivers + 1, speed)):
        assert all(more >= less for more, less in zip(larger[:4], (seconds, written, read, cost), strict=True))


@given(sizes, readers)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_a_pointer_writes_a_content_once_and_a_message_for_everybody(size: int, receivers: int) -> None:
    assert ask(MESSAGE, Seen(), size, receivers)[1] == size * receivers
    assert ask(POINTER, Seen(), size, receivers)[1] == ask(MEMORY, Seen(), size, receivers)[1] == size
    assert ask(POINTER, Seen(), size, receivers)[2] == ask(MESSAGE, Seen(), size, receivers)[2] == size * receivers


@given(st.floats(0.1, OUTLIER), st.lists(st.integers(1_000, 4_000), min_size=50, max_size=120))
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
def test_what_a_call_really_takes_is_soon_believed(factor: float, found: list[int]) -> None:
    seen = Seen()
    for size in found:
        taken = factor * LINE.send_seconds(size, 1)
        believed = believed_seconds(LINE, seen, size, 1, 1.0)
        seen.add(observation(LINE, size, 1, taken, believed=believed, written=0, nominal=size))
    predicted = LINE.send_seconds(2_000, 1)
    error = believed_seconds(LINE, seen, 2_000, 1, 1.0) - factor * predicted
    assert abs(error) <= 0.15 * abs(predicted - factor * predicted) + 1e-12


def test_one_call_that_took_very_long_is_no_more_than_an_outlier() -> None:
    seen = Seen()
    believed = believed_seconds(LINE, seen, 1_000, 1, 1.0)
    seen.add(observation(LINE, 1_000, 1, 1_000.0, believed=believed, written=0, nominal=1_000))
    assert believed_seconds(LINE, seen, 1_000, 1, 1.0) < OUTLIER * believed


@given(st.lists(st.floats(1e-6, 1.0), min_size=300, max_size=400), st.floats(1e-6, 1.0))
@settings(max_examples=30, deadline=None, derandomize=True, database=None)
def test_what_was_long_ago_fades(old: list[float], new: float) -> None:
    seen = Seen()
    for seconds in old:
        seen.add(Seen(1.0, seconds, 1.0))
    assert seen.weight <= 2 * MEMORY_OF
    for _ in range(1_000):
        seen.add(Seen(1.0, new, 1.0))
    assert seen.seconds / seen.expected == pytest.approx(new, rel=0.02, abs=0.005)


@given(st.integers(0, 400), st.integers(0, 2_000))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_reads_are_taken_for_granted_until_they_are_seen_or_not(written: int, reads: int) -> None:
    seen = Seen(reads=float(reads), readable=float(written))
    assert ask(MEMORY, Seen())[2] == pytest.approx(1_000)
    assert ask(MEMORY, seen)[2] == pytest.approx(1_000 * (2 + reads) / (2 + written))
    assert ask(MESSAGE, seen)[2] == pytest.approx(1_000)  # who is told has read


@given(costs, st.integers(0, 1_000))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_the_choice_is_the_cheapest_that_is_open_or_explores_what_is_not_much_dearer(
    given: list[float | None], routes: int
) -> None:
    chosen, explored = choose(figures_of(given), Cell([Seen() for _ in range(4)], routes))
    possible = [cost for cost in given if cost is not None]
    if not possible:
        assert (chosen, explored) == (-1, False)
        return
    cost = given[chosen]
    assert cost is not None
    if explored:
        assert (routes + 1) % EXPLORE_EVERY == 0
        assert min(possible) <= cost <= 2 * min(possible)
    else:
        assert cost == min(possible)


def test_exploring_takes_the_channel_of_which_least_is_known() -> None:
    cell = new_cell()
    cell.routes = EXPLORE_EVERY - 1
    cell.seen[0].routes, cell.seen[1].routes, cell.seen[2].pinned = 49, 5, 3
    assert choose(figures_of([1.0, 1.5, 1.9, None]), cell) == (2, True)
    assert choose(figures_of([1.0, 1.5, 2.1, None]), cell) == (1, True)
    assert choose(figures_of([1.0, 3.0, None, None]), cell) == (0, False)
    cell.routes -= 1
    assert choose(figures_of([1.0, 1.5, 1.9, None]), cell) == (0, False)


@given(st.lists(st.floats(0.01, 100.0), max_size=100))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_a_channel_s_speed_stays_within_what_is_believable(factors: list[float]) -> None:
    seen = Seen()
    assert speed_of(seen) == 1.0
    for factor in factors:
        seen.add(Seen(1.0, factor, 1.0))
        assert SPEED_RANGE[0] <= speed_of(seen) <= SPEED_RANGE[1]


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(1e-6, 1.0)), max_size=60), st.integers(0, 60))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_what_two_processes_have_seen_adds_up_to_what_one_would(moves: list[tuple[int, float]], cut: int) -> None:
    parts = [new_cell(), new_cell()]
    whole = new_cell()
    for place, (channel, seconds) in enumerate(moves):
        for cell in (whole, parts[place >= cut]):
            cell.seen[channel].add(Seen(1.0, seconds, 1.0, routes=1))
            cell.routes += 1
    parts[0].merge(parts[1])
    for one, other in zip(whole.seen, parts[0].seen, strict=True):
        assert msgspec.structs.astuple(one) == pytest.approx(msgspec.structs.astuple(other))
    assert whole.routes == parts[0].routes


def test_a_profile_forgets_the_oldest_cells_of_too_many_but_never_the_whole() -> None:
    profile = Profile()
    profile.cell(TOTAL)
    for number in range(2 * MAX_CELLS):
        profile.cell(str(number))
    assert len(profile.cells) == MAX_CELLS
    assert TOTAL in profile.cells
    assert str(2 * MAX_CELLS - 1) in profile.cells
    assert "0" not in profile.cells


def test_a_class_of_sizes_is_four_times_as_wide_as_the_one_before() -> None:
    assert [size_class(size) for size in (0, 1, 2, 7, 8, 31, 32, 1_000, 1_000_000)] == [0, 1, 1, 2, 2, 3, 3, 5, 10]


# --- sizes ------------------------------------------------------------------------------------------------


@dataclass
class Document:
    title: str
    body: str


class Page(msgspec.Struct):
    body: bytes


scalars = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63), st.floats(), st.text(), st.binary())


@given(
    st.recursive(scalars, lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)), max_leaves=30)
)
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_any_plain_value_has_a_size(value: Any) -> None:
    assert estimated_size(value) > 0


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10_000,
        b"x" * 10_000,
        ["x" * 100] * 100,
        [{"number": number, "text": "y" * 50, "flags": [True, False]} for number in range(1_000)],
        {f"key {number}": "z" * 500 for number in range(50)},
        {"document": {"body": "x" * 100_000, "title": "t"}},
        Document("t", "x" * 20_000),
        Page(b"x" * 20_000),
    ],
    ids=["text", "bytes", "list", "rows", "dict", "nested", "dataclass", "struct"],
)
def test_an_estimated_size_is_within_a_class_of_the_encoded_one(value: Any) -> None:
    real = len(msgspec.msgpack.encode(value))
    assert real / 2 <= estimated_size(value) <= 2 * real


def test_a_deep_value_is_sized_without_being_walked() -> None:
    value: Any = "x"
    for _ in range(100_000):
        value = [value, value]
    assert estimated_size(value) < 10_000
