"""The page shows what was measured, needs nothing but itself, and opens in a real browser."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from msgspec.structs import replace

from tertulia.compare.aspects import aspects, lines_of_code, winners
from tertulia.compare.page import Job, Page, render
from tertulia.compare.replay import Replayed
from tertulia.compare.results import Environment
from tertulia.compare.use_cases.teams import TEAMS
from tertulia.selection.profile import Cell, Faults
from tertulia.selection.requirement import Paradigm, UseCase

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
LONGEST = 100  # seconds that only a hang takes
VOID = {"meta", "br", "hr", "img", "link", "input"}

ENVIRONMENT = Environment(tertulia="0", python="3", system="Linux", processor="<made up>", cores=2, load=None)
CELLS = tuple(
    Cell(
        use_case=use_case,
        paradigm=paradigm,
        engine=engine,
        agents_as=agents_as,
        agents=agents,
        payload=1_000,
        units=500,
        p50=(1 + place) * 1e-5 * agents,
        p95=(1 + place) * 3e-5 * agents,
        p99=None,
        throughput=90_000 / (1 + place) / agents,
        bytes_read=1_000.0 * place,
        lost_updates=0,
        faults=Faults(units=100, lost=place, repeated=1, stuck=0) if engine == "file" else None,
    )
    for engine, agents_as in (("memory", "tasks"), ("file", "processes"))
    for use_case in UseCase
    for place, paradigm in enumerate(TEAMS[use_case])
    for agents in (2, 8)
)
LATENCIES = tuple(cell for cell in CELLS if cell.engine == "memory")
JOBS = (
    Job(paradigm=Paradigm.MEMORY, engine="file", agents_as="processes", seconds=1.5, bytes_moved=10, bytes_read=20),
)
REPLAYS = tuple(
    Replayed(
        conversation="a",
        paradigm=paradigm,
        agents=2,
        turns=3,
        deliveries=4,
        seconds=0.1,
        p50=1e-4,
        bytes_written=100,
        bytes_read={"x": 1_000, "y": 3_000},
    )
    for paradigm in (Paradigm.MEMORY, Paradigm.MESSAGES)
)
PAGE = Page(made_at="2026-01-01", environment=ENVIRONMENT, cells=CELLS, jobs=JOBS, replays=REPLAYS)


class Outline(HTMLParser):
    """Follows the tags, and fails on one that is closed without being open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outline(html: str) -> Outline:
    parser = Outline()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


def test_every_tag_is_closed_and_every_plot_drawn():
    tags = [tag for tag, _ in outline(render(PAGE)).seen]
    assert tags.count("svg") == 2 * 3 * 6  # engines x sorts of plots x use cases
    assert tags.count("polyline") == 2 * len(CELLS) // 4
    assert tags.count("table") == 2 + 6 + 1 + 1  # the rows; the deaths on one engine; the report team; the replays


def test_bars_of_one_size_are_together_under_one_label_in_the_order_of_the_key():
    (plot,) = re.findall(r"<figcaption>caching</figcaption>(<svg.*?</svg>)", render(replace(PAGE, cells=LATENCIES)))[:1]

    assert re.findall(r'<rect class="(\w+)"', plot) == ["memory", "messages", "hybrid"] * 2
    assert re.findall(r'text-anchor="end">([^<]*)', plot) == ["2 × 1.00 kB", "8 × 1.00 kB"]
    tops = [float(y) for y in re.findall(r'<rect class="\w+" x="[\d.]+" y="([\d.]+)"', plot)]
    steps = [after - before for before, after in itertools.pairwise(tops)]
    assert min(steps) > 0
    assert steps.index(max(steps)) == 2, "what sets the sizes apart"


def test_on_a_narrow_screen_each_cell_of_the_rows_says_what_it_is_about():
    ways = [attributes.get("data-way") for tag, attributes in outline(render(PAGE)).seen if tag == "td"]
    assert ways.count("shared memory: ") == ways.count("both in one commit: ") == 2 * 10  # engines x rows


def test_the_date_is_one_that_people_read_and_left_as_it_is_if_it_is_no_such_date():
    assert "Measured on 2026-11-23 at 09:08 UTC." in render(replace(PAGE, made_at="2026-11-23T09:08:07+00:00"))
    assert "Measured on yesterday." in render(replace(PAGE, made_at="yesterday"))


def test_the_page_asks_for_nothing_from_anywhere():
    html = render(PAGE)
    for tag, attributes in outline(html).seen:
        assert tag not in {"script", "link", "img", "iframe"}
        assert not {"src", "href", "onload"} & set(attributes)
    assert "http" not in html
    assert "@import" not in html
    assert "url(" not in html


def test_what_comes_from_outside_is_escaped():
    html = render(PAGE)
    assert "<made up>" not in html
    assert "&lt;made up&gt;" in html


@pytest.mark.parametrize("missing", ["cells", "jobs", "replays"])
def test_a_page_without_a_sort_of_results_is_still_a_page(missing: str):
    without = replace(PAGE, **{missing: ()})
    outline(render(without))


def test_the_figures_are_those_that_were_measured():
    html = render(PAGE)
    assert "2.00 kB" in html  # bytes read by one of two agents that read 4 kB together
    assert "1.50 s" in html
    assert re.search(r"one killed half-way: \d+ lost, 6 repeated, 0 stuck of 600", html)


# --- the rows of the table -----------------------------------------------------------------------


def own_cells() -> list[Cell]:
    return [cell for cell in CELLS if cell.engine == "memory"]


def test_the_rows_are_those_of_the_course_text_and_bytes():
    assert [row.name for row in aspects(own_cells())] == [
        "latency",
        "throughput",
        "scalability",
        "consistency",
        "coupling",
        "complexity",
        "fault tolerance",
        "debugging",
        "bytes read",
        "use cases",
    ]


def test_scalability_is_how_latency_and_throughput_change_with_the_team():
    rows = {row.name: row for row in aspects(own_cells())}
    assert rows["scalability"].said[Paradigm.MEMORY] == "from 2 to 8 agents: latency ×4, throughput ×0.25"


def test_the_fastest_at_a_use_case_is_named_with_the_distance():
    found = winners(own_cells())
    for use_case in UseCase:
        first, second = list(TEAMS[use_case])[:2]
        assert found[use_case][0] is first
        assert found[use_case][1] == pytest.approx(2)
        assert second is not first


@pytest.mark.parametrize("use_case", UseCase)
def test_the_lines_of_each_way_are_really_counted(use_case: UseCase):
    counted = lines_of_code(use_case)
    assert set(counted) == set(TEAMS[use_case])
    assert all(5 <= lines <= 60 for lines in counted.values())


# --- a real browser ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser on this machine (looked for {', '.join(BROWSERS)}), so the page was not opened in one")
    return found


@pytest.mark.parametrize("width", [390, 1200])
def test_a_real_browser_shows_the_page_without_a_complaint(browser: str, tmp_path: Path, width: int):
    page = tmp_path / "page.html"
    page.write_text(render(PAGE), encoding="utf-8")
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path}/profile",
        f"--window-size={width},2000",
    ]
    shot = tmp_path / "shot.png"
    done = subprocess.run(  # noqa: S603 - a browser of this machine
        [*command, f"--screenshot={shot}", page.as_uri()], capture_output=True, text=True, timeout=LONGEST, check=True
    )
    assert shot.stat().st_size > 20_000  # an empty page of this size takes a tenth of it
    assert "CONSOLE" not in done.stderr
    shown = subprocess.run(  # noqa: S603 - the same
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=LONGEST, check=True
    ).stdout
    assert shown.count("<svg") == render(PAGE).count("<svg")
