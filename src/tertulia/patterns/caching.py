"""The cache that agents share: what is kept of a computation, for how long, and how it is taken back.

A cached key is an entry of the memory under `cache:KEY`, so it can be watched and listed like any other. Beside it the
library keeps who computes the key now (a lease) and what the last computation failed with. All three carry the same
tags, and taking a key back removes all three in one commit: a computation that is under way loses its lease, so what
it brings afterwards is not stored.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Struct

from tertulia._arguments import check_seconds, check_tags
from tertulia._background import logger
from tertulia._codec import decoder_for, encode, encode_message, is_deep
from tertulia._names import (
    MAX_KEY_BYTES,
    RESERVED_KEYS,
    check_key,
    check_name,
    key_matcher,
    literal_prefix,
)
from tertulia.engines.base import Commit, Delete, Put, Record
from tertulia.errors import ComputeFailedError, DecodeError, InvalidInputError, InvalidKeyError
from tertulia.space import Space

CACHE_KEYS = "cache:"
FLIGHT_KEYS = RESERVED_KEYS + "cache:flight:"
FAILURE_KEYS = RESERVED_KEYS + "cache:failure:"
MAX_CACHE_KEY = MAX_KEY_BYTES - len(FAILURE_KEYS)  # bytes; the longest of the three prefixes has to fit too
DEFAULT_TTL = 300.0  # seconds; five minutes, as most caches of answers have it
FAILURE_SHOWN = 10.0  # seconds that a failure stays for those who wait for it; they are woken at once
BATCH = 100  # keys taken back in one commit: three deletes each, well below what any engine takes


Fields = tuple[str | int | tuple[str, ...], ...]  # what an error of the library is made of


class Cached(Struct, frozen=True, kw_only=True):
    """What is stored under `cache:KEY`. Times are civil; `fresh_until` is None for a value that never gets stale."""

    value: object
    computed_by: str
    computed: float
    took: float
    fresh_until: float | None = None

    def is_fresh(self, now: float) -> bool:
        """Tell whether the value may be served without being computed anew."""
        return self.fresh_until is None or now < self.fresh_until


class CachedFailure(Struct, frozen=True, kw_only=True):
    """What a computation failed with.

    `flight` is the fence of its lease, `fields` what an error of the library is made of, `until` (civil) the end of
    negative caching, None without it.
    """

    flight: int
    computed_by: str
    kind: str
    detail: str
    fields: Fields = ()
    until: float | None = None

    def as_error(self, key: str) -> ComputeFailedError:
        """Return the error that everybody gets who asked for the key."""
        return ComputeFailedError(key, self.computed_by, self.kind, self.detail)


class CacheInfo(Struct, frozen=True, kw_only=True):
    """What the cache did for the callers of one handle since it was opened.

    Each call ends as one of `hits` (fresh), `stale_hits` (old, while it is computed anew), `negative_hits` (a failure
    that was cached) or `misses`, of which `shared` were served by a computation that somebody else had begun.
    `computed` and `failures` count the functions that were run here, `refused` those whose result came too late to be
    stored, `invalidated` the keys that were taken back here.
    """

    hits: int = 0
    stale_hits: int = 0
    negative_hits: int = 0
    misses: int = 0
    shared: int = 0
    computed: int = 0
    failures: int = 0
    refused: int = 0
    invalidated: int = 0


class Terms(Struct, frozen=True, kw_only=True):
    """How a key is to be cached, checked."""

    agent: str
    ttl: float | None
    stale: float
    negative_ttl: float | None
    tags: tuple[str, ...]

    @property
    def lifetime(self) -> float | None:
        """How long the value is kept at all."""
        return None if self.ttl is None else self.ttl + self.stale


def make_terms(
    agent: str, ttl: float | None, stale_while_revalidate: float, negative_ttl: float | None, tags: Iterable[str]
) -> Terms:
    """Return checked terms. Raises InvalidInputError, InvalidNameError."""
    if stale_while_revalidate and ttl is None:
        raise InvalidInputError("a value without a ttl never gets stale, so there is nothing to revalidate")
    return Terms(
        agent=check_name(agent),
        ttl=None if ttl is None else check_seconds("ttl", ttl),
        stale=check_seconds("stale_while_revalidate", stale_while_revalidate, zero=True),
        negative_ttl=None if negative_ttl is None else check_seconds("negative_ttl", negative_ttl),
        tags=check_tags(tags),
    )


def check_cache_key(key: str) -> str:
    """Return a key that can be cached, or raise InvalidKeyError."""
    check_key(key)
    if len(key.encode()) > MAX_CACHE_KEY:
        raise InvalidKeyError(key, f"a cached key takes at most {MAX_CACHE_KEY} bytes")
    return key


class Cache:
    """The cached keys of a space: reading them, and what a commit has to hold to change them."""

    def __init__(self, space: Space) -> None:
        self._engine = space.engine
        self._time = space.clock.time
        self._limit = space.engine.capabilities.max_value_bytes

    async def value(self, key: str) -> tuple[Record | None, Cached | None]:
        """Return the key's record and what is cached in it; the latter is None, too, when it is something else."""
        record = await self._engine.get(CACHE_KEYS + key)
        if record is None:
            return None, None
        try:
            return record, decode_cached(record.body)
        except DecodeError as error:
            logger.warning("%r holds no cached value and is computed anew: %s", record.key, error)
            return record, None

    async def flight(self, key: str) -> int:
        """Return the fence of the lease under which the key is being computed, 0 when it is not."""
        record = await self._engine.get(FLIGHT_KEYS + key)
        return 0 if record is None else record.created_revision

    async def failure(self, key: str, waited_for: int) -> CachedFailure | None:
        """Return the failure that a caller gets: one that is cached, or that of a computation it has waited for."""
        record = await self._engine.get(FAILURE_KEYS + key)
        if record is None:
            return None
        failure: CachedFailure = _FAILURES.decode(record.body)
        if 0 < waited_for <= failure.flight or (failure.until is not None and self._time() < failure.until):
            return failure
        return None

    def encode_value(self, value: object, terms: Terms, took: float) -> bytes:
        """Return what is stored of a value. Raises EncodeError, ValueTooLargeError."""
        now = self._time()
        fresh_until = None if terms.ttl is None else now + terms.ttl
        cached = Cached(value=value, computed_by=terms.agent, computed=now, took=took, fresh_until=fresh_until)
        return encode_message(cached, value, self._limit)

    def success(self, key: str, body: bytes, terms: Terms) -> Commit:
        """Return the commit that stores a value and ends the lease; the lease's check is still to be added."""
        put = Put(CACHE_KEYS + key, body, terms.agent, terms.lifetime, terms.tags)
        return Commit(puts=(put,), deletes=(Delete(FLIGHT_KEYS + key), Delete(FAILURE_KEYS + key)))

    def failed(self, key: str, failure: CachedFailure, terms: Terms) -> Commit:
        """Return the commit that shows a failure to those who wait and ends the lease, as `success` does."""
        shown = max(FAILURE_SHOWN, terms.negative_ttl or 0.0)
        put = Put(FAILURE_KEYS + key, encode(failure, self._limit), terms.agent, shown, terms.tags)
        return Commit(puts=(put,), deletes=(Delete(FLIGHT_KEYS + key),))

    async def invalidate(self, *, key: str | None, pattern: str | None, tag: str | None) -> int:
        """Take back one key, all that match a glob, or all with a tag; return how many had a value.

        No value that was computed, or was being computed, before this call is served once it has returned.
        """
        if sum(given is not None for given in (key, pattern, tag)) != 1:
            raise InvalidInputError("what is invalidated is one of key=, pattern= and tag=")
        if key is not None:
            return await self._take_back([check_cache_key(key)])
        tags = None if tag is None else frozenset(check_tags((tag,)))
        # Flights come first: one that ends between the two scans has left a value for the second to find.
        keys = await self._keys(FLIGHT_KEYS, pattern, tags)
        keys |= await self._keys(CACHE_KEYS, pattern, tags)
        keys |= await self._keys(FAILURE_KEYS, pattern, tags)
        ordered = sorted(keys)
        return sum([await self._take_back(ordered[at : at + BATCH]) for at in range(0, len(ordered), BATCH)])

    async def _keys(self, prefix: str, pattern: str | None, tags: frozenset[str] | None) -> set[str]:
        skip = len(prefix)
        pattern = "*" if pattern is None else pattern
        matches = key_matcher(pattern)

        def wanted(full: str) -> object:
            return matches(full[skip:])

        start = prefix + literal_prefix(pattern)
        _, records = await self._engine.scan(start, matches=wanted, tags=tags, bodies=False)
        return {record.key[skip:] for record in records}

    async def _take_back(self, keys: list[str]) -> int:
        deletes = [Delete(prefix + key) for prefix in (CACHE_KEYS, FLIGHT_KEYS, FAILURE_KEYS) for key in keys]
        committed = await self._engine.commit(Commit(deletes=tuple(deletes)))
        return sum(committed.deleted[: len(keys)])


def decode_cached(body: bytes) -> Cached:
    """Return a cached value, each time a copy of its own. Raises DecodeError."""
    try:
        cached: Cached = _CACHED.decode(body)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise DecodeError(f"this is no cached value: {error}") from error
    if is_deep(body, cached.value):
        raise DecodeError("the cached value is nested too deep")
    return cached


_CACHED = decoder_for(Cached)
_FAILURES = decoder_for(CachedFailure)
