"""Opening a space on a server: its streams are made, or examined; what could not keep the promises is refused."""

from __future__ import annotations

import asyncio
import re
from typing import Any, cast

import msgspec

from tertulia.engines._nats_format import FORMAT
from tertulia.engines._nats_history import MAX_ENTRY
from tertulia.engines._nats_patience import Patience, Unanswered
from tertulia.engines._nats_reading import PAUSE
from tertulia.engines._nats_store import Store
from tertulia.engines._nats_stream import StreamInfo, Write
from tertulia.engines._nats_subjects import Subjects
from tertulia.engines._nats_time import SharedTime
from tertulia.engines._nats_url import Settings
from tertulia.engines._nats_wire import Wire
from tertulia.errors import (
    EngineError,
    EngineUnavailableError,
    IncompatibleFormatError,
    OutcomeUnknownError,
    UnsupportedError,
)

API_LEVEL = 2  # of the JetStream interface: atomic batches, with nats-server 2.12
MARK = "tertulia.format"  # in a stream's metadata
CREATE_TRIES = 4  # at making a stream: a server that is just removing its last one may fail the first (2.15)
_IN_USE, _NO_PLACE, _SERVER_FAULT = 10058, 10005, 500

_ON = ("allow_atomic", "allow_msg_ttl", "allow_direct")
_OFF = ("allow_rollup_hdrs", "allow_msg_schedules", "allow_msg_counter", "sealed", "no_ack")
_UNLIMITED = ("max_msgs", "max_bytes", "max_age", "max_consumers")


class _Answer(msgspec.Struct):
    error: dict[str, Any] | None = None
    api: dict[str, Any] = {}


_decode = msgspec.json.Decoder(_Answer).decode


async def check_level(wire: Wire, settings: Settings) -> int:
    """Return the server's API level. Raises UnsupportedError below what is needed."""
    answer = await _ask(wire, settings, "INFO")
    if answer.error is not None:
        raise UnsupportedError(f"JetStream is not available to this user: {answer.error.get('description', '')}")
    level = int(answer.api.get("level", 0))
    if level < API_LEVEL:
        raise UnsupportedError(
            f"the server at {settings.servers[0]} ({wire.server_version}) has JetStream API level {level}; atomic "
            f"commits need {API_LEVEL}, which nats-server has since 2.12"
        )
    return level


async def open_streams(store: Store, settings: Settings, time: SharedTime, monotonic: float) -> None:
    """Make the space's streams, or examine those that are there; learn the server's time."""
    info = await store.info()
    if info.error is not None and settings.agent:
        raise EngineError(f"there is no space {settings.space!r} yet: its operator has to open it first")
    if info.error is not None:
        await _create(store.wire, settings, stream_config(store.subjects, settings))
        info = await store.info()
    time.learn(info.ts, monotonic)
    _examine(info, store.subjects, settings)
    replicas = int(info.config.get("num_replicas", 1))
    store.single = replicas == 1
    if settings.history and not settings.agent:
        history = history_config(store.subjects, settings, replicas, str(info.config.get("storage", "file")))
        await _create(store.wire, settings, history, may_differ=True)
    if await store.get(store.subjects.check) is None:
        await store.write(Write(store.subjects.check, b""))  # so that every search finds something


def stream_config(subjects: Subjects, settings: Settings) -> dict[str, Any]:
    """Return the configuration of a space's stream."""
    return {
        "name": subjects.stream,
        "description": "a Tertulia space",
        "subjects": subjects.stored,
        "retention": "limits",
        "discard": "old",
        "storage": settings.storage or "file",
        "num_replicas": settings.replicas or 1,
        "max_msgs_per_subject": 1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "duplicate_window": 1_000_000_000,
        "allow_atomic": True,
        "allow_msg_ttl": True,
        "allow_direct": True,
        "republish": {"src": f"{subjects.root}.>", "dest": f"{subjects.feed}.>"},
        "metadata": {MARK: str(FORMAT)},
    }


def history_config(subjects: Subjects, settings: Settings, replicas: int, storage: str) -> dict[str, Any]:
    """Return the configuration of the stream of a space's history.

    One server keeps it in memory. Of several, a server that forgot what it had votes for nobody until it has it again
    (2.12): where two were restarted one after the other, nobody would lead it. Those keep it as the space is kept.
    """
    return {
        "name": subjects.history_stream,
        "description": "the latest changes of a Tertulia space",
        "subjects": [subjects.all_changes],
        "retention": "limits",
        "discard": "old",
        "storage": "memory" if replicas == 1 else storage,
        "num_replicas": replicas,
        "max_msgs": settings.history,
        "max_msg_size": MAX_ENTRY,
        "allow_direct": True,
        "metadata": {MARK: str(FORMAT)},
    }


