"""The engine `nats://`: a space on NATS JetStream, shared by the processes of any number of machines.

`nats://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]]/SPACE`, or `tls://`. Needs nats-server 2.12 or later. Options, in the
URL as `?NAME=VALUE&…` or as arguments: `agent` (who this is, on a server that grants each agent what it needs and no
more: docs/howto/nats-permissions.md); `replicas` (1 to 5) and `storage` ("file" or "memory") of a space that is made;
`consistency` ("leader", or "eventual" for reads that any replica answers); `history` (changes that a watch can resume
over); `timeout` (seconds that a call tries to reach a server); `tls`, `nkey` and `creds` (paths of files), `inbox` (a
prefix of this agent's own). As arguments only: `user`, `password`, `token`, and `tls` as an SSLContext.

One stream holds keys, messages and mailboxes, because a batch is atomic within one stream. Whatever changes is written
by compare-and-set on its subject; the feed, on which the server repeats what it has stored, keeps each process's copy
of what it works with up to date, and a write that was planned with an old copy is refused and planned anew.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from tertulia._background import Background, logger
from tertulia._clock import Clock
from tertulia.engines._nats_boxes import Registry
from tertulia.engines._nats_closing import Closing
from tertulia.engines._nats_commit import Committer
from tertulia.engines._nats_commit_draft import Parts
from tertulia.engines._nats_doctor import examine
from tertulia.engines._nats_format import LIVE, KeyState, MailState, key_state, mail_state
from tertulia.engines._nats_history import History
from tertulia.engines._nats_keeper import DEDUP_WINDOW, Keeper
from tertulia.engines._nats_keys import Keys
from tertulia.engines._nats_live import Live
from tertulia.engines._nats_mail import Mail
from tertulia.engines._nats_mailbox import counts_of, items_of
from tertulia.engines._nats_open import check_level, open_streams
from tertulia.engines._nats_restricted import RestrictedStore
from tertulia.engines._nats_store import Store
from tertulia.engines._nats_subjects import Subjects, mail_key, split_mail_key
from tertulia.engines._nats_time import SharedTime
from tertulia.engines._nats_url import Settings, settings_of
from tertulia.engines._nats_watch import WatchStream, resume_all
from tertulia.engines._nats_wire import Wire
from tertulia.engines.base import (
    DEAD_LETTERS,
    DEFAULT_LEASE,
    Capabilities,
    Claimed,
    Commit,
    Committed,
    Engine,
    EngineStats,
    MailboxCounts,
    MailboxOptions,
    Publish,
    Put,
    Record,
    Send,
    Sent,
    Settle,
    Stored,
)
from tertulia.errors import (
    AccessDeniedError,
    AlreadySettledError,
    EngineError,
    LeaseLostError,
    SpaceClosedError,
    TertuliaError,
)
from tertulia.records import AgentInfo, Finding

CAPABILITIES = Capabilities(
    durable=True,
    multi_process=True,
    multi_machine=True,
    linearizable_reads=True,  # by the stream's leader; one that a partition has cut off may answer with what is old
    exact_bounds=False,  # a counter would make every send a batch: senders that race may exceed a mailbox's size
    exact_access_counts=False,  # counting a read would make it a write; each process counts its own, until it writes
    manual_clock=True,
    max_value_bytes=1_000_000,  # what the server's default of 1 MiB leaves beside notes and headers
    max_commit_operations=400,  # the server takes 1,000 messages in a batch; an operation may need two
    ttl_resolution=0.0,
    dedup_window=DEDUP_WINDOW,
    dedup_count=1_000_000,
    history=1_000,
)
BESIDE_VALUE = 48_576  # bytes of a message for notes, names and headers beside a value
TICK = 15.0  # seconds between two rounds of tidying up
CLOSE = 5.0  # seconds for claims and letters under way to come to an end when the handle closes


class NatsEngine(Engine):
    """One handle on a space on NATS, with a connection of its own."""

    def __init__(self, wire: Wire, settings: Settings, clock: Clock) -> None:
        self.capabilities = replace(CAPABILITIES, history=settings.history)
        self._settings = settings
        self._wire = wire
        self._clock = clock
        self._pid = os.getpid()
        self._closed = False
        instance, numbers = os.urandom(8).hex(), itertools.count(1)

        def new_op() -> str:
            return f"{instance}{next(numbers):x}"

        self._background = Background()
        self._time = SharedTime(clock)
        self.identity = settings.agent
        self._subjects = Subjects(settings.space, settings.agent)
        self._store = store = (RestrictedStore if settings.agent else Store)(wire, self._subjects, settings)
        self._history = History(store, settings.history, self._background, readable=not settings.agent)
        self._keys = Keys(store, clock, self._background, self._history, new_op)
        self._registry = Registry(store, new_op)
        self._mail = Mail(store, self._registry, clock, self._time, self._background, new_op)
        self._live = Live(store, self._registry, self._mail, self._background, new_op)
        parts = Parts(
            store=store,
            subjects=self._subjects,
            keys=self._keys,
            registry=self._registry,
            mail=self._mail,
            live=self._live,
            history=self._history,
            new_op=new_op,
        )
        self._committer = Committer(parts)
        self._closing = Closing(parts)
        self._keeper = Keeper(store, self._registry, self._mail, self._background, new_op)
        self._streams: set[WatchStream] = set()
        self._ticking: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Check the server, and make or examine the space."""
        started = self._clock.monotonic()
        await check_level(self._wire, self._settings)
        await open_streams(self._store, self._settings, self._time, started)
        limit = min(CAPABILITIES.max_value_bytes, self._wire.max_payload - BESIDE_VALUE)
        if limit <= 0:
            raise EngineError(f"the server takes {self._wire.max_payload:,} bytes in a message, which is too little")
        self.capabilities = replace(
            self.capabilities, max_value_bytes=limit, linearizable_reads=self._store.single or not self.identity
        )
        self._wire.on_epoch.append(self._on_epoch)
        self._ticking = asyncio.get_running_loop().call_later(TICK, self._tick)

    # --- records ---

    async def get(self, key: str) -> Record | None:
        self._check_open()
        return await self._keys.get(key)

    async def scan(
        self,
        prefix: str,
        *,
        matches: Callable[[str], object] | None = None,
        tags: frozenset[str] | None = None,
        owner: str | None = None,
        bodies: bool = True,  # noqa: ARG002 - the server cannot leave them out
    ) -> tuple[int, list[Record]]:
        self._check_open()
        revision, records = await self._keys.scan(prefix)
        return revision, [
            record
            for record in records
            if (matches is None or matches(record.key))
            and (owner is None or record.owner == owner)
            and (tags is None or not tags.isdisjoint(record.tags))
        ]

    async def commit(self, commit: Commit) -> Committed:
        self._check_open()
        return await self._commit(commit)

    async def put(self, put: Put) -> Record:
        self._check_open()
        return await self._keys.put(put)

    async def send(self, send: Send | Publish) -> Sent:
        self._check_open()
        if send.author:
            send = replace(send, message_id=mail_key(send.author, send.message_id))
        return _sent((await self._committer.commit(Commit(sends=(send,)))).sent[0])

    async def settle(self, settle: Settle) -> None:
        self._check_open()
        await self._commit(Commit(settles=(settle,)))

    async def watch(self, pattern: str, *, after: int | None = None) -> WatchStream:
        self._check_open()
        stream = WatchStream(pattern, self._store, self._keys, self._history, self._background, self._streams)
        try:
            await stream.start(after)
        except BaseException:
            await stream.aclose()
            raise
        return stream

    # --- mailboxes ---

    async def open_mailbox(self, mailbox: str, options: MailboxOptions) -> bool:
        self._check_open()
        return await self._registry.open(mailbox, options)

    async def close_mailbox(self, mailbox: str, *, heir: str | None = None, note: bytes = b"") -> int:
        self._check_open()
        count = await self._closing.close(mailbox, heir, note)
        await self._live.stop_consuming(mailbox)
        await self._keeper.finish(mailbox)
        self._background.start(self._closing.sweep(mailbox, heir, note), "tertulia nats closing")
        return count

    async def mailboxes(self) -> list[AgentInfo]:
        self._check_open()
        return [box.info() for box in await self._registry.all()]

    async def subscribe(self, mailbox: str, pattern: str) -> bool:
        self._check_open()
        return await self._registry.subscribe(mailbox, pattern)

    async def unsubscribe(self, mailbox: str, pattern: str) -> bool:
        self._check_open()
        return await self._registry.unsubscribe(mailbox, pattern)

    async def claim(
        self, mailbox: str, *, limit: int = 1, lease: float = DEFAULT_LEASE, wait: float | None = 0.0
    ) -> list[Claimed]:
        self._check_open()
        await self._registry.require(mailbox)
        await self._live.consume(mailbox)
        return [_shown(one) for one in await self._mail.claim(mailbox, limit, lease, wait)]

    async def extend(self, claimed: Claimed, lease: float) -> None:
        self._check_open()
        try:
            await self._mail.extend(_kept(claimed), lease)
        except LeaseLostError as error:
            raise LeaseLostError(claimed.message_id) from error

    async def release(self, claimed: Claimed, *, delay: float = 0.0, counted: bool = False, note: bytes = b"") -> bool:
        self._check_open()
        return await self._mail.release(_kept(claimed), delay, note, counted=counted)

    async def wait_for_room(self, mailbox: str, timeout: float) -> bool:
        self._check_open()
        return await self._mail.wait_for_room(mailbox, timeout)

    async def emit(self, send: Send | Publish) -> int:
        self._check_open()
        await self._live.ready()
        return await self._live.emit(send)

    def listen(self, mailbox: str, callback: Callable[[Claimed], None]) -> Callable[[], None]:
        self._check_open()
        return self._live.listen(mailbox, callback)

    async def browse(self, mailbox: str, *, limit: int = 100, message_id: str | None = None) -> Sequence[Stored]:
        self._check_open()
        if self.identity and mailbox not in (self.identity, DEAD_LETTERS + self.identity):
            raise AccessDeniedError(self.identity, "look into", mailbox, "what others sent there is not to be seen")
        return [_shown_stored(one) for one in await self._mail.browse(mailbox, limit, message_id)]

    # --- the whole ---

    async def stats(self) -> EngineStats:
        self._check_open()
        subjects = self._subjects
        found, revision = await self._store.many((subjects.all_keys, subjects.all_mail))
        states: list[KeyState] = []
        mail: dict[str, list[tuple[str, int, MailState]]] = {}
        for one in found:
            if one.subject.startswith(subjects.all_mail[:-1]):
                mailbox, message_id = subjects.message_of(one.subject)
                mail.setdefault(mailbox, []).append((message_id, one.seq, mail_state(message_id, one.data)))
            else:
                states.append(key_state(subjects.key_of(one.subject), one.data))
        live = [state for state in states if state.kind == LIVE and not self._keys.is_over(state)]
        owners: dict[str, int] = {}
        for state in live:
            owners[state.owner] = owners.get(state.owner, 0) + 1
        boxes = await self._registry.all()
        now = self._time.now()
        counts: dict[str, MailboxCounts] = {
            box.name: counts_of([item.mail for item in items_of(mail.get(box.name, ()))], now) for box in boxes
        }
        return EngineStats(
            keys=len(live),
            bytes=sum(len(state.body) for state in live),
            keys_by_owner=owners,
            mailboxes=counts,
            topics=len({pattern for box in boxes for pattern in box.state.patterns}),
            revision=revision,
        )

    async def doctor(self) -> list[Finding]:
        self._check_open()
        return await examine(self._store, self._settings, self._clock)

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._ticking is not None:
            self._ticking.cancel()
        self._keys.expiries.close()
        self._mail.close()
        for stream in list(self._streams):
            await stream.aclose()
        try:
            async with asyncio.timeout(CLOSE):
                await self._live.aclose()
                await self._mail.at_rest()
        except TimeoutError:
            logger.warning("claims under way when the space was closed could not be given back; leases have to run out")
        await self._background.aclose()
        await self._history.flush()
        await self._wire.aclose()

    # --- inside ---

    async def _commit(self, commit: Commit) -> Committed:
        """Commit, with the authors of messages as parts of what they are kept under."""
        if commit.settles or any(one.author for one in commit.sends):
            settles = tuple([await self._kept_settle(one) for one in commit.settles])
            sends = tuple([replace(one, message_id=mail_key(one.author, one.message_id)) for one in commit.sends])
            commit = replace(commit, settles=settles, sends=sends)
        try:
            committed = await self._committer.commit(commit)
        except AlreadySettledError as error:
            raise AlreadySettledError(error.agent_id, split_mail_key(error.message_id)[1]) from error
        if any(one.dropped for one in committed.sent):
            return replace(committed, sent=tuple([_sent(one) for one in committed.sent]))
        return committed

    async def _kept_settle(self, settle: Settle) -> Settle:
        """Return a settling of what the message is kept under, also where its author is not said."""
        key = mail_key(settle.author, settle.message_id)
        if not settle.author and self._mail.item(settle.mailbox, key) is None:
            key = await self._mail.key_of(settle.mailbox, settle.message_id)
        return replace(settle, message_id=key)

    def _on_epoch(self) -> None:
        """Look anew at everything of which news may have been missed."""
        self._registry.expire()
        self._mail.expire()
        resume_all(self._streams)
        self._background.start(self._catch_up(), "tertulia nats letters")

    async def _catch_up(self) -> None:
        try:
            await self._live.catch_up()
        except TertuliaError:
            logger.warning("letters could not be fetched after a reconnect", exc_info=True)

    def _tick(self) -> None:
        self._ticking = asyncio.get_running_loop().call_later(TICK, self._tick)
        self._background.start(self._tidy(), "tertulia nats tidying")

    async def _tidy(self) -> None:
        for mailbox in await self._mail.drop_idle():
            await self._live.stop_consuming(mailbox)
        await self._keeper.go_round()

    def _check_open(self) -> None:
        if self._closed:
            raise SpaceClosedError
        if self._pid != os.getpid():
            raise EngineError("this process was forked from the one that opened the space; connect anew")


