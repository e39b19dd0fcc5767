"""A subscription that outlives its connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from nats import errors as foreign

from tertulia._background import logger
from tertulia.errors import AccessDeniedError

Handler = Callable[[Any], Awaitable[None] | None]


class Subscription:
    """Messages of a subject go to a handler, which must not wait, until it is stopped."""

    def __init__(self, subject: str, handler: Handler, queue: str, forget: Callable[[Subscription], None]) -> None:
        self.subject = subject
        self.queue = queue
        self.denied: AccessDeniedError | None = None
        self._forget = forget
        self._handler = handler
        self._client: Any = None
        self._foreign: Any = None

    async def start(self, client: Any) -> None:
        """Subscribe with a client."""
        self._client = client
        self._foreign = await client.subscribe(self.subject, queue=self.queue, cb=self._on_message)

    async def _on_message(self, message: Any) -> None:
        try:
            work = self._handler(message)
            if work is not None:
                await work
        except Exception:  # noqa: BLE001 - one message that cannot be read must not end the subscription
            logger.exception("a message on %s could not be taken in", self.subject)

    async def stop(self) -> None:
        """Unsubscribe."""
        self._forget(self)
        foreign_sub, self._foreign = self._foreign, None
        if foreign_sub is not None and not self._client.is_closed:
            try:
                await foreign_sub.unsubscribe()
            except foreign.Error:
                logger.debug("%s was unsubscribed while the connection closed", self.subject, exc_info=True)