async def _create(wire: Wire, settings: Settings, config: dict[str, Any], *, may_differ: bool = False) -> None:
    """Make a stream, unless another process is faster.

    Servers that have just started may not know each other yet, and say that there are too few of them.
    """
    error: dict[str, Any] = {}
    patience, faults = Patience(settings.timeout), 0
    while faults < CREATE_TRIES:
        error = (await _ask(wire, settings, f"STREAM.CREATE.{config['name']}", config)).error or {}
        if not error or error.get("err_code") == _IN_USE:
            return  # in use with other settings: the space's are examined, the history is as its maker wanted it
        waits = error.get("err_code") == _NO_PLACE and patience.left > 0
        if not waits and error.get("code") != _SERVER_FAULT:
            break
        faults += not waits
        await asyncio.sleep(PAUSE)
    what = "history" if may_differ else "stream"
    raise EngineError(f"the space's {what} cannot be made: {error.get('description', '')}")


async def _ask(wire: Wire, settings: Settings, name: str, request: dict[str, Any] | None = None) -> _Answer:
    patience = Patience(settings.timeout)
    while True:
        try:
            data = b"" if request is None else msgspec.json.encode(request)
            answer = _decode((await wire.call(f"$JS.API.{name}", data, timeout=settings.timeout / 2)).data)
        except Unanswered as lost:
            try:
                await patience.after(lost, wire, PAUSE)
            except OutcomeUnknownError as error:
                raise EngineUnavailableError(f"JetStream does not answer: {lost.why}") from error
            except EngineUnavailableError as error:
                raise UnsupportedError(
                    f"the server at {settings.servers[0]} does not answer as JetStream: start it with -js"
                ) from error
        else:
            if answer.error is None or answer.error.get("code") != 503:  # noqa: PLR2004 - not available yet
                return answer
            await patience.after(Unanswered(str(answer.error.get("description")), sent=False), wire, PAUSE)


def _examine(info: StreamInfo, subjects: Subjects, settings: Settings) -> None:
    """Refuse a stream that is not a space's, or not one that keeps its promises."""
    config = info.config
    mark = str(cast("dict[str, Any]", config.get("metadata") or {}).get(MARK, ""))
    if not re.fullmatch(r"[0-9]+", mark):
        raise IncompatibleFormatError(f"the stream {subjects.stream} was not made by Tertulia")
    if int(mark) > FORMAT:
        raise IncompatibleFormatError(
            f"the space {settings.space!r} has format {mark}, written by a newer Tertulia; this one reads {FORMAT}"
        )
    wrong = differences(config, subjects)
    for name, wanted in (("num_replicas", settings.replicas), ("storage", settings.storage)):
        if wanted is not None and config.get(name) != wanted:
            wrong.append(f"{name} is {config.get(name)!r}, and {wanted!r} is asked for")
    if wrong:
        raise UnsupportedError(
            f"the stream {subjects.stream} is not as the space needs it: {'; '.join(wrong)}. Change it with the nats "
            "tool, or ask for what it has"
        )


def differences(config: dict[str, Any], subjects: Subjects) -> list[str]:
    """Return what of a stream's configuration is not as the promises need it."""
    wanted = stream_config(subjects, Settings(servers=("",), space="x"))
    exact = ("retention", "discard", "max_msgs_per_subject", "republish")
    wrong = [
        f"{name} is {config.get(name)!r}, not {wanted[name]!r}" for name in exact if not _same(config, wanted, name)
    ]
    if set(cast("list[str]", config.get("subjects") or [])) != set(subjects.stored):
        wrong.append("its subjects are others")
    wrong += [f"{name} is off" for name in _ON if not config.get(name)]
    wrong += exposures(config)
    wrong += [f"{name} is limited" for name in _UNLIMITED if (config.get(name) or 0) > 0]
    return wrong + [f"{name} is set" for name in ("mirror", "sources", "subject_delete_marker_ttl") if config.get(name)]


def exposures(config: dict[str, Any]) -> list[str]:
    """Return what of a stream's configuration would let who may write one subject write over others."""
    return [f"{name} is on" for name in _OFF if config.get(name)]


def _same(config: dict[str, Any], wanted: dict[str, Any], name: str) -> bool:
    value = config.get(name)
    if name == "republish" and isinstance(value, dict):
        found = cast("dict[str, Any]", value)
        return {key: found.get(key) for key in ("src", "dest")} == wanted[name] and not found.get("headers_only")
    return value == wanted[name]
