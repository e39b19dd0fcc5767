"""What the long tests tried and measured: each says so through the fixture `figures`, and the run ends with a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import pytest

from tests.profile import campaign

Told = dict[str, dict[str, object]]
PROPERTY = "figures"  # of a test's report, which also comes from another process of the run


class Figures:
    """What one test tried and measured, as in `figures(kills=200, slowest_open_in_s=0.04, file_system="ext4")`.

    Integers are counts, and are added up over all tests; of floats the largest of a test's cases is shown.
    """

    def __init__(self, node: pytest.Item) -> None:
        self._config = node.config
        self._values: dict[str, object] = {}
        node.user_properties.append((PROPERTY, self._values))

    def __call__(self, **values: object) -> None:
        self._values.update(values)

    def progress(self, text: str) -> None:
        """Say how far a campaign has come, at once."""
        capture: Any = self._config.pluginmanager.getplugin("capturemanager")
        if campaign() and capture is not None:
            with capture.global_and_fixture_disabled():
                print(f"    {text}", flush=True)  # noqa: T201 - for whoever waits


def told(reports: Iterable[object]) -> Told:
    """Return what tests have said, as their reports have it."""
    values: Told = {}
    for report in reports:
        if isinstance(report, pytest.TestReport) and report.when == "teardown":
            for name, said in report.user_properties:
                if name == PROPERTY and isinstance(said, dict) and said:
                    values.setdefault(report.nodeid, {}).update(cast("dict[str, object]", said))
    return values


def show(values: Told, line: Callable[[str], None]) -> None:
    """Write the table, with one line for all the cases of a test, and the sums of all counts."""
    by_test: dict[str, dict[str, object]] = {}
    in_all: dict[str, object] = {}
    for case, said in values.items():
        _add(by_test.setdefault(case.partition("[")[0], {}), said)
        _add(in_all, {what: value for what, value in said.items() if isinstance(value, int)})
    file = ""
    for test, said in sorted(by_test.items(), key=lambda item: item[0].partition("::")[0]):
        here, _, name = test.partition("::")
        if here != file:
            file = here
            line(file)
        line(f"  {name.removeprefix('test_').replace('_', ' ')}: {_shown(said)}")
    line(f"in all: {_shown(in_all)}")


def _add(sums: dict[str, object], said: dict[str, object]) -> None:
    for what, value in said.items():
        known = sums.get(what, value)
        if what in sums and isinstance(value, int) and isinstance(known, int):
            sums[what] = known + value
        elif isinstance(value, float) and isinstance(known, float):
            sums[what] = max(known, value)
        else:
            sums[what] = value


def _shown(values: dict[str, object]) -> str:
    return " · ".join(f"{what.replace('_', ' ')} {_text(value)}" for what, value in values.items())


def _text(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else str(value)
