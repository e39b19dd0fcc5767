"""Requests as waits: those that hold something up are written down, once they have lasted for a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tertulia._background import Background, logger
from tertulia._clock import Alarm, Clock
from tertulia.engines.base import Engine
from tertulia.errors import EngineError, SpaceClosedError
from tertulia.messaging.context import WAITS_HEADER
from tertulia.patterns._flow import handling_here, held_here, nodes_held_up
from tertulia.patterns._kept import RENEW_WAIT, REQUEST, Waiting
from tertulia.patterns._waits import HeldUp, KeptWait, finish
from tertulia.patterns.deadlock import DeadlockCheck
from tertulia.records import Message, new_id

SOON = 0.05  # seconds until a request is written down that a lease waits for: most are answered by then
LATER = 1.0  # and one that only the handling of a message waits for, which a lock may wait for in turn

Fail = Callable[[Exception], None]


class RequestWaits:
    """The requests of one handle that wait for replies; see RequestObserver."""

    def __init__(self, engine: Engine, clock: Clock, background: Background, held_up: HeldUp) -> None:
        self._engine = engine
        self._clock = clock
        self._background = background
        self._held_up = held_up
        self._waits: dict[str, _RequestWait] = {}
        self._alarm = Alarm(clock, self._wake)

    def headers(self, sender: str) -> dict[str, str] | None:
        """Mark a request that a lease waits for, here or further up the path of requests."""
        handling = handling_here()
        if (handling is not None and handling.marked) or held_here(sender):
            return {WAITS_HEADER: "1"}
        return None

    def begins(self, request: Message, fail: Fail) -> None:
        """Write the wait down in a moment, if it holds anything up."""
        nodes = nodes_held_up(request.sender)
        if not nodes:
            return
        handling = handling_here()
        now = self._clock.monotonic()
        waiting = Waiting(
            id=new_id(),
            kind=REQUEST,
            agent_id=request.sender,
            names=(request.receiver,),
            since=self._clock.time(),
            message_id=request.id,
            owes=handling is not None and not handling.answered,
        )
        kept = KeptWait(waiting, nodes, self._held_up, self._engine)
        marked = request.headers is not None and WAITS_HEADER in request.headers
        wait = _RequestWait(kept, fail, now + (SOON if marked else LATER))
        self._waits[request.id] = wait
        self._alarm.ring_at(wait.due)

    def ends(self, request: Message) -> Awaitable[None] | None:
        """Take the wait away, if it was written down."""
        wait = self._waits.pop(request.id, None)
        if wait is None:
            return None
        if not self._waits:
            self._alarm.cancel()
        wait.over = True
        return finish(self._background, wait.close(), "tertulia end of a wait") if wait.begun else None

    def _wake(self) -> None:
        now = self._clock.monotonic()
        for wait in self._waits.values():
            if wait.due <= now:
                wait.due = now + RENEW_WAIT
                self._background.start(self._look(wait), "tertulia look at a wait")
        self._set_alarm()

    def _set_alarm(self) -> None:
        if self._waits:
            self._alarm.ring_at(min(wait.due for wait in self._waits.values()))

    async def _look(self, wait: _RequestWait) -> None:
        try:
            async with wait.busy:
                if wait.over:
                    return
                error = await wait.look(self._engine, self._clock)
        except SpaceClosedError:
            return
        except EngineError as failure:
            logger.warning("a wait of %r was not looked at: %s", wait.kept.waiting.agent_id, failure)
            return
        if error is not None and not wait.over:
            wait.fail(error)
        self._set_alarm()


class _RequestWait:
    """One request that holds something up. `begun`: it may be written down. `over`: nobody waits any more."""

    def __init__(self, kept: KeptWait, fail: Fail, due: float) -> None:
        self.kept = kept
        self.fail = fail
        self.due = due
        self.begun = False
        self.over = False
        self.busy = asyncio.Lock()
        self._check: DeadlockCheck | None = None
        self._renew_at = 0.0

    async def look(self, engine: Engine, clock: Clock) -> Exception | None:
        """Write the wait down or renew it, and look whether it can end."""
        now = clock.monotonic()
        if self._check is None:
            self.begun = True
            await self.kept.announce()
            self._check = DeadlockCheck(engine, clock, self.kept.waiting)
        if now >= self._renew_at:
            self._renew_at = now + RENEW_WAIT
            await self.kept.renew()
        error = await self._check.look()
        self.due = min(self._check.due, self._renew_at)
        return error

    async def close(self) -> None:
        """Take the wait away, once nobody works on it any more."""
        async with self.busy:
            await self.kept.close()
