"""What the locks, semaphores and elections of one handle of a space share."""

# pyright: reportPrivateUsage=false
# The clock of the broker's outbox, and the tasks of the space.

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tertulia.messaging.broker import MessageBroker
from tertulia.patterns._bell import Bell
from tertulia.patterns._keeper import Keeper
from tertulia.patterns._request_waits import RequestWaits
from tertulia.patterns._turns import Turns
from tertulia.patterns._waits import HeldUp
from tertulia.records import Message


class Leases:
    """What one handle holds and waits for. Made by `leases_of`, one for each handle; it ends with its space."""

    def __init__(self, broker: MessageBroker) -> None:
        self.outbox = broker.outbox
        self.engine = broker.outbox.engine
        self.clock = broker.outbox.clock
        self.background = broker.background
        self.keeper = Keeper(self.clock, self.background)
        self.bell = Bell(self.engine, self.clock, self.background)
        self.turns = Turns()
        self.held_up = HeldUp(self.engine)
        self._requests = RequestWaits(self.engine, self.clock, self.background, self.held_up)

    def headers(self, sender: str) -> dict[str, str] | None:
        """See RequestObserver."""
        return self._requests.headers(sender)

    def begins(self, request: Message, fail: Callable[[Exception], None]) -> None:
        """See RequestObserver."""
        self._requests.begins(request, fail)

    def ends(self, request: Message) -> Awaitable[None] | None:
        """See RequestObserver."""
        return self._requests.ends(request)


def leases_of(broker: MessageBroker) -> Leases:
    """Return what the handle's locks share; from the first call on its requests are observed."""
    for observer in broker.desk.observers:
        if isinstance(observer, Leases):
            return observer
    leases = Leases(broker)
    broker.desk.observers = (*broker.desk.observers, leases)
    return leases
