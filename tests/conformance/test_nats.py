"""The NATS engine keeps every promise that it does not declare itself unable to keep, on one server and on three."""

import inspect

import pytest

from tertulia.testing import conformance
from tests.nats.server import Cluster, NatsHarness, Server, fresh_space, shared_cluster, shared_server
from tests.profile import campaign

CASES = conformance.cases()


async def keeps(case: conformance.Case, servers: Server | Cluster, options: str = "") -> None:
    outcome = await conformance.run_case(case, NatsHarness(f"{servers.url}/{fresh_space()}{options}"))
    if outcome.failed:
        print(*servers.complaints, sep="\n")  # noqa: T201 - shown with the failure
    if outcome.skipped:
        pytest.skip(outcome.reason)
    outcome.raise_failure()


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_the_engine_keeps_the_promise(case: conformance.Case):
    await keeps(case, shared_server())


# --- the same on three replicas ---


def _depends_on_replicas(case: conformance.Case) -> bool:
    """Tell whether several handles meet in a case, or commits have parts: where three servers differ from one.

    A campaign tries all of them on three.
    """
    return campaign() or case.subject == "commits" or "open_again" in inspect.getsource(case.check)


@pytest.mark.campaign
@pytest.mark.parametrize("case", [case for case in CASES if _depends_on_replicas(case)], ids=str)
async def test_the_engine_keeps_the_promise_on_three_replicas(case: conformance.Case):
    await keeps(case, shared_cluster(), "?replicas=3")
