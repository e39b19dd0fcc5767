"""Voting: ballots that are kept in a space, decided by their terms, and closed exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Unpack
from weakref import WeakValueDictionary

from msgspec.structs import replace

from tertulia._arguments import check_count, check_seconds
from tertulia._names import check_name, literal
from tertulia._rules.ballot_terms import fitting_choice, pin_terms
from tertulia._rules.voting import decide, decide_early, ended
from tertulia.ballots import (
    NO,
    YES,
    Ballot,
    BallotResult,
    BallotState,
    Candidate,
    Decision,
    Denominator,
    TermOptions,
    Vote,
)
from tertulia.engines.base import Check, CheckFailed, Commit, Record
from tertulia.errors import (
    AlreadyVotedError,
    BallotClosedError,
    BallotExistsError,
    InvalidTermError,
    NotAnElectorError,
    TertuliaError,
    TooManyBallotsError,
    UnknownBallotError,
    VersionConflictError,
)
from tertulia.memory import full_key
from tertulia.patterns._ballot_closing import BallotClosing
from tertulia.patterns._ballot_input import checked_candidates, checked_id, checked_state, checked_text
from tertulia.patterns._ballot_records import (
    BallotKeys,
    Option,
    Paper,
    box_of,
    check_growth,
    paper_of,
    pinned,
    result_of,
    seen,
    unmoved,
)
from tertulia.patterns._races import MAX_RACES, lost
from tertulia.patterns._waiting import Deadlines, change_or_pause
from tertulia.records import new_id
from tertulia.space import Space

MAX_OPEN = 200  # ballots open in one place at once; more than anybody follows, and all are looked at now and then
MAX_HISTORY = 10_000  # closed ballots that one call returns

Guard = Callable[[str | None], Awaitable[tuple[Check, ...]]]
Present = Callable[[], Awaitable[Collection[str]]]


Over = Callable[[], Awaitable[str | None]]


async def _nothing_to_guard(_: str | None) -> tuple[Check, ...]:
    return ()


async def _never() -> str | None:
    return None


class Ballots:
    """The ballots at one place of a space, which is named by a prefix of keys that nothing else uses.

    What is decided is decided once, for everybody: the outcome, its announcement and the change that it approves are
    one commit. A ballot closes with the vote after which nothing can change its result, else at its deadline, by
    whoever is there: the handle that opened it or has voted in it, one that waits for it, or the next that looks.

    `data` is the prefix of the keys that candidates name. `guard(agent)` returns the checks under which an agent (None:
    whoever closes a ballot) may act here, or raises. `present` returns who is there, for the denominator PRESENT.
    `over` returns why the place is closed, or None while it is open: ballots of a closed place end as EXPIRED when
    somebody looks. `topic` is where results are published, `about` what their messages say of the place.

    Raises, everywhere: UnknownBallotError; what the guard raises; EngineError when the engine fails. Cancellation: a
    cancelled read or wait did nothing, unless it was just closing a ballot that was due; a cancelled vote or opening
    either happened or did not.
    """

    def __init__(
        self,
        space: Space,
        prefix: str,
        *,
        data: str = "",
        guard: Guard = _nothing_to_guard,
        present: Present | None = None,
        over: Over = _never,
        topic: str | None = None,
        about: Mapping[str, str] | None = None,
    ) -> None:
        self._engine = space.engine
        self._clock = space.clock
        self._limit = space.engine.capabilities.max_value_bytes
        self._keys = BallotKeys(prefix)
        self._data = data
        self._guard = guard
        self._present = present
        self._over = over
        self._closing = BallotClosing(space, self._keys, data=data, topic=topic, about=about or {})
        self._deadlines = Deadlines(space.clock, space.background, self.get)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # --- opening ---

    async def open(
        self,
        proposer: str,
        question: str,
        options: Sequence[str | Candidate] = (YES, NO),
        *,
        reason: str = "",
        ballot_id: str | None = None,
        **terms: Unpack[TermOptions],
    ) -> Ballot:
        """Open a ballot on the options, pin its terms and its candidates' versions, and return it.

        With a `ballot_id` of one's own a repeated opening raises BallotExistsError. Raises InvalidTermError that names
        the term; InvalidInputError for texts above 2,000 bytes; VersionConflictError when a candidate's key is not at
        the version that it names; TooManyBallotsError.
        """
        check_name(proposer)
        ballot_id = new_id() if ballot_id is None else checked_id(ballot_id)
        question, reason = checked_text("question", question, empty=False), checked_text("reason", reason)
        candidates = checked_candidates(options)
        names = [candidate.name for candidate in candidates]
        for _ in range(MAX_RACES):
            now = self._clock.time()
            pins = pin_terms(names, now=now, lot=ballot_id, **terms)
            self._check_present(pins.denominator)
            guards = await self._guard(proposer)
            pinned_options = tuple([await self._pin(candidate, proposer) for candidate in candidates])
            paper = Paper(ballot_id, proposer, question, reason, now, pins, pinned_options)
            check_growth(paper, self._limit)
            if await self._engine.get(self._keys.paper(ballot_id)) is not None:
                raise BallotExistsError(ballot_id)  # also where there is room for no other
            await self._check_room(ballot_id)
            still = tuple(check for option in pinned_options for check in unmoved(option, self._data))
            absent = Check(self._keys.paper(ballot_id), absent=True)
            commit = Commit(checks=(*guards, absent, *dict.fromkeys(still)), puts=self._keys.opening(paper))
            try:
                await self._engine.commit(commit)
            except CheckFailed as failed:
                if failed.check == absent:
                    raise BallotExistsError(ballot_id) from None
                continue  # a candidate or the place has changed since it was looked at
            self._deadlines.add(ballot_id, pins.deadline)
            return seen(paper, {}, None)
        raise lost(f"ballot {ballot_id!r}")

    async def _pin(self, candidate: Candidate, proposer: str) -> Option:
        key = candidate.key
        record = None if key is None else await self._engine.get(full_key(self._data, key, proposer))
        version = 0 if record is None else record.version
        if candidate.version is not None and candidate.version != version:
            raise VersionConflictError(
                key or "",
                expected=f"version {candidate.version}",
                actual_version=None if record is None else record.version,
                actual_revision=None if record is None else record.revision,
            )
        return pinned(candidate, record, self._limit)

    def _check_present(self, denominator: Denominator | None) -> None:
        if denominator is Denominator.PRESENT and self._present is None:
            raise InvalidTermError("denominator", denominator.value, "nobody knows here who is present")

    async def _check_room(self, ballot_id: str) -> None:
        _, boxes = await self._engine.scan(self._keys.boxes, bodies=False)
        if len(boxes) >= MAX_OPEN:
            raise TooManyBallotsError(ballot_id, MAX_OPEN)

    # --- voting ---

    async def vote(self, voter: str, ballot_id: str, choice: object, *, reason: str = "") -> Ballot:
        """Cast a vote, or change it; return the ballot, closed if this vote has decided it.

        `choice` is an option; for APPROVAL several, for RANKED several in order, best first; for a question also True
        or False; "abstain", which is not silence: it takes part; or "veto", for those who may.

        Raises BallotClosedError, also when the deadline has passed; NotAnElectorError; UnknownChoiceError;
        AlreadyVotedError where votes cannot be changed. Nothing was changed then.
        """
        check_name(voter)
        reason = checked_text("reason", reason)
        async with self._turn(ballot_id):  # one at a time in this handle, so that its own votes do not race
            for _ in range(MAX_RACES):
                ballot = await self._vote(voter, ballot_id, choice, reason)
                if ballot is not None:
                    return ballot
        raise lost(f"ballot {ballot_id!r}")

    async def _vote(self, voter: str, ballot_id: str, choice: object, reason: str) -> Ballot | None:
        """Try once; return None when somebody else was faster."""
        paper, record = await self._load(ballot_id)
        now = self._clock.time()
        if record is None or paper.terms.deadline <= now:
            ballot = await self.get(ballot_id)
            if ballot.result is None:
                return None  # read anew, it is open after all: the clock was set back
            raise BallotClosedError(ballot_id, ballot.result.outcome)
        if voter not in paper.terms.weights:
            raise NotAnElectorError(voter, ballot_id)
        box = box_of(record)
        vote = Vote(voter=voter, choice=fitting_choice(paper.terms, ballot_id, voter, choice), reason=reason, cast=now)
        if voter in box.votes and not paper.terms.changeable:
            raise AlreadyVotedError(ballot_id, voter)
        guards = await self._guard(voter)
        votes = {**box.votes, voter: vote}
        decision = decide_early(paper.terms, votes, await self._there(paper))
        if decision is not None:
            return await self._close(paper, record, votes, decision, guards)
        unchanged = Check(record.key, revision=record.revision)
        put = self._keys.voting(paper, replace(box, votes=votes))
        try:
            await self._engine.commit(Commit(checks=(*guards, unchanged), puts=(put,)))
        except CheckFailed:
            return None
        self._deadlines.add(ballot_id, box.deadline)
        return seen(paper, votes, None)

    async def _there(self, paper: Paper) -> Collection[str]:
        if paper.terms.denominator is not Denominator.PRESENT or self._present is None:
            return ()
        return await self._present()

    # --- looking ---

    async def get(self, ballot_id: str) -> Ballot:
        """Return the ballot as it is now; close it first if its deadline has passed."""
        for _ in range(MAX_RACES):
            paper, record = await self._load(ballot_id)
            if record is None:
                result = await self._engine.get(self._keys.result(ballot_id))
                if result is None:  # it was removed meanwhile
                    raise UnknownBallotError(ballot_id)
                found = result_of(result)
                self._deadlines.drop(ballot_id)
                return seen(paper, {vote.voter: vote for vote in found.votes}, found)
            votes = box_of(record).votes
            why = await self._over()
            if why is not None:
                closed = await self._close(paper, record, votes, ended(paper.terms, votes, why), ())
            elif self._clock.time() < paper.terms.deadline:
                return seen(paper, votes, None)
            else:
                closed = await self._close_due(paper, record, votes)
            if closed is not None:
                return closed
        raise lost(f"ballot {ballot_id!r}")

    async def _close_due(self, paper: Paper, record: Record, votes: dict[str, Vote]) -> Ballot | None:
        try:
            guards = await self._guard(None)
        except TertuliaError:
            if await self._over() is None:
                raise
            return None  # the place was closed a moment ago
        decision = decide(paper.terms, votes, await self._there(paper))
        return await self._close(paper, record, votes, decision, guards)

    async def _close(
        self, paper: Paper, box: Record, votes: dict[str, Vote], decision: Decision, guards: tuple[Check, ...]
    ) -> Ballot | None:
        result = await self._closing.close(paper, box, votes, decision, guards)
        if result is None:
            return None
        self._deadlines.drop(paper.id)
        return seen(paper, votes, result)

    async def result(self, ballot_id: str) -> BallotResult | None:
        """Return the result, or None while votes are taken."""
        return (await self.get(ballot_id)).result

    async def wait(self, ballot_id: str, *, timeout: float | None = None) -> BallotResult | None:
        """Wait until the ballot is closed, at its deadline at the latest, and return the result.

        Returns None when it is still open after `timeout` seconds.
        """
        until = None if timeout is None else self._clock.monotonic() + check_seconds("timeout", timeout, zero=True)
        pattern = (
            f"{literal(self._keys.prefix)}[cp]*:{literal(ballot_id)}"  # its closed record comes, or its paper goes
        )
        stream = await self._engine.watch(pattern)
        try:
            while True:
                ballot = await self.get(ballot_id)
                left = ballot.terms.deadline - self._clock.time()
                if until is not None:
                    left = min(left, until - self._clock.monotonic())
                if ballot.result is not None or (left <= 0 and until is not None):
                    return ballot.result
                if not await change_or_pause(stream, self._clock, max(left, 0.0)):
                    await stream.aclose()
                    stream = await self._engine.watch(pattern)
        finally:
            await stream.aclose()

    async def proposals(self, *, state: BallotState | str | None = None) -> list[Ballot]:
        """Return the ballots, or those that are open or closed, in the order of their opening."""
        wanted = checked_state(state)
        await self.close_due()
        if wanted is BallotState.OPEN:
            _, boxes = await self._engine.scan(self._keys.boxes)
            ids = [box.key.removeprefix(self._keys.boxes) for box in boxes]
            papers = [record for one in ids if (record := await self._engine.get(self._keys.paper(one))) is not None]
        else:
            _, papers = await self._engine.scan(self._keys.papers)
            _, boxes = await self._engine.scan(self._keys.boxes)
        papers.sort(key=lambda record: record.created_revision)
        open_ = {box.key.removeprefix(self._keys.boxes): box_of(box) for box in boxes}
        closed = {} if wanted is BallotState.OPEN else {one.ballot_id: one for one in await self._results()}
        found: list[Ballot] = []
        for paper in map(paper_of, papers):
            if paper.id in closed:
                result = closed[paper.id]
                found.append(seen(paper, {vote.voter: vote for vote in result.votes}, result))
            elif paper.id in open_ and wanted is not BallotState.CLOSED:
                found.append(seen(paper, open_[paper.id].votes, None))
        return found

    async def history(self, *, limit: int = 100) -> list[Ballot]:
        """Return the ballots that were closed last, with results, votes and reasons; the latest comes last."""
        check_count("limit", limit, MAX_HISTORY)
        await self.close_due()
        latest = (await self._results())[-limit:]
        papers = [await self._engine.get(self._keys.paper(result.ballot_id)) for result in latest]
        return [
            seen(paper_of(paper), {vote.voter: vote for vote in result.votes}, result)
            for paper, result in zip(papers, latest, strict=True)
            if paper is not None
        ]

    async def _results(self) -> list[BallotResult]:
        _, records = await self._engine.scan(self._keys.results)
        records.sort(key=lambda record: record.created_revision)
        return [result_of(record) for record in records]

    async def close_due(self) -> None:
        """Close every ballot whose deadline has passed, or all if the place is closed.

        This handle will close the others at their deadlines.
        """
        _, boxes = await self._engine.scan(self._keys.boxes)
        over = bool(boxes) and await self._over() is not None
        now = self._clock.time()
        for record in boxes:
            ballot_id = record.key.removeprefix(self._keys.boxes)
            deadline = box_of(record).deadline
            if over or deadline <= now:
                await self.get(ballot_id)
            else:
                self._deadlines.add(ballot_id, deadline)

    # --- inside ---

    async def _load(self, ballot_id: str) -> tuple[Paper, Record | None]:
        """Return a ballot's paper, and its box, which is None once it is closed."""
        check_name(ballot_id)
        box = await self._engine.get(self._keys.box(ballot_id))
        paper = await self._engine.get(self._keys.paper(ballot_id))
        if paper is None:
            raise UnknownBallotError(ballot_id)
        return paper_of(paper), box

    def _turn(self, ballot_id: str) -> asyncio.Lock:
        lock = self._turns.get(check_name(ballot_id))
        if lock is None:
            lock = self._turns[ballot_id] = asyncio.Lock()
        return lock
