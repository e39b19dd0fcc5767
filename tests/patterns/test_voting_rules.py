"""The pure rules of voting: what votes come to, and when nothing can change it any more."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tertulia import Denominator, Outcome, TieBreak, Vote, VotingRule
from tertulia._rules.ballot_terms import pin_terms
from tertulia._rules.ranked import runoff
from tertulia._rules.voting import decide, decide_early
from tertulia.ballots import ABSTAIN, NO, VETO, YES, BallotTerms, Choice, Decision
from tests.profile import campaign, times

NOW = 1_000_000.0
OF_A_WHOLE = (VotingRule.MAJORITY, VotingRule.WEIGHTED, VotingRule.SUPERMAJORITY, VotingRule.UNANIMOUS)
EXACT = (*OF_A_WHOLE, VotingRule.PLURALITY, VotingRule.APPROVAL)


def terms_of(voters: int | Mapping[str, float] = 5, options: tuple[str, ...] = (YES, NO), **given: Any) -> BallotTerms:
    """Terms for voters a, b, c, … or for those that are given with their weights."""
    names = "abcdefghij"[:voters] if isinstance(voters, int) else voters
    if isinstance(voters, Mapping):
        given["weights"] = voters
    elif given.get("rule") is VotingRule.WEIGHTED:
        given.setdefault("weights", dict.fromkeys(names, 1))
    return pin_terms(options, now=NOW, lot="lot", electorate=list(names), **given)


def votes_of(votes: Mapping[str, Choice] | str) -> dict[str, Vote]:
    """Votes by voter; from "yn-ax" those of a, b, c, …: yes, no, silent, abstain, veto."""
    if isinstance(votes, str):
        kinds = {"y": YES, "n": NO, "a": ABSTAIN, "x": VETO}
        votes = {voter: kinds[kind] for voter, kind in zip("abcdefghij", votes, strict=False) if kind != "-"}
    return {voter: Vote(voter=voter, choice=choice) for voter, choice in votes.items()}


def outcome(votes: str, *, present: str = "", **given: Any) -> Outcome:
    return decide(terms_of(len(votes), **given), votes_of(votes), present).outcome


# --- Majorities --------------------------------------------------------------------------------------

PASSED, FAILED, TIED = Outcome.PASSED, Outcome.FAILED, Outcome.TIED
CAST, PRESENT, ELIGIBLE = Denominator.CAST, Denominator.PRESENT, Denominator.ELIGIBLE


@pytest.mark.parametrize(
    ("votes", "denominator", "present", "expected"),
    [
        ("yyynn", CAST, "", PASSED),
        ("yynnn", CAST, "", FAILED),
        ("yynn-", CAST, "", TIED),
        ("yyn--", CAST, "", PASSED),
        ("y----", CAST, "", PASSED),
        ("yaaaa", CAST, "", PASSED),  # who abstains is not counted
        ("aaaaa", CAST, "", FAILED),
        ("yyyn-", ELIGIBLE, "", PASSED),
        ("yyn--", ELIGIBLE, "", FAILED),  # silence works against
        ("yynaa", ELIGIBLE, "", FAILED),  # and so does abstaining
        ("yynn-", ELIGIBLE, "", FAILED),  # neither has half of five
        ("yynn", ELIGIBLE, "", TIED),
        ("yyn--", PRESENT, "", PASSED),
        ("yyn--", PRESENT, "d", FAILED),  # two of four: d is there and silent
        ("yyna-", PRESENT, "", FAILED),  # two of four: who abstains is there
        ("yyn-a", PRESENT, "ab", FAILED),
        ("yyy--", PRESENT, "de", PASSED),
    ],
)
def test_a_majority_is_more_than_half_of_its_denominator(
    votes: str, denominator: Denominator, present: str, expected: Outcome
) -> None:
    assert outcome(votes, present=present, denominator=denominator) is expected


@pytest.mark.parametrize(
    ("votes", "given", "expected"),
    [
        ("yyn", {}, PASSED),  # exactly two thirds
        ("yyyynn", {}, PASSED),
        ("yyynn", {}, FAILED),
        ("yyynn", {"threshold": 0.6}, PASSED),  # exactly six tenths, which no binary fraction is
        ("yyyyn", {"threshold": 0.81}, FAILED),
        ("yyyyn", {"threshold": 1.0}, FAILED),
        ("yyy--", {"denominator": CAST, "threshold": 1.0}, PASSED),
        ("nnnnn", {}, FAILED),
    ],
)
def test_a_supermajority_is_at_least_its_share(votes: str, given: dict[str, Any], expected: Outcome) -> None:
    assert outcome(votes, rule="supermajority", **given) is expected


@pytest.mark.parametrize(
    ("votes", "denominator", "expected"),
    [
        ("yyyyy", ELIGIBLE, PASSED),
        ("yyyy-", ELIGIBLE, FAILED),
        ("yyyya", ELIGIBLE, FAILED),
        ("yyyy-", CAST, PASSED),
        ("yyyya", CAST, PASSED),
        ("yyyyn", CAST, FAILED),
        ("yyyy-", PRESENT, PASSED),
        ("nnnnn", CAST, FAILED),
    ],
)
def test_unanimous_is_all_of_the_denominator(votes: str, denominator: Denominator, expected: Outcome) -> None:
    assert outcome(votes, rule="unanimous", denominator=denominator) is expected


def test_weights_count_instead_of_heads() -> None:
    weights = {"a": 3, "b": 1, "c": 1}
    decision = decide(terms_of(weights, rule="weighted"), votes_of("ynn"))
    assert (decision.outcome, decision.tally, decision.denominator) == (PASSED, {YES: 3, NO: 2}, 5)


def test_weights_are_added_as_the_decimal_numbers_they_were_given_as() -> None:
    weights = {"a": 0.1, "b": 0.2, "c": 0.3}  # as binary fractions the first two come to more than the third
    assert 0.1 + 0.2 != 0.3
    for votes in ("yyn", "nny"):
        assert decide(terms_of(weights, rule="weighted"), votes_of(votes)).outcome is TIED


def test_a_majority_of_several_options_is_for_one_of_them() -> None:
    options = ("red", "green", "blue")
    terms = terms_of(5, options, rule="majority")
    assert decide(terms, votes_of({"a": "red", "b": "red", "c": "red", "d": "blue"})).winner == "red"
    assert decide(terms, votes_of({"a": "red", "b": "red", "c": "green", "d": "blue"})).outcome is FAILED
    tied = decide(
        terms_of(4, options, rule="majority"), votes_of(dict.fromkeys("ab", "red") | dict.fromkeys("cd", "blue"))
    )
    assert (tied.outcome, tied.tied) == (TIED, ("red", "blue"))


# --- Options -----------------------------------------------------------------------------------------


def test_in_a_plurality_the_option_with_the_most_votes_wins_whatever_its_share() -> None:
    terms = terms_of(5, ("red", "green", "blue"), rule="plurality")
    decision = decide(terms, votes_of({"a": "red", "b": "red", "c": "green", "d": "blue"}))
    assert (decision.outcome, decision.winner, decision.silent) == (PASSED, "red", ("e",))
    assert decide(terms, votes_of({"a": "red", "b": "blue"})).tied == ("red", "blue")


def test_in_a_plurality_of_yes_and_no_a_no_that_wins_is_a_failure() -> None:
    assert [outcome(votes, rule="plurality") for votes in ("yyn--", "nny--", "yn---", "aaaaa")] == [
        PASSED,
        FAILED,
        TIED,
        FAILED,
    ]


def test_in_an_approval_each_voter_counts_for_all_that_it_approves() -> None:
    terms = terms_of(3, ("red", "green", "blue"), rule="approval")
    decision = decide(terms, votes_of({"a": ("red", "green"), "b": ("green", "blue"), "c": ("blue", "green")}))
    assert (decision.winner, decision.tally) == ("green", {"red": 1, "green": 3, "blue": 2})


# Tennessee: the capital is chosen by where the voters live, the usual example for methods with rankings.
TENNESSEE = {
    ("Memphis", "Nashville", "Chattanooga", "Knoxville"): 42,
    ("Nashville", "Chattanooga", "Knoxville", "Memphis"): 26,
    ("Chattanooga", "Knoxville", "Nashville", "Memphis"): 15,
    ("Knoxville", "Chattanooga", "Nashville", "Memphis"): 17,
}


def test_an_instant_runoff_drops_the_last_until_one_has_more_than_half() -> None:
    cities = ("Memphis", "Nashville", "Chattanooga", "Knoxville")
    terms = terms_of(dict(zip("abcd", TENNESSEE.values(), strict=True)), cities, rule="ranked")
    decision = decide(terms, votes_of(dict(zip("abcd", TENNESSEE, strict=True))))
    assert decision.winner == "Knoxville"
    assert decision.rounds == (
        {"Memphis": 42, "Nashville": 26, "Chattanooga": 15, "Knoxville": 17},
        {"Memphis": 42, "Nashville": 26, "Knoxville": 32},
        {"Memphis": 42, "Knoxville": 58},
    )
    assert decision.tally == decision.rounds[0]


def test_an_instant_runoff_goes_on_with_the_rankings_that_still_name_somebody() -> None:
    rankings = [(("a",), 4), (("b",), 3), (("c",), 2)]
    (winner,) = runoff("abc", rankings)
    assert winner == "a"
    assert runoff("abc", rankings)["a"][-1] == {"a": 4, "b": 3}


def test_a_tie_for_going_that_decides_is_a_tie_and_one_that_does_not_is_none() -> None:
    assert set(runoff("abc", [(("a", "b"), 3), (("b", "c"), 2), (("c", "b"), 2)])) == {"b", "c"}
    assert set(runoff("abc", [(("a",), 2), (("b", "a"), 1), (("c", "b"), 1)])) == {"a", "b"}
    assert set(runoff("abc", [(("a",), 2), (("b", "a"), 1), (("c", "a"), 1)])) == {"a"}
    assert set(runoff("ab", [(("a",), 1), (("b",), 1)])) == {"a", "b"}


def test_an_instant_runoff_is_not_monotone_which_is_a_known_fault_of_the_method() -> None:
    """Ten voters who move the winner up make it lose, as in the textbooks."""
    before = [(("a", "b", "c"), 39), (("b", "c", "a"), 35), (("c", "a", "b"), 26)]
    after = [(("a", "b", "c"), 49), (("b", "c", "a"), 25), (("c", "a", "b"), 26)]
    assert set(runoff("abc", before)) == {"a"}
    assert set(runoff("abc", after)) == {"c"}


# --- Ties, quorum, veto, silence ---------------------------------------------------------------------


def test_a_tie_is_broken_as_the_terms_say() -> None:
    def broken(tie_break: str, votes: str = "yynn", **given: Any) -> tuple[Outcome, str | None]:
        decision = decide(terms_of(4, tie_break=tie_break, **given), votes_of(votes))
        assert decision.tied == (YES, NO)
        return decision.outcome, decision.winner

    assert broken("none") == (TIED, None)
    assert broken("status_quo") == (FAILED, None)
    assert broken("first") == (PASSED, YES)
    assert broken("chair", chair="a") == (PASSED, YES)
    assert broken("chair", chair="d") == (FAILED, None)
    assert broken("chair", votes="yna-", chair="c", denominator=CAST) == (TIED, None)
    assert broken("lot") in {(PASSED, YES), (FAILED, None)}


def test_a_lot_is_the_same_for_everybody_and_fair_over_many_ballots() -> None:
    def drawn(lot: str) -> str | None:
        terms = pin_terms(
            ("red", "blue"), now=NOW, lot=lot, rule="plurality", electorate=["a", "b"], tie_break=TieBreak.LOT
        )
        decisions = [decide(terms, votes_of(votes)) for votes in ({"a": "red", "b": "blue"}, {"b": "red", "a": "blue"})]
        assert decisions[0].winner == decisions[1].winner
        return decisions[0].winner

    reds = sum(drawn(f"ballot-{number}") == "red" for number in range(400))
    assert 140 < reds < 260  # 200 is expected; beyond six standard deviations


@pytest.mark.parametrize(
    ("votes", "quorum", "expected"),
    [
        ("yy---", 2, PASSED),
        ("yy---", 3, Outcome.NO_QUORUM),
        ("yya--", 3, PASSED),  # who abstains takes part
        ("yy---", 0.4, PASSED),
        ("yy---", 0.41, Outcome.NO_QUORUM),
        ("-----", 1, Outcome.EXPIRED),
        ("-----", None, Outcome.EXPIRED),
        ("a----", None, FAILED),
    ],
)
def test_the_quorum_is_of_those_who_take_part(votes: str, quorum: float | None, expected: Outcome) -> None:
    assert outcome(votes, quorum=quorum, denominator=CAST) is expected


def test_a_quorum_that_is_a_share_is_taken_exactly() -> None:
    assert [terms_of(10, quorum=share).quorum for share in (0.1, 0.3, 0.7, 0.71, 0.99)] == [1, 3, 7, 8, 10]


def test_a_veto_outranks_everything() -> None:
    decision = decide(terms_of(5, veto=["e"], quorum=5), votes_of("yyy-x"))
    assert (decision.outcome, decision.why) == (Outcome.VETOED, "vetoed by e")
    assert decide(terms_of(5, veto=["e"]), votes_of("yyy-n")).outcome is PASSED


# --- Early decisions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("votes", "given", "decided"),
    [
        ("yyy--", {}, PASSED),
        ("yy---", {}, None),
        ("nnn--", {}, FAILED),  # not even all the rest can make it
        ("nn---", {}, None),
        ("nn--", {}, None),  # the rest can still make it a tie
        ("nn--", {"tie_break": "status_quo"}, FAILED),
        ("n----", {"rule": "unanimous"}, FAILED),
        ("yyyy-", {"rule": "unanimous"}, None),
        ("yyy--", {"quorum": 4}, None),
        ("yyya-", {"quorum": 4}, PASSED),
        ("yyy--", {"veto": ["e"]}, None),
        ("yyy-y", {"veto": ["e"]}, PASSED),
        ("x----", {"veto": ["a"]}, Outcome.VETOED),
        ("yy---", {"denominator": CAST}, None),
        ("yyy--", {"denominator": CAST}, PASSED),
        ("yyn--", {"denominator": PRESENT}, None),
        ("-----", {}, None),
        ("aaaaa", {}, FAILED),
        ("aaa--", {}, FAILED),  # two of five are no majority
        ("yynnn", {}, FAILED),
    ],
)
def test_a_ballot_is_decided_as_soon_as_the_rest_cannot_change_it(
    votes: str, given: dict[str, Any], decided: Outcome | None
) -> None:
    decision = decide_early(terms_of(len(votes), **given), votes_of(votes))
    assert (None if decision is None else decision.outcome) is decided


def test_a_ranked_ballot_is_decided_once_one_option_is_sure_to_have_more_than_half() -> None:
    terms = terms_of(7, ("x", "y", "z"), rule="ranked")
    four = dict.fromkeys("abcd", ("x", "y"))
    assert decide_early(terms, votes_of(dict.fromkeys("abc", ("x", "y")))) is None
    decision = decide_early(terms, votes_of(four))
    assert decision is not None
    assert decision.winner == "x"


def test_a_ranked_ballot_is_decided_after_eliminations_that_nothing_can_prevent() -> None:
    weights = {"a": 6, "b": 5, "c": 2, "d": 1}
    terms = terms_of(weights, ("x", "y", "z"), rule="ranked")
    votes = votes_of({"a": ("x",), "b": ("y",), "c": ("z", "x")})
    decision = decide_early(terms, votes)  # z goes, whatever d does, and then x has 8 of 14
    assert decision is not None
    assert decision.winner == "x"
    assert decide_early(terms_of({**weights, "d": 4}, ("x", "y", "z"), rule="ranked"), votes) is None


# --- Properties --------------------------------------------------------------------------------------

OPTIONS = ("red", "green", "blue")
Case = tuple[BallotTerms, dict[str, Vote]]


def tries(short: int, long: int) -> settings:
    return settings(max_examples=times(short, long), derandomize=not campaign(), deadline=None, database=None)


@st.composite
def cases(draw: st.DrawFn, rules: tuple[VotingRule, ...] = tuple(VotingRule), voters: int = 5) -> Case:
    """Terms of any kind for a few voters, and votes by some of them."""
    rule = draw(st.sampled_from(rules))
    plain = rule not in {VotingRule.APPROVAL, VotingRule.RANKED}
    options = draw(st.sampled_from([(YES, NO), OPTIONS])) if plain else OPTIONS
    names = "abcdefgh"[: draw(st.integers(1, voters))]
    tie_break = draw(st.sampled_from(TieBreak))
    given: dict[str, Any] = {
        "rule": rule,
        "electorate": list(names),
        "weights": draw(
            st.one_of(
                st.just(dict.fromkeys(names, 1)),
                st.fixed_dictionaries(dict.fromkeys(names, st.sampled_from([1, 2, 3, 0.1, 0.2, 0.3, 1.5]))),
            )
        ),
        "quorum": draw(st.integers(0, len(names))),
        "veto": draw(st.lists(st.sampled_from(names), max_size=1)),
        "tie_break": tie_break,
        "chair": draw(st.sampled_from(names)) if tie_break is TieBreak.CHAIR else None,
    }
    if rule in OF_A_WHOLE:
        given["denominator"] = draw(st.sampled_from(Denominator))
    if rule is VotingRule.SUPERMAJORITY:
        given["threshold"] = draw(st.sampled_from([0.6, 2 / 3, 0.75, 1.0]))
    terms = pin_terms(options, now=NOW, lot=draw(st.sampled_from(["1", "2", "3"])), **given)
    votes = {voter: draw(st.sampled_from(choices_of(terms, voter))) for voter in names if draw(st.booleans())}
    return terms, votes_of(votes)


def choices_of(terms: BallotTerms, voter: str) -> list[Choice]:
    """All that the voter can choose, but for rankings that leave options out."""
    if terms.rule is VotingRule.APPROVAL:
        sizes = range(1, len(terms.options) + 1)
        found: list[Choice] = [some for size in sizes for some in itertools.combinations(terms.options, size)]
    elif terms.rule is VotingRule.RANKED:
        found = [some for size in (1, len(terms.options)) for some in itertools.permutations(terms.options, size)]
    else:
        found = list(terms.options)
    return [*found, ABSTAIN, *([VETO] if voter in terms.veto else [])]


def ways_on(terms: BallotTerms, votes: dict[str, Vote]) -> Iterator[Decision]:
    """Every way in which the rest can go on: vote for anything, be silent and there, or silent and away."""
    rest = [voter for voter in terms.weights if voter not in votes]
    there, away = object(), object()
    for chosen in itertools.product(*([*choices_of(terms, voter), there, away] for voter in rest)):
        made = dict(zip(rest, chosen, strict=True))
        more = {
            voter: Vote(voter=voter, choice=choice) for voter, choice in made.items() if choice not in (there, away)
        }  # pyright: ignore[reportArgumentType]
        yield decide(terms, votes | more, [voter for voter, choice in made.items() if choice is there])


@tries(100, 10_000)
@given(cases(EXACT, voters=4))
def test_an_early_decision_is_made_exactly_when_every_way_to_go_on_ends_the_same(case: Case) -> None:
    terms, votes = case
    ends = {(end.outcome, end.winner) for end in ways_on(terms, votes)}
    early = decide_early(terms, votes)
    assert ends == {(early.outcome, early.winner)} if early is not None else len(ends) > 1


@tries(60, 3_000)
@given(cases((VotingRule.RANKED,), voters=4))
def test_an_early_decision_of_a_ranked_ballot_is_never_wrong(case: Case) -> None:
    terms, votes = case
    early = decide_early(terms, votes)
    if early is not None:
        assert {(end.outcome, end.winner) for end in ways_on(terms, votes)} == {(early.outcome, early.winner)}


@tries(300, 20_000)
@given(cases(voters=8), st.randoms(use_true_random=False))
def test_an_early_decision_never_differs_from_the_decision_after_all_votes(case: Case, chance: Any) -> None:
    terms, votes = case
    early = decide_early(terms, votes)
    rest = [voter for voter in terms.weights if voter not in votes]
    everybody = votes | votes_of({voter: chance.choice(choices_of(terms, voter)) for voter in rest})
    final = decide(terms, everybody)
    assert decide_early(terms, everybody) == final
    if early is not None:
        assert (early.outcome, early.winner) == (final.outcome, final.winner)


@tries(200, 10_000)
@given(cases(voters=8))
def test_every_weight_is_counted_once(case: Case) -> None:
    terms, votes = case
    decision = decide(terms, votes)
    named = [voter for voter, vote in votes.items() if vote.choice not in {ABSTAIN, VETO}]
    assert decision.took_part == len(votes)
    assert set(decision.silent) | set(votes) == set(terms.weights)
    if terms.rule is not VotingRule.APPROVAL:
        assert sum(decision.tally.values()) == pytest.approx(sum(terms.weights[voter] for voter in named))
    for round_ in decision.rounds:
        assert sum(round_.values()) <= sum(terms.weights.values()) + 1e-9
    if terms.denominator is ELIGIBLE:
        assert decision.denominator == pytest.approx(sum(terms.weights.values()))


@tries(200, 10_000)
@given(cases(EXACT, voters=6), st.data())
def test_a_vote_that_moves_to_the_winner_never_makes_it_lose(case: Case, data: st.DataObject) -> None:
    terms, votes = case
    before = decide(terms, votes)
    if before.winner is None or terms.tie_break is TieBreak.CHAIR:  # a chair that moves may break another tie
        return
    voter = data.draw(st.sampled_from(sorted(terms.weights)))
    to_winner: Choice = (before.winner,) if terms.rule is VotingRule.APPROVAL else before.winner
    after = decide(terms, votes | votes_of({voter: to_winner}))
    assert (after.outcome, after.winner) == (before.outcome, before.winner)


@tries(200, 10_000)
@given(cases(voters=6))
def test_the_order_of_votes_and_of_the_electorate_does_not_matter(case: Case) -> None:
    terms, votes = case
    backwards = dict(reversed(list(votes.items())))
    assert decide(terms, votes) == decide(terms, backwards)


@tries(200, 10_000)
@given(cases(voters=6))
def test_what_is_said_fits_what_was_decided(case: Case) -> None:
    terms, votes = case
    decision = decide(terms, votes)
    assert (decision.winner is not None) == (decision.outcome is PASSED)
    assert decision.winner is None or decision.winner in terms.options
    assert decision.outcome is not TIED or len(decision.tied) > 1
    assert decision.why
    if decision.winner is not None:
        assert decision.winner in decision.why
