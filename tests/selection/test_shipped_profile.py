"""The profile that comes with the package answers every question out of the box, and says what it is."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.profile import missing
from tertulia import CommunicationRequirement, CommunicationSelector, Paradigm, UseCase
from tertulia.cli.app import app
from tertulia.compare.places import ENGINES
from tertulia.compare.sizes import FULL
from tertulia.compare.use_cases.teams import TEAMS
from tertulia.selection.profile import own_profile


@pytest.fixture
def selector(tmp_path: Path) -> CommunicationSelector:
    return CommunicationSelector(folder=tmp_path)


def test_it_answers_for_every_way_of_a_full_comparison(tmp_path: Path):
    profile = own_profile(tmp_path)
    measured = {(cell.use_case, cell.paradigm, cell.engine, cell.agents, cell.payload) for cell in profile.cells}

    assert not profile.own
    assert missing(profile) == []
    assert measured <= {
        (use_case, paradigm, engine, agents, payload)
        for engine in ENGINES
        for agents in FULL.teams
        for use_case in UseCase
        for paradigm in TEAMS[use_case]
        for payload in FULL.payloads
    }
    assert sum(cell.lost_updates for cell in profile.cells) == 0
    assert all(cell.faults is not None for cell in profile.cells if cell.agents_as == "processes")


def test_it_says_when_and_on_what_it_was_measured_and_names_no_machine(selector: CommunicationSelector):
    machine = selector.profile.machine

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", selector.profile.made_at)
    assert machine.processor
    assert machine.cores > 0
    assert machine.load is not None
    text = (files("tertulia.selection") / "profile.json").read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|tmp|work|usr)/|@|\.local", text)


@pytest.mark.parametrize("use_case", UseCase)
def test_every_use_case_has_an_answer_that_says_whose_figures_these_are(
    use_case: UseCase, selector: CommunicationSelector
):
    for place, engine in ({}, "memory"), ({"processes": True}, "file"), ({"machines": True}, "nats"):
        answer = selector.recommend(CommunicationRequirement(use_case=use_case, **place))
        assert answer.engine == engine
        assert answer.paradigm in TEAMS[use_case]
        assert "comes with the package" in answer.basis
        assert f"{selector.profile.machine.cores} cores, load " in answer.basis
    assert (
        "viene con el paquete" in selector.recommend(CommunicationRequirement(use_case=use_case), language="es").basis
    )


def test_what_is_plain_without_measuring_is_what_it_says(selector: CommunicationSelector):
    """Whatever the machine: state that a process holds is looked at sooner than somebody who has it is asked."""
    requirement = CommunicationRequirement(use_case=UseCase.STATE_SHARING, payload=100, processes=True)

    assert selector.recommend(requirement).paradigm is Paradigm.MEMORY


def test_the_command_answers_where_nothing_was_ever_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["recommend", "--use-case", "request-response", "--json"])

    assert result.exit_code == 0, result.stderr
    assert "comes with the package" in json.loads(result.stdout)["basis"]
