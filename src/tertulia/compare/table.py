"""Shows the report team's runs to people: two tables, and sentences that say what the figures mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from tertulia.compare.results import (
    Agents,
    Latency,
    Measured,
    Operation,
    Paradigm,
    ReportResult,
    Spread,
    StageResult,
)
from tertulia.compare.units import bytes_text, range_text, seconds_text

__all__ = ["TITLES", "report_parts"]

TITLES = {"memory": "shared memory", "messages": "messages"}
NONE = "–"


def report_parts(report: ReportResult, file: Path) -> Iterable[RenderableType]:
    """Yield what is to be printed. `file` is where the report was written."""
    yield "[bold]A team writes a report.[/] The same team wrote the same report both ways."
    yield _setting(report)
    yield ""
    yield _totals(report)
    yield ""
    yield _operations(report)
    yield ""
    yield _notes(report)
    yield ""
    yield from _conclusions(report)
    yield ""
    yield f"Every run gave the same report, byte for byte ({bytes_text(report.report_bytes)}): {escape(str(file))}"


def _setting(report: ReportResult) -> str:
    folder = report.input
    files = f"{folder.files:,} file{'' if folder.files == 1 else 's'}"
    readers = f"{report.readers} reader{'' if report.readers == 1 else 's'}"
    runs = f"{report.repeat} run{'' if report.repeat == 1 else 's'} each way"
    more = "" if folder.complete else ", the first of more"
    return (
        f"{files} ({bytes_text(folder.bytes)}{more}) in {escape(folder.folder)}; "
        f"a scout, {readers}, a critic and a writer; {runs}, taken in turns."
    )


# --- The run as a whole --------------------------------------------------------------------------


def _totals(report: ReportResult) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("one run", overflow="fold")
    paradigms = [paradigm for stage in report.stages for paradigm in stage.paradigms]
    for stage in report.stages:
        for paradigm in stage.paradigms:
            table.add_column(f"{_title(stage)}\n{TITLES[paradigm.name]}", justify="right", overflow="fold")

    def row(name: str, cell: Callable[[Measured], str], *, alone: bool = False) -> None:
        table.add_row(name, *(cell(paradigm.alone if alone else paradigm.job) for paradigm in paradigms))

    for title, alone in (("the whole job", False), ("communication alone", True)):
        table.add_row(f"[bold]{title}[/]")
        row("  wall time", lambda measured: seconds_text(measured.wall.median), alone=alone)
        if report.repeat > 1:
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


def _operations(report: ReportResult) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("latency in the whole job", overflow="fold")
    for heading in ("in one run", "p50", "p95", "p99"):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in report.stages:
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


def _notes(report: ReportResult) -> str:
    notes = [
        "Times are medians. Communication alone is the same job, with the agents' own work remembered.",
        "Operations are calls to the engine; more of them for the same report are a cost, not a merit.",
        f"Latency is the call's; of receive and notice, from when both sides were ready. {NONE}: too few samples.",
    ]
    if any(stage.agents == "processes" for stage in report.stages):
        notes.append("Processes: each agent has its own, started before; their processor time is added up.")
    return "\n".join(f"[dim]{note}[/]" for note in notes)


def _conclusions(report: ReportResult) -> Iterable[str]:
    for stage in report.stages:
        yield f"[bold]{escape(_title(stage))}[/]: {escape(stage.conclusion)}"
    if report.conclusion:
        yield f"[bold]{escape(report.conclusion)}[/]"
