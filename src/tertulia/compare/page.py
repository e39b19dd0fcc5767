"""The comparison as one HTML page that needs nothing else: no network, no script, light or dark."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from msgspec import Struct

from tertulia.compare.aspects import CLEARLY, NAMES, NONE, USE_CASE_NAMES, aspects, winners
from tertulia.compare.budget import LeftOut
from tertulia.compare.comparison import Comparison, stages_in
from tertulia.compare.plots import Bar, bars, lines
from tertulia.compare.replay import Replayed
from tertulia.compare.results import Environment
from tertulia.compare.units import bytes_text, seconds_text
from tertulia.selection.profile import Cell
from tertulia.selection.requirement import Paradigm, UseCase

__all__ = ["Job", "Page", "page_of", "render"]


class Job(Struct, frozen=True, kw_only=True):
    """The report team in one way: on an engine, with agents as tasks or processes."""

    paradigm: Paradigm
    engine: str
    agents_as: str
    seconds: float
    bytes_moved: int
    bytes_read: int


class Page(Struct, frozen=True, kw_only=True):
    """What is shown. Any of the three sorts of results may be missing; not `complete` if it was stopped early."""

    made_at: str
    environment: Environment
    complete: bool = True
    left_out: tuple[LeftOut, ...] = ()
    cells: tuple[Cell, ...] = ()
    jobs: tuple[Job, ...] = ()
    replays: tuple[Replayed, ...] = ()


def page_of(comparison: Comparison) -> Page:
    """Return the page of a comparison."""
    stages = () if comparison.report is None else comparison.report.stages
    jobs = tuple(
        Job(
            paradigm=Paradigm(paradigm.name),
            engine=stage.engine,
            agents_as=stage.agents,
            seconds=paradigm.job.wall.median,
            bytes_moved=paradigm.job.bytes_written,
            bytes_read=paradigm.job.bytes_read,
        )
        for stage in stages
        for paradigm in stage.paradigms
    )
    return Page(
        made_at=comparison.made_at,
        environment=comparison.environment,
        complete=comparison.complete,
        left_out=comparison.left_out,
        cells=comparison.cells,
        jobs=jobs,
        replays=comparison.replays,
    )


STYLE = """
:root{color-scheme:light dark;--ink:#1c2330;--soft:#5b6675;--line:#d9dee6;--paper:#fff;--memory:#2a6fb8;\
--messages:#c2571a;--hybrid:#3d8a4e}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ee;--soft:#9aa5b4;--line:#343c48;--paper:#14181f;--memory:#6aaef0;\
--messages:#f0935a;--hybrid:#7bc98c}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:70rem;padding:1rem;background:var(--paper);color:var(--ink);\
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem;line-height:1.2}h2{font-size:1.15rem;margin-top:2rem}h3{font-size:1rem}
p,figcaption{max-width:46rem}.soft,figcaption,th{color:var(--soft)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}
th,td{text-align:left;vertical-align:top;padding:.35rem .8rem .35rem 0;border-bottom:1px solid var(--line)}
td.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
@media(max-width:40rem){.rows thead{display:none}.rows tr{display:block;padding:.5rem 0;\
border-bottom:1px solid var(--line)}.rows th,.rows td{display:block;border:0;padding:.1rem 0}\
.rows td::before{content:attr(data-way);color:var(--soft)}}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr));gap:1rem}
figure{margin:0}figcaption{font-size:.9rem}svg{width:100%;height:auto;font:10px system-ui,sans-serif}
svg text{fill:var(--soft)}.grid{stroke:var(--line);fill:none}
.key span{margin-right:1rem;white-space:nowrap}.key i{display:inline-block;width:.8em;height:.8em;border-radius:2px;\
margin-right:.35em}
rect.memory,circle.memory{fill:var(--memory)}rect.messages,circle.messages{fill:var(--messages)}\
rect.hybrid,circle.hybrid{fill:var(--hybrid)}
polyline{fill:none;stroke-width:2}.mark{fill:none;stroke-width:1.5}
polyline.memory,.mark.memory{stroke:var(--memory)}polyline.messages,.mark.messages{stroke:var(--messages)}\
polyline.hybrid,.mark.hybrid{stroke:var(--hybrid)}
i.memory{background:var(--memory)}i.messages{background:var(--messages)}i.hybrid{background:var(--hybrid)}
"""


def render(page: Page) -> str:
    """Return the page as HTML."""
    parts = [_head(page), *_sections(page.cells), _jobs(page.jobs), _replays(page.replays), _foot(page)]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width,initial-scale=1"><title>Shared memory or messages?</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _head(page: Page) -> str:
    stopped = "" if page.complete else ", and stopped before all was measured"
    key = "".join(f'<span><i class="{paradigm.value}"></i>{escape(name)}</span>' for paradigm, name in NAMES.items())
    return (
        "<h1>Shared memory or messages?</h1><p>The same work, done by the same agents, through shared memory, through "
        f"messages, and through both in one commit. Measured on {escape(_day(page.made_at))}{stopped}.</p>"
        f'<p class="key">{key}</p>'
    )


def _day(made_at: str) -> str:
    """Return an instant as people read it; whatever is no ISO 8601 in UTC is left as it is."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d):[\d.]+\+00:00", made_at)
    return f"{found[1]} at {found[2]} UTC" if found else made_at


