"""Linearizability of versioned keys, checked from what the clients saw.

A history is linearizable when every operation can be placed at one instant between its call and
its return so that a single-threaded key-value store gives the same answers. Being linearizable is
local: a history is linearizable exactly when each key's part of it is (Herlihy and Wing,
"Linearizability: a correctness condition for concurrent objects", 1990), so keys are checked one
by one.

The search is Wing and Gong's ("Testing and verifying concurrent objects", 1993): take any
operation that was called before every remaining one returned, apply it to the model, go on, and
go back when stuck. The memo of visited configurations is Lowe's ("Testing for linearizability",
2017). What makes it fast here is that answers carry revisions: the revisions that were seen must
appear in ascending order, so the order of most writes is known beforehand, as in Gibbons and
Korach ("Testing shared memories", 1997), and a branch is left only for writes whose revision
nobody learned.

The model is a register with a revision. Absent is revision 0. Each write and each removal takes a
revision of its own, greater than all before it. Expiry is not modelled: leave out keys that have a
TTL.

An operation whose outcome is unknown (it was cancelled, or raised `OutcomeUnknownError`) may
take effect at any time after its call, or never. Values are compared with `==`; give every write
a value of its own, and keep unknown outcomes to about one in a hundred, or a search may not end.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import NamedTuple

import msgspec

from tertulia.testing.histories import History, Kind, Operation, Outcome, merge

__all__ = ["History", "Kind", "Operation", "Outcome", "Verdict", "Violation", "check", "merge"]

_ABSENT = 0
_UNSEEN = -1  # present, at a revision that nobody saw
_ENDLESS = sys.maxsize  # stands after the last revision, and for "has not returned"
_ANYTHING = object()  # the value under a revision that was named but never read

# A history without a fault takes two steps per write, so this is ten times what the largest run
# planned needs; a search that needs more is lost among writes whose revisions nobody learned.
_MAX_STEPS = 1_000_000
_SHOWN_OPERATIONS = 12  # what fits on a screen; the concurrent window is rarely larger
_SHOWN_VIOLATIONS = 5
_SHOWN_VALUE = 40  # characters

_TWICE = "one revision was given to two writes"
_LATE = "a write got a lower revision than was seen before its call"


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """Why one key's history cannot be explained."""

    key: str
    reason: str
    operations: tuple[Operation, ...]
    """The last write that could be placed, then those operations of which none fits next."""

    def describe(self) -> str:
        """Return the reason and the operations, one a line."""
        lines = [f"key {self.key!r}: {self.reason}"]
        lines += [f"    {_describe(operation)}" for operation in self.operations]
        return "\n".join(lines)


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the check found; at most one violation per key."""

    operations: int
    keys: int
    violations: tuple[Violation, ...] = ()
    undecided: tuple[str, ...] = ()
    """Keys whose search was given up at `max_steps`."""

    @property
    def ok(self) -> bool:
        """Whether every key was decided, and found linearizable."""
        return not self.violations and not self.undecided

    def describe(self) -> str:
        """Return the verdict in words, with the first few violations."""
        size = f"{self.operations} operations on {self.keys} keys"
        if self.ok:
            return f"linearizable: {size}"
        lines = [f"not shown to be linearizable: {size}"]
        lines += [violation.describe() for violation in self.violations[:_SHOWN_VIOLATIONS]]
        if len(self.violations) > _SHOWN_VIOLATIONS:
            lines.append(f"and {len(self.violations) - _SHOWN_VIOLATIONS} more keys")
        if self.undecided:
            lines.append(f"given up on: {', '.join(map(repr, self.undecided[:10]))}")
        return "\n".join(lines)


def check(
    operations: Iterable[Operation],
    *,
    space_wide_revisions: bool = True,
    max_steps: int = _MAX_STEPS,
) -> Verdict:
    """Check whether a history that began with absent keys is linearizable.

    With `space_wide_revisions`, a write must also get a revision that no other key's write got,
    greater than those in all answers that came before its call. `max_steps` bounds the search of
    one key; a key that needs more is reported as undecided.

    Raises `ValueError` for an operation that makes no sense, such as a get without a revision.
    """
    by_key: defaultdict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        _validate(operation)
        by_key[operation.key].append(operation)
    violations: dict[str, Violation] = {}
    undecided: list[str] = []
    for key, history in by_key.items():
        search = _Search(history)
        if not search.run(max_steps):
            undecided.append(key)
        elif search.violation is not None:
            violations[key] = search.violation
    if space_wide_revisions:
        told = [o for history in by_key.values() for o in history if o.revision]
        for found in (_shared_revision(told), _late_revision(told)):
            if found is not None:
                violations.setdefault(found.key, found)
    return Verdict(
        operations=sum(map(len, by_key.values())),
        keys=len(by_key),
        violations=tuple(violations.values()),
        undecided=tuple(undecided),
    )


class _Step(NamedTuple):
    """A configuration of the search: which operations are placed, and what the key holds."""

    called: int  # operations before this index have been called
    waiting: tuple[int, ...]  # those of them that are not placed yet
    position: int  # how many of the seen revisions have appeared
    revision: int  # what the key holds
    floor: int  # the least that the last revision taken can be
    used: tuple[int, ...]  # how many of each group of open operations took effect


class _Effect(NamedTuple):
    """What a write makes of a configuration."""

    position: int
    revision: int
    floor: int


class _Group(NamedTuple):
    """Open operations that can stand in for each other, in the order of their calls.

    They are of one kind and may have written the same orphaned revisions, so the first called is
    used first; this keeps many open operations from multiplying.
    """

    kind: Kind
    makes: frozenset[int]
    operations: list[Operation]

    def spares(self, other: "_Group") -> bool:
        """Whether using this group leaves at least as much open as using the other."""
        # A put can do later whatever a create could have done.
        narrower = self.kind is other.kind or (self.kind is Kind.CREATE and other.kind is Kind.PUT)
        return narrower and self.makes <= other.makes


class _Search:
    """The search for an order that explains one key's history."""

    def __init__(self, history: list[Operation]) -> None:
        self.violation: Violation | None = None
        by_call = sorted(history, key=attrgetter("called_at"))
        self._closed = [o for o in by_call if o.outcome is not Outcome.UNKNOWN]
        self._calls = [o.called_at for o in self._closed]
        self._returns = [o.returned_at or 0 for o in self._closed]
        self._reads = [o.revision if o.kind is Kind.GET else None for o in self._closed]
        self._untold = {i for i, o in enumerate(self._closed) if o.revision is None and _writes(o)}
        self._writers: dict[int, int] = {}  # by revision, the operation that was told it
        self._orphans: dict[int, object] = {}  # the other revisions, with the values read there
        self._index_revisions()
        open_writes = [o for o in by_call if o.outcome is Outcome.UNKNOWN and o.kind is not Kind.GET]
        self._find_makers([*open_writes, *(self._closed[i] for i in sorted(self._untold))])
        self._sort_open_operations(open_writes)
        self._visited: dict[tuple[object, ...], list[tuple[int, ...]]] = {}
        self._furthest: tuple[int, _Step | None] = (-1, None)

    def _index_revisions(self) -> None:
        for index, operation in enumerate(self._closed):
            if operation.revision and _writes(operation):
                first = self._writers.setdefault(operation.revision, index)
                if first != index:
                    self._refute(_TWICE, self._closed[first], operation)
        for operation in self._closed:
            revision = _revision_seen(operation)
            if revision:
                self._see(revision, operation)
        self._seen = [*sorted(self._writers.keys() | self._orphans.keys()), _ENDLESS]

    def _see(self, revision: int, operation: Operation) -> None:
        """Note that the operation saw the key present at this revision."""
        value = operation.value if operation.kind is Kind.GET else _ANYTHING
        if revision not in self._writers:
            known = self._orphans.setdefault(revision, value)
            if known is _ANYTHING:
                self._orphans[revision] = value
            elif value is not _ANYTHING and value != known:
                self._refute("two values were read at one revision", operation)
            return
        writer = self._closed[self._writers[revision]]
        if writer.kind is Kind.DELETE:
            self._refute("the key was seen present at a revision that removed it", writer, operation)
        elif value is not _ANYTHING and value != writer.argument:
            self._refute("another value was read than was written", writer, operation)

    def _find_makers(self, untold: list[Operation]) -> None:
        """Find out which writes of unlearned revision may have written the orphans.

        A write that is an orphan's only maker is pinned to it: it can do nothing else.
        """
        self._makes: defaultdict[int, set[int]] = defaultdict(set)
        self._pinned: dict[int, int] = {}
        self._pins: dict[int, Operation] = {}
        writes = [o for o in untold if o.kind is not Kind.DELETE]
        index = _ByArgument(writes)
        for revision, value in self._orphans.items():
            makers = writes if value is _ANYTHING else index.equal_to(value)
            for operation in makers:
                self._makes[id(operation)].add(revision)
            if not makers:
                self._refute("this was never written", *self._seers(revision))
            if len(makers) == 1:
                other = self._pinned.setdefault(id(makers[0]), revision)
                self._pins[revision] = makers[0]
                if other != revision:
                    seers = self._seers(other) + self._seers(revision)
                    self._refute("one write appeared at two revisions", makers[0], *seers)

    def _seers(self, revision: int) -> list[Operation]:
        return [o for o in self._closed if _revision_seen(o) == revision][:1]

    def _sort_open_operations(self, open_writes: list[Operation]) -> None:
        """Sort the open writes into those used up by what they do, and groups to be counted.

        A write pinned to a revision, or with an expected revision, can take effect but once.
        """
        self._conditional: defaultdict[int, list[Operation]] = defaultdict(list)
        groups: defaultdict[tuple[Kind, frozenset[int]], list[Operation]] = defaultdict(list)
        for operation in open_writes:
            if id(operation) not in self._pinned:
                if operation.expected:
                    self._conditional[operation.expected].append(operation)
                else:
                    kind = operation.kind
                    if kind is Kind.COMPARE_AND_SET:  # it expects revision 0
                        kind = Kind.CREATE
                    groups[kind, frozenset(self._makes[id(operation)])].append(operation)
        self._open = [_Group(kind, makes, members) for (kind, makes), members in groups.items()]
        # Those that spare others come before them.
        self._open.sort(key=lambda group: (group.kind is Kind.PUT, len(group.makes)))
        # Revisions that were asked for but never seen: an unseen write may have had one of them.
        unseen = {o.expected for o in [*self._closed, *open_writes] if o.expected}
        self._asked = sorted(unseen.difference(self._seen))
        self._hoped = {o.expected for o in open_writes}

    def run(self, max_steps: int) -> bool:
        """Search; False means given up. Sets `violation` if there is no order."""
        if self.violation is not None:
            return True
        stack = [(_Step(0, (), 0, _ABSENT, 0, (0,) * len(self._open)), False)]
        for _ in range(max_steps):
            if not stack:
                self._explain()
                return True
            step, with_open = stack.pop()
            if with_open:
                stack.extend((following, False) for following in self._place_open(step))
                continue
            step = self._place_silent(step)
            if not step.waiting:
                return True
            if self._is_new(step):
                stack.append((step, True))  # open operations come last: most never took effect
                stack.extend((following, False) for following in self._place_write(step))
        return False

    def _place_silent(self, step: _Step) -> _Step:
        """Place all that fits now and changes nothing; that never spoils a later choice."""
        calls, returns, reads = self._calls, self._returns, self._reads
        called, revision = step.called, step.revision
        waiting = list(step.waiting)
        while True:
            before = min((returns[i] for i in waiting), default=_ENDLESS)
            while called < len(calls) and calls[called] <= before:
                waiting.append(called)
                before = min(before, returns[called])
                called += 1
            left = [
                i for i in waiting if reads[i] != revision and (reads[i] is not None or not self._fails(i, revision))
            ]
            if len(left) == len(waiting):
                return step._replace(called=called, waiting=tuple(left))
            waiting = left

    def _fails(self, index: int, revision: int) -> bool:
        """Whether the operation is a conflict, and conflicts at this revision."""
        operation = self._closed[index]
        if operation.outcome is not Outcome.CONFLICT or _holds(operation, revision):
            return False
        return operation.revision in (None, revision)

    def _is_new(self, step: _Step) -> bool:
        """Whether no visited configuration leaves all that this one does, and perhaps more."""
        visited = self._visited.setdefault(step[:4], [])
        spent = (step.floor, *step.used)
        if any(all(map(int.__le__, less, spent)) for less in visited):
            return False
        visited.append(spent)
        placed = step.called - len(step.waiting)
        if placed > self._furthest[0]:
            self._furthest = (placed, step)
        return True

    def _place_write(self, step: _Step) -> Iterator[_Step]:
        """Place a write that returned: one that was not told its revision, or the next in line."""
        for index in self._untold.intersection(step.waiting):
            yield from self._place(step, index)
        writer = self._writers.get(self._seen[step.position])
        if writer is not None and writer in step.waiting:
            yield from self._place(step, writer)

    def _place(self, step: _Step, index: int) -> Iterator[_Step]:
        waiting = tuple(i for i in step.waiting if i != index)
        for effect in self._effects(self._closed[index], step):
            yield _Step(step.called, waiting, *effect, step.used)

    def _place_open(self, step: _Step) -> Iterator[_Step]:
        """Let an open write take effect; of two with one effect, only the more dispensable."""
        before = min(self._returns[i] for i in step.waiting)
        pin = self._pins.get(self._seen[step.position])
        once = [*self._conditional.get(step.revision, ()), *([] if pin is None else [pin])]
        free: list[_Effect] = []
        for operation in once:
            if operation.outcome is Outcome.UNKNOWN and operation.called_at <= before:
                free += self._effects(operation, step)
        yield from (_Step(*step[:2], *effect, step.used) for effect in free)
        reached: list[tuple[_Effect, _Group]] = []
        for number, (group, used) in enumerate(zip(self._open, step.used, strict=True)):
            if used == len(group.operations) or group.operations[used].called_at > before:
                continue
            more = (*step.used[:number], used + 1, *step.used[number + 1 :])
            for effect in self._effects(group.operations[used], step):
                cheaper = (other.spares(group) for same, other in reached if same == effect)
                if effect not in free and not any(cheaper):
                    reached.append((effect, group))
                    yield _Step(*step[:2], *effect, more)

    def _effects(self, operation: Operation, step: _Step) -> Iterator[_Effect]:
        """Yield what the write can make of this configuration, if anything; the likeliest last."""
        position, floor, following = step.position, step.floor, self._seen[step.position]
        if not _holds(operation, step.revision):
            return
        if operation.revision is not None:
            if operation.revision == following > floor:
                gone = operation.kind is Kind.DELETE
                yield _Effect(position + 1, _ABSENT if gone else following, following)
        elif operation.kind is Kind.DELETE:
            if floor + 1 < following:
                yield _Effect(position, _ABSENT, floor + 1)
        else:
            if id(operation) not in self._pinned:
                yield from self._unseen_effects(position, floor, following)
            if following > floor and following in self._makes[id(operation)]:
                yield _Effect(position + 1, following, following)

    def _unseen_effects(self, position: int, floor: int, following: int) -> Iterator[_Effect]:
        """Yield effects of a write whose revision no answer tells."""
        unseen = floor + 1
        while unseen in self._asked:
            unseen += 1
        for asked in self._asked:
            if floor < asked < following and (asked < unseen or asked in self._hoped):
                yield _Effect(position, asked, asked)
        if unseen < following:
            yield _Effect(position, _UNSEEN, unseen)

    def _refute(self, reason: str, *operations: Operation) -> None:
        if self.violation is None:
            self.violation = Violation(key=operations[0].key, reason=reason, operations=operations[:_SHOWN_OPERATIONS])

    def _explain(self) -> None:
        """Describe where the search got furthest."""
        step = self._furthest[1]
        if step is None:  # nothing was to be placed
            return
        last = self._writers.get(self._seen[step.position - 1]) if step.position else None
        shown = [] if last is None else [self._closed[last]]
        shown += [self._closed[i] for i in sorted(step.waiting, key=self._returns.__getitem__)]
        held = {_ABSENT: "was absent", _UNSEEN: "held a value that nobody read"}
        state = held.get(step.revision, f"stood at revision {step.revision}")
        self._refute(f"when the key {state}, none of the last {len(step.waiting)} could come next", *shown)


