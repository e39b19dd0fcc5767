"""`tertulia compare` on a NATS server: the same report as elsewhere, every use case, and nothing left on the server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
from typer.testing import CliRunner, Result

import tertulia
from tertulia.cli.app import app
from tertulia.compare.use_cases.teams import TEAMS
from tertulia.selection.requirement import Paradigm, UseCase
from tests.nats.server import call, shared_server

PACKAGE = Path(tertulia.__file__).parents[1]
FILES = {
    "README.md": "# Team\n\nRead the [guide](guide.md) and the [missing page](nowhere.md).\n",
    "guide.md": "# Guide\n\nThe dead-letter queue keeps what nobody could handle.\n",
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE))  # for agents that are processes
    return tmp_path


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    left = asyncio.run(streams())
    assert [name for name in left if "compare-" in name] == []


async def streams() -> list[str]:
    client = await nats.connect(shared_server().url)
    try:
        return (await call(client, "STREAM.NAMES"))["streams"] or []
    finally:
        await client.close()


def compare(*arguments: str, code: int = 0) -> tuple[Result, Any]:
    server = ("--engine", "nats", "--url", f"{shared_server().url}?storage=memory")
    result = CliRunner().invoke(app, ["compare", *server, *arguments, "--repeat", "1", "--json", "-"])
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return result, json.loads(result.stdout) if result.stdout else None


def test_the_report_is_the_same_as_on_the_other_engines(home: Path):
    (home / "folder").mkdir()
    for name, text in FILES.items():
        (home / "folder" / name).write_text(text, encoding="utf-8")
    done, found = compare("--engine", "memory", "--use-case", "report", "--input", "folder")

    stages = [(stage["engine"], stage["agents"]) for stage in found["report"]["stages"]]
    assert stages == [("nats", "processes"), ("memory", "tasks")]
    assert "nats, processes: messages, run 1" in done.stderr
    assert (home / "build" / "tertulia" / "report.md").is_file()


def test_every_use_case_is_measured_in_every_way(home: Path):
    cases = [part for use_case in UseCase for part in ("--use-case", use_case.value)]
    _, found = compare("--agents", "tasks", *cases, "--team", "3", "--payload", "100")

    measured = {(UseCase(cell["use_case"]), Paradigm(cell["paradigm"])) for cell in found["cells"]}
    assert measured == {(use_case, paradigm) for use_case in UseCase for paradigm in TEAMS[use_case]}
    assert {(cell["engine"], cell["agents_as"], cell["lost_updates"]) for cell in found["cells"]} == {
        ("nats", "tasks", 0)
    }
    assert (home / ".tertulia" / "profile.json").is_file()


def test_agents_that_are_processes_can_die_and_conversations_be_replayed(home: Path):
    talk = [{"sender": "Lead", "content": "look it up"}, {"sender": "Surfer", "content": "found"}]
    (home / "talk.json").write_text(json.dumps(talk), encoding="utf-8")
    _, found = compare("--use-case", "request-response", "--team", "2", "--trace", "talk.json")

    faults = {cell["paradigm"]: cell["faults"] for cell in found["cells"]}
    assert set(faults) == {"memory", "messages", "hybrid"}
    assert all((one["units"], one["lost"], one["stuck"]) == (120, 0, 0) for one in faults.values()), faults
    assert [(one["engine"], one["agents_as"], one["deliveries"]) for one in found["replays"]] == [
        ("nats", "processes", 2)
    ] * 2


def test_a_server_that_refuses_us_is_named_before_anything_is_measured(home: Path):
    result = CliRunner().invoke(app, ["compare", "--engine", "nats", "--url", "nats://127.0.0.1:1?storage=none"])

    assert (result.exit_code, result.stdout) == (2, "")
    assert "storage must be one of file, memory" in result.stderr
    assert not (home / ".tertulia").exists()
