"""The connection to the servers: calls with one answer or many, subscriptions, and what to do when it breaks.

The only module that touches the client library; its exceptions end here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from nats import errors as foreign
from nats.aio.client import Client
from nats.js.api import Header

from tertulia._background import logger
from tertulia._clock import Clock, hold
from tertulia.engines._nats_url import Settings
from tertulia.errors import (
    AccessDeniedError,
    EngineError,
    EngineUnavailableError,
    OutcomeUnknownError,
    SpaceClosedError,
    ValueTooLargeError,
)

ATTEMPT = 1.0  # seconds until a call that got no answer is tried again; to miss a leader and elect one takes 4 to 9
BRIEF = 0.1  # the same for the first try at what any replica may answer: the next to be asked may not stand still
PROBE = 1.0  # seconds for the server to answer a ping before the connection is taken for dead
RECONNECT_WAIT = 0.1  # seconds between attempts at one server: well within the 2 s in which watches are to resume
REOPEN_WAIT = 0.5  # seconds between attempts at a new connection, after the server closed the last one for good
PING_INTERVAL = 10  # seconds; a connection that nobody calls on is found dead after three of them
FLUSH = 2.0  # seconds for what was sent last to reach the server when a space is closed
STATUS, DESCRIPTION = Header.STATUS.value, Header.DESCRIPTION  # the library's own keys: one is text, one is not
NO_RESPONDERS = "503"
_DENIED = re.compile(r"permissions violation for (publish|subscription) to \"([^\"]+)\"", re.IGNORECASE)
_REFUSED = ("authorization violation", "authentication", "nkey", "user jwt")

_NOT_INBOXES = ("tertulia", "$")  # what begins subjects that mean something: nobody is answered there

Handler = Callable[[Any], Awaitable[None] | None]
Unanswerable = tuple[str, bytes, dict[str, str] | None]  # a message that nobody answers: subject, payload, headers


class Unanswered(Exception):  # noqa: N818 - a signal between the engine's modules
    """A call got no answer. `sent` is False when it cannot have been acted on."""

    def __init__(self, why: str, *, sent: bool) -> None:
        super().__init__(why)
        self.why = why
        self.sent = sent


class _Call:
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


class Subscription:
    """Messages of a subject go to a handler, which must not wait, until it is stopped."""

    def __init__(self, wire: Wire, subject: str, handler: Handler, queue: str) -> None:
        self.subject = subject
        self.queue = queue
        self.denied: AccessDeniedError | None = None
        self._wire = wire
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
        self._wire.forget(self)
        foreign_sub, self._foreign = self._foreign, None
        if foreign_sub is not None and not self._client.is_closed:
            try:
                await foreign_sub.unsubscribe()
            except foreign.Error:
                logger.debug("%s was unsubscribed while the connection closed", self.subject, exc_info=True)


class Wire:
    """One connection, kept up as long as it is wanted. `epoch` grows whenever messages may have been missed."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._client: Any = None
        self._calls: dict[str, _Call] = {}
        self._subscriptions: list[Subscription] = []
        self._inbox = ""
        self._number = 0
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
        """Connect. Raises EngineUnavailableError, AccessDeniedError."""
        try:
            async with asyncio.timeout(self._settings.timeout):
                await self._open_client()
        except TimeoutError:
            why = f": {_said(self._last_error)}" if self._last_error else ""
            servers = ", ".join(self._settings.servers)
            raise EngineUnavailableError(f"no NATS server answers at {servers}{why}") from self._last_error
        self._up.set()

    async def _open_client(self) -> None:
        client: Any = Client()
        self._client = client
        self._fatal = asyncio.get_running_loop().create_future()
        connecting = asyncio.ensure_future(client.connect(**self._options()))
        try:
            await asyncio.wait([connecting, self._fatal], return_when=asyncio.FIRST_COMPLETED)
            if self._fatal.done():
                raise self._fatal.result()  # noqa: TRY301 - it ends here, like every other failure
            try:
                await connecting
            except (foreign.Error, OSError, ValueError) as error:
                raise EngineUnavailableError(f"the connection failed: {_said(error)}") from error
        except BaseException:
            await _ended(connecting)
            await self._drop_client(client)
            raise
        self._inbox = client.new_inbox() + "."
        await client.subscribe(self._inbox + "*", cb=self._on_answer)

    def _options(self) -> dict[str, Any]:
        settings = self._settings
        options: dict[str, Any] = {
            "servers": list(settings.servers),
            "name": f"tertulia {settings.space}",
            "error_cb": self._on_error,
            "disconnected_cb": self._on_disconnected,
            "reconnected_cb": self._on_reconnected,
            "closed_cb": self._on_closed,
            "connect_timeout": max(1, round(min(settings.timeout, 5.0))),
            "reconnect_time_wait": RECONNECT_WAIT,
            "max_reconnect_attempts": -1,
            "ping_interval": PING_INTERVAL,
            "inbox_prefix": settings.inbox,
            "user": settings.user,
            "password": settings.password,
            "token": settings.token,
            "nkeys_seed": settings.nkey,
            "user_credentials": settings.creds,
            "tls": settings.tls,
        }
        return {name: value for name, value in options.items() if value is not None}

    async def aclose(self) -> None:
        """Send what is to be sent, and disconnect. Calls that wait fail with SpaceClosedError."""
        self._closed = True
        client = self._client
        if client is not None and client.is_connected:
            try:
                await self._flush(FLUSH)
            except Unanswered as error:
                logger.warning("the NATS connection closed before all was sent: %s", error)
        self._fail_all(SpaceClosedError())
        await self._drop_client(client)
        for task in list(self._tasks):
            await _ended(task)

    async def _drop_client(self, client: Any) -> None:
        """Close a client and wait until nothing of it runs any more."""
        if client is None:
            return
        try:
            await client.close()
        except (foreign.Error, OSError, AttributeError) as error:  # the last, where it never had a socket
            logger.debug("closing the NATS connection: %s", _said(error))

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
        return await self._called(_Call(subject, None, before), payload, headers, timeout)

    async def collect(self, subject: str, payload: bytes, *, timeout: float = ATTEMPT) -> list[Any]:
        """Return all answers, the last of which has a status; see `call`."""
        return await self._called(_Call(subject, []), payload, None, timeout)

    async def _called(self, call: _Call, payload: bytes, headers: dict[str, str] | None, timeout: float) -> Any:
        if not self._up.is_set():
            await self.wait_up(timeout)
        self._number += 1
        token = str(self._number)
        self._calls[token] = call
        release = hold(self._clock)
        timer = asyncio.get_running_loop().call_later(timeout, self._expire, call, timeout)
        try:
            for one in call.before:
                await self._send(*one, "")
            await self._send(call.subject, payload, headers, self._inbox + token)
            return await call.future
        finally:
            timer.cancel()
            release()
            del self._calls[token]

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
            raise Unanswered(_said(error), sent=False) from error

    async def _on_answer(self, message: Any) -> None:
        call = self._calls.get(message.subject[len(self._inbox) :])
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

    def _expire(self, call: _Call, timeout: float) -> None:
        if call.future.done():
            return
        if call.parts is not None and len(call.parts) > call.seen:  # it is being answered
            call.seen = len(call.parts)
            asyncio.get_running_loop().call_later(timeout, self._expire, call, timeout)
        else:
            call.future.set_exception(Unanswered("the NATS server did not answer in time", sent=True))
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
            _abort(client)  # what could not be sent so far would be waited for
            await client.force_reconnect()

    # --- subscriptions ---

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> Subscription:
        """Hand the messages of a subject to a handler, also after a reconnect. The server knows of it a moment later.

        Raises Unanswered.
        """
        await self.wait_up(self._settings.timeout)
        subscription = Subscription(self, subject, handler, queue)
        self._subscriptions.append(subscription)
        try:
            await subscription.start(self._client)
        except (foreign.Error, OSError) as error:
            self.forget(subscription)
            raise Unanswered(_said(error), sent=False) from error
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
        self._number += 1
        token = str(self._number)
        call = self._calls[token] = _Call(self._inbox + token, None)
        release = hold(self._clock)
        timer = asyncio.get_running_loop().call_later(
            seconds, call.fail, Unanswered("the NATS server did not answer in time", sent=False)
        )
        try:
            await self._send(call.subject, b"", None, "")
            await call.future
        except AccessDeniedError:
            pass  # we may not send to ourselves; that this was said is an answer, too
        finally:
            timer.cancel()
            release()
            del self._calls[token]

    # --- what the client tells ---

    async def _on_error(self, error: Exception) -> None:
        if not self._up.is_set() and (isinstance(error, OSError) or not self._client.is_connected):
            _abort(self._client)  # the client forgets the socket of a try at connecting that failed
        text = _said(error)
        denied = _DENIED.search(text)
        if denied is not None:
            self._deny(denied.group(1).lower(), denied.group(2), text)
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
        if action == "publish":
            for call in self._calls.values():
                if denied := call.sends_to(wanted):
                    call.fail(AccessDeniedError(name, "publish to", denied, "the NATS server denies it"))
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
        self._fail_all(Unanswered("the connection to the NATS server was lost", sent=True))

    async def _on_reconnected(self) -> None:
        logger.info("the connection to the NATS server is back")
        self._up.set()
        self._new_epoch()

    async def _on_closed(self) -> None:
        """Connect anew when the server has closed the connection for good."""
        self._up.clear()
        self._fail_all(Unanswered("the NATS server closed the connection", sent=True))
        if not self._closed and self._inbox:
            self._start(self._reopen())

    async def _reopen(self) -> None:
        logger.warning("the NATS server closed the connection (%s); connecting anew", _said(self._last_error))
        while not self._closed:
            try:
                await self._open_client()
                for subscription in list(self._subscriptions):
                    await subscription.start(self._client)
            except (EngineError, AccessDeniedError, foreign.Error, OSError) as error:
                logger.warning("no new connection to the NATS server yet: %s", _said(error))
                await asyncio.sleep(REOPEN_WAIT)
            else:
                self._up.set()
                self._new_epoch()
                return

    def _new_epoch(self) -> None:
        self.epoch += 1
        for callback in list(self.on_epoch):
            callback()

    def _fail_all(self, error: Exception) -> None:
        for call in list(self._calls.values()):
            call.fail(error)

    def _start(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name="tertulia nats connection")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _ended(task: Awaitable[Any]) -> None:
    """Cancel a task and wait for its end."""
    future = asyncio.ensure_future(task)
    future.cancel()
    await asyncio.wait([future])
    if not future.cancelled() and future.exception() is not None:
        logger.debug("a task of the NATS connection ended", exc_info=future.exception())


