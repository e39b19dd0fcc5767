"""The blackboard itself: hypotheses in sections, evidence between them, solutions that are ranked and voted on."""

from __future__ import annotations

import reprlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar, Unpack

from msgspec.structs import replace

from tertulia._arguments import check_count
from tertulia._background import logger
from tertulia._clock import sleep
from tertulia._codec import convert
from tertulia._names import check_name, literal
from tertulia._rules.ranking import score
from tertulia.ballots import NO, YES, Ballot, Candidate, Outcome, TermOptions
from tertulia.engines.base import DEFAULT_LEASE
from tertulia.errors import (
    BallotClosedError,
    BallotExistsError,
    ConflictError,
    InvalidInputError,
    RetractedError,
    SupersededError,
    TertuliaError,
    UnknownBallotError,
    UnknownHypothesisError,
    VersionConflictError,
)
from tertulia.hypotheses import (
    BoardAction,
    BoardRecord,
    Hypothesis,
    HypothesisState,
    SolutionCandidate,
    WorkRequest,
)
from tertulia.patterns._ballot_input import check_vote
from tertulia.patterns._failures import text_of
from tertulia.patterns.blackboard._drafting import Draft
from tertulia.patterns.blackboard._records import (
    Keys,
    checked_id,
    checked_section,
    checked_sections,
    hypothesis_of,
    kept,
    record_of,
)
from tertulia.patterns.blackboard.export import as_dict, as_markdown
from tertulia.patterns.voting import Ballots
from tertulia.records import MISSING, DeliveryMode, Message, Missing, new_id
from tertulia.space import Space
from tertulia.watching import MemoryWatch

T = TypeVar("T")

MAX_RACES = 1_000  # lost in a row; somebody wins each, so losing so often means a fault elsewhere
RACE_PAUSE = 0.001  # seconds at first between tries that lost; doubled up to a hundred times as long
MAX_HISTORY = 100_000  # contributions that one call returns
MAX_CANDIDATES = 1_000
MAX_WORK = 10_000  # requests for work that nobody has taken yet


class Work:
    """Work that was taken from a blackboard, under a lease that is renewed: `async with board.take(...) as work`.

    What is drafted with `draft` is committed together with the end of the work, once, when the block is left. An
    exception, or the death of the process, gives the work back to whoever takes it next, after a pause that grows.
    """

    def __init__(self, request: WorkRequest, draft: Draft, attempt: int) -> None:
        self.request = request
        self.draft = draft
        self.attempt = attempt

    @property
    def task(self) -> Any:
        """What is to be done."""
        return self.request.task


