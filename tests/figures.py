"""What the long tests tried and measured: each says so through the fixture `figures`, and the run ends with a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.profile import campaign

Told = dict[str, dict[str, object]]
_TOLD = pytest.StashKey[Told]()


class Figures:
    """What one test tried and measured: `figures(kills=200, slowest="0.04 s")`; counts are added up over all tests."""

    def __init__(self, config: pytest.Config, test: str) -> None:
        self._config = config
        self._values = told(config).setdefault(test, {})

    def __call__(self, **values: object) -> None:
        self._values.update(values)

    def progress(self, text: str) -> None:
        """Say how far a campaign has come, at once."""
        capture: Any = self._config.pluginmanager.getplugin("capturemanager")
        if campaign() and capture is not None:
            with capture.global_and_fixture_disabled():
                print(f"    {text}", flush=True)  # noqa: T201 - for whoever waits


def told(config: pytest.Config) -> Told:
    """Return what the tests of this run have said so far."""
    return config.stash.setdefault(_TOLD, {})


def show(values: Told, line: Callable[[str], None]) -> None:
    """Write the table, and the sums of all counts."""
    sums: Counter[str] = Counter()
    file = ""
    for test, said in values.items():
        here, _, name = test.partition("::")
        if here != file:
            file = here
            line(file)
        line(f"  {name.removeprefix('test_').replace('_', ' ')}: {_shown(said)}")
        sums.update({what: value for what, value in said.items() if isinstance(value, int)})
    line(f"in all: {_shown(dict(sums))}")


def _shown(values: dict[str, object]) -> str:
    return " · ".join(
        f"{what.replace('_', ' ')} {value:,}" if isinstance(value, int) else f"{what.replace('_', ' ')} {value}"
        for what, value in values.items()
    )
