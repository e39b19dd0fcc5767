"""The choice: of all ways that are allowed, the one whose measured cost is least."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from msgspec import Struct

from tertulia.selection.constraints import RuledOut, allowed_engines, is_safe
from tertulia.selection.estimating import estimate
from tertulia.selection.profile import Cell, Profile
from tertulia.selection.requirement import CommunicationRequirement, Paradigm

__all__ = ["Candidate", "Choice", "choose"]

GROWTH = 8  # how much larger a team is assumed to become that is going to grow
MAX_MEASURED_AGENTS = 64


class Candidate(Struct, frozen=True):
    """One way to communicate and what it costs: `cost` decides, in seconds, the less the better.

    `figures_from` is the engine whose figures these are: the engine itself, where it was measured. `safe` is False
    where the measurement showed a loss that the requirement does not allow.
    """

    paradigm: Paradigm
    engine: str
    cost: float
    latency: float
    throughput: float
    bytes_read: float
    measured: bool
    beyond: bool
    figures_from: str
    safe: bool


class Choice(Struct, frozen=True):
    """The best candidate first, then the others by cost; those that are not safe last."""

    candidates: tuple[Candidate, ...]
    ruled_out: tuple[RuledOut, ...]

    @property
    def best(self) -> Candidate:
        """What is chosen."""
        return self.candidates[0]

    @property
    def rival(self) -> Candidate | None:
        """The best candidate of another paradigm."""
        return next((one for one in self.candidates[1:] if one.paradigm is not self.best.paradigm), None)

    @property
    def overruled(self) -> Candidate | None:
        """What would have cost less, but is not safe enough."""
        unsafe = [one for one in self.candidates if not one.safe and one.cost < self.best.cost]
        return min(unsafe, key=lambda one: one.cost, default=None) if self.best.safe else None


class NotMeasuredError(LookupError):
    """The profile has no figure at all for the use case."""


def choose(requirement: CommunicationRequirement, profile: Profile) -> Choice:
    """Return the choice. Raises NoEngineFitsError, NotMeasuredError."""
    allowed, ruled_out = allowed_engines(requirement)
    engine, figures_from = _engine(requirement, profile, allowed)
    found = [_candidate(requirement, profile, paradigm, engine, figures_from) for paradigm in Paradigm]
    candidates = sorted((one for one in found if one is not None), key=lambda one: (not one.safe, one.cost))
    if not candidates:
        raise NotMeasuredError(f"the profile has no measurement of {requirement.use_case.value}")
    return Choice(tuple(candidates), ruled_out)


def _engine(requirement: CommunicationRequirement, profile: Profile, allowed: Sequence[str]) -> tuple[str, str]:
    """Return the simplest engine that is allowed, and the engine whose figures stand for it.

    On one machine the simplest is the fastest too: each further engine does what the one before it does, and more.
    """
    engine = allowed[0]
    measured = {cell.engine for cell in profile.cells if cell.use_case is requirement.use_case}
    if engine in measured or not measured:
        return engine, engine
    nearest = min(measured, key=lambda one: abs(_ORDER.get(one, 0) - _ORDER[engine]))
    return engine, nearest


_ORDER = {"memory": 0, "file": 1, "nats": 2}


def _candidate(
    requirement: CommunicationRequirement, profile: Profile, paradigm: Paradigm, engine: str, figures_from: str
) -> Candidate | None:
    cells = _cells(requirement, profile, paradigm, figures_from)
    if not cells:
        return None

    def at(agents: int, figure: Callable[[Cell], float]) -> float:
        return estimate(cells, agents, requirement.payload, figure).value

    now = requirement.agents
    sizes = [now, min(now * GROWTH, max(now, MAX_MEASURED_AGENTS))] if requirement.scalable else [now]
    figures = _figures(requirement)
    costs = [at(size, figure) for size in sizes for figure in figures]
    place = estimate(cells, now, requirement.payload, _latency)
    return Candidate(
        paradigm=paradigm,
        engine=engine,
        cost=prod(costs) ** (1 / len(costs)),
        latency=place.value,
        throughput=at(now, lambda cell: cell.throughput),
        bytes_read=at(now, lambda cell: cell.bytes_read),
        measured=place.measured and engine == figures_from,
        beyond=place.beyond,
        figures_from=figures_from,
        safe=all(is_safe(cell, requirement) for cell in cells),
    )


def _cells(requirement: CommunicationRequirement, profile: Profile, paradigm: Paradigm, engine: str) -> list[Cell]:
    """Return the cells to go by: those with the agents as they are going to be, where there are any."""
    cells = [
        cell
        for cell in profile.cells
        if (cell.use_case, cell.paradigm, cell.engine) == (requirement.use_case, paradigm, engine)
    ]
    wanted = "processes" if requirement.processes or requirement.machines else "tasks"
    return [cell for cell in cells if cell.agents_as == wanted] or cells


def _figures(requirement: CommunicationRequirement) -> list[Callable[[Cell], float]]:
    """Return what counts: all in seconds, so that their geometric mean is one."""
    figures: list[Callable[[Cell], float]] = []
    if requirement.latency_sensitive:
        figures.append(_slow)
    if requirement.high_throughput:
        figures.append(lambda cell: 1 / cell.throughput if cell.throughput else float("inf"))
    return figures or [_latency]


def _latency(cell: Cell) -> float:
    return cell.p50


def _slow(cell: Cell) -> float:
    return cell.p50 if cell.p95 is None else cell.p95
