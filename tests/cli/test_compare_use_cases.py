"""`tertulia compare` with use cases and recorded conversations: what it prints and keeps, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

import tertulia
from tertulia.cli.app import app
from tertulia.compare.comparison import Comparison
from tertulia.compare.use_cases import coordination
from tertulia.compare.use_cases.teams import TEAMS
from tertulia.selection.profile import OWN_PROFILE, load_profile
from tertulia.selection.requirement import Paradigm, UseCase

PACKAGE = Path(tertulia.__file__).parents[1]
LONGEST = 60  # seconds that only a hang takes
ROWS = ("latency", "throughput", "scalability", "consistency", "coupling", "complexity", "fault tolerance", "debugging")
SMALL = ("--engine", "memory", "--payload", "100", "--repeat", "1")
TALK = [
    {"sender": "Lead", "receiver": "Surfer", "content": "look it up"},
    {"sender": "Surfer", "content": "found: 42"},
    {"sender": "Writer", "to": "Lead", "content": "written"},
]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE))  # for agents that are processes
    return tmp_path


def compare(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["compare", *arguments])
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return result


def figures(file: Path) -> Comparison:
    """Decode JSON as the documented schema has it, to the letter."""
    found = msgspec.json.decode(file.read_bytes(), type=Comparison)
    assert msgspec.json.decode(msgspec.json.encode(found)) == msgspec.json.decode(file.read_bytes())
    return found


# --- Use cases -----------------------------------------------------------------------------------


def test_all_use_cases_are_measured_each_way_and_kept_for_advice(home: Path):
    cases = [part for use_case in UseCase for part in ("--use-case", use_case.value)]
    done = compare(*SMALL, *cases, "--team", "2", "--team", "3", "--json", "all.json", "--html", "all.html")

    found = figures(home / "all.json")
    assert (found.complete, found.report, found.replays) == (True, None, ())
    assert {(cell.use_case, cell.paradigm, cell.agents) for cell in found.cells} == {
        (use_case, paradigm, agents) for use_case in UseCase for paradigm in TEAMS[use_case] for agents in (2, 3)
    }
    assert {(cell.engine, cell.agents_as, cell.payload, cell.lost_updates) for cell in found.cells} == {
        ("memory", "tasks", 100, 0)
    }
    (table,) = found.tables
    assert [row.name for row in table.rows] == [*ROWS, "bytes read", "use cases"]
    for row in table.rows:
        assert f"\n{row.name} " in done.stdout, "the rows of the usual table"
    assert all(said in done.stdout for said in table.rows[2].said.values()), "nothing is cut where it is piped"
    assert "memory, tasks: caching, 2 agents, 100 B: shared memory " in done.stderr
    page = (home / "all.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 3 * len(UseCase)
    own = load_profile(home / OWN_PROFILE)
    assert (len(own.cells), own.made_at) == (len(found.cells), found.made_at)
    assert list((home / OWN_PROFILE).parent.iterdir()) == [home / OWN_PROFILE]
    advice = CliRunner().invoke(app, ["recommend", "--use-case", "caching", "--payload", "100", "--json"])
    assert json.loads(advice.stdout)["basis"] == f"measured here on {found.made_at}"


def test_one_use_case_alone_makes_no_profile_of_which_the_others_are_missing(home: Path):
    done = compare(*SMALL, "--use-case", "request-response", "--team", "2")

    assert "no profile was written: it would know nothing about state_sharing, event_streaming" in done.stderr
    assert not (home / OWN_PROFILE).exists()
    assert "request response, 2 × 100 B" in done.stdout
    assert "caching" not in done.stdout


def test_where_agents_are_processes_somebody_is_killed_half_way(home: Path):
    done = compare(
        *("--engine", "file", "--use-case", "state-sharing", "--team", "2", "--payload", "100", "--repeat", "1"),
        *("--json", "all.json"),
    )

    found = figures(home / "all.json")
    faults = {cell.paradigm: cell.faults for cell in found.cells}
    assert {paradigm for paradigm, one in faults.items() if one is not None and one.lost} == {Paradigm.MESSAGES}
    assert all(one is not None and one.units == 160 and one.stuck == 0 for one in faults.values())
    assert "One is killed half-way, on file, and another takes its place" in done.stdout
    assert "file, processes: state sharing, messages, one is killed half-way" in done.stderr


def test_what_there_is_no_time_for_is_left_out_and_that_is_said_and_written(home: Path):
    """An answer takes 5 ms to compute, so a team of 64 takes more than a second on any machine."""
    cases = ("--use-case", "caching", "--team", "2", "--team", "64")
    done = compare(*SMALL, *cases, "--budget", "1", "--quiet", "--json", "all.json", "--html", "all.html")

    found = figures(home / "all.json")
    assert {cell.agents for cell in found.cells} == {2}
    (left_out,) = found.left_out
    assert left_out.point is not None
    assert (left_out.point.use_case, left_out.point.agents) == (UseCase.CACHING, 64)
    assert (found.complete, found.budget) == (True, 1.0)
    assert found.seconds > 0
    assert "left out, to end within 1 s (--budget): 1 thing\n" in done.stderr
    assert "  memory, tasks, 64 agents, 100 B: caching\n" in done.stderr
    assert "1 thing was left out" in (home / "all.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_was_measured_before_it_was_stopped_is_shown(home: Path, number: signal.Signals, code: int):
    teams = [part for agents in range(2, 40) for part in ("--team", str(agents))]
    process = subprocess.Popen(  # noqa: S603 - our own command
        [
            *(sys.executable, "-m", "tertulia", "compare", "--engine", "memory", "--use-case", "caching"),
            *("--repeat", "20", "--json", "all.json", *teams),
        ],
        env=os.environ | {"PYTHONPATH": str(PACKAGE), "PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("memory, tasks: caching, 2 agents")
    process.send_signal(number)
    out, errors = process.communicate(timeout=LONGEST)

    assert process.returncode == code, errors
    assert "caching, 2 × 1.00 kB" in out
    assert errors.splitlines()[-1].startswith("tertulia compare: stopped; this is what was measured until then")
    found = figures(home / "all.json")
    assert found.complete is False
    assert {cell.use_case for cell in found.cells} == {UseCase.CACHING}
    assert not (home / OWN_PROFILE).exists()


def test_what_was_measured_before_something_failed_is_shown_too(home: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise ValueError("on purpose")

    monkeypatch.setattr(coordination, "_passed", fail)
    cases = ("--use-case", "caching", "--use-case", "coordination")
    done = compare(*SMALL, *cases, "--team", "2", "--json", "all.json", code=1)

    assert done.stderr.splitlines()[-1] == "tertulia compare: part 0 of a team failed"
    assert "ValueError: on purpose" in done.stderr
    found = figures(home / "all.json")
    assert (found.complete, {cell.use_case for cell in found.cells}) == (False, {UseCase.CACHING})
    assert "caching, 2 × 100 B" in done.stdout
    assert not (home / OWN_PROFILE).exists()


@pytest.mark.parametrize(
    ("asked", "stages"),
    [
        (("--agents", "both"), {("memory", "tasks"), ("file", "tasks"), ("file", "processes")}),
        (("--agents", "processes"), {("file", "processes")}),
    ],
)
def test_agents_are_what_is_asked_for_wherever_they_can_be(
    home: Path, asked: tuple[str, ...], stages: set[tuple[str, str]]
):
    case = ("--use-case", "caching", "--team", "2", "--payload", "10", "--repeat", "1")
    compare(*case, *asked, "--no-faults", "--json", "all.json")

    assert {(cell.engine, cell.agents_as) for cell in figures(home / "all.json").cells} == stages


# --- Recorded conversations ----------------------------------------------------------------------


def test_a_recorded_conversation_is_replayed_both_ways_and_nothing_else_is_done(home: Path):
    (home / "talk.json").write_text(json.dumps(TALK), encoding="utf-8")
    done = compare("--trace", "talk.json", "--repeat", "1", "--json", "all.json", "--html", "all.html")

    found = figures(home / "all.json")
    assert (found.report, found.cells) == (None, ())
    assert [(one.engine, one.agents_as, one.paradigm) for one in found.replays] == [
        (engine, agents_as, paradigm)
        for engine, agents_as in (("memory", "tasks"), ("file", "processes"))
        for paradigm in (Paradigm.MEMORY, Paradigm.MESSAGES)
    ]
    assert {(one.agents, one.turns, one.deliveries) for one in found.replays} == {(3, 3, 4)}
    assert all(set(one.bytes_read) == {"Lead", "Surfer", "Writer"} for one in found.replays)
    assert "exactly once, and unchanged" in done.stdout
    assert "bytes read by" in done.stdout
    assert "talk, 3 agents, 3 turns" in done.stderr
    assert "Recorded conversations" in (home / "all.html").read_text(encoding="utf-8")


def test_a_folder_of_conversations_is_replayed_and_summed_up(home: Path):
    (home / "talks").mkdir()
    for name in ("a", "b"):
        (home / "talks" / f"{name}.json").write_text(json.dumps(TALK), encoding="utf-8")
    done = compare("--trace", "talks", "--engine", "memory", "--repeat", "2")

    assert "read by an agent" in done.stdout
    assert "bytes read by" not in done.stdout


# --- What is refused -----------------------------------------------------------------------------

ALONE = [{"sender": "Lead", "content": "hello?"}]
NAMELESS = [*TALK, {"content": "who says so?"}]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--use-case", "gossip"), "--use-case gossip: there is none of this name; there are report, state_sharing"),
        (("--team", "1"), "a team of one has nobody to communicate with"),
        (("--team", "65"), "--team 65: from 2 to 64"),
        (("--payload", "0"), "--payload 0: from 1 to"),
        (("--quick", "--full"), "one of them"),
        (("--engine", "nats"), "--engine nats needs the URL of its server: --url nats://HOST:PORT"),
        (("--url", "nats://127.0.0.1:1"), "--url is for an engine that needs a server"),
        (("--engine", "nats", "--url", "nats://127.0.0.1:1"), "the nats engine cannot be used: no NATS server answers"),
        (("--engine", "nats", "--url", "redis://127.0.0.1"), "the nats engine needs the URL of its server"),
        (("--trace", "absent.json"), "absent.json: cannot be read"),
        (("--trace", "empty.json"), "empty.json: there is no turn in it"),
        (("--trace", "broken.json"), "broken.json: line 2: not JSON"),
        (("--trace", "nameless.jsonl"), "nameless.jsonl: line 4, sender: nobody says it"),
        (("--trace", "alone.json"), "alone: a team of one"),
        (("--html", "nowhere/page.html"), "--html nowhere/page.html: not a file in a folder that exists"),
        (("--profile", "nowhere/profile.json"), "--profile nowhere/profile.json: not a file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2_and_nothing_is_written(
    home: Path, arguments: tuple[str, ...], said: str
):
    (home / "empty.json").write_text("[]", encoding="utf-8")
    (home / "broken.json").write_text("[\n{]", encoding="utf-8")
    (home / "nameless.jsonl").write_text("\n".join(map(json.dumps, NAMELESS)), encoding="utf-8")
    (home / "alone.json").write_text(json.dumps(ALONE), encoding="utf-8")
    before = {path: path.read_bytes() for path in home.iterdir()}
    done = compare(*arguments, "--input", str(home), "--output", str(home / "build"), code=2)

    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in home.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("text", ['{"schema": "tertulia.profile/0"}', "no JSON"])
def test_a_profile_that_it_cannot_read_is_not_overwritten(home: Path, text: str):
    (home / OWN_PROFILE).parent.mkdir()
    (home / OWN_PROFILE).write_text(text, encoding="utf-8")
    done = compare(*SMALL, "--use-case", "caching", code=2)

    assert "profile.json: is " in done.stderr
    assert "memory, tasks" not in done.stderr, "nothing was measured in vain"
    assert (home / OWN_PROFILE).read_text(encoding="utf-8") == text