def _foot(page: Page) -> str:
    machine = page.environment
    load = "" if machine.load is None else f", load {machine.load:g}"
    return _left_out(page.left_out) + (
        f'<p class="soft">tertulia {escape(machine.tertulia)}, {escape(machine.python)}, {escape(machine.system)}, '
        f"{escape(machine.processor)}, {machine.cores} cores{load}. Both scales of the plots are logarithmic.</p>"
    )


def _left_out(left_out: Sequence[LeftOut]) -> str:
    if not left_out:
        return ""
    many = "1 thing was" if len(left_out) == 1 else f"{len(left_out)} things were"
    rows = "".join(f"<li>{escape(one.what)}: {escape(one.why)}</li>" for one in left_out)
    return (
        f'<details class="soft"><summary>{many} left out, so that all took no longer than it might</summary>'
        f"<ul>{rows}</ul></details>"
    )


# --- Use cases -----------------------------------------------------------------------------------


def _sections(cells: Sequence[Cell]) -> Iterable[str]:
    """Yield a section for each engine and manner of agents."""
    for engine, agents_as, own in stages_in(cells):
        yield f"<h2>Use cases on the {escape(engine)} engine, agents as {escape(agents_as)}</h2>"
        yield _winners(own)
        yield _table(own)
        yield from _plots(own)


def _winners(cells: Sequence[Cell]) -> str:
    found = winners(cells).items()
    return f"<ul>{''.join(_winner(use_case, paradigm, times) for use_case, (paradigm, times) in found)}</ul>"


def _winner(use_case: UseCase, paradigm: Paradigm, times: float) -> str:
    if times < CLEARLY:
        said = f"no clear difference ({escape(NAMES[paradigm])}, {times:.2f} times)"
    else:
        said = f"<b>{escape(NAMES[paradigm])}</b>, {times:.1f} times as fast as the next"
    return f"<li>{escape(USE_CASE_NAMES[use_case])}: {said}</li>"


def _table(cells: Sequence[Cell]) -> str:
    rows = aspects(cells)
    paradigms = list(rows[0].said)
    head = "".join(f"<th>{escape(NAMES[paradigm])}</th>" for paradigm in paradigms)
    body = "".join(
        f"<tr><th>{escape(row.name)}</th>"
        + "".join(
            f'<td data-way="{escape(NAMES[paradigm])}: ">{escape(row.said[paradigm])}</td>' for paradigm in paradigms
        )
        + "</tr>"
        for row in rows
    )
    return f'<table class="rows"><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>'


def _plots(cells: Sequence[Cell]) -> Iterable[str]:
    sorts = (
        (
            "Latency of one unit of work, by agents × bytes: the bar ends at the median, the marks are p95 and p99",
            _latencies,
        ),
        ("Throughput against the size of the team, in units of work a second", _throughput),
        ("Bytes that agents read for one unit of work, by agents × bytes", _bytes_read),
        ("What came of the work of a team of which one was killed half-way", _faults),
    )
    for title, draw in sorts:
        drawn = [draw(use_case, [cell for cell in cells if cell.use_case is use_case]) for use_case in UseCase]
        if any(drawn):
            yield f'<h3>{escape(title)}</h3><div class="plots">{"".join(drawn)}</div>'


def _latencies(use_case: UseCase, cells: Sequence[Cell]) -> str:
    rows = [
        Bar(
            label=f"{cell.agents} × {bytes_text(cell.payload)}",
            series=cell.paradigm.value,
            value=cell.p50,
            marks=tuple(value for value in (cell.p95, cell.p99) if value is not None),
        )
        for cell in sorted(cells, key=_place)
    ]
    return bars(USE_CASE_NAMES[use_case], rows, seconds_text)


def _place(cell: Cell) -> tuple[int, int, int]:
    """Return where a cell's bar is: by team and payload, and then in the order of the key."""
    return cell.agents, cell.payload, list(NAMES).index(cell.paradigm)


