"""Checks of what is given to a ballot beside its terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from tertulia._names import check_name, text_fault
from tertulia._rules.ballot_terms import fitting_choice, pin_terms
from tertulia.ballots import BallotState, Candidate, TermOptions
from tertulia.errors import InvalidInputError, InvalidNameError, InvalidTermError, NotAnElectorError
from tertulia.patterns._ballot_records import MAX_TEXT
from tertulia.records import Missing

_LINES = str.maketrans("\n\r\t", "   ")
MAX_ID_BYTES = 100  # of a ballot's id: its message's id is a little longer, and takes at most 128


def checked_candidates(options: object) -> list[Candidate]:
    """Return the options of a ballot as candidates, or raise InvalidTermError."""
    if isinstance(options, str) or not isinstance(options, Sequence):
        raise InvalidTermError("options", options, "they are several names or candidates, in order")
    several = cast("Sequence[str | Candidate]", options)
    found = [option if isinstance(option, Candidate) else Candidate(name=option) for option in several]
    for candidate in found:
        has_value = not isinstance(candidate.value, Missing)
        if candidate.key is None and (has_value or candidate.version is not None):
            raise InvalidTermError("options", candidate.name, "a value or a version goes with a key")
    return found


def checked_id(ballot_id: str) -> str:
    """Return an id for a new ballot, or raise InvalidNameError."""
    if len(check_name(ballot_id).encode()) > MAX_ID_BYTES:
        raise InvalidNameError(ballot_id, f"a ballot's takes at most {MAX_ID_BYTES} bytes")
    return ballot_id


def checked_text(name: str, text: object, *, empty: bool = True) -> str:
    """Return a question or a reason, or raise InvalidInputError; it may have several lines."""
    if isinstance(text, str) and not text and empty:
        return ""
    fault = text_fault(text.translate(_LINES) if isinstance(text, str) else text, MAX_TEXT)
    if fault:
        message = f"invalid {name}: {fault}"
        raise InvalidInputError(message)
    return str(text)


def checked_state(state: BallotState | str | None) -> BallotState | None:
    """Return a state, or raise InvalidInputError."""
    if state is None:
        return None
    try:
        return BallotState(state)
    except ValueError:
        message = f"state must be one of {', '.join(BallotState)}, not {state!r}"
        raise InvalidInputError(message) from None


def check_vote(
    options: Sequence[str],
    ballot_id: str,
    voter: str,
    choice: object,
    reason: object,
    *,
    now: float,
    terms: TermOptions,
) -> None:
    """Raise what opening a ballot with these terms, and then this vote, would raise, before anything has happened."""
    pinned = pin_terms(options, now=now, lot=ballot_id, **terms)
    if voter not in pinned.weights:
        raise NotAnElectorError(voter, ballot_id)
    fitting_choice(pinned, ballot_id, voter, choice)
    checked_text("reason", reason)
