"""The user's profile is put in place in one step, and keeps what the latest comparison did not measure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tertulia.compare.results import Environment
from tertulia.selection.keeping import existing, keep, merged, missing
from tertulia.selection.profile import Cell, Profile, ProfileError, load_profile
from tertulia.selection.requirement import Paradigm, UseCase

MACHINE = Environment(tertulia="0", python="3", system="Linux", processor="made up", cores=2, load=0.5)


def cell(use_case: UseCase = UseCase.CACHING, **more: Any) -> Cell:
    usual: dict[str, Any] = {"engine": "memory", "agents": 2, "payload": 100, "p50": 1e-5}
    return Cell(
        use_case=use_case, paradigm=Paradigm.MEMORY, agents_as="tasks", units=10, throughput=9.0, **(usual | more)
    )


def profile(*cells: Cell, machine: Environment = MACHINE, made_at: str = "2026-01-02") -> Profile:
    return Profile(made_at=made_at, machine=machine, cells=cells)


def test_what_is_kept_is_read_again(tmp_path: Path):
    path = tmp_path / "new" / "profile.json"
    kept = profile(cell(p50_spread=(1e-5, 2e-5)), cell(UseCase.BROADCAST))
    keep(path, kept)

    assert load_profile(path) == kept
    assert path.read_text(encoding="utf-8").count("\n") == 4, "a line for each cell, so that changes can be seen"


def test_figures_have_as_many_digits_as_mean_anything(tmp_path: Path):
    keep(tmp_path / "profile.json", profile(cell(p50=1.23456789e-5, p50_spread=(1.11111e-5, 2.22222e-5))))

    (found,) = load_profile(tmp_path / "profile.json").cells
    assert (found.p50, found.p50_spread) == (1.235e-5, (1.111e-5, 2.222e-5))


def test_newer_figures_take_the_place_of_those_of_the_same_point_alone():
    old = profile(cell(p50=1.0), cell(agents=8), cell(engine="file"), cell(UseCase.BROADCAST), made_at="2026-01-01")
    new = profile(cell(p50=2.0), cell(payload=200))
    both = merged(old, new)

    assert both.made_at == "2026-01-02"
    assert set(both.cells) == {*new.cells, *old.cells[1:]}


@pytest.mark.parametrize("other", [{"processor": "another"}, {"cores": 64}, {"tertulia": "1"}, {"python": "4"}])
def test_figures_of_another_machine_or_version_are_not_mixed_with_new_ones(other: dict[str, Any]):
    old = profile(cell(engine="file"), machine=replace(MACHINE, **other))

    assert merged(old, profile(cell())).cells == (cell(),)


def test_how_busy_the_machine_was_makes_it_no_other_machine():
    old = profile(cell(engine="file"), machine=replace(MACHINE, load=9.0))
    both = merged(old, profile(cell()))

    assert len(both.cells) == 2
    assert both.machine.load == 9.0, "some of these figures were measured then"
    assert merged(profile(cell(), machine=replace(MACHINE, load=9.0)), profile(cell())).machine == MACHINE


def test_a_profile_that_is_not_about_everything_says_what_is_missing():
    assert missing(profile(cell(), cell(UseCase.BROADCAST))) == [
        UseCase.STATE_SHARING,
        UseCase.REQUEST_RESPONSE,
        UseCase.EVENT_STREAMING,
        UseCase.COORDINATION,
    ]
    assert missing(profile(*map(cell, UseCase))) == []


def test_where_writing_fails_the_old_one_stays_and_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError("no space left on device")

    path = tmp_path / "profile.json"
    keep(path, profile(cell()))
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no space left"):
        keep(path, profile(cell(UseCase.BROADCAST)))

    assert load_profile(path) == profile(cell())
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_there_and_cannot_be_read_is_an_error(tmp_path: Path):
    assert existing(tmp_path / "absent.json") is None
    (tmp_path / "profile.json").write_text("nonsense", encoding="utf-8")
    with pytest.raises(ProfileError, match="is no profile"):
        existing(tmp_path / "profile.json")
