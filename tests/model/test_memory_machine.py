"""Shared memory, driven at random by Hypothesis, equals a plain dict at every step."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tertulia import ChangeKind, MemoryChange, Snapshot, Transaction
from tertulia.errors import KeyExistsError, KeyNotFoundError, VersionConflictError
from tertulia.records import KEEP
from tertulia.testing.clock import ManualClock, come_to_rest
from tertulia.watching import MemoryWatch
from tests.figures import Figures
from tests.model.engines import EngineCase, Place, Wrap, machine_settings, on_every_engine
from tests.model.memory_model import Event, Kept, MemoryModel, assert_same

T = TypeVar("T")
Step = tuple[str, str, Any]

KEYS = ("a:1", "a:2", "b:1", "we*rd", "ñ")
PATTERNS = ("*", "a:*", "?:1", "a:1", "[ab]:[!2]", "we[*]rd", "nothing:*")
AGENTS = ("ana", "bo")
VALUES: tuple[Any, ...] = (None, 0, 2**63, 1.5, "", "text", b"\x00\xff", [], [1, {"deep": ["er"]}])
STALE = 10**15  # a version and a revision that no key ever gets to

keys = st.sampled_from(KEYS)
patterns = st.sampled_from(PATTERNS)
agents = st.sampled_from(AGENTS)
values = st.sampled_from(VALUES)
ttls = st.none() | st.integers(1, 20).map(float)
tags = st.sets(st.sampled_from(("red", "blue")))
kept = st.just(...)
expectations = st.sampled_from(("nothing", "version", "revision", "wrong version", "wrong revision", "first revision"))
steps = st.lists(
    st.tuples(
        st.sampled_from(("read", "write", "create", "update", "delete")), st.sampled_from(("a:1", "b:1")), values
    ),
    min_size=1,
    max_size=6,
)


@dataclass
class Watching:
    """An open watch, and where in the model's log it stands."""

    pattern: str
    changes: MemoryWatch
    position: int


