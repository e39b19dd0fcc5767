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

from collections.abc import AsyncIterator, Callable, Sequence
from time import perf_counter
from typing import Self

from tertulia.compare.recordings import AgentFigures, Arrival, Recording
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

__all__ = ["KINDS", "Meter", "MeteredEngine"]

READ, LIST, WRITE, WATCH, NOTICE = "read", "list", "write", "watch", "notice"
SEND, RECEIVE, ACKNOWLEDGE, REPLY = "send", "receive", "acknowledge", "receive reply"
LEASE, SET_UP = "lease", "set up"
KINDS = (READ, LIST, WRITE, WATCH, NOTICE, SEND, RECEIVE, ACKNOWLEDGE, REPLY, LEASE, SET_UP)


class Meter:
    """Measures the agents of one run that are in this process: `meter.space(space, agent)` for each of their handles.

    What it measures is in `recording`; see `recordings` for what comes of it.
    """

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self.recording = Recording()
        self.clock = clock

    @property
    def agents(self) -> dict[str, AgentFigures]:
        """What was counted for each agent; latencies of what arrived are not in it, see `recordings.figures_of`."""
        return self.recording.agents

    def space(self, space: Space, agent: str) -> Space:
        """Return a handle that does what this one does, and is measured; closing it closes the other."""
        return Space(space.url, MeteredEngine(space.engine, self, agent), space.clock)

    def figures(self, agent: str) -> AgentFigures:
        """Return the figures of an agent, to be added to."""
        return self.recording.agents.setdefault(agent, AgentFigures())

    def arrived(self, arrival: Arrival) -> None:
        """Write down that something arrived."""
        self.recording.arrivals.append(arrival)

    def sending(self, message_id: str, began: float) -> None:
        """Write down when sending a message began; of several tries the last one counts."""
        self.recording.sent[message_id] = began

    def committed(self, revision: int, began: float) -> None:
        """Write down when the commit began whose changes have revisions up to this one."""
        self.recording.commits.append((revision, began))


class MeteredEngine(Engine):
    """An engine that does what another one does, and lets a meter know."""

    def __init__(self, engine: Engine, meter: Meter, agent: str) -> None:
        self.capabilities = engine.capabilities
        self.identity = engine.identity
        self._engine = engine
        self._meter = meter
        self._clock = meter.clock
        self._agent = agent
        self._figures = meter.figures(agent)

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
        if commit.puts or any(committed.deleted):  # else the revision is another commit's
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
        return _MeteredStream(stream, self._meter, self._agent)

    # --- messages ---

    async def claim(
        self, mailbox: str, *, limit: int = 1, lease: float = DEFAULT_LEASE, wait: float | None = 0.0
    ) -> list[Claimed]:
        """See Engine."""
        asked = self._clock()
        claimed = await self._engine.claim(mailbox, limit=limit, lease=lease, wait=wait)
        now = self._clock()
        self._figures.done(RECEIVE, None)
        if claimed:
            ids = tuple(one.message_id for one in claimed)
            self._meter.arrived(Arrival(self._agent, RECEIVE, now, asked, ids))
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
            self._figures.done(REPLY, None)
            self._meter.arrived(Arrival(self._agent, REPLY, self._clock(), None, (claimed.message_id,)))
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

    def __init__(self, stream: ChangeStream, meter: Meter, agent: str) -> None:
        self._stream = stream
        self._meter = meter
        self._agent = agent
        self._figures = meter.figures(agent)

    def __aiter__(self) -> AsyncIterator[Change]:
        return self

    async def __anext__(self) -> Change:
        asked = self._meter.clock()
        change = await self._stream.__anext__()
        now = self._meter.clock()
        self._figures.done(NOTICE, None)
        if change.kind is not ChangeKind.EXPIRE:  # that is nobody's commit
            self._meter.arrived(Arrival(self._agent, NOTICE, now, asked, revision=change.revision))
        self._figures.changes_noticed += 1
        self._figures.bytes_read += 0 if change.record is None else len(change.record.body)
        return change

    async def aclose(self) -> None:
        """Stop watching."""
        await self._stream.aclose()


def _kind(commit: Commit) -> str:
    """Name a commit after its parts."""
    parts = (
        (WRITE, commit.puts or commit.deletes),
        (SEND, commit.sends),
        (ACKNOWLEDGE, commit.settles),
    )
    return " + ".join(kind for kind, part in parts if part) or WRITE
