"""What `doctor` says about a space on NATS: what the server is, what it keeps, and what could go wrong."""

from __future__ import annotations

from datetime import datetime, timedelta
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from tertulia._clock import Clock
from tertulia.engines._nats_open import check_level, differences, exposures
from tertulia.engines._nats_patience import Unanswered
from tertulia.engines._nats_store import Store
from tertulia.engines._nats_stream import StreamInfo
from tertulia.engines._nats_url import Settings
from tertulia.errors import AccessDeniedError, EngineUnavailableError
from tertulia.records import Finding

LARGE_SKEW = 2.0  # seconds between this machine's clock and the server's: keys would end noticeably early or late
MANY_SUBJECTS = 1_000_000  # which the server keeps in memory, about 200 bytes each
LAGGING = 1_000  # writes that a replica may be behind: a moment's worth of what a server takes
NEARLY_FULL = 0.9  # of what an account may store
ASKING = 1.0  # seconds for a server to answer what most servers do not tell
_SERVERS = "$SYS.REQ.SERVER.PING.JSZ"  # answered to who may see the system account, or a part of it
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class _Replica(Struct):
    """What the leader tells of another replica."""

    name: str = ""
    current: bool = True
    offline: bool = False
    lag: int = 0

    @property
    def said(self) -> str:
        """What is wrong with it, in words."""
        return f"{self.name} is offline" if self.offline else f"{self.name} is {self.lag:,} writes behind"


class _Limits(Struct, frozen=True):
    max_storage: int = -1
    max_memory: int = -1


class _Account(Struct):
    """What an account stores, and may."""

    storage: int = 0
    memory: int = 0
    limits: _Limits = _Limits()


_decode_account = msgspec.json.Decoder(_Account).decode


async def examine(store: Store, settings: Settings, clock: Clock) -> list[Finding]:
    """Return what was found, good and bad; where the servers do not answer, that."""
    try:
        return await _examine(store, settings, clock)
    except EngineUnavailableError as error:
        return [_problem("server", str(error)), _connection(store, settings, settings.replicas or 1)]


async def _examine(store: Store, settings: Settings, clock: Clock) -> list[Finding]:
    level = await check_level(store.wire, settings)
    started = clock.time()
    info = await store.info()
    ended = clock.time()
    replicas = int(info.config.get("num_replicas", 1))
    skew = (started + ended) / 2 - datetime.fromisoformat(info.ts).timestamp()
    history = await store.info(store.subjects.history_stream)
    return [
        _ok("server", f"nats-server {store.wire.server_version}, JetStream API level {level}"),
        _replicas(info, replicas),
        await _durability(store, settings, str(info.config.get("storage")), replicas),
        _stream(info, history, store),
        await _permissions(store, settings),
        _encryption(settings),
        _clock(skew),
        _size(info),
        await _room(store),
        _connection(store, settings, replicas),
        _ok("values", f"up to {store.wire.max_payload:,} bytes in a message, with what belongs to it"),
        _history(history, settings),
        _reads(settings, replicas),
    ]


def _replicas(info: StreamInfo, replicas: int) -> Finding:
    if replicas == 1:
        return _note("replicas", "1: the space is as safe as one server; ?replicas=3 on a cluster survives losing one")
    others = msgspec.convert(info.cluster.get("replicas") or [], list[_Replica])
    bad = [one.said for one in others if one.offline or not one.current or one.lag > LAGGING]
    if bad:
        return _problem("replicas", f"{replicas}, of which {', '.join(bad)}: another loss may stop all writes")
    leader = info.cluster.get("leader", "")
    return _ok("replicas", f"{replicas}, all up to date: survives the loss of {(replicas - 1) // 2}; {leader} leads")


async def _durability(store: Store, settings: Settings, storage: str, replicas: int) -> Finding:
    if storage == "memory":
        return _note("durability", "storage=memory: the space is gone when the servers stop")
    interval = await _sync_interval(store, settings)
    if interval == timedelta(0):
        return _ok(
            "durability", "an acknowledged write survives power cuts: the server syncs each (sync_interval: always)"
        )
    told = "every 2 minutes by default (what it is set to is not told)"
    seconds = told if interval is None else f"every {interval.total_seconds():g} s"
    many = "" if replicas == 1 else "of all of them at once "
    detail = f"an acknowledged write survives the server's crash; servers sync to the disk {seconds}, so a power cut "
    return _note("durability", f"{detail}{many}may take the newest (sync_interval: always keeps them)")


async def _sync_interval(store: Store, settings: Settings) -> timedelta | None:
    """Return how often the server syncs, 0 for at once; None where it does not say so to this user."""
    if settings.agent:
        return None
    try:
        answer = await store.wire.call(_SERVERS, b'{"config": true}', timeout=ASKING)
        config = msgspec.json.decode(answer.data)["data"]["config"]
    except (Unanswered, AccessDeniedError, msgspec.DecodeError, KeyError, TypeError):
        return None
    if config.get("sync_always"):
        return timedelta(0)
    return timedelta(microseconds=config.get("sync_interval", 0) / 1_000)


