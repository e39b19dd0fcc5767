"""Requests: a message, a deadline that travels with it, and the reply or replies to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from math import inf

from msgspec.structs import replace

from tertulia._background import logger
from tertulia._clock import Alarm
from tertulia._rules.deadlines import request_deadline
from tertulia.engines.base import REPLIES, Claimed, Send
from tertulia.errors import (
    DecodeError,
    LoopError,
    MessagingError,
    RemoteError,
    RequestTimeoutError,
    SpaceClosedError,
    StreamBrokenError,
)
from tertulia.memory import check_seconds
from tertulia.messaging.context import HANDLING
from tertulia.messaging.delivery import ERROR_HEADER, PART_HEADER, message_of
from tertulia.messaging.outbox import Outbox
from tertulia.records import DeliveryMode, Message, new_id

_END = "end:"


class RequestDesk:
    """The requests of one handle that wait for replies, and the private mailbox that replies come to."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._engine = outbox.engine
        self._clock = outbox.clock
        self.address = REPLIES + new_id()
        self._pending: dict[str, _Waiting] = {}
        self._alarm = Alarm(outbox.clock, self._end_overdue)
        self._stop: Callable[[], None] | None = None

    async def request(self, message: Message, timeout: float) -> Message:
        """Send the message and return the reply to it; see MessageBroker.request_response."""
        message, until = self.addressed(message, timeout)
        return await self.ask(message, self._outbox.send_of(message), until)

    async def ask(self, message: Message, send: Send, until: float) -> Message:
        """Send an addressed message and return the reply to it, if it comes `until` then (monotonic)."""
        waiting = _Waiting(message, until)
        await self._send(waiting, send)
        try:
            while True:
                reply = await waiting.next_reply()
                if reply.headers is None:
                    return reply
                if PART_HEADER not in reply.headers:
                    return _checked(reply)
                if (whole := waiting.collect(reply)) is not None:
                    return whole
        finally:
            self._pending.pop(message.id, None)

    async def stream(self, message: Message, timeout: float) -> AsyncIterator[Message]:
        """Send the message and iterate over the parts of its reply."""
        message, until = self.addressed(message, timeout)
        waiting = _Waiting(message, until)
        await self._send(waiting, self._outbox.send_of(message))
        try:
            while True:
                reply = await waiting.next_reply()
                if reply.headers is None or PART_HEADER not in reply.headers:
                    yield _checked(reply)
                    return
                if waiting.is_end(reply):
                    return
                yield reply
        finally:
            self._pending.pop(message.id, None)

    def close(self) -> None:
        """End every request that waits with SpaceClosedError."""
        if self._stop is not None:
            self._stop()
        self._alarm.cancel()
        for waiting in self._pending.values():
            waiting.fail(SpaceClosedError())
        self._pending.clear()

    def addressed(self, message: Message, timeout: float) -> tuple[Message, float]:
        """Return the message with reply address and deadline, and when that is on the monotonic clock."""
        deadline, until = self.deadline(message.receiver, message.id, timeout)
        return replace(message, reply_to=self.address, expires=deadline), until

    def deadline(self, receiver: str, message_id: str, timeout: float) -> tuple[float, float]:
        """Return when a request made now ends, in civil and in monotonic time.

        Raises RequestTimeoutError when the request that is being handled is over already.
        """
        if timeout.__class__ is not float or not 0.0 < timeout < inf:
            timeout = check_seconds("timeout", timeout)
        handling = HANDLING.get()
        now = self._outbox.time()
        deadline = now + timeout
        if handling is not None:
            deadline = request_deadline(now, timeout, handling.deadline)
            if deadline <= now:
                raise RequestTimeoutError(receiver, message_id, 0.0)
        return deadline, self._clock.monotonic() + (deadline - now)

    async def _send(self, waiting: _Waiting, send: Send) -> None:
        outbox = self._outbox
        message = waiting.message
        if self._stop is None:
            self._stop = self._engine.listen(self.address, self._on_reply)
        self._pending[message.id] = waiting
        self._alarm.ring_at(waiting.until)
        try:
            if message.delivery_mode is not DeliveryMode.AT_MOST_ONCE:
                await outbox.store(send, timeout=waiting.until - self._clock.monotonic())
            elif not await self._engine.emit(send):
                raise MessagingError(f"{message.receiver!r} does not take messages now")
            if send.mailbox != message.receiver:
                raise LoopError(message.receiver, message.hops)
        except BaseException:
            self._pending.pop(message.id, None)
            raise
        outbox.counters.sent += 1
        outbox.note(message, "sent")

    def _on_reply(self, claimed: Claimed) -> None:
        try:
            reply = message_of(claimed)
        except DecodeError:
            logger.exception("a reply could not be decoded and was dropped")
            return
        waiting = self._pending.get(reply.correlation_id or "")
        if waiting is None:
            self._outbox.counters.late_replies += 1
            self._outbox.note(reply, "late reply dropped")
            logger.warning("late reply from %r to request %s dropped", reply.sender, reply.correlation_id)
        else:
            waiting.add(reply)

    def _end_overdue(self) -> None:
        now = self._clock.monotonic()
        for waiting in self._pending.values():
            if waiting.until <= now:
                message = waiting.message
                allowed = (message.expires or 0.0) - message.sent
                waiting.fail(RequestTimeoutError(message.receiver, message.id, allowed))
            else:
                self._alarm.ring_at(waiting.until)


class _Waiting:
    """One request and the replies to it that nobody has taken yet."""

    __slots__ = ("_error", "_expected", "_future", "_parts", "_replies", "message", "until")

    def __init__(self, message: Message, until: float) -> None:
        self.message = message
        self.until = until
        self._replies: list[Message] = []
        self._future: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._expected = 0
        self._parts: list[object] = []

    async def next_reply(self) -> Message:
        while not self._replies:
            if self._error is not None:
                raise self._error
            self._future = asyncio.get_running_loop().create_future()
            await self._future
        return self._replies.pop(0)

    def add(self, reply: Message) -> None:
        self._replies.append(reply)
        self._wake()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def is_end(self, reply: Message) -> bool:
        """Check a part's place in its stream; tell whether it closes it. Raises StreamBrokenError."""
        part = (reply.headers or {}).get(PART_HEADER, "")
        ends = part.startswith(_END)
        place = int(part.removeprefix(_END))
        if place != self._expected:
            raise StreamBrokenError(reply.sender, self._expected, place)
        self._expected += not ends
        return ends

    def collect(self, reply: Message) -> Message | None:
        """Gather the parts of a stream; return one reply with all of them once it is closed."""
        if self.is_end(reply):
            return replace(reply, content=self._parts, headers=None)
        self._parts.append(reply.content)
        return None


def _checked(reply: Message) -> Message:
    """Return the reply, or raise the RemoteError that it carries."""
    if reply.headers is not None and ERROR_HEADER in reply.headers:
        raise RemoteError(reply.sender, reply.headers[ERROR_HEADER], str(reply.content))
    return reply
