"""The way out: messages to engine sends, and commits that wait for room where an owner wants that."""

from __future__ import annotations

import random
import reprlib
from collections import deque
from collections.abc import Iterable
from math import isfinite
from typing import cast

from msgspec.structs import replace

from tertulia._arguments import check_seconds
from tertulia._clock import Clock, instant, sleep
from tertulia._codec import decoder_for, encode, encode_message
from tertulia._names import check_name, check_topic
from tertulia._rules.hops import MAX_HOPS
from tertulia.engines.base import DEAD_LETTERS, REPLIES, STAMP, Commit, Committed, Engine, Publish, Send, Sent
from tertulia.errors import InvalidInputError, MailboxFullError
from tertulia.memory import SharedMemory
from tertulia.messaging.context import path_so_far
from tertulia.messaging.leases import LeaseKeeper
from tertulia.messaging.pointers import POINTER_HEADER, without_pointer
from tertulia.records import DeliveryMode, Failure, Message, MessageRecord, new_id

MESSAGE_LOG_SIZE = 1_000  # per handle, like the access log
ROOM_TIMEOUT = 30.0  # how long a sender waits for room by default; as long as a request waits for its reply
ROOM_CHECK = 1.0  # seconds after which a sender looks for room though nobody woke it: a hint may have woken another
ROOM_RETRY = 0.01  # seconds between looks while there is some room, but less than a commit needs
MAX_TRACEBACK = 4_096  # characters of a traceback kept with a failure: its last frames
MAX_REASON = 500
MAX_ID = 128  # as long as a name: both are parts of keys and subjects

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
    """Encodes messages, keeps the log, and commits. One per handle of a space, and what its deliveries work with."""

    def __init__(self, engine: Engine, clock: Clock, memory: SharedMemory, leases: LeaseKeeper) -> None:
        self.engine = engine
        self.clock = clock
        self.memory = memory
        self.leases = leases
        self.time = clock.time
        self.limit = engine.capabilities.max_value_bytes
        self.jitter = random.random
        self.counters = Counters()
        self.log: deque[tuple[str, str, str, str, float, str]] = deque(maxlen=MESSAGE_LOG_SIZE)

    def send_of(self, message: Message, delay: float = 0.0) -> Send:
        """Return the send of a message to its receiver, or to the dead letters when it goes in circles.

        Raises InvalidNameError, InvalidInputError, EncodeError, ValueTooLargeError.
        """
        _check_fields(message, delay)
        if delay:
            check_seconds("delay", delay, zero=True)
        if message.headers is not None and POINTER_HEADER in message.headers:
            message = without_pointer(message)
        return self.trusted_send_of(message, delay)

    def check(self, message: Message, delay: float = 0.0) -> None:
        """Raise InvalidInputError for fields that the receiver could not read back, or that ask for the impossible."""
        _check_fields(message, delay)
        if delay:
            check_seconds("delay", delay, zero=True)

    def trusted_send_of(self, message: Message, delay: float = 0.0) -> Send:
        """Return the send of a message whose fields the library has set itself, all but receiver and content."""
        receiver = check_name(message.receiver)
        hops = message.hops
        if not hops and (hops := path_so_far()):
            message = replace(message, hops=hops)
        body = encode_message(message, message.content, self.limit)
        if len(hops) > MAX_HOPS:
            return self._loop(message, body, receiver, optional=False)
        dedupe = message.delivery_mode is DeliveryMode.EXACTLY_ONCE
        if message.reply_to is None:
            return Send(receiver, message.id, body, delay, dedupe, author=message.sender)
        return Send(receiver, message.id, body, delay, dedupe, answer_to=message.reply_to, author=message.sender)

    def publish_of(self, topic: str, message: Message, delay: float = 0.0) -> Send | Publish:
        """Return the publication of a message; one that goes in circles goes to its sender's dead letters."""
        self.check(message, delay)
        if message.headers is not None and POINTER_HEADER in message.headers:
            message = without_pointer(message)
        return self.trusted_publish_of(topic, message, delay)

    def trusted_publish_of(self, topic: str, message: Message, delay: float = 0.0) -> Send | Publish:
        """Return the publication of a message whose fields have been checked."""
        check_topic(topic)
        if message.topic != topic or not message.hops:
            message = replace(message, topic=topic, hops=message.hops or path_so_far())
        body = encode_message(message, message.content, self.limit)
        if len(message.hops) > MAX_HOPS:
            return self._loop(message, body, message.sender, optional=True)
        return Publish(
            topic,
            message.id,
            body,
            delay,
            message.delivery_mode is DeliveryMode.EXACTLY_ONCE,
            author=message.sender,
        )

    def goes_in_circles(self, message: Message) -> bool:
        """Tell whether a message that is sent now goes to the dead letters, since too many have handed it on."""
        return len(message.hops or path_so_far()) > MAX_HOPS

    async def store(self, send: Send | Publish, *, timeout: float = ROOM_TIMEOUT) -> Sent:
        """Commit one send; see `commit`."""
        try:
            sent = await self.engine.send(send)
        except MailboxFullError as full:
            if not full.waits or timeout <= 0:
                raise
            sent = (await self._commit_when_room(Commit(sends=(send,)), full.agent_id, timeout)).sent[0]
        if sent.dropped:
            self.log_dropped(sent.dropped)
        return sent

    async def commit(self, commit: Commit, *, timeout: float = ROOM_TIMEOUT) -> Committed:
        """Commit; where a full mailbox's owner lets senders wait, wait for room up to `timeout` seconds.

        What had to go from a mailbox whose owner drops the oldest is written down.
        """
        try:
            committed = await self.engine.commit(commit)
        except MailboxFullError as full:
            if not full.waits or timeout <= 0:
                raise
            committed = await self._commit_when_room(commit, full.agent_id, timeout)
        for sent in committed.sent:
            if sent.dropped:
                self.log_dropped(sent.dropped)
        return committed

    async def _commit_when_room(self, commit: Commit, agent_id: str, timeout: float) -> Committed:
        deadline = self.clock.monotonic() + timeout
        while True:
            left = deadline - self.clock.monotonic()
            woken = await self.engine.wait_for_room(agent_id, min(max(left, 0.0), ROOM_CHECK))
            try:
                return await self.engine.commit(commit)
            except MailboxFullError as full:
                left = deadline - self.clock.monotonic()
                if not full.waits or left <= 0:
                    raise
                agent_id = full.agent_id
            if woken and await self.engine.wait_for_room(agent_id, 0.0):  # there is some, but too little: no spinning
                await sleep(self.clock, min(ROOM_RETRY, left))

    def log_commit(self, messages: Iterable[Message]) -> None:
        """Write down that these messages were sent."""
        for message in messages:
            self.counters.sent += 1
            self.note(message, "sent")

    def log_dropped(self, dropped: tuple[tuple[str, str], ...]) -> None:
        """Write down which messages had to go to make room."""
        for agent_id, message_id in dropped:
            self.counters.dropped += 1
            self.note(Message(id=message_id, receiver=agent_id), "dropped", "the mailbox was full")

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
            reason=encodable(str(reason)[:MAX_REASON]),
            error=encodable(error[:MAX_REASON]),
            traceback=encodable(traceback[-MAX_TRACEBACK:]),
        )
        return encode(failure, self.limit)

    def _loop(self, message: Message, body: bytes, agent_id: str, *, optional: bool) -> Send:
        self.counters.dead_lettered += 1
        self.note(message, "dead-lettered", "loop")
        note = self.failure(0, "loop", f"{len(message.hops)} hops")
        letter = f"{check_id(message.id)}#{new_id()}"  # an id may be used again, and be buried again
        return Send(DEAD_LETTERS + agent_id, letter, body, notes=(note,), optional=optional, author=message.sender)


