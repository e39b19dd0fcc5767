"""`tertulia recommend`: advice from measured figures, for flags or for the answers to at most six questions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer

from tertulia.cli.calling import MISUSED, fail, nobody_reads
from tertulia.cli.printing import print_json, print_line
from tertulia.errors import InvalidInputError
from tertulia.selection.choosing import NotMeasuredError
from tertulia.selection.profile import Profile, ProfileError, load_profile
from tertulia.selection.requirement import CommunicationRequirement, UseCase
from tertulia.selection.selector import CommunicationSelector, Recommendation
from tertulia.selection.words import Words

__all__ = ["run"]

COMMAND = "recommend"

# What is asked when nothing was said: the question, and what each answer means for the requirement.
Answers = Mapping[str, Mapping[str, bool]]
PLACES: Answers = {"tasks": {}, "processes": {"processes": True}, "machines": {"machines": True}}
PRIORITIES: Answers = {
    "neither": {},
    "latency": {"latency_sensitive": True},
    "throughput": {"high_throughput": True},
    "consistency": {"strong_consistency": True},
}
SURVIVAL: Answers = {
    "nothing": {},
    "restart": {"durable": True},
    "crash": {"durable": True, "fault_tolerant": True},
    "power-cut": {"durable": True, "fault_tolerant": True, "power_safe": True},
}

QUESTIONS = {
    "en": {
        "use_case": "What do the agents communicate for?",
        "agents": "How many agents are there?",
        "place": "Where do they run: as tasks of one process, in several processes, on several machines?",
        "payload": "How many bytes has a usual message or value?",
        "priority": "What counts most?",
        "survival": "What must your data survive?",
    },
    "es": {
        "use_case": "¿Para qué se comunican los agentes?",
        "agents": "¿Cuántos agentes hay?",
        "place": "¿Dónde se ejecutan: tareas de un proceso, varios procesos o varias máquinas?",
        "payload": "¿Cuántos bytes tiene un mensaje o valor habitual?",
        "priority": "¿Qué es lo que más cuenta?",
        "survival": "¿A qué deben sobrevivir sus datos?",
    },
}

LABELS = {
    "en": {
        "engine": "engine",
        "delivery_mode": "delivery",
        "confidence": "confidence",
        "reasons": "Why",
        "would_change": "What would change it",
    },
    "es": {
        "engine": "motor",
        "delivery_mode": "entrega",
        "confidence": "confianza",
        "reasons": "Por qué",
        "would_change": "Qué lo cambiaría",
    },
}


def run(fields: dict[str, Any], *, profile: Path | None, language: str, json: bool) -> None:
    """Recommend, print, and exit with the code of an error if there is one."""
    try:
        words = Words(language)
        required = _requirement(fields) if fields.get("use_case") else _ask(language)
        selector = CommunicationSelector(_profile(profile))
        recommendation = selector.recommend(required, language=language)
    except (InvalidInputError, ProfileError, NotMeasuredError) as error:
        fail(COMMAND, str(error), MISUSED)
    try:
        if json:
            print_json(recommendation.to_dict())
        else:
            _show(recommendation, words)
    except BrokenPipeError:
        nobody_reads()


def _profile(path: Path | None) -> Profile | None:
    return None if path is None else load_profile(path)


def _requirement(fields: dict[str, Any]) -> CommunicationRequirement:
    known = {use_case.value: use_case for use_case in UseCase}
    use_case = known.get(str(fields["use_case"]).replace("-", "_"))
    if use_case is None:
        raise InvalidInputError(f"--use-case is one of {', '.join(known)}, not {fields['use_case']!r}")
    others = {name: value for name, value in fields.items() if name != "use_case"}
    return CommunicationRequirement(use_case=use_case, **others)


# --- Questions -----------------------------------------------------------------------------------


def _ask(language: str) -> CommunicationRequirement:
    """Ask what has to be known. Raises InvalidInputError where nobody is there to answer."""
    if not sys.stdin.isatty():
        raise InvalidInputError("say --use-case, or run it in a terminal to be asked")
    questions = QUESTIONS[language]
    fields: dict[str, Any] = {"use_case": _choose(questions["use_case"], [use_case.value for use_case in UseCase])}
    fields["agents"] = _number(questions["agents"], 2)
    fields |= PLACES[_choose(questions["place"], list(PLACES))]
    fields["payload"] = _number(questions["payload"], 1_000)
    fields |= PRIORITIES[_choose(questions["priority"], list(PRIORITIES))]
    fields |= SURVIVAL[_choose(questions["survival"], list(SURVIVAL))]
    return _requirement(fields)


def _choose(question: str, answers: list[str]) -> str:
    def known(answer: str) -> str:
        if answer not in answers:
            raise typer.BadParameter(", ".join(answers))
        return answer

    return _prompt(f"{question} [{', '.join(answers)}]", answers[0], known)


def _number(question: str, default: int) -> int:
    def whole(answer: str) -> int:
        if not answer.isdecimal() or int(answer) < 1:
            raise typer.BadParameter("1, 2, 3 …")
        return int(answer)

    return _prompt(question, default, whole)


def _prompt(question: str, default: object, read: Callable[[str], Any]) -> Any:
    return typer.prompt(question, default=str(default), value_proc=lambda answer: read(str(answer).strip()), err=True)


# --- The answer ----------------------------------------------------------------------------------


def _show(recommendation: Recommendation, words: Words) -> None:
    labels = LABELS[words.language]
    print_line(words.paradigm(recommendation.paradigm))
    print_line(f"  {labels['engine']}: {recommendation.engine} ({recommendation.settings['url']})")
    for name, value in recommendation.settings.items():
        if name != "url":
            print_line(f"  {name}: {value}")
    if recommendation.delivery_mode is not None:
        print_line(f"  {labels['delivery_mode']}: {recommendation.delivery_mode.value}")
    print_line(f"  {labels['confidence']}: {recommendation.confidence}")
    for name, lines in (("reasons", recommendation.reasons), ("would_change", recommendation.would_change)):
        if lines:
            print_line("")
            print_line(f"{labels[name]}:")
            for line in lines:
                print_line(f"  - {line}")
    print_line("")
    print_line(recommendation.rule)
    print_line(recommendation.basis)
