"""An engine that misbehaves on purpose, so that you can see whether your agents, or your checks, notice.

    space = await connect("memory:")
    faulty = FaultyEngine(space.engine, {Fault.UNAVAILABLE: 0.1, Fault.OUTCOME_UNKNOWN_APPLIED: 0.01}, seed=7)
    space = Space("memory:", faulty, space.clock)

There are two sorts of faults. Those that any engine may show (UNAVAILABLE to CANCELLED below) keep the contract: agents
must live with them. The others break it, as a faulty engine would: they are for finding out whether a checker, a
conformance kit or a state machine is worth its name.
"""

# ruff: noqa: D102 - the contract in engines/base.py is the methods' specification

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from enum import StrEnum

from msgspec.structs import replace

from tertulia._clock import SYSTEM_CLOCK, Clock, sleep
from tertulia.engines.base import (
    DEFAULT_LEASE,
    Change,
    ChangeStream,
    Check,
    Claimed,
    Commit,
    Committed,
    Engine,
    EngineStats,
    MailboxOptions,
    Publish,
    Record,
    Send,
    Sent,
    Settle,
    Stored,
)
from tertulia.errors import EngineUnavailableError, OutcomeUnknownError, TertuliaError
from tertulia.records import AgentInfo, Finding

__all__ = ["Fault", "FaultyEngine"]

SLOW_CALL = 0.05  # seconds that a slow call takes at most: felt by people, and far from any timeout


class Fault(StrEnum):
    """What can go wrong."""

    UNAVAILABLE = "unavailable"
    """A call raises EngineUnavailableError; it has not happened."""
    OUTCOME_UNKNOWN_APPLIED = "outcome unknown, applied"
    """A commit raises OutcomeUnknownError, and has happened."""
    OUTCOME_UNKNOWN_NOT_APPLIED = "outcome unknown, not applied"
    """A commit raises OutcomeUnknownError, and has not happened."""
    SLOW = "slow"
    """A call takes its time."""
    CANCELLED = "cancelled"
    """The task that calls is cancelled: before the call does anything or, half of the commits, after."""

    STALE_READ = "stale read"
    """`get` returns the key as it was before its last change through this handle."""
    LOST_UPDATE = "lost update"
    """A commit is applied though its checks do not hold."""
    REUSED_REVISION = "reused revision"
    """A put gets the revision of the put before it, whatever its key."""
    DOUBLE_APPLY = "double apply"
    """The puts and sends of a commit are applied twice."""
    DROPPED_MESSAGE = "dropped message"
    """The sends of a commit are not applied, and reported as stored."""
    EARLY_ACKNOWLEDGE = "early acknowledge"
    """A message is settled when it is claimed; releasing it, or letting its lease run out, loses it."""
    DUPLICATE_DELIVERY = "duplicate delivery"
    """A claimed message is handed out once more, under the same attempt."""
    SKIPPED_CHANGE = "skipped change"
    """A watch leaves a change out, and does not say so."""
    REORDERED_CHANGES = "reordered changes"
    """A watch brings a change after the one that follows it."""


