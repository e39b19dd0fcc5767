"""The instrument: counts and times what agents ask of an engine, without the agents knowing.

A `Meter` wraps the engine under each agent's handle of a space. Only calls to the engine are timed: what the library
adds above it (encoding, checks) is in the wall time of a run, not in these latencies.

What is measured, by kind of operation:

- `read`, `list`, `write`, `send`, `acknowledge`, …: how long the call took. A commit of several sorts of parts is
  named after them (`send + acknowledge`). Calls that were refused (a lost race) are timed and counted too.
- `receive` (a message) and `notice` (a change that is watched): how long it was under way, from the moment when both
  sides were ready, that is when the sender had begun to send *and* the receiver had asked, until the receiver had it.
  So neither the time that a message waits for a busy receiver counts, nor the time that an idle receiver waits.

Bytes are those of encoded values and messages: written, as given to the engine; read, as handed to an agent.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Self

from tertulia.engines.base import (
    DEFAULT_LEASE,
    Change,
    ChangeStream,
    Claimed,
    Commit,
    Committed,
    Engine,
    EngineStats,
    MailboxOptions,
    Publish,
    Put,
    Record,
    Send,
    Sent,
    Settle,
    Stored,
)
from tertulia.records import AgentInfo, ChangeKind, Finding
from tertulia.space import Space

__all__ = ["AgentFigures", "Meter", "MeteredEngine", "OperationFigures", "percentile"]

READ, LIST, WRITE, WATCH, NOTICE = "read", "list", "write", "watch", "notice"
SEND, RECEIVE, ACKNOWLEDGE, REPLY = "send", "receive", "acknowledge", "receive reply"
LEASE, SET_UP = "lease", "set up"
KINDS = (READ, LIST, WRITE, WATCH, NOTICE, SEND, RECEIVE, ACKNOWLEDGE, REPLY, LEASE, SET_UP)


@dataclass(slots=True)
class OperationFigures:
    """One kind of operation of one agent. `refused` of the `count` raised; `seconds` has a latency for each timed."""

    count: int = 0
    refused: int = 0
    seconds: array[float] = field(default_factory=lambda: array("d"))


@dataclass(slots=True)
class AgentFigures:
    """What one agent asked of the engine."""

    operations: defaultdict[str, OperationFigures] = field(default_factory=lambda: defaultdict(OperationFigures))
    bytes_written: int = 0
    bytes_read: int = 0
    messages_received: int = 0
    changes_noticed: int = 0

    def done(self, kind: str, seconds: float | None, *, refused: bool = False) -> None:
        """Count an operation, with its latency if it has one."""
        figures = self.operations[kind]
        figures.count += 1
        figures.refused += refused
        if seconds is not None:
            figures.seconds.append(seconds)


class Meter:
    """Measures all agents of one run: `meter.space(space, agent)` for each of their handles.

    It remembers when each message and each revision was sent: a few dozen bytes an operation, for as long as the
    run lasts.
    """

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self.agents: defaultdict[str, AgentFigures] = defaultdict(AgentFigures)
        self.clock = clock
        self._sent: dict[str, float] = {}
        self._revisions: list[int] = []
        self._began: list[float] = []

    def space(self, space: Space, agent: str) -> Space:
        """Return a handle that does what this one does, and is measured; closing it closes the other."""
        return Space(space.url, MeteredEngine(space.engine, self, agent), space.clock)

    def sending(self, message_id: str, began: float) -> None:
        """Remember when sending a message began."""
        self._sent[message_id] = began

    def committed(self, revision: int, began: float) -> None:
        """Remember when the commit began that led to a revision."""
        if not self._revisions or revision > self._revisions[-1]:
            self._revisions.append(revision)
            self._began.append(began)

    def sent_at(self, message_id: str) -> float | None:
        """Return when sending the message began, if it was measured."""
        return self._sent.get(message_id)

    def committed_at(self, revision: int) -> float | None:
        """Return when the commit began that made the change of this revision, if it was measured."""
        place = bisect_left(self._revisions, revision)
        return self._began[place] if place < len(self._began) else None


class MeteredEngine(Engine):
    """An engine that does what another one does, and lets a meter know."""

    def __init__(self, engine: Engine, meter: Meter, agent: str) -> None:
        self.capabilities = engine.capabilities
        self._engine = engine
        self._meter = meter
        self._clock = meter.clock
        self._figures = meter.agents[agent]

    def _timed(self, kind: str) -> _Timed:
        return _Timed(self._clock, self._figures, kind)

    # --- records ---

    async def get(self, key: str) -> Record | None:
        """See Engine."""
        with self._timed(READ):
            record = await self._engine.get(key)
        if record is not None:
            self._figures.bytes_read += len(record.body)
        return record

    async def scan(
        self,
        prefix: str,
        *,
        matches: Callable[[str], object] | None = None,
        tags: frozenset[str] | None = None,
        owner: str | None = None,
        bodies: bool = True,
    ) -> tuple[int, list[Record]]:
        """See Engine."""
        with self._timed(LIST):
            revision, records = await self._engine.scan(prefix, matches=matches, tags=tags, owner=owner, bodies=bodies)
        if bodies:
            self._figures.bytes_read += sum(len(record.body) for record in records)
        return revision, records

    async def commit(self, commit: Commit) -> Committed:
        """See Engine."""
        with self._timed(_kind(commit)) as timed:
            for send in commit.sends:
                self._meter.sending(send.message_id, timed.began)
            committed = await self._engine.commit(commit)
        self._meter.committed(committed.revision, timed.began)
        self._figures.bytes_written += sum(len(part.body) for part in (*commit.puts, *commit.sends))
        return committed

    async def put(self, put: Put) -> Record:
        """See Engine."""
        with self._timed(WRITE) as timed:
            record = await self._engine.put(put)
        self._meter.committed(record.revision, timed.began)
        self._figures.bytes_written += len(put.body)
        return record

    async def send(self, send: Send | Publish) -> Sent:
        """See Engine."""
        with self._timed(SEND) as timed:
            self._meter.sending(send.message_id, timed.began)
            sent = await self._engine.send(send)
        self._figures.bytes_written += len(send.body)
        return sent

    async def settle(self, settle: Settle) -> None:
        """See Engine."""
        with self._timed(ACKNOWLEDGE):
            await self._engine.settle(settle)

    async def watch(self, pattern: str, *, after: int | None = None) -> ChangeStream:
        """See Engine."""
        with self._timed(WATCH):
            stream = await self._engine.watch(pattern, after=after)
        return _MeteredStream(stream, self._meter, self._figures)

    # --- messages ---

    async def claim(
        self, mailbox: str, *, limit: int = 1, lease: float = DEFAULT_LEASE, wait: float | None = 0.0
    ) -> list[Claimed]:
        """See Engine."""
        asked = self._clock()
        claimed = await self._engine.claim(mailbox, limit=limit, lease=lease, wait=wait)
        now = self._clock()
        known = [sent for one in claimed if (sent := self._meter.sent_at(one.message_id)) is not None]
        self._figures.done(RECEIVE, now - max(asked, *known) if known else None)
        self._figures.messages_received += len(claimed)
        self._figures.bytes_read += sum(len(one.body) for one in claimed)
        return claimed

    async def emit(self, send: Send | Publish) -> int:
        """See Engine."""
        with self._timed(SEND) as timed:
            self._meter.sending(send.message_id, timed.began)
            taken = await self._engine.emit(send)
        self._figures.bytes_written += len(send.body)
        return taken

    def listen(self, mailbox: str, callback: Callable[[Claimed], None]) -> Callable[[], None]:
        """See Engine."""

        def heard(claimed: Claimed) -> None:
            sent = self._meter.sent_at(claimed.message_id)
            self._figures.done(REPLY, None if sent is None else self._clock() - sent)
            self._figures.messages_received += 1
            self._figures.bytes_read += len(claimed.body)
            callback(claimed)

        return self._engine.listen(mailbox, heard)

    async def extend(self, claimed: Claimed, lease: float) -> None:
        """See Engine."""
        with self._timed(LEASE):
            await self._engine.extend(claimed, lease)

    async def release(self, claimed: Claimed, *, delay: float = 0.0, counted: bool = False, note: bytes = b"") -> bool:
        """See Engine."""
        with self._timed(LEASE):
            return await self._engine.release(claimed, delay=delay, counted=counted, note=note)

    async def wait_for_room(self, mailbox: str, timeout: float) -> bool:
        """See Engine. Not counted: it is a part of a send that is."""
        return await self._engine.wait_for_room(mailbox, timeout)

    # --- set-up and surroundings ---

    async def open_mailbox(self, mailbox: str, options: MailboxOptions) -> bool:
        """See Engine."""
        with self._timed(SET_UP):
            return await self._engine.open_mailbox(mailbox, options)

    async def close_mailbox(self, mailbox: str, *, heir: str | None = None, note: bytes = b"") -> int:
        """See Engine."""
        with self._timed(SET_UP):
            return await self._engine.close_mailbox(mailbox, heir=heir, note=note)

    async def mailboxes(self) -> list[AgentInfo]:
        """See Engine."""
        with self._timed(SET_UP):
            return await self._engine.mailboxes()

    async def subscribe(self, mailbox: str, pattern: str) -> bool:
        """See Engine."""
        with self._timed(SET_UP):
            return await self._engine.subscribe(mailbox, pattern)

    async def unsubscribe(self, mailbox: str, pattern: str) -> bool:
        """See Engine."""
        with self._timed(SET_UP):
            return await self._engine.unsubscribe(mailbox, pattern)

    async def browse(self, mailbox: str, *, limit: int = 100, message_id: str | None = None) -> Sequence[Stored]:
        """See Engine."""
        with self._timed(LIST):
            stored = await self._engine.browse(mailbox, limit=limit, message_id=message_id)
        self._figures.bytes_read += sum(len(one.body) for one in stored)
        return stored

    async def stats(self) -> EngineStats:
        """See Engine. Not counted: it is for people."""
        return await self._engine.stats()

    async def doctor(self) -> list[Finding]:
        """See Engine. Not counted: it is for people."""
        return await self._engine.doctor()

    async def aclose(self) -> None:
        """See Engine. Not counted: it ends the measuring."""
        await self._engine.aclose()


class _Timed:
    """Times one call: done when it returns, refused when it raises, neither when it is cancelled."""

    __slots__ = ("_clock", "_figures", "_kind", "began")

    def __init__(self, clock: Callable[[], float], figures: AgentFigures, kind: str) -> None:
        self._clock = clock
        self._figures = figures
        self._kind = kind

    def __enter__(self) -> Self:
        self.began = self._clock()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None or isinstance(error, Exception):
            self._figures.done(self._kind, self._clock() - self.began, refused=error is not None)


class _MeteredStream:
    """A watch that lets the meter know what it hands over."""

    def __init__(self, stream: ChangeStream, meter: Meter, figures: AgentFigures) -> None:
        self._stream = stream
        self._meter = meter
        self._figures = figures

    def __aiter__(self) -> AsyncIterator[Change]:
        return self

    async def __anext__(self) -> Change:
        asked = self._meter.clock()
        change = await self._stream.__anext__()
        now = self._meter.clock()
        expired = change.kind is ChangeKind.EXPIRE  # nobody's commit
        committed = None if expired else self._meter.committed_at(change.revision)
        self._figures.done(NOTICE, None if committed is None else now - max(asked, committed))
        self._figures.changes_noticed += 1
        self._figures.bytes_read += 0 if change.record is None else len(change.record.body)
        return change

    async def aclose(self) -> None:
        """Stop watching."""
        await self._stream.aclose()


def percentile(seconds: Sequence[float], percent: float) -> float | None:
    """Return the smallest latency that so many percent of all do not exceed (the nearest rank).

    None when there are too few for it to mean anything: fewer than one is expected beyond it.
    """
    rarest = 1 - percent / 100
    if len(seconds) * rarest < 1 - 1e-9:
        return None
    ranked = sorted(seconds)
    return ranked[-int(-len(ranked) * percent // 100) - 1]


def _kind(commit: Commit) -> str:
    """Name a commit after its parts."""
    parts = (
        (WRITE, commit.puts or commit.deletes),
        (SEND, commit.sends),
        (ACKNOWLEDGE, commit.settles),
    )
    return " + ".join(kind for kind, part in parts if part) or WRITE
