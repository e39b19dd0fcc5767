"""The file engine keeps every promise that it does not declare itself unable to keep."""

from pathlib import Path

import pytest

from tertulia.testing import conformance

CASES = conformance.cases()


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_the_engine_keeps_the_promise(case: conformance.Case, tmp_path: Path):
    outcome = await conformance.run_case(case, conformance.SpaceHarness(f"file:{tmp_path}/space.db"))
    if outcome.skipped:
        pytest.skip(outcome.reason)
    outcome.raise_failure()
