"""The way out: messages to engine sends, and commits that wait for room where an owner wants that."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable

from msgspec.structs import replace

from tertulia._clock import Clock, instant
from tertulia._codec import decoder_for, encode
from tertulia._names import check_name, check_topic
from tertulia._rules.hops import extended_path, is_loop
from tertulia.engines.base import DEAD_LETTERS, REPLIES, Commit, Committed, Engine, Publish, Send
from tertulia.errors import InvalidInputError, MailboxFullError
from tertulia.memory import check_seconds
from tertulia.messaging.context import HANDLING
from tertulia.records import DeliveryMode, Failure, Message, MessageRecord

MESSAGE_LOG_SIZE = 1_000  # per handle, like the access log
ROOM_TIMEOUT = 30.0  # how long a sender waits for room by default; as long as a request waits for its reply
MAX_TRACEBACK = 4_096  # characters of a traceback kept with a failure: its last frames
MAX_REASON = 500

_FAILURES = decoder_for(Failure)


class Counters:
    """What this handle has done since it was opened."""

    __slots__ = ("acknowledged", "dead_lettered", "delivered", "dropped", "failed", "late_replies", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.delivered = 0
        self.acknowledged = 0
        self.failed = 0
        self.dead_lettered = 0
        self.dropped = 0
        self.late_replies = 0


class Outbox:
    """Encodes messages, keeps the log, and commits. One per handle of a space."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self.engine = engine
        self.clock = clock
        self.time = clock.time
        self.limit = engine.capabilities.max_value_bytes
        self.jitter = random.random
        self.counters = Counters()
        self.log: deque[tuple[str, str, str, str, float, str]] = deque(maxlen=MESSAGE_LOG_SIZE)

    def send_of(self, message: Message, delay: float = 0.0) -> Send:
        """Return the send of a message to its receiver, or to the dead letters when it goes in circles.

        Raises InvalidNameError, InvalidInputError, EncodeError, ValueTooLargeError.
        """
        receiver = message.receiver
        if not receiver.startswith(REPLIES):
            check_name(receiver)
        message = self._with_path(message)
        body = encode(message, self.limit)
        if is_loop(message.hops):
            return self._loop(message, body, receiver, optional=False)
        return Send(
            receiver,
            check_id(message.id),
            body,
            delay and check_seconds("delay", delay, zero=True),
            message.delivery_mode is DeliveryMode.EXACTLY_ONCE,
        )

    def publish_of(self, topic: str, message: Message, delay: float = 0.0) -> Send | Publish:
        """Return the publication of a message; one that goes in circles goes to its sender's dead letters."""
        check_topic(topic)
        message = self._with_path(message)
        if message.topic != topic:
            message = replace(message, topic=topic)
        body = encode(message, self.limit)
        if is_loop(message.hops):
            return self._loop(message, body, message.sender, optional=True)
        return Publish(
            topic,
            check_id(message.id),
            body,
            delay and check_seconds("delay", delay, zero=True),
            message.delivery_mode is DeliveryMode.EXACTLY_ONCE,
        )

    async def commit(self, commit: Commit, *, timeout: float = ROOM_TIMEOUT) -> Committed:
        """Commit; where a full mailbox's owner lets senders wait, wait for room up to `timeout` seconds."""
        try:
            return await self.engine.commit(commit)
        except MailboxFullError as full:
            if not full.waits or timeout <= 0:
                raise
            return await self._commit_when_room(commit, full.agent_id, timeout)

    async def _commit_when_room(self, commit: Commit, agent_id: str, timeout: float) -> Committed:
        deadline = self.clock.monotonic() + timeout
        while True:
            left = deadline - self.clock.monotonic()
            await self.engine.wait_for_room(agent_id, max(left, 0.0))
            try:
                return await self.engine.commit(commit)
            except MailboxFullError as full:
                if not full.waits or self.clock.monotonic() >= deadline:
                    raise
                agent_id = full.agent_id

    def log_commit(self, messages: Iterable[Message]) -> None:
        """Write down that these messages were sent."""
        for message in messages:
            self.counters.sent += 1
            self.note(message, "sent")

    def note(self, message: Message, status: str, detail: str = "") -> None:
        """Write down what happened to a message."""
        self.log.append((message.id, message.sender, message.receiver, status, self.time(), detail))

    def records(self, limit: int) -> list[MessageRecord]:
        """Return the latest of what was written down, newest last."""
        latest = list(self.log)[-limit:] if limit > 0 else []
        return [
            MessageRecord(message_id=id, sender=sender, receiver=receiver, status=status, at=instant(at), detail=detail)
            for id, sender, receiver, status, at, detail in latest
        ]

    def failure(self, attempt: int, reason: str, error: str = "", traceback: str = "") -> bytes:
        """Return a failure as a note that travels with its message."""
        failure = Failure(
            attempt=attempt,
            at=instant(self.time()),
            reason=reason[:MAX_REASON],
            error=error[:MAX_REASON],
            traceback=traceback[-MAX_TRACEBACK:],
        )
        return encode(failure, self.limit)

    def _with_path(self, message: Message) -> Message:
        handling = HANDLING.get()
        if handling is None or message.hops:
            return message
        return replace(message, hops=extended_path(handling.hops, handling.agent_id))

    def _loop(self, message: Message, body: bytes, agent_id: str, *, optional: bool) -> Send:
        self.counters.dead_lettered += 1
        self.note(message, "dead-lettered", "loop")
        note = self.failure(0, "loop", f"{len(message.hops)} hops")
        return Send(DEAD_LETTERS + agent_id, check_id(message.id), body, notes=(note,), optional=optional)


def failures_of(notes: Iterable[bytes]) -> tuple[Failure, ...]:
    """Return the failures that travelled with a message."""
    return tuple(_FAILURES.decode(note) for note in notes)


def check_id(message_id: str) -> str:
    """Return a message id, or raise InvalidInputError: a string of 1 to 128 printable characters."""
    if not message_id or len(message_id) > 128 or not message_id.isprintable():  # noqa: PLR2004 - as said
        message = f"a message id must be 1 to 128 printable characters, not {message_id!r}"
        raise InvalidInputError(message)
    return message_id