class MemoryMachine(RuleBasedStateMachine):
    """Every rule does one thing to the memory and to the model, and compares what both say."""

    engine: ClassVar[EngineCase]
    wrap: ClassVar[Wrap | None] = None
    snapshots = Bundle("snapshots")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.place = Place(self.engine)
        self.space = self.run(self.place.open(clock=self.clock, wrap=type(self).wrap))
        self.memory = self.space.memory
        self.model = MemoryModel()
        self.watches: list[Watching] = []
        self.called_back: list[tuple[str, str, Any]] = []

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @property
    def now(self) -> float:
        return self.clock.time()

    @initialize()
    def listen(self) -> None:
        self.run(self.memory.subscribe("*", lambda *change: self.called_back.append(change)))

    # --- writing ---

    @rule(key=keys, value=values, owner=agents, ttl=ttls, tags=tags)
    def write(self, key: str, value: Any, owner: str, ttl: float | None, tags: set[str]) -> None:
        planned = self.model.planned(key, value, self.now, owner=owner, ttl=ttl, tags=tags)
        self.model.accept(key, planned, self.run(self.memory.write(key, value, owner=owner, ttl=ttl, tags=tags)))

    @rule(key=keys, value=values, owner=agents, ttl=ttls, tags=tags)
    def create(self, key: str, value: Any, owner: str, ttl: float | None, tags: set[str]) -> None:
        creating = self.memory.create(key, value, owner=owner, ttl=ttl, tags=tags)
        if key in self.model.keys:
            self.must_raise(KeyExistsError, creating)
        else:
            planned = self.model.planned(key, value, self.now, owner=owner, ttl=ttl, tags=tags)
            self.model.accept(key, planned, self.run(creating))

    @rule(key=keys, value=values, updater=agents, expectation=expectations, ttl=ttls | kept, tags=tags | kept)
    def update(self, key: str, value: Any, updater: str, expectation: str, ttl: Any, tags: Any) -> None:
        old = self.model.keys.get(key)
        expected = self.expected(old, expectation)
        updating = self.memory.update(
            key, value, updater=updater, **expected, ttl=KEEP if ttl is ... else ttl, tags=KEEP if tags is ... else tags
        )
        if old is None:
            self.must_raise(KeyNotFoundError, updating)
        elif any(getattr(old, name.removeprefix("expected_")) != at for name, at in expected.items()):
            conflict = self.must_raise(VersionConflictError, updating)
            assert (conflict.actual_version, conflict.actual_revision) == (old.version, old.revision)
        else:
            planned = self.model.planned(key, value, self.now, owner=None, ttl=ttl, tags=tags)
            self.model.accept(key, planned, self.run(updating))

    def expected(self, old: Kept | None, expectation: str) -> dict[str, int]:
        """Return what an update expects; a key's first revision is right until it is written again."""
        match expectation:
            case "version":
                return {"expected_version": old.version if old else 1}
            case "revision":
                return {"expected_revision": old.revision if old else self.model.revision}
            case "first revision":
                return {"expected_revision": old.created_revision if old else 1}
            case "wrong version":
                return {"expected_version": STALE}
            case "wrong revision":
                return {"expected_revision": STALE}
            case _:
                return {}

    @rule(key=keys, expected=values, rightly=st.booleans(), value=values, requester=agents)
    def compare_and_swap(self, key: str, expected: Any, rightly: bool, value: Any, requester: str) -> None:  # noqa: FBT001
        old = self.model.read(key)
        expected = old.value if rightly and old else expected
        swapped = self.run(self.memory.compare_and_swap(key, expected, value, requester=requester))
        assert swapped == (old is not None and old.value == expected)
        if swapped:
            self.read_back(key, self.model.planned(key, value, self.now, owner=None, ttl=..., tags=...))

    @rule(key=keys, updater=agents, has_default=st.booleans())
    def modify(self, key: str, updater: str, has_default: bool) -> None:  # noqa: FBT001
        old = self.model.read(key)
        options = {"default": "fresh"} if has_default else {}
        modifying = self.memory.modify(key, lambda value: repr(value)[:20], updater=updater, **options)
        if old is None and not has_default:
            self.must_raise(KeyNotFoundError, modifying)
            return
        value = repr("fresh" if old is None else old.value)[:20]
        owner = updater if old is None else None
        planned = self.model.planned(key, value, self.now, owner=owner, ttl=..., tags=...)
        self.model.accept(key, planned, self.run(modifying))

    @rule(key=keys, requester=agents, expectation=st.sampled_from(("nothing", "version", "wrong version")))
    def delete(self, key: str, requester: str, expectation: str) -> None:
        old = self.model.keys.get(key)
        deleting = self.memory.delete(key, requester=requester, **self.expected(old, expectation))
        if old is not None and expectation == "wrong version":
            self.must_raise(VersionConflictError, deleting)
        else:
            assert self.run(deleting) == self.model.remove(key)

    # --- reading ---

    @rule(key=keys, reader=agents)
    def read(self, key: str, reader: str) -> None:
        kept = self.model.read(key)
        seen = self.run(self.memory.read(key, reader=reader, default="absent"))
        assert (type(seen), seen) == ((str, "absent") if kept is None else (type(kept.value), kept.value))

    @rule(key=keys, reader=agents)
    def read_with_metadata(self, key: str, reader: str) -> None:
        kept = self.model.read(key)
        entry = self.run(self.memory.read_with_metadata(key, reader=reader))
        if entry is None or kept is None:
            assert entry is kept
        else:
            assert_same(key, kept, entry)

    @rule(pattern=patterns, tags=st.none() | tags, owner=st.none() | agents)
    def list_keys(self, pattern: str, tags: set[str] | None, owner: str | None) -> None:
        listed = self.run(self.memory.list_keys(pattern, tags=tags, owner=owner))
        assert listed == self.model.listed(pattern, None if tags is None else tuple(tags), owner)

    @rule()
    def stats(self) -> None:
        stats = self.run(self.memory.get_stats())
        owners = [kept.owner for kept in self.model.keys.values()]
        assert stats.total_entries == len(owners)
        assert stats.entries_by_owner == {owner: owners.count(owner) for owner in set(owners)}
        assert stats.revision >= self.model.revision

    # --- time ---

    @rule(seconds=st.integers(1, 15))
    def time_passes(self, seconds: int) -> None:
        self.run(self.clock.advance(float(seconds)))
        self.model.expire(self.now)

    @rule(seconds=st.integers(-10, 15), looked_at=keys)
    def the_civil_clock_jumps(self, seconds: int, looked_at: str) -> None:
        """An expired key is absent at once, whether or not anything swept it out."""
        self.clock.jump(float(seconds))
        self.model.expire(self.now)
        self.read(looked_at, "ana")
        self.list_keys("*", None, None)

    # --- the whole ---

    @rule(target=snapshots, pattern=patterns)
    def snapshot(self, pattern: str) -> tuple[Snapshot, dict[str, Kept]]:
        taken = self.run(self.memory.snapshot(pattern))
        cut = self.model.cut(pattern)
        assert [entry.key for entry in taken.entries] == list(cut)
        for entry in taken.entries:
            assert_same(entry.key, cut[entry.key], entry)
        return taken, cut

    @rule(taken=snapshots, requester=agents)
    def restore(self, taken: tuple[Snapshot, dict[str, Kept]], requester: str) -> None:
        snapshot, cut = taken
        wanted = {key: kept for key, kept in cut.items() if kept.expires is None or kept.expires > self.now}
        there = {key: self.model.keys[key].revision for key in self.model.listed(snapshot.pattern)}
        changed = [key for key, kept in wanted.items() if there.get(key) != kept.revision]
        gone = [key for key in there if key not in wanted]
        assert self.run(self.memory.restore(snapshot, requester=requester)) == len(changed) + len(gone)
        for key in changed:
            then = wanted[key]
            ttl = None if then.expires is None else then.expires - self.now
            self.read_back(
                key, self.model.planned(key, then.value, self.now, owner=then.owner, ttl=ttl, tags=then.tags)
            )
        for key in gone:
            self.model.remove(key)

    @rule(steps=steps, agent=agents, disturbed=st.booleans(), cancelled=st.booleans())
    def transaction(self, steps: list[Step], agent: str, disturbed: bool, cancelled: bool) -> None:  # noqa: FBT001
        """Several operations on two keys are committed together, or not at all."""
        self.run(self.transact(steps, agent, disturbed=disturbed, cancelled=cancelled))

    async def transact(self, steps: list[Step], agent: str, *, disturbed: bool, cancelled: bool) -> None:
        transaction = self.space.transaction()
        plan = TransactionPlan(self.model)
        for operation, key, value in steps:
            await plan.apply(transaction, operation, key, value, agent)
        if disturbed and plan.relied_on:
            key = min(plan.relied_on)
            planned = self.model.planned(key, "disturbed", self.now, owner="bo")
            self.model.accept(key, planned, await self.memory.write(key, "disturbed", owner="bo"))
        if cancelled:
            transaction.cancel()
        elif plan.fails or (disturbed and plan.relied_on):
            with pytest.raises((KeyExistsError, KeyNotFoundError, VersionConflictError)):
                await transaction.commit()
        else:
            await transaction.commit()
            await self.adopt_writes(plan)
        self.compare_all(await self.memory.snapshot())

    async def adopt_writes(self, plan: TransactionPlan) -> None:
        planned = {
            key: self.model.planned(key, now=self.now, **write)
            for key, write in plan.writes.items()
            if write is not None
        }
        for key, kept in planned.items():
            await self.adopt(key, kept)
        for key, write in plan.writes.items():
            if write is None:
                self.model.remove(key)

    # --- watching ---

    @precondition(lambda self: len(self.watches) < 3)
    @rule(pattern=patterns, resumed=st.none() | st.integers(0, 20))
    def watch(self, pattern: str, resumed: int | None) -> None:
        """Open a watch from now on, or after an earlier revision that was learned."""
        known = [0, *(place + 1 for place, event in enumerate(self.model.log) if event.revision is not None)]
        position = len(self.model.log) if resumed is None else known[max(len(known) - 1 - resumed, 0)]
        after = None if resumed is None else (self.model.log[position - 1].revision if position else 0)
        changes = self.memory.watch(pattern, after=after)
        self.run(changes.__aenter__())
        self.watches.append(Watching(pattern, changes, position))

    @precondition(lambda self: self.watches)
    @rule(number=st.integers(0, 2))
    def observe(self, number: int) -> None:
        self.run(self.drain(self.watches[number % len(self.watches)]))

    async def drain(self, watching: Watching) -> None:
        """Take what the watch has, and compare it with what was committed since."""
        await self.memory.list_keys()
        due = [event for event in self.model.log[watching.position :] if fnmatchcase(event.key, watching.pattern)]
        watching.position = len(self.model.log)
        async with asyncio.timeout(5):
            seen = [await anext(watching.changes) for _ in due]
        assert_observed(seen, due)
        more = asyncio.ensure_future(anext(watching.changes))
        await come_to_rest()
        assert not more.done(), f"a change was observed that was never committed: {more}"
        more.cancel()
        await asyncio.wait([more])

    # --- inside ---

    def must_raise(self, kind: type[T], work: Coroutine[Any, Any, Any]) -> T:
        with pytest.raises(kind) as raised:  # type: ignore[type-var]
            self.run(work)
        return raised.value  # type: ignore[return-value]

    def read_back(self, key: str, planned: Kept) -> None:
        """Compare what a call wrote whose answer does not show it."""
        self.run(self.adopt(key, planned))

    async def adopt(self, key: str, planned: Kept) -> None:
        planned.reads += 1
        entry = await self.memory.read_with_metadata(key, reader="ana")
        assert entry is not None, f"{key} was written, and is absent"
        self.model.accept(key, planned, entry)

    def compare_all(self, snapshot: Snapshot) -> None:
        assert [entry.key for entry in snapshot.entries] == sorted(self.model.keys)
        for entry in snapshot.entries:
            assert_same(entry.key, self.model.keys[entry.key], entry)

    def teardown(self) -> None:
        try:
            if sys.exception() is None:  # after a failure, more of them would only hide the first
                self.compare_everything()
        finally:
            self.run(self.space.aclose())
            self.loop.close()
            self.place.remove()

    def compare_everything(self) -> None:
        for watching in self.watches:
            self.run(self.drain(watching))
        self.compare_all(self.run(self.memory.snapshot()))
        self.run(self.compare_callbacks())

    async def compare_callbacks(self) -> None:
        """The callback was told of everything that happened, key by key in order."""
        await come_to_rest()
        for key in KEYS:
            told = [(event in ("write", "update"), value) for name, event, value in self.called_back if name == key]
            assert told == [(event.kind == "put", event.value) for event in self.model.log if event.key == key]


