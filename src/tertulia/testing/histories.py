"""Histories: what concurrent clients did to versioned keys, and what they saw, recorded to be checked."""

import itertools
from collections.abc import Callable, Iterable
from enum import StrEnum
from operator import attrgetter
from typing import Any

import msgspec


class Kind(StrEnum):
    """What an operation asks for."""

    GET = "get"
    PUT = "put"
    """Write, whatever is there."""
    CREATE = "create"
    """Write if the key is absent, else conflict."""
    COMPARE_AND_SET = "compare_and_set"
    """Write if the key stands at the expected revision (0: absent), else conflict."""
    DELETE = "delete"
    """Remove what is there, or only at the expected revision; else, if absent too, conflict."""


class Outcome(StrEnum):
    """How an operation ended, as its client saw it."""

    OK = "ok"
    CONFLICT = "conflict"
    UNKNOWN = "unknown"


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One call and its answer.

    `called_at` and `returned_at` come from one clock for the whole history: a logical counter
    or `time.monotonic_ns()`, which the processes of one Linux machine share. Equal instants
    count as concurrent.
    """

    key: str
    kind: Kind
    client: str
    called_at: int
    returned_at: int | None = None
    argument: Any = None
    """The value to write."""
    expected: int | None = None
    """The revision that `COMPARE_AND_SET` demands and `DELETE` may demand."""
    outcome: Outcome = Outcome.UNKNOWN
    value: Any = None
    """The value that `GET` returned."""
    revision: int | None = None
    """The revision in the answer: of what was read (0: absent), of what was written (None if the
    client was not told), or of what stood in the way of a conflict (None likewise)."""
    number: int = 0
    """Which of its client's operations this is; names the operation in `merge`."""


class History:
    """Records the operations of concurrent clients.

    The default clock is a counter that grows by one with each call and each return, so the order
    is exact whatever the wall clock does. It serves the tasks of one event loop. For several
    processes pass `clock=time.monotonic_ns` and give every client a name of its own; encode
    `operations` with `msgspec`, and join the parts with `merge`. Values should then be such
    as survive encoding unchanged.

    `sink` is called with each operation twice, open at its call and complete at its return. A
    process that may be killed writes both to a pipe or a file; `merge` keeps the later one.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], int] | None = None,
        sink: Callable[[Operation], None] | None = None,
    ) -> None:
        self._clock = clock or itertools.count(1).__next__
        self._sink = sink
        self._numbers = itertools.count(1)
        self._operations: dict[int, Operation] = {}

    @property
    def operations(self) -> list[Operation]:
        """All operations in the order of their calls; those still running have no outcome."""
        return list(self._operations.values())

    def invoke(
        self,
        kind: Kind,
        key: str,
        *,
        client: str,
        argument: object = None,
        expected: int | None = None,
        at: int | None = None,
    ) -> Operation:
        """Record a call, just before it is made; returns what `complete` takes."""
        operation = Operation(
            key=key,
            kind=kind,
            client=client,
            called_at=self._clock() if at is None else at,
            argument=argument,
            expected=expected,
            number=next(self._numbers),
        )
        return self._keep(operation)

    def complete(
        self,
        operation: Operation,
        *,
        outcome: Outcome = Outcome.OK,
        value: object = None,
        revision: int | None = None,
        at: int | None = None,
    ) -> Operation:
        """Record the answer, just after it came.

        An operation that never completes, or completes with `Outcome.UNKNOWN`, stays open: it
        may take effect at any later time or never.
        """
        complete = msgspec.structs.replace(
            operation,
            returned_at=self._clock() if at is None else at,
            outcome=outcome,
            value=value,
            revision=revision,
        )
        return self._keep(complete)

    def _keep(self, operation: Operation) -> Operation:
        self._operations[operation.number] = operation
        if self._sink is not None:
            self._sink(operation)
        return operation


def merge(*parts: Iterable[Operation]) -> list[Operation]:
    """Join histories; of an operation that was recorded open and complete, keep the complete one.

    Operations are told apart by client and number, so a client's name is used by one `History`.
    """
    merged: dict[tuple[str, int], Operation] = {}
    for operation in itertools.chain(*parts):
        name = (operation.client, operation.number)
        if operation.returned_at is not None or name not in merged:
            merged[name] = operation
    return sorted(merged.values(), key=attrgetter("called_at"))
