"""Many ballots with voters that crash, vote twice, or come late: each is decided once, and the same for everybody."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tertulia import Ballot, BallotResult, CollaborativeWorkspace, Outcome, Space, connect
from tertulia._rules.voting import decide
from tertulia.errors import BallotClosedError, EngineError
from tertulia.testing.conformance import SpaceHarness
from tests.figures import Figures
from tests.patterns.handles import Crashable, another_process
from tests.profile import times

TEAM = ["ann", "bob", "cid", "dan", "eve"]
BATCH = 100  # ballots that are open at a time
LEASE = 30.0
CHOICES = ("yes", "yes", "no", "abstain")
RULES: list[dict[str, Any]] = [
    {},
    {"denominator": "cast", "quorum": 2},
    {"denominator": "cast", "tie_break": "lot"},
    {"rule": "supermajority"},
    {"rule": "unanimous", "denominator": "cast"},
    {"rule": "plurality"},
    {"rule": "weighted", "weights": {"ann": 3, "bob": 0.5}},
]


@dataclass
class Case:
    """One ballot, and what its voters were told."""

    ballot: Ballot
    key: str
    attempts: defaultdict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    crashes: int = 0
    late: list[str] = field(default_factory=list)


class Run:
    """The handles of one run, and the chance that decides who does what."""

    def __init__(self, handles: list[Space], unlucky: Crashable, seed: int, deadline: float) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self.unlucky = unlucky
        self.deadline = deadline
        self.workspaces = [workspace_of(space) for space in handles]
        self.their_workspace = workspace_of(unlucky.space)

    async def open(self, number: int) -> Case:
        """Open a ballot in some handle."""
        key = f"key-{number}"
        proposer = self.chance.choice(TEAM)
        terms = self.chance.choice(RULES)
        workspace = self.chance.choice(self.workspaces)
        return Case(await workspace.propose_change(proposer, key, number, deadline=self.deadline, **terms), key)

    async def vote_all(self, case: Case) -> None:
        """Let the voters vote beside each other, twice, crash, or be silent."""
        plans = {voter: self.chance.choice(["once", "once", "twice", "silent", "late"]) for voter in TEAM}
        if self.chance.random() < 0.3:
            plans[self.chance.choice(TEAM)] = "crash"
        voters = [self.vote(case, voter, plan) for voter, plan in plans.items()]
        self.chance.shuffle(voters)
        await asyncio.gather(*voters)
        self.unlucky.recover()

    async def vote(self, case: Case, voter: str, plan: str) -> None:
        for _ in range({"once": 1, "twice": 2, "crash": 1}.get(plan, 0)):
            await asyncio.sleep(0)
            if plan == "crash":
                case.crashes += 1
                self.unlucky.crash_after_commits(self.chance.choice([1, 1, 2]))
            await self.attempt(case, voter, self.their_workspace if plan == "crash" else None)
        if plan == "late":
            case.late.append(voter)

    async def attempt(self, case: Case, voter: str, workspace: CollaborativeWorkspace | None = None) -> None:
        choice = self.chance.choice(CHOICES)
        workspace = workspace or self.chance.choice(self.workspaces)
        try:
            await workspace.vote(voter, case.ballot.id, choice)
        except BallotClosedError:
            case.attempts[voter].append((choice, "refused"))
        except EngineError:
            case.attempts[voter].append((choice, "unknown"))
        else:
            case.attempts[voter].append((choice, "counted"))


async def checked(case: Case, workspaces: Sequence[CollaborativeWorkspace], reader: str) -> BallotResult:
    """Look at a ballot whose deadline has passed, through every handle at once, and hold it against what was told."""
    results = await asyncio.gather(*(workspace.result(case.ballot.id) for workspace in workspaces))
    result = results[0]
    assert result is not None
    assert all(one == result for one in results)
    votes = {vote.voter: vote for vote in result.votes}
    again = decide(case.ballot.terms, votes)
    assert (again.outcome, again.winner, again.tally) == (result.outcome, result.winner, result.tally)
    for voter in TEAM:
        recorded = votes[voter].choice if voter in votes else None
        assert recorded in possible(case.attempts[voter]), (voter, case.attempts[voter], recorded)
    entry = await workspaces[0].get_shared_entry(case.key, getter=reader)
    passed = result.outcome is Outcome.PASSED
    assert result.applied == passed
    assert (None if entry is None else entry.version) == (1 if passed else None)
    return result


def possible(attempts: list[tuple[str, str]]) -> set[str | None]:
    """What may be recorded after these attempts: the last that was counted, or one since then that may have been."""
    found: set[str | None] = {None}
    for choice, status in attempts:
        if status == "counted":
            found = {choice}
        elif status == "unknown":
            found.add(choice)
    return found


def workspace_of(space: Space) -> CollaborativeWorkspace:
    return CollaborativeWorkspace("parliament", space, presence_lease=LEASE)


@pytest.mark.campaign
async def test_ballots_with_crashing_double_and_late_voters_give_one_decision_each(
    harness: SpaceHarness, space: Space, figures: Figures
) -> None:
    by_network = harness.capabilities.multi_machine  # where each step takes a hundred times as long
    ballots = times(500, 500 if by_network else 10_000)
    deadline = 60.0 if harness.capabilities.manual_clock else 5.0
    await space.broker.register_agent("witness", max_queue_size=10 * BATCH)
    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(another_process(harness, seed)) for seed in range(4)]
        *others, unlucky = processes
        run = Run([space, *(process.space for process in others)], unlucky, seed=7, deadline=deadline)
        for agent in TEAM:
            await run.workspaces[0].join(agent)
        await space.broker.subscribe("witness", run.workspaces[0].topic)
        outcomes: Counter[str] = Counter()
        crashes = late = early = 0
        for start in range(0, ballots, BATCH):
            cases = [await run.open(number) for number in range(start, min(start + BATCH, ballots))]
            for case in cases:
                await run.vote_all(case)
            await harness.advance(deadline + 0.1)
            for case in cases:
                for voter in case.late:
                    with pytest.raises(BallotClosedError):
                        await run.chance.choice(run.workspaces).vote(voter, case.ballot.id, "no")
                result = await checked(case, run.workspaces, "ann")
                outcomes[result.outcome.value] += 1
                early += result.early
                crashes += case.crashes
                late += len(case.late)
            told = await announced(space, len(cases))
            assert told == Counter(case.ballot.id for case in cases)
            figures.progress(f"{sum(outcomes.values()):,} ballots")
    figures(ballots=ballots, crashed_voters=crashes, late_voters=late, decided_early=early, **outcomes)
    assert min(outcomes["passed"], outcomes["failed"], crashes, late, early) > 0


async def announced(space: Space, most: int) -> Counter[str]:
    """The ballots whose results have come to the witness, acknowledged."""
    told: Counter[str] = Counter()
    for _ in range(2 * most):
        delivery = await space.broker.receive("witness", timeout=0)
        if delivery is None:
            break
        await delivery.acknowledge()
        told[delivery.message.content["ballot"]] += 1
    return told


# --- With processes that are killed ------------------------------------------------------------------

ROOT = Path(__file__).parents[2]
PATIENCE = 40.0  # seconds for a process to start or end; only a hang meets it


class Voter:
    """A voter in a process of its own, which is killed and started again."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self._url = url
        self._lives = 0
        self._process: Process | None = None

    @property
    def runs(self) -> bool:
        return self._process is not None

    async def start(self) -> None:
        self._lives += 1
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
        command = (sys.executable, "-m", "tests.patterns.voters", self._url, self.name, f"{self.name} {self._lives}")
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, cwd=ROOT, env=environment)
        self._process = process
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert await process.stdout.readline() == b"joined - -\n"

    async def kill(self, cases: dict[str, Case]) -> None:
        """Kill it, and write down what it had been told by then."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        async with asyncio.timeout(PATIENCE):
            output, _ = await process.communicate()
        trying = None
        for status, ballot_id, choice in (line.split() for line in output.decode().split("\n")[:-1]):
            if status == "trying":
                trying = (ballot_id, choice)
            else:
                cases[ballot_id].attempts[self.name].append((choice, status))
                trying = None
        if trying is not None:
            cases[trying[0]].attempts[self.name].append((trying[1], "unknown"))


@pytest.mark.campaign
async def test_ballots_whose_voters_are_killed_at_any_moment_give_one_decision_each(
    tmp_path: Path, figures: Figures
) -> None:
    url = f"file:{tmp_path}/space.db"
    rounds, size, kills = times(2, 200), 40, 0
    chance = random.Random(11)  # noqa: S311 - for a test
    voters = [Voter(url, name) for name in TEAM]
    cases: dict[str, Case] = {}
    async with connect(url) as first, connect(url) as second:
        workspaces = [workspace_of(first), workspace_of(second)]
        await workspaces[0].join("chair")
        try:
            for round_ in range(rounds):
                await asyncio.gather(*(voter.start() for voter in voters if not voter.runs))
                opened: list[Case] = []
                for number in range(size):
                    key = f"key-{round_}-{number}"
                    terms = {"electorate": TEAM, **chance.choice(RULES)}
                    ballot = await workspaces[0].propose_change("chair", key, number, deadline=1.5, **terms)
                    cases[ballot.id] = Case(ballot, key)
                    opened.append(cases[ballot.id])
                for victim in chance.sample(voters, 3):
                    await asyncio.sleep(chance.random() * 0.05)
                    await victim.kill(cases)
                    kills += 1
                await asyncio.gather(*(chance.choice(workspaces).wait(case.ballot.id) for case in opened))
        finally:
            for voter in voters:
                await voter.kill(cases)
        outcomes: Counter[str] = Counter()
        for case in cases.values():
            outcomes[(await checked(case, workspaces, "chair")).outcome.value] += 1
    tried: Counter[str] = Counter()
    for case in cases.values():
        tried.update(f"votes_{status}" for attempts in case.attempts.values() for _, status in attempts)
    figures(ballots=len(cases), kills=kills, **tried, **outcomes)
    assert sum(outcomes.values()) == rounds * size
    assert tried["votes_counted"] > len(cases)
