"""The list of cases, and what a case may require of an engine."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tertulia.engines.base import Capabilities
from tertulia.testing.conformance.harness import Harness

Check = Callable[[Harness], Awaitable[None]]

LONG_HISTORY = 20_000  # changes; making more than that takes longer than a case should
LONG_WINDOW = 7 * 24 * 3600.0  # seconds; also with a manual clock a window has to end at some time


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """An ability that a case needs. `lacking` is the reason of the skip on an engine that declares not to have it."""

    name: str
    lacking: str
    holds: Callable[[Capabilities], bool]


DURABLE = Requirement(
    name="durable",
    lacking="the engine declares that it is not durable",
    holds=lambda can: can.durable,
)
MULTI_PROCESS = Requirement(
    name="multi_process",
    lacking="the engine declares that one process alone can use a space",
    holds=lambda can: can.multi_process,
)
MANUAL_CLOCK = Requirement(
    name="manual_clock",
    lacking="the engine declares that its time is not the injected clock's, and the case needs long or exact times",
    holds=lambda can: can.manual_clock,
)
EXACT_BOUNDS = Requirement(
    name="exact_bounds",
    lacking="the engine declares that concurrent senders may exceed a mailbox's size",
    holds=lambda can: can.exact_bounds,
)
EXACT_ACCESS_COUNTS = Requirement(
    name="exact_access_counts",
    lacking="the engine declares that it does not count every read",
    holds=lambda can: can.exact_access_counts,
)
LINEARIZABLE_READS = Requirement(
    name="linearizable_reads",
    lacking="the engine declares that a read may miss a commit that has returned",
    holds=lambda can: can.linearizable_reads,
)
BOUNDED_HISTORY = Requirement(
    name="bounded_history",
    lacking=f"the engine declares a history of more than {LONG_HISTORY:,} changes, too long to outrun here",
    holds=lambda can: can.history <= LONG_HISTORY,
)
BOUNDED_DEDUP = Requirement(
    name="bounded_dedup",
    lacking="the engine declares that it remembers ids for longer than a week",
    holds=lambda can: can.dedup_window <= LONG_WINDOW,
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One promise, and the function that raises unless an engine keeps it.

    `subject` is the module it stands in, `promise` its docstring. A case runs on a space of its own.
    """

    subject: str
    name: str
    promise: str
    requires: tuple[Requirement, ...]
    check: Check

    @property
    def id(self) -> str:
        """The case's name, unique in the kit."""
        return f"{self.subject}-{self.name}"

    def __str__(self) -> str:
        return self.id

    def unmet(self, capabilities: Capabilities) -> str:
        """Return why an engine of these capabilities cannot be asked to keep the promise; empty if it can."""
        return "; ".join(need.lacking for need in self.requires if not need.holds(capabilities))


class Registry:
    """Cases by id, in the order they were written; none can be replaced."""

    def __init__(self) -> None:
        self._cases: dict[str, Case] = {}

    def add(self, check: Check, requires: tuple[Requirement, ...], name: str, promise: str) -> None:
        """Register a case. Raises ValueError when there is one of that subject and name."""
        case = Case(
            subject=check.__module__.rpartition(".")[2],
            name=name,
            promise=promise,
            requires=requires,
            check=check,
        )
        if case.id in self._cases:
            raise ValueError(f"there is a case {case.id!r} already, and cases cannot be overridden")
        self._cases[case.id] = case

    def all(self) -> tuple[Case, ...]:
        """Return all cases."""
        return tuple(self._cases.values())


_REGISTRY = Registry()


def case(*requires: Requirement) -> Callable[[Check], Check]:
    """Register the decorated async function, whose docstring is the promise, as a case."""

    def register(check: Check) -> Check:
        _REGISTRY.add(check, requires, getattr(check, "__name__", ""), inspect.getdoc(check) or "")
        return check

    return register


def cases() -> tuple[Case, ...]:
    """Return every case of the kit, always in the same order."""
    return _REGISTRY.all()
