"""A handle on a space that can crash, on every engine: from then on nothing that it does reaches the space."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tertulia import Space
from tertulia.engines.base import Commit, Committed, Engine
from tertulia.errors import EngineUnavailableError
from tertulia.testing.conformance import SpaceHarness
from tertulia.testing.faults import Fault, FaultyEngine


class _Mortal(FaultyEngine):
    """An engine that lets others get in between, as one in another process does, and that can be cut off."""

    commits_left: int | None = None
    before_commit: Callable[[], Awaitable[object]] | None = None
    commits_before: int = 0

    def __init__(self, engine: Engine, seed: int) -> None:
        super().__init__(engine, {}, seed=seed)
        self._chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret

    async def _disturb(self) -> None:
        await super()._disturb()
        for _ in range(self._chance.randrange(4)):
            await asyncio.sleep(0)

    async def commit(self, commit: Commit) -> Committed:
        self.commits_before -= 1
        if self.before_commit is not None and self.commits_before < 0:
            act, self.before_commit = self.before_commit, None
            await act()
        await self._disturb()
        committed = await super().commit(commit)
        if self.commits_left is not None:
            self.commits_left -= 1
            if self.commits_left <= 0:
                self.rates[Fault.UNAVAILABLE] = 1.0
                raise EngineUnavailableError("the process is dead")
        return committed


class Crashable:
    """One more handle on the harness's space, which looks to the others like one of another process.

    Between any two of its steps others may do something; on engines that answer at once they otherwise never would.
    """

    def __init__(self, inner: Space, seed: int = 0) -> None:
        self._engine = _Mortal(inner.engine, seed)
        self.space = Space(inner.url, self._engine, inner.clock)

    def before_next_commit(self, act: Callable[[], Awaitable[object]], *, after: int = 0) -> None:
        """Let this happen after all that its next commit was decided from, and before the commit.

        With `after`, so many other commits come first.
        """
        self._engine.before_commit = act
        self._engine.commits_before = after

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
async def another_process(harness: SpaceHarness, seed: int = 0) -> AsyncIterator[Crashable]:
    """Open a handle that may crash, for the length of a block."""
    handle = Crashable(await harness.open_again(), seed)
    try:
        yield handle
    finally:
        await handle.space.aclose()