class _ByArgument:
    """Finds writes by what they wrote, also if that cannot be hashed."""

    def __init__(self, writes: list[Operation]) -> None:
        self._hashed: dict[object, list[Operation]] = {}
        self._others: list[Operation] = []
        for operation in writes:
            try:
                self._hashed.setdefault(operation.argument, []).append(operation)
            except TypeError:
                self._others.append(operation)

    def equal_to(self, value: object) -> list[Operation]:
        try:
            found = self._hashed.get(value, [])
        except TypeError:
            found = [o for key, same in self._hashed.items() if key == value for o in same]
        return found + [o for o in self._others if o.argument == value]


def _writes(operation: Operation) -> bool:
    return operation.kind is not Kind.GET and operation.outcome is not Outcome.CONFLICT


def _holds(operation: Operation, revision: int) -> bool:
    """Whether a write's condition holds on a key at `revision`."""
    match operation.kind:
        case Kind.CREATE:
            return revision == _ABSENT
        case Kind.COMPARE_AND_SET:
            return revision == operation.expected
        case Kind.DELETE:
            return revision != _ABSENT and operation.expected in (None, revision)
        case _:
            return True


def _revision_seen(operation: Operation) -> int | None:
    """Return the revision at which the operation found the key present, if it tells one."""
    return operation.expected if _writes(operation) else operation.revision


