"""Deliveries: one attempt at handling a message, and how it ends."""

# pyright: reportPrivateUsage=false
# The modules of the core are friends: what they share with each other is no promise to users.

from __future__ import annotations

import traceback as tracebacks
from types import TracebackType
from typing import Any, Self

import msgspec
from msgspec.structs import force_setattr

from tertulia._arguments import check_seconds
from tertulia._background import logger
from tertulia._codec import decoder_for, encode_message, is_deep
from tertulia._rules.retry import is_given_up, retry_delay
from tertulia.engines.base import DEAD_LETTERS, DEFAULT_LEASE, STAMP, Claimed, Commit, Committed, Send, Settle
from tertulia.errors import DecodeError, InvalidInputError, Reject, RetryLater
from tertulia.messaging import contents
from tertulia.messaging.outbox import Outbox, encodable
from tertulia.messaging.pointers import has_pointer
from tertulia.records import Message, new_id
from tertulia.transaction import Transaction

_MESSAGES = decoder_for(Message)
ERROR_HEADER = "tertulia-error"  # on a reply: the handler failed; the content says how
MAX_DETAIL = 4_096  # characters of an exception's text that a requester gets; as much as is kept of a traceback
PART_HEADER = "tertulia-part"  # on a reply: its place in a stream; "end:N" closes a stream of N parts


