"""Which terms a ballot can have, and which choices fit them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from math import ceil, isfinite
from typing import Any, TypeVar, cast

from tertulia._arguments import check_seconds
from tertulia._names import MAX_NAME_BYTES, check_name, text_fault
from tertulia._rules.voting import exact
from tertulia.ballots import (
    ABSTAIN,
    NO,
    VETO,
    YES,
    BallotTerms,
    Choice,
    Denominator,
    TieBreak,
    VotingRule,
)
from tertulia.errors import InvalidInputError, InvalidTermError, UnknownChoiceError

E = TypeVar("E", bound=StrEnum)

MAX_ELECTORS = 250  # one record holds all votes, so that a vote and what it decides are one commit
MAX_OPTIONS = 50  # more than anybody compares with care
MAX_RANKED = 8  # options of a runoff: every order of breaking ties is followed, 2 ** 8 sets of options at most
MAX_WEIGHT = 1e12  # far from where numbers lose digits, and above any real share
DEFAULT_DEADLINE = 600.0  # seconds; agents think for minutes, and what nobody answers should not stay for hours
DEFAULT_THRESHOLD = 2 / 3

_OF_A_WHOLE = {VotingRule.MAJORITY, VotingRule.WEIGHTED, VotingRule.SUPERMAJORITY, VotingRule.UNANIMOUS}


def pin_terms(  # noqa: PLR0913 - one for each term, all by name
    options: Sequence[str],
    *,
    now: float,
    lot: str,
    rule: VotingRule | str | None = None,
    electorate: Iterable[str] = (),
    weights: Mapping[str, float] | None = None,
    denominator: Denominator | str | None = None,
    threshold: float | None = None,
    quorum: float | None = None,
    deadline: float | datetime = DEFAULT_DEADLINE,
    veto: Iterable[str] = (),
    tie_break: TieBreak | str = TieBreak.NONE,
    chair: str | None = None,
    sealed: bool = True,
    changeable: bool = True,
    announce: bool = True,
) -> BallotTerms:
    """Return the terms of a ballot on these options, opened `now` (civil time); see TermOptions.

    Raises InvalidTermError that names the term; InvalidNameError for names of agents outside the grammar.
    """
    names = _options(options)
    is_question = set(names) == {YES, NO}
    chosen = _member(VotingRule, "rule", rule or (VotingRule.MAJORITY if is_question else VotingRule.PLURALITY))
    _check_rule(chosen, names, is_question=is_question)
    voters = _names("electorate", electorate)
    if not 0 < len(voters) <= MAX_ELECTORS:
        raise InvalidTermError("electorate", voters, f"it has {len(voters)} voters; it needs 1 to {MAX_ELECTORS}")
    return BallotTerms(
        rule=chosen,
        options=names,
        weights=_weights(chosen, voters, weights),
        denominator=_denominator(chosen, denominator),
        threshold=_threshold(chosen, threshold),
        quorum=_quorum(quorum, len(voters)),
        deadline=_deadline(deadline, now),
        veto=_electors("veto", _names("veto", veto), voters),
        tie_break=_tie_break(tie_break, chair),
        chair=None if chair is None else _electors("chair", (check_name(chair),), voters)[0],
        sealed=_flag("sealed", sealed),
        changeable=_flag("changeable", changeable),
        announce=_flag("announce", announce),
        lot=lot,
    )


def fitting_choice(terms: BallotTerms, ballot_id: str, voter: str, choice: object) -> Choice:
    """Return a vote in the form that is kept: an option, or for APPROVAL and RANKED a tuple of them.

    True and False answer a question. Raises UnknownChoiceError.
    """
    if isinstance(choice, bool) and terms.is_question:
        choice = YES if choice else NO
    if choice == VETO and voter not in terms.veto:
        raise UnknownChoiceError(ballot_id, choice, f"{voter!r} may not veto")
    if isinstance(choice, str) and choice in {ABSTAIN, VETO}:
        return choice
    if terms.rule is VotingRule.APPROVAL or terms.rule is VotingRule.RANKED:
        return _several(terms, ballot_id, choice)
    if not isinstance(choice, str) or choice not in terms.options:
        raise UnknownChoiceError(ballot_id, choice, f"it takes {_listed(terms.options)} or {ABSTAIN!r}")
    return str(choice)


def _several(terms: BallotTerms, ballot_id: str, choice: object) -> tuple[str, ...]:
    given: object = choice
    ranked = terms.rule is VotingRule.RANKED
    form = "a list of options, best first" if ranked else "a collection of options"
    found: list[Any] = [choice] if isinstance(choice, str) else []
    if not found and isinstance(choice, Sequence if ranked else Collection):
        found = list(cast("Collection[Any]", choice))
    strange = [option for option in found if not isinstance(option, str) or option not in terms.options]
    if not found or strange:
        raise UnknownChoiceError(ballot_id, given, f"it takes {form} out of {_listed(terms.options)}, or {ABSTAIN!r}")
    if len(set(found)) < len(found):
        raise UnknownChoiceError(ballot_id, given, "it names an option twice")
    return tuple(found) if ranked else tuple(option for option in terms.options if option in found)


# --- One term each ---------------------------------------------------------------------------------


def _options(options: object) -> tuple[str, ...]:
    if isinstance(options, str) or not isinstance(options, Sequence):
        raise InvalidTermError("options", options, "they are several names, in order")
    names = tuple(cast("Sequence[Any]", options))
    for name in names:
        fault = text_fault(name, MAX_NAME_BYTES)
        if fault or name in {ABSTAIN, VETO}:
            raise InvalidTermError("options", names, fault or f"{name!r} is no option, every ballot takes it")
    if len(set(names)) < len(names) or not 1 < len(names) <= MAX_OPTIONS:
        raise InvalidTermError("options", names, f"a ballot needs 2 to {MAX_OPTIONS} different options")
    return names


def _check_rule(rule: VotingRule, options: tuple[str, ...], *, is_question: bool) -> None:
    if rule is VotingRule.RANKED and len(options) > MAX_RANKED:
        raise InvalidTermError("options", options, f"a ranked ballot takes at most {MAX_RANKED}")
    if is_question and rule in {VotingRule.RANKED, VotingRule.APPROVAL}:
        raise InvalidTermError("rule", rule.value, "it is for several options, not for yes or no")


def _weights(rule: VotingRule, voters: tuple[str, ...], weights: object) -> dict[str, int | float]:
    if weights is None and rule is VotingRule.WEIGHTED:
        raise InvalidTermError("weights", weights, "the rule 'weighted' needs them")
    if weights is None:
        return dict.fromkeys(voters, 1)
    if not isinstance(weights, Mapping):
        raise InvalidTermError("weights", weights, "they are numbers by voter")
    given = cast("Mapping[Any, Any]", weights)
    for voter, weight in given.items():
        if voter not in voters:
            raise InvalidTermError("weights", weight, f"{voter!r} is not in the electorate")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= MAX_WEIGHT:
            raise InvalidTermError(
                "weights", weight, f"that of {voter!r} is no number above 0 and up to {MAX_WEIGHT:g}"
            )
    return {voter: given.get(voter, 1) for voter in voters}


def _denominator(rule: VotingRule, denominator: Denominator | str | None) -> Denominator | None:
    if rule in _OF_A_WHOLE:
        return Denominator.ELIGIBLE if denominator is None else _member(Denominator, "denominator", denominator)
    if denominator is not None:
        raise InvalidTermError("denominator", denominator, f"the rule {rule.value!r} compares options with each other")
    return None


def _threshold(rule: VotingRule, threshold: float | None) -> float | None:
    if rule is not VotingRule.SUPERMAJORITY:
        if threshold is not None:
            raise InvalidTermError("threshold", threshold, "it is for the rule 'supermajority'")
        return None
    value = DEFAULT_THRESHOLD if threshold is None else cast("object", threshold)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 / 2 < value <= 1:
        raise InvalidTermError("threshold", threshold, "it is a share above 1/2, up to 1")
    return float(value)


def _quorum(quorum: object, voters: int) -> int:
    if quorum is None:
        return 0
    if isinstance(quorum, float) and 0 < quorum < 1:
        return ceil(exact(quorum) * voters)
    if isinstance(quorum, bool) or not isinstance(quorum, int) or quorum < 0:
        raise InvalidTermError("quorum", quorum, "it is a number of voters (int), or a share of them (float below 1)")
    if quorum > voters:
        raise InvalidTermError("quorum", quorum, f"the electorate has {voters}, so it could never be reached")
    return quorum


def _deadline(deadline: object, now: float) -> float:
    if isinstance(deadline, datetime):
        if deadline.tzinfo is None:
            raise InvalidTermError("deadline", deadline, "an instant needs a time zone")
        at = deadline.timestamp()
        deadline = at - now
    else:
        at = None
    try:
        seconds = check_seconds("deadline", deadline)
    except InvalidInputError:
        past = isinstance(deadline, int | float) and isfinite(deadline) and deadline <= 0
        reason = "it is past" if past else "it is seconds from now, or an aware instant, within a century"
        raise InvalidTermError("deadline", deadline, reason) from None
    return now + seconds if at is None else at


def _tie_break(tie_break: TieBreak | str, chair: str | None) -> TieBreak:
    chosen = _member(TieBreak, "tie_break", tie_break)
    if (chosen is TieBreak.CHAIR) != (chair is not None):
        raise InvalidTermError("chair", chair, "a chair goes with the tie_break 'chair', and that needs one")
    return chosen


# --- Parts -----------------------------------------------------------------------------------------


def _member(kind: type[E], term: str, value: object) -> E:
    try:
        return kind(cast("str", value))
    except ValueError:
        raise InvalidTermError(term, value, f"it is one of {_listed([one.value for one in kind])}") from None


def _names(term: str, names: object) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise InvalidTermError(term, names, "it is several names of agents")
    found = [check_name(name) for name in cast("Iterable[str]", names)]
    if len(set(found)) < len(found):
        raise InvalidTermError(term, found, "it has a name twice")
    return tuple(found)


def _electors(term: str, names: tuple[str, ...], voters: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in voters:
            raise InvalidTermError(term, name, "it is not in the electorate")
    return names


def _flag(term: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidTermError(term, value, "it is True or False")
    return value


def _listed(options: Iterable[str]) -> str:
    return ", ".join(map(repr, options))
