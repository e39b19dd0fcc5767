"""Requests: a message, a deadline that travels with it, and the reply or replies to it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from msgspec.structs import replace

from tertulia._arguments import MAX_SECONDS, check_seconds
from tertulia._background import logger
from tertulia._clock import Alarm
from tertulia._rules.deadlines import request_deadline
from tertulia.engines.base import REPLIES, Claimed, Send
from tertulia.errors import (
    DecodeError,
    InvalidInputError,
    LoopError,
    MessagingError,
    RemoteError,
    RequestTimeoutError,
    SpaceClosedError,
    StreamBrokenError,
)
from tertulia.messaging.context import HANDLING
from tertulia.messaging.delivery import ERROR_HEADER, PART_HEADER, message_of
from tertulia.messaging.outbox import Outbox
from tertulia.records import DeliveryMode, Message, new_id

_END = "end:"


class RequestObserver(Protocol):
    """Is told what the requests of one handle wait for; see RequestDesk.observers.

    It is called in the requester's context, on the event loop, and neither raises nor (but for `ends`) waits.
    """

    def headers(self, sender: str) -> dict[str, str] | None:
        """Return what the headers of a request made now get besides, or None."""
        ...

    def begins(self, request: Message, fail: Callable[[Exception], None]) -> None:
        """Take note that a wait for a reply to this request begins. `fail` ends the wait with an error."""
        ...

    def ends(self, request: Message) -> Awaitable[None] | None:
        """Take note that the wait is over, however; the requester goes on once the result, if any, was awaited."""
        ...


class RequestDesk:
    """The requests of one handle that wait for replies, and the private mailbox that replies come to.

    `observers` are told of every wait that begins from now on.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._engine = outbox.engine
        self._clock = outbox.clock
        owner = self._engine.identity
        self.address = f"{REPLIES}{owner}:{new_id()}" if owner else REPLIES + new_id()
        self._pending: dict[str, _Waiting] = {}
        self._alarm = Alarm(outbox.clock, self._end_overdue)
        self._stop: Callable[[], None] | None = None
        self.observers: tuple[RequestObserver, ...] = ()

    async def request(self, message: Message, timeout: float) -> Message:
        """Send the message and return the reply to it; see MessageBroker.request_response."""
        message, until = self.addressed(message, timeout)
        return await self.ask(message, self._outbox.send_of(message), until)

    async def ask(self, message: Message, send: Send, until: float) -> Message:
        """Send an addressed message and return the reply to it, if it comes `until` then (monotonic)."""
        waiting = self._expect(message, until)
        if self.observers:
            self._tell_begin(waiting)
        try:
            await self._send(message, send, until)
            reply = await waiting.first
            if reply.headers is None:
                return reply
            if PART_HEADER not in reply.headers:
                return _checked(reply)
            rest = waiting.parts()
            parts: list[object] = []
            while not rest.is_end(reply):
                parts.append(reply.content)
                reply = _checked(await rest.next_reply())
            return replace(reply, content=parts, headers=None)
        finally:
            del self._pending[message.id]
            if self.observers:
                await self._tell_end(message)

    async def stream(self, message: Message, timeout: float) -> AsyncIterator[Message]:
        """Send the message and iterate over the parts of its reply."""
        message, until = self.addressed(message, timeout)
        send = self._outbox.send_of(message)
        waiting = self._expect(message, until)
        try:
            await self._send(message, send, until)
            reply = await self._observed(waiting, waiting.first)
            while True:
                if reply.headers is None or PART_HEADER not in reply.headers:
                    yield _checked(reply)
                    return
                if waiting.parts().is_end(reply):
                    return
                yield reply
                reply = await self._observed(waiting, waiting.parts().next_reply())
        finally:
            del self._pending[message.id]

    def close(self) -> None:
        """End every request that waits with SpaceClosedError."""
        if self._stop is not None:
            self._stop()
        self._alarm.cancel()
        for waiting in self._pending.values():
            waiting.fail(SpaceClosedError())  # each is dropped by the call that waits for it

    def addressed(self, message: Message, timeout: float) -> tuple[Message, float]:
        """Return the message with reply address and deadline, and when that is on the monotonic clock."""
        deadline, until = self.deadline(message.receiver, message.id, timeout)
        headers = self.headers(message.sender, message.headers) if self.observers else message.headers
        return replace(message, reply_to=self.address, expires=deadline, headers=headers), until

    def headers(self, sender: str, headers: dict[str, str] | None) -> dict[str, str] | None:
        """Return the headers of a request made now, with what the observers add to them."""
        for observer in self.observers:
            more = observer.headers(sender)
            if more and (headers is None or headers.__class__ is dict):  # else it is about to be refused
                headers = {**(headers or {}), **more}
        return headers

    def deadline(self, receiver: str, message_id: str, timeout: float) -> tuple[float, float]:
        """Return when a request made now ends, in civil and in monotonic time.

        Raises RequestTimeoutError when the request that is being handled is over already.
        """
        if timeout.__class__ is not float or not 0.0 < timeout <= MAX_SECONDS:
            timeout = check_seconds("timeout", timeout)
        handling = HANDLING.get()
        now = self._outbox.time()
        deadline = now + timeout
        if handling is not None:
            deadline = request_deadline(now, timeout, handling.deadline)
            if deadline <= now:
                raise RequestTimeoutError(receiver, message_id, 0.0)
        return deadline, self._clock.monotonic() + (deadline - now)

    def _expect(self, message: Message, until: float) -> _Waiting:
        """Get ready for replies to a message that is about to be sent."""
        if self._stop is None:
            self._stop = self._engine.listen(self.address, self._on_reply)
        if message.id in self._pending:
            raise InvalidInputError(f"a request with the id {message.id!r} is waiting for its reply already")
        waiting = self._pending[message.id] = _Waiting(message, until, until - self._clock.monotonic())
        self._alarm.ring_at(until)
        return waiting

    async def _send(self, message: Message, send: Send, until: float) -> None:
        """Send a request; a full mailbox's room is waited for no longer than the reply would be."""
        outbox = self._outbox
        if message.delivery_mode is DeliveryMode.AT_MOST_ONCE and send.mailbox == message.receiver:
            if not await self._engine.emit(send):
                raise MessagingError(f"{message.receiver!r} does not take messages now")
        else:
            await outbox.store(send, timeout=until - self._clock.monotonic())
        outbox.counters.sent += 1
        outbox.note(message, "sent")
        if send.mailbox != message.receiver:
            raise LoopError(message.receiver, message.hops)

    async def _observed(self, waiting: _Waiting, reply: Awaitable[Message]) -> Message:
        """Await a reply, or a part of one, and let the observers know how long."""
        if not self.observers:
            return await reply
        self._tell_begin(waiting)
        try:
            return await reply
        finally:
            await self._tell_end(waiting.message)

    def _tell_begin(self, waiting: _Waiting) -> None:
        for observer in self.observers:
            observer.begins(waiting.message, waiting.fail)

    async def _tell_end(self, message: Message) -> None:
        for observer in self.observers:
            rest = observer.ends(message)
            if rest is not None:
                await rest

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
                waiting.fail(RequestTimeoutError(message.receiver, message.id, waiting.timeout))
            else:
                self._alarm.ring_at(waiting.until)


