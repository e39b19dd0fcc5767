"""Instant runoff: the winner of rankings. See VotingRule.RANKED for the rule and its sources."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

Weight = int | Fraction
Rankings = Sequence[tuple[tuple[str, ...], Weight]]
Round = dict[str, Weight]


def runoff(options: Iterable[str], rankings: Rankings) -> dict[str, tuple[Round, ...]]:
    """Return every option that wins in some order of breaking ties, with the rounds that lead there.

    One winner means that no tie mattered. No winner: no ranking names any of the options.
    """
    seen: dict[frozenset[str], dict[str, tuple[Round, ...]]] = {}

    def follow(left: frozenset[str]) -> dict[str, tuple[Round, ...]]:
        if left not in seen:
            round_ = _round(order, left, rankings)
            ends = _winners(round_)
            if ends is not None:
                seen[left] = dict.fromkeys(ends, (round_,))
            else:
                found: dict[str, tuple[Round, ...]] = {}
                for gone in _eliminations(round_):
                    for winner, rounds in follow(left - gone).items():
                        found.setdefault(winner, (round_, *rounds))
                seen[left] = found
        return seen[left]

    order = list(options)
    return follow(frozenset(order))


def certain_winner(options: Iterable[str], rankings: Rankings, pending: Weight) -> str | None:
    """Return the option that wins however `pending` more weight is ranked or withheld, if that can be told.

    Sound, not complete: it follows eliminations that are the same in every case, until an option is sure to have
    more than half. None means only that it cannot be told this way.
    """
    order = list(options)
    left = frozenset(order)
    while True:
        round_ = _round(order, left, rankings)
        total = sum(round_.values()) + pending
        for option, votes in round_.items():
            if 2 * votes > total:
                return option
        gone = _certainly_last(round_, pending)
        if not gone:
            return None
        left -= gone


def _round(order: Sequence[str], left: frozenset[str], rankings: Rankings) -> Round:
    """Count each ranking for the first of its options that is left."""
    counts: Round = {option: 0 for option in order if option in left}
    for ranking, weight in rankings:
        for option in ranking:
            if option in counts:
                counts[option] += weight
                break
    return counts


def _winners(round_: Round) -> list[str] | None:
    """Return who has won by this round: one, all of those that nobody votes for, or None when it goes on."""
    total = sum(round_.values())
    if not total:
        return list(round_)
    for option, votes in round_.items():
        if 2 * votes > total:
            return [option]
    return None


def _eliminations(round_: Round) -> list[frozenset[str]]:
    """Return who may go: together those that cannot catch up whatever happens, else each of those that are last."""
    together = _certainly_last(round_, 0)
    if together:
        return [together]
    fewest = min(round_.values())
    return [frozenset({option}) for option, votes in round_.items() if votes == fewest]


def _certainly_last(round_: Round, pending: Weight) -> frozenset[str]:
    """Return the options that have fewer votes than each other one, even taken together and with all that is pending.

    In whatever order they go, they go before the others: what they lose stays among them or makes the others stronger.
    """
    ranked = sorted(round_, key=lambda option: round_[option])
    together = pending
    for place, option in enumerate(ranked[:-1]):
        together += round_[option]
        if together < round_[ranked[place + 1]]:
            return frozenset(ranked[: place + 1])
    return frozenset()
