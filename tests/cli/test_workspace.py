"""`tertulia workspace` shows who works together, what they share and what they decided."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tertulia import CollaborativeWorkspace, Space, connect
from tertulia.cli.app import app


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"file:{tmp_path}/space.db"
    monkeypatch.setenv("TERTULIA_URL", url)
    return url


def command(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["workspace", *arguments])
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return result


def lines(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def with_a_team(url: str, look: Callable[[], object], more: Callable[[Space], Awaitable[object]] | None = None) -> None:
    """Look while ann and bob are in a workspace, share a plan, have decided one thing and are deciding another."""

    async def work() -> None:
        async with connect(url) as space:
            report = CollaborativeWorkspace("report", space)
            for agent in ("ann", "bob", "cid"):
                await report.join(agent)
            await report.leave("cid")
            await report.set_shared_data("plan", ["read", "write"], setter="ann")
            await report.set_shared_data("plan", ["read"], setter="bob")
            await report.propose_change("ann", "plan", ["write"], reason="it is late", proposal_id="first")
            await report.vote("ann", "first", "yes", reason="of course")
            await report.vote("bob", "first", "yes")
            await report.open_ballot("bob", "Which title?", ["A", "B"], proposal_id="second")
            await report.vote("bob", "second", "A")
            if more is not None:
                await more(space)
            await asyncio.to_thread(look)

    asyncio.run(work())


def test_workspaces_are_listed_with_who_is_there(url: str):
    async def make_another(space: Space) -> None:
        other = CollaborativeWorkspace("attic", space)
        await other.join("dan")
        await other.archive("dan")

    def look() -> None:
        shown = command("ls").stdout.splitlines()
        assert shown[0].split()[:2] == ["workspace", "state"]
        assert shown[1].split() == ["attic", "archived", "0", "0"]
        assert shown[2].split() == ["report", "open", "1", "1", "ann", "bob"]
        found = {one["workspace_id"]: one for one in lines(command("ls", "--json"))}
        assert found["report"]["participants"] == ["ann", "bob"]
        assert found["report"]["members"] == ["ann", "bob", "cid"]

    with_a_team(url, look, make_another)


def test_a_key_that_looks_like_a_workspace_is_none(url: str):
    async def write(space: Space) -> None:
        await CollaborativeWorkspace("report", space).set_shared_data("x:state", "open", setter="ann")

    with_a_team(url, lambda: check_names(["report"]), write)


def check_names(names: list[str]) -> None:
    assert [one["workspace_id"] for one in lines(command("ls", "--json"))] == names


def test_one_is_shown_with_its_shared_keys_and_not_with_what_is_under_them(url: str):
    def look() -> None:
        shown = command("show", "report").stdout
        assert shown.startswith("report: open, made 20")
        assert "participants: ann, bob\nwere here: cid\nopen proposals: 1\n" in shown
        assert shown.splitlines()[-1].split()[:3] == ["plan", "v3", "bob"]
        (found,) = lines(command("show", "report", "--json"))
        assert [(one["key"], one["version"]) for one in found["shared"]] == [("plan", 3)]
        assert "write" not in shown + json.dumps(found)

    with_a_team(url, look)


def test_proposals_and_decisions_are_told_apart(url: str):
    def look() -> None:
        first, second = command("proposals", "report").stdout.splitlines()
        assert first.endswith("first  ann: change plan [passed, applied]")
        assert second.endswith("second  bob: Which title? [open, 1 of 2 voted]")
        assert [one["id"] for one in lines(command("proposals", "report", "--state", "open", "--json"))] == ["second"]
        (decided,) = lines(command("history", "report", "--json"))
        assert (decided["id"], decided["state"], decided["result"]["outcome"]) == ("first", "closed", "passed")
        assert [(vote["voter"], vote["choice"]) for vote in decided["votes"]] == [("ann", "yes"), ("bob", "yes")]
        assert decided["options"][0]["value"] == ["write"]
        assert "value" not in decided["options"][1]

    with_a_team(url, look)


def test_a_proposal_is_shown_with_votes_and_reasons_and_a_sealed_one_without(url: str):
    def look() -> None:
        shown = command("proposal", "report", "first").stdout
        assert shown.startswith("change plan  [passed, applied]\nproposed by ann, ")
        assert 'option yes: plan = ["write"]\n' in shown
        assert "ann votes yes, because of course\nbob votes yes\npassed, applied, " in shown
        sealed = command("proposal", "report", "second").stdout
        assert "voted so far: bob" in sealed
        assert "votes A" not in sealed
        (plain,) = lines(command("proposal", "report", "second", "--json"))
        assert (plain["voted"], plain["votes"], plain["result"]) == (["bob"], [], None)
        assert "no proposal 'third'" in command("proposal", "report", "third", code=1).stderr

    with_a_team(url, look)


@pytest.mark.parametrize("what", [("show",), ("proposals",), ("history",), ("proposal",)])
def test_a_workspace_that_is_not_there_is_one_line_and_exit_code_1(url: str, what: tuple[str, ...]):
    more = ("x",) if what == ("proposal",) else ()
    result = command(*what, "nowhere", *more, code=1)
    assert (result.stdout, result.stderr.count("\n")) == ("", 1)
    assert "UnknownWorkspaceError" in result.stderr
    assert url


def test_in_an_empty_space_there_are_none(url: str):
    assert lines(command("ls", "--json")) == []
    assert url
