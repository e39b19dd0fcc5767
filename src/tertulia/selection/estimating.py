"""From the points that were measured to any team and payload.

Where exactly this was measured, that is the answer. Elsewhere costs are taken to grow along straight lines between
the measured points, on logarithmic scales, along the two axes one after the other; beyond the outermost points they
stay as they are there, and the estimate says that it is `beyond` what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import exp, log

from msgspec import Struct

from tertulia.selection.profile import Cell

__all__ = ["Estimate", "estimate"]

Figure = Callable[[Cell], float]


class Estimate(Struct, frozen=True):
    """A figure; `measured` when it is one that was measured, `beyond` when no measured points enclose it."""

    value: float
    measured: bool
    beyond: bool


def estimate(cells: Sequence[Cell], agents: int, payload: int, figure: Figure) -> Estimate:
    """Return a figure of cells that differ in agents and payload alone; there must be one at least."""
    exact = [cell for cell in cells if (cell.agents, cell.payload) == (agents, payload)]
    if exact:
        return Estimate(figure(exact[-1]), measured=True, beyond=False)
    anchor = min(cells, key=lambda cell: _distance(cell, agents, payload))
    along_agents = [(cell.agents, figure(cell)) for cell in cells if cell.payload == anchor.payload]
    along_payload = [(cell.payload, figure(cell)) for cell in cells if cell.agents == anchor.agents]
    value = figure(anchor)
    value *= _growth(along_agents, anchor.agents, agents) * _growth(along_payload, anchor.payload, payload)
    beyond = not (_encloses(along_agents, agents) and _encloses(along_payload, payload))
    return Estimate(value, measured=False, beyond=beyond)


def _distance(cell: Cell, agents: int, payload: int) -> float:
    return abs(log(cell.agents / agents)) + abs(log(cell.payload / payload))


def _growth(points: Sequence[tuple[int, float]], start: int, end: int) -> float:
    """Return how many times larger the figure is at `end` than at `start`."""
    return exp(_at(points, end) - _at(points, start))


def _at(points: Sequence[tuple[int, float]], place: int) -> float:
    """Return the logarithm of the figure at a place, between points or at the outermost."""
    known = sorted((log(where), log(max(value, 1e-12))) for where, value in dict(points).items())
    x = min(max(log(place), known[0][0]), known[-1][0])
    for (left, low), (right, high) in pairwise(known):
        if x <= right:
            return low + (high - low) * (x - left) / (right - left)
    return known[-1][1]


def _encloses(points: Sequence[tuple[int, float]], place: int) -> bool:
    places = [where for where, _ in points]
    return min(places) <= place <= max(places)
