"""Rough costs of each channel, by engine, to start from."""

from __future__ import annotations

from tertulia._rules.routing import Line

MEASURED_ON = "2026-11-23"

# By engine, in the order of the channels: message, pointer, memory, request.
LINES: dict[str, tuple[Line, Line, Line, Line]] = {
    "memory": (
        Line(6e-6, 5e-6, 2e-10, 1e-10, 6e-6, 3e-10),
        Line(3e-5, 8e-6, 9e-10, 0.0, 3e-5, 3e-10),
        Line(5e-6, 0.0, 3e-10, 0.0, 2e-6, 3e-10),
        Line(3e-5, 0.0, 6e-10, 0.0, 0.0, 0.0),
    ),
    "file": (
        Line(5e-5, 2e-5, 3e-9, 3e-9, 9e-5, 3e-9),
        Line(1.5e-4, 2e-5, 8e-9, 0.0, 1.8e-4, 3e-9),
        Line(6e-5, 0.0, 8e-9, 0.0, 1e-5, 2e-9),
        Line(4e-4, 0.0, 6e-9, 0.0, 0.0, 0.0),
    ),
    "nats": (
        Line(5e-4, 1e-4, 3e-9, 3e-9, 9e-4, 3e-9),
        Line(1.5e-3, 1e-4, 8e-9, 0.0, 1.8e-3, 3e-9),
        Line(6e-4, 0.0, 8e-9, 0.0, 4e-4, 2e-9),
        Line(2e-3, 0.0, 6e-9, 0.0, 0.0, 0.0),
    ),
}
