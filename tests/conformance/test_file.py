"""The file engine keeps every promise that it does not declare itself unable to keep."""

import inspect
import os
from pathlib import Path

import pytest

from tertulia.engines import file
from tertulia.testing import conformance

CASES = conformance.cases()
CAMPAIGN = os.environ.get("TERTULIA_PROFILE", "short") == "campaign"


async def _check(case: conformance.Case, harness: conformance.Harness) -> None:
    outcome = await conformance.run_case(case, harness)
    if outcome.skipped:
        pytest.skip(outcome.reason)
    outcome.raise_failure()


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_the_engine_keeps_the_promise(case: conformance.Case, tmp_path: Path):
    await _check(case, conformance.SpaceHarness(f"file:{tmp_path}/space.db"))


# --- the same where every commit waits for the disk, in a thread ---


def _is_quick(case: conformance.Case) -> bool:
    """Tell whether a case makes no more than a few hundred commits; those few that make 10,000 are for the campaign."""
    return "bounded_history" not in {need.name for need in case.requires}


@pytest.mark.parametrize("case", [case for case in CASES if CAMPAIGN or _is_quick(case)], ids=str)
async def test_the_engine_keeps_the_promise_with_power_durability(case: conformance.Case, tmp_path: Path):
    await _check(case, conformance.SpaceHarness(f"file:{tmp_path}/space.db", durability="power"))


# --- the same with nothing shared between handles but the file, as between processes ---


def _has_two_handles(case: conformance.Case) -> bool:
    return "open_again" in inspect.getsource(case.check)


class ApartHarness(conformance.SpaceHarness):
    """Every handle has connections and a doorbell of its own."""

    async def open_again(self):
        file._SHARED.clear()  # noqa: SLF001 - to be what another process would be
        return await super().open_again()


@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("case", [case for case in CASES if _has_two_handles(case)], ids=str)
async def test_the_engine_keeps_the_promise_between_processes(case: conformance.Case, durability: str, tmp_path: Path):
    await _check(case, ApartHarness(f"file:{tmp_path}/space.db", durability=durability))
