"""The selector recommends what the measurements say, within what the requirement allows, and explains itself."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tertulia import DeliveryMode
from tertulia.compare.results import Environment
from tertulia.engines import file, inprocess
from tertulia.errors import InvalidInputError
from tertulia.selection.choosing import NotMeasuredError, choose
from tertulia.selection.constraints import LARGEST_VALUE, NoEngineFitsError
from tertulia.selection.estimating import estimate
from tertulia.selection.profile import OWN_PROFILE, Cell, Faults, Profile, ProfileError, load_profile, own_profile
from tertulia.selection.requirement import MAX_PAYLOAD, CommunicationRequirement, Paradigm, UseCase
from tertulia.selection.selector import RULES_OF_THUMB, CommunicationSelector

MACHINE = Environment(tertulia="0", python="3", system="Linux", processor="made up", cores=2, load=None)
AGENTS = (2, 8, 32, 64)
PAYLOADS = (100, 10_000, 256_000)


def cell(
    use_case: UseCase = UseCase.BROADCAST,
    paradigm: Paradigm = Paradigm.MEMORY,
    *,
    engine: str = "memory",
    agents: int = 2,
    payload: int = 100,
    p50: float = 1e-4,
    **more: Any,
) -> Cell:
    defaults: dict[str, Any] = {"agents_as": "tasks", "units": 100, "throughput": 1 / p50, "p95": 2 * p50}
    return Cell(
        use_case=use_case,
        paradigm=paradigm,
        engine=engine,
        agents=agents,
        payload=payload,
        p50=p50,
        **(defaults | more),
    )


def profile(*cells: Cell, own: bool = True) -> Profile:
    return Profile(made_at="2026-01-01", machine=MACHINE, cells=cells, own=own)


def grid(seed: int) -> Profile:
    """A whole profile of made-up costs: each way has a cost of its own a call, an agent and a byte."""
    rng = random.Random(seed)  # noqa: S311 - made-up figures, no secrets
    cells: list[Cell] = []
    for use_case in UseCase:
        for paradigm in Paradigm:
            call, per_agent, per_byte = (rng.uniform(1, 9) * scale for scale in (1e-5, 1e-6, 1e-9))
            cells += [
                cell(
                    use_case,
                    paradigm,
                    engine=engine,
                    agents=agents,
                    payload=payload,
                    p50=(call + per_agent * agents + per_byte * payload) * slower,
                    agents_as="tasks" if engine == "memory" else "processes",
                )
                for engine, slower in (("memory", 1), ("file", 10), ("nats", 50))
                for agents in AGENTS
                for payload in PAYLOADS
            ]
    return profile(*cells)


def requirements(seed: int, count: int) -> list[CommunicationRequirement]:
    """Requirements at measured points, with any flags whose constraints leave more than one paradigm."""
    rng = random.Random(seed)  # noqa: S311 - made-up figures, no secrets
    return [
        CommunicationRequirement(
            use_case=rng.choice(list(UseCase)),
            agents=rng.choice(AGENTS),
            payload=rng.choice(PAYLOADS),
            latency_sensitive=rng.random() < 0.5,
            durable=rng.random() < 0.3,
            processes=rng.random() < 0.5,
            machines=rng.random() < 0.2,
            strong_consistency=rng.random() < 0.3,
        )
        for _ in range(count)
    ]


def test_the_paradigm_that_was_measured_to_be_faster_is_chosen():
    right = 0
    measured = grid(1)
    for requirement in requirements(2, 200):
        recommended = CommunicationSelector(measured).recommend(requirement)
        costs = {
            one.paradigm: one.p95 if requirement.latency_sensitive else one.p50
            for one in measured.cells
            if (one.use_case, one.engine, one.agents, one.payload)
            == (requirement.use_case, recommended.engine, requirement.agents, requirement.payload)
        }
        right += recommended.paradigm is min(costs, key=lambda paradigm: costs[paradigm] or 0)
    assert right == 200


def test_between_measured_points_the_nearest_figures_decide():
    measured = grid(3)
    for agents, payload in ((4, 1_000), (16, 50_000), (48, 100_000)):
        requirement = CommunicationRequirement(use_case=UseCase.CACHING, agents=agents, payload=payload)
        recommendation = CommunicationSelector(measured).recommend(requirement)
        assert any("estimated" in reason for reason in recommendation.reasons)
        assert recommendation.confidence in {"low", "medium", "high"}


def test_an_estimate_lies_between_its_neighbours_and_says_when_it_has_none():
    cells = [
        cell(agents=agents, payload=payload, p50=agents * payload * 1e-8) for agents in (2, 32) for payload in PAYLOADS
    ]
    between = estimate(cells, 8, 1_000, lambda one: one.p50)
    assert between.value == pytest.approx(8 * 1_000 * 1e-8)
    assert not between.measured
    assert not between.beyond
    outside = estimate(cells, 1_000, 100, lambda one: one.p50)
    assert outside.beyond
    assert outside.value == pytest.approx(32 * 100 * 1e-8)
    assert estimate(cells, 2, 100, lambda one: one.p50).measured


@pytest.mark.parametrize(
    ("need", "engine"),
    [
        ({}, "memory"),
        ({"processes": True}, "file"),
        ({"durable": True}, "file"),
        ({"power_safe": True}, "file"),
        ({"fault_tolerant": True}, "file"),
        ({"machines": True}, "nats"),
        ({"machines": True, "power_safe": True}, "nats"),
    ],
)
def test_hard_constraints_choose_the_simplest_engine_that_meets_them(need: dict[str, bool], engine: str):
    requirement = CommunicationRequirement(use_case=UseCase.BROADCAST, **need)
    recommendation = CommunicationSelector(grid(4)).recommend(requirement)
    assert recommendation.engine == engine
    assert recommendation.settings["url"].startswith({"memory": "memory:", "file": "file:", "nats": "nats://"}[engine])


def test_what_cannot_be_had_at_once_is_refused_with_the_reasons():
    requirement = CommunicationRequirement(use_case=UseCase.BROADCAST, machines=True, payload=MAX_PAYLOAD)
    with pytest.raises(NoEngineFitsError) as caught:
        CommunicationSelector(grid(5)).recommend(requirement)
    assert {one.engine: one.why for one in caught.value.ruled_out} == dict.fromkeys(
        ("memory", "file", "nats"), "payload"
    )


def test_the_largest_values_are_those_of_the_engines():
    assert LARGEST_VALUE["memory"] == inprocess.CAPABILITIES.max_value_bytes
    assert LARGEST_VALUE["file"] == file.CAPABILITIES.max_value_bytes


def test_what_lost_updates_is_not_recommended_where_none_may_be_lost():
    measured = profile(
        cell(paradigm=Paradigm.MEMORY, p50=1e-5, lost_updates=3), cell(paradigm=Paradigm.MESSAGES, p50=1e-4)
    )
    fast = CommunicationRequirement(use_case=UseCase.BROADCAST, payload=100)
    careful = CommunicationRequirement(use_case=UseCase.BROADCAST, payload=100, strong_consistency=True)
    selector = CommunicationSelector(measured)
    assert selector.recommend(fast).paradigm is Paradigm.MEMORY
    recommended = selector.recommend(careful)
    assert recommended.paradigm is Paradigm.MESSAGES
    assert any("shared memory would cost less, but lost" in reason for reason in recommended.reasons)
    assert any("if no update may be lost: messages" in change for change in selector.recommend(fast).would_change)


def test_what_got_stuck_when_somebody_died_is_not_recommended_where_anybody_may():
    stuck = Faults(units=100, lost=0, repeated=0, stuck=1)
    measured = profile(
        cell(paradigm=Paradigm.MEMORY, p50=1e-5, faults=stuck, engine="file"),
        cell(paradigm=Paradigm.MESSAGES, p50=1e-4, engine="file"),
    )
    requirement = CommunicationRequirement(use_case=UseCase.BROADCAST, payload=100, fault_tolerant=True)
    recommended = CommunicationSelector(measured).recommend(requirement)
    assert recommended.paradigm is Paradigm.MESSAGES
    assert recommended.delivery_mode is DeliveryMode.EXACTLY_ONCE


def test_where_nothing_is_safe_the_least_harm_is_said_to_be_one():
    measured = profile(cell(p50=1e-5, lost_updates=3))
    requirement = CommunicationRequirement(use_case=UseCase.BROADCAST, payload=100, strong_consistency=True)
    recommended = CommunicationSelector(measured).recommend(requirement)
    assert any("no way that was measured is as safe" in reason for reason in recommended.reasons)
    assert recommended.confidence == "low"


@pytest.mark.parametrize(("times", "confidence"), [(3.0, "high"), (1.5, "medium"), (1.05, "low")])
def test_confidence_grows_with_the_distance_and_shrinks_with_doubt(times: float, confidence: str):
    cells = (cell(paradigm=Paradigm.MEMORY, p50=1e-4), cell(paradigm=Paradigm.MESSAGES, p50=1e-4 * times))
    requirement = CommunicationRequirement(use_case=UseCase.BROADCAST, payload=100)
    recommended = CommunicationSelector(profile(*cells)).recommend(requirement)
    assert recommended.confidence == confidence
    assert recommended.runner_up is not None
    assert recommended.runner_up.times == pytest.approx(times)
    shipped = CommunicationSelector(profile(*cells, own=False)).recommend(requirement)
    assert shipped.confidence == {"high": "medium", "medium": "low", "low": "low"}[confidence]
    assert "another machine (made up, 2 cores)" in shipped.basis


def test_an_engine_that_was_not_measured_is_judged_by_its_neighbour_and_says_so():
    measured = profile(cell(engine="file"), cell(engine="file", paradigm=Paradigm.MESSAGES, p50=1e-2))
    requirement = CommunicationRequirement(use_case=UseCase.BROADCAST, payload=100, machines=True)
    recommended = CommunicationSelector(measured).recommend(requirement)
    assert (recommended.engine, recommended.confidence) == ("nats", "medium")
    assert any("tertulia compare --engine nats" in reason for reason in recommended.reasons)


def test_what_would_change_the_choice_really_changes_it():
    measured = profile(
        cell(paradigm=Paradigm.MEMORY, p50=1e-5),
        cell(paradigm=Paradigm.MESSAGES, p50=1e-4),
        cell(paradigm=Paradigm.MEMORY, agents=32, p50=1e-2),
        cell(paradigm=Paradigm.MESSAGES, agents=32, p50=2e-4),
    )
    requirement = CommunicationRequirement(use_case=UseCase.BROADCAST, payload=100)
    recommended = CommunicationSelector(measured).recommend(requirement)
    assert recommended.paradigm is Paradigm.MEMORY
    (change,) = [change for change in recommended.would_change if change.startswith("with") and "agents: " in change]
    agents = int(change.split()[1])
    assert change.endswith(": messages")
    changed = msgspec.structs.replace(requirement, agents=agents)
    assert choose(changed, measured).best.paradigm is Paradigm.MESSAGES


def test_a_growing_team_is_judged_by_what_it_grows_to():
    measured = profile(
        cell(paradigm=Paradigm.MEMORY, p50=1e-5),
        cell(paradigm=Paradigm.MESSAGES, p50=2e-5),
        cell(paradigm=Paradigm.MEMORY, agents=16, p50=1e-3),
        cell(paradigm=Paradigm.MESSAGES, agents=16, p50=2e-5),
    )
    chosen = {
        scalable: CommunicationSelector(measured)
        .recommend(CommunicationRequirement(use_case=UseCase.BROADCAST, payload=100, scalable=scalable))
        .paradigm
        for scalable in (False, True)
    }
    assert chosen == {False: Paradigm.MEMORY, True: Paradigm.MESSAGES}


def test_throughput_decides_where_it_is_what_counts():
    measured = profile(
        cell(paradigm=Paradigm.MEMORY, p50=1e-5, throughput=100.0),
        cell(paradigm=Paradigm.MESSAGES, p50=1e-4, throughput=5_000.0),
    )
    requirement = CommunicationRequirement(use_case=UseCase.BROADCAST, payload=100, high_throughput=True)
    assert CommunicationSelector(measured).recommend(requirement).paradigm is Paradigm.MESSAGES


@pytest.mark.parametrize("use_case", UseCase)
def test_the_rule_of_thumb_is_set_beside_the_measurement(use_case: UseCase):
    agree, differ = Paradigm.MEMORY, Paradigm.MESSAGES
    for fast, slow in ((agree, differ), (differ, agree)):
        measured = profile(cell(use_case, fast, p50=1e-5), cell(use_case, slow, p50=1e-3))
        requirement = CommunicationRequirement(use_case=use_case, payload=100)
        recommended = CommunicationSelector(measured).recommend(requirement)
        assert recommended.agrees is (RULES_OF_THUMB[use_case] is fast)
        assert ("does not agree" in recommended.rule) is not recommended.agrees


def test_reasons_come_in_spanish_too_with_every_sentence_translated():
    measured = grid(6)
    for requirement in requirements(7, 30):
        english = CommunicationSelector(measured).recommend(requirement)
        spanish = CommunicationSelector(measured).recommend(requirement, language="es")
        assert (spanish.paradigm, spanish.engine) == (english.paradigm, english.engine)
        assert len(spanish.reasons) == len(english.reasons)
        assert not set(spanish.reasons) & set(english.reasons)
        assert spanish.rule.startswith("La regla general")
    with pytest.raises(InvalidInputError, match="one of en, es"):
        CommunicationSelector(measured).recommend(requirements(7, 1)[0], language="fr")


def test_a_recommendation_is_plain_json():
    recommended = CommunicationSelector(grid(8)).recommend(CommunicationRequirement(use_case=UseCase.COORDINATION))
    plain = json.loads(json.dumps(recommended.to_dict()))
    assert plain["use_case"] == "coordination"
    assert plain["paradigm"] in {"memory", "messages", "hybrid"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"use_case": "broadcast"}, "use_case must be a UseCase"),
        ({"agents": 1}, "a team of one"),
        ({"agents": 0}, "agents"),
        ({"payload": -1}, "payload"),
        ({"durable": 1}, "durable must be True or False"),
    ],
)
def test_a_requirement_that_makes_no_sense_is_refused(wrong: dict[str, Any], said: str):
    with pytest.raises(InvalidInputError, match=said):
        CommunicationRequirement(**{"use_case": UseCase.BROADCAST, **wrong})


def test_a_use_case_that_was_never_measured_is_said():
    with pytest.raises(NotMeasuredError, match="caching"):
        CommunicationSelector(profile(cell())).recommend(CommunicationRequirement(use_case=UseCase.CACHING))


def test_the_users_own_profile_comes_before_the_shipped_one(tmp_path: Path):
    path = tmp_path / OWN_PROFILE
    path.parent.mkdir()
    path.write_bytes(msgspec.json.encode(profile(cell())))
    assert own_profile(tmp_path).machine.processor == "made up"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no profile"),
        ("{", "is no profile"),
        ("[]", "is no profile"),
        ("{}", "is of version 'unknown'"),
        ('{"schema": "tertulia.profile/99"}', "is of version 'tertulia.profile/99'"),
        ('{"schema": "tertulia.profile/1"}', "is no profile"),
        (msgspec.json.encode(profile()).decode(), "holds no measurement"),
    ],
)
def test_a_profile_that_cannot_be_used_is_refused_and_left_alone(tmp_path: Path, text: str, said: str):
    path = tmp_path / "profile.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ProfileError, match=said):
        load_profile(path)
    assert path.read_text(encoding="utf-8") == text
    with pytest.raises(ProfileError, match="cannot be read"):
        load_profile(tmp_path / "absent.json")