def _stream(info: StreamInfo, history: StreamInfo, store: Store) -> Finding:
    wrong = differences(info.config, store.subjects)
    if history.error is None:
        wrong += [f"of the history, {one}" for one in exposures(history.config)]
    if wrong:
        return _problem("stream", "; ".join(wrong))
    return _ok("stream", "as it should be; rollups and schedules, which could write over others' keys, are off")


async def _permissions(store: Store, settings: Settings) -> Finding:
    """Say whether the server holds its users to anything: see if a read of everything is refused."""
    try:
        await store.wire.call(f"$JS.API.DIRECT.GET.{store.subjects.stream}", b"{}")
    except AccessDeniedError:
        return _ok("permissions", f"the server holds {settings.agent or 'this user'!r} to what it may do")
    except Unanswered as lost:
        return _note("permissions", f"it could not be seen whether the server enforces any: {lost.why}")
    if settings.agent:
        detail = f"the server lets {settings.agent!r} read everything: see `tertulia nats permissions`"
        return _problem("permissions", detail)
    return _note(
        "permissions",
        "this user may do everything; `tertulia nats permissions` has the server hold agents to their own",
    )


def _encryption(settings: Settings) -> Finding:
    if settings.tls is not None:
        return _ok("encryption", "TLS")
    if all(urlsplit(server).hostname in _LOOPBACK for server in settings.servers):
        return _ok("encryption", "none, and none needed: the server is on this machine")
    return _note("encryption", "none: passwords and contents can be read on the way; tls:// in place of nats://")


def _clock(skew: float) -> Finding:
    if abs(skew) > LARGE_SKEW:
        detail = f"this machine's clock is {skew:+.1f} s off the server's, so keys end early or late"
        return _problem("clock", detail)
    return _ok("clock", f"{skew:+.3f} s off the server's; leases go by the server's")


def _size(info: StreamInfo) -> Finding:
    subjects = info.state.num_subjects
    detail = f"{subjects:,} subjects, {info.state.bytes:,} bytes"
    if subjects > MANY_SUBJECTS:
        return _note("size", f"{detail}; the server keeps all subjects in memory")
    return _ok("size", detail)


async def _room(store: Store) -> Finding:
    """Say how much more the account may store; without a limit that is up to the servers' disks."""
    try:
        account = _decode_account((await store.api("INFO")).data)
    except (Unanswered, msgspec.DecodeError) as error:
        return _note("room", f"how much may be stored is not known: {error}")
    pairs = ((account.storage, account.limits.max_storage), (account.memory, account.limits.max_memory))
    limited = [(used / limit, used, limit) for used, limit in pairs if limit > 0]
    if not limited:
        return _ok("room", "no limit but the server's disk")
    _, used, limit = max(limited)
    detail = f"{used:,} of {limit:,} bytes that this account may store"
    return _problem("room", f"{detail}: writes will fail soon") if used > NEARLY_FULL * limit else _ok("room", detail)


def _connection(store: Store, settings: Settings, replicas: int) -> Finding:
    known, attempts, pause = store.wire.reconnecting
    often = "for ever" if attempts < 0 else f"{attempts} times"
    servers = "1 server" if len(known) == 1 else f"{len(known)} servers"
    detail = f"reconnects {often}, each {pause:g} s, to {servers}; a call is tried for {settings.timeout:g} s"
    if attempts >= 0:
        return _problem("connection", detail)
    if len(known) < replicas:
        return _note("connection", f"{detail}; name all {replicas} in the URL, so that one can be down at the start")
    return _ok("connection", detail)


def _history(history: StreamInfo, settings: Settings) -> Finding:
    if history.error is not None:
        return _note("history", "none is kept: a watch that resumes may be told that it lags")
    count = f"{history.config.get('max_msgs', 0):,} changes"
    if settings.agent:
        return _note("history", f"{count} are kept, but not for agents of their own permissions to read")
    return _ok("history", f"{count} that a watch can resume over")


def _reads(settings: Settings, replicas: int) -> Finding:
    if replicas > 1 and settings.agent:
        return _note("reads", "any replica answers, since the leader's answers cannot be granted per key")
    if settings.consistency == "eventual" and replicas > 1:
        return _note("reads", "any replica answers: a read may miss the last writes")
    return _ok("reads", "the stream's leader answers; one that a partition has cut off may answer with what is old")


def _ok(subject: str, detail: str) -> Finding:
    return Finding(level="ok", subject=subject, detail=detail)


def _note(subject: str, detail: str) -> Finding:
    return Finding(level="note", subject=subject, detail=detail)


def _problem(subject: str, detail: str) -> Finding:
    return Finding(level="problem", subject=subject, detail=detail)
