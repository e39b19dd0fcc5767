"""From a choice to a recommendation: reasons, confidence, and what would lead to another choice."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from msgspec.structs import replace

from tertulia.compare.units import bytes_text, seconds_text
from tertulia.records import DeliveryMode
from tertulia.selection.choosing import MAX_MEASURED_AGENTS, Candidate, Choice, choose
from tertulia.selection.constraints import NoEngineFitsError
from tertulia.selection.profile import Profile
from tertulia.selection.recommendation import RULES_OF_THUMB, Recommendation, Rival
from tertulia.selection.requirement import FLAGS, MAX_PAYLOAD, CommunicationRequirement, Paradigm, UseCase
from tertulia.selection.words import Words

__all__ = ["advise"]

CLEAR, NOTICEABLE = 2.0, 1.2  # times less; below the second the order may turn round in the next measurement
AXIS_STEPS = (4, 16, 64)  # how many times more or less of something is looked at for what would change the choice


def advise(profile: Profile, requirement: CommunicationRequirement, language: str) -> Recommendation:
    """Return what fits a requirement, by the figures of a profile. Raises what CommunicationSelector.recommend does."""
    return _Adviser(profile).advise(requirement, Words(language))


class _Adviser:
    """What is said of a choice, with the figures at hand."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    def advise(self, requirement: CommunicationRequirement, words: Words) -> Recommendation:
        """Choose, and say why."""
        choice = choose(requirement, self._profile)
        best, rival = choice.best, choice.rival
        rule = RULES_OF_THUMB[requirement.use_case]
        return Recommendation(
            use_case=requirement.use_case,
            paradigm=best.paradigm,
            engine=best.engine,
            delivery_mode=_delivery_mode(requirement, best.paradigm),
            settings=_settings(requirement, best),
            reasons=tuple(self._reasons(requirement, choice, words)),
            confidence=self._confidence(choice),
            runner_up=None
            if rival is None
            else Rival(paradigm=rival.paradigm, engine=rival.engine, times=_times(choice)),
            would_change=tuple(self._would_change(requirement, best, words)),
            rule_of_thumb=rule,
            agrees=rule is best.paradigm,
            rule=words.say(
                "rule",
                use_case=words.use_case(requirement.use_case),
                paradigm=words.paradigm(rule),
                agrees=words.say("agrees" if rule is best.paradigm else "disagrees"),
            ),
            basis=self._basis(words),
        )

    def _reasons(self, requirement: CommunicationRequirement, choice: Choice, words: Words) -> Iterator[str]:
        yield self._comparison(requirement, choice, words)
        for candidate in choice.candidates:
            yield _figures(candidate, words)
        if choice.overruled is not None:
            yield words.say("overruled", unsafe=words.paradigm(choice.overruled.paradigm))
        if not choice.best.safe:
            yield words.say("unsafe")
        for one in choice.ruled_out:
            yield words.say("ruled_out", engine=one.engine, why=words.reason(one.why))
        best = choice.best
        if best.figures_from != best.engine:
            server = " --url nats://HOST" if best.engine == "nats" else ""
            yield words.say("other_engine", engine=best.engine, figures_from=best.figures_from, server=server)
        if best.beyond:
            yield words.say("beyond")
        elif not best.measured:
            yield words.say("estimated")

    def _comparison(self, requirement: CommunicationRequirement, choice: Choice, words: Words) -> str:
        use_case, best = words.use_case(requirement.use_case), words.paradigm(choice.best.paradigm)
        if choice.rival is None:
            return words.say("alone", use_case=use_case, best=best)
        times = _times(choice)
        return words.say(
            "faster" if times >= NOTICEABLE else "even",
            use_case=use_case,
            agents=f"{requirement.agents:,}",
            payload=bytes_text(requirement.payload),
            best=best,
            rival=words.paradigm(choice.rival.paradigm),
            times=f"{times:.1f}",
        )

    def _confidence(self, choice: Choice) -> str:
        """Judge by the distance to the next best, one less for each reason to doubt the figures."""
        levels = ("low", "medium", "high")
        times = _times(choice)
        level = 2 if times >= CLEAR else 1 if times >= NOTICEABLE else 0
        best = choice.best
        doubts = (best.beyond, not self._profile.own, best.figures_from != best.engine, not best.safe)
        return levels[max(0, level - sum(doubts))]

    def _would_change(self, requirement: CommunicationRequirement, best: Candidate, words: Words) -> Iterator[str]:
        """Yield the changes of one thing that lead to another choice."""
        for flag in FLAGS:
            if not getattr(requirement, flag):
                yield from self._difference(replace(requirement, **{flag: True}), best, words.change(flag), words)
        teams = _steps(requirement.agents, 2, MAX_MEASURED_AGENTS)
        sizes = _steps(requirement.payload, 1, MAX_PAYLOAD)
        more = [(replace(requirement, agents=step), words.say("agents", value=f"{step:,}")) for step in teams]
        larger = [(replace(requirement, payload=step), words.say("payload", value=bytes_text(step))) for step in sizes]
        for steps in (more, larger):
            found = (change for changed, text in steps for change in self._difference(changed, best, text, words))
            yield from islice(found, 1)  # the nearest
        if _delivery_mode(requirement, best.paradigm) is DeliveryMode.AT_LEAST_ONCE:
            yield words.say("if_lossy")

    def _difference(
        self, requirement: CommunicationRequirement, best: Candidate, change: str, words: Words
    ) -> Iterator[str]:
        try:
            other = choose(requirement, self._profile).best
        except NoEngineFitsError:
            return
        if other.paradigm is not best.paradigm:
            yield words.say("if_paradigm", change=change, paradigm=words.paradigm(other.paradigm))
        elif other.engine != best.engine:
            yield words.say("if_engine", change=change, engine=other.engine)

    def _basis(self, words: Words) -> str:
        profile = self._profile
        if profile.own:
            return words.say("own", made_at=profile.made_at)
        machine = profile.machine
        parts = [machine.processor, words.say("cores", cores=machine.cores)]
        if machine.load is not None:
            parts.append(words.say("load", load=f"{machine.load:g}"))
        return words.say("shipped", machine=", ".join(parts), made_at=profile.made_at)


