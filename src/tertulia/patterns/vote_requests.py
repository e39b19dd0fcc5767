"""Asking agents for their votes by message: a request to each voter, whose reply is its vote."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, cast

from msgspec import Struct

from tertulia._arguments import check_seconds
from tertulia._codec import encode
from tertulia._names import check_name
from tertulia.ballots import ABSTAIN, Ballot, Candidate
from tertulia.errors import (
    BallotClosedError,
    InvalidInputError,
    NotAnElectorError,
    TertuliaError,
    ValueTooLargeError,
)
from tertulia.patterns.voting import Ballots
from tertulia.records import Message, Missing
from tertulia.space import Space

REQUEST_TYPE = "vote_request"  # the "type" of the message that asks for a vote
MAX_VALUE_BYTES = 64 * 1024  # of a proposed value that travels with each request; a larger one is read from the ballot


class VoteAnswers(Struct, frozen=True, kw_only=True):
    """What came of asking for votes.

    `voted`: whose reply was counted. `failed`: why the others' were not, by voter. `ballot`: as it was afterwards.
    """

    voted: tuple[str, ...]
    failed: dict[str, str]
    ballot: Ballot


async def request_votes(
    space: Space,
    ballots: Ballots,
    asker: str,
    ballot_id: str,
    *,
    voters: Iterable[str] | None = None,
    timeout: float | None = None,
    about: dict[str, str] | None = None,
) -> VoteAnswers:
    """Ask the voters, by default all who have not voted, and cast what they reply; see the workspace's method."""
    check_name(asker)
    ballot = await ballots.get(ballot_id)
    if ballot.result is not None:
        raise BallotClosedError(ballot_id, ballot.result.outcome)
    left = ballot.terms.deadline - space.clock.time()
    patience = left if timeout is None else min(left, check_seconds("timeout", timeout))
    content = {**_content(ballot), **(about or {})}
    voted: list[str] = []
    failed = dict.fromkeys(_asked(ballot, asker, voters), "the ballot was closed before it answered")

    async def ask(voter: str) -> None:
        try:
            message = Message(sender=asker, receiver=voter, content=content, sent=space.clock.time())
            reply = await space.broker.request_response(message, timeout=patience)
            choice, reason = _answer(reply.content)
            await ballots.vote(voter, ballot_id, choice, reason=reason)
        except TertuliaError as error:
            failed[voter] = f"{type(error).__name__}: {error}"
        else:
            voted.append(voter)
            del failed[voter]

    await _all_or_closed([ask(voter) for voter in list(failed)], ballots, ballot_id)
    return VoteAnswers(voted=tuple(voted), failed=failed, ballot=await ballots.get(ballot_id))


async def _all_or_closed(asking: list[Any], ballots: Ballots, ballot_id: str) -> None:
    """Run the requests beside each other until they have ended, or the ballot is closed."""
    pending = {asyncio.ensure_future(one) for one in asking}
    closing = asyncio.ensure_future(ballots.wait(ballot_id))
    try:
        while pending and not closing.done():
            done, _ = await asyncio.wait({*pending, closing}, return_when=asyncio.FIRST_COMPLETED)
            pending -= done
            for one in done:
                await one  # raises what is not an answer's fault
    finally:
        rest = {*pending, closing}
        for one in rest:
            one.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


def _asked(ballot: Ballot, asker: str, voters: Iterable[str] | None) -> list[str]:
    if voters is None:
        return [voter for voter in ballot.terms.weights if voter not in ballot.voted and voter != asker]
    if isinstance(voters, str):
        message = f"voters are several names, not {voters!r}"
        raise InvalidInputError(message)
    asked = list(dict.fromkeys(map(check_name, voters)))
    for voter in asked:
        if voter not in ballot.terms.weights:
            raise NotAnElectorError(voter, ballot.id)
    return asked


def _content(ballot: Ballot) -> dict[str, Any]:
    """Return what a voter has to know."""
    terms = ballot.terms
    return {
        "type": REQUEST_TYPE,
        "ballot": ballot.id,
        "proposer": ballot.proposer,
        "question": ballot.question,
        "reason": ballot.reason,
        "rule": terms.rule.value,
        "options": list(terms.options),
        "choices": [*terms.options, ABSTAIN],
        "candidates": [_shown(option) for option in ballot.options if option.key is not None],
        "deadline": terms.deadline_at.isoformat(),
    }


def _shown(option: Candidate) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": option.name, "key": option.key, "version": option.version}
    if isinstance(option.value, Missing):
        return shown
    try:
        encode(option.value, MAX_VALUE_BYTES)
    except ValueTooLargeError:
        return shown
    return {**shown, "value": option.value}


def _answer(content: object) -> tuple[object, str]:
    """Return choice and reason of a reply: the choice alone, or a dict with "choice" and perhaps "reason"."""
    if not isinstance(content, dict):
        return content, ""
    answer = cast("dict[Any, Any]", content)
    return answer.get("choice"), answer.get("reason") or ""
