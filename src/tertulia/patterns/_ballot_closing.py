"""Closing a ballot: its outcome, the change it approves and the announcement, in one commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from tertulia._background import logger
from tertulia.ballots import BallotResult, Decision, Superseded, Vote
from tertulia.engines.base import Check, CheckFailed, Commit, Publish, Put, Record, Send
from tertulia.errors import MailboxFullError
from tertulia.patterns._ballot_records import (
    BallotKeys,
    Option,
    Paper,
    result_from,
    superseded,
    unmoved,
)
from tertulia.records import KEEP, Message
from tertulia.space import Space

CLOSED_TYPE = "ballot_closed"  # the "type" of the message that tells how a ballot ended


class BallotClosing:
    """Closes the ballots of one place; see Ballots for what the arguments are."""

    def __init__(
        self, space: Space, keys: BallotKeys, *, data: str, topic: str | None, about: Mapping[str, str]
    ) -> None:
        self._outbox = space.broker.outbox
        self._clock = space.clock
        self._keys = keys
        self._data = data
        self._topic = topic
        self._about = dict(about)

    async def close(
        self, paper: Paper, box: Record, votes: Mapping[str, Vote], decision: Decision, guards: tuple[Check, ...]
    ) -> BallotResult | None:
        """Commit a decision with all that follows from it; return None when the ballot was not as it was read.

        A change is applied only where its key is at the version it was proposed over. A mailbox that is full holds up
        no decision: its owner is not told, and the result says so.
        """
        winner = None if decision.winner is None else paper.option(decision.winner)
        unchanged = Check(box.key, revision=box.revision)
        moved: Superseded | None = None
        untold: list[str] = []
        while len(untold) <= len(paper.terms.weights) + 1:  # each voter once, and the topic
            still = () if winner is None or moved is not None else unmoved(winner, self._data)
            result = result_from(paper, decision, votes, closed=self._clock.time(), moved=moved, unannounced=untold)
            delete, put = self._keys.closing(paper, result)
            change = self._change(paper, winner) if result.applied and winner is not None else ()
            commit = Commit(
                checks=(*guards, unchanged, *still),
                puts=(put, *change),
                deletes=(delete,),
                sends=self._announcements(paper, result),
            )
            try:
                await self._outbox.commit(commit, timeout=0)
            except CheckFailed as failed:
                if winner is None or failed.check not in still:
                    return None
                moved = superseded(winner, failed.record)
            except MailboxFullError as full:
                untold.append(self._whom_not_to_tell(paper, untold, full.agent_id))
                logger.warning("ballot %s is closed without telling %s: %s", paper.id, untold[-1], full)
            else:
                return result
        message = f"ballot {paper.id!r} cannot be announced to nobody"
        raise AssertionError(message)

    def _change(self, paper: Paper, winner: Option) -> tuple[Put, ...]:
        """Return the put that the winner stands for; what is there keeps its owner, lifetime and tags."""
        if winner.key is None or winner.body is None:
            return ()
        key = self._data + winner.key
        if winner.revision is None:
            return (Put(key, winner.body, paper.proposer),)
        return (Put(key, winner.body, KEEP, KEEP, KEEP),)

    def _announcements(self, paper: Paper, result: BallotResult) -> tuple[Send | Publish, ...]:
        """Return the messages that tell the result: to every elector that has a mailbox, and to the topic.

        All have one id, so an elector that has subscribed to the topic gets it once.
        """
        if not paper.terms.announce:
            return ()
        content: dict[str, Any] = {
            "type": CLOSED_TYPE,
            **self._about,
            "ballot": paper.id,
            "question": paper.question,
            "outcome": result.outcome.value,
            "winner": result.winner,
            "applied": result.applied,
            "tally": result.tally,
            "why": result.why,
        }
        message = Message(
            id=f"closed-{paper.id}", sender=paper.proposer, content=content, sent=result.closed, topic=self._topic
        )
        sends: list[Send | Publish] = []
        for voter in paper.terms.weights:
            if voter not in result.unannounced:
                send = self._outbox.trusted_send_of(replace(message, receiver=voter))
                sends.append(replace(send, optional=True))
        if self._topic is not None and self._topic not in result.unannounced:
            sends.append(self._outbox.publish_of(self._topic, message))
        return tuple(sends)

    def _whom_not_to_tell(self, paper: Paper, untold: Sequence[str], full: str) -> str:
        """Return what to leave out for a full mailbox: the message to its owner, else that to the topic."""
        told_directly = full in paper.terms.weights and full not in untold
        return full if told_directly or self._topic is None else self._topic
