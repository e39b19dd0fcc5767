"""The message broker: who has a mailbox, and how messages get in and out."""

from __future__ import annotations

import reprlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable

from msgspec.structs import replace

from tertulia._arguments import check_count, check_seconds
from tertulia._background import Background
from tertulia._clock import Clock, instant
from tertulia._names import check_name, check_topic_pattern
from tertulia._rules.retry import is_given_up
from tertulia.engines.base import (
    DEAD_LETTERS,
    DEFAULT_LEASE,
    Claimed,
    Commit,
    Engine,
    MailboxCounts,
    MailboxOptions,
    Send,
    Settle,
)
from tertulia.errors import (
    AlreadySettledError,
    ContentGoneError,
    DecodeError,
    InvalidInputError,
    TertuliaError,
    UnknownAgentError,
)
from tertulia.memory import SharedMemory
from tertulia.messaging import contents, dead_letters
from tertulia.messaging.delivery import Delivery, message_of
from tertulia.messaging.leases import LeaseKeeper
from tertulia.messaging.mailbox import MessageQueue
from tertulia.messaging.outbox import ROOM_TIMEOUT, Outbox, check_id
from tertulia.messaging.pointers import has_pointer
from tertulia.messaging.requests import RequestDesk
from tertulia.records import (
    AgentInfo,
    BrokerStats,
    DeadLetter,
    DeliveryMode,
    MailboxStats,
    Message,
    MessageRecord,
    QueuedMessage,
    Receipt,
    WhenFull,
)

MAX_QUEUE_SIZE = 1_000_000  # a mailbox is not a database
MAX_ATTEMPTS = 1_000
MAX_PEEK = 10_000  # messages shown at once: all are in memory together
MAX_FETCHED = 1_000  # messages whose pointers are kept for an acknowledgement by id: more are not in hand at once
MAX_RECEIVERS = 900  # of one content in one commit: an engine that takes a thousand operations has room for the rest


