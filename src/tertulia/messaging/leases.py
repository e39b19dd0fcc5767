"""Keeping leases alive while handlers run."""

from __future__ import annotations

from tertulia._background import Background, logger
from tertulia._clock import Alarm, Clock
from tertulia.engines.base import Claimed, Engine
from tertulia.errors import EngineError, LeaseLostError, UnknownAgentError

RENEW_AT = 1 / 3  # of the lease: two more chances before it runs out


class LeaseKeeper:
    """Renews the leases of the deliveries in this handle's hands, at a third of their time."""

    def __init__(self, engine: Engine, clock: Clock, background: Background) -> None:
        self._engine = engine
        self._clock = clock
        self._background = background
        self._held: dict[int, tuple[Claimed, float, float]] = {}
        self._alarm = Alarm(clock, self._wake)

    def hold(self, claimed: Claimed, lease: float) -> None:
        """Renew this claim's lease until it is dropped."""
        if claimed.transient:
            return
        renew_at = claimed.lease_until - lease * (1 - RENEW_AT)
        self._held[claimed.sequence] = (claimed, lease, renew_at)
        if renew_at < self._alarm.at:
            self._alarm.ring_at(renew_at)

    def drop(self, claimed: Claimed) -> None:
        """Let the lease run its course."""
        self._held.pop(claimed.sequence, None)

    def close(self) -> None:
        """Renew nothing any more."""
        self._held.clear()
        self._alarm.cancel()

    def _wake(self) -> None:
        if self._held:
            self._background.start(self._renew(), "tertulia lease renewal")

    async def _renew(self) -> None:
        now = self._clock.monotonic()
        for sequence, (claimed, lease, renew_at) in list(self._held.items()):
            if renew_at <= now and sequence in self._held:
                await self._extend(claimed, lease)
        for _, _, renew_at in self._held.values():
            self._alarm.ring_at(max(renew_at, now))

    async def _extend(self, claimed: Claimed, lease: float) -> None:
        renew_at = self._clock.monotonic() + lease * RENEW_AT
        try:
            await self._engine.extend(claimed, lease)
        except (LeaseLostError, UnknownAgentError):
            logger.warning("lost the lease on message %s of %r", claimed.message_id, claimed.mailbox)
            self._held.pop(claimed.sequence, None)
            return
        except EngineError:
            logger.exception("could not renew the lease on message %s", claimed.message_id)
        if claimed.sequence in self._held:
            self._held[claimed.sequence] = (claimed, lease, renew_at)
