"""The in-process engine keeps every promise that it does not declare itself unable to keep."""

import pytest

from tertulia.testing import conformance

CASES = conformance.cases()


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_the_engine_keeps_the_promise(case: conformance.Case):
    outcome = await conformance.run_case(case, conformance.SpaceHarness("memory:conformance"))
    if outcome.skipped:
        pytest.skip(outcome.reason)
    outcome.raise_failure()
