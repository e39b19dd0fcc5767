"""The in-process engine keeps every promise of the kit, except what only a disk or a second process can keep."""

import pytest

from tertulia.engines.inprocess import CAPABILITIES
from tertulia.testing import conformance

CASES = conformance.cases()


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_the_engine_keeps_the_promise(case: conformance.Case):
    outcome = await conformance.run_case(case, conformance.SpaceHarness("memory:conformance"))
    if outcome.skipped:
        pytest.skip(outcome.reason)
    outcome.raise_failure()


def test_only_declared_inabilities_are_skipped():
    lacking = {need.name for case in CASES for need in case.requires if not need.holds(CAPABILITIES)}

    assert lacking == {"durable", "multi_process"}
    assert sum(bool(case.unmet(CAPABILITIES)) for case in CASES) == 10


def test_the_kit_does_not_shrink():
    assert len(CASES) >= 390
