"""What tests of several folders share."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.figures import Figures, show, told
from tests.profile import campaign

TRACES_VARIABLE = "TERTULIA_TRACES"


def pytest_configure() -> None:
    """Let the processes that tests start be interruptible, also where a shell runs the tests in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def recorded_traces() -> Path:
    """The folder of recorded conversations of real agent teams, which is no part of the repository.

    $TERTULIA_TRACES says where it is; otherwise it is `shared/traces` beside the repository. A test that asks for it
    is skipped, and says so, where it is absent; what the test shows is shown on made-up input by another one too.
    """
    named = os.environ.get(TRACES_VARIABLE)
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "traces"
    if not folder.is_dir():
        pytest.skip(f"the recorded conversations are not at {folder}; ${TRACES_VARIABLE} can say where they are")
    return folder


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Takes what a long test tried and measured, for the table at the end."""
    return Figures(request.node)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let every report be one that can be sent to another process, whatever odd text a test made the library log."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    values = told(itertools.chain.from_iterable(terminalreporter.stats.values()))
    if values:
        terminalreporter.section("what was tried, in a campaign" if campaign() else "what was tried")
        show(values, terminalreporter.line)
