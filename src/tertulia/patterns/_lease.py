"""Leases: a key that one holder creates, renews while it works, and that is gone when the holder is.

The fence of a lease is the revision at which its key was created: it stays while the lease is renewed, and no later
holder has the same. Whatever is done in a lease's name carries its `check` in the same commit, so what a holder does
after its time is refused, also when it does not know yet that its time is over. (Kleppmann, *How to do distributed
locking*, 2016.)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from tertulia._background import logger
from tertulia._clock import sleep
from tertulia._codec import encode
from tertulia.engines.base import Check, CheckFailed, Commit, Delete, Put
from tertulia.errors import EngineError, OutcomeUnknownError, SpaceClosedError
from tertulia.records import KEEP, new_id
from tertulia.space import Space

RENEW_AT = 1 / 3  # of a lease's time: two more chances before it runs out
MAX_MARK = 100  # bytes: an id and the byte that says how long it is
RELEASE_TRIES = 3  # to give a lease back when the engine does not answer; then it runs out by itself


class Lease:
    """One attempt at holding a key for `seconds` at a time. Used once: `take`, then `kept`."""

    def __init__(self, space: Space, key: str, *, holder: str, seconds: float) -> None:
        self.key = key
        self.fence = 0
        self.lost = False
        self.ended = False
        self._space = space
        self._engine = space.engine
        self._holder = holder
        self._seconds = seconds
        self._taking: asyncio.Task[bool] | None = None
        self._mark = encode(
            new_id(), MAX_MARK
        )  # a value as any other, which tells this attempt's record from any other

    @property
    def check(self) -> Check:
        """What a commit in this lease's name has to carry: it fails once the lease is over.

        A commit that ends the lease, as the last thing done in its name, also deletes the key and sets `ended`.
        """
        return Check(self.key, created_revision=self.fence)

    async def take(self, *, checks: tuple[Check, ...] = (), tags: tuple[str, ...] = ()) -> bool:
        """Create the key if nobody holds it and the other checks hold; return whether this is the holder now.

        Cancellation: the key may be held all the same, until `release` or for `seconds`.
        """
        self._taking = self._space.background.start(self._take(checks, tags), f"tertulia lease {self.key}")
        return await asyncio.shield(self._taking)  # a commit that is cancelled may happen later, unseen by `release`

    async def _take(self, checks: tuple[Check, ...], tags: tuple[str, ...]) -> bool:
        put = Put(self.key, self._mark, self._holder, self._seconds, tags)
        try:
            committed = await self._engine.commit(Commit(checks=(Check(self.key, absent=True), *checks), puts=(put,)))
        except CheckFailed:
            return False
        except OutcomeUnknownError:
            return await self._is_mine()
        self.fence = committed.records[0].created_revision
        return True

    @asynccontextmanager
    async def kept(self) -> AsyncGenerator[None, None]:
        """Renew the lease while the block runs, and give it back at its end, however it ends."""
        renewing = self._space.background.start(self._renew(), f"tertulia lease {self.key}")
        try:
            yield
        finally:
            renewing.cancel()
            if not self.ended:
                await self.release()

    async def release(self) -> None:
        """Give the lease back, if it is held; others can take it when this returns. Nobody else's is touched."""
        if self._taking is not None and not self._taking.done():
            await asyncio.wait([self._taking])
        for _ in range(RELEASE_TRIES):
            try:
                if not self.fence and not await self._is_mine():
                    return
                await self._engine.commit(Commit(checks=(self.check,), deletes=(Delete(self.key),)))
            except (CheckFailed, SpaceClosedError):
                return
            except EngineError as error:
                logger.warning("the lease %r could not be given back: %s", self.key, error)
            else:
                return

    async def _is_mine(self) -> bool:
        record = await self._engine.get(self.key)
        if record is None or record.body != self._mark:
            return False
        self.fence = record.created_revision
        return True

    async def _renew(self) -> None:
        put = Put(self.key, self._mark, KEEP, self._seconds, KEEP)
        while not self.lost:
            await sleep(self._space.clock, self._seconds * RENEW_AT)
            if not self.fence:
                continue
            try:
                await self._engine.commit(Commit(checks=(self.check,), puts=(put,)))
            except CheckFailed:
                self.lost = True
            except SpaceClosedError:
                return
            except EngineError as error:
                logger.warning("the lease %r could not be renewed: %s", self.key, error)