def _kept(claimed: Claimed) -> Claimed:
    """Return a claim as the engine's parts know it: its message by what it is kept under."""
    return replace(claimed, message_id=mail_key(claimed.author, claimed.message_id)) if claimed.author else claimed


def _shown(claimed: Claimed) -> Claimed:
    """Return a claim as the contract shows it. One that was emitted has been so all along."""
    author, message_id = split_mail_key(claimed.message_id)
    return replace(claimed, message_id=message_id, author=author) if author else claimed


def _shown_stored(stored: Stored) -> Stored:
    author, message_id = split_mail_key(stored.message_id)
    return replace(stored, message_id=message_id, author=author) if author else stored


def _sent(sent: Sent) -> Sent:
    """Return what became of a message as the contract says it."""
    if not sent.dropped:
        return sent
    return replace(sent, dropped=tuple([(mailbox, split_mail_key(key)[1]) for mailbox, key in sent.dropped]))


async def open_engine(url: str, *, clock: Clock, **options: Any) -> NatsEngine:
    """Open `nats://HOST/SPACE`, or make the space."""
    settings = settings_of(url, options)
    wire = Wire(settings, clock)
    await wire.open()
    engine = NatsEngine(wire, settings, clock)
    try:
        await engine.open()
    except BaseException:
        await engine.aclose()
        raise
    return engine
