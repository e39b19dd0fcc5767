"""The bell: one watch per handle of a space, which wakes those who wait when a key that they look at changes."""

from __future__ import annotations

import asyncio

from tertulia._background import Background, logger
from tertulia._clock import Clock, sleep
from tertulia._names import literal
from tertulia.engines.base import ChangeStream, Engine
from tertulia.errors import EngineError, SpaceClosedError, WatchLaggedError
from tertulia.patterns._kept import PREFIX

RETRY = 1.0  # seconds before a watch that broke is opened again; those who wait look by themselves meanwhile


class Ear:
    """What one who waits listens with. It rings for every change of a key since it `listens` to it, and at times."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._rung = asyncio.Event()
        self.keys: set[str] = set()

    def listens(self, key: str) -> None:
        """Ring when the key changes from now on. Listen first, then read: then nothing is missed."""
        self.keys.add(key)
        self._bell.by_key.setdefault(key, set()).add(self)

    def forget(self) -> None:
        """Listen to nothing, and forget that it rang."""
        for key in self.keys:
            ears = self._bell.by_key.get(key, set())
            ears.discard(self)
            if not ears:
                self._bell.by_key.pop(key, None)
        self.keys.clear()
        self._rung.clear()

    def ring(self) -> None:
        """Wake whoever waits."""
        self._rung.set()

    async def wait(self, delay: float) -> None:
        """Wait until it rings, at most `delay` seconds."""
        timer = self._bell.clock.call_later(max(delay, 0.0), self.ring)
        try:
            await self._rung.wait()
        finally:
            timer.cancel()


class Bell:
    """One handle's watch over leases and waits. It is opened for the first who waits, and ends after the last."""

    def __init__(self, engine: Engine, clock: Clock, background: Background) -> None:
        self._engine = engine
        self._background = background
        self._ears: set[Ear] = set()
        self._stream: ChangeStream | None = None
        self._opening = asyncio.Lock()
        self.clock = clock
        self.by_key: dict[str, set[Ear]] = {}

    def enter(self) -> Ear:
        """Return an ear, to be given back."""
        ear = Ear(self)
        self._ears.add(ear)
        return ear

    async def tune(self) -> None:
        """Make sure that every change from now on is heard."""
        if self._stream is not None:
            return
        async with self._opening:
            if self._stream is None:
                self._stream = await self._engine.watch(literal(PREFIX) + "*")
                self._background.start(self._listen(self._stream), "tertulia watch over leases")

    def leave(self, ear: Ear) -> None:
        """Give back an ear."""
        ear.forget()
        self._ears.discard(ear)

    async def _listen(self, stream: ChangeStream) -> None:
        try:
            async for change in stream:
                if not self._ears:  # nobody has waited since the change before
                    return
                for ear in self.by_key.get(change.key, ()):
                    ear.ring()
        except (WatchLaggedError, EngineError) as error:
            logger.warning("the watch over leases has to begin anew: %s", error)
            if not isinstance(error, WatchLaggedError):
                await sleep(self.clock, RETRY)
        except SpaceClosedError:
            logger.debug("the watch over leases ends with the space")
        finally:
            self._stream = None
            for ear in self._ears:  # let each look for itself, and tune in anew
                ear.ring()
            await stream.aclose()
