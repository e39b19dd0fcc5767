"""Contributions to a blackboard, drafted in a transaction: committed together, or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from tertulia._names import check_name
from tertulia.errors import InvalidHypothesisError, RetractedError, UnknownHypothesisError
from tertulia.hypotheses import BoardAction, Hypothesis, HypothesisState
from tertulia.patterns.blackboard._records import (
    Keys,
    checked_confidence,
    checked_id,
    checked_links,
    checked_reason,
    checked_section,
    kept,
    log,
)
from tertulia.records import MISSING, Missing, new_id
from tertulia.transaction import Transaction


class Draft:
    """What one agent is about to contribute. Whatever it relies on is read in the transaction, so it still holds.

    A draft sees its own contributions: what it has posted can be refined and linked to at once.
    """

    def __init__(self, transaction: Transaction, keys: Keys, sections: tuple[str, ...] | None, agent: str) -> None:
        self.transaction = transaction
        self.agent = check_name(agent)
        self._keys = keys
        self._sections = sections

    async def post_hypothesis(
        self,
        section: str,
        hypothesis: object,
        *,
        confidence: float = 0.5,
        supports: Iterable[str] = (),
        contradicts: Iterable[str] = (),
        reason: str = "",
    ) -> str:
        """Post a hypothesis, and return its id; see Blackboard.post_hypothesis."""
        made = Hypothesis(
            id=new_id(),
            section=checked_section(section, self._sections),
            content=hypothesis,
            author=self.agent,
            confidence=checked_confidence(confidence),
            supports=checked_links("supports", supports),
            contradicts=checked_links("contradicts", contradicts),
            reason=checked_reason(reason),
        )
        await self._check_linked((*made.supports, *made.contradicts))
        self._create(made)
        log(self.transaction, self._keys, BoardAction.POSTED, self.agent, made.id, section=section)
        return made.id

    async def refine_hypothesis(
        self,
        hypothesis_id: str,
        hypothesis: object | Missing = MISSING,
        *,
        confidence: float | None = None,
        reason: str = "",
    ) -> str:
        """Post a better version of a hypothesis, and return its id; see Blackboard.refine_hypothesis."""
        old = await self._live(hypothesis_id)
        if hypothesis is MISSING and confidence is None:
            raise InvalidHypothesisError("refinement", "neither another content nor another confidence")
        made = replace(
            old,
            id=new_id(),
            content=old.content if hypothesis is MISSING else hypothesis,
            author=self.agent,
            confidence=old.confidence if confidence is None else checked_confidence(confidence),
            refines=old.id,
            refined_by=(),
            state=HypothesisState.PROPOSED,
            reason=checked_reason(reason),
        )
        self._create(made)
        self._update(replace(old, state=HypothesisState.REFINED, refined_by=(*old.refined_by, made.id)))
        log(self.transaction, self._keys, BoardAction.REFINED, self.agent, made.id, refines=old.id)
        return made.id

    async def retract(self, hypothesis_id: str, *, reason: str = "") -> None:
        """Take a hypothesis back; see Blackboard.retract."""
        reason = checked_reason(reason)
        old = await self._live(hypothesis_id)
        self._update(replace(old, state=HypothesisState.RETRACTED, reason=reason or old.reason))
        log(self.transaction, self._keys, BoardAction.RETRACTED, self.agent, old.id, reason=reason)

    async def link(self, hypothesis_id: str, *, supports: Iterable[str] = (), contradicts: Iterable[str] = ()) -> None:
        """Add links from a hypothesis to others; see Blackboard.link."""
        more = checked_links("supports", supports, hypothesis_id)
        against = checked_links("contradicts", contradicts, hypothesis_id)
        if not more and not against:
            raise InvalidHypothesisError("link", "to nothing")
        old = await self._live(hypothesis_id)
        await self._check_linked((*more, *against))
        joined = (
            checked_links("supports", (*old.supports, *more)),
            checked_links("contradicts", (*old.contradicts, *against)),
        )
        self._update(replace(old, supports=joined[0], contradicts=joined[1]))
        log(
            self.transaction,
            self._keys,
            BoardAction.LINKED,
            self.agent,
            old.id,
            supports=list(more),
            contradicts=list(against),
        )

    # --- inside ---

    async def hypothesis(self, hypothesis_id: str) -> Hypothesis:
        """Return a hypothesis as this draft sees it, and rely on its not changing. Raises UnknownHypothesisError."""
        found: Hypothesis | None = await self.transaction.read(
            self._keys.hypothesis(checked_id(hypothesis_id)), reader=self.agent, type=Hypothesis | None
        )
        if found is None:
            raise UnknownHypothesisError(hypothesis_id)
        return found

    async def _live(self, hypothesis_id: str) -> Hypothesis:
        found = await self.hypothesis(hypothesis_id)
        if not found.is_live:
            raise RetractedError(hypothesis_id)
        return found

    async def _check_linked(self, ids: Iterable[str]) -> None:
        """See that what is linked to is there; that it may change is no reason not to link to it."""
        for one in dict.fromkeys(ids):
            await self.hypothesis(one)

    def _create(self, hypothesis: Hypothesis) -> None:
        self.transaction.create(self._keys.hypothesis(hypothesis.id), kept(hypothesis), owner=hypothesis.author)

    def _update(self, hypothesis: Hypothesis) -> None:
        self.transaction.update(self._keys.hypothesis(hypothesis.id), kept(hypothesis), updater=self.agent)

    def note(self, kind: BoardAction, hypothesis_id: str | None = None, **details: Any) -> None:
        """Write something else down."""
        log(self.transaction, self._keys, kind, self.agent, hypothesis_id, **details)
