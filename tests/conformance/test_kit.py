"""The kit itself: it finds what is broken, says what it skips and why, and needs no test runner."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Self, cast

import pytest
from msgspec.structs import replace

from tertulia.engines.base import (
    Capabilities,
    Change,
    ChangeStream,
    Check,
    CheckFailed,
    Claimed,
    Commit,
    Committed,
    Engine,
    Put,
    Record,
    Send,
    Sent,
)
from tertulia.engines.inprocess import CAPABILITIES
from tertulia.errors import MailboxFullError
from tertulia.space import Space, connect
from tertulia.testing import conformance
from tertulia.testing.conformance._registry import DURABLE, MANUAL_CLOCK, Registry

CASES = {case.id: case for case in conformance.cases()}


class Wrapper:
    """An engine that passes every call on, to be broken in one place."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)


class WrappedHarness(conformance.SpaceHarness):
    """The in-process engine with something around it."""

    def __init__(self, wrap: Callable[[Engine], object]) -> None:
        super().__init__("memory:kit")
        self._wrap = wrap

    async def open_again(self) -> Space:
        opened = await connect(self.url, clock=self._clock)
        space = Space(self.url, cast("Engine", self._wrap(opened.engine)), self._clock)
        self._handles.append(space)
        return space


def harness(wrap: Callable[[Engine], object]) -> conformance.Harness:
    return WrappedHarness(wrap)


# --- what is broken is found ---


class RaisesAnything(Wrapper):
    async def get(self, key: str) -> Record | None:
        raise KeyError(f"the engine's own error on {key}")


class NeverReturns(Wrapper):
    async def get(self, _: str) -> Record | None:
        await asyncio.Event().wait()


class RaisesCancelled(Wrapper):
    async def get(self, _: str) -> Record | None:
        raise asyncio.CancelledError


class CannotClose(Wrapper):
    async def aclose(self) -> None:
        await self.engine.aclose()
        raise OSError("the file is gone")


class LeavesTasks(Wrapper):
    async def get(self, key: str) -> Record | None:
        self.left = asyncio.create_task(asyncio.sleep(3600), name="the forgotten one")
        return await self.engine.get(key)


class ForgetsChecks(Wrapper):
    async def commit(self, commit: Commit) -> Committed:
        return await self.engine.commit(replace(commit, checks=()))


class ChecksVersionsForRevisions(Wrapper):
    async def commit(self, commit: Commit) -> Committed:
        checks: list[Check] = []
        for check in commit.checks:
            record = await self.engine.get(check.key)
            known = record is not None and check.revision is not None and check.revision <= record.revision
            checks.append(replace(check, revision=record.revision) if known and record else check)
        return await self.engine.commit(replace(commit, checks=tuple(checks)))


class AppliesHalfACommit(Wrapper):
    async def commit(self, commit: Commit) -> Committed:
        try:
            return await self.engine.commit(commit)
        except (CheckFailed, MailboxFullError):
            await self.engine.commit(Commit(puts=commit.puts))
            raise


class CountsNoRevision(Wrapper):
    async def commit(self, commit: Commit) -> Committed:
        return replace(await self.engine.commit(commit), revision=1)


class ForgetsKeptTtl(Wrapper):
    async def commit(self, commit: Commit) -> Committed:
        puts = tuple(replace(put, ttl=None) if not isinstance(put.ttl, float) else put for put in commit.puts)
        return await self.engine.commit(replace(commit, puts=puts))


class SharesNoPutWithCommit(Wrapper):
    async def put(self, put: Put) -> Record:
        return await self.engine.put(replace(put, tags=()))


class ShowsTheWholePrefix(Wrapper):
    async def scan(self, prefix: str, **filters: Any) -> tuple[int, list[Record]]:
        return await self.engine.scan(prefix, **{**filters, "matches": None})


class SkipsAChange(Wrapper):
    async def watch(self, pattern: str, *, after: int | None = None) -> ChangeStream:
        return cast("ChangeStream", Skipping(await self.engine.watch(pattern, after=after)))


