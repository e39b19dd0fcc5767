"""What the behaviour tests share: a clock that stands still, and a space that asks it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tertulia import Space, connect
from tertulia.testing.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def space(clock: ManualClock) -> AsyncIterator[Space]:
    async with connect("memory:", clock=clock) as opened:
        yield opened
