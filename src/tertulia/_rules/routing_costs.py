"""What each channel costs, as measured by `python -m bench.routing_costs`, which prints this module.

Measured on 2026-11-23: AMD EPYC, 2 cores, Linux x86_64, CPython 3.11.7.
Time of the processor, for NATS on the wall. Only where a router starts: it learns from there.
"""

from __future__ import annotations

from tertulia._rules.routing import Line

# By engine, in the order of the channels: message, pointer, memory, request. Seconds, see Line.
LINES: dict[str, tuple[Line, Line, Line, Line]] = {
    "memory": (
        Line(2.87e-05, 4.48e-06, 2.9e-10, 2.63e-10, 5.7e-06, 2.58e-10),
        Line(7.16e-05, 3.6e-06, 1.2e-09, 0, 2.31e-05, 5.57e-10),
        Line(2.73e-05, 2.96e-06, 6.34e-10, 1.61e-11, 6.52e-06, 2.47e-10),
        Line(4.28e-05, 0, 1.24e-10, 0, 0, 0),
    ),
    "file": (
        Line(0.000126, 1.3e-05, 1.19e-11, 3.32e-09, 9.23e-05, 8.79e-10),
        Line(0.000205, 2.31e-05, 6.7e-09, 3.99e-11, 0.000182, 1.13e-09),
        Line(0.000118, 1.07e-05, 5.91e-09, 1.06e-11, 1.65e-05, 5.9e-10),
        Line(0.000432, 0, 6.58e-09, 0, 0, 0),
    ),
    "nats": (
        Line(0, 0.000826, 0, 6.39e-09, 0.00107, 9.13e-09),
        Line(0.0203, 0.000201, 1.31e-08, 4.01e-09, 0.0274, 1.63e-08),
        Line(0.000943, 6.96e-05, 8.08e-10, 2.25e-09, 0.000393, 3.82e-09),
        Line(0.00173, 0, 1.35e-08, 0, 0, 0),
    ),
}
