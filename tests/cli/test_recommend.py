"""`tertulia recommend` as a user runs it: with flags, or asked in a terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

import tertulia
from tertulia.cli.app import app
from tertulia.compare.results import Environment
from tertulia.selection.profile import OWN_PROFILE, Cell, Profile
from tertulia.selection.requirement import Paradigm, UseCase

PACKAGE = Path(tertulia.__file__).parents[1]
LONGEST = 60  # seconds that only a hang takes

MEASURED = Profile(
    made_at="2026-01-01",
    machine=Environment(tertulia="0", python="3", system="Linux", processor="made up", cores=2, load=None),
    cells=tuple(
        Cell(
            use_case=use_case,
            paradigm=paradigm,
            engine="memory",
            agents_as="tasks",
            agents=2,
            payload=1_000,
            units=100,
            p50=p50,
            throughput=1 / p50,
        )
        for use_case in (UseCase.BROADCAST, UseCase.CACHING)
        for paradigm, p50 in ((Paradigm.MEMORY, 1e-5), (Paradigm.MESSAGES, 5e-5))
    ),
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which a comparison was made."""
    (tmp_path / OWN_PROFILE).parent.mkdir()
    (tmp_path / OWN_PROFILE).write_bytes(msgspec.json.encode(MEASURED))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recommend(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["recommend", *arguments])
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return result


def test_flags_are_answered_from_the_latest_measurement(home: Path):
    plain = json.loads(recommend("--use-case", "broadcast", "--json").stdout)
    assert (plain["paradigm"], plain["engine"], plain["confidence"]) == ("memory", "memory", "high")
    assert plain["runner_up"]["paradigm"] == "messages"
    assert plain["runner_up"]["times"] == pytest.approx(5)
    assert plain["basis"] == "measured here on 2026-01-01"
    assert plain["agrees"] is False
    assert home.is_dir()


def test_people_read_what_how_and_why(home: Path):
    shown = recommend("--use-case", "broadcast", "--processes", "--fault-tolerant").stdout
    assert shown.startswith("shared memory\n  engine: file (file:team.db)\n")
    assert "the memory engine is out: the agents are in several processes" in shown
    assert "The rule of thumb for broadcast is messages; the measurement does not agree." in shown
    assert recommend("--use-case", "broadcast", "-l", "es").stdout.startswith("memoria compartida\n  motor: memory")
    assert home.is_dir()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--use-case", "gossip"), "--use-case is one of state_sharing"),
        (("--use-case", "broadcast", "--agents", "1"), "a team of one"),
        (("--use-case", "coordination"), "no measurement of coordination"),
        (("--use-case", "broadcast", "-l", "fr"), "one of en, es"),
        (("--use-case", "broadcast", "--profile", "absent.json"), "absent.json: cannot be read"),
        (("--use-case", "broadcast", "--machines", "--payload", "999999999"), "no engine can do all of this"),
        ((), "say --use-case"),
    ],
)
def test_what_cannot_be_answered_is_one_line_and_exit_code_2(home: Path, arguments: tuple[str, ...], said: str):
    result = recommend(*arguments, code=2)
    assert result.stdout == ""
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert (home / OWN_PROFILE).read_bytes() == msgspec.json.encode(MEASURED)


def test_in_a_terminal_at_most_six_questions_are_asked(home: Path):
    terminal, child = pty.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "tertulia", "recommend", "--json"],
            stdin=child,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=home,
            env=os.environ | {"PYTHONPATH": str(PACKAGE)},
            text=True,
        ) as asked:
            os.write(terminal, b"gossip\ncaching\n2\ntasks\n1000\nlatency\nnothing\n")
            printed, questions = asked.communicate(timeout=LONGEST)
    finally:
        os.close(terminal)
        os.close(child)
    assert asked.returncode == 0, questions
    assert json.loads(printed)["use_case"] == "caching"
    assert questions.count("?") == 7  # six, and the first again because the answer was none