class MessageBroker:
    """The messages of a space, as `space.broker`.

    Raises, everywhere: InvalidNameError, InvalidTopicError, EncodeError, ValueTooLargeError for bad input, before
    anything is stored; EngineError when the engine fails; SpaceClosedError after closing.

    Cancellation: a cancelled `receive` holds no message. A cancelled send either happened or did not.
    """

    def __init__(self, engine: Engine, clock: Clock, memory: SharedMemory, background: Background) -> None:
        self.background = background
        self.leases = LeaseKeeper(engine, clock, background)
        self._engine = engine
        self.outbox = Outbox(engine, clock, memory, self.leases)
        self.desk = RequestDesk(self.outbox)
        self.contents = contents.Contents(self.outbox)
        self._fetched: OrderedDict[tuple[str, str], tuple[int, Message]] = OrderedDict()

    # --- agents ---

    async def register_agent(
        self,
        agent_id: str,
        *,
        max_queue_size: int = 1000,
        when_full: WhenFull = WhenFull.REJECT,
        max_attempts: int = 5,
        ordered: bool = False,
    ) -> bool:
        """Give the agent a mailbox, or change an existing one's settings; return whether it is new.

        `max_queue_size` counts every message that is not settled yet. `max_attempts` is how many failed attempts
        send a message to the dead letters. An `ordered` mailbox hands out one message at a time and lets none
        overtake one that is retried.
        """
        check_name(agent_id)
        check_count("max_queue_size", max_queue_size, MAX_QUEUE_SIZE)
        check_count("max_attempts", max_attempts, MAX_ATTEMPTS)
        _check_choice(when_full)
        await self._engine.open_mailbox(DEAD_LETTERS + agent_id, dead_letters.OPTIONS)
        options = MailboxOptions(
            max_size=max_queue_size, when_full=when_full, max_attempts=max_attempts, ordered=ordered
        )
        return await self._engine.open_mailbox(agent_id, options)

    async def unregister_agent(self, agent_id: str) -> int:
        """Remove the agent's mailbox and subscriptions; return how many messages were still in it.

        They go to the agent's dead letters, reason "unregistered", where they can still be read. An agent that is not
        registered has none.
        """
        check_name(agent_id)
        if agent_id not in {info.agent_id for info in await self.agents()}:
            return 0
        letters = DEAD_LETTERS + agent_id
        note = self.outbox.failure(0, "unregistered")
        return await self._engine.close_mailbox(agent_id, heir=letters, note=note)

    async def agents(self) -> list[AgentInfo]:
        """Return the registered agents, by name."""
        return [info for info in await self._engine.mailboxes() if not info.agent_id.startswith("_")]

    def queue(self, agent_id: str) -> MessageQueue:
        """Return the agent's mailbox as an object of its own."""
        return MessageQueue(check_name(agent_id), self)

    # --- sending ---

    async def send(self, message: Message, *, delay: float = 0.0, timeout: float = ROOM_TIMEOUT) -> Receipt:
        """Store the message in its receiver's mailbox, to be delivered after `delay` seconds.

        Stored when this returns, unless AT_MOST_ONCE, which is handed over if somebody takes it now. While a message
        of the same id is in the mailbox, it is not stored again; EXACTLY_ONCE, not even after that was handled.
        `timeout` bounds the wait for room where the owner chose WhenFull.WAIT.

        Raises UnknownAgentError, MailboxFullError.
        """
        send = self.outbox.send_of(message, delay)
        letter = send.mailbox != message.receiver
        if message.delivery_mode is DeliveryMode.AT_MOST_ONCE and not letter:
            taken = await self._engine.emit(send)
            self.outbox.log_commit((message,))
            return Receipt(message.id, taken)
        outbox = self.outbox
        sent = await outbox.store(send, timeout=timeout)
        outbox.counters.sent += 1
        outbox.note(message, "duplicate" if sent.duplicate else "sent")
        return Receipt(message.id, 0 if letter else sent.delivered, sent.duplicate, sent.dropped, letter)

    async def send_to(self, agent_id: str, message: Message) -> Receipt:
        """Send the message to this agent, whoever it names as receiver."""
        if message.receiver != agent_id:
            message = replace(message, receiver=agent_id)
        return await self.send(message)

    async def publish(
        self, topic: str, message: Message, *, delay: float = 0.0, timeout: float = ROOM_TIMEOUT
    ) -> Receipt:
        """Store a copy for every agent subscribed to the topic: for all of them or, on an error, for none.

        The receipt's `delivered` says how many mailboxes took it. Raises MailboxFullError when one is full whose
        owner chose to reject.
        """
        send = self.outbox.publish_of(topic, message, delay)
        letter = isinstance(send, Send)  # it goes in circles
        if message.delivery_mode is DeliveryMode.AT_MOST_ONCE and not letter:
            taken = await self._engine.emit(send)
            self.outbox.note(message, "published", topic)
            return Receipt(message.id, taken)
        sent = await self.outbox.store(send, timeout=timeout)
        delivered = 0 if letter else sent.delivered
        self.outbox.counters.sent += delivered
        self.outbox.note(message, "published", f"{topic} to {delivered}")
        return Receipt(message.id, delivered, sent.duplicate, sent.dropped, letter)

    async def send_by_pointer(
        self,
        message: Message,
        receivers: Iterable[str],
        *,
        ttl: float = contents.POINTER_TTL,
        delay: float = 0.0,
        timeout: float = ROOM_TIMEOUT,
    ) -> Receipt:
        """Keep the message's content in the space once, and send each receiver a message that points at it.

        One commit: all of them get it, or none. They see no difference: handlers and `receive` get the content with the
        message, exactly what was sent, or the message goes to the dead letters, reason "content gone". A content that
        is there already, from whomever, is not stored again. It is deleted when the last message that points at it is
        settled, in the same commit; one in the dead letters keeps it. A pointer is good for `ttl` seconds, after which
        the content goes, an hour later at most.

        Raises InvalidInputError for an AT_MOST_ONCE message, which nobody settles, and for no receivers or more than
        900; UnknownAgentError, MailboxFullError.
        """
        names = _check_receivers(receivers)
        _check_stored(message)
        messages = [replace(message, receiver=name) for name in names]
        lifetime = check_seconds("ttl", ttl)
        sent = await self.contents.send(messages, delay=delay, ttl=lifetime, timeout=timeout)
        for one, result in zip(messages, sent, strict=True):
            self.outbox.counters.sent += 1
            self.outbox.note(one, "duplicate" if result.duplicate else "sent", "a pointer")
        return contents.receipt(self.outbox, message, sent)

    async def publish_by_pointer(
        self,
        topic: str,
        message: Message,
        *,
        ttl: float = contents.POINTER_TTL,
        delay: float = 0.0,
        timeout: float = ROOM_TIMEOUT,
    ) -> Receipt:
        """Keep the message's content in the space once, and publish a message that points at it.

        As `send_by_pointer`, to all subscribers. How many they are is written down after the commit: if the process
        dies in between, the content stays until its time is over.
        """
        _check_stored(message)
        lifetime = check_seconds("ttl", ttl)
        sent = await self.contents.publish(topic, message, delay=delay, ttl=lifetime, timeout=timeout)
        self.outbox.counters.sent += sent.delivered
        self.outbox.note(message, "published", f"{topic} to {sent.delivered}, a pointer")
        return contents.receipt(self.outbox, message, (sent,))

    async def subscribe(self, agent_id: str, topic: str) -> bool:
        """Let the agent get what is published to topics that match; return whether this is new.

        `*` stands for one level, a last `>` for the rest. Raises UnknownAgentError.
        """
        return await self._engine.subscribe(check_name(agent_id), check_topic_pattern(topic))

    async def unsubscribe(self, agent_id: str, topic: str) -> bool:
        """Take back a subscription, by the pattern it was made with; return whether it was there."""
        return await self._engine.unsubscribe(check_name(agent_id), check_topic_pattern(topic))

    # --- receiving ---

    async def receive(
        self, agent_id: str, *, timeout: float | None = None, lease: float = DEFAULT_LEASE
    ) -> Delivery | None:
        """Take the agent's next message under a lease; wait up to `timeout` seconds (None: for ever) for one.

        Returns None when none came. The message is delivered again unless the delivery is acknowledged before
        `lease` seconds are over; `async with` renews it (see also Delivery.extend). Raises UnknownAgentError.
        """
        check_name(agent_id)
        lease = lease if lease is DEFAULT_LEASE else check_seconds("lease", lease)
        clock = self.outbox.clock
        wait = deadline = None
        if timeout is not None:
            wait = check_seconds("timeout", timeout, zero=True)
            deadline = clock.monotonic() + wait
        while True:
            claimed = await self._engine.claim(agent_id, lease=lease, wait=wait)
            if not claimed:
                return None
            message = self.admit(claimed[0])
            if message is None or message.headers is not None:
                message = await self.complete(claimed[0], message)
            if message is not None:
                return Delivery(claimed[0], message, self.outbox, lease)
            wait = None if deadline is None else max(0.0, deadline - clock.monotonic())

    def admit(self, claimed: Claimed) -> Message | None:
        """Return the claimed message, or None for one that must not be handled: see `turn_away`."""
        try:
            message = message_of(claimed)
        except DecodeError:
            return None
        if message.expires is not None and message.expires <= self.outbox.time():
            return None
        if claimed.failures and is_given_up(claimed.failures, claimed.max_attempts):
            return None
        self.outbox.counters.delivered += 1
        return message

    async def complete(self, claimed: Claimed, message: Message | None) -> Message | None:
        """Return what `admit` returned, with its content, which may be kept elsewhere.

        None when it must not be handled, or its content is gone: it has been dealt with then. A message
        that cannot be completed now is given back, and the error raised; so is one whose consumer is cancelled.
        """
        if message is None:
            await self.turn_away(claimed)
            return None
        if not has_pointer(message):
            return message
        try:
            completed = await self.contents.fetch(claimed, message)
        except (ContentGoneError, DecodeError) as gone:
            await self._give_up(self.delivery(claimed, message), gone)
            return None
        except BaseException:
            await self.delivery(claimed, message).release()
            raise
        self._fetched[claimed.mailbox, message.id] = claimed.sequence, message
        if len(self._fetched) > MAX_FETCHED:
            self._fetched.popitem(last=False)
        return completed

    async def _give_up(self, delivery: Delivery, error: TertuliaError) -> None:
        if delivery.message.reply_to is None:
            await self._bury(delivery, str(error))
            return
        try:
            await delivery.fail_request(error, delivery.message.receiver)
        except AlreadySettledError:
            delivery.mark_ended("settled elsewhere")

    async def turn_away(self, claimed: Claimed) -> None:
        """Deal with a message that cannot be decoded, has failed too often, or whose time is over.

        It goes to the dead letters, except for a request whose requester has given up: that ends with an entry in
        the log.
        """
        try:
            message = message_of(claimed)
        except DecodeError as error:
            message = Message(id=claimed.message_id, receiver=claimed.mailbox)
            await self._bury(self.delivery(claimed, message), f"undecodable: {error}")
            return
        delivery = self.delivery(claimed, message)
        if claimed.failures and is_given_up(claimed.failures, claimed.max_attempts):
            await self._bury(delivery, f"given up after {claimed.failures} failed attempts")
        elif message.reply_to is None:
            await self._bury(delivery, "expired")
        else:
            await self._drop(delivery, "expired request dropped")

    def delivery(self, claimed: Claimed, message: Message) -> Delivery:
        """Return a claimed message as a delivery."""
        return Delivery(claimed, message, self.outbox)

    async def peek(self, agent_id: str, *, limit: int = 100) -> list[QueuedMessage]:
        """Show the messages in the agent's mailbox, oldest first, without taking them. Raises UnknownAgentError."""
        check_count("limit", limit, MAX_PEEK)
        found = await self._engine.browse(check_name(agent_id), limit=limit)
        if not found and agent_id not in {info.agent_id for info in await self.agents()}:
            raise UnknownAgentError(agent_id)
        return [
            QueuedMessage(
                message=dead_letters.legible(agent_id, item),
                state=item.state,
                failures=item.failures,
                stored_at=instant(item.stored_at),
            )
            for item in found
        ]

    async def acknowledge(self, agent_id: str, message_id: str) -> None:
        """Take a message out of the agent's mailbox for good. Raises AlreadySettledError when it is not there."""
        settle = Settle(check_name(agent_id), check_id(message_id))
        fetched = self._fetched.pop((agent_id, message_id), None) if self._fetched else None
        if fetched is None or not await self._acknowledge_fetched(settle, *fetched):
            await self._engine.settle(settle)
        self.outbox.counters.acknowledged += 1

    async def _acknowledge_fetched(self, settle: Settle, sequence: int, message: Message) -> bool:
        """Acknowledge a message whose content was fetched here; return False if that one is settled already."""
        try:
            await contents.settle(self.outbox, message, Commit(settles=(replace(settle, sequence=sequence),)))
        except AlreadySettledError:
            return False
        return True

    async def _bury(self, delivery: Delivery, reason: str) -> None:
        try:
            await delivery.reject(reason)
        except AlreadySettledError:
            delivery.mark_ended("settled elsewhere")

    async def _drop(self, delivery: Delivery, status: str) -> None:
        try:
            await delivery.acknowledge()
        except AlreadySettledError:
            delivery.mark_ended("settled elsewhere")
        self.outbox.note(delivery.message, status)

    # --- requests ---

    async def request_response(self, message: Message, *, timeout: float = 30.0) -> Message:
        """Send the message and return the reply to it, waiting at most `timeout` seconds.

        Within a handler the deadline is that of the message being handled, if it is earlier. A reply that comes
        later is dropped and logged. If the reply is streamed, all parts come as a list.

        Raises RequestTimeoutError; RemoteError when the handler failed; UnknownAgentError and MailboxFullError at
        once; LoopError for a message that goes in circles.
        """
        return await self.desk.request(message, timeout)

    async def request_stream(self, message: Message, *, timeout: float = 30.0) -> AsyncIterator[Message]:
        """Send the message and iterate over the parts of the reply as they come.

        `timeout` bounds the whole stream. A reply that is not streamed comes as one part. Raises what
        request_response raises, and StreamBrokenError when a part is missing.
        """
        async for part in self.desk.stream(message, timeout):
            yield part

    # --- dead letters ---

    async def dead_letters(self, agent_id: str, *, limit: int = 100) -> list[DeadLetter]:
        """Return the agent's dead letters, oldest first; also of an agent that was unregistered."""
        check_count("limit", limit, dead_letters.MAX_DEAD_LETTERS)
        return await dead_letters.list_dead_letters(self.outbox, check_name(agent_id), limit, self.contents)

    async def redeliver(self, agent_id: str, message_id: str | None = None) -> int:
        """Move one dead letter, or all of them, back into the mailbox; return how many were moved.

        Their count of failures starts anew; their history stays. Raises UnknownAgentError, MailboxFullError.
        """
        return await dead_letters.redeliver(self.outbox, check_name(agent_id), message_id)

    async def purge(self, agent_id: str, message_id: str | None = None) -> int:
        """Remove one dead letter, or all of them, for good; return how many were removed."""
        return await dead_letters.purge(self.outbox, check_name(agent_id), message_id)

    # --- figures ---

    async def get_stats(self) -> BrokerStats:
        """Return figures about all mailboxes, and what this handle has done."""
        engine = await self._engine.stats()
        mailboxes = await self._all_mailbox_stats(engine.mailboxes)
        counters = self.outbox.counters
        return BrokerStats(
            registered_agents=len(mailboxes),
            topics=engine.topics,
            queue_sizes={name: stats.waiting + stats.delayed for name, stats in mailboxes.items()},
            mailboxes=mailboxes,
            sent=counters.sent,
            delivered=counters.delivered,
            acknowledged=counters.acknowledged,
            failed=counters.failed,
            dead_lettered=counters.dead_lettered,
            dropped=counters.dropped,
            late_replies=counters.late_replies,
            message_log_size=len(self.outbox.log),
        )

    async def mailbox_stats(self, agent_id: str) -> MailboxStats:
        """Return the figures of one mailbox. Raises UnknownAgentError."""
        check_name(agent_id)
        stats = (await self._all_mailbox_stats((await self._engine.stats()).mailboxes)).get(agent_id)
        if stats is None:
            raise UnknownAgentError(agent_id)
        return stats

    async def _all_mailbox_stats(self, counts: dict[str, MailboxCounts]) -> dict[str, MailboxStats]:
        none = MailboxCounts(0, 0, 0)
        return {
            info.agent_id: MailboxStats(
                agent_id=info.agent_id,
                waiting=counts.get(info.agent_id, none).waiting,
                pending=counts.get(info.agent_id, none).leased,
                delayed=counts.get(info.agent_id, none).delayed,
                dead_letters=counts.get(DEAD_LETTERS + info.agent_id, none).waiting,
                max_queue_size=info.max_queue_size,
            )
            for info in await self.agents()
        }

    def message_log(self, limit: int = 100) -> list[MessageRecord]:
        """Return what happened to messages through this handle, newest last. The last 1,000 are kept."""
        return self.outbox.records(limit)

    def close(self) -> None:
        """End the requests that wait; the space calls it when it closes."""
        self.desk.close()
        self.leases.close()


def _check_receivers(receivers: Iterable[str]) -> list[str]:
    """Return the names, each once. Raises InvalidInputError, InvalidNameError."""
    names = list(dict.fromkeys(check_name(name) for name in receivers)) if not isinstance(receivers, str) else []
    if not 0 < len(names) <= MAX_RECEIVERS:
        shown = reprlib.repr(receivers) if isinstance(receivers, str) else len(names)
        raise InvalidInputError(f"receivers are 1 to {MAX_RECEIVERS} agents, not {shown}")
    return names


def _check_stored(message: Message) -> None:
    if message.delivery_mode is DeliveryMode.AT_MOST_ONCE:
        raise InvalidInputError("an AT_MOST_ONCE message is settled by nobody, so its content could not be let go")


def _check_choice(when_full: object) -> None:
    if not isinstance(when_full, WhenFull):
        message = f"when_full must be a WhenFull, not {reprlib.repr(when_full)}"
        raise InvalidInputError(message)