class TransactionPlan:
    """What a transaction does, as far as it has been put together, and whether its commit must fail."""

    def __init__(self, model: MemoryModel) -> None:
        self.model = model
        self.relied_on: set[str] = set()
        self.writes: dict[str, dict[str, Any] | None] = {}  # the last write of each key; None for a delete
        self.fails = False

    async def apply(self, transaction: Transaction, operation: str, key: str, value: Any, agent: str) -> None:
        if operation == "read":
            await self.read(transaction, key, agent)
        elif operation == "create" and self.writes.get(key):
            with pytest.raises(KeyExistsError):
                transaction.create(key, value, owner=agent)
        elif operation == "update" and key in self.writes and self.writes[key] is None:
            with pytest.raises(KeyNotFoundError):
                transaction.update(key, value, updater=agent)
        else:
            self.change(transaction, operation, key, value, agent)

    async def read(self, transaction: Transaction, key: str, agent: str) -> None:
        if key in self.writes:
            mine = self.writes[key]
            expected = "absent" if mine is None else mine["value"]
        else:
            there = self.model.keys.get(key) if key in self.relied_on else self.model.read(key)
            expected = "absent" if there is None else there.value
            self.relied_on.add(key)
        assert await transaction.read(key, reader=agent, default="absent") == expected

    def change(self, transaction: Transaction, operation: str, key: str, value: Any, agent: str) -> None:
        untouched = key not in self.writes
        there = key in self.model.keys
        match operation:
            case "write":
                transaction.write(key, value, owner=agent)
                self.writes[key] = {"value": value, "owner": agent, "ttl": None, "tags": ()}
            case "create":
                transaction.create(key, value, owner=agent, ttl=5.0)
                self.fails |= untouched and there
                self.writes[key] = {"value": value, "owner": agent, "ttl": 5.0, "tags": ()}
            case "update":
                transaction.update(key, value, updater=agent)
                self.fails |= untouched and not there
                before = self.writes.get(key) or {"owner": None, "ttl": ..., "tags": ...}
                self.writes[key] = {**before, "value": value}
            case _:
                transaction.delete(key, requester=agent)
                self.writes[key] = None


def assert_observed(seen: list[MemoryChange], due: list[Event]) -> None:
    """Every change was observed, once, in the order of revisions, and key by key as it was committed."""
    revisions = [change.revision for change in seen]
    assert revisions == sorted(set(revisions))
    for key in {event.key for event in due} | {change.key for change in seen}:
        observed = [change for change in seen if change.key == key]
        committed = [event for event in due if event.key == key]
        assert [(change.kind.value, change.value) for change in observed] == [(e.kind, e.value) for e in committed]
        for change, event in zip(observed, committed, strict=True):
            assert event.revision in (None, change.revision)
            assert (change.entry is None) == (change.kind is not ChangeKind.PUT)


@pytest.mark.campaign
@pytest.mark.timeout(3_600)  # for a failure: making its example small takes minutes
@on_every_engine
def test_memory_equals_a_plain_dict_whatever_is_done_to_it(engine: EngineCase, figures: Figures):
    tried = machine_settings()
    figures(examples=tried.max_examples, steps=tried.max_examples * tried.stateful_step_count)
    machine = type("Machine", (MemoryMachine,), {"engine": engine})
    run_state_machine_as_test(machine, settings=tried)
