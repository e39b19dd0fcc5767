"""Shows the use cases, what a death costs, and recorded conversations to people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean, median

from rich import box
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from tertulia.compare.aspects import CLEARLY, NAMES, NONE, USE_CASE_NAMES, winners
from tertulia.compare.comparison import CourseTable, stages_in
from tertulia.compare.conclusion import MIN_RUNS
from tertulia.compare.replay import Replayed
from tertulia.compare.units import bytes_text, range_text, seconds_text
from tertulia.selection.profile import Cell
from tertulia.selection.requirement import UseCase

__all__ = ["case_parts", "course_parts", "replay_parts"]

MOST_LISTED = 12  # agents of a conversation whose bytes are listed one by one; beyond, the mean says more


def _table(*headings: str, words: int = 1) -> Table:
    """Return a table whose first columns are words and whose others are figures."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, heading in enumerate(headings):
        if number < words:
            table.add_column(heading, overflow="fold")
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    return table


# --- Use cases -----------------------------------------------------------------------------------


def case_parts(cells: Sequence[Cell]) -> Iterable[RenderableType]:
    """Yield what is to be printed of the use cases: the figures, and what they say."""
    for engine, agents_as, own in stages_in(cells):
        yield f"[bold]Use cases on {engine}, {agents_as}[/]"
        yield _figures(own)
        yield ""
        yield from _fastest(own)
        yield ""
        if any(cell.faults is not None for cell in own):
            yield f"[bold]One is killed half-way, on {engine}, and another takes its place[/]"
            yield _deaths(own)
            yield ""
    if cells:
        yield (
            "[dim]Latency is of one unit of work as its user sees it, with the quartiles of the runs' medians; the "
            f"others are of one unit too. {NONE}: too few samples, or one run. JSON and page have all points.[/]"
        )


def _figures(cells: Sequence[Cell]) -> Table:
    headings = ("p50", "quartiles", "p95", "p99", "units/s", "moved", "read", "processor", "out of date", "lost")
    table = _table("one unit of work", *headings)
    for use_case in dict.fromkeys(cell.use_case for cell in cells):
        for place in _extremes([cell for cell in cells if cell.use_case is use_case]):
            agents, payload = place
            table.add_section()
            table.add_row(f"[bold]{USE_CASE_NAMES[use_case]}[/], {agents} agents, {bytes_text(payload)}")
            for cell in cells:
                if cell.use_case is use_case and (cell.agents, cell.payload) == place:
                    table.add_row(f"  {NAMES[cell.paradigm]}", *_row(cell))
    return table


def _extremes(cells: Sequence[Cell]) -> list[tuple[int, int]]:
    """Return the smallest point, and those with the largest team and the largest payload."""
    agents, payloads = [cell.agents for cell in cells], [cell.payload for cell in cells]
    least, small = min(agents), min(payloads)
    return list(dict.fromkeys([(least, small), (max(agents), small), (least, max(payloads))]))


def _row(cell: Cell) -> tuple[str, ...]:
    return (
        seconds_text(cell.p50),
        NONE if cell.p50_spread is None or cell.runs == 1 else range_text(cell.p50, *cell.p50_spread),
        NONE if cell.p95 is None else seconds_text(cell.p95),
        NONE if cell.p99 is None else seconds_text(cell.p99),
        f"{cell.throughput:,.0f}",
        bytes_text(cell.bytes_moved),
        bytes_text(cell.bytes_read),
        seconds_text(cell.cpu),
        seconds_text(cell.staleness) if cell.staleness else NONE,
        f"{cell.lost_updates:,} of {cell.units:,}",
    )


def _fastest(cells: Sequence[Cell]) -> Iterable[str]:
    for use_case, (paradigm, times) in winners(cells).items():
        doubt = ", from too few runs to rely on" if _runs(cells, use_case) < MIN_RUNS else ""
        if times >= CLEARLY:
            said = f"{NAMES[paradigm]}: {times:.1f} times less latency than the next{doubt}"
        else:
            said = f"no clear difference in latency ({NAMES[paradigm]}, {times:.2f} times{doubt})"
        yield f"{USE_CASE_NAMES[use_case]}: {said}"


