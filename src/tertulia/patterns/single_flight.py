"""Single flight: of all who miss a cached key at once, in whatever processes, one computes it and the others wait.

Who computes holds a lease on the key and renews it meanwhile. Storing the value, or what it failed with, is one commit
with the check that the lease still stands: what comes after a takeover, or after the key was taken back, is refused.
Whoever waits is woken by a watch on the leases, so also by one that ran out because its holder died.

Within one handle all callers of a key share one flight: a task of the space's own. It goes on as long as anybody here
waits for it; with the last one it is cancelled and its lease given back, and somebody who waits elsewhere takes over.
(The name is that of Go's `singleflight`; leases against stale stores and herds: Nishtala et al., *Scaling Memcache at
Facebook*, NSDI 2013.)
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from enum import Enum
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from tertulia._background import logger
from tertulia.engines.base import Check, CheckFailed, Commit, Record
from tertulia.errors import EngineError, InvalidInputError, OutcomeUnknownError, SpaceClosedError, TertuliaError
from tertulia.messaging.context import HANDLING, Handling
from tertulia.patterns._deadline import Deadline
from tertulia.patterns._ends import Ends
from tertulia.patterns._failures import text_of
from tertulia.patterns._lease import Lease
from tertulia.patterns.caching import (
    CACHE_KEYS,
    FLIGHT_KEYS,
    Cache,
    CachedFailure,
    Fields,
    Terms,
    decode_cached,
)
from tertulia.space import Space

DEFAULT_LEASE = 10.0  # seconds: how long others wait for one who died, and how long one may be stopped unnoticed
BLINK = 0.001  # seconds before a caller's time is over in which an error is still put down to that
STORE_TRIES = 3  # for a commit whose outcome the engine could not learn; repeating it is harmless

Function = Callable[[float | None], Any]  # of the seconds that are left for it, None for all it needs

_COMPUTING: ContextVar[tuple[str, ...]] = ContextVar("tertulia_computing", default=())  # the keys that led here


class Call(Struct, frozen=True, kw_only=True):
    """What one caller asks for. `until` is monotonic; past it an error of the function is the caller's own.

    `fields` are what an error is rebuilt from where it did not happen.
    """

    key: str
    function: Function
    terms: Terms
    until: float | None = None
    fields: Callable[[BaseException], Fields] = lambda _: ()


class Answer(Struct, frozen=True):
    """What one caller gets: a value, or a failure and, where it happened in this handle, the exception."""

    value: Any = None
    failure: CachedFailure | None = None
    cause: BaseException | None = None


class Counts:
    """What CacheInfo tells, while it is counted."""

    def __init__(self) -> None:
        self.hits = self.stale_hits = self.negative_hits = self.misses = self.shared = 0
        self.computed = self.failures = self.refused = self.invalidated = 0


class How(Enum):
    """How a flight ended for those who waited for it."""

    LANDED = "landed"  # the value is stored
    UNSTORED = "unstored"  # there is a value, but it came too late to be stored, or could not be
    FAILED = "failed"  # the function did
    AGAIN = "again"  # somebody else holds the lease, or it was given up
    OVERDUE = "overdue"  # the function failed when the time of its caller was over: the others look again
    BROKEN = "broken"  # the engine did
    CLOSED = "closed"  # the space did


class Outcome(Struct, frozen=True):
    """How a flight ended, and with what."""

    how: How
    body: bytes = b""
    failure: CachedFailure | None = None
    error: BaseException | None = None


_AGAIN = Outcome(How.AGAIN)
_OVERDUE = Outcome(How.OVERDUE)
_CLOSED = Outcome(How.CLOSED)


class SingleFlight:
    """The flights of one handle. Nothing runs before the first miss, or once the last caller has gone."""

    def __init__(self, space: Space, cache: Cache, *, lease: float) -> None:
        self.counts = Counts()
        self._space = space
        self._clock = space.clock
        self._cache = cache
        self._lease = lease
        self._flights: dict[str, _Flight] = {}
        self._ends = Ends(space, FLIGHT_KEYS)

    async def get(self, call: Call, *, timeout: float | None) -> Answer | None:
        """Return what is cached, or what a computation brings: one's own or another's. None when its time is over.

        A refresh in the background gets `timeout` seconds (None: all it needs). Raises EngineError when the space
        cannot be read; SpaceClosedError.

        Cancellation: the computation goes on if somebody else here waits for it, else it is given up.
        """
        path = _COMPUTING.get()
        if call.key in path:
            raise InvalidInputError(f"computing {call.key!r} needs itself: {' > '.join([*path, call.key])}")
        record, cached = await self._cache.value(call.key)
        if record is not None and cached is not None:
            if cached.is_fresh(self._clock.time()):
                self.counts.hits += 1
            else:
                self.counts.stale_hits += 1
                self._refresh(call, record, timeout)
            return Answer(cached.value)
        failure = await self._cache.failure(call.key, 0)
        if failure is not None:
            self.counts.negative_hits += 1
            return Answer(failure=failure)
        self.counts.misses += 1
        try:
            async with Deadline(self._clock, call.until):
                return await self._miss(call, record)
        except TimeoutError as late:
            if isinstance(late, TertuliaError):  # not the deadline's
                raise
            return None

    async def _miss(self, call: Call, record: Record | None) -> Answer | None:
        """Compute the value or wait for whoever does, until there is an outcome. None when the call's time is over."""
        waited_for = 0
        while True:
            leader = await self._cache.flight(call.key)
            flight = self._flights.get(call.key)
            outcome, own = _AGAIN, False
            if flight is not None and flight.takes_callers(leader):
                outcome = await flight.join()
            elif leader:
                waited_for = max(waited_for, leader)
                await self._ends.wait(FLIGHT_KEYS + call.key, leader)
            else:
                own = True
                outcome = await self._start(call, record).join()
            if outcome.how is How.OVERDUE and own:
                return None
            if outcome.how not in (How.AGAIN, How.OVERDUE):
                self.counts.shared += not own
                return await self._landed(call, outcome)
            record, cached = await self._cache.value(call.key)
            if cached is not None:
                self.counts.shared += 1
                return Answer(cached.value)
            failure = await self._cache.failure(call.key, waited_for)
            if failure is not None:
                self.counts.shared += 1
                return Answer(failure=failure)

    async def _landed(self, call: Call, outcome: Outcome) -> Answer:
        """Return what a flight brought to one who waited for it, as a copy of his own."""
        if outcome.how is How.CLOSED:
            raise SpaceClosedError
        if outcome.how is How.FAILED:
            return Answer(failure=outcome.failure, cause=outcome.error)
        if outcome.error is not None:
            raise outcome.error
        if outcome.how is How.UNSTORED:
            _, newer = await self._cache.value(call.key)
            if newer is not None:
                return Answer(newer.value)
        return Answer(decode_cached(outcome.body).value)

    # --- flights ---

    def _start(self, call: Call, record: Record | None, *, is_refresh: bool = False) -> _Flight:
        """Begin to compute the key, whose stored record was this one."""
        flight = _Flight(call, self._flights, is_refresh=is_refresh)
        flight.task = self._space.background.start(self._fly(flight, record), f"tertulia computing {call.key}")
        flight.task.add_done_callback(lambda _: flight.end(_CLOSED))  # one that was cancelled before it began, too
        return flight

    def _refresh(self, call: Call, record: Record, timeout: float | None) -> None:
        """Have a stale value computed anew, unless somebody does; it is not part of the caller's own work."""
        if call.key in self._flights:
            return
        until = None if timeout is None else self._clock.monotonic() + timeout
        context = copy_context()
        context.run(_forget_deadline)
        context.run(lambda: self._start(replace(call, until=until), record, is_refresh=True))

    async def _fly(self, flight: _Flight, record: Record | None) -> None:
        outcome = _CLOSED  # as it is for those who still wait when this is cancelled
        try:
            if not flight.is_refresh or await self._is_to_be_refreshed(flight.call.key):
                outcome = await self._lead(flight, record)
            else:
                outcome = _AGAIN
        except SpaceClosedError:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait have to know
            outcome = Outcome(How.BROKEN, error=error)
            if flight.is_refresh:
                logger.warning("%r could not be computed anew", flight.call.key, exc_info=error)
        finally:
            flight.end(outcome)

    async def _is_to_be_refreshed(self, key: str) -> bool:
        """Tell whether nobody computes the key yet, and no failure of it is cached."""
        return not await self._cache.flight(key) and await self._cache.failure(key, 0) is None

    async def _lead(self, flight: _Flight, record: Record | None) -> Outcome:
        """Take the lease and compute, unless somebody has it or the stored value is another by now."""
        call = flight.call
        place = CACHE_KEYS + call.key
        unchanged = Check(place, absent=True) if record is None else Check(place, record.revision)
        lease = Lease(self._space, FLIGHT_KEYS + call.key, holder=call.terms.agent, seconds=self._lease)
        async with lease.kept():
            if not await lease.take(checks=(unchanged,), tags=call.terms.tags):
                lease.ended = True
                return _AGAIN
            flight.fence = lease.fence
            started = self._clock.monotonic()
            try:
                async with Deadline(self._clock, call.until if flight.is_refresh else None):
                    value = await _compute(call, None if call.until is None else call.until - started)
                body = self._cache.encode_value(value, call.terms, self._clock.monotonic() - started)
            except asyncio.CancelledError as error:
                if _is_being_cancelled():
                    raise
                return await self._failed(flight, lease, error)  # something that the function awaited was cancelled
            except Exception as error:  # noqa: BLE001 - it is what everybody gets who waits for the function
                return await self._failed(flight, lease, error)
            self.counts.computed += 1
            stored = await self._commit(lease, self._cache.success(call.key, body, call.terms))
            self.counts.refused += not stored
            return Outcome(How.LANDED if stored else How.UNSTORED, body)

    async def _failed(self, flight: _Flight, lease: Lease, error: BaseException) -> Outcome:
        """Show the failure to all who wait, unless it is only that one caller's time was over."""
        call = flight.call
        if call.until is not None and self._clock.monotonic() >= call.until - BLINK and not flight.is_refresh:
            return _OVERDUE
        self.counts.failures += 1
        if flight.is_refresh:
            logger.warning("%r could not be computed anew", call.key, exc_info=error)
        negative_ttl = call.terms.negative_ttl
        failure = CachedFailure(
            flight=lease.fence,
            computed_by=call.terms.agent,
            kind=type(error).__name__,
            detail=text_of(error),
            fields=call.fields(error),
            until=None if negative_ttl is None else self._clock.time() + negative_ttl,
        )
        await self._commit(lease, self._cache.failed(call.key, failure, call.terms))
        return Outcome(How.FAILED, failure=failure, error=error)

    async def _commit(self, lease: Lease, commit: Commit) -> bool:
        """Commit in the lease's name, which ends with it; return whether it happened. A late one is refused."""
        commit = replace(commit, checks=(lease.check,))
        for _ in range(STORE_TRIES):
            try:
                await self._space.engine.commit(commit)
            except CheckFailed:
                lease.ended = True
                return await self._is_stored(commit)
            except OutcomeUnknownError:
                continue  # if it happened, the lease is gone and the check says so
            except SpaceClosedError:
                raise
            except EngineError as error:
                logger.warning("what was computed could not be stored: %s", error)
                return False
            lease.ended = True
            return True
        return False

    async def _is_stored(self, commit: Commit) -> bool:
        """Tell whether a commit whose outcome was unknown had happened when its repetition was refused."""
        put = commit.puts[0]
        record = await self._space.engine.get(put.key)
        return record is not None and record.body == put.body


