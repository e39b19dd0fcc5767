"""A handle on a space that can crash, on every engine: from then on nothing that it does reaches the space."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tertulia import Space
from tertulia.engines.base import Commit, Committed
from tertulia.errors import EngineUnavailableError
from tertulia.testing.conformance import SpaceHarness
from tertulia.testing.faults import Fault, FaultyEngine


class _Mortal(FaultyEngine):
    """An engine that can be cut off after a number of commits."""

    commits_left: int | None = None

    async def commit(self, commit: Commit) -> Committed:
        committed = await super().commit(commit)
        if self.commits_left is not None:
            self.commits_left -= 1
            if self.commits_left <= 0:
                self.rates[Fault.UNAVAILABLE] = 1.0
                raise EngineUnavailableError("the process is dead")
        return committed


class Crashable:
    """One more handle on the harness's space, which looks to the others like one of another process."""

    def __init__(self, inner: Space) -> None:
        self._engine = _Mortal(inner.engine, {})
        self.space = Space(inner.url, self._engine, inner.clock)

    def crash(self) -> None:
        """Reach the space no longer: not for a renewal, not for a farewell."""
        self._engine.rates[Fault.UNAVAILABLE] = 1.0

    def crash_after_commits(self, commits: int) -> None:
        """Crash as soon as so many more commits have happened; the last one is not answered any more."""
        self._engine.commits_left = commits

    def recover(self) -> None:
        """Reach it again, like a process that was stopped and goes on."""
        self._engine.rates.clear()
        self._engine.commits_left = None


@asynccontextmanager
async def another_process(harness: SpaceHarness) -> AsyncIterator[Crashable]:
    """Open a handle that may crash, for the length of a block."""
    handle = Crashable(await harness.open_again())
    try:
        yield handle
    finally:
        await handle.space.aclose()