class Skipping(Wrapper):
    def __init__(self, stream: ChangeStream) -> None:
        self.engine = cast("Any", stream)
        self.seen = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        self.seen += 1
        if self.seen == 2:
            await self.engine.__anext__()
        return await self.engine.__anext__()


class StartsWatchesLate(Wrapper):
    async def watch(self, pattern: str, *, after: int | None = None) -> ChangeStream:
        revision = (await self.engine.stats()).revision if after is None else after + 1
        return await self.engine.watch(pattern, after=revision)


class HandsOutTwice(Wrapper):
    async def claim(self, mailbox: str, **options: Any) -> list[Claimed]:
        claimed = await self.engine.claim(mailbox, **options)
        for one in claimed:
            await self.engine.release(one)
        return claimed


class CountsEveryRelease(Wrapper):
    async def release(self, claimed: Claimed, **options: Any) -> bool:
        return await self.engine.release(claimed, **{**options, "counted": True})


class ForgetsDedup(Wrapper):
    async def commit(self, commit: Commit) -> Committed:
        sends = tuple(replace(send, dedupe=False) for send in commit.sends)
        return await self.engine.commit(replace(commit, sends=sends))


class AcknowledgesTwice(Wrapper):
    async def commit(self, commit: Commit) -> Committed:
        held = {item.message_id for settle in commit.settles for item in await self.engine.browse(settle.mailbox)}
        settles = tuple(settle for settle in commit.settles if settle.message_id in held)
        return await self.engine.commit(replace(commit, settles=settles))


class DropsSilently(Wrapper):
    async def commit(self, commit: Commit) -> Committed:
        done = await self.engine.commit(commit)
        return replace(done, sent=tuple(replace(sent, dropped=()) for sent in done.sent))


class DeliversAtOnce(Wrapper):
    async def commit(self, commit: Commit) -> Committed:
        sends = tuple(replace(send, delay=0.0) for send in commit.sends)
        return await self.engine.commit(replace(commit, sends=sends))


class ForgetsStamps(Wrapper):
    async def commit(self, commit: Commit) -> Committed:
        sends = tuple(replace(send, stamp=None) for send in commit.sends)
        return await self.engine.commit(replace(commit, sends=sends))


class StoresWhatIsEmitted(Wrapper):
    async def emit(self, send: Send) -> int:
        sent: Sent = await self.engine.send(send)
        return sent.delivered


BUGS: list[tuple[type[Wrapper], str]] = [
    (RaisesAnything, "records-absent_key_reads_as_none"),
    (NeverReturns, "records-absent_key_reads_as_none"),
    (RaisesCancelled, "records-absent_key_reads_as_none"),
    (CannotClose, "records-absent_key_reads_as_none"),
    (LeavesTasks, "records-absent_key_reads_as_none"),
    (ForgetsChecks, "commits-absent_check"),
    (ChecksVersionsForRevisions, "commits-revision_is_safe_where_a_version_repeats"),
    (AppliesHalfACommit, "commits-full_mailbox_leaves_everything"),
    (CountsNoRevision, "records-parts_of_a_commit_have_revisions_of_their_own"),
    (ForgetsKeptTtl, "records-kept_ttl_starts_anew"),
    (SharesNoPutWithCommit, "commits-short_put_is_a_commit_of_one_put"),
    (ShowsTheWholePrefix, "records-scan_filters"),
    (SkipsAChange, "watching-changes_come_in_revision_order"),
    (StartsWatchesLate, "watching-watch_resumes_after_a_revision"),
    (HandsOutTwice, "deliveries-competing_claims_never_share_a_message"),
    (CountsEveryRelease, "deliveries-released_message_comes_again_at_once"),
    (ForgetsDedup, "messages-deduplicated_id_is_remembered"),
    (AcknowledgesTwice, "deliveries-message_is_settled_once"),
    (DropsSilently, "bounds-oldest_waiting_message_is_dropped"),
    (DeliversAtOnce, "messages-delayed_message_comes_after_its_delay"),
    (ForgetsStamps, "stamps-stamp_names_what_became_of_a_put"),
    (StoresWhatIsEmitted, "emitting-emitted_message_comes_at_most_once"),
]