def _runs(cells: Sequence[Cell], use_case: UseCase) -> int:
    """Return how many runs the point with the fewest has."""
    return min(cell.runs for cell in cells if cell.use_case is use_case)


def _deaths(cells: Sequence[Cell]) -> Table:
    table = _table("of a team of four", "", "units", "lost", "repeated", "stuck", words=2)
    found = {(cell.use_case, cell.paradigm): cell.faults for cell in cells if cell.faults is not None}
    for (use_case, paradigm), one in found.items():
        counts = (one.units, one.lost, one.repeated, one.stuck)
        table.add_row(USE_CASE_NAMES[use_case], NAMES[paradigm], *(f"{count:,}" for count in counts))
    return table


# --- The rows of the course text -----------------------------------------------------------------


def course_parts(tables: Sequence[CourseTable]) -> Iterable[RenderableType]:
    """Yield the tables in the rows in which the two paradigms are usually set beside each other."""
    for one in tables:
        paradigms = list(one.rows[0].said)
        yield f"[bold]Beside each other, on {one.engine}, {one.agents_as}[/]"
        table = _table("aspect", *(NAMES[paradigm] for paradigm in paradigms), words=1 + len(paradigms))
        for row in one.rows:
            table.add_row(row.name, *(escape(row.said[paradigm]) for paradigm in paradigms))
        yield table
        yield ""
    if tables:
        yield (
            "[dim]Latency, throughput and bytes: the median over the use cases at the smallest point, and the range. "
            "Complexity counts lines of this package's own use cases; coupling and debugging are words, not figures.[/]"
        )


# --- Recorded conversations ----------------------------------------------------------------------


def replay_parts(replays: Sequence[Replayed]) -> Iterable[RenderableType]:
    """Yield what is to be printed of recorded conversations."""
    if not replays:
        return
    yield "[bold]Recorded conversations.[/] Every turn came to everybody it was for exactly once, and unchanged."
    table = _table(
        "",
        *("conversations", "turns", "deliveries", "latency", "quartiles", "written", "read an agent", "the most"),
    )
    for engine, agents_as, paradigm in dict.fromkeys((one.engine, one.agents_as, one.paradigm) for one in replays):
        own = [one for one in replays if (one.engine, one.agents_as, one.paradigm) == (engine, agents_as, paradigm)]
        table.add_row(f"{engine}, {agents_as}: {NAMES[paradigm]}", *_replayed(own))
    yield table
    yield from _readers(replays)
    yield "[dim]Latency is from when a turn was said until it was heard, with an agent on either side.[/]"


def _replayed(own: Sequence[Replayed]) -> tuple[str, ...]:
    read = [size for one in own for size in one.bytes_read.values()]
    latencies = [one.p50 for one in own]
    low, high = own[0].p50_spread if len(own) == 1 and own[0].p50_spread else (min(latencies), max(latencies))
    return (
        f"{len(own):,}",
        f"{sum(one.turns for one in own):,}",
        f"{sum(one.deliveries for one in own):,}",
        seconds_text(median(latencies)),
        range_text(median(latencies), low, high),
        bytes_text(sum(one.bytes_written for one in own)),
        bytes_text(mean(read)),
        bytes_text(max(read)),
    )


def _readers(replays: Sequence[Replayed]) -> Iterable[RenderableType]:
    """Yield what each agent had to read, where there is one conversation of few agents."""
    names = dict.fromkeys(agent for one in replays for agent in one.bytes_read)
    if len({one.conversation for one in replays}) > 1 or len(names) > MOST_LISTED:
        return
    own = replays[: len({one.paradigm for one in replays})]  # bytes do not depend on the engine
    table = _table("bytes read by", *(NAMES[one.paradigm] for one in own))
    for name in names:
        table.add_row(escape(name), *(bytes_text(one.bytes_read[name]) for one in own))
    yield ""
    yield table
