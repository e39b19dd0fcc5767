import asyncio
import heapq
import itertools
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tertulia.testing.linearizability import History, Kind, Operation, Outcome, check, merge

GET, PUT, CREATE, SET, DELETE = Kind
OK, CONFLICT, UNKNOWN = Outcome


def op(kind: Kind, called: int, returned: int | None, **fields: Any) -> Operation:
    fields = {"key": "k", "client": "c", "outcome": UNKNOWN if returned is None else OK} | fields
    return Operation(kind=kind, called_at=called, returned_at=returned, **fields)


def put(called: int, returned: int | None, value: object, revision: int | None = None, **fields: Any):
    return op(PUT, called, returned, argument=value, revision=revision, **fields)


def get(called: int, returned: int, value: object, revision: int, **fields: Any):
    return op(GET, called, returned, value=value, revision=revision, **fields)


# --- Histories made by an atomic register ---


class Simulation:
    """Clients call a register that is atomic; each call takes effect somewhere before it returns.

    `unknown` is the share of calls whose answer is lost, half of them before they took effect;
    `told` is the share of writes whose answer carries the revision. Values repeat if `values` is given.
    """

    def __init__(
        self, seed: int, *, keys: int = 3, unknown: float = 0.02, told: float = 0.9, values: int | None = None
    ) -> None:
        self.random = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self.keys, self.unknown, self.told, self.values = keys, unknown, told, values
        self.state: dict[str, tuple[int, Any]] = {}
        self.revision = 0
        self.known: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.count = itertools.count()

    def run(self, operations: int, *, clients: int = 8) -> list[Operation]:
        agenda = [(self.random.randrange(9), next(self.count), f"c{i}", None) for i in range(clients)]
        heapq.heapify(agenda)
        history: list[Operation] = []
        started = 0
        while agenda:
            now, _, client, running = heapq.heappop(agenda)
            if running is None:
                if started < operations:
                    started += 1
                    self.wait(agenda, now, client, self.call(now, client))
            elif running.returned_at is None:
                answered = self.take_effect(running)
                if answered.outcome is UNKNOWN:
                    history.append(answered)
                    self.wait(agenda, now, client, None)
                else:
                    self.wait(agenda, now, client, answered)
            else:
                history.append(msgspec.structs.replace(running, returned_at=now))
                if running.revision is not None:
                    self.known[client, running.key] = running.revision
                self.wait(agenda, now, client, None)
        return sorted(history, key=lambda o: o.called_at)

    def wait(self, agenda: list[Any], now: int, client: str, running: Operation | None):
        heapq.heappush(agenda, (now + self.random.randint(1, 50), next(self.count), client, running))

    def call(self, now: int, client: str) -> Operation:
        kind = self.random.choices([GET, PUT, CREATE, SET, DELETE], [50, 20, 8, 15, 7])[0]
        key = f"key {self.random.randrange(self.keys)}"
        value = next(self.count) if self.values is None else self.random.randrange(self.values)
        return Operation(
            key=key,
            kind=kind,
            client=client,
            called_at=now,
            argument=None if kind in (GET, DELETE) else value,
            expected=self.known[client, key] if kind is SET else None,
        )

    def take_effect(self, called: Operation) -> Operation:
        lost = self.random.random() < self.unknown
        if lost and self.random.random() < 0.5:
            return called
        answer = self.apply(called)
        if lost:
            return called
        return msgspec.structs.replace(called, returned_at=called.called_at, **answer)

    def apply(self, o: Operation) -> dict[str, Any]:
        revision, value = self.state.get(o.key, (0, None))
        if o.kind is GET:
            return {"outcome": OK, "value": value, "revision": revision}
        if not holds(o, revision):
            return {"outcome": CONFLICT, "revision": revision if self.random.random() < 0.5 else None}
        self.revision += self.random.choice((1, 1, 2))
        if o.kind is DELETE:
            del self.state[o.key]
            return {"outcome": OK}
        self.state[o.key] = (self.revision, o.argument)
        return {"outcome": OK, "revision": self.revision if self.random.random() < self.told else None}


def holds(o: Operation, revision: int) -> bool:
    match o.kind:
        case Kind.CREATE:
            return revision == 0
        case Kind.COMPARE_AND_SET:
            return revision == o.expected
        case Kind.DELETE:
            return revision != 0 and o.expected in (None, revision)
        case _:
            return True


