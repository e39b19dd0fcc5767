"""The conformance kit: every promise of the engine contract and of the API above it, as cases that any engine can run.

An engine's own test file is this much, with pytest (which the kit itself never imports):

    HARNESS = lambda path: conformance.SpaceHarness(f"file:{path}/space.db")

    @pytest.mark.parametrize("case", conformance.cases(), ids=str)
    async def test_the_engine_keeps_the_promise(case, tmp_path):
        outcome = await conformance.run_case(case, HARNESS(tmp_path))
        if outcome.skipped:
            pytest.skip(outcome.reason)
        outcome.raise_failure()

Without pytest: `report = await conformance.run_all(make_harness)`, then `print(report)`; `report.ok` says it all.

A case is skipped only when the engine's declared `capabilities` say that it cannot keep that promise. Skips are
reported with their reason, and a case can be neither replaced nor left out.
"""

from tertulia.testing.conformance import (
    agent_life,
    agents,
    bad_input,
    bounds,
    broker,
    commits,
    dead_letters,
    deliveries,
    emitting,
    full_mailboxes,
    lifecycle,
    mailboxes,
    memory,
    messages,
    ordering,
    records,
    regions,
    requests,
    stamps,
    streams,
    subscriptions,
    topics,
    transactions,
    waiting,
    watching,
)
from tertulia.testing.conformance._expect import PromiseBrokenError
from tertulia.testing.conformance._registry import Case, Requirement, cases
from tertulia.testing.conformance.harness import Harness, SpaceHarness
from tertulia.testing.conformance.runner import Outcome, Report, run_all, run_case

__all__ = [
    "Case",
    "Harness",
    "Outcome",
    "PromiseBrokenError",
    "Report",
    "Requirement",
    "SpaceHarness",
    "agent_life",
    "agents",
    "bad_input",
    "bounds",
    "broker",
    "cases",
    "commits",
    "dead_letters",
    "deliveries",
    "emitting",
    "full_mailboxes",
    "lifecycle",
    "mailboxes",
    "memory",
    "messages",
    "ordering",
    "records",
    "regions",
    "requests",
    "run_all",
    "run_case",
    "stamps",
    "streams",
    "subscriptions",
    "topics",
    "transactions",
    "waiting",
    "watching",
]
