"""The connection to the servers: what is sent on it, subscriptions, and what to do when it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from nats import errors as foreign
from nats.aio.client import Client

from tertulia._background import logger
from tertulia._clock import Clock
from tertulia.engines._nats_calls import Call, Calls, Unanswerable
from tertulia.engines._nats_client import abort, check_login, denial_in, drop, ended, options_of, said
from tertulia.engines._nats_patience import ATTEMPT, Unanswered
from tertulia.engines._nats_subscription import Handler, Subscription
from tertulia.engines._nats_url import Settings
from tertulia.errors import (
    AccessDeniedError,
    EngineError,
    EngineUnavailableError,
    SpaceClosedError,
    ValueTooLargeError,
)

PROBE = 1.0  # seconds for the server to answer a ping before the connection is taken for dead
REOPEN_WAIT = 0.5  # seconds between attempts at a new connection, after the server closed the last one for good
FLUSH = 2.0  # seconds for what was sent last to reach the server when a space is closed
_REFUSED = ("authorization violation", "authentication", "nkey", "user jwt")

_NOT_INBOXES = ("tertulia", "$")  # what begins subjects that mean something: nobody is answered there


class Wire:
    """One connection, kept up as long as it is wanted. `epoch` grows whenever messages may have been missed."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._client: Any = None
        self._calls = Calls(clock, self._probe_soon)
        self._subscriptions: list[Subscription] = []
        self._up = asyncio.Event()
        self._fatal: asyncio.Future[Exception] | None = None
        self._last_error: Exception | None = None
        self._closed = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._probing: asyncio.Task[None] | None = None
        self.epoch = 0
        self.on_epoch: list[Callable[[], None]] = []

    # --- opening and closing ---

    async def open(self) -> None:
        """Connect. Raises EngineUnavailableError, AccessDeniedError; MissingExtraError, InvalidInputError."""
        check_login(self._settings)
        try:
            async with asyncio.timeout(self._settings.timeout):
                await self._open_client()
        except TimeoutError:
            why = f": {said(self._last_error)}" if self._last_error else ""
            servers = ", ".join(self._settings.servers)
            raise EngineUnavailableError(f"no NATS server answers at {servers}{why}") from self._last_error
        self._up.set()

    async def _open_client(self) -> None:
        client: Any = Client()
        self._client = client
        self._fatal = asyncio.get_running_loop().create_future()
        connecting = asyncio.ensure_future(client.connect(**options_of(self._settings), **self._callbacks()))
        try:
            await asyncio.wait([connecting, self._fatal], return_when=asyncio.FIRST_COMPLETED)
            if self._fatal.done():
                raise self._fatal.result()  # noqa: TRY301 - it ends here, like every other failure
            try:
                await connecting
            except (foreign.Error, OSError, ValueError) as error:
                raise EngineUnavailableError(f"the connection failed: {said(error)}") from error
        except BaseException:
            await ended(connecting)
            await drop(client)
            raise
        self._calls.inbox = client.new_inbox() + "."
        await client.subscribe(self._calls.inbox + "*", cb=self._calls.on_answer)

    def _callbacks(self) -> dict[str, Any]:
        return {
            "error_cb": self._on_error,
            "disconnected_cb": self._on_disconnected,
            "reconnected_cb": self._on_reconnected,
            "closed_cb": self._on_closed,
        }

    async def aclose(self) -> None:
        """Send what is to be sent, and disconnect. Calls that wait fail with SpaceClosedError."""
        self._closed = True
        client = self._client
        if client is not None and not await self._all_is_sent(client):
            abort(client)  # else what was not would be waited for
        self._calls.fail_all(SpaceClosedError())
        await drop(client)
        for task in list(self._tasks):
            await ended(task)

    async def _all_is_sent(self, client: Any) -> bool:
        if not client.is_connected:
            return False
        try:
            await self._flush(FLUSH)
        except Unanswered as error:
            logger.warning("the NATS connection closed before all was sent: %s", error)
            return False
        return True

    @property
    def max_payload(self) -> int:
        """The bytes that a message and its headers may have."""
        return self._client.max_payload

    @property
    def server_version(self) -> str:
        """The version that the server gives itself; for people."""
        return str(self._client.connected_server_version)

    @property
    def reconnecting(self) -> tuple[list[str], int, float]:
        """The servers that are known, how often the client tries them again (-1: for ever), and after how long."""
        options = self._client.options
        servers = [one.netloc for one in self._client.servers]
        return servers, int(options["max_reconnect_attempts"]), float(options["reconnect_time_wait"])

    @property
    def connected(self) -> bool:
        """Whether the server can be called now."""
        return self._up.is_set()

    async def wait_up(self, seconds: float) -> None:
        """Wait until there is a connection. Raises Unanswered, SpaceClosedError."""
        if self._closed:
            raise SpaceClosedError
        if self._up.is_set():
            return
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                await self._up.wait()
        except TimeoutError:
            raise Unanswered("the NATS server cannot be reached", sent=False) from None
        if self._closed:
            raise SpaceClosedError

    # --- calls ---

    async def call(
        self,
        subject: str,
        payload: bytes = b"",
        headers: dict[str, str] | None = None,
        *,
        timeout: float = ATTEMPT,
        before: Sequence[Unanswerable] = (),
    ) -> Any:
        """Return the answer to a message, which is sent after `before`.

        Raises Unanswered; AccessDeniedError when the server lets nobody like us send this.
        """
        return await self._called(Call(subject, None, before), payload, headers, timeout)

    async def collect(self, subject: str, payload: bytes, *, timeout: float = ATTEMPT) -> list[Any]:
        """Return all answers, the last of which has a status; see `call`."""
        return await self._called(Call(subject, []), payload, None, timeout)

    async def _called(self, call: Call, payload: bytes, headers: dict[str, str] | None, timeout: float) -> Any:
        if not self._up.is_set():
            await self.wait_up(timeout)
        with self._calls.waiting(call, timeout) as reply:
            for one in call.before:
                await self._send(*one, "")
            await self._send(call.subject, payload, headers, reply)
            return await call.future

    async def publish(self, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> None:
        """Send a message that nobody answers. Raises Unanswered."""
        if self._closed:
            raise SpaceClosedError
        if not self._up.is_set():
            raise Unanswered("the NATS server cannot be reached", sent=False)
        await self._send(subject, payload, headers, "")

    async def answer(self, message: Any, payload: bytes = b"") -> None:
        """Answer a message, if its sender waits for that and can be reached."""
        if message.reply and self._up.is_set() and not message.reply.startswith(_NOT_INBOXES):
            try:
                await self._send(message.reply, payload, None, "")
            except Unanswered:
                logger.debug("an answer was not sent", exc_info=True)

    async def _send(self, subject: str, payload: bytes, headers: dict[str, str] | None, reply: str) -> None:
        try:
            await self._client.publish(subject, payload, reply=reply, headers=headers)
        except foreign.MaxPayloadError as error:
            raise ValueTooLargeError(len(payload), self.max_payload) from error
        except (foreign.Error, OSError) as error:
            raise Unanswered(said(error), sent=False) from error

    def _probe_soon(self) -> None:
        if self._probing is None or self._probing.done():
            self._probing = self._start(self._probe())

    async def _probe(self) -> None:
        """See whether the connection is still one; a half-open one is given up."""
        client = self._client
        if not client.is_connected:
            return
        try:
            await self._flush(PROBE)
        except Unanswered:
            logger.warning("the NATS server does not answer; connecting anew")
            abort(client)  # what could not be sent so far would be waited for
            await client.force_reconnect()

    # --- subscriptions ---

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> Subscription:
        """Hand the messages of a subject to a handler, also after a reconnect. The server knows of it a moment later.

        Raises Unanswered.
        """
        await self.wait_up(self._settings.timeout)
        subscription = Subscription(subject, handler, queue, self.forget)
        self._subscriptions.append(subscription)
        try:
            await subscription.start(self._client)
        except (foreign.Error, OSError) as error:
            self.forget(subscription)
            raise Unanswered(said(error), sent=False) from error
        return subscription

    def forget(self, subscription: Subscription) -> None:
        """Do not subscribe it again."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    async def flush(self) -> None:
        """Wait until the server has taken in all that was sent before. Raises Unanswered."""
        await self.wait_up(ATTEMPT)
        await self._flush(ATTEMPT)

    async def _flush(self, seconds: float) -> None:
        """Send a message to ourselves, and wait until it comes back.

        The client's own `flush` (2.16) says that all is well when it has stopped reading; and where a ping that was
        given up is answered late, it does stop.
        """
        call = Call("", None)
        with self._calls.waiting(call, seconds, probing=False) as reply:
            call.subject = reply
            try:
                await self._send(reply, b"", None, "")
                await call.future
            except AccessDeniedError:
                pass  # we may not send to ourselves; that this was said is an answer, too

    # --- what the client tells ---

    async def _on_error(self, error: Exception) -> None:
        if not self._up.is_set() and (isinstance(error, OSError) or not self._client.is_connected):
            abort(self._client)  # the client forgets the socket of a try at connecting that failed
        text = said(error)
        denied = denial_in(text)
        if denied is not None:
            self._deny(*denied, text)
        elif isinstance(error, foreign.SlowConsumerError):
            logger.error("messages from the NATS server were dropped: too many came at once")
            self._new_epoch()
        elif self._fatal is not None and not self._fatal.done() and any(one in text.lower() for one in _REFUSED):
            name = self._settings.agent or self._settings.user or ""
            self._fatal.set_result(AccessDeniedError(name, "connect to", self._settings.servers[0], text))
        elif self._up.is_set():
            logger.warning("the NATS connection had a fault: %s", text)
        self._last_error = error

    def _deny(self, action: str, subject: str, text: str) -> None:
        """Fail what the server has just refused. It names the subject in lower case."""
        wanted, name = subject.lower(), self._settings.agent or self._settings.user or ""
        if action == "publish" and self._calls.deny(wanted, name):
            return
        for subscription in self._subscriptions:
            if action == "subscription" and subscription.subject.lower() == wanted:
                subscription.denied = AccessDeniedError(
                    name, "subscribe to", subscription.subject, "the NATS server denies it"
                )
                return
        logger.error("the NATS server refused: %s", text)

    async def _on_disconnected(self) -> None:
        self._up.clear()
        if not self._closed:
            logger.warning("the connection to the NATS server is lost; reconnecting")
        self._calls.fail_all(Unanswered("the connection to the NATS server was lost", sent=True))

    async def _on_reconnected(self) -> None:
        logger.info("the connection to the NATS server is back")
        self._up.set()
        self._new_epoch()

    async def _on_closed(self) -> None:
        """Connect anew when the server has closed the connection for good."""
        self._up.clear()
        self._calls.fail_all(Unanswered("the NATS server closed the connection", sent=True))
        if not self._closed and self._calls.inbox:
            self._start(self._reopen())

    async def _reopen(self) -> None:
        logger.warning("the NATS server closed the connection (%s); connecting anew", said(self._last_error))
        while not self._closed:
            try:
                await self._open_client()
                for subscription in list(self._subscriptions):
                    await subscription.start(self._client)
            except (EngineError, AccessDeniedError, foreign.Error, OSError) as error:
                logger.warning("no new connection to the NATS server yet: %s", said(error))
                await asyncio.sleep(REOPEN_WAIT)
            else:
                self._up.set()
                self._new_epoch()
                return

    def _new_epoch(self) -> None:
        self.epoch += 1
        for callback in list(self.on_epoch):
            callback()

    def _start(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name="tertulia nats connection")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
