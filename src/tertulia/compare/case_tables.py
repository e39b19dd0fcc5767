"""Shows the use cases, what a death costs, and recorded conversations to people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import mean, median

from rich import box
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from tertulia.compare.aspects import CLEARLY, NAMES, NONE, USE_CASE_NAMES, winners
from tertulia.compare.comparison import CourseTable, stages_in
from tertulia.compare.conclusion import MIN_RUNS
from tertulia.compare.replay import Replayed
from tertulia.compare.results import Spread
from tertulia.compare.units import bytes_text, range_text, seconds_text
from tertulia.selection.profile import Cell
from tertulia.selection.requirement import UseCase

__all__ = ["case_parts", "course_parts", "replay_parts"]

WIDE = 152  # columns that a table with all figures takes
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


def _spread(cell: Cell) -> str:
    return NONE if cell.p50_spread is None or cell.runs == 1 else range_text(cell.p50, *cell.p50_spread)


Column = tuple[str, Callable[[Cell], str]]

_LATENCY: tuple[Column, ...] = (
    ("p50", lambda cell: seconds_text(cell.p50)),
    ("p95", lambda cell: NONE if cell.p95 is None else seconds_text(cell.p95)),
    ("p99", lambda cell: NONE if cell.p99 is None else seconds_text(cell.p99)),
    ("units/s", lambda cell: f"{cell.throughput:,.0f}"),
)
_COST: tuple[Column, ...] = (
    ("quartiles of p50", _spread),
    ("processor", lambda cell: seconds_text(cell.cpu)),
    ("moved", lambda cell: bytes_text(cell.bytes_moved)),
    ("read", lambda cell: bytes_text(cell.bytes_read)),
)
_CONSISTENCY: tuple[Column, ...] = (
    ("out of date", lambda cell: seconds_text(cell.staleness) if cell.staleness else NONE),
    ("lost", lambda cell: f"{cell.lost_updates:,} of {cell.units:,}"),
)


def case_parts(cells: Sequence[Cell], *, width: int) -> Iterable[RenderableType]:
    """Yield what is to be printed of the use cases: the figures, and what they say.

    `width`: columns that there are; where they are few there are several tables below each other.
    """
    wide = width >= WIDE
    groups = ((*_LATENCY, *_COST, *_CONSISTENCY),) if wide else (_LATENCY, _COST, _CONSISTENCY)
    for engine, agents_as, own in stages_in(cells):
        yield f"[bold]Use cases on {engine}, {agents_as}[/]"
        for columns in groups:
            yield _figures(own, columns)
            yield ""
        yield from _fastest(own)
        yield ""
        if any(cell.faults is not None for cell in own):
            yield f"[bold]One is killed half-way, on {engine}, and another takes its place[/]"
            yield _deaths(own)
            yield ""
    if cells:
        yield (
            "[dim]Latency is of one unit of work as its user sees it, the quartiles are of the runs' medians; the "
            f"others are of one unit too. {NONE}: too few samples, or one run. JSON and page have all points.[/]"
        )


def _figures(cells: Sequence[Cell], columns: Sequence[Column]) -> Table:
    table = _table("agents × bytes", *(name for name, _ in columns))
    for use_case in dict.fromkeys(cell.use_case for cell in cells):
        for place in _extremes([cell for cell in cells if cell.use_case is use_case]):
            agents, payload = place
            table.add_section()
            table.add_row(f"[bold]{USE_CASE_NAMES[use_case]}[/], {agents} × {bytes_text(payload)}")
            for cell in cells:
                if cell.use_case is use_case and (cell.agents, cell.payload) == place:
                    table.add_row(f"  {NAMES[cell.paradigm]}", *(text(cell) for _, text in columns))
    return table


def _extremes(cells: Sequence[Cell]) -> list[tuple[int, int]]:
    """Return the smallest point, and those with the largest team and the largest payload."""
    agents, payloads = [cell.agents for cell in cells], [cell.payload for cell in cells]
    least, small = min(agents), min(payloads)
    return list(dict.fromkeys([(least, small), (max(agents), small), (least, max(payloads))]))


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
    yield _replayed(replays)
    yield from _readers(replays)
    yield ""
    yield (
        "[dim]Latency is from when a turn was said until it was heard: the median of the conversations' medians, and "
        "the quartiles.[/]"
    )


def _replayed(replays: Sequence[Replayed]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("all of them", overflow="fold")
    columns: list[tuple[str, ...]] = []
    for engine, agents_as, paradigm in dict.fromkeys((one.engine, one.agents_as, one.paradigm) for one in replays):
        own = [one for one in replays if (one.engine, one.agents_as, one.paradigm) == (engine, agents_as, paradigm)]
        table.add_column(f"{engine}, {agents_as}\n{NAMES[paradigm]}", justify="right", overflow="fold")
        columns.append(_of_all(own))
    names = ("conversations", "turns", "turns heard", "latency", "  quartiles")
    for name, *figures in zip(
        (*names, "written", "read by an agent", "  by the one that read most"), *columns, strict=True
    ):
        table.add_row(name, *figures)
    return table


def _of_all(own: Sequence[Replayed]) -> tuple[str, ...]:
    read = [size for one in own for size in one.bytes_read.values()]
    latencies = [one.p50 for one in own]
    low, high = own[0].p50_spread if len(own) == 1 and own[0].p50_spread else Spread.of(latencies).quartiles
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