@pytest.mark.parametrize("seed", range(30))
def test_what_an_atomic_register_answers_is_linearizable(seed: int):
    history = Simulation(seed).run(600)

    verdict = check(history)

    assert verdict.ok, verdict.describe()
    assert verdict.operations == 600


@pytest.mark.parametrize("seed", range(15))
def test_repeated_values_and_untold_revisions_are_no_reason_for_alarm(seed: int):
    history = Simulation(seed, keys=6, unknown=0.03, told=0.5, values=3).run(600)

    assert check(history).ok


@pytest.mark.parametrize("seed", range(5))
def test_many_operations_of_unknown_outcome_are_no_reason_for_alarm(seed: int):
    history = Simulation(seed, keys=5, unknown=0.3, told=1.0).run(500)

    assert check(history).ok


def test_a_long_history_of_one_key_needs_no_recursion():
    history = Simulation(1, keys=1, unknown=0.0, told=1.0).run(20_000)

    assert check(history).ok


def test_a_client_that_hangs_through_the_whole_run_does_not_slow_the_check():
    history = Simulation(2, keys=1, unknown=0.0).run(5_000)
    last = max(o.returned_at or 0 for o in history)
    history.append(get(0, last + 1, None, 0, key="key 0", client="sleeper"))

    assert check(history).ok


# --- Seeded bugs ---


def test_a_stale_read_is_caught():
    verdict = check([put(1, 2, "old", 1), put(3, 4, "new", 2), get(5, 6, "old", 1)])

    assert not verdict.ok
    assert [o.called_at for o in verdict.violations[0].operations] == [3, 5]
    assert "stood at revision 2" in verdict.describe()


def test_a_read_beside_a_write_may_return_either_value():
    writes = [put(1, 2, "old", 1), put(3, 6, "new", 2)]

    assert check([*writes, get(4, 5, "old", 1)]).ok
    assert check([*writes, get(4, 5, "new", 2)]).ok


def test_reading_the_new_value_and_then_the_old_one_is_caught():
    writes = [put(1, 2, "old", 1), put(3, 9, "new", 2)]

    assert not check([*writes, get(4, 5, "new", 2), get(6, 7, "old", 1)]).ok


def test_a_lost_update_is_caught():
    sets = [
        op(SET, 3, 6, argument=value, expected=1, revision=revision, client=value)
        for value, revision in (("a", 2), ("b", 3))
    ]

    assert not check([put(1, 2, "start", 1), *sets]).ok
    assert check([put(1, 2, "start", 1), sets[0]]).ok


def test_a_write_that_vanished_is_caught():
    assert not check([put(1, 2, "a", 1), get(3, 4, None, 0)]).ok


def test_a_write_applied_twice_is_caught():
    history = [
        put(1, 2, "a", 1),
        put(3, 4, "b", 2),
        get(5, 6, "a", 3),  # the first write came again, at a new revision
    ]

    verdict = check(history)

    assert verdict.violations[0].reason == "this was never written"


def test_a_revision_reused_on_one_key_is_caught():
    verdict = check([put(1, 4, "a", 7), put(2, 5, "b", 7)])

    assert verdict.violations[0].reason == "one revision was given to two writes"


def test_a_revision_reused_on_another_key_is_caught():
    history = [put(1, 4, "a", 7), put(2, 5, "b", 7, key="other")]

    assert not check(history).ok
    assert check(history, space_wide_revisions=False).ok


def test_a_revision_that_went_back_is_caught():
    assert not check([put(1, 2, "a", 5), put(3, 4, "b", 4)]).ok


def test_a_revision_that_went_back_on_another_key_is_caught():
    history = [put(1, 2, "a", 5), put(3, 4, "b", 4, key="other")]

    assert not check(history).ok
    assert check(history, space_wide_revisions=False).ok


def test_writes_side_by_side_may_take_revisions_in_either_order():
    assert check([put(1, 4, "a", 5), put(2, 3, "b", 4, key="other"), put(1, 4, "c", 3)]).ok


def test_a_create_that_succeeded_twice_is_caught():
    creates = [op(CREATE, 1, 4, argument=v, revision=r, client=v) for v, r in (("a", 1), ("b", 2))]

    assert not check(creates).ok
    removed = op(DELETE, 2, 3, client="c")
    assert check([creates[0], removed, msgspec.structs.replace(creates[1], revision=3)]).ok


def test_a_create_refused_on_an_absent_key_is_caught():
    assert not check([op(CREATE, 1, 2, argument="a", outcome=CONFLICT)]).ok