class Delivery:
    """A message in a consumer's hands, under a lease.

    It ends by exactly one of `acknowledge` (done), `release` (again, please), `reject` (to the dead letters), or a
    committed `transaction()`; when the lease runs out before, the message is delivered again. As a context manager
    it renews the lease while the block runs, acknowledges when the block is left, and on an exception does what a
    handler's exception does: RetryLater releases it, Reject rejects it, anything else counts as a failure.
    """

    __slots__ = ("_claimed", "_ended", "_lease", "_outbox", "message")

    def __init__(self, claimed: Claimed, message: Message, outbox: Outbox, lease: float = DEFAULT_LEASE) -> None:
        self.message = message
        self._lease = lease
        self._claimed = claimed
        self._outbox = outbox
        self._ended = claimed.transient

    @property
    def attempt(self) -> int:
        """1 for the first time this message is delivered."""
        return self._claimed.attempt

    @property
    def failures(self) -> int:
        """How many earlier attempts failed."""
        return self._claimed.failures

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this message, for effects outside the space."""
        return f"{self._claimed.mailbox}:{self.message.id}"

    @property
    def ended(self) -> bool:
        """Whether the delivery was acknowledged, released, rejected or committed here."""
        return self._ended

    @property
    def settle(self) -> Settle:
        """What takes this message out of its mailbox, as a part of a commit."""
        claimed = self._claimed
        return Settle(claimed.mailbox, claimed.message_id, claimed.sequence, claimed.author)

    async def acknowledge(self) -> None:
        """Take the message out of the mailbox: it is handled.

        Raises AlreadySettledError when another attempt was faster.
        """
        if self._claimed.transient:
            return
        if self.message.headers is None or not has_pointer(self.message):
            await self._outbox.engine.settle(self.settle)
        else:
            await contents.settle(self._outbox, self.message, Commit(settles=(self.settle,)))
        self.mark_ended("acknowledged")

    async def release(self, *, delay: float = 0.0, counted: bool = False, reason: str = "") -> bool:
        """Give the message back, to be delivered again after `delay` seconds; return False if it was lost already.

        With `counted` this attempt counts as a failure.
        """
        check_seconds("delay", delay, zero=True)
        if self._claimed.transient:
            return False
        note = self._outbox.failure(self.attempt, reason) if reason else b""
        released = await self._outbox.engine.release(self._claimed, delay=delay, counted=counted, note=note)
        self.mark_ended("released", reason)
        return released

    async def reject(self, reason: str, *, error: str = "", traceback: str = "") -> None:
        """Move the message to the dead letters, with its history. Raises AlreadySettledError."""
        if not self._claimed.transient:
            note = self._outbox.failure(self.attempt, reason, error, traceback)
            await self._outbox.commit(self.dead_letter_commit(note), timeout=0)
        self.mark_ended("dead-lettered", reason)

    async def extend(self, lease: float = DEFAULT_LEASE) -> None:
        """Make the lease end `lease` seconds from now. Raises LeaseLostError."""
        if not self._claimed.transient:
            await self._outbox.engine.extend(self._claimed, check_seconds("lease", lease))

    def transaction(self) -> DeliveryTransaction:
        """Return a transaction that acknowledges this message with its commit: all of it once, or nothing."""
        return DeliveryTransaction(self, self._outbox)

    async def fail(self, error: BaseException) -> bool:
        """Do what a handler's exception asks for; return whether the message was given up.

        RetryLater releases without counting, Reject rejects; otherwise the failure is counted, and the message is
        retried with exponential backoff or, after the mailbox's `max_attempts`, goes to the dead letters.
        """
        if isinstance(error, RetryLater):
            try:
                await self.release(delay=error.delay)
            except InvalidInputError as bad:  # a delay that is no delay is a failure like any other
                error = bad
            else:
                return False
        if isinstance(error, Reject):
            await self.reject(error.reason, error="Reject")
            return True
        self._outbox.counters.failed += 1
        kind = type(error).__name__
        reason, text = f"{kind}: {_text(error)}", _traceback(error)
        if self._claimed.transient or is_given_up(self.failures + 1, self._claimed.max_attempts):
            await self.reject(reason, error=kind, traceback=text)
            return True
        note = self._outbox.failure(self.attempt, reason, kind, text)
        delay = retry_delay(self.failures + 1, self._outbox.jitter())
        await self._outbox.engine.release(self._claimed, delay=delay, counted=True, note=note)
        self.mark_ended("failed", reason)
        return False

    async def fail_request(self, error: BaseException, agent_id: str) -> None:
        """Answer the requester with the error and move the request to the dead letters, in one commit.

        It is not retried: the requester knows, and decides. Raises AlreadySettledError, and MailboxFullError when
        the reply goes to a mailbox that is full.
        """
        outbox = self._outbox
        outbox.counters.failed += 1
        kind = type(error).__name__
        detail = _text(error)
        reply = reply_send(outbox, self.message, agent_id, detail, {ERROR_HEADER: kind})
        if self._claimed.transient:
            await outbox.engine.emit(reply)
        else:
            reason = detail if isinstance(error, Reject) else f"{kind}: {detail}"
            note = outbox.failure(self.attempt, reason, kind, _traceback(error))
            letter = self.dead_letter_commit(note)
            await outbox.commit(Commit((), letter.settles, (), (), (*letter.sends, reply)), timeout=0)
        self.mark_ended("dead-lettered", f"{kind}: {detail}")

    async def __aenter__(self) -> Self:
        self._outbox.leases.hold(self._claimed, self._lease)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._outbox.leases.drop(self._claimed)
        if self._ended:
            return False
        if error is None:
            await self.acknowledge()
        elif isinstance(error, Exception):
            await self.fail(error)
            return isinstance(error, (RetryLater, Reject))
        else:
            await self.release()
        return False

    def dead_letter_commit(self, note: bytes) -> Commit:
        """Return the commit that moves the message to the dead letters."""
        claimed = self._claimed
        letter = Send(
            DEAD_LETTERS + claimed.mailbox,
            f"{claimed.message_id}#{claimed.sequence}",  # an id may be used again, and be buried again
            claimed.body,
            notes=(*claimed.notes, note),
            optional=True,
            author=claimed.author,
        )
        return Commit(settles=(self.settle,), sends=(letter,))

    def mark_ended(self, status: str, detail: str = "") -> None:
        """Write down how the delivery ended."""
        self._ended = True
        counters = self._outbox.counters
        if status == "acknowledged":
            counters.acknowledged += 1
        elif status == "dead-lettered":
            counters.dead_lettered += 1
        self._outbox.note(self.message, status, detail)


class DeliveryTransaction(Transaction):
    """A transaction that settles a delivery with its commit.

    Raises AlreadySettledError from the commit when another attempt at the message has committed: then nothing of
    this one is applied.
    """

    def __init__(self, delivery: Delivery, outbox: Outbox) -> None:
        super().__init__(outbox)
        self.delivery = delivery
        self.replied = False
        self._settles = () if delivery._claimed.transient else (delivery.settle,)

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this message, for effects outside the space."""
        return self.delivery.idempotency_key

    def reply(self, content: Any) -> None:
        """Answer the request with the commit. Raises InvalidInputError when the message is no request."""
        request = self.delivery.message
        if request.reply_to is None:
            message = "this message does not ask for a reply"
            raise InvalidInputError(message)
        self._check_open()
        self.replied = True
        send = reply_send(self._outbox, request, request.receiver, content)
        (self._sends if self._settles else self._emits).append(send)

    async def commit(self) -> None:
        """Apply everything and acknowledge the message, or do nothing; see Transaction.commit."""
        await super().commit()
        self.delivery.mark_ended("acknowledged")

    async def _apply(self, commit: Commit) -> Committed:
        if self._settles and has_pointer(self.delivery.message):
            return await contents.settle(self._outbox, self.delivery.message, commit)
        return await self._outbox.commit(commit)


