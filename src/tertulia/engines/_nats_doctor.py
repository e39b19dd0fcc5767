"""What `doctor` says about a space on NATS: what the server is, what it keeps, and what could go wrong."""

from __future__ import annotations

from datetime import datetime

from tertulia._clock import Clock
from tertulia.engines._nats_open import check_level, differences
from tertulia.engines._nats_store import Store
from tertulia.engines._nats_url import Settings
from tertulia.records import Finding

LARGE_SKEW = 2.0  # seconds between this machine's clock and the server's: keys would end noticeably early or late
MANY_SUBJECTS = 1_000_000  # which the server keeps in memory, about 200 bytes each


async def examine(store: Store, settings: Settings, clock: Clock) -> list[Finding]:
    """Return what was found, good and bad."""
    level = await check_level(store.wire, settings)
    started = clock.time()
    info = await store.info()
    ended = clock.time()
    config = info.config
    replicas = int(config.get("num_replicas", 1))
    skew = (started + ended) / 2 - datetime.fromisoformat(info.ts).timestamp()
    history = await store.info(store.subjects.history_stream)
    return [
        _ok("server", f"nats-server {store.wire.server_version}, JetStream API level {level}"),
        _replicas(replicas),
        _durability(str(config.get("storage")), replicas),
        _settings(differences(config, store.subjects)),
        _clock(skew),
        _size(info.state.num_subjects, info.state.bytes),
        _ok("connection", f"reconnects for ever; a call is tried for {settings.timeout:g} s"),
        _ok("values", f"up to {store.wire.max_payload:,} bytes in a message, with what belongs to it"),
        _ok("history", f"{history.config.get('max_msgs', 0):,} changes that a watch can resume over")
        if history.error is None
        else _note("history", "none is kept: a watch that resumes may be told that it lags"),
        _reads(settings, replicas),
    ]


def _replicas(replicas: int) -> Finding:
    if replicas == 1:
        return _note("replicas", "1: the space is as safe as one server; ?replicas=3 on a cluster survives losing one")
    return _ok("replicas", f"{replicas}: survives the loss of {(replicas - 1) // 2}")


def _durability(storage: str, replicas: int) -> Finding:
    if storage == "memory":
        return _note("durability", "storage=memory: the space is gone when the servers stop")
    detail = (
        "an acknowledged write survives the server's crash; servers write to the disk every 2 minutes by default, so "
    )
    if replicas == 1:
        return _note("durability", detail + "a power cut may take the newest (sync_interval: always keeps them)")
    return _note("durability", detail + "a power cut of all of them at once may take the newest")


def _settings(wrong: list[str]) -> Finding:
    if wrong:
        return Finding(level="problem", subject="stream", detail="; ".join(wrong))
    return _ok("stream", "as it should be; rollups and schedules, which could write over others' keys, are off")


def _clock(skew: float) -> Finding:
    if abs(skew) > LARGE_SKEW:
        detail = f"this machine's clock is {skew:+.1f} s off the server's, so keys end early or late"
        return Finding(level="problem", subject="clock", detail=detail)
    return _ok("clock", f"{skew:+.3f} s off the server's; leases go by the server's")


def _size(subjects: int, size: int) -> Finding:
    detail = f"{subjects:,} subjects, {size:,} bytes"
    return (
        _note("size", f"{detail}; the server keeps all subjects in memory")
        if subjects > MANY_SUBJECTS
        else _ok("size", detail)
    )


def _reads(settings: Settings, replicas: int) -> Finding:
    if settings.consistency == "eventual" and replicas > 1:
        return _note("reads", "any replica answers: a read may miss the last writes")
    return _ok("reads", "the stream's leader answers; one that a partition has cut off may answer with what is old")


def _ok(subject: str, detail: str) -> Finding:
    return Finding(level="ok", subject=subject, detail=detail)


def _note(subject: str, detail: str) -> Finding:
    return Finding(level="note", subject=subject, detail=detail)