def test_a_compare_and_set_refused_at_the_expected_revision_is_caught():
    refused = op(SET, 3, 4, argument="b", expected=1, outcome=CONFLICT)

    assert not check([put(1, 2, "a", 1), refused]).ok
    assert check([put(1, 2, "a", 1), msgspec.structs.replace(refused, expected=9)]).ok


def test_a_conflict_that_names_the_wrong_revision_is_caught():
    refused = op(SET, 5, 6, argument="c", expected=9, outcome=CONFLICT, revision=1)

    assert not check([put(1, 2, "a", 1), put(3, 4, "b", 2), refused]).ok


def test_a_delete_that_was_ignored_is_caught():
    history = [put(1, 2, "a", 1), op(DELETE, 3, 4), get(5, 6, "a", 1)]

    assert not check(history).ok


def test_a_delete_that_found_nothing_where_something_was_is_caught():
    assert not check([put(1, 2, "a", 1), op(DELETE, 3, 4, outcome=CONFLICT)]).ok
    assert check([op(DELETE, 1, 2, outcome=CONFLICT)]).ok


def test_a_delete_at_an_expected_revision_spares_any_other():
    history = [put(1, 2, "a", 1), put(3, 4, "b", 2), op(DELETE, 5, 6, expected=1)]

    assert not check(history).ok
    history[-1] = msgspec.structs.replace(history[-1], expected=2)
    assert check([*history, get(7, 8, None, 0)]).ok


def test_a_key_read_at_the_revision_of_its_removal_is_caught():
    history = [put(1, 2, "a", 1), op(DELETE, 3, 4, revision=2), get(5, 6, "a", 2)]

    assert not check(history).ok


def test_a_value_never_written_is_caught():
    assert not check([get(1, 2, "ghost", 1)]).ok
    verdict = check([put(1, 2, "a", 1), get(3, 4, "ghost", 1)])
    assert verdict.violations[0].reason == "another value was read than was written"


def test_two_values_read_at_one_revision_are_caught():
    history = [put(1, None, "a"), put(1, None, "b"), get(3, 4, "a", 1), get(5, 6, "b", 1)]

    assert check(history).violations[0].reason == "two values were read at one revision"


def test_a_write_read_before_it_was_called_is_caught():
    assert not check([get(1, 2, "a", 1), put(3, 4, "a", 1)]).ok


def test_a_write_of_unknown_outcome_may_take_effect_late_or_never():
    doubtful = put(1, None, "a")

    assert check([doubtful, get(2, 3, None, 0)]).ok
    assert check([doubtful, get(2, 3, None, 0), get(90, 91, "a", 1)]).ok
    assert check([doubtful, put(2, 3, "b", 5), get(4, 5, "a", 6)]).ok


def test_a_write_of_unknown_outcome_applied_twice_is_caught():
    history = [put(1, None, "a"), get(2, 3, "a", 1), put(4, 5, "b", 2), get(6, 7, "a", 3)]

    verdict = check(history)

    assert verdict.violations[0].reason == "one write appeared at two revisions"


def test_a_write_of_unknown_outcome_that_came_and_went_is_caught():
    assert not check([put(1, None, "a"), get(2, 3, "a", 1), get(4, 5, None, 0)]).ok


def test_an_unknown_outcome_explains_a_conflict_only_if_it_leaves_room_for_a_revision():
    refused = op(SET, 5, 6, argument="c", expected=1, outcome=CONFLICT)
    history = [put(1, 2, "a", 1), put(3, None, "b"), refused]

    assert check([*history, put(7, 8, "d", 3)]).ok
    assert not check([*history, put(7, 8, "d", 2)]).ok


def test_an_unknown_outcome_is_open_even_if_the_call_returned():
    raised = put(1, 2, "a", outcome=UNKNOWN)

    assert check([raised, get(3, 4, None, 0), get(5, 6, "a", 1)]).ok


def test_values_that_cannot_be_hashed_are_compared_too():
    doubtful = [put(1, None, {"n": [1]}), put(1, None, {"n": [2]})]

    assert check([*doubtful, get(2, 3, {"n": [2]}, 4)]).ok
    assert not check([*doubtful, get(2, 3, {"n": [3]}, 4)]).ok