def _throughput(use_case: UseCase, cells: Sequence[Cell]) -> str:
    payload = min((cell.payload for cell in cells if _has_several_teams(cells, cell.payload)), default=None)
    if payload is None:
        return ""
    series = _by_paradigm([cell for cell in cells if cell.payload == payload])
    points = {name: [(float(cell.agents), cell.throughput) for cell in own] for name, own in series.items()}
    return lines(f"{USE_CASE_NAMES[use_case]}, {bytes_text(payload)}", points, _count, "agents")


def _has_several_teams(cells: Sequence[Cell], payload: int) -> bool:
    return len({cell.agents for cell in cells if cell.payload == payload}) > 1


def _bytes_read(use_case: UseCase, cells: Sequence[Cell]) -> str:
    rows = [
        Bar(label=f"{cell.agents} × {bytes_text(cell.payload)}", series=cell.paradigm.value, value=cell.bytes_read)
        for cell in sorted(cells, key=_place)
    ]
    return bars(USE_CASE_NAMES[use_case], rows, bytes_text)


def _faults(use_case: UseCase, cells: Sequence[Cell]) -> str:
    found = {cell.paradigm: cell.faults for cell in cells if cell.faults is not None}
    if not found:
        return ""
    rows = "".join(
        f"<tr><th>{escape(NAMES[paradigm])}</th>"
        + "".join(f'<td class="number">{count:,}</td>' for count in (one.units, one.lost, one.repeated, one.stuck))
        + "</tr>"
        for paradigm, one in found.items()
    )
    head = "".join(f"<th>{name}</th>" for name in ("", "units", "lost", "repeated", "stuck"))
    caption = f"<figcaption>{escape(USE_CASE_NAMES[use_case])}</figcaption>"
    return f"<figure>{caption}<table><tr>{head}</tr>{rows}</table></figure>"


def _by_paradigm(cells: Sequence[Cell]) -> Mapping[str, list[Cell]]:
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.paradigm.value, []).append(cell)
    return found


def _count(value: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}" if value % size == 0 else f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


# --- The report team and recorded conversations --------------------------------------------------


def _jobs(jobs: Sequence[Job]) -> str:
    if not jobs:
        return ""
    rows = "".join(
        f"<tr><td>{escape(job.engine)}, {escape(job.agents_as)}</td><td>{escape(NAMES[job.paradigm])}</td>"
        f'<td class="number">{escape(seconds_text(job.seconds))}</td>'
        f'<td class="number">{escape(bytes_text(job.bytes_moved))}</td>'
        f'<td class="number">{escape(bytes_text(job.bytes_read))}</td></tr>'
        for job in jobs
    )
    head = "".join(
        f"<th>{name}</th>" for name in ("engine, agents", "paradigm", "wall time", "bytes written", "bytes read")
    )
    return (
        "<h2>A team writes a report</h2><p>A scout, readers, a critic and a writer report on a folder of text. All "
        f'reports were equal, byte for byte.</p><div class="wide"><table><tr>{head}</tr>{rows}</table></div>'
    )


def _replays(replays: Sequence[Replayed]) -> str:
    if not replays:
        return ""
    ways = dict.fromkeys((one.engine, one.agents_as, one.paradigm) for one in replays)
    rows = "".join(_replay_row(way, replays) for way in ways)
    names = (
        "engine, agents",
        "",
        "conversations",
        "turns",
        "deliveries",
        "median of latencies",
        "bytes written",
        "bytes read an agent",
    )
    head = "".join(f"<th>{name}</th>" for name in names)
    return (
        "<h2>Recorded conversations, replayed</h2><p>Each recorded agent is a real one; every turn was delivered to "
        "everybody it was for, exactly once and unchanged.</p>"
        f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div>'
    )


def _replay_row(way: tuple[str, str, Paradigm], replays: Sequence[Replayed]) -> str:
    own = [one for one in replays if (one.engine, one.agents_as, one.paradigm) == way]
    read = sum(sum(one.bytes_read.values()) for one in own) / sum(one.agents for one in own)
    latency = sorted(one.p50 for one in own)[len(own) // 2]
    figures = (
        f"{len(own):,}",
        f"{sum(one.turns for one in own):,}",
        f"{sum(one.deliveries for one in own):,}",
        seconds_text(latency),
        bytes_text(sum(one.bytes_written for one in own)),
        bytes_text(read) if read else NONE,
    )
    cells = "".join(f'<td class="number">{escape(figure)}</td>' for figure in figures)
    engine, agents_as, paradigm = way
    return f"<tr><td>{escape(engine)}, {escape(agents_as)}</td><th>{escape(NAMES[paradigm])}</th>{cells}</tr>"