def _times(choice: Choice) -> float:
    """Return how many times the runner-up costs as much as the best; of the safe ones, if the best is safe."""
    rival = choice.rival
    return 1.0 if rival is None or not choice.best.cost else rival.cost / choice.best.cost


def _figures(candidate: Candidate, words: Words) -> str:
    return words.say(
        "figure",
        paradigm=words.paradigm(candidate.paradigm),
        latency=seconds_text(candidate.latency),
        throughput=f"{candidate.throughput:,.0f}",
        bytes_read=bytes_text(candidate.bytes_read),
    )


def _steps(value: int, smallest: int, largest: int) -> list[int]:
    """Return values around this one, the nearest first."""
    steps = [around for times in AXIS_STEPS for around in (value * times, value // times)]
    return [step for step in steps if smallest <= step <= largest]


def _delivery_mode(requirement: CommunicationRequirement, paradigm: Paradigm) -> DeliveryMode | None:
    if paradigm is Paradigm.MEMORY:
        return None
    careful = requirement.fault_tolerant or requirement.strong_consistency
    return DeliveryMode.EXACTLY_ONCE if careful else DeliveryMode.AT_LEAST_ONCE


def _settings(requirement: CommunicationRequirement, best: Candidate) -> dict[str, str]:
    replicas = "?replicas=3" if requirement.fault_tolerant or requirement.power_safe else ""
    urls = {"memory": "memory:team", "file": "file:team.db", "nats": f"nats://HOST/team{replicas}"}
    settings = {"url": urls[best.engine]}
    if best.engine == "file" and requirement.power_safe:
        settings["durability"] = "power"
    if best.paradigm is not Paradigm.MEMORY and requirement.use_case is UseCase.EVENT_STREAMING:
        settings["when_full"] = "wait"  # a producer that is faster than its consumer is slowed down, not refused
    return settings
