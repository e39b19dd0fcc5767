"""The waits that one handle of a space keeps in it, and what each of them holds up.

A wait that holds something up is an edge of the waits-for graph. It is written down before whoever makes it waits, and
taken away before whoever made it goes on, so an edge that is there is true; or its process has died, and it goes with
its lease of 3 s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from tertulia._background import Background, logger
from tertulia.engines.base import Commit, Delete, Engine, Put
from tertulia.errors import EngineError, SpaceClosedError
from tertulia.patterns._kept import WAIT_LEASE, Waiting, encode_kept, node_key, wait_key

OWNER = "_waits"  # of the lists; the library's own, as its underscore says
CLOSE_PATIENCE = 3.0  # seconds that an engine gets to take away a wait: as long as it would count without


class HeldUp:
    """The lists of waits, by the node that they hold up. Nobody but this handle writes those of its nodes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waits: dict[str, list[str]] = {}
        self._writing = asyncio.Lock()  # so that a list is never overwritten by an older one

    async def add(self, nodes: tuple[str, ...], wait_id: str) -> None:
        """Say that the wait holds up these nodes."""
        async with self._writing:
            for node in nodes:
                self._waits.setdefault(node, []).append(wait_id)
            await self._write(nodes)

    async def renew(self, nodes: tuple[str, ...]) -> None:
        """Say it again, before it is forgotten."""
        async with self._writing:
            await self._write(nodes)

    async def remove(self, nodes: tuple[str, ...], wait_id: str, *more: Delete) -> None:
        """Take it back; delete something else in the same commit."""
        async with self._writing:
            for node in nodes:
                left = self._waits.get(node, [])
                if wait_id in left:
                    left.remove(wait_id)
                if not left:
                    self._waits.pop(node, None)
            await self._write(nodes, *more)

    async def _write(self, nodes: tuple[str, ...], *more: Delete) -> None:
        kept = [node for node in nodes if node in self._waits]
        puts = tuple(Put(node_key(node), encode_kept(self._waits[node]), OWNER, WAIT_LEASE) for node in kept)
        deletes = tuple(Delete(node_key(node)) for node in nodes if node not in self._waits)
        await self._engine.commit(Commit(puts=puts, deletes=(*deletes, *more)))


class KeptWait:
    """One wait in the space, from before it begins until after it has ended."""

    def __init__(self, waiting: Waiting, nodes: tuple[str, ...], held_up: HeldUp, engine: Engine) -> None:
        self.waiting = waiting
        self.nodes = nodes
        self.key = wait_key(waiting.id)
        self._held_up = held_up
        self._engine = engine

    @property
    def put(self) -> Put:
        """What writes the wait down."""
        return Put(self.key, encode_kept(self.waiting), self.waiting.agent_id, WAIT_LEASE)

    async def announce(self) -> None:
        """Say what the wait will hold up, as soon as it is written down."""
        if self.nodes:
            await self._held_up.add(self.nodes, self.waiting.id)

    async def renew(self) -> None:
        """Keep the wait for another 3 s, even if it was forgotten meanwhile."""
        if self.nodes:
            await self._held_up.renew(self.nodes)
        await self._engine.commit(Commit(puts=(self.put,)))

    async def close(self) -> None:
        """Take the wait away; an engine that fails leaves it to its lease."""
        try:
            await self._held_up.remove(self.nodes, self.waiting.id, Delete(self.key))
        except SpaceClosedError:
            return
        except EngineError as error:
            logger.warning("a wait of %r could not be taken away, and runs out: %s", self.waiting.agent_id, error)


async def finish(background: Background, work: Coroutine[Any, Any, None], name: str) -> None:
    """Wait for work that must be done even if the caller is cancelled now, or waits in vain."""
    await asyncio.wait({background.start(work, name)}, timeout=CLOSE_PATIENCE)
