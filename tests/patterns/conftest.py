"""What the tests of the patterns share: a fresh space on every engine, and time that they can let pass."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tertulia import Space
from tertulia.testing.conformance import SpaceHarness
from tests.engines import ENGINES

A_MOMENT = 0.02  # seconds of real time in which an engine's threads and rings do what is due


@pytest.fixture(params=list(ENGINES))
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a fresh space; a test that takes it runs on every engine."""
    return ENGINES[request.param](tmp_path)


@pytest.fixture
async def harness(url: str) -> AsyncIterator[SpaceHarness]:
    """Handles on one fresh space (`open`, `open_again`) and time (`advance`), by hand where the engine can."""
    async with SpaceHarness(url, settle=0.0 if url.startswith("memory:") else A_MOMENT) as opened:
        yield opened


@pytest.fixture
async def space(harness: SpaceHarness) -> Space:
    """The first handle of the harness."""
    return await harness.open()
