"""The NATS engine keeps every promise that it does not declare itself unable to keep, on one server and on three."""

import pytest

from tertulia.testing import conformance
from tests.nats.server import NatsHarness, fresh_space, shared_server

CASES = conformance.cases()


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_the_engine_keeps_the_promise(case: conformance.Case):
    harness = NatsHarness(f"{shared_server().url}/{fresh_space()}")
    outcome = await conformance.run_case(case, harness)
    if outcome.failed:
        print(*shared_server().complaints, sep="\n")  # noqa: T201 - shown with the failure
    if outcome.skipped:
        pytest.skip(outcome.reason)
    outcome.raise_failure()
