"""The engines that the model tests run on: every test of this folder runs on each local engine of tests/engines.py.

Each test opens its spaces through `open_space`, several handles on one space where it needs them, and can put a
wrapper around the engine that is opened: how clients are made to interleave, and how faults are injected.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tertulia import Space, connect
from tertulia._clock import SYSTEM_CLOCK, Clock
from tertulia.engines.base import Engine
from tests import engines
from tests.profile import campaign, times

Wrap = Callable[[Engine], Engine]


@dataclass(frozen=True)
class EngineCase:
    """An engine under test: its name, and how the URL of a fresh space in a directory is made."""

    name: str
    fresh_url: Callable[[Path], str]


# These tests count the turns of the event loop, which say nothing about what a server does: tests/nats has its own.
LOCAL = tuple(name for name in engines.ENGINES if name != "nats")
ENGINES = tuple(EngineCase(name, engines.ENGINES[name]) for name in LOCAL)

on_every_engine = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
in_memory = pytest.mark.parametrize("engine", ENGINES[:1], ids=lambda engine: engine.name)


class Place:
    """A fresh space that any number of handles can be opened on; its directory goes when it is left."""

    def __init__(self, engine: EngineCase) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="tertulia-model-")
        self.url = engine.fresh_url(Path(self._directory.name))

    async def open(self, *, clock: Clock = SYSTEM_CLOCK, wrap: Wrap | None = None) -> Space:
        """Open one more handle, with the engine wrapped if asked for."""
        space = await connect(self.url, clock=clock)
        return space if wrap is None else Space(self.url, wrap(space.engine), clock)

    def remove(self) -> None:
        """Remove what the space left on the disk."""
        self._directory.cleanup()


@asynccontextmanager
async def open_space(
    engine: EngineCase, *, clock: Clock = SYSTEM_CLOCK, wrap: Wrap | None = None
) -> AsyncIterator[Space]:
    """Open a fresh space for the length of a block."""
    place = Place(engine)
    space = await place.open(clock=clock, wrap=wrap)
    try:
        yield space
    finally:
        await space.aclose()
        place.remove()


def machine_settings() -> settings:
    """Return how much a state machine is to try.

    The short run is the same every time, so that a failure is the change's and not the day's.
    """
    return settings(
        max_examples=times(300, 2_000),
        stateful_step_count=times(50, 100),
        derandomize=not campaign(),
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
