"""Shared memory: values under keys, that agents read, change, watch and keep consistent."""

# pyright: reportPrivateUsage=false
# The modules of the core are friends: what they share with each other is no promise to users.

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from functools import lru_cache
from typing import Any, TypeVar, overload

from tertulia._arguments import MAX_SECONDS, check_revision, check_seconds, check_tags
from tertulia._background import Background
from tertulia._clock import Clock, instant
from tertulia._codec import convert as convert_value
from tertulia._codec import decode_plain, encode
from tertulia._commits import check_commit_size, conflict
from tertulia._names import (
    MAX_KEY_BYTES,
    REGION_KEYS,
    RESERVED_KEYS,
    check_key,
    check_name,
    is_pattern,
    key_matcher,
    literal,
    literal_prefix,
)
from tertulia.engines.base import (
    Change,
    ChangeStream,
    Check,
    CheckFailed,
    Commit,
    Delete,
    Engine,
    Put,
    Record,
)
from tertulia.errors import (
    AccessDeniedError,
    InvalidInputError,
    InvalidKeyError,
    KeyNotFoundError,
    VersionConflictError,
)
from tertulia.records import (
    KEEP,
    MISSING,
    AccessRecord,
    Keep,
    MemoryChange,
    MemoryEntry,
    MemoryStats,
    Missing,
    Snapshot,
)
from tertulia.watching import Callback, MemoryWatch, Subscriptions

T = TypeVar("T")

ACCESS_LOG_SIZE = 1_000  # entries kept per handle: enough to see what just happened
MAX_MODIFY_ATTEMPTS = 1_000  # somebody wins each round, so losing so often means a fault elsewhere