def reply_send(
    outbox: Outbox,
    request: Message,
    sender: str,
    content: object,
    headers: dict[str, str] | None = None,
) -> Send:
    """Return the send of a reply; one that nobody waits for any more is no error."""
    receiver = request.reply_to or ""
    reply_id = new_id()
    reply = Message(
        id=reply_id,
        sender=sender,
        receiver=receiver,
        content=content,
        sent=outbox.time(),
        correlation_id=request.id,
        headers=headers,
    )
    return Send(receiver, reply_id, encode_message(reply, content, outbox.limit), optional=True, author=sender)


def _text(error: BaseException) -> str:
    """Return an exception's text, cut to a few KiB, whatever it takes."""
    try:
        text = str(error)
    except Exception as worse:  # noqa: BLE001 - the text is for people; its message's fate must not hang on it
        text = f"its text cannot be shown ({type(worse).__name__})"
    return encodable(text[:MAX_DETAIL])


def _traceback(error: BaseException) -> str:
    return "".join(tracebacks.format_exception(error))


def message_of(claimed: Claimed) -> Message:
    """Return the message of a claim, with its receiver and attempt. Raises DecodeError.

    Its sender is who the engine knows to have sent it, where it knows.
    """
    body = claimed.body
    try:
        message = _MESSAGES.decode(body)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise DecodeError(f"message {claimed.message_id!r} cannot be decoded: {error}") from error
    if is_deep(body, message.content):
        raise DecodeError(f"the content of message {claimed.message_id!r} is nested too deep")
    # The message was made here a moment ago and nobody else has it, so it may still be completed.
    if message.receiver != claimed.mailbox:
        force_setattr(message, "receiver", claimed.mailbox)
    if claimed.author and message.sender != claimed.author:
        logger.warning("message %r says it is from %r; it is from %r", message.id, message.sender, claimed.author)
        force_setattr(message, "sender", claimed.author)
    if claimed.attempt > 1:
        force_setattr(message, "attempt", claimed.attempt)
    if claimed.notes:
        _fill_in_stamp(message, claimed.notes[0])
    return message


def _fill_in_stamp(message: Message, note: bytes) -> None:
    """Complete a content that is about a write of the commit it came with, which no sender could know."""
    content = message.content
    if note.startswith(STAMP) and content.__class__ is dict:
        revision, _, version = note.removeprefix(STAMP).partition(b":")
        content["revision"] = int(revision)
        content["version"] = int(version)