class _Flight:
    """One computation, or the attempt at one, and those in this handle who wait for it."""

    def __init__(self, call: Call, flights: dict[str, _Flight], *, is_refresh: bool) -> None:
        self.call = call
        self.fence = 0  # none yet
        self.callers = 0
        self.is_refresh = is_refresh  # it goes on though nobody waits
        self.task: asyncio.Task[None] | None = None
        self._abandoned = False
        self._outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._flights = flights
        flights[call.key] = self

    def takes_callers(self, leader: int) -> bool:
        """Tell whether one who has just seen the lease `leader` may share this flight.

        Not if its lease was lost, or taken away with the key, before that: its result may be older than the caller
        may get.
        """
        return not self._abandoned and not self._outcome.done() and self.fence in (0, leader)

    async def join(self) -> Outcome:
        """Wait for the outcome. When the last who waits is cancelled, the flight is."""
        self.callers += 1
        try:
            return await asyncio.shield(self._outcome)
        finally:
            self.callers -= 1
            if not self.callers and not self.is_refresh and not self._outcome.done() and self.task is not None:
                self._abandoned = True
                self.task.cancel()

    def end(self, outcome: Outcome) -> None:
        """Give everybody the outcome."""
        if self._flights.get(self.call.key) is self:
            del self._flights[self.call.key]
        if not self._outcome.done():
            self._outcome.set_result(outcome)


async def _compute(call: Call, left: float | None) -> Any:
    _COMPUTING.set((*_COMPUTING.get(), call.key))
    value = call.function(left)
    return await value if inspect.isawaitable(value) else value


def _forget_deadline() -> None:
    handling = HANDLING.get()
    if handling is not None:
        HANDLING.set(Handling(handling.hops, None))


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