def _abort(client: Any) -> None:
    """Drop a client's socket, with what has not been sent."""
    writer = getattr(getattr(client, "_transport", None), "_io_writer", None)
    if writer is not None:
        writer.transport.abort()


def _said(error: BaseException | None) -> str:
    return "" if error is None else (str(error) or type(error).__name__)


class Patience:
    """How long a call goes on trying: until `seconds` are over, by real time."""

    __slots__ = ("_end", "attempts", "doubt", "why")

    def __init__(self, seconds: float) -> None:
        self._end = asyncio.get_running_loop().time() + seconds
        self.attempts = 0
        self.doubt = False
        self.why = ""

    @property
    def brief(self) -> float:
        """Seconds that a try may take where the next one may be answered by another server."""
        return min(ATTEMPT, BRIEF * 2.0 ** min(self.attempts, 8))

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self._end - asyncio.get_running_loop().time()

    async def after(self, lost: Unanswered, wire: Wire, pause: float) -> None:
        """Wait a moment for a server to be there again.

        Raises, when time is up, OutcomeUnknownError if something was sent, else EngineUnavailableError.
        """
        self.attempts += 1
        self.doubt = self.doubt or lost.sent
        self.why = lost.why
        if self.left <= pause:
            raise self.given_up() from lost
        await asyncio.sleep(pause)
        try:
            await wire.wait_up(self.left)
        except Unanswered as still:
            raise self.given_up() from still

    def given_up(self) -> EngineError:
        """Return the error of a call that was tried long enough."""
        if self.doubt:
            return OutcomeUnknownError(f"whether it happened is not known: {self.why}")
        return EngineUnavailableError(f"nothing was done: {self.why}")
