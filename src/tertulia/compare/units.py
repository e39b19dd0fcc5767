"""Figures as people read them: three digits and a unit."""

from __future__ import annotations

__all__ = ["bytes_text", "percent_text", "range_text", "seconds_text"]

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_SMALL_SHARE = 0.01


def seconds_text(seconds: float) -> str:
    """Return a duration: `4.46 s`, `12.3 ms`, `950 µs`."""
    size, unit = _time_unit(seconds)
    return f"{_three_digits(seconds / size)} {unit}"


def range_text(median: float, lower: float, upper: float) -> str:
    """Return two durations in the unit of what is between them: `49.2 to 76.6 ms`."""
    size, unit = _time_unit(median)
    return f"{_three_digits(lower / size)} to {_three_digits(upper / size)} {unit}"


def _time_unit(seconds: float) -> tuple[float, str]:
    """Return the largest unit of which there is at least one, after rounding."""
    return next((unit for unit in _TIMES if seconds >= unit[0] * 0.9995), _TIMES[-1])


def bytes_text(size: float) -> str:
    """Return a size in decimal units: `512 B`, `6.10 MB`."""
    for unit_size, unit in _SIZES:
        if size >= unit_size * 0.9995:
            return f"{_three_digits(size / unit_size)} {unit}"
    return f"{size:.0f} B"


def percent_text(share: float) -> str:
    """Return a share as people say it: `less than 1 %`, `12 %`."""
    return "less than 1 %" if share < _SMALL_SHARE else f"{share * 100:.0f} %"


def _three_digits(value: float) -> str:
    """Return a number from 1 to 1,000 with three digits; smaller and larger ones as they are."""
    decimals = 0 if value >= 99.95 else 1 if value >= 9.995 else 2  # noqa: PLR2004 - where rounding adds a digit
    return f"{value:,.{decimals}f}"
