"""The comparison in the rows of the course text's table: figures where they were measured, else words."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from math import exp, log
from statistics import median
from typing import Any

from msgspec import Struct

from tertulia.compare.units import bytes_text, seconds_text
from tertulia.compare.use_cases import (
    broadcast,
    caching,
    coordination,
    event_streaming,
    request_response,
    state_sharing,
)
from tertulia.selection.profile import Cell
from tertulia.selection.requirement import Paradigm, UseCase

__all__ = ["CLEARLY", "NAMES", "NONE", "USE_CASE_NAMES", "Aspect", "aspects", "lines_of_code", "winners"]

NONE = "–"
NAMES = {Paradigm.MEMORY: "shared memory", Paradigm.MESSAGES: "messages", Paradigm.HYBRID: "both in one commit"}
USE_CASE_NAMES = {use_case: use_case.value.replace("_", " ") for use_case in UseCase}
CLEARLY = 1.2  # times faster; below it the next measurement may say the opposite

_MODULES = {
    UseCase.STATE_SHARING: state_sharing,
    UseCase.REQUEST_RESPONSE: request_response,
    UseCase.EVENT_STREAMING: event_streaming,
    UseCase.BROADCAST: broadcast,
    UseCase.CACHING: caching,
    UseCase.COORDINATION: coordination,
}
_HEADINGS = {"through memory": Paradigm.MEMORY, "through messages": Paradigm.MESSAGES, "hybrid": Paradigm.HYBRID}

_COUPLING = {
    Paradigm.MEMORY: "by keys and the shape of values; writers need not know readers, nor be there at the same time",
    Paradigm.MESSAGES: "by names or topics and the shape of messages; a mailbox has to be there, its agent does not",
    Paradigm.HYBRID: "by keys and names; a message says which key at which revision",
}
_DEBUGGING = {
    Paradigm.MEMORY: "values can be looked at as they are; watch, history, access log; waiting is not visible",
    Paradigm.MESSAGES: "each message has a sender, a path and an end: log, inbox, dead letters with tracebacks",
    Paradigm.HYBRID: "both, and what changed together can be seen to have changed together",
}


class Aspect(Struct, frozen=True, kw_only=True):
    """One row: what is compared, and what is to be said of it for each paradigm that was measured."""

    name: str
    measured: bool
    said: dict[Paradigm, str]


def aspects(cells: Sequence[Cell]) -> list[Aspect]:
    """Return the rows for cells of one engine, with agents in one manner; there must be one at least."""
    paradigms = [paradigm for paradigm in Paradigm if any(cell.paradigm is paradigm for cell in cells)]

    def row(name: str, say: Callable[[list[Cell], Paradigm], str], *, measured: bool = True) -> Aspect:
        said = {
            paradigm: say([cell for cell in cells if cell.paradigm is paradigm], paradigm) for paradigm in paradigms
        }
        return Aspect(name=name, measured=measured, said=said)

    fastest = winners(cells)
    return [
        row("latency", lambda own, _: _over_use_cases(own, lambda cell: cell.p50, seconds_text)),
        row("throughput", lambda own, _: _over_use_cases(own, lambda cell: cell.throughput, _rate)),
        row("scalability", lambda own, _: _scalability(own)),
        row("consistency", lambda own, _: _consistency(own)),
        row("coupling", lambda _, paradigm: _COUPLING[paradigm], measured=False),
        row("complexity", _complexity),
        row("fault tolerance", lambda own, _: _fault_tolerance(own)),
        row("debugging", lambda _, paradigm: _DEBUGGING[paradigm], measured=False),
        row("bytes read", lambda own, _: _over_use_cases(own, lambda cell: cell.bytes_read, bytes_text)),
        row("use cases", lambda _, paradigm: _won(fastest, paradigm)),
    ]


def winners(cells: Sequence[Cell]) -> dict[UseCase, tuple[Paradigm, float]]:
    """Return for each use case the paradigm of the least latency, and how many times the next one has."""
    found: dict[UseCase, tuple[Paradigm, float]] = {}
    for use_case in UseCase:
        costs = sorted(
            (
                _typical([cell for cell in cells if (cell.use_case, cell.paradigm) == (use_case, paradigm)]),
                paradigm.value,
            )
            for paradigm in Paradigm
            if any((cell.use_case, cell.paradigm) == (use_case, paradigm) for cell in cells)
        )
        if costs:
            times = costs[1][0] / max(costs[0][0], 1e-9) if len(costs) > 1 else 1.0
            found[use_case] = (Paradigm(costs[0][1]), times)
    return found


def _typical(cells: Sequence[Cell]) -> float:
    """Return the geometric mean of the latencies, in which each point counts as much as any other."""
    return exp(sum(log(max(cell.p50, 1e-9)) for cell in cells) / len(cells))


def _won(fastest: dict[UseCase, tuple[Paradigm, float]], paradigm: Paradigm) -> str:
    won = [
        f"{USE_CASE_NAMES[use_case]} ({times:.1f}×)"
        for use_case, (winner, times) in fastest.items()
        if winner is paradigm and times >= CLEARLY
    ]
    return f"fastest at {', '.join(won)}" if won else "fastest at none"


# --- Cells to words ------------------------------------------------------------------------------


def _over_use_cases(cells: Sequence[Cell], figure: Callable[[Cell], float], text: Callable[[float], str]) -> str:
    """Return a figure's median over the use cases at the smallest point of each, and its range."""
    figures = [figure(cell) for cell in _smallest(cells)]
    low, high = min(figures), max(figures)
    return text(low) if low == high else f"{text(median(figures))} ({text(low)} to {text(high)})"


