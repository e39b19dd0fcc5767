"""How ballots are kept: keys, records, and what a reader sees of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from tertulia._codec import decode_plain, decoder_for, encode
from tertulia._names import MAX_NAME_BYTES
from tertulia.ballots import (
    Ballot,
    BallotResult,
    BallotState,
    BallotTerms,
    Candidate,
    Decision,
    Superseded,
    Vote,
)
from tertulia.engines.base import Check, Delete, Put, Record
from tertulia.errors import InvalidTermError, ValueTooLargeError
from tertulia.records import MISSING, Missing

MAX_TEXT = 2_000  # bytes of a question or a reason: what somebody reads before voting; more belongs under a key
_VOTE_BYTES = MAX_TEXT + 4 * MAX_NAME_BYTES  # what one vote takes at most, beside its options
_RESULT_BYTES = 10_000  # what a result takes beside its votes and options

_ENCODER = msgspec.msgpack.Encoder()


class Option(Struct, frozen=True):
    """One option as it is kept: `body` is what its key is set to if it wins, None for nothing."""

    name: str
    key: str | None = None
    version: int | None = None
    revision: int | None = None
    body: bytes | None = None


class Paper(Struct, frozen=True):
    """What is written once, when a ballot is opened."""

    id: str
    proposer: str
    question: str
    reason: str
    opened: float
    terms: BallotTerms
    options: tuple[Option, ...]

    def option(self, name: str) -> Option:
        """Return the option of that name."""
        return next(option for option in self.options if option.name == name)


class Box(Struct, frozen=True):
    """What is there while a ballot is open, and nowhere else: the votes. Each vote replaces it."""

    deadline: float
    votes: dict[str, Vote]


_PAPERS = decoder_for(Paper)
_BOXES = decoder_for(Box)
_RESULTS = decoder_for(BallotResult)


class BallotKeys:
    """The keys of the ballots at one place, under its prefix."""

    def __init__(self, prefix: str) -> None:
        self.papers = f"{prefix}paper:"
        self.boxes = f"{prefix}open:"
        self.results = f"{prefix}closed:"
        self.opened = (
            f"{prefix}opened"  # written with each opening, so that what relies on there being no other can tell
        )
        self.prefix = prefix

    def paper(self, ballot_id: str) -> str:
        """Return the key of what was pinned at the opening."""
        return self.papers + ballot_id

    def box(self, ballot_id: str) -> str:
        """Return the key of the votes of an open ballot."""
        return self.boxes + ballot_id

    def result(self, ballot_id: str) -> str:
        """Return the key of a closed ballot's result."""
        return self.results + ballot_id

    def opening(self, paper: Paper) -> tuple[Put, ...]:
        """Return the puts that open a ballot."""
        box = Box(paper.terms.deadline, {})
        return (
            Put(self.paper(paper.id), _ENCODER.encode(paper), paper.proposer),
            Put(self.box(paper.id), _ENCODER.encode(box), paper.proposer),
        )

    def voting(self, paper: Paper, box: Box) -> Put:
        """Return the put that replaces the votes of an open ballot."""
        return Put(self.box(paper.id), _ENCODER.encode(box), paper.proposer)

    def closing(self, paper: Paper, result: BallotResult) -> tuple[Delete, Put]:
        """Return what closes a ballot: the votes go, the result comes."""
        put = Put(self.result(paper.id), _ENCODER.encode(result), paper.proposer)
        return Delete(self.box(paper.id)), put


def paper_of(record: Record) -> Paper:
    """Return the paper that a record holds."""
    return _PAPERS.decode(record.body)


def box_of(record: Record) -> Box:
    """Return the votes that a record holds."""
    return _BOXES.decode(record.body)


def result_of(record: Record) -> BallotResult:
    """Return the result that a record holds."""
    return _RESULTS.decode(record.body)


def pinned(candidate: Candidate, record: Record | None, limit: int) -> Option:
    """Return an option as it is kept, with what is under its key now."""
    return Option(
        candidate.name,
        candidate.key,
        None if record is None else record.version,
        None if record is None else record.revision,
        None if isinstance(candidate.value, Missing) else encode(candidate.value, limit),
    )


def unmoved(option: Option, prefix: str) -> tuple[Check, ...]:
    """Return the check that an option's key is where it was at the opening; none for an option without a key."""
    if option.key is None:
        return ()
    key = prefix + option.key
    return (Check(key, absent=True) if option.revision is None else Check(key, revision=option.revision),)


def superseded(option: Option, record: Record | None) -> Superseded:
    """Return what is said about an option whose key has moved on."""
    actual = None if record is None else record.version
    return Superseded(key=option.key or "", version=option.version, actual_version=actual)


def check_growth(paper: Paper, limit: int) -> None:
    """Raise unless all votes that can come, with the longest reasons, fit into one record of the engine."""
    options = sum(len(name.encode()) + 5 for name in paper.terms.options)
    voters = len(paper.terms.weights)
    most = voters * (_VOTE_BYTES + options) + 20 * options + _RESULT_BYTES
    if most > limit:
        reason = f"{voters} voters with the longest reasons could take {most:,} bytes; this engine keeps {limit:,}"
        raise InvalidTermError("electorate", paper.terms.electorate, reason)
    size = len(_ENCODER.encode(paper))
    if size > limit:
        raise ValueTooLargeError(size, limit)


def result_from(
    paper: Paper,
    decision: Decision,
    votes: Mapping[str, Vote],
    *,
    closed: float,
    moved: Superseded | None = None,
    unannounced: Sequence[str] = (),
) -> BallotResult:
    """Return the result of a ballot that is closed with this decision."""
    writes = decision.winner is not None and paper.option(decision.winner).body is not None
    return BallotResult(
        **msgspec.structs.asdict(decision),
        ballot_id=paper.id,
        applied=writes and moved is None,
        superseded=moved,
        votes=_ordered(paper, votes),
        early=closed < paper.terms.deadline,
        closed=closed,
        unannounced=tuple(unannounced),
    )


def seen(paper: Paper, votes: Mapping[str, Vote], result: BallotResult | None) -> Ballot:
    """Return a ballot as a reader sees it: sealed votes only once it is closed."""
    ordered = _ordered(paper, votes)
    return Ballot(
        id=paper.id,
        proposer=paper.proposer,
        question=paper.question,
        reason=paper.reason,
        options=tuple(_candidate(option) for option in paper.options),
        terms=paper.terms,
        opened=paper.opened,
        state=BallotState.OPEN if result is None else BallotState.CLOSED,
        voted=tuple(vote.voter for vote in ordered),
        votes=() if result is None and paper.terms.sealed else ordered,
        result=result,
    )


def _ordered(paper: Paper, votes: Mapping[str, Vote]) -> tuple[Vote, ...]:
    return tuple(votes[voter] for voter in paper.terms.weights if voter in votes)


def _candidate(option: Option) -> Candidate:
    return Candidate(
        name=option.name,
        key=option.key,
        value=MISSING if option.body is None else decode_plain(option.body),
        version=option.version,
        revision=option.revision,
    )
