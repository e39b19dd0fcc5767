"""Prints a comparison to people."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console, RenderableType
from rich.markup import escape

from tertulia.compare.case_tables import case_parts, course_parts, replay_parts
from tertulia.compare.comparison import Comparison
from tertulia.compare.results import Environment
from tertulia.compare.table import report_parts

__all__ = ["PLAIN_WIDTH", "print_comparison"]

PLAIN_WIDTH = 10_000  # columns where nobody looks at a terminal: nothing is ever cut or wrapped


def print_comparison(console: Console, comparison: Comparison, report: Path) -> None:
    """Print everything to the console. `report` is where the report was written, if there is one."""
    sections: tuple[Iterable[RenderableType], ...] = (
        () if comparison.report is None else report_parts(comparison.report, report),
        case_parts(comparison.cells, width=console.width),
        replay_parts(comparison.replays),
        course_parts(comparison.tables),
    )
    with console.capture() as printed:
        console.print("[bold]Shared memory or messages?[/]", highlight=False)
        for section in sections:
            _print(console, section)
        console.print(f"\n[dim]{escape(_environment(comparison.environment))}[/]", highlight=False)
    for line in printed.get().splitlines():
        console.out(line.rstrip(), highlight=False)  # tables are padded to a rectangle


def _print(console: Console, parts: Iterable[RenderableType]) -> None:
    """Print the parts of a section, below an empty line if there are any."""
    for number, part in enumerate(parts):
        if number == 0:
            console.print("")
        console.print(part, highlight=False)


def _environment(environment: Environment) -> str:
    load = "" if environment.load is None else f", load {environment.load:g}"
    cores = f"{environment.cores} core{'' if environment.cores == 1 else 's'}"
    return (
        f"tertulia {environment.tertulia}, {environment.python}, {environment.system}, "
        f"{environment.processor}, {cores}{load}"
    )