class SharedMemory:
    """The memory of a space, as `space.memory`. Any number of agents may use it at once.

    A value is copied on the way in and on the way out, so nobody can change the store, or a value that someone
    else has read, by changing an object. Every call that changes something either does all of it or nothing.

    Raises, everywhere: InvalidKeyError, InvalidNameError for bad names; EncodeError, ValueTooLargeError for
    values that cannot be stored; EngineError when the engine fails; SpaceClosedError after closing. Keys under
    `region:` belong to a MemoryRegion and raise AccessDeniedError here.

    Cancellation: a cancelled read did nothing. A cancelled write either happened or did not.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        background: Background,
        *,
        prefix: str = "",
        log: deque[tuple[str, str, str, float, bool]] | None = None,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._time = clock.time
        self._background = background
        self._prefix = prefix
        self._limit = engine.capabilities.max_value_bytes
        self._log = deque[tuple[str, str, str, float, bool]](maxlen=ACCESS_LOG_SIZE) if log is None else log
        self._subscriptions = Subscriptions(self._open_stream, self._change_of, background)

    # --- writing ---

    async def write(
        self,
        key: str,
        value: object,
        *,
        owner: str,
        ttl: float | None = None,
        tags: Iterable[str] = (),
    ) -> MemoryEntry:
        """Create the key or replace its value, owner, lifetime and tags; return the entry as stored.

        `ttl` is in seconds from now; past it the key reads as absent.
        """
        record = await self._engine.put(self._make_put(key, value, owner, ttl, tags))
        self._log.append(("write", key, owner, record.updated, True))
        return self._entry(record, value)

    async def create(
        self,
        key: str,
        value: object,
        *,
        owner: str,
        ttl: float | None = None,
        tags: Iterable[str] = (),
    ) -> MemoryEntry:
        """Create the key. Raises KeyExistsError when it is there."""
        put = self._make_put(key, value, owner, ttl, tags)
        record = await self._guarded("create", key, owner, put, Check(put.key, absent=True))
        return self._entry(record, value)

    async def update(
        self,
        key: str,
        value: object,
        *,
        updater: str,
        expected_version: int | None = None,
        expected_revision: int | None = None,
        ttl: float | Keep | None = KEEP,
        tags: Iterable[str] | Keep = KEEP,
    ) -> MemoryEntry:
        """Replace the value of a key that exists, at the expected version or revision if one is given.

        The owner stays. A kept `ttl` counts from now again. Raises KeyNotFoundError when the key is absent and
        VersionConflictError when it is elsewhere; a version repeats after delete and create, a revision never.
        """
        put = self._make_put(key, value, updater, ttl, tags, keep_owner=True)
        check = Check(put.key, expected_revision, expected_version)
        return self._entry(await self._guarded("update", key, updater, put, check), value)

    async def compare_and_swap(self, key: str, expected_value: object, new_value: object, *, requester: str) -> bool:
        """Replace the value if it equals `expected_value`; return whether it did. An absent key does not.

        Equal is what Python calls equal, of the plain types that are stored: 1 equals 1.0 and True, NaN equals nothing.
        Owner, tags and lifetime stay, the lifetime counting from now.
        """
        put = self._make_put(key, new_value, requester, KEEP, KEEP, keep_owner=True)
        expected = decode_plain(encode(expected_value, self._limit))
        while True:
            record = await self._engine.get(put.key)
            if record is None or decode_plain(record.body) != expected:
                self._log.append(("compare_and_swap", key, requester, self._time(), False))
                return False
            try:
                await self._engine.commit(Commit(checks=(Check(put.key, revision=record.revision),), puts=(put,)))
            except CheckFailed:
                continue  # it changed since it was read, so it may differ now: look again
            self._log.append(("compare_and_swap", key, requester, self._time(), True))
            return True

    async def modify(
        self,
        key: str,
        function: Callable[[Any], Any],
        *,
        updater: str,
        default: Any = MISSING,
        type: Any = None,
    ) -> MemoryEntry:
        """Replace the value by `function(value)`, so that no other update in between is lost.

        The function, plain or async, may be called again when somebody else was faster, so it should have no
        effects of its own. An absent key gives it `default`, without one raises KeyNotFoundError. Owner, tags and
        lifetime of an existing key stay. Raises VersionConflictError after 1,000 lost races.
        """
        full = self._check_access(key, updater)
        for _ in range(MAX_MODIFY_ATTEMPTS):
            record = await self._engine.get(full)
            if record is None and isinstance(default, Missing):
                raise KeyNotFoundError(key)
            value = default if record is None else _decode(record.body, type)
            result = function(value)
            if inspect.isawaitable(result):
                result = await result
            fresh = record is None
            put = self._make_put(
                key, result, updater, None if fresh else KEEP, () if fresh else KEEP, keep_owner=not fresh
            )
            check = Check(full, absent=True) if record is None else Check(full, record.revision)
            try:
                committed = await self._engine.commit(Commit(checks=(check,), puts=(put,)))
            except CheckFailed:
                continue
            self._log.append(("modify", key, updater, self._time(), True))
            return self._entry(committed.records[0], result)
        raise VersionConflictError(key, expected="rest", actual_version=None, actual_revision=None)

    async def delete(self, key: str, *, requester: str, expected_version: int | None = None) -> bool:
        """Remove the key; return whether it was there. Raises VersionConflictError."""
        full = self._check_access(key, requester)
        checks = () if expected_version is None else (Check(full, version=expected_version),)
        try:
            committed = await self._engine.commit(Commit(checks=checks, deletes=(Delete(full),)))
        except CheckFailed as failed:
            self._log.append(("delete", key, requester, self._time(), False))
            if failed.record is None:
                return False
            raise conflict(failed, key) from None
        self._log.append(("delete", key, requester, self._time(), committed.deleted[0]))
        return committed.deleted[0]

    # --- reading ---

    @overload
    async def read(self, key: str, *, reader: str, type: type[T]) -> T | None: ...
    @overload
    async def read(self, key: str, *, reader: str, default: Any = None, type: Any = None) -> Any: ...
    async def read(
        self,
        key: str,
        *,
        reader: str,
        default: Any = None,
        type: Any = None,
    ) -> Any:
        """Return a copy of the value, or `default` when the key is absent.

        With `type` the value is checked and rebuilt as that type. Raises DecodeError when it is none.
        """
        record = await self._engine.get(self._check_access(key, reader))
        if record is None:
            self._log.append(("read", key, reader, self._time(), False))
            return default
        self._log.append(("read", key, reader, self._time(), True))
        return decode_plain(record.body) if type is None else _decode(record.body, type)

    async def read_with_metadata(
        self,
        key: str,
        *,
        reader: str,
        type: Any = None,
    ) -> MemoryEntry | None:
        """Return the whole entry, or None when the key is absent. Raises DecodeError."""
        record = await self._engine.get(self._check_access(key, reader))
        self._log.append(("read", key, reader, self._time(), record is not None))
        return None if record is None else self._entry(record, _decode(record.body, type))

    async def list_keys(
        self, pattern: str = "*", *, tags: Iterable[str] | None = None, owner: str | None = None
    ) -> list[str]:
        """Return the keys that match the glob, carry any of the tags, and have the owner; in order."""
        _, records = await self._scan(pattern, tags, owner, bodies=False)
        return [record.key[len(self._prefix) :] for record in records]

    async def entries(
        self, pattern: str = "*", *, tags: Iterable[str] | None = None, owner: str | None = None
    ) -> AsyncIterator[MemoryEntry]:
        """Iterate over the entries that match, as they all were at one moment, in key order."""
        _, records = await self._scan(pattern, tags, owner)
        for record in records:
            yield self._entry(record, decode_plain(record.body))

    # --- watching ---

    def watch(self, pattern: str = "*", *, after: int | None = None) -> MemoryWatch:
        """Return a watch, to be entered with `async with`, that iterates over every committed change.

        It begins with the changes after revision `after`, else with those committed once it is entered. A watcher
        that falls too far behind, or resumes too late, gets WatchLaggedError; it never skips silently.
        """
        key_matcher(pattern)
        check_revision("after", after)
        return MemoryWatch(pattern, after, self._open_stream, self._change_of)

    async def subscribe(self, pattern: str, callback: Callback) -> None:
        """Call `callback(key, event, value)` for every change from now on, in order.

        `event` is "write" (a new key), "update", "delete" or "expire", or "lagged" (with the pattern as key) when
        changes were missed. The callback, plain or async, runs after the write, beside the writer. One that fails
        is logged and stays subscribed. Subscribing the same pair again changes nothing.
        """
        await self._subscriptions.add(pattern, callback)

    async def unsubscribe(self, pattern: str, callback: Callback) -> bool:
        """Stop calling; return whether it was subscribed. No call starts once this has returned.

        A callback may unsubscribe itself: the call that does goes on to its end.
        """
        return await self._subscriptions.remove(pattern, callback)

    async def _open_stream(self, pattern: str, after: int | None) -> ChangeStream:
        """Return the engine's stream of changes to the keys that match, for a watch."""
        key_matcher(pattern)
        return await self._engine.watch(self._full_pattern(pattern), after=after)

    # --- the whole ---

    async def snapshot(self, pattern: str = "*") -> Snapshot:
        """Return the entries that match, as they all were at one moment."""
        revision, records = await self._scan(pattern, None, None)
        entries = tuple(self._entry(record, decode_plain(record.body)) for record in records)
        return Snapshot(pattern=pattern, revision=revision, taken_at=instant(self._time()), entries=entries)

    async def restore(self, snapshot: Snapshot, *, requester: str) -> int:
        """Put the keys that match the snapshot's pattern back as they were, in one commit.

        Keys written since are replaced or removed; entries whose time is over by now stay away, and others keep
        the time they had left. Versions and revisions go on counting. Returns how many keys were changed.
        """
        check_name(requester)
        now = self._time()
        matches = key_matcher(snapshot.pattern)
        wanted = {e.key: e for e in snapshot.entries if e.expires is None or e.expires > now}
        for entry in wanted.values():
            self._check_access(entry.key, entry.owner)
            if not matches(entry.key):
                message = f"the snapshot of {snapshot.pattern!r} holds {entry.key!r}, which does not match"
                raise InvalidInputError(message)
        _, records = await self._scan(snapshot.pattern, None, None, bodies=False)
        current = {record.key[len(self._prefix) :]: record.revision for record in records}
        puts = tuple(
            Put(
                self._prefix + key,
                encode(entry.value, self._limit),
                entry.owner,
                None if entry.expires is None else check_seconds("ttl", entry.expires - now),
                check_tags(entry.tags),
            )
            for key, entry in wanted.items()
            if current.get(key) != entry.revision
        )
        deletes = tuple(Delete(self._prefix + key) for key in current if key not in wanted)
        if not puts and not deletes:
            return 0
        commit = Commit(puts=puts, deletes=deletes)
        check_commit_size(self._engine, commit)
        await self._engine.commit(commit)
        self._log.append(("restore", snapshot.pattern, requester, self._time(), True))
        return len(puts) + len(deletes)

    async def get_stats(self) -> MemoryStats:
        """Return figures about the memory; keys of the library itself and of regions are counted too."""
        stats = await self._engine.stats()
        return MemoryStats(
            total_entries=stats.keys,
            total_bytes=stats.bytes,
            entries_by_owner=stats.keys_by_owner,
            subscribers=len(self._subscriptions),
            access_log_size=len(self._log),
            revision=stats.revision,
        )

    def access_log(self, limit: int = 100) -> list[AccessRecord]:
        """Return the latest accesses through this handle, newest last. The last 1,000 are kept."""
        latest = list(self._log)[-limit:] if limit > 0 else []
        return [
            AccessRecord(operation=operation, key=key, agent=agent, at=instant(at), ok=ok)
            for operation, key, agent, at, ok in latest
        ]

    # --- inside ---

    def _check_access(self, key: str, agent: str) -> str:
        """Return the key as the engine knows it, or raise for a key or agent that may not be used here."""
        try:
            return full_key(self._prefix, key, agent)
        except TypeError:  # not hashable, so not a string
            check_key(key)
            check_name(agent)
            raise

    def _make_put(
        self,
        key: str,
        value: object,
        agent: str,
        ttl: float | Keep | None,
        tags: Iterable[str] | Keep,
        *,
        keep_owner: bool = False,
    ) -> Put:
        """Return a checked, encoded put."""
        try:
            full = full_key(self._prefix, key, agent)
        except TypeError:
            full = self._check_access(key, agent)  # says what is wrong
        if ttl is not None and ttl is not KEEP and (ttl.__class__ is not float or not 0.0 < ttl <= MAX_SECONDS):
            ttl = check_seconds("ttl", ttl)
        return Put(
            full,
            encode(value, self._limit),
            KEEP if keep_owner else agent,
            ttl,
            () if tags == () else tags if isinstance(tags, Keep) else check_tags(tags),
        )

    async def _guarded(self, operation: str, key: str, agent: str, put: Put, check: Check) -> Record:
        try:
            committed = await self._engine.commit(Commit(checks=(check,), puts=(put,)))
        except CheckFailed as failed:
            self._log.append((operation, key, agent, self._time(), False))
            raise conflict(failed, key) from None
        self._log.append((operation, key, agent, self._time(), True))
        return committed.records[0]

    def _entry(self, record: Record, value: object) -> MemoryEntry:
        """Return the public entry for an engine's record."""
        return MemoryEntry(
            key=record.key[len(self._prefix) :] if self._prefix else record.key,
            value=value,
            owner=record.owner,
            version=record.version,
            revision=record.revision,
            created_revision=record.created_revision,
            created=record.created,
            updated=record.updated,
            expires=record.expires,
            ttl=record.ttl,
            tags=record.tags,
            access_count=record.access_count,
        )

    def _change_of(self, change: Change) -> MemoryChange | None:
        """Return a change as a watcher sees it, or None for one that is not to be seen here."""
        if not self._prefix and is_hidden(change.key):
            return None
        record = change.record
        return MemoryChange(
            kind=change.kind,
            key=change.key[len(self._prefix) :],
            revision=change.revision,
            at=instant(change.at),
            entry=None if record is None else self._entry(record, decode_plain(record.body)),
        )

    def _full_pattern(self, pattern: str) -> str:
        return literal(self._prefix) + pattern if self._prefix else pattern

    async def _scan(
        self,
        pattern: str,
        tags: Iterable[str] | None,
        owner: str | None,
        *,
        bodies: bool = True,
    ) -> tuple[int, list[Record]]:
        matches = key_matcher(pattern)
        prefix, skip = self._prefix, len(self._prefix)
        revision, records = await self._engine.scan(
            prefix + literal_prefix(pattern),
            matches=(lambda key: matches(key[skip:])) if is_pattern(pattern) else (prefix + pattern).__eq__,
            tags=None if tags is None else frozenset(check_tags(tags)),
            owner=owner,
            bodies=bodies,
        )
        if not prefix:
            records = [record for record in records if not is_hidden(record.key)]
        return revision, records


@lru_cache(8192)  # a team's working set; a miss costs under a microsecond
def full_key(prefix: str, key: str, agent: str) -> str:
    """Return the key as the engine knows it, for keys and agents that may be used."""
    check_key(key)
    check_name(agent)
    if not prefix and key.startswith(REGION_KEYS):
        raise AccessDeniedError(agent, "reach", key, "its region is reached by MemoryRegion")
    if prefix and len((prefix + key).encode()) > MAX_KEY_BYTES:
        raise InvalidKeyError(key, f"with the prefix of its place it takes more than {MAX_KEY_BYTES} bytes")
    return prefix + key


def is_hidden(key: str) -> bool:
    """Tell whether a key is the library's own or a region's, which the whole memory does not show."""
    return key.startswith((RESERVED_KEYS, REGION_KEYS))


def _decode(body: bytes, type: Any) -> Any:
    value = decode_plain(body)
    return value if type is None else convert_value(value, type)
