"""An agent that sends messages and handles those it gets."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any, Self, TypeVar

from msgspec.structs import replace

from tertulia._arguments import check_count, check_seconds
from tertulia._background import logger
from tertulia._clock import sleep
from tertulia._codec import convert
from tertulia._names import check_name
from tertulia.agents.handlers import Function, Handler, Handlers, type_of
from tertulia.engines.base import DEFAULT_LEASE, Claimed, Commit, Send, Settle
from tertulia.errors import (
    AlreadySettledError,
    ConflictError,
    DecodeError,
    InvalidInputError,
    MailboxFullError,
    Reject,
    RetryLater,
    SpaceClosedError,
    UnknownAgentError,
)
from tertulia.messaging import contents
from tertulia.messaging.broker import MessageBroker
from tertulia.messaging.context import HANDLING, WAITS_HEADER, Handling
from tertulia.messaging.delivery import PART_HEADER, Delivery, reply_send
from tertulia.messaging.types import type_headers
from tertulia.patterns._leases import leases_of
from tertulia.records import DeliveryMode, Message, Receipt, WhenFull, new_id

F = TypeVar("F", bound=Function)

MAX_CONCURRENCY = 1_000
MAX_RACES = 100  # lost in a row over what a transaction read; somebody wins each, so more means a fault elsewhere
STOP_GRACE = 30.0  # seconds that running handlers get to finish, as long as a lease
ENGINE_RETRY = 1.0  # seconds before an agent asks a failed engine again


class MessagePassingAgent:
    """An agent with a mailbox: `async with MessagePassingAgent(name, space.broker) as agent`.

    Handlers are registered with `on_message` and run while the agent is started, one at a time unless `concurrency`
    says otherwise; several processes may run the same agent and share its mailbox. Sending and requesting work
    without starting.
    """

    def __init__(
        self,
        agent_id: str,
        broker: MessageBroker,
        *,
        concurrency: int = 1,
        lease: float = DEFAULT_LEASE,
        max_queue_size: int = 1000,
        when_full: WhenFull = WhenFull.REJECT,
        max_attempts: int = 5,
        ordered: bool = False,
    ) -> None:
        self.agent_id = check_name(agent_id)
        self.broker = broker
        self._concurrency = check_count("concurrency", concurrency, MAX_CONCURRENCY)
        self._lease = check_seconds("lease", lease)
        self._max_queue_size = max_queue_size
        self._when_full = when_full
        self._max_attempts = max_attempts
        self._ordered = ordered
        self._handlers = Handlers()
        self._consumers: dict[asyncio.Task[None], bool] = {}  # whether each is handling a message
        self._starting = False
        self._stopping = False
        self._replied: set[str] = set()

    # --- handlers ---

    def on_message(self, message_type: str | type, *, content_type: Any = None) -> Callable[[F], F]:
        """Register the decorated function for messages of a type: the content's "type", or its class's name.

        "default" gets what has no other handler. A class, or `content_type`, has the content rebuilt as that type;
        content that does not fit goes to the dead letters. The function takes the message, and, if it has a second
        parameter, a DeliveryTransaction that is committed with the reply and the acknowledgement when it returns, or
        earlier by the function itself. If what it read through the transaction has changed by then, it is called again,
        without counting a failure.
        What it returns answers a request; an async generator's parts are streamed. An exception is logged and
        counted, and the message is retried, or a request answered with RemoteError; see RetryLater and Reject.
        """

        def register(function: F) -> F:
            self._handlers.add(message_type, content_type, function)
            return function

        return register

    # --- life ---

    async def start(self) -> None:
        """Register the mailbox and handle messages in the background until `stop`, or the space closes."""
        if self._consumers or self._starting:
            return
        self._starting = True
        try:
            await self._start()
        finally:
            self._starting = False

    async def _start(self) -> None:
        await self.broker.register_agent(
            self.agent_id,
            max_queue_size=self._max_queue_size,
            when_full=self._when_full,
            max_attempts=self._max_attempts,
            ordered=self._ordered,
        )
        self._stopping = False
        for number in range(self._concurrency):
            task = self.broker.background.start(self._consume(), f"tertulia agent {self.agent_id} {number}")
            self._consumers[task] = False
            task.add_done_callback(lambda done: self._consumers.pop(done, None))

    async def stop(self, *, grace: float = STOP_GRACE) -> None:
        """Take no more messages, and let running handlers finish for up to `grace` seconds.

        Handlers that run longer are cancelled and their messages given back. The mailbox stays.
        """
        self._stopping = True
        own = asyncio.current_task()
        for task, busy in list(self._consumers.items()):
            if not busy:
                task.cancel()
        consumers = [task for task in self._consumers if task is not own]
        if not consumers:
            return
        timer = self.broker.outbox.clock.call_later(grace, lambda: [task.cancel() for task in consumers])
        try:
            await asyncio.wait(consumers)
        finally:
            timer.cancel()

    async def run(self) -> None:
        """Handle messages until somebody stops the agent, its mailbox is removed, or the space closes; then return.

        A handler may call `stop` to end it. Cancelled, the agent stops as `stop` does, and the cancelling goes on.
        """
        await self.start()
        try:
            while self._consumers:
                await asyncio.wait(list(self._consumers))
        finally:
            await self.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # --- sending ---

    async def send(
        self,
        receiver: str,
        content: object,
        *,
        delivery_mode: DeliveryMode = DeliveryMode.AT_LEAST_ONCE,
        delay: float = 0.0,
        ttl: float | None = None,
        message_id: str | None = None,
    ) -> Receipt:
        """Send content to an agent; see MessageBroker.send.

        After `ttl` seconds nobody has to handle it any more. A `message_id` makes repeated sends recognisable.
        """
        return await self.broker.send(self._message(receiver, content, delivery_mode, ttl, message_id), delay=delay)

    async def publish(
        self,
        topic: str,
        content: object,
        *,
        delivery_mode: DeliveryMode = DeliveryMode.AT_LEAST_ONCE,
        delay: float = 0.0,
        ttl: float | None = None,
        message_id: str | None = None,
    ) -> Receipt:
        """Publish content to all who subscribed to the topic; see MessageBroker.publish."""
        message = self._message("", content, delivery_mode, ttl, message_id)
        return await self.broker.publish(topic, message, delay=delay)

    async def request(
        self,
        receiver: str,
        content: object,
        *,
        timeout: float = 30.0,
        delivery_mode: DeliveryMode = DeliveryMode.AT_LEAST_ONCE,
        type: Any = None,
    ) -> Any:
        """Ask an agent and return the content of its reply; see MessageBroker.request_response."""
        desk = self.broker.desk
        message_id = new_id()
        deadline, until = desk.deadline(receiver, message_id, timeout)
        message = Message(
            id=message_id,
            sender=self.agent_id,
            receiver=receiver,
            content=content,
            sent=self.broker.outbox.time(),
            reply_to=desk.address,
            delivery_mode=delivery_mode,
            headers=type_headers(content) if not desk.observers else desk.headers(self.agent_id, type_headers(content)),
            expires=deadline,
        )
        if delivery_mode.__class__ is not DeliveryMode:
            self.broker.outbox.send_of(message)  # says what is wrong
        reply = await desk.ask(message, self.broker.outbox.trusted_send_of(message), until)
        return reply.content if type is None else convert(reply.content, type)

    async def request_stream(
        self,
        receiver: str,
        content: object,
        *,
        timeout: float = 30.0,
        delivery_mode: DeliveryMode = DeliveryMode.AT_LEAST_ONCE,
    ) -> AsyncIterator[Any]:
        """Ask an agent and iterate over the parts of its reply; see MessageBroker.request_stream."""
        message = self._message(receiver, content, delivery_mode, None, None)
        async for part in self.broker.request_stream(message, timeout=timeout):
            yield part.content

    async def reply(self, original_message: Message, content: object) -> Receipt:
        """Answer a request now, rather than with the handler's return value.

        Raises InvalidInputError when the message does not ask for a reply.
        """
        if original_message.reply_to is None:
            message = "this message does not ask for a reply"
            raise InvalidInputError(message)
        outbox = self.broker.outbox
        send = reply_send(outbox, original_message, self.agent_id, content)
        self._replied.add(original_message.id)
        handling = HANDLING.get()
        if handling is not None and handling.message_id == original_message.id:
            HANDLING.set(replace(handling, answered=True))
        sent = await outbox.store(send)
        outbox.note(original_message, "answered")
        return Receipt(send.message_id, sent.delivered)

    async def subscribe(self, topic: str) -> bool:
        """Subscribe this agent to a topic pattern; it must have been started. See MessageBroker.subscribe."""
        return await self.broker.subscribe(self.agent_id, topic)

    async def unsubscribe(self, topic: str) -> bool:
        """Take back a subscription; see MessageBroker.unsubscribe."""
        return await self.broker.unsubscribe(self.agent_id, topic)

    def _message(
        self,
        receiver: str,
        content: object,
        delivery_mode: DeliveryMode,
        ttl: float | None,
        message_id: str | None,
    ) -> Message:
        now = self.broker.outbox.time()
        return Message(
            id=new_id() if message_id is None else message_id,
            sender=self.agent_id,
            receiver=receiver,
            content=content,
            sent=now,
            delivery_mode=delivery_mode,
            headers=type_headers(content),
            expires=None if ttl is None else now + check_seconds("ttl", ttl),
        )

    # --- handling ---

    async def _consume(self) -> None:
        engine = self.broker.outbox.engine
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine of `start` always runs in a task
        while not self._stopping:
            try:
                claimed = await engine.claim(self.agent_id, lease=self._lease, wait=None)
                self._consumers[task] = True
                for one in claimed:
                    await self._handle(one)
            except (UnknownAgentError, SpaceClosedError) as end:
                logger.info("agent %r stops: %s", self.agent_id, end)
                return
            except Exception:  # noqa: BLE001 - one message must not end the agent; its lease runs out and it is retried
                logger.exception("agent %r could not get or settle a message", self.agent_id)
                await sleep(self.broker.outbox.clock, ENGINE_RETRY)
            finally:
                self._consumers[task] = False

    async def _handle(self, claimed: Claimed) -> None:
        """Handle one message, whatever happens to its handler; this is the hot path of every request."""
        broker = self.broker
        message = broker.admit(claimed)
        if message is None or message.headers is not None:
            message = await broker.complete(claimed, message)
            if message is None:
                return
        marked = message.headers is not None and WAITS_HEADER in message.headers
        deadline = None if message.reply_to is None else message.expires
        if marked:
            leases_of(broker)  # so that what this handler waits for, on behalf of who waits for it, is known too
        hops = (*message.hops, self.agent_id)
        token = HANDLING.set(Handling(hops, deadline, message.id, message.attempt, marked))
        broker.leases.hold(claimed, self._lease)
        try:
            handler = self._handlers.find(message)
            if handler is not None and handler.is_plain:
                result = handler.function(message)
                if handler.is_async or inspect.isawaitable(result):
                    result = await result
                await self._finish(claimed, message, result)
            else:
                await self._handle_specially(handler, claimed, message)
        except AlreadySettledError:
            logger.info("message %s of %r was settled by another attempt", message.id, self.agent_id)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises decides its message's fate
            await self._fail(broker.delivery(claimed, message), error)
        except asyncio.CancelledError as error:
            if not _is_being_cancelled():  # something that the handler awaited was cancelled, the agent was not
                await self._fail(broker.delivery(claimed, message), error)
                return
            await broker.delivery(claimed, message).release()
            raise
        finally:
            broker.leases.drop(claimed)
            HANDLING.reset(token)
            self._replied.discard(message.id)

    async def _handle_specially(self, handler: Handler | None, claimed: Claimed, message: Message) -> None:
        """Call a handler that wants typed content or a transaction, or that streams."""
        if handler is None:
            raise Reject(f"{self.agent_id!r} has no handler for messages of type {type_of(message)!r}")
        if handler.content_type is not None:
            message = _typed(message, handler.content_type)
        delivery = self.broker.delivery(claimed, message)
        if handler.streams:
            await self._stream(handler, claimed, delivery)
        elif handler.wants_transaction:
            await self._handle_in_transaction(handler, message, delivery)
        else:
            await self._finish(claimed, message, await _result(handler.function(message)))

    async def _handle_in_transaction(self, handler: Handler, message: Message, delivery: Delivery) -> None:
        """Call a handler and commit what it did; again, if something that it read had changed by then."""
        for races in range(MAX_RACES):
            transaction = delivery.transaction()
            try:
                result = await _result(handler.function(message, transaction))
                answers = self._owes_reply(message) and not transaction.replied
                if transaction.revision is None:
                    if answers:
                        transaction.reply(result)
                    await transaction.commit()
                elif answers:  # the handler has committed by itself, without its answer
                    await self.reply(message, result)
            except ConflictError:
                if not transaction.lost_race or races == MAX_RACES - 1:
                    raise
            else:
                return

    async def _finish(
        self, claimed: Claimed, message: Message, result: object, headers: dict[str, str] | None = None
    ) -> None:
        """Acknowledge the message and answer it, in one commit."""
        outbox = self.broker.outbox
        sends: tuple[Send, ...] = ()
        if message.reply_to is not None and message.id not in self._replied:
            sends = (reply_send(outbox, message, self.agent_id, result, headers),)
        if not claimed.transient:
            settle = Settle(claimed.mailbox, claimed.message_id, claimed.sequence, claimed.author)
            commit = Commit((), (settle,), (), (), sends)
            if message.headers is None:
                await outbox.commit(commit)
            else:
                await contents.settle(outbox, message, commit)
        elif sends:
            await outbox.engine.emit(sends[0])
        outbox.counters.acknowledged += 1
        outbox.note(message, "answered" if sends else "acknowledged")

    async def _stream(self, handler: Handler, claimed: Claimed, delivery: Delivery) -> None:
        """Send what an async generator yields as the parts of a reply; the last commit closes and acknowledges."""
        outbox = self.broker.outbox
        message = delivery.message
        parts = handler.function(message)
        count = 0
        try:
            async for part in parts:
                if message.reply_to is None:
                    continue
                send = reply_send(outbox, message, self.agent_id, part, {PART_HEADER: str(count)})
                count += 1
                if claimed.transient:
                    taken = await outbox.engine.emit(send)
                else:
                    taken = (await outbox.store(send)).delivered
                if not taken or (message.expires is not None and message.expires <= outbox.time()):
                    outbox.note(message, "stream ended", "nobody waits for more of it")
                    self._replied.add(message.id)  # so that what was broken off is not closed as if it were whole
                    break
        finally:
            await parts.aclose()
        await self._finish(claimed, message, None, {PART_HEADER: f"end:{count}"})

    async def _fail(self, delivery: Delivery, error: BaseException) -> None:
        """Do what the exception asks for; a requester is told at once, and its request is not tried again."""
        message = delivery.message
        if not isinstance(error, RetryLater | Reject):
            logger.error("agent %r failed on message %s", self.agent_id, message.id, exc_info=error)
        try:
            if isinstance(error, RetryLater) or not self._owes_reply(message):
                await delivery.fail(error)
            else:
                await self._fail_request(delivery, error)
        except AlreadySettledError:
            logger.info("message %s of %r was settled by another attempt", message.id, self.agent_id)

    async def _fail_request(self, delivery: Delivery, error: BaseException) -> None:
        try:
            await delivery.fail_request(error, self.agent_id)
        except MailboxFullError as full:  # where the reply was to go; the request is tried again later
            logger.warning("agent %r cannot answer message %s: %s", self.agent_id, delivery.message.id, full)
            await delivery.fail(error)

    def _owes_reply(self, message: Message) -> bool:
        return message.reply_to is not None and message.id not in self._replied


def _typed(message: Message, content_type: Any) -> Message:
    try:
        return replace(message, content=convert(message.content, content_type))
    except DecodeError as error:
        raise Reject(f"the content is no {content_type!r}: {error}") from error


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _result(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result