@pytest.mark.parametrize(("bug", "case_id"), BUGS, ids=lambda part: part.__name__ if isinstance(part, type) else "")
async def test_a_broken_engine_fails_the_case_that_is_about_it(bug: type[Wrapper], case_id: str):
    outcome = await conformance.run_case(CASES[case_id], harness(bug), limit=1.0)

    assert (outcome.failed, outcome.passed, outcome.skipped) == (True, False, False)
    with pytest.raises(type(cast("Exception", outcome.error))):
        outcome.raise_failure()


@pytest.mark.parametrize("case_id", sorted({case_id for _, case_id in BUGS}))
async def test_the_same_engine_unbroken_passes(case_id: str):
    outcome = await conformance.run_case(CASES[case_id], harness(Wrapper))

    assert outcome.passed, outcome.traceback


@pytest.mark.parametrize(
    ("bug", "words"),
    [
        (RaisesAnything, "the engine's own error on nothing"),
        (NeverReturns, "TimeoutError"),
        (RaisesCancelled, "a call was cancelled that nobody cancelled"),
        (CannotClose, "the file is gone"),
        (LeavesTasks, "the forgotten one"),
    ],
    ids=lambda part: part.__name__ if isinstance(part, type) else "",
)
async def test_a_failure_says_what_happened(bug: type[Wrapper], words: str):
    outcome = await conformance.run_case(CASES["records-absent_key_reads_as_none"], harness(bug), limit=0.2)

    assert words in outcome.traceback


async def test_nothing_of_a_failed_case_runs_on():
    before = asyncio.all_tasks()

    await conformance.run_case(CASES["records-absent_key_reads_as_none"], harness(LeavesTasks))

    assert asyncio.all_tasks() == before


async def test_cancelling_the_run_cancels_it():
    work = asyncio.create_task(conformance.run_case(CASES["records-absent_key_reads_as_none"], harness(NeverReturns)))
    await asyncio.sleep(0.01)
    work.cancel()

    with pytest.raises(asyncio.CancelledError):
        await work


async def test_a_report_counts_and_explains():
    chosen = [
        "records-absent_key_reads_as_none",
        "records-removed_key_is_gone",
        "lifecycle-records_outlive_their_handles",
    ]

    report = await conformance.run_all(lambda: harness(ForgetsNothingButGet), only=[CASES[name] for name in chosen])

    assert [outcome.case.id for outcome in (*report.passed, *report.failed, *report.skipped)] == chosen
    assert not report.ok
    first, *rest = str(report).splitlines()
    assert first == "1 passed, 1 failed, 1 skipped"
    assert f"skipped {chosen[2]}: the engine declares that it is not durable" in rest
    assert any(line.startswith(f"FAILED {chosen[1]}: A deleted key reads as absent") for line in rest)
    assert "PromiseBrokenError" in str(report)


class ForgetsNothingButGet(Wrapper):
    """Finds deleted keys."""

    async def get(self, key: str) -> Record | None:
        found = await self.engine.get(key)
        return Record(key, b"", "ghost", 1, 1, 1, 0.0, 0.0) if found is None and key == "k" else found


async def test_an_empty_report_is_not_ok():
    assert not (await conformance.run_all(lambda: harness(Wrapper), only=[])).ok


# --- what is skipped ---


def declaring(**changes: Any) -> Callable[[Engine], object]:
    """An engine that declares other capabilities."""

    def wrap(engine: Engine) -> object:
        wrapper = Wrapper(engine)
        wrapper.capabilities = replace(engine.capabilities, **changes)  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
        return wrapper

    return wrap


async def test_a_case_for_an_ability_that_is_missing_is_skipped_with_the_reason():
    ran: list[str] = []

    async def check(_: conformance.Harness) -> None:
        ran.append("ran")

    case = conformance.Case(subject="x", name="x", promise="", requires=(DURABLE, MANUAL_CLOCK), check=check)
    outcome = await conformance.run_case(case, harness(declaring(manual_clock=False)))

    assert (outcome.skipped, outcome.passed, outcome.failed, ran) == (True, False, False, [])
    assert outcome.reason == f"{DURABLE.lacking}; {MANUAL_CLOCK.lacking}"
    assert (await conformance.run_case(case, harness(declaring(durable=True)))).passed
    assert ran == ["ran"]


