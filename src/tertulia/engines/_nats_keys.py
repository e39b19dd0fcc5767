"""Keys: reading them, and writing one by compare-and-set in one round trip where its last state is known."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from math import ceil, inf

from msgspec.structs import replace

from tertulia._background import Background, logger
from tertulia._clock import Clock
from tertulia._rules.expiry import kept_owner, kept_tags, kept_ttl
from tertulia.engines._nats_expiry import Expiries
from tertulia.engines._nats_format import EXPIRED, GONE, LIVE, KeyState, encode, key_state
from tertulia.engines._nats_history import History
from tertulia.engines._nats_store import Store
from tertulia.engines._nats_stream import Found, Write, WrongSequence, pause_for
from tertulia.engines.base import Put, Record
from tertulia.errors import AccessDeniedError, EngineUnavailableError, OutcomeUnknownError, TertuliaError

KNOWN = 10_000  # keys whose last state is remembered, about 500 bytes each: a team's working set
READS = 10_000  # keys whose reads are counted until they are written again; the counts are estimates anyway
KEEP_GONE = 3_600  # seconds at least that it is kept that a key went, for watchers that resume
SWEEP_AFTER = 60  # seconds past a key's end until the server removes it, if nobody has announced the end by then
TRIES = 1_000  # times that a put is tried against others at the same key: a minute of them


class Keys:
    """The keys of a space, and what this handle remembers of them.

    What is remembered decides nothing: every write states the sequence that it takes the key to be at.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        background: Background,
        history: History,
        new_op: Callable[[], str],
    ) -> None:
        self._store = store
        self._subjects = store.subjects
        self._clock = clock
        self._background = background
        self._history = history
        self._new_op = new_op
        self._known: OrderedDict[str, tuple[int, KeyState]] = OrderedDict()
        self._reads: dict[str, int] = {}
        self._writing: dict[str, asyncio.Lock] = {}
        self.expiries = Expiries(clock, self._on_end)

    # --- remembering ---

    def known(self, key: str) -> tuple[int, KeyState] | None:
        """Return a key's last known sequence and state, without its body."""
        return self._known.get(key)

    def learn(self, key: str, seq: int, state: KeyState) -> None:
        """Remember a key's state."""
        old = self._known.get(key)
        if old is not None and old[0] >= seq:
            return
        self._known[key] = (seq, replace(state, body=b"", created_revision=state.created_revision or seq))
        self._known.move_to_end(key)
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)

    def forget(self, key: str) -> None:
        """Read the key before it is written the next time."""
        self._known.pop(key, None)

    def found(self, one: Found) -> tuple[str, KeyState]:
        """Take in what a key's subject holds; return key and state. Raises CorruptRecordError."""
        key = self._subjects.key_of(one.subject)
        state = key_state(key, one.data)
        self.learn(key, one.seq, state)
        return key, state

    # --- reading ---

    async def get(self, key: str) -> Record | None:
        """Return the key's record, if it is there."""
        one = await self._store.get(self._subjects.key(key), now=False)
        if one is None:
            return None
        _, state = self.found(one)
        if state.kind != LIVE:
            return None
        if self.is_over(state):
            self.end_soon(key, one.seq, state)
            return None
        reads = self._reads
        reads[key] = count = reads.get(key, 0) + 1
        if len(reads) > READS:
            reads.clear()
        record = state.record(key, one.seq)
        record.access_count += count
        return record

    async def scan(self, prefix: str) -> tuple[int, list[Record]]:
        """Return a revision, and the live records whose keys start with the prefix, as they all were at it."""
        found, revision = await self._store.many((self._subjects.keys(prefix),))
        records: list[Record] = []
        for one in found:
            key = self._subjects.key_of(one.subject)
            if not key.startswith(prefix):
                continue
            state = key_state(key, one.data)
            if state.kind == LIVE and not self.is_over(state):
                record = state.record(key, one.seq)
                record.access_count += self._reads.get(key, 0)
                records.append(record)
        records.sort(key=lambda record: record.key)
        return revision, records

    def is_over(self, state: KeyState) -> bool:
        """Tell whether a key's time is over."""
        return state.expires is not None and state.expires <= self._clock.time()

    # --- writing ---

    def put_state(self, put: Put, seq: int, before: KeyState | None, op: str) -> KeyState:
        """Return the state that a put gives a key: over a record, or anew. Its subject holds `before` at `seq`."""
        old = before if before is not None and before.kind == LIVE else None
        now = self._clock.time()
        ttl = kept_ttl(put.ttl, old)
        expires = None if ttl is None else now + ttl
        owner, tags = kept_owner(put.owner, old), kept_tags(put.tags, old)
        if old is None:
            horizon = horizon_over(before)
            return KeyState(LIVE, op, seq, now, put.body, owner, 1, 0, now, ttl, expires, tags, horizon=horizon)
        count = old.access_count + self._reads.get(put.key, 0)
        return KeyState(
            LIVE, op, seq, now, put.body, owner, old.version + 1, old.created_revision, old.created, ttl, expires,
            tags, count, horizon_over(old),
        )  # fmt: skip

    def gone_state(self, seq: int, before: KeyState | None, op: str, kind: int = GONE) -> KeyState:
        """Return the state of a key that goes, whose subject holds `before`; None: that is not known."""
        return KeyState(kind, op, seq, self._clock.time(), horizon=inf if before is None else horizon_over(before))

    def write_of(self, key: str, state: KeyState) -> Write:
        """Return the write that brings a key into a state."""
        if state.horizon == inf or (state.kind == LIVE and state.ttl is None):
            ttl = 0
        else:
            ttl = KEEP_GONE if state.kind != LIVE else ceil(state.ttl or 0.0) + SWEEP_AFTER
            ttl = max(ttl, ceil(state.horizon - state.at) + SWEEP_AFTER)
        return Write(self._subjects.key(key), encode(state), state.op, state.prev, ttl=ttl)

    def wrote(self, key: str, seq: int, state: KeyState) -> None:
        """Take in a write of this handle."""
        self.learn(key, seq, state)
        self._reads.pop(key, None)
        if state.expires is not None:
            self.expiries.add(key, seq, state.expires)
        else:
            self.expiries.drop(key)

    async def put(self, put: Put) -> Record:
        """Commit one put; return the record."""
        key = put.key
        async with self._alone(key):
            for attempt in range(1, TRIES + 1):
                seq, old = self._known.get(key) or (0, None)
                if old is not None and old.kind == LIVE and self.is_over(old):
                    await self.end(key, seq)
                    continue
                state = self.put_state(put, seq, old, self._new_op())
                one = self.write_of(key, state)
                try:
                    revision = await self._store.write(one)
                except WrongSequence as wrong:
                    await self.refresh(key, wrong, attempt)
                    continue
                self.wrote(key, revision, state)
                self._history.add(key, revision, one.data)
                return state.record(key, revision)
        raise EngineUnavailableError(f"{key!r} is written by too many others at once")

    async def refresh(self, key: str, wrong: WrongSequence, attempt: int) -> None:
        """Read a key again that others have written meanwhile."""
        self.forget(key)
        await asyncio.sleep(pause_for(wrong, attempt))
        one = await self._store.get(self._subjects.key(key))
        if one is not None:
            self.found(one)

    @asynccontextmanager
    async def _alone(self, key: str) -> AsyncGenerator[None]:
        """Keep this handle's other puts of a key waiting: they would only compete."""
        lock = self._writing.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and self._writing.get(key) is lock:
                del self._writing[key]

    # --- the end of a key's time ---

    async def end(self, key: str, seq: int) -> None:
        """Write down that a key's time is over, unless others have or it was written anew; watchers see it."""
        known = self._known.get(key)
        before = known[1] if known is not None and known[0] == seq else None
        state = self.gone_state(seq, before, self._new_op(), EXPIRED)
        one = self.write_of(key, state)
        try:
            revision = await self._store.write(one)
        except WrongSequence as wrong:
            await self.refresh(key, wrong, 1)
            return
        except OutcomeUnknownError as error:  # it was over in any case, and whatever waits for this has not happened
            raise EngineUnavailableError(f"the end of {key!r} could not be written down: {error}") from error
        self.wrote(key, revision, state)
        self._history.add(key, revision, one.data)

    def end_soon(self, key: str, seq: int, state: KeyState) -> None:
        """Write down in the background that a key's time is over."""
        if state.expires is not None:
            self.expiries.add(key, seq, state.expires)

    def _on_end(self, key: str, seq: int) -> None:
        self._background.start(self._end_logged(key, seq), "tertulia nats expiry")

    async def _end_logged(self, key: str, seq: int) -> None:
        try:
            await self.end(key, seq)
        except AccessDeniedError:
            logger.debug("the end of %r is for those to write down who may", key)
        except TertuliaError:
            logger.warning("the end of %r could not be written down", key, exc_info=True)


def horizon_over(before: KeyState | None) -> float:
    """Return the horizon of what replaces a state; of what replaces nothing, 0."""
    if before is None:
        return 0.0
    if before.kind != LIVE:
        return before.horizon
    return max(before.horizon, inf if before.expires is None else before.expires)
