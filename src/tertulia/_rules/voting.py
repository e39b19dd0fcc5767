"""What votes come to: the tally, the quorum, ties, and when a result cannot change any more.

Weights are added exactly, as fractions of the decimal numbers that they were given as, so no order of adding and no
rounding decides a ballot.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from fractions import Fraction
from hashlib import sha256

from msgspec import Struct
from msgspec.structs import replace

from tertulia._rules.ranked import Round, Weight, certain_winner, runoff
from tertulia.ballots import (
    ABSTAIN,
    NO,
    VETO,
    YES,
    BallotTerms,
    Decision,
    Denominator,
    Outcome,
    TieBreak,
    Vote,
    VotingRule,
)

Votes = Mapping[str, Vote]


def decide(terms: BallotTerms, votes: Votes, present: Collection[str] = ()) -> Decision:
    """Return what the votes come to if no more are cast; `present` are those who are there at the closing."""
    return _decision(terms, votes, _count(terms, votes, present))


def decide_early(terms: BallotTerms, votes: Votes, present: Collection[str] = ()) -> Decision | None:
    """Return the decision if it is the same whatever the rest of the electorate does, else None.

    The votes that were cast are taken as they are; each of the rest may vote, abstain, veto if it may, or be silent,
    present or not. Exact for all rules but RANKED: None means that two ways to go on end differently. For RANKED it is
    sound only; see `certain_winner`.
    """
    count = _count(terms, votes, present)
    if count.vetoed or not count.pending:
        return _decision(terms, votes, count)
    outcome, winner, _ = _judge(terms, count)
    if any(voter in count.pending for voter in terms.veto):
        return None
    if terms.rule is VotingRule.RANKED:
        certain = certain_winner(terms.options, count.rankings, count.waiting)
        same = certain is not None and certain == winner
    else:
        same = all(_judge(terms, extreme)[:2] == (outcome, winner) for extreme in _extremes(terms, count))
    return _decision(terms, votes, count) if same else None


def ended(terms: BallotTerms, votes: Votes, why: str) -> Decision:
    """Return the decision of a ballot that is ended from outside: EXPIRED."""
    decision = _decision(terms, votes, _count(terms, votes, ()))
    return replace(decision, outcome=Outcome.EXPIRED, winner=None, tied=(), rounds=(), why=why)


# --- Counting --------------------------------------------------------------------------------------


class _Count(Struct, frozen=True, kw_only=True):
    """Votes, added up. `pending`: who has not taken part. `there`: the weight of those among them who are present."""

    support: dict[str, Weight]
    rankings: tuple[tuple[tuple[str, ...], Weight], ...]
    cast: Weight
    abstaining: Weight
    took_part: int
    pending: frozenset[str]
    waiting: Weight
    there: Weight
    vetoed: tuple[str, ...]
    chair: tuple[str, ...] | None


def _count(terms: BallotTerms, votes: Votes, present: Collection[str]) -> _Count:
    weights = {voter: exact(weight) for voter, weight in terms.weights.items()}
    valid = {voter: _options_of(vote) for voter, vote in votes.items() if voter in weights}
    named = {voter: options for voter, options in valid.items() if options}
    support: dict[str, Weight] = dict.fromkeys(terms.options, 0)
    for voter, options in named.items():
        for option in options[:1] if terms.rule is VotingRule.RANKED else options:
            support[option] += weights[voter]
    pending = frozenset(weights.keys() - valid.keys())
    return _Count(
        support=support,
        rankings=tuple((options, weights[voter]) for voter, options in named.items()),
        cast=sum(weights[voter] for voter in named),
        abstaining=sum(weights[voter] for voter in valid if voter not in named),
        took_part=len(valid),
        pending=pending,
        waiting=sum(weights[voter] for voter in pending),
        there=sum(weights[voter] for voter in pending if voter in present),
        vetoed=tuple(voter for voter in terms.veto if voter in votes and votes[voter].choice == VETO),
        chair=None if terms.chair is None else valid.get(terms.chair),
    )


def _options_of(vote: Vote) -> tuple[str, ...]:
    if isinstance(vote.choice, tuple):
        return vote.choice
    return () if vote.choice in {ABSTAIN, VETO} else (vote.choice,)


def _extremes(terms: BallotTerms, count: _Count) -> Iterator[_Count]:
    """Yield the counts of the extreme ways to go on: all of the rest vote for the same option.

    Every comparison of the rules is settled by the most that the rest can do on one side: an option that they all vote
    against has its smallest share of any denominator then, and one that they all vote for its largest. That they
    are all silent is the other extreme, as far as the quorum goes, and the count as it is.
    """
    rest = count.waiting
    for option in terms.options:
        yield replace(
            count,
            support={**count.support, option: count.support[option] + rest},
            cast=count.cast + rest,
            took_part=count.took_part + len(count.pending),
            pending=frozenset[str](),
            waiting=0,
            there=0,
        )


# --- Judging ---------------------------------------------------------------------------------------

_Judged = tuple[Outcome, str | None, tuple[str, ...]]  # with the winner, and the options that tied


def _judge(terms: BallotTerms, count: _Count) -> _Judged:
    if count.vetoed:
        return Outcome.VETOED, None, ()
    if not count.took_part:
        return Outcome.EXPIRED, None, ()
    if count.took_part < terms.quorum:
        return Outcome.NO_QUORUM, None, ()
    if not count.cast:
        return Outcome.FAILED, None, ()
    if terms.denominator is not None:
        leaders = _over_threshold(terms, count)
    elif terms.rule is VotingRule.RANKED:
        leaders = list(runoff(terms.options, count.rankings))
    else:
        most = max(count.support.values())
        leaders = [option for option in terms.options if count.support[option] == most]
    return _first_of(terms, leaders, count.chair)


def _over_threshold(terms: BallotTerms, count: _Count) -> list[str]:
    """Return the option that has what the rule asks for, or two that have half each, or none."""
    whole = _whole(terms, count)
    if terms.rule is VotingRule.UNANIMOUS:
        return [option for option, votes in count.support.items() if votes == whole]
    if terms.threshold is not None:
        needed = exact(terms.threshold) * whole
        return [option for option, votes in count.support.items() if votes >= needed]
    over = [option for option, votes in count.support.items() if 2 * votes > whole]
    halves = [option for option, votes in count.support.items() if 2 * votes == whole]
    return over or (halves if len(halves) > 1 else [])


def _whole(terms: BallotTerms, count: _Count) -> Weight:
    """Return what the denominator comes to."""
    took_part = count.cast + count.abstaining
    if terms.denominator is Denominator.CAST:
        return count.cast
    return took_part + (count.there if terms.denominator is Denominator.PRESENT else count.waiting)


def _first_of(terms: BallotTerms, leaders: list[str], chair: tuple[str, ...] | None) -> _Judged:
    tied = tuple(leaders) if len(leaders) > 1 else ()
    if tied and terms.tie_break is TieBreak.STATUS_QUO:
        return Outcome.FAILED, None, tied
    first = _break_tie(terms, tied, chair) if tied else next(iter(leaders), None)
    if tied and first is None:
        return Outcome.TIED, None, tied
    if first is None or (terms.is_question and first != YES):
        return Outcome.FAILED, None, tied
    return Outcome.PASSED, first, tied


def _break_tie(terms: BallotTerms, tied: tuple[str, ...], chair: tuple[str, ...] | None) -> str | None:
    if terms.tie_break is TieBreak.FIRST:
        return next(option for option in terms.options if option in tied)
    if terms.tie_break is TieBreak.LOT:
        return min(tied, key=lambda option: sha256(f"{terms.lot}\0{option}".encode()).digest())
    if terms.tie_break is TieBreak.CHAIR and chair is not None:
        wanted = [option for option in chair if option in tied]
        if terms.rule is VotingRule.RANKED:
            return wanted[0] if wanted else None
        return wanted[0] if len(wanted) == 1 else None
    return None


# --- Telling ---------------------------------------------------------------------------------------


def _decision(terms: BallotTerms, votes: Votes, count: _Count) -> Decision:
    outcome, winner, tied = _judge(terms, count)
    whole = None if terms.denominator is None else _plain(_whole(terms, count))
    rounds: tuple[Round, ...] = ()
    if terms.rule is VotingRule.RANKED and count.cast:
        found = runoff(terms.options, count.rankings)
        rounds = found[winner] if winner in found else next(iter(found.values()))
    return Decision(
        rule=terms.rule,
        outcome=outcome,
        winner=winner,
        tied=tied,
        tally={option: _plain(weight) for option, weight in count.support.items()},
        rounds=tuple({option: _plain(weight) for option, weight in one.items()} for one in rounds),
        took_part=count.took_part,
        abstained=tuple(voter for voter in terms.weights if voter in votes and votes[voter].choice == ABSTAIN),
        silent=tuple(voter for voter in terms.weights if voter in count.pending),
        denominator=whole,
        why=_why(terms, count, outcome, winner, tied),
    )


def _why(terms: BallotTerms, count: _Count, outcome: Outcome, winner: str | None, tied: tuple[str, ...]) -> str:
    voters = len(terms.weights)
    if outcome is Outcome.VETOED:
        return f"vetoed by {', '.join(count.vetoed)}"
    if outcome is Outcome.EXPIRED:
        return f"nobody of {voters} took part"
    if outcome is Outcome.NO_QUORUM:
        return f"{count.took_part} of {voters} took part; the quorum is {terms.quorum}"
    tally = ", ".join(f"{option} {_plain(weight)}" for option, weight in count.support.items())
    if terms.denominator is not None:
        tally += f", of {_plain(_whole(terms, count))} {terms.denominator}"
    ruled = f"{terms.rule} ({tally})"
    if tied:
        broken = f"{winner or NO} by {terms.tie_break}" if outcome is not Outcome.TIED else "not broken"
        return f"{ruled}: a tie of {' and '.join(tied)}, {broken}"
    return f"{ruled}: {winner}" if winner is not None else f"{ruled}: nothing has enough"


def exact(weight: float) -> Weight:
    """Return a weight as the number that it was written as: 0.1 is a tenth."""
    return weight if isinstance(weight, int) else Fraction(str(weight))


def _plain(weight: Weight) -> int | float:
    return int(weight) if weight == int(weight) else float(weight)