def test_each_requirement_asks_for_a_declared_ability():
    able = replace(CAPABILITIES, durable=True, multi_process=True)
    unable = Capabilities(
        durable=False,
        multi_process=False,
        multi_machine=False,
        linearizable_reads=False,
        exact_bounds=False,
        exact_access_counts=False,
        manual_clock=False,
        max_value_bytes=1,
        max_commit_operations=1,
        ttl_resolution=1.0,
        dedup_window=1e9,
        dedup_count=1,
        history=10**9,
    )
    needs = {need for case in CASES.values() for need in case.requires}

    assert all(need.holds(able) for need in needs)
    assert not any(need.holds(unable) for need in needs)
    assert len({need.lacking for need in needs}) == len(needs) == 8


def test_most_promises_are_asked_of_every_engine():
    assert sum(not case.requires for case in CASES.values()) >= 340


def test_a_case_cannot_be_overridden():
    fresh = Registry()

    async def check(_: conformance.Harness) -> None:
        raise NotImplementedError

    fresh.add(check, (), "one", "promise")
    with pytest.raises(ValueError, match="cannot be overridden"):
        fresh.add(check, (), "one", "weaker promise")

    assert [case.promise for case in fresh.all()] == ["promise"]


def test_every_case_says_what_it_promises():
    assert [case.id for case in CASES.values() if not case.promise.endswith(".")] == []
    assert len({case.promise for case in CASES.values()}) == len(CASES)


# --- other harnesses ---


class Anchored(WrappedHarness):
    """A space that one more handle keeps alive: as good as durable, as far as its other handles can tell."""

    async def __aenter__(self) -> Self:
        self._anchor = await connect(self.url, clock=self._clock)
        return await super().__aenter__()

    async def __aexit__(self, *details: object) -> None:
        await super().__aexit__(*details)
        await self._anchor.aclose()


DURABLE_CASES = [case for case in CASES.values() if DURABLE in case.requires]


@pytest.mark.parametrize("case", DURABLE_CASES, ids=str)
async def test_a_case_of_durability_passes_where_the_space_outlives_its_handles(case: conformance.Case):
    outcome = await conformance.run_case(case, Anchored(declaring(durable=True)))

    assert outcome.passed, outcome.traceback


@pytest.mark.parametrize("case", DURABLE_CASES, ids=str)
async def test_a_case_of_durability_fails_where_it_is_declared_in_vain(case: conformance.Case):
    outcome = await conformance.run_case(case, harness(declaring(durable=True)), limit=1.0)

    assert outcome.failed or case.name == "lifetimes_outlive_their_handles"  # nothing left is nothing alive


@pytest.mark.parametrize(
    "case_id",
    [
        "records-ttl_counts_from_the_last_write",
        "watching-expiry_is_announced_without_any_read",
        "deliveries-lease_that_runs_out_gives_the_message_back",
        "requests-request_without_reply_times_out",
    ],
)
async def test_where_the_clock_cannot_be_turned_time_is_waited_for(case_id: str):
    used = harness(declaring(manual_clock=False))
    started = asyncio.get_running_loop().time()

    outcome = await conformance.run_case(CASES[case_id], used)

    assert outcome.passed, outcome.traceback
    assert asyncio.get_running_loop().time() - started > 0.5
    with pytest.raises(RuntimeError, match="cannot be turned"):
        used.jump(1.0)


WITHOUT_PYTEST = """
import asyncio, sys
sys.modules["pytest"] = None  # importing it fails
from tertulia.testing import conformance

async def main() -> None:
    report = await conformance.run_all(lambda: conformance.SpaceHarness("memory:alone"))
    assert report.ok, str(report)
    print(len(report.passed), len(report.skipped))

asyncio.run(main())
"""


def test_the_kit_runs_where_there_is_no_pytest():
    done = subprocess.run(  # noqa: S603 - our own interpreter on our own text
        [sys.executable, "-O", "-c", WITHOUT_PYTEST], capture_output=True, text=True, timeout=100, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    passed, skipped = map(int, done.stdout.split())
    assert (passed + skipped, skipped) == (len(CASES), 10)