def test_only_the_broken_keys_are_named():
    good = [put(1, 2, "a", 1, key=f"good {i}", client=f"c{i}") for i in range(3)]
    good = [msgspec.structs.replace(o, revision=i + 1) for i, o in enumerate(good)]

    verdict = check([*good, get(3, 4, "b", 2, key="bad")])

    assert [violation.key for violation in verdict.violations] == ["bad"]
    assert verdict.keys == 4


@pytest.mark.parametrize("seed", range(10))
def test_one_stale_read_in_a_long_history_is_caught_and_shown(seed: int):
    history = Simulation(seed, keys=2, unknown=0.01).run(2_000)
    reads = [i for i, o in enumerate(history) if o.kind is GET and o.revision]
    position = reads[len(reads) // 2 + 17 * seed]
    victim = history[position]
    old = next(o for o in history if o.kind is GET and o.key == victim.key and o.revision)
    history[position] = msgspec.structs.replace(victim, value=old.value, revision=old.revision)

    verdict = check(history)

    assert [violation.key for violation in verdict.violations] == [victim.key]
    assert history[position] in verdict.violations[0].operations


def test_a_search_cut_short_is_not_called_linearizable():
    history = Simulation(1, keys=1).run(100)

    verdict = check(history, max_steps=10)

    assert not verdict.ok
    assert verdict.undecided == ("key 0",)
    assert "given up on: 'key 0'" in verdict.describe()


@pytest.mark.parametrize(
    "senseless",
    [
        op(SET, 1, 2, argument="a", revision=1),
        op(PUT, 1, 2, argument="a", revision=1, expected=3),
        op(PUT, 1, 2, argument="a", revision=0),
        op(PUT, 1, 2, argument="a", outcome=CONFLICT),
        op(GET, 1, 2),
        op(GET, 1, 2, value="a", revision=0),
        op(GET, 2, 1, revision=0),
        op(GET, 1, None, revision=0, outcome=OK),
        put(1, None, "a", 1),
    ],
)
def test_an_operation_that_makes_no_sense_is_refused(senseless: Operation):
    with pytest.raises(ValueError, match=r"\[\d, "):
        check([senseless])


# --- Against every order there is ---


def brute_force(operations: list[Operation]) -> bool:
    """Try every order, every choice of unknown outcomes, and every revision that was not told."""
    closed = [o for o in operations if o.outcome is not UNKNOWN]
    doubtful = [o for o in operations if o.outcome is UNKNOWN and o.kind is not GET]
    told = [r for o in operations for r in (o.revision, o.expected) if r]
    limit = max(told, default=0) + len(operations) + 1

    def search(left: list[Operation], spare: list[Operation], state: tuple[int, Any], last: int) -> bool:
        if not left:
            return True
        first_return = min(o.returned_at or 0 for o in left)
        for o in left:
            rest = [other for other in left if other is not o]
            if o.called_at <= first_return and any(
                search(rest, spare, *after) for after in answers(o, state, last, limit)
            ):
                return True
        for o in spare:
            rest = [other for other in spare if other is not o]
            if o.called_at <= first_return and any(
                search(left, rest, *after) for after in effects(o, state, last, limit)
            ):
                return True
        return False

    return search(closed, doubtful, (0, None), 0)


def answers(o: Operation, state: tuple[int, Any], last: int, limit: int) -> Iterator[tuple[Any, int]]:
    if o.kind is GET:
        if (o.revision, o.value) == state:
            yield state, last
    elif o.outcome is CONFLICT:
        if not holds(o, state[0]) and o.revision in (None, state[0]):
            yield state, last
    else:
        yield from effects(o, state, last, limit)


def effects(o: Operation, state: tuple[int, Any], last: int, limit: int) -> Iterator[tuple[Any, int]]:
    if holds(o, state[0]):
        for revision in range(last + 1, limit + 1) if o.revision is None else [o.revision]:
            if revision > last:
                yield ((0, None) if o.kind is DELETE else (revision, o.argument)), revision


@st.composite
def arbitrary_operations(draw: st.DrawFn) -> Operation:
    kind = draw(st.sampled_from(Kind))
    outcomes = [OK, OK, UNKNOWN] if kind in (GET, PUT) else [OK, OK, CONFLICT, UNKNOWN]
    outcome = draw(st.sampled_from(outcomes))
    called = draw(st.integers(0, 6))
    revision = draw(st.integers(0, 4)) or None
    value = None
    if kind is GET:
        revision = revision or 0
        value = draw(st.sampled_from("ab")) if revision else None
    expected = draw(st.integers(0, 4)) if kind is SET else None
    if kind is DELETE:
        expected = draw(st.none() | st.integers(1, 3))
    open_end = outcome is UNKNOWN
    return op(
        kind,
        called,
        None if open_end else called + draw(st.integers(0, 4)),
        argument=None if kind in (GET, DELETE) else draw(st.sampled_from("ab")),
        expected=expected,
        outcome=outcome,
        revision=None if open_end else revision,
        value=None if open_end else value,
    )


@st.composite
def nearly_right_histories(draw: st.DrawFn) -> list[Operation]:
    """A history of an atomic register in which at most two operations were replaced."""
    simulation = Simulation(
        draw(st.integers(0, 10_000)),
        keys=1,
        unknown=draw(st.sampled_from((0.0, 0.3, 0.6))),
        told=draw(st.sampled_from((0.2, 0.8))),
        values=2,
    )
    history = simulation.run(draw(st.integers(2, 6)), clients=3)
    for _ in range(draw(st.integers(0, 2))):
        position = draw(st.integers(0, len(history) - 1))
        old = history[position]
        new = draw(arbitrary_operations())
        returned = None if new.outcome is UNKNOWN else max(old.called_at, old.returned_at or 0)
        history[position] = msgspec.structs.replace(new, key=old.key, called_at=old.called_at, returned_at=returned)
    return history


@settings(max_examples=400, deadline=None)
@given(st.lists(arbitrary_operations(), max_size=5) | nearly_right_histories())
def test_the_verdict_is_that_of_trying_every_order(history: list[Operation]):
    verdict = check(history)

    event("linearizable" if verdict.ok else "not linearizable")
    assert verdict.ok == brute_force(history)
    assert not verdict.undecided


# --- Recording ---


def test_the_recorder_orders_concurrent_clients_by_a_counter():
    history = History()
    store: dict[str, tuple[int, str]] = {}
    revisions = itertools.count(1)

    async def client(name: str) -> None:
        for number in range(20):
            call = history.invoke(PUT, "k", client=name, argument=f"{name} {number}")
            await asyncio.sleep(0)
            store["k"] = (next(revisions), f"{name} {number}")
            await asyncio.sleep(0)
            history.complete(call, revision=store["k"][0] if store["k"][1] == call.argument else None)
            call = history.invoke(GET, "k", client=name)
            await asyncio.sleep(0)
            revision, value = store["k"]
            history.complete(call, value=value, revision=revision)

    async def all_clients() -> None:
        await asyncio.gather(*(client(name) for name in "abcd"))

    asyncio.run(all_clients())

    operations = history.operations
    instants = [t for o in operations for t in (o.called_at, o.returned_at)]
    assert len(set(instants)) == 320
    assert check(operations).ok


def test_a_call_that_never_completes_stays_open():
    history = History()
    history.invoke(PUT, "k", client="a", argument="x")
    raised = history.invoke(DELETE, "k", client="b")
    history.complete(raised, outcome=UNKNOWN)

    assert [o.outcome for o in history.operations] == [UNKNOWN, UNKNOWN]
    assert check(history.operations).ok


def test_histories_of_several_processes_are_merged_after_encoding():
    parts: list[bytes] = []
    for name in ("a", "b"):
        history = History(clock=time.monotonic_ns)
        call = history.invoke(PUT, "k", client=name, argument=[name, 1])
        history.complete(call, revision=len(parts) + 1)
        parts.append(msgspec.msgpack.encode(history.operations))

    merged = merge(*(msgspec.msgpack.decode(part, type=list[Operation]) for part in parts))

    assert [o.client for o in merged] == ["a", "b"]
    assert check(merged).ok
    late = get(time.monotonic_ns(), time.monotonic_ns(), ["a", 1], 1)
    assert not check([*merged, late]).ok


def test_what_a_killed_process_recorded_last_stays_open():
    lines: list[bytes] = []
    history = History(sink=lambda operation: lines.append(msgspec.json.encode(operation)))
    history.complete(history.invoke(PUT, "k", client="a", argument=1, at=10), revision=1, at=20)
    history.invoke(PUT, "k", client="a", argument=2, at=30)

    merged = merge(msgspec.json.decode(line, type=Operation) for line in lines)

    assert [(o.called_at, o.returned_at, o.outcome) for o in merged] == [
        (10, 20, OK),
        (30, None, UNKNOWN),
    ]
