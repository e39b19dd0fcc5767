"""What a case is given: a fresh space, handles on it, and time."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol, Self

from tertulia._clock import SYSTEM_CLOCK, Clock
from tertulia.engines.base import Capabilities, Engine
from tertulia.space import Space, connect
from tertulia.testing.clock import ManualClock

REAL_PAUSE = 0.05  # seconds that count as "a moment" on an engine whose time cannot be turned by hand


class Harness(Protocol):
    """One space for one case: entered with `async with`, used, and left, which closes every handle.

    The space must be empty when it is entered. Most engines need no more than a `SpaceHarness`.
    """

    @property
    def url(self) -> str:
        """The space's URL, which another process can connect to if the engine can do that."""
        ...

    @property
    def engine(self) -> Engine:
        """The raw engine of the first handle."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What the engine declares."""
        ...

    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *details: object) -> None: ...

    async def open(self) -> Space:
        """Return the first handle on the space, the one whose engine is `engine`."""
        ...

    async def open_again(self) -> Space:
        """Return one more handle on the same space."""
        ...

    async def advance(self, seconds: float) -> None:
        """Let time pass: by the manual clock where the engine declares `manual_clock`, else by waiting.

        `advance(0)` lets what can happen without time happen.
        """
        ...

    def jump(self, seconds: float) -> None:
        """Move civil time only. Called on engines that declare `manual_clock`."""
        ...


class SpaceHarness:
    """The harness of an engine that is opened by a URL: `SpaceHarness("file:space.db", durability="power")`.

    `settle`: seconds of real time to wait after each `advance`, for an engine that works in threads or other
    processes even when its clock is turned by hand. Other options go to `connect`.
    """

    def __init__(self, url: str, *, settle: float = 0.0, **options: Any) -> None:
        self._url = url
        self._settle = settle
        self._options = options
        self._manual = ManualClock(start=float(int(time.time())))  # other processes go by the machine's civil time
        self._clock: Clock = self._manual
        self._handles: list[Space] = []

    @property
    def url(self) -> str:
        """The space's URL."""
        return self._url

    @property
    def engine(self) -> Engine:
        """The raw engine of the first handle."""
        return self._handles[0].engine

    @property
    def capabilities(self) -> Capabilities:
        """What the engine declares."""
        return self.engine.capabilities

    async def __aenter__(self) -> Self:
        await self.open_again()
        if not self.capabilities.manual_clock:
            self._clock = SYSTEM_CLOCK
            await self._handles.pop().aclose()
            await self.open_again()
        return self

    async def __aexit__(self, *details: object) -> None:
        while self._handles:
            await self._handles.pop().aclose()

    async def open(self) -> Space:
        """Return the first handle."""
        return self._handles[0]

    async def open_again(self) -> Space:
        """Return one more handle on the same space."""
        space = await connect(self._url, clock=self._clock, **self._options)
        self._handles.append(space)
        return space

    async def advance(self, seconds: float) -> None:
        """Let time pass, by the manual clock if the engine goes by it."""
        if self._clock is self._manual:
            await self._manual.advance(seconds)
            if self._settle:
                await asyncio.sleep(self._settle)
        else:
            await asyncio.sleep(max(seconds, REAL_PAUSE))

    def jump(self, seconds: float) -> None:
        """Move civil time only. Raises RuntimeError on an engine with a clock of its own."""
        if self._clock is not self._manual:
            raise RuntimeError("this engine's clock cannot be turned by hand")
        self._manual.jump(seconds)
