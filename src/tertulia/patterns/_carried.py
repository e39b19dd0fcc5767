"""Commits that are carried through: whoever is cancelled in the middle of one can wait for how it ends."""

from __future__ import annotations

import asyncio

from tertulia._background import Background
from tertulia.engines.base import CheckFailed, Commit, Committed, Engine
from tertulia.errors import TertuliaError


class CarriedCommits:
    """One waiter's commits, each in a task of its own.

    A commit that is cancelled may happen all the same, and later than anything that its caller sees; so who has to
    undo it must not cancel it, but wait until it `settled`.
    """

    def __init__(self, engine: Engine, background: Background) -> None:
        self._engine = engine
        self._background = background
        self._under_way: asyncio.Task[Committed | Exception] | None = None

    async def commit(self, commit: Commit) -> Committed:
        """Commit; see Engine.commit."""
        task = self._under_way = self._background.start(self._commit(commit), "tertulia commit of a lease")
        outcome = await asyncio.shield(task)
        if isinstance(outcome, Committed):
            return outcome
        raise outcome

    async def settled(self) -> None:
        """Wait until no commit is under way."""
        if self._under_way is not None and not self._under_way.done():
            await asyncio.wait({self._under_way})

    async def _commit(self, commit: Commit) -> Committed | Exception:
        try:
            return await self._engine.commit(commit)
        except (CheckFailed, TertuliaError) as error:
            return error
