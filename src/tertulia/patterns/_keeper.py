"""The keeper: renews the grants that one handle of a space holds, and tells those whose lease is over."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol

from tertulia._background import Background
from tertulia._clock import Alarm, Clock


class Kept(Protocol):
    """A grant, as far as the keeper goes. `due`: when it has to be looked at, on the monotonic clock."""

    agent_id: str
    kind: str
    names: tuple[str, ...]
    token: str
    due: float

    def look(self) -> Awaitable[None] | None:
        """Find that the lease is over, or return its renewal; set `due` to when to look again at the latest."""
        ...

    async def release(self) -> None:
        """Give it back."""
        ...

    async def end(self) -> None:
        """Release it, because the space closes."""
        ...


class Keeper:
    """The grants held through one handle. They are released when the handle closes."""

    def __init__(self, clock: Clock, background: Background) -> None:
        self.background = background
        self._alarm = Alarm(clock, self._wake)
        self._held: dict[str, Kept] = {}
        self._closer: asyncio.Task[None] | None = None
        self.clock = clock

    def hold(self, grant: Kept) -> None:
        """Renew the grant until it is dropped."""
        self._held[grant.token] = grant
        self._alarm.ring_at(grant.due)
        if self._closer is None:
            self._closer = self.background.start(self._until_closed(), "tertulia leases")

    def drop(self, grant: Kept) -> None:
        """Let the lease run its course."""
        self._held.pop(grant.token, None)
        if not self._held:
            self._alarm.cancel()

    def held_by(self, kind: str, names: tuple[str, ...], agent_id: str) -> Kept | None:
        """Return the agent's oldest grant of these names, or None."""
        for grant in self._held.values():
            if grant.kind == kind and grant.names == names and grant.agent_id == agent_id:
                return grant
        return None

    def _wake(self) -> None:
        if self._held:
            self.background.start(self._renew(), "tertulia renewal of leases")

    async def _renew(self) -> None:
        now = self.clock.monotonic()
        due = [grant for grant in self._held.values() if grant.due <= now]
        renewals = [renewal for grant in due if (renewal := grant.look()) is not None]
        self._set_alarm()  # what is due next does not wait for an engine that is slow to answer
        await asyncio.gather(*renewals)
        self._set_alarm()

    def _set_alarm(self) -> None:
        if self._held:
            self._alarm.ring_at(min(grant.due for grant in self._held.values()))

    async def _until_closed(self) -> None:
        """Wait for the space to close, which cancels this; then release what is held, so that nobody waits for it."""
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.gather(*[grant.end() for grant in list(self._held.values())])
