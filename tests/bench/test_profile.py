"""A new profile takes the place of the one that comes with the package only if it answers as much."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from bench import profile as command
from bench.profile import MOST_ON_A_SERVER, missing
from tertulia.compare.sizes import FULL
from tertulia.selection.profile import Profile, load_profile, own_profile


@pytest.fixture
def shipped(tmp_path: Path) -> Profile:
    return own_profile(tmp_path)


def without(profile: Profile, engine: str, agents: int, payload: int) -> Profile:
    cells = (one for one in profile.cells if (one.engine, one.agents, one.payload) != (engine, agents, payload))
    return replace(profile, cells=tuple(cells))


def test_the_smallest_payload_is_needed_for_all_teams_and_every_payload_for_the_smallest_team(shipped: Profile):
    few, small, large = min(FULL.teams), min(FULL.payloads), max(FULL.payloads)
    for agents, payload in ((few, large), (max(FULL.teams), small)):
        lacking = missing(without(shipped, "file", agents, payload))
        assert len(lacking) == 17, "each way of each use case"
        assert all(line.startswith("file: ") and line.endswith(f", {payload} B") for line in lacking)
    assert missing(without(shipped, "file", max(FULL.teams), large)) == []


def test_on_a_server_large_teams_are_welcome_and_not_needed(shipped: Profile):
    assert missing(without(shipped, "nats", max(FULL.teams), min(FULL.payloads))) == []
    assert missing(without(shipped, "nats", MOST_ON_A_SERVER, min(FULL.payloads))) != []


def test_what_lacks_something_does_not_take_the_place_of_what_is_there(
    shipped: Profile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    place = tmp_path / "profile.json"
    place.write_text("as it was", encoding="utf-8")

    assert command._put(without(shipped, "memory", 2, 100), place) == 1  # noqa: SLF001 - what measuring for long ends in
    assert "not measured: memory: state_sharing by memory, 2 agents, 100 B" in capsys.readouterr().err
    assert place.read_text(encoding="utf-8") == "as it was"

    assert command._put(shipped, place) == 0  # noqa: SLF001 - the same
    assert len(load_profile(place).cells) == len(shipped.cells)


def test_without_a_server_nothing_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(command, "program", lambda _: None)

    assert command.main([]) == 1
    assert "there is no nats-server" in capsys.readouterr().err