class _Waiting:
    """One request, and the replies to it: the first, which mostly is the only one, and those of a stream."""

    __slots__ = ("first", "message", "rest", "timeout", "until")

    def __init__(self, message: Message, until: float, timeout: float) -> None:
        self.message = message
        self.until = until
        self.timeout = timeout
        self.first: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self.rest: _Rest | None = None  # made when the first reply turns out to be a part

    def add(self, reply: Message) -> None:
        """Take a reply that has come."""
        if not self.first.done():
            self.first.set_result(reply)
        elif self.rest is not None:
            self.rest.add(reply)
        else:
            self.rest = _Rest(reply)

    def fail(self, error: Exception) -> None:
        """End the request with an error, unless it has all it waits for."""
        if not self.first.done():
            self.first.set_exception(error)
            self.first.exception()  # if nobody awaits it any more, that is no fault
            return
        if self.rest is None:
            self.rest = _Rest()
        self.rest.fail(error)

    def parts(self) -> _Rest:
        """Return the replies after the first, for a stream."""
        if self.rest is None:
            self.rest = _Rest()
        return self.rest


class _Rest:
    """The replies of a stream after the first, and the place of the next part."""

    def __init__(self, *replies: Message) -> None:
        self._replies = deque(replies)
        self._next: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._expected = 0

    async def next_reply(self) -> Message:
        """Return the next reply. Raises what the request failed with."""
        while not self._replies:
            if self._error is not None:
                raise self._error
            self._next = asyncio.get_running_loop().create_future()
            await self._next
        return self._replies.popleft()

    def add(self, reply: Message) -> None:
        self._replies.append(reply)
        self._wake()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._next is not None and not self._next.done():
            self._next.set_result(None)

    def is_end(self, reply: Message) -> bool:
        """Check a part's place in its stream; tell whether it closes it. Raises StreamBrokenError."""
        part = (reply.headers or {}).get(PART_HEADER, "")
        ends = part.startswith(_END)
        place = int(part.removeprefix(_END)) if part.removeprefix(_END).isdecimal() else -1
        if place != self._expected:
            raise StreamBrokenError(reply.sender, self._expected, place)
        self._expected += not ends
        return ends


def _checked(reply: Message) -> Message:
    """Return the reply, or raise the RemoteError that it carries."""
    if reply.headers is not None and ERROR_HEADER in reply.headers:
        raise RemoteError(reply.sender, reply.headers[ERROR_HEADER], str(reply.content))
    return reply