def failures_of(notes: Iterable[bytes]) -> tuple[Failure, ...]:
    """Return the failures that travelled with a message."""
    return tuple(_FAILURES.decode(note) for note in notes if not note.startswith(STAMP))


def check_id(message_id: str) -> str:
    """Return a message id, or raise InvalidInputError: a string of 1 to 128 printable characters."""
    if message_id.__class__ is not str or not 0 < len(message_id) <= MAX_ID or not message_id.isprintable():
        message = f"a message id must be a string of 1 to {MAX_ID} printable characters, not {reprlib.repr(message_id)}"
        raise InvalidInputError(message)
    return message_id


def encodable(text: str) -> str:
    """Return a text with what UTF-8 cannot hold written as escapes."""
    return text.encode(errors="backslashreplace").decode()


def _check_fields(message: Message, delay: float) -> None:
    message_id = message.id
    if message_id.__class__ is not str or not 0 < len(message_id) <= MAX_ID or not message_id.isprintable():
        check_id(message_id)  # says what is wrong
    mode = message.delivery_mode
    if mode.__class__ is not DeliveryMode:
        raise InvalidInputError(f"delivery_mode must be a DeliveryMode, not {reprlib.repr(mode)}")
    if delay and mode is DeliveryMode.AT_MOST_ONCE:
        raise InvalidInputError("an AT_MOST_ONCE message is stored nowhere, so it cannot be delayed")
    if message.sender.__class__ is not str:
        raise InvalidInputError(f"the sender must be a string, not {reprlib.repr(message.sender)}")
    if message.headers is not None or message.reply_to is not None or message.correlation_id is not None:
        _check_optional_fields(message)
    expires = cast("object", message.expires)
    if expires is not None and not (isinstance(expires, (int, float)) and isfinite(expires)):
        raise InvalidInputError(f"expires must be seconds since the epoch, not {reprlib.repr(expires)}")


def _check_optional_fields(message: Message) -> None:
    for name, text in (("reply_to", message.reply_to), ("correlation_id", message.correlation_id)):
        if text is not None and text.__class__ is not str:
            raise InvalidInputError(f"{name} must be a string, not {reprlib.repr(text)}")
    if message.reply_to is not None and not message.reply_to.startswith(REPLIES):
        check_name(message.reply_to)
    headers = message.headers
    if headers is None:
        return
    if headers.__class__ is not dict or any(
        key.__class__ is not str or value.__class__ is not str for key, value in headers.items()
    ):
        raise InvalidInputError(f"headers must map strings to strings, not {reprlib.repr(headers)}")
