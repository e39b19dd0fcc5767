"""Shows results: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.rows import Direction, Row
from bench.runner import Result, Settings, summarize

INSTALL = "make bench (or: pip install 'tertulia[bench]')"
_COLOURS = {"reached": "green", "reached, barely": "yellow", "not reached, barely": "yellow", "for information": "dim"}


def print_report(console: Console, results: Sequence[Result], settings: Settings, machine: dict[str, Any]) -> None:
    """Print the table and what it was measured on."""
    console.print(_table(results))
    console.print(
        f"Ratio: median of {settings.rounds} interleaved rounds of about {settings.sample * 1000:.0f} ms a side "
        "(quartiles; lowest to highest). Times: median per operation.",
        style="dim",
    )
    scale = settings.scale
    console.print(f"Many: {scale.keys:,} keys, {scale.mailboxes:,} mailboxes.", style="dim")
    console.print(machine_line(machine), style="dim")
    for result in results:
        if result.missing is not None:
            way = "install it with the system's packages" if result.missing == result.row.program else INSTALL
            told = f"the peer {result.missing} is not {result.where}, so this was skipped: {result.row.what}; {way}"
            console.print(f"{result.row.name}: {told}", markup=False)
        if result.failure is not None:
            console.print(f"{result.row.name} failed:\n{result.failure}", style="red", markup=False)


def machine_line(machine: dict[str, Any]) -> str:
    software = {**machine["packages"], **machine["programs"]}
    packages = ", ".join(f"{name} {found or 'missing'}" for name, found in software.items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}, "
        f"{machine['python']}, load {machine['load']}; {packages}"
    )


def as_json(results: Sequence[Result], settings: Settings, machine: dict[str, Any]) -> str:
    """Return everything that was measured, each round included."""
    document = {
        "machine": machine,
        "settings": asdict(settings),
        "rows": [_plain(result) for result in results],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _plain(result: Result) -> dict[str, Any]:
    row = result.row
    return {
        "name": row.name,
        "what": row.what,
        "peer": row.peer,
        "direction": row.direction.value,
        "target": row.target,
        "ratio": asdict(summarize(result.ratios)) if result.measured else None,
        "verdict": result.verdict,
        "missing": result.missing,
        "failure": result.failure,
        "peer_seconds": result.peer_times,
        "our_seconds": result.our_times,
    }


def _table(results: Sequence[Result]) -> Table:
    table = Table(title="Tertulia against its peers", title_justify="left")
    for heading in ("row", "what", "peer"):
        table.add_column(heading)
    for heading in ("ours", "peer's", "ratio", "target"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for result in results:
        colour = _COLOURS.get(result.verdict, "red")
        cells = (result.row.name, result.row.what, result.row.peer, *_figures(result))
        table.add_row(*map(escape, cells), f"[{colour}]{result.verdict}[/]")
    return table


def _figures(result: Result) -> tuple[str, str, str, str]:
    target = target_text(result.row)
    if not result.measured:
        return "–", "–", "–", target
    found = summarize(result.ratios)
    ratio = (
        f"{found.median:.3g}× ({found.lower_quartile:.3g}–{found.upper_quartile:.3g}; {found.low:.3g}–{found.high:.3g})"
    )
    return _time(result.our_times), _time(result.peer_times), ratio, target


def target_text(row: Row) -> str:
    if row.target is None:
        return "–"
    if row.direction is Direction.TIME_AT_MOST:
        return f"time ≤ {row.target:g}×"
    return f"speed ≥ {row.target:g}×"


def _time(times: Sequence[float]) -> str:
    seconds = summarize(times).median
    return f"{seconds * 1e9:.0f} ns" if seconds < 1e-6 else f"{seconds * 1e6:.3g} µs"
