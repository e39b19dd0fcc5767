"""Turns: those of one handle who change the same lines do so one after the other.

A change of a line is a read and a commit that fails if somebody else was faster. Between processes that settles itself;
among many tasks of one loop the same one could lose for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager


class Turns:
    """The turns of one handle, by the key of the line."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._wanted: dict[str, int] = {}  # by how many, so that a lock goes with the last of them

    @asynccontextmanager
    async def at(self, keys: tuple[str, ...]) -> AsyncGenerator[None]:
        """Wait for the turn at all of these lines, in the order given, which is the same for everybody."""
        for key in keys:
            self._wanted[key] = self._wanted.get(key, 0) + 1
        try:
            async with AsyncExitStack() as stack:
                for key in keys:
                    await stack.enter_async_context(self._locks.setdefault(key, asyncio.Lock()))
                yield
        finally:
            for key in keys:
                self._wanted[key] -= 1
                if not self._wanted[key]:
                    del self._wanted[key]
                    self._locks.pop(key, None)