def _shared_revision(told: list[Operation]) -> Violation | None:
    """Find two writes that got one revision."""
    first: dict[int | None, Operation] = {}
    for write in filter(_writes, told):
        other = first.setdefault(write.revision, write)
        if other is not write:
            return Violation(key=write.key, reason=_TWICE, operations=(other, write))
    return None


def _late_revision(told: list[Operation]) -> Violation | None:
    """Find a write whose revision is not above all that was answered before it was called."""
    answers = iter(sorted(told, key=attrgetter("returned_at")))
    answer = next(answers, None)
    highest: Operation | None = None
    for write in sorted(filter(_writes, told), key=attrgetter("called_at")):
        while answer is not None and (answer.returned_at or 0) < write.called_at:
            if highest is None or (answer.revision or 0) > (highest.revision or 0):
                highest = answer
            answer = next(answers, None)
        if highest is not None and (write.revision or 0) <= (highest.revision or 0):
            return Violation(key=write.key, reason=_LATE, operations=(highest, write))
    return None


def _validate(o: Operation) -> None:
    """Raise ValueError for an operation that makes no sense."""
    conditional = o.kind in (Kind.COMPARE_AND_SET, Kind.DELETE)
    closed = o.outcome is not Outcome.UNKNOWN
    read = closed and o.kind is Kind.GET
    faults = (
        (o.kind is Kind.COMPARE_AND_SET and o.expected is None, "an expected revision is missing"),
        (o.expected is not None and not conditional, "an expected revision makes no sense here"),
        (closed and (o.returned_at is None or o.returned_at < o.called_at), "it has an outcome, but no later return"),
        (o.outcome is Outcome.CONFLICT and o.kind in (Kind.GET, Kind.PUT), "it cannot conflict"),
        (not closed and o.revision is not None, "of unknown outcome, it cannot tell a revision"),
        (closed and _writes(o) and o.revision == _ABSENT, "a write cannot have revision 0"),
        (read and o.revision is None, "a read must tell its revision"),
        (read and o.revision == _ABSENT and o.value is not None, "absent, it cannot have a value"),
    )
    fault = next((text for found, text in faults if found), None)
    if fault is not None:
        raise ValueError(f"{fault}: {_describe(o)}")


def _describe(o: Operation) -> str:
    written = f" {_short(o.argument)}" if o.kind is not Kind.GET and o.kind is not Kind.DELETE else ""
    expected = "" if o.expected is None else f" expected={o.expected}"
    end = "…" if o.returned_at is None or o.outcome is Outcome.UNKNOWN else o.returned_at
    told = "" if o.revision is None else f" revision {o.revision}"
    read = f" {_short(o.value)}" if o.kind is Kind.GET and o.revision else ""
    return f"[{o.called_at}, {end}] {o.client}: {o.kind}{written}{expected} -> {o.outcome}{read}{told}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_VALUE else text[: _SHOWN_VALUE - 1] + "…"
