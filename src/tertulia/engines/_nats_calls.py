"""Calls that wait for their answers: one, or many until one that says that it is the last."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

from tertulia._clock import Clock, hold
from tertulia.engines._nats_client import STATUS
from tertulia.engines._nats_patience import Unanswered
from tertulia.errors import AccessDeniedError

NO_RESPONDERS = "503"

Unanswerable = tuple[str, bytes, dict[str, str] | None]  # a message that nobody answers: subject, payload, headers


class Call:
    """A call that waits for its answer; with `parts` for all messages until one with a status.

    It fails when `before`, which is sent ahead of it, is denied.
    """

    __slots__ = ("before", "future", "parts", "seen", "subject")

    def __init__(self, subject: str, parts: list[Any] | None, before: Sequence[Unanswerable] = ()) -> None:
        self.subject = subject
        self.before = before
        self.parts = parts
        self.seen = 0
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def sends_to(self, subject: str) -> str:
        """Return the subject of those it sends to that is this one in lower case, or nothing."""
        for one in (self.subject, *[one for one, _, _ in self.before]):
            if one.lower() == subject:
                return one
        return ""


class Calls:
    """The calls of a connection. Each is answered under a number of its own in `inbox`, and told so in time.

    `on_silence` is called when one was not answered.
    """

    def __init__(self, clock: Clock, on_silence: Callable[[], None]) -> None:
        self._clock = clock
        self._on_silence = on_silence
        self._waiting: dict[str, Call] = {}
        self._number = 0
        self.inbox = ""

    @contextmanager
    def waiting(self, call: Call, seconds: float, *, probing: bool = True) -> Generator[str]:
        """Let a call wait for so long at most; yields the subject to which it is to be answered.

        Not `probing`: that it is not answered is what shall be found out, and nothing to be acted on.
        """
        self._number += 1
        token = str(self._number)
        self._waiting[token] = call
        release = hold(self._clock)
        timer = asyncio.get_running_loop().call_later(seconds, self._expire, call, seconds, probing)
        try:
            yield self.inbox + token
        finally:
            timer.cancel()
            release()
            del self._waiting[token]

    def _expire(self, call: Call, seconds: float, probing: bool) -> None:  # noqa: FBT001 - called by the loop
        if call.future.done():
            return
        if call.parts is not None and len(call.parts) > call.seen:  # it is being answered
            call.seen = len(call.parts)
            asyncio.get_running_loop().call_later(seconds, self._expire, call, seconds, probing)
        else:
            call.fail(Unanswered("the NATS server did not answer in time", sent=probing))
            if probing:
                self._on_silence()

    async def on_answer(self, message: Any) -> None:
        """Take in what came to the inbox."""
        call = self._waiting.get(message.subject[len(self.inbox) :])
        if call is None or call.future.done():
            return
        status = None if message.headers is None else message.headers.get(STATUS)
        if status == NO_RESPONDERS:
            call.future.set_exception(Unanswered("nobody answers to it", sent=False))
        elif call.parts is None:
            call.future.set_result(message)
        else:
            call.parts.append(message)
            if status is not None:
                call.future.set_result(call.parts)

    def fail_all(self, error: Exception) -> None:
        """Fail whoever waits."""
        for call in list(self._waiting.values()):
            call.fail(error)

    def deny(self, subject: str, name: str) -> bool:
        """Fail the call that has just been refused, by its subject in lower case; tell whether there was one."""
        for call in self._waiting.values():
            if denied := call.sends_to(subject):
                call.fail(AccessDeniedError(name, "publish to", denied, "the NATS server denies it"))
                return True
        return False
