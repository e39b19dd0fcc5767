"""Plots as SVG: drawn in the colours of the page they are on, and readable on a phone.

Each plot scales with its place; its text is sized for a column of 360 pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from math import ceil, floor, log10

from msgspec import Struct

__all__ = ["Bar", "bars", "lines"]

WIDTH = 360
LEFT, RIGHT, TOP, BOTTOM = 52, 24, 10, 34
ROW = 16
GAP = 6  # between bars of different labels

Text = Callable[[float], str]


class Bar(Struct, frozen=True, kw_only=True):
    """One bar: a label, a value, marks beyond it (higher percentiles), and the series that gives its colour."""

    label: str
    series: str
    value: float
    marks: tuple[float, ...] = ()


def bars(title: str, rows: Sequence[Bar], text: Text) -> str:
    """Return horizontal bars on a logarithmic scale, with marks for what lies beyond each.

    Rows of one label that follow each other are a group: the label is written once, and a gap is before the next.
    """
    values = [value for row in rows for value in (row.value, *row.marks) if value > 0]
    if not values:
        return ""
    scale = _Log(values, LEFT + 70, WIDTH - RIGHT)
    begins = [not number or row.label != rows[number - 1].label for number, row in enumerate(rows)]
    height = TOP + ROW * len(rows) + GAP * (sum(begins) - 1) + BOTTOM
    parts = [_grid(scale, TOP, height - BOTTOM, text)]
    y = TOP - ROW - GAP
    for row, first in zip(rows, begins, strict=True):
        y += ROW + GAP * first
        if first:
            parts.append(f'<text x="{LEFT + 64}" y="{y + 11}" text-anchor="end">{escape(row.label)}</text>')
        if row.value > 0:
            x = scale.at(row.value)
            parts.append(
                f'<rect class="{row.series}" x="{scale.start:.1f}" y="{y + 2}" width="{max(x - scale.start, 1):.1f}" '
                f'height="{ROW - 5}" rx="2"><title>{escape(row.label)}: {escape(text(row.value))}</title></rect>'
            )
        parts += [
            f'<path class="mark {row.series}" d="M{scale.at(mark):.1f} {y + 1}v{ROW - 3}">'
            f"<title>{escape(text(mark))}</title></path>"
            for mark in row.marks
            if mark > 0
        ]
    return _svg(title, height, parts)


def lines(title: str, series: Mapping[str, Sequence[tuple[float, float]]], text: Text, across: str) -> str:
    """Return lines through points (x, y), both axes logarithmic; `across` says what x is."""
    points = [point for line in series.values() for point in line if point[1] > 0]
    if not points:
        return ""
    height = 220
    x_scale = _Log([x for x, _ in points], LEFT, WIDTH - RIGHT, tight=True)
    y_scale = _Log([y for _, y in points], height - BOTTOM, TOP)
    parts = [_levels(y_scale, text)]
    parts += [
        f'<text x="{x_scale.at(x):.1f}" y="{height - BOTTOM + 14}" text-anchor="middle">{x:g}</text>'
        for x in sorted({x for x, _ in points})
    ]
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{height - 6}" text-anchor="middle">{escape(across)}</text>')
    for name, line in series.items():
        places = [(x_scale.at(x), y_scale.at(y), x, y) for x, y in sorted(line) if y > 0]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in places)
        parts.append(f'<polyline class="{name}" points="{path}"/>')
        parts += [
            f'<circle class="{name}" cx="{x:.1f}" cy="{y:.1f}" r="3">'
            f"<title>{at:g}: {escape(text(value))}</title></circle>"
            for x, y, at, value in places
        ]
    return _svg(title, height, parts)


class _Log:
    """A logarithmic scale from a range of values to places."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, tight: bool = False) -> None:
        low, high = min(values), max(values)
        self._low = log10(low) if tight else floor(log10(low))
        self._high = log10(high) if tight else ceil(log10(high))
        if self._high <= self._low:
            self._low, self._high = self._low - 0.5, self._low + 0.5
        self.start, self.end = start, end

    def at(self, value: float) -> float:
        """Return the place of a value."""
        share = (log10(value) - self._low) / (self._high - self._low)
        return self.start + (self.end - self.start) * share

    def decades(self) -> list[float]:
        """Return the powers of ten in the range, few enough to be read."""
        powers = range(ceil(self._low), floor(self._high) + 1)
        return [10.0**power for power in powers[:: max(1, ceil(len(powers) / 5))]]


def _grid(scale: _Log, top: float, bottom: float, text: Text) -> str:
    return "".join(
        f'<path class="grid" d="M{scale.at(value):.1f} {top}V{bottom}"/>'
        f'<text x="{scale.at(value):.1f}" y="{bottom + 14}" text-anchor="middle">{escape(text(value))}</text>'
        for value in scale.decades()
    )


def _levels(scale: _Log, text: Text) -> str:
    return "".join(
        f'<path class="grid" d="M{LEFT} {scale.at(value):.1f}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 4}" y="{scale.at(value) + 3:.1f}" text-anchor="end">{escape(text(value))}</text>'
        for value in scale.decades()
    )


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title, quote=True)}">{"".join(parts)}</svg></figure>'
    )
