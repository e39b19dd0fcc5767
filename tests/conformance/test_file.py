"""The file engine keeps every promise that it does not declare itself unable to keep."""

import inspect
from pathlib import Path

import pytest

from tertulia.engines import file
from tertulia.testing import conformance

CASES = conformance.cases()
A_MOMENT = 0.02  # seconds of real time for a ring to be heard


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_the_engine_keeps_the_promise(case: conformance.Case, tmp_path: Path):
    outcome = await conformance.run_case(case, conformance.SpaceHarness(f"file:{tmp_path}/space.db"))
    if outcome.skipped:
        pytest.skip(outcome.reason)
    outcome.raise_failure()


# --- the same with nothing shared between handles but the file, as between processes ---


def _has_two_handles(case: conformance.Case) -> bool:
    return "open_again" in inspect.getsource(case.check)


class ApartHarness(conformance.SpaceHarness):
    """Every handle has connections and a doorbell of its own."""

    async def open_again(self):
        file._SHARED.clear()  # noqa: SLF001 - to be what another process would be
        return await super().open_again()


@pytest.mark.parametrize("case", [case for case in CASES if _has_two_handles(case)], ids=str)
async def test_the_engine_keeps_the_promise_between_processes(case: conformance.Case, tmp_path: Path):
    harness = ApartHarness(f"file:{tmp_path}/space.db", settle=A_MOMENT)
    outcome = await conformance.run_case(case, harness)
    if outcome.skipped:
        pytest.skip(outcome.reason)
    outcome.raise_failure()