def _smallest(cells: Iterable[Cell]) -> list[Cell]:
    """Return one cell of each use case: that of the smallest team and payload."""
    found: dict[UseCase, Cell] = {}
    for cell in sorted(cells, key=lambda cell: (cell.agents, cell.payload)):
        found.setdefault(cell.use_case, cell)
    return list(found.values())


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}/s"


def _scalability(cells: Sequence[Cell]) -> str:
    """Say how latency and throughput change from the smallest to the largest team, at equal payload."""
    pairs: list[tuple[Cell, Cell]] = []
    for first in _smallest(cells):
        alike = [cell for cell in cells if (cell.use_case, cell.payload) == (first.use_case, first.payload)]
        last = max(alike, key=lambda cell: cell.agents)
        if last.agents > first.agents:
            pairs.append((first, last))
    if not pairs:
        return NONE
    latency = _mean_ratio(pairs, lambda cell: cell.p50)
    throughput = _mean_ratio(pairs, lambda cell: cell.throughput)
    smallest, largest = min(first.agents for first, _ in pairs), max(last.agents for _, last in pairs)
    return f"from {smallest} to {largest} agents: latency ×{_times(latency)}, throughput ×{_times(throughput)}"


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 99.5 else f"{ratio:.2g}"  # noqa: PLR2004 - where two digits would need a power


def _mean_ratio(pairs: Sequence[tuple[Cell, Cell]], figure: Callable[[Cell], float]) -> float:
    logs = [log(max(figure(last), 1e-12) / max(figure(first), 1e-12)) for first, last in pairs]
    return exp(sum(logs) / len(logs))


def _consistency(cells: Sequence[Cell]) -> str:
    lost = sum(cell.lost_updates for cell in cells)
    units = sum(cell.units for cell in cells)
    ages = [cell.staleness for cell in cells if cell.staleness]
    stale = f"; copies out of date for {seconds_text(median(ages))}" if ages else ""
    return f"{lost:,} of {units:,} lost{stale}"


def _fault_tolerance(cells: Sequence[Cell]) -> str:
    faults = {(cell.use_case, cell.engine): cell.faults for cell in cells if cell.faults is not None}
    if not faults:
        return NONE
    units, lost, repeated, stuck = (
        sum(getattr(one, name) for one in faults.values()) for name in ("units", "lost", "repeated", "stuck")
    )
    return f"one killed half-way: {lost:,} lost, {repeated:,} repeated, {stuck:,} stuck of {units:,}"


def _complexity(cells: Sequence[Cell], paradigm: Paradigm) -> str:
    lines = [lines_of_code(use_case).get(paradigm, 0) for use_case in dict.fromkeys(cell.use_case for cell in cells)]
    written = [count for count in lines if count]
    low, high = min(written), max(written)
    return f"{median(written):.0f} lines{'' if low == high else f' ({low} to {high})'} for the same work"


def lines_of_code(use_case: UseCase) -> dict[Paradigm, int]:
    """Count the lines with code of each way in which a use case is built here: those below its heading."""
    found: dict[Paradigm, int] = {}
    module: Any = _MODULES[use_case]
    for section in re.split(r"^# --- ", inspect.getsource(module), flags=re.MULTILINE)[1:]:
        heading, *lines = section.splitlines()
        for start, paradigm in _HEADINGS.items():
            if heading.startswith(start):
                body = lines[: _end(lines)]
                found[paradigm] = sum(1 for line in body if line.strip() and not line.lstrip().startswith(("#", '"""')))
    return found


def _end(lines: Sequence[str]) -> int:
    """Return where the section's functions end and the module's table of teams begins."""
    return next((number for number, line in enumerate(lines) if line.startswith("TEAMS")), len(lines))
