"""Shows a comparison to people: two tables, and sentences that say what the figures mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

from tertulia.compare.results import (
    Agents,
    Comparison,
    Environment,
    Latency,
    Measured,
    Operation,
    Paradigm,
    Spread,
    StageResult,
)
from tertulia.compare.units import bytes_text, range_text, seconds_text

__all__ = ["PLAIN_WIDTH", "TITLES", "print_comparison"]

PLAIN_WIDTH = 10_000  # columns where nobody looks at a terminal: nothing is ever cut or wrapped

TITLES = {"memory": "shared memory", "messages": "messages"}
NONE = "–"


def print_comparison(console: Console, comparison: Comparison, report: Path) -> None:
    """Print everything to the console. `report` is where the report was written."""
    size = bytes_text(comparison.report_bytes)
    parts: tuple[RenderableType, ...] = (
        "[bold]Shared memory or messages?[/] The same team wrote the same report both ways.",
        _setting(comparison),
        "",
        _totals(comparison),
        "",
        _operations(comparison),
        "",
        _notes(comparison),
        "",
        *_conclusions(comparison),
        "",
        f"Every run gave the same report, byte for byte ({size}): {escape(str(report))}",
        f"[dim]{escape(_environment(comparison.environment))}[/]",
    )
    with console.capture() as printed:
        for part in parts:
            console.print(part, highlight=False)
    for line in printed.get().splitlines():
        console.out(line.rstrip(), highlight=False)  # tables are padded to a rectangle


def _setting(comparison: Comparison) -> str:
    folder = comparison.input
    files = f"{folder.files:,} file{'' if folder.files == 1 else 's'}"
    readers = f"{comparison.readers} reader{'' if comparison.readers == 1 else 's'}"
    runs = f"{comparison.repeat} run{'' if comparison.repeat == 1 else 's'} each way"
    more = "" if folder.complete else ", the first of more"
    return (
        f"{files} ({bytes_text(folder.bytes)}{more}) in {escape(folder.folder)}; "
        f"a scout, {readers}, a critic and a writer; {runs}, taken in turns."
    )


# --- The run as a whole --------------------------------------------------------------------------


def _totals(comparison: Comparison) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("one run", overflow="fold")
    paradigms = [paradigm for stage in comparison.stages for paradigm in stage.paradigms]
    for stage in comparison.stages:
        for paradigm in stage.paradigms:
            table.add_column(f"{_title(stage)}\n{TITLES[paradigm.name]}", justify="right", overflow="fold")

    def row(name: str, cell: Callable[[Measured], str], *, alone: bool = False) -> None:
        table.add_row(name, *(cell(paradigm.alone if alone else paradigm.job) for paradigm in paradigms))

    for title, alone in (("the whole job", False), ("communication alone", True)):
        table.add_row(f"[bold]{title}[/]")
        row("  wall time", lambda measured: seconds_text(measured.wall.median), alone=alone)
        if comparison.repeat > 1:
            row("    quartiles", lambda measured: _quartiles(measured.wall), alone=alone)
        row("  processor time", lambda measured: seconds_text(measured.cpu.median), alone=alone)
        row("  operations/s", lambda measured: f"{measured.throughput:,.0f}", alone=alone)
        table.add_section()
    table.add_row("[bold]traffic[/]")
    row("  operations", lambda measured: f"{measured.operations:,}")
    row("  messages delivered", lambda measured: f"{measured.messages_received:,}")
    row("  changes noticed", lambda measured: f"{measured.changes_noticed:,}")
    row("  bytes written", lambda measured: bytes_text(measured.bytes_written))
    row("  bytes read", lambda measured: bytes_text(measured.bytes_read))
    for name, index in _roles(paradigms):
        row(f"    by the {name}", lambda measured, index=index: bytes_text(measured.roles[index].bytes_read))
    return table


def _title(stage: StageResult) -> str:
    return f"{stage.engine}, {stage.agents}"


def _quartiles(spread: Spread) -> str:
    return range_text(spread.median, spread.lower_quartile, spread.upper_quartile)


def _roles(paradigms: Sequence[Paradigm]) -> Iterable[tuple[str, int]]:
    """Yield the roles that read anything at all, and their place among the roles."""
    for index, role in enumerate(paradigms[0].job.roles):
        if any(paradigm.job.roles[index].bytes_read for paradigm in paradigms):
            yield _role_name(role), index


def _role_name(role: Agents) -> str:
    return f"{role.agents} {role.role}s" if role.agents > 1 else role.role


# --- Operation by operation ----------------------------------------------------------------------


def _operations(comparison: Comparison) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("latency in the whole job", overflow="fold")
    for heading in ("in one run", "p50", "p95", "p99"):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in comparison.stages:
        for paradigm in stage.paradigms:
            table.add_section()
            table.add_row(f"[bold]{_title(stage)}: {TITLES[paradigm.name]}[/]")
            for operation in paradigm.job.kinds:
                table.add_row(f"  {operation.kind}", _count(operation), *_percentiles(operation.latency))
    return table


def _count(operation: Operation) -> str:
    refused = f" ({operation.refused:,} refused)" if operation.refused else ""
    return f"{operation.count:,}{refused}"


def _percentiles(latency: Latency) -> Iterable[str]:
    for seconds in (latency.p50, latency.p95, latency.p99):
        yield NONE if seconds is None else seconds_text(seconds)


# --- Words ---------------------------------------------------------------------------------------


def _notes(comparison: Comparison) -> str:
    notes = [
        "Times are medians. Communication alone is the same job, with the agents' own work remembered.",
        "Operations are calls to the engine; more of them for the same report are a cost, not a merit.",
        f"Latency is the call's; of receive and notice, from when both sides were ready. {NONE}: too few samples.",
    ]
    if any(stage.agents == "processes" for stage in comparison.stages):
        notes.append("Processes: each agent has its own, started before; their processor time is added up.")
    return "\n".join(f"[dim]{note}[/]" for note in notes)


def _conclusions(comparison: Comparison) -> Iterable[str]:
    for stage in comparison.stages:
        yield f"[bold]{escape(_title(stage))}[/]: {escape(stage.conclusion)}"
    if comparison.conclusion:
        yield f"[bold]{escape(comparison.conclusion)}[/]"


def _environment(environment: Environment) -> str:
    load = "" if environment.load is None else f", load {environment.load:g}"
    cores = f"{environment.cores} core{'' if environment.cores == 1 else 's'}"
    return (
        f"tertulia {environment.tertulia}, {environment.python}, {environment.system}, "
        f"{environment.processor}, {cores}{load}"
    )