class FaultyEngine(Engine):
    """Passes every call on to another engine, and goes wrong at the given rates (0 to 1) per call or change.

    The same seed and the same calls give the same faults. `injected` counts them; a rate in `rates` may be changed at
    any time, so that a test can begin and end in peace. Closing it closes the engine inside.
    """

    def __init__(
        self, engine: Engine, rates: Mapping[Fault, float], *, seed: int = 0, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self.inside = engine
        self.capabilities = engine.capabilities
        self.identity = engine.identity
        self.rates = dict(rates)
        self.injected: Counter[Fault] = Counter()
        self._random = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self._clock = clock
        self._now: dict[str, Record | None] = {}
        self._before: dict[str, Record | None] = {}
        self._revision = 0
        self._shown: dict[int, int] = {}  # a reused revision, by the true one
        self._meant: dict[tuple[str, int], int] = {}  # and back
        self._settled: set[tuple[str, str, int]] = set()
        self._again: defaultdict[str, deque[Claimed]] = defaultdict(deque)

    def strikes(self, fault: Fault) -> bool:
        """Decide, at the fault's rate, whether it happens now, and count it."""
        rate = self.rates.get(fault, 0.0)
        if not rate or self._random.random() >= rate:
            return False
        self.injected[fault] += 1
        return True

    async def _disturb(self) -> None:
        """Do to a call what can happen to any."""
        if self.strikes(Fault.SLOW):
            await sleep(self._clock, self._random.random() * SLOW_CALL)
        if self.strikes(Fault.UNAVAILABLE):
            raise EngineUnavailableError("injected: the engine cannot be reached")
        if self.strikes(Fault.CANCELLED):
            await _cancel_this_task()

    # --- records ---

    async def get(self, key: str) -> Record | None:
        await self._disturb()
        record = await self.inside.get(key)
        if key in self._before and self.strikes(Fault.STALE_READ):
            return self._before[key]
        return record and self._disguised(record)

    async def scan(
        self,
        prefix: str,
        *,
        matches: Callable[[str], object] | None = None,
        tags: frozenset[str] | None = None,
        owner: str | None = None,
        bodies: bool = True,
    ) -> tuple[int, list[Record]]:
        await self._disturb()
        revision, records = await self.inside.scan(prefix, matches=matches, tags=tags, owner=owner, bodies=bodies)
        return revision, [self._disguised(record) for record in records]

    async def commit(self, commit: Commit) -> Committed:
        if self.strikes(Fault.SLOW):
            await sleep(self._clock, self._random.random() * SLOW_CALL)
        if self.strikes(Fault.UNAVAILABLE):
            raise EngineUnavailableError("injected: the engine cannot be reached")
        if self.strikes(Fault.OUTCOME_UNKNOWN_NOT_APPLIED):
            raise OutcomeUnknownError("injected: the answer to a commit that did not happen was lost")
        cancelled = self.strikes(Fault.CANCELLED)
        if cancelled and self._random.random() < 1 / 2:
            await _cancel_this_task()
        committed = await self._apply(commit)
        if cancelled:
            await _cancel_this_task()
        if self.strikes(Fault.OUTCOME_UNKNOWN_APPLIED):
            raise OutcomeUnknownError("injected: the answer to a commit that happened was lost")
        return committed

    async def _apply(self, commit: Commit) -> Committed:
        """Apply a commit, or what the faults leave of it."""
        settles = tuple(settle for settle in commit.settles if not self._was_settled(settle))
        checks = tuple(self._meant_check(check) for check in commit.checks)
        if checks and self.strikes(Fault.LOST_UPDATE):
            checks = ()
        dropped = bool(commit.sends) and self.strikes(Fault.DROPPED_MESSAGE)
        sends = () if dropped else commit.sends
        committed = await self.inside.commit(Commit(checks, settles, commit.puts, commit.deletes, sends))
        if dropped:
            committed = replace(committed, sent=tuple(Sent(1) for _ in commit.sends))
        if (commit.puts or sends) and self.strikes(Fault.DOUBLE_APPLY):
            committed = await self._apply_again(commit, committed)
        records = tuple(self._with_revision(record) for record in committed.records)
        self._remember(commit, records)
        return replace(committed, records=records)

    async def _apply_again(self, commit: Commit, committed: Committed) -> Committed:
        sends = tuple(replace(send, message_id=f"{send.message_id}~") for send in commit.sends)
        try:
            again = await self.inside.commit(Commit(puts=commit.puts, sends=sends))
        except TertuliaError:  # a full mailbox, for one
            return committed
        return replace(committed, revision=again.revision, records=again.records)

    def _remember(self, commit: Commit, records: tuple[Record, ...]) -> None:
        changes: list[tuple[str, Record | None]] = [(record.key, replace(record)) for record in records]
        changes += [(delete.key, None) for delete in commit.deletes]
        for key, record in changes:
            self._before[key] = self._now.get(key)
            self._now[key] = record

    def _with_revision(self, record: Record) -> Record:
        """Return a record that was just put, at times with the revision of the put before."""
        last, self._revision = self._revision, record.revision
        if not last or not self.strikes(Fault.REUSED_REVISION):
            return record
        self._revision = last
        self._shown[record.revision] = last
        self._meant[record.key, last] = record.revision
        return replace(record, revision=last)

    def _disguised(self, record: Record) -> Record:
        shown = self._shown.get(record.revision)
        return record if shown is None else replace(record, revision=shown)

    def _meant_check(self, check: Check) -> Check:
        meant = None if check.revision is None else self._meant.get((check.key, check.revision))
        return check if meant is None else replace(check, revision=meant)

    async def watch(self, pattern: str, *, after: int | None = None) -> ChangeStream:
        await self._disturb()
        return _FaultyStream(self, await self.inside.watch(pattern, after=after))

    def show_change(self, change: Change) -> Change:
        """Return a change as a watcher gets it."""
        shown = self._shown.get(change.revision)
        if shown is None:
            return change
        return replace(change, revision=shown, record=change.record and self._disguised(change.record))

    # --- mailboxes ---

    async def open_mailbox(self, mailbox: str, options: MailboxOptions) -> bool:
        await self._disturb()
        return await self.inside.open_mailbox(mailbox, options)

    async def close_mailbox(self, mailbox: str, *, heir: str | None = None, note: bytes = b"") -> int:
        await self._disturb()
        return await self.inside.close_mailbox(mailbox, heir=heir, note=note)

    async def mailboxes(self) -> list[AgentInfo]:
        await self._disturb()
        return await self.inside.mailboxes()

    async def subscribe(self, mailbox: str, pattern: str) -> bool:
        await self._disturb()
        return await self.inside.subscribe(mailbox, pattern)

    async def unsubscribe(self, mailbox: str, pattern: str) -> bool:
        await self._disturb()
        return await self.inside.unsubscribe(mailbox, pattern)

    async def claim(
        self, mailbox: str, *, limit: int = 1, lease: float = DEFAULT_LEASE, wait: float | None = 0.0
    ) -> list[Claimed]:
        await self._disturb()
        if again := self._again[mailbox]:
            return [again.popleft()]
        claimed = await self.inside.claim(mailbox, limit=limit, lease=lease, wait=wait)
        for one in claimed:
            if not one.transient and self.strikes(Fault.EARLY_ACKNOWLEDGE):
                await self.inside.settle(Settle(mailbox, one.message_id, one.sequence, one.author))
                self._settled.add((mailbox, one.message_id, one.sequence))
            if self.strikes(Fault.DUPLICATE_DELIVERY):
                again.append(one)
        return claimed

    def _was_settled(self, settle: Settle) -> bool:
        """Tell, once, whether a message was settled early, so that settling it now must seem to succeed."""
        place = (settle.mailbox, settle.message_id, settle.sequence)
        known = place in self._settled
        self._settled.discard(place)
        return known

    def _is_settled(self, claimed: Claimed) -> bool:
        return (claimed.mailbox, claimed.message_id, claimed.sequence) in self._settled

    async def extend(self, claimed: Claimed, lease: float) -> None:
        await self._disturb()
        if not self._is_settled(claimed):
            await self.inside.extend(claimed, lease)

    async def release(self, claimed: Claimed, *, delay: float = 0.0, counted: bool = False, note: bytes = b"") -> bool:
        await self._disturb()
        if self._is_settled(claimed):
            return True
        return await self.inside.release(claimed, delay=delay, counted=counted, note=note)

    async def wait_for_room(self, mailbox: str, timeout: float) -> bool:
        await self._disturb()
        return await self.inside.wait_for_room(mailbox, timeout)

    async def emit(self, send: Send | Publish) -> int:
        await self._disturb()
        if self.strikes(Fault.DROPPED_MESSAGE):
            return 1
        return await self.inside.emit(send)

    def listen(self, mailbox: str, callback: Callable[[Claimed], None]) -> Callable[[], None]:
        return self.inside.listen(mailbox, callback)

    async def browse(self, mailbox: str, *, limit: int = 100, message_id: str | None = None) -> Sequence[Stored]:
        await self._disturb()
        return await self.inside.browse(mailbox, limit=limit, message_id=message_id)

    # --- the whole ---

    async def stats(self) -> EngineStats:
        await self._disturb()
        return await self.inside.stats()

    async def doctor(self) -> list[Finding]:
        found = await self.inside.doctor()
        injected = ", ".join(f"{fault} {count} times" for fault, count in self.injected.items())
        return [*found, Finding(level="note", subject="injected faults", detail=injected or "none so far")]

    async def aclose(self) -> None:
        await self.inside.aclose()


class _FaultyStream:
    """A watch that leaves changes out, or brings them in another order."""

    def __init__(self, engine: FaultyEngine, inside: ChangeStream) -> None:
        self._engine = engine
        self._inside = inside
        self._late: Change | None = None

    def __aiter__(self) -> AsyncIterator[Change]:
        return self

    async def __anext__(self) -> Change:
        if self._late is not None:
            late, self._late = self._late, None
            return late
        change = self._engine.show_change(await self._inside.__anext__())
        while self._engine.strikes(Fault.SKIPPED_CHANGE):
            change = self._engine.show_change(await self._inside.__anext__())
        if self._engine.strikes(Fault.REORDERED_CHANGES):
            following = self._engine.show_change(await self._inside.__anext__())
            self._late = change
            return following
        return change

    async def aclose(self) -> None:
        await self._inside.aclose()


async def _cancel_this_task() -> None:
    task = asyncio.current_task()
    if task is not None:
        task.cancel("injected")
        await asyncio.sleep(0)
