"""The values of voting: terms, votes, and what came out. All of them are frozen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, TypedDict

from msgspec import Struct

from tertulia._clock import instant
from tertulia.records import MISSING

YES = "yes"
NO = "no"
ABSTAIN = "abstain"
VETO = "veto"

Choice = str | tuple[str, ...]  # an option, ABSTAIN or VETO; several options for APPROVAL; in order for RANKED


class VotingRule(StrEnum):
    """What it takes to pass. Every vote counts with its voter's weight, 1 unless the terms say otherwise.

    MAJORITY: more than half of the denominator. WEIGHTED: the same, with weights, which must be given. SUPERMAJORITY:
    at least `threshold` (two thirds) of it. UNANIMOUS: all of it. PLURALITY: more votes than any other option.
    APPROVAL: each voter approves as many options as it likes; most approvals win. RANKED: instant runoff. While no
    option is first on more than half of the rankings that still name one, the option with the fewest goes and its
    rankings pass on to their next one (Robert's Rules of Order: preferential voting; Tideman, *Collective Decisions and
    Voting*, 2006: the alternative vote). Where options tie for going, every order is followed: the winner is the one
    that wins in all of them, and if there is none, those who win in some are tied (Conitzer, Rognlie and Xia,
    *Preference Functions That Score Rankings and Maximum Likelihood Estimation*, IJCAI 2009: parallel universes).
    """

    MAJORITY = "majority"
    SUPERMAJORITY = "supermajority"
    UNANIMOUS = "unanimous"
    PLURALITY = "plurality"
    WEIGHTED = "weighted"
    APPROVAL = "approval"
    RANKED = "ranked"


class Denominator(StrEnum):
    """Of what a majority, supermajority or unanimity is taken.

    CAST: the votes for an option; abstaining is not one. PRESENT: all who took part (voted or abstained), and all
    electors who are there when the ballot closes. ELIGIBLE: the whole electorate, as pinned at the opening; so silence
    and abstaining work against.
    """

    CAST = "cast"
    PRESENT = "present"
    ELIGIBLE = "eligible"


class TieBreak(StrEnum):
    """What happens when options tie for the first place.

    NONE: the outcome is TIED. STATUS_QUO: it is FAILED. CHAIR: the `chair`'s own vote decides, if it decides between
    those that tie. FIRST: the option listed first. LOT: drawn by lot, from the ballot's id, so that everybody can
    draw it again.
    """

    NONE = "none"
    STATUS_QUO = "status_quo"
    CHAIR = "chair"
    FIRST = "first"
    LOT = "lot"


class Outcome(StrEnum):
    """How a ballot ended; judged in this order.

    VETOED: somebody who may has vetoed it. EXPIRED: the deadline came, or the place of the ballot was closed, and
    nobody had taken part. NO_QUORUM: the deadline came and fewer than the quorum had taken part. PASSED: an option
    has what the rule asks for, of a question "yes". TIED: options share the first place and the terms break no tie;
    for a majority: two have exactly half each. FAILED: anything else.

    A place that is closed ends its open ballots as EXPIRED, whoever had taken part.
    """

    PASSED = "passed"
    FAILED = "failed"
    TIED = "tied"
    NO_QUORUM = "no_quorum"
    VETOED = "vetoed"
    EXPIRED = "expired"


class BallotState(StrEnum):
    """Whether votes are taken."""

    OPEN = "open"
    CLOSED = "closed"


class TermOptions(TypedDict, total=False):
    """The terms that can be given when a ballot is opened; all of them are pinned then.

    `rule`: a VotingRule or its name; MAJORITY for questions and PLURALITY for several options.
    `electorate`: who may vote. `weights`: by voter, above 0; 1 for those not named.
    `denominator`: for MAJORITY, WEIGHTED, SUPERMAJORITY and UNANIMOUS: of what; ELIGIBLE.
    `threshold`: for SUPERMAJORITY: above 1/2, up to 1; 2/3.
    `quorum`: how many must take part, as a number of voters (int), or as a share of them (float below 1); none.
    `deadline`: seconds from now, or an aware instant; 10 minutes.
    `veto`: who may veto. `tie_break`: a TieBreak or its name, with CHAIR a `chair` from the electorate; NONE.
    `sealed`: votes can be read once the ballot is closed, not before; True.
    `changeable`: a voter may vote again until then, and the last vote counts; True.
    `announce`: the result is sent to the electors who have mailboxes, and published; True.
    """

    rule: VotingRule | str
    electorate: Iterable[str]
    weights: Mapping[str, float]
    denominator: Denominator | str
    threshold: float
    quorum: float
    deadline: float | datetime
    veto: Iterable[str]
    tie_break: TieBreak | str
    chair: str
    sealed: bool
    changeable: bool
    announce: bool


class BallotTerms(Struct, frozen=True, kw_only=True):
    """The terms of a ballot as they were pinned at its opening; see TermOptions.

    `weights` has every voter of the electorate. `quorum` is a number of voters, 0 for none. `denominator` is None for
    rules that compare options, `threshold` None for those without one. `deadline` is seconds since the epoch. `lot` is
    what lots are drawn from.
    """

    rule: VotingRule
    options: tuple[str, ...]
    weights: dict[str, int | float]
    denominator: Denominator | None
    threshold: float | None
    quorum: int
    deadline: float
    veto: tuple[str, ...]
    tie_break: TieBreak
    chair: str | None
    sealed: bool
    changeable: bool
    announce: bool
    lot: str

    @property
    def electorate(self) -> tuple[str, ...]:
        """Who may vote."""
        return tuple(self.weights)

    @property
    def is_question(self) -> bool:
        """Whether the options are yes and no, so that only "yes" can pass."""
        return set(self.options) == {YES, NO}

    @property
    def deadline_at(self) -> datetime:
        """When the ballot closes at the latest."""
        return instant(self.deadline)


class Candidate(Struct, frozen=True, kw_only=True):
    """One option of a ballot, when there is more to it than a name.

    With a `key` it stands for what is under that key at `version` and `revision`, which are pinned at the opening
    (None: the key was absent). With a `value` too, the key is set to it if this option wins and the key is still at
    that version. A `version` that is given is expected, 0 meaning that the key is absent.
    """

    name: str
    key: str | None = None
    value: Any = MISSING
    version: int | None = None
    revision: int | None = None


class Vote(Struct, frozen=True, kw_only=True):
    """One voter's vote: an option, ABSTAIN or VETO; several options for APPROVAL, in order for RANKED.

    `cast` is seconds since the epoch.
    """

    voter: str
    choice: Choice
    reason: str = ""
    cast: float = 0.0

    @property
    def cast_at(self) -> datetime:
        """When it was cast."""
        return instant(self.cast)


class Decision(Struct, frozen=True, kw_only=True):
    """What votes come to under their terms, by `rule`.

    `winner` is the option that passed. `tied`: the options that shared the first place, also if the tie was broken.
    `tally`: the weight for each option, in the first round for RANKED; `rounds`: that of all rounds. `took_part`:
    how many voted or abstained; `abstained` and `silent`: who. `denominator`: the weight of which `needed` was, each
    None for rules that compare options. `why` says it in words.
    """

    rule: VotingRule
    outcome: Outcome
    winner: str | None
    tied: tuple[str, ...]
    tally: dict[str, int | float]
    rounds: tuple[dict[str, int | float], ...]
    took_part: int
    abstained: tuple[str, ...]
    silent: tuple[str, ...]
    denominator: int | float | None
    why: str


class Superseded(Struct, frozen=True, kw_only=True):
    """The winning option's key had moved on: from `version` at the opening to `actual_version` at the closing.

    None is a key that was not there.
    """

    key: str
    version: int | None
    actual_version: int | None


class BallotResult(Decision, frozen=True, kw_only=True):
    """A closed ballot's decision, its votes, and what was done.

    `applied`: the winner's value was written, in the commit that closed the ballot. If it passed and was not applied,
    either there was nothing to write, or `superseded` says that the key had another version by then. `votes`: all that
    counted, with their reasons. `early`: it was decided before the deadline. `unannounced`: who was not told because
    their mailbox was full, and the topic, if a subscriber's was.
    """

    ballot_id: str
    applied: bool
    superseded: Superseded | None
    votes: tuple[Vote, ...]
    early: bool
    closed: float
    unannounced: tuple[str, ...] = ()

    @property
    def closed_at(self) -> datetime:
        """When the ballot was closed."""
        return instant(self.closed)

    @property
    def passed(self) -> bool:
        """Whether the outcome is PASSED."""
        return self.outcome is Outcome.PASSED

    @property
    def dissent(self) -> tuple[Vote, ...]:
        """The votes for something else than what was decided; of a ranking, its first option tells."""
        return tuple(vote for vote in self.votes if self._dissents(vote))

    def _dissents(self, vote: Vote) -> bool:
        if vote.choice in {ABSTAIN, VETO}:
            return vote.choice == VETO and self.outcome is not Outcome.VETOED
        if self.winner is None:  # nothing was adopted: those dissent who wanted something
            return self.outcome in {Outcome.FAILED, Outcome.VETOED} and vote.choice != NO
        wanted = vote.choice[:1] if self.rule is VotingRule.RANKED else vote.choice
        return self.winner not in wanted if isinstance(wanted, tuple) else self.winner != wanted


class Ballot(Struct, frozen=True, kw_only=True):
    """A ballot as it was when read.

    `options` have what was pinned of their keys. `voted`: who has taken part, in the order of the electorate. `votes`:
    what they voted, empty while the ballot is open and sealed. `opened` is seconds since the epoch.
    """

    id: str
    proposer: str
    question: str
    reason: str
    options: tuple[Candidate, ...]
    terms: BallotTerms
    opened: float
    state: BallotState
    voted: tuple[str, ...]
    votes: tuple[Vote, ...]
    result: BallotResult | None

    @property
    def is_open(self) -> bool:
        """Whether votes are taken."""
        return self.state is BallotState.OPEN

    @property
    def opened_at(self) -> datetime:
        """When it was opened."""
        return instant(self.opened)

    @property
    def deadline_at(self) -> datetime:
        """When it closes at the latest."""
        return self.terms.deadline_at
