"""Calls whose results are kept in the space's memory, for all who make them."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable
from typing import Any, cast

from tertulia._arguments import check_seconds
from tertulia._codec import convert
from tertulia._names import check_name
from tertulia._rules.deadlines import request_deadline
from tertulia.errors import (
    ComputeTimeoutError,
    InvalidInputError,
    Reject,
    RequestTimeoutError,
)
from tertulia.messaging.context import HANDLING
from tertulia.patterns._requests import fields_of, rebuilt, request_key
from tertulia.patterns.caching import DEFAULT_TTL, Cache, CacheInfo, check_cache_key, make_terms
from tertulia.patterns.single_flight import DEFAULT_LEASE, Call, SingleFlight
from tertulia.records import Message, Receipt
from tertulia.space import Space

INVALIDATION = "cache_invalidate"  # the type of a message that takes cached keys back
INVALIDATION_TOPIC = "cache.invalidate"  # where such messages are published
COMPUTE_TIMEOUT = 300.0  # seconds: longer than a model takes for one answer; what takes more says so
REQUEST_TIMEOUT = 30.0  # as any request's


class CachedCalls:
    """A cache that all who use the space share, and what it takes to have each key computed once.

    `lease` is how many seconds others wait for a computation whose process died or was stopped before they take it
    over.
    """

    def __init__(self, space: Space, *, lease: float = DEFAULT_LEASE) -> None:
        self.space = space
        self.broker = space.broker
        self._cache = Cache(space)
        self._flights = SingleFlight(space, self._cache, lease=check_seconds("lease", lease))

    async def get_or_compute(
        self,
        key: str,
        function: Callable[[], Any],
        *,
        agent: str = "cache",
        ttl: float | None = DEFAULT_TTL,
        stale_while_revalidate: float = 0.0,
        negative_ttl: float | None = None,
        tags: Iterable[str] = (),
        timeout: float | None = COMPUTE_TIMEOUT,
        type: Any = None,
    ) -> Any:
        """Return what is cached under the key, else call the function and cache what it returns.

        Whatever is cached is a hit, None and other falsy values too. Of all who miss the key at once, in any process,
        one calls its function, plain or async; the others get what it returned. If its process dies or is stopped,
        another takes over, and what the first still brings is not stored. Everybody gets a copy in plain types, or
        rebuilt as `type`, whoever computed it.

        The value is fresh for `ttl` seconds (None: until it is invalidated). For `stale_while_revalidate` seconds more
        it is still returned while one caller's function computes it anew in the background, for up to `timeout`
        seconds. A failure reaches everybody who waits for it; it is remembered for `negative_ttl` seconds, and without
        that the next caller tries anew. What is kept, and how long, is as the caller said whose function ran; so are
        `tags`, for `invalidate`, and `agent`, who owns the entry.

        Waits for at most `timeout` seconds (None: as long as it takes), within a handler no longer than the request
        that it handles. Raises ComputeFailedError, ComputeTimeoutError; DecodeError when the value is no `type`;
        InvalidInputError when the function needs its own key.

        Cancellation: the function goes on while somebody else in this handle waits for it; with the last one it is
        cancelled, and who waits elsewhere takes over. A plain function runs on the event loop; one that holds it up
        for longer than the lease loses it, and its value is returned but not stored.
        """
        call = Call(
            key=check_cache_key(key),
            function=lambda _: function(),
            terms=make_terms(agent, ttl, stale_while_revalidate, negative_ttl, tags),
            until=self._until(timeout),
        )
        _check_callable(function)
        answer = await self._flights.get(call, timeout=timeout)
        if answer is None:
            raise ComputeTimeoutError(key, timeout or 0.0)
        if answer.failure is not None:
            raise answer.failure.as_error(key) from answer.cause
        return answer.value if type is None else convert(answer.value, type)

    async def request_with_cache(  # noqa: PLR0913 - a request's arguments and a cached key's
        self,
        requester: str,
        receiver: str,
        content: object,
        *,
        key: str | None = None,
        ttl: float | None = DEFAULT_TTL,
        stale_while_revalidate: float = 0.0,
        negative_ttl: float | None = None,
        tags: Iterable[str] = (),
        timeout: float = REQUEST_TIMEOUT,
        headers: dict[str, str] | None = None,
        type: Any = None,
    ) -> Any:
        """Return the content of the receiver's reply, from the cache where it has been asked before.

        `key` defaults to one made of the receiver, the content and the headers, not of the requester: whose answer
        depends on who asks needs a key of its own. Everything else is as in `get_or_compute`, the function being the
        request. A request that runs out of time is its requester's own affair: others that wait ask anew.

        Raises, wherever the request was made, RemoteError when the handler failed; UnknownAgentError and
        MailboxFullError at once; RequestTimeoutError; LoopError; StreamBrokenError.
        """
        check_name(receiver)
        terms = make_terms(check_name(requester), ttl, stale_while_revalidate, negative_ttl, tags)
        limit = self.space.engine.capabilities.max_value_bytes
        key = request_key(receiver, content, headers, limit) if key is None else key
        timeout = check_seconds("timeout", timeout)

        async def ask(left: float | None) -> Any:
            message = Message(
                sender=requester, receiver=receiver, content=content, sent=self.space.clock.time(), headers=headers
            )
            reply = await self.broker.request_response(message, timeout=timeout if left is None else max(left, 1e-9))
            return reply.content

        call = Call(key=check_cache_key(key), function=ask, terms=terms, until=self._until(timeout), fields=fields_of)
        answer = await self._flights.get(call, timeout=timeout)
        if answer is None:
            raise RequestTimeoutError(receiver, key, timeout)
        if answer.failure is not None:
            raise rebuilt(answer.failure) or answer.failure.as_error(key)
        return answer.value if type is None else convert(answer.value, type)

    def _until(self, timeout: float | None) -> float | None:
        """Return when a call's time is over, on the monotonic clock: its own, or that of the request being handled."""
        now, handling = self.space.clock.monotonic(), HANDLING.get()
        inherited = (
            None if handling is None or handling.deadline is None else handling.deadline - self.space.clock.time()
        )
        if timeout is None:
            return None if inherited is None else now + inherited
        return now + request_deadline(0.0, check_seconds("timeout", timeout), inherited)

    async def invalidate(self, *, key: str | None = None, pattern: str | None = None, tag: str | None = None) -> int:
        """Take back one cached key, all that match a glob, or all with a tag; return how many had a value.

        From then on nobody is served a value, or a cached failure, that was computed or being computed before: a
        computation that is under way goes on for those who waited for it already, and is not stored.

        Cancellation: of many keys some may have been taken back.
        """
        count = await self._cache.invalidate(key=key, pattern=pattern, tag=tag)
        self._flights.counts.invalidated += count
        return count

    async def request_invalidation(
        self,
        sender: str,
        *,
        key: str | None = None,
        pattern: str | None = None,
        tag: str | None = None,
        topic: str = INVALIDATION_TOPIC,
    ) -> Receipt:
        """Publish a message that asks those who have `on_invalidation` as a handler to take cached keys back.

        For who changes what others have cached, maybe in other spaces, and does not know where.
        """
        given = {name: text for name, text in (("key", key), ("pattern", pattern), ("tag", tag)) if text is not None}
        if len(given) != 1:
            raise InvalidInputError("what is invalidated is one of key=, pattern= and tag=")
        content = {"type": INVALIDATION, **given}
        message = Message(sender=check_name(sender), content=content, sent=self.space.clock.time())
        return await self.broker.publish(topic, message)

    async def on_invalidation(self, message: Message) -> int:
        """Handle a message that takes cached keys back: `agent.on_message("cache_invalidate")(system.on_invalidation)`.

        Its content has one of "key", "pattern" and "tag"; any other goes to the dead letters.
        """
        content = message.content
        if not isinstance(content, dict):
            raise Reject("what is to be invalidated is told by a dict")
        asked = cast("dict[str, Any]", content)
        try:
            return await self.invalidate(key=asked.get("key"), pattern=asked.get("pattern"), tag=asked.get("tag"))
        except InvalidInputError as error:
            raise Reject(str(error)) from error

    def cache_info(self) -> CacheInfo:
        """Return what the cache did for the callers of this object since it was made."""
        return CacheInfo(**vars(self._flights.counts))


def _check_callable(function: object) -> None:
    if not callable(function):
        raise InvalidInputError(f"what computes a value is a function without arguments, not {reprlib.repr(function)}")