class Blackboard:
    """A blackboard in a space: `Blackboard(space, "diagnosis", sections=("symptoms", "causes"))`.

    Its state is in the space: any number of handles and processes may contribute at once. Every contribution is one
    commit and has its place in one order; none is lost, and all are kept in `history`. With `sections` only those take
    hypotheses; without, any name is a section.

    Raises, everywhere: InvalidNameError for names of boards, agents and sections; InvalidHypothesisError for other bad
    input; UnknownHypothesisError; EngineError when the engine fails. Nothing was changed then. Cancellation: a
    cancelled read did nothing; a cancelled contribution either happened or did not.
    """

    def __init__(self, space: Space, name: str, *, sections: Sequence[str] | None = None) -> None:
        self.space = space
        self.name = check_name(name)
        self.sections = checked_sections(sections)
        self.keys = Keys(name)
        self._ballots = Ballots(space, self.keys.ballots, about={"board": name}, topic=self.keys.topic)

    # --- contributing ---

    async def post_hypothesis(
        self,
        agent: str,
        section: str,
        hypothesis: object,
        *,
        confidence: float = 0.5,
        supports: Iterable[str] = (),
        contradicts: Iterable[str] = (),
        reason: str = "",
    ) -> Hypothesis:
        """Post a hypothesis that stands beside all others, and return it.

        `confidence` is from 0 to 1; `supports` and `contradicts` are ids of hypotheses for and against which this one
        speaks. Raises InvalidHypothesisError, UnknownHypothesisError for a link to nothing.
        """

        async def post(draft: Draft) -> str:
            return await draft.post_hypothesis(
                section,
                hypothesis,
                confidence=confidence,
                supports=supports,
                contradicts=contradicts,
                reason=reason,
            )

        return await self.get(await self.contribute(agent, post))

    async def refine_hypothesis(
        self,
        agent: str,
        hypothesis_id: str,
        hypothesis: object | Missing = MISSING,
        *,
        confidence: float | None = None,
        reason: str = "",
    ) -> Hypothesis:
        """Post a better version of a hypothesis, with its links, and return it; the old one stays, and names it.

        What is not given stays as it was. Several refinements of one hypothesis are alternatives. Raises
        RetractedError for one that was retracted.
        """

        async def refine(draft: Draft) -> str:
            return await draft.refine_hypothesis(hypothesis_id, hypothesis, confidence=confidence, reason=reason)

        return await self.get(await self.contribute(agent, refine))

    async def retract(self, agent: str, hypothesis_id: str, *, reason: str = "") -> Hypothesis:
        """Take a hypothesis back: it stays to be seen, but counts for nothing any more. Raises RetractedError."""
        await self.contribute(agent, lambda draft: draft.retract(hypothesis_id, reason=reason))
        return await self.get(hypothesis_id)

    async def link(
        self, agent: str, hypothesis_id: str, *, supports: Iterable[str] = (), contradicts: Iterable[str] = ()
    ) -> Hypothesis:
        """Let a hypothesis speak for or against others. Raises RetractedError, UnknownHypothesisError."""
        links = {"supports": tuple(supports), "contradicts": tuple(contradicts)}
        await self.contribute(agent, lambda draft: draft.link(hypothesis_id, **links))
        return await self.get(hypothesis_id)

    async def contribute(self, agent: str, draft: Callable[[Draft], Awaitable[T]]) -> T:
        """Call a function that drafts contributions, and commit all of them together, or none; return its result.

        It is called again, from the beginning, when something that it relied on has changed meanwhile.
        """
        pause = RACE_PAUSE
        for _ in range(MAX_RACES):
            transaction = self.space.transaction()
            result = await draft(self.draft(transaction, agent))
            try:
                await transaction.commit()
            except ConflictError:
                if not transaction.lost_race:
                    raise
                await sleep(self.space.clock, pause)
                pause = min(pause * 2, RACE_PAUSE * 100)
            else:
                return result
        raise ConflictError(f"a contribution to board {self.name!r} lost {MAX_RACES:,} races in a row")

    def draft(self, transaction: Any, agent: str) -> Draft:
        """Return a way to contribute in a transaction of one's own, such as a delivery's."""
        return Draft(transaction, self.keys, self.sections, agent)

    # --- looking ---

    async def get(self, hypothesis_id: str) -> Hypothesis:
        """Return a hypothesis as it is now. Raises UnknownHypothesisError."""
        entry = await self.space.memory.read_with_metadata(
            self.keys.hypothesis(checked_id(hypothesis_id)), reader=self.name
        )
        if entry is None:
            raise UnknownHypothesisError(hypothesis_id)
        return hypothesis_of(entry)

    async def read_section(self, section: str, *, all_states: bool = False) -> list[Hypothesis]:
        """Return the hypotheses of a section in their order; those that were retracted only with `all_states`."""
        checked_section(section, self.sections)
        return [one for one in await self.hypotheses(all_states=all_states) if one.section == section]

    async def hypotheses(self, *, all_states: bool = False) -> list[Hypothesis]:
        """Return all hypotheses, as they were at one moment, in their order."""
        entries = self.space.memory.entries(self.keys.all_hypotheses())
        found = [hypothesis_of(entry) async for entry in entries]
        return sorted((one for one in found if all_states or one.is_live), key=lambda one: one.order)

    def watch(self, *, after: int | None = None) -> MemoryWatch:
        """Return a watch over the changes of hypotheses; see SharedMemory.watch."""
        return self.space.memory.watch(self.keys.all_hypotheses(), after=after)

    async def history(self, *, limit: int = 1_000) -> list[BoardRecord]:
        """Return what was done to the board, in its order; the latest comes last."""
        check_count("limit", limit, MAX_HISTORY)
        await self._note_results()
        entries = self.space.memory.entries(literal(self.keys.log) + "*")
        found = sorted([record_of(entry) async for entry in entries], key=lambda one: one.order)
        return found[-limit:]

    async def export(self, form: str = "json") -> Any:
        """Return the whole board: "json", a plain dict that any JSON encoder takes, or "markdown", a text.

        Raises InvalidInputError for any other form.
        """
        if form not in {"json", "markdown"}:
            raise InvalidInputError(f"a board is exported as 'json' or 'markdown', not as {reprlib.repr(form)}")
        parts = (self.name, await self.hypotheses(all_states=True), await self.history(limit=MAX_HISTORY))
        return as_markdown(*parts) if form == "markdown" else as_dict(*parts)

    # --- solutions ---

    async def get_solution_candidates(self, section: str | None = None, *, limit: int = 10) -> list[SolutionCandidate]:
        """Return the hypotheses of a section that could be the solution, the most certain first, with the reasons.

        The section is the last one declared, unless another is named. How sure to be combines the hypothesis's own
        confidence with that of what supports and contradicts it; see `_rules/ranking.py` for the formula and its
        source. What has been refined gives way to what refines it.
        """
        check_count("limit", limit, MAX_CANDIDATES)
        section = self._solution_section(section)
        everything = await self.hypotheses()
        candidates = [one for one in everything if one.section == section and one.state is not HypothesisState.REFINED]
        supports, against = _linked(everything, "supports"), _linked(everything, "contradicts")
        ranked = [_candidate(one, supports.get(one.id, ()), against.get(one.id, ())) for one in candidates]
        return sorted(ranked, key=lambda one: -one.score)[:limit]

    def _solution_section(self, section: str | None) -> str:
        if section is None and self.sections:
            return self.sections[-1]
        return checked_section("solution" if section is None else section, self.sections)

    async def vote_on_solution(
        self,
        agent: str,
        candidate_id: str,
        choice: object = YES,
        *,
        version: int | None = None,
        reason: str = "",
        **terms: Unpack[TermOptions],
    ) -> Ballot:
        """Vote for ("yes", True) or against ("no", False) a hypothesis as the solution, and return the ballot.

        The vote is on one version of it, the present one unless `version` names it: the first vote opens a ballot on
        that version, with the terms, by default for everybody who has contributed so far. A ballot that passes makes
        the hypothesis ACCEPTED in the commit that closes it, if it is at that version still; votes and dissent stay.

        Raises SupersededError for a version that it is not at any more, RetractedError, BallotClosedError for one
        that was accepted before, and what Ballots.open and Ballots.vote raise. Nothing was changed then.
        """
        candidate = await self.get(candidate_id)
        if not candidate.is_live:
            raise RetractedError(candidate_id)
        if candidate.state is HypothesisState.ACCEPTED:
            raise BallotClosedError(await self._accepting(candidate), Outcome.PASSED)
        if version is not None and version != candidate.version:
            raise SupersededError(candidate_id, version, candidate.version)
        ballot_id = f"{candidate_id}.v{candidate.version}"
        try:
            ballot = await self._ballots.vote(agent, ballot_id, choice, reason=reason)
        except UnknownBallotError:
            await self._open_ballot(agent, candidate, ballot_id, choice, reason, terms)
            ballot = await self._ballots.vote(agent, ballot_id, choice, reason=reason)
        if ballot.result is not None:
            await self._note_result(ballot)
        return ballot

    async def _accepting(self, candidate: Hypothesis) -> str:
        """Return the id of the ballot that has accepted a hypothesis."""
        closed = await self._ballots.history(limit=MAX_HISTORY // 10)
        passed = [one.id for one in closed if one.id.rpartition(".v")[0] == candidate.id and _is_accepted(one)]
        return passed[-1] if passed else candidate.id

    async def _open_ballot(
        self, agent: str, candidate: Hypothesis, ballot_id: str, choice: object, reason: str, terms: TermOptions
    ) -> None:
        check_name(agent)
        if "electorate" not in terms:
            terms = {**terms, "electorate": await self._contributors(agent)}
        check_vote((YES, NO), ballot_id, agent, choice, reason, now=self.space.clock.time(), terms=terms)
        accepted = replace(kept(candidate), state=HypothesisState.ACCEPTED)
        winner = Candidate(name=YES, key=self.keys.hypothesis(candidate.id), value=accepted, version=candidate.version)
        try:
            await self._ballots.open(
                agent, f"Is {candidate.id} the solution?", (winner, Candidate(name=NO)), ballot_id=ballot_id, **terms
            )
        except BallotExistsError:
            return  # somebody has voted before
        except VersionConflictError as moved:
            raise SupersededError(candidate.id, candidate.version, moved.actual_version or 0) from None

    async def _contributors(self, agent: str) -> list[str]:
        return sorted({agent} | {one.author for one in await self.hypotheses(all_states=True)})

    async def _note_results(self) -> None:
        """Write down how votes ended that were closed by their deadlines, or whose last voter died before it could."""
        noted = set(await self.space.memory.list_keys(literal(self.keys.log) + "*.v*"))
        for ballot in await self._ballots.history(limit=MAX_HISTORY // 10):
            if self.keys.log + ballot.id not in noted:
                await self._note_result(ballot)

    async def _note_result(self, ballot: Ballot) -> None:
        """Write down how the vote ended, once: the key of the entry is the ballot's."""
        assert ballot.result is not None  # noqa: S101 - the caller's condition
        candidate_id, _, version = ballot.id.rpartition(".v")
        details: dict[str, Any] = {
            "outcome": ballot.result.outcome.value,
            "version": int(version),
            "ballot": ballot.id,
        }
        if ballot.result.superseded is not None:
            details["superseded_by"] = ballot.result.superseded.actual_version
        kind = BoardAction.ACCEPTED if _is_accepted(ballot) else BoardAction.REJECTED
        what = {"kind": kind.value, "agent": ballot.proposer, "hypothesis": candidate_id, "details": details}
        try:
            await self.space.memory.create(f"{self.keys.log}{ballot.id}", what, owner=ballot.proposer)
        except ConflictError:
            return  # somebody else has

    async def solution(self) -> Hypothesis | None:
        """Return the hypothesis that was accepted, the latest if there are several, or None."""
        accepted = [one for one in await self.hypotheses() if one.state is HypothesisState.ACCEPTED]
        return accepted[-1] if accepted else None

    async def ballots(self) -> list[Ballot]:
        """Return the ballots on solutions, open and closed, in the order of their opening.

        One that has passed has accepted nothing where its candidate had moved on: see `superseded` of its result.
        """
        return await self._ballots.proposals()

    # --- work for volunteers ---

    async def request_work(self, agent: str, task: object) -> WorkRequest:
        """Ask for work to be done by whoever takes it, and return the request. It stays until somebody has done it.

        Work that several have failed at is put aside: it is a dead letter of the mailbox `keys.work`, where
        `broker.redeliver` offers it again. Each failure is in `history`.
        """
        await self._open_work()
        request = WorkRequest(id=new_id(), board=self.name, requester=check_name(agent), task=task)
        message = Message(
            id=request.id,
            sender=agent,
            receiver=self.keys.work,
            content=request,
            delivery_mode=DeliveryMode.EXACTLY_ONCE,
        )
        async with self.space.transaction() as transaction:
            transaction.send(message)
            self.draft(transaction, agent).note(BoardAction.REQUESTED, None, request=request.id)
        return request

    @asynccontextmanager
    async def take(
        self, agent: str, *, timeout: float | None = 0.0, lease: float = DEFAULT_LEASE
    ) -> AsyncGenerator[Work | None, None]:
        """Take the oldest request for work under a lease; wait up to `timeout` seconds for one, None if there is none.

        See Work for what holds when the block is left.
        """
        check_name(agent)
        await self._open_work()
        delivery = await self.space.broker.receive(self.keys.work, timeout=timeout, lease=lease)
        if delivery is None:
            yield None
            return
        async with delivery:
            transaction = delivery.transaction()
            request: WorkRequest = convert(delivery.message.content, WorkRequest)
            work = Work(request, self.draft(transaction, agent), delivery.attempt)
            try:
                yield work
            except Exception as error:
                await self._note_failure(work, agent, error)
                raise
            work.draft.note(BoardAction.DONE, None, request=request.id)
            await transaction.commit()

    async def _note_failure(self, work: Work, agent: str, error: Exception) -> None:
        what = {"request": work.request.id, "attempt": work.attempt, "error": text_of(error)}
        try:
            async with self.space.transaction() as transaction:
                self.draft(transaction, agent).note(BoardAction.FAILED, None, **what)
        except TertuliaError as worse:
            logger.warning("that work %s failed could not be written down: %s", work.request.id, worse)

    async def _open_work(self) -> None:
        names = {info.agent_id for info in await self.space.broker.agents()}
        if self.keys.work not in names:
            await self.space.broker.register_agent(self.keys.work, max_queue_size=MAX_WORK)


def _linked(everything: Sequence[Hypothesis], link: str) -> dict[str, list[Hypothesis]]:
    """Return the hypotheses that link to each."""
    found: dict[str, list[Hypothesis]] = {}
    for one in everything:
        for other in getattr(one, link):
            found.setdefault(other, []).append(one)
    return found


def _candidate(one: Hypothesis, supporting: Sequence[Hypothesis], against: Sequence[Hypothesis]) -> SolutionCandidate:
    """Weigh a hypothesis against the live ones that are linked to it."""
    reasons = [f"{one.author} holds it with confidence {one.confidence:g}"]
    reasons += [f"{other.author} supports it with confidence {other.confidence:g}" for other in supporting]
    reasons += [f"{other.author} contradicts it with confidence {other.confidence:g}" for other in against]
    how_sure = score(
        one.confidence, (other.confidence for other in supporting), (other.confidence for other in against)
    )
    return SolutionCandidate(hypothesis=one, score=how_sure, reasons=tuple(reasons))


def _is_accepted(ballot: Ballot) -> bool:
    result = ballot.result
    return result is not None and result.outcome is Outcome.PASSED and result.applied
