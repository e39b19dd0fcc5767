"""Hints: what a caller of the router knows better than the router."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from msgspec import Struct

from tertulia._arguments import check_seconds
from tertulia.errors import InvalidHintError, InvalidInputError, UnknownHintError
from tertulia.messaging.outbox import check_id
from tertulia.records import DeliveryMode
from tertulia.routes import Channel, Latency

REPLY_TIMEOUT = 30.0  # seconds, as any request's


class Hints(Struct, frozen=True, gc=False):
    """The hints of one route, checked. `timeout` bounds the wait for a reply."""

    latency: Latency = Latency.NORMAL
    mode: DeliveryMode = DeliveryMode.AT_LEAST_ONCE
    reply: bool = False
    timeout: float = REPLY_TIMEOUT
    ttl: float | None = None
    channel: Channel | None = None
    message_id: str | None = None


NO_HINTS = Hints()


def hints_of(given: Mapping[str, Any] | None) -> Hints:
    """Return the hints, checked for themselves and against each other. Raises UnknownHintError, InvalidHintError."""
    if not given:
        if given is None or isinstance(cast("object", given), Mapping):
            return NO_HINTS
        raise InvalidInputError(f"hints are a dict, not {type(given).__name__}")
    if not isinstance(cast("object", given), Mapping):
        raise InvalidInputError(f"hints are a dict, not {type(given).__name__}")
    fields: dict[str, Any] = {}
    for name, value in given.items():
        reader = _READERS.get(name) if isinstance(cast("object", name), str) else None
        if reader is None:
            raise UnknownHintError(name, tuple(_READERS))
        fields.update(reader(value))
    hints = Hints(**fields)
    _check_together(hints, given)
    return hints


def _latency(value: object) -> dict[str, Any]:
    return {"latency": _member("latency", value, Latency)}


def _durability(value: object) -> dict[str, Any]:
    return {"mode": _member("durability", value, DeliveryMode)}


def _channel(value: object) -> dict[str, Any]:
    channel = _member("channel", value, Channel)
    return {"channel": channel, "reply": True} if channel is Channel.REQUEST else {"channel": channel}


def _reply(value: object) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"reply": value}
    try:
        return {"reply": True, "timeout": check_seconds("reply", value)}
    except InvalidInputError as error:
        raise InvalidHintError("reply", value, "it is True, False, or how many seconds to wait") from error


def _ttl(value: object) -> dict[str, Any]:
    try:
        return {"ttl": check_seconds("ttl", value)}
    except InvalidInputError as error:
        raise InvalidHintError("ttl", value, str(error)) from error


def _message_id(value: object) -> dict[str, Any]:
    try:
        return {"message_id": check_id(cast("str", value))}
    except InvalidInputError as error:
        raise InvalidHintError("message_id", value, str(error)) from error


_READERS: dict[str, Callable[[object], dict[str, Any]]] = {
    "latency": _latency,
    "durability": _durability,
    "reply": _reply,
    "ttl": _ttl,
    "channel": _channel,
    "message_id": _message_id,
}


def _member(hint: str, value: object, kind: Any) -> Any:
    try:
        return kind(value)
    except (ValueError, TypeError):
        known = ", ".join(repr(member.value) for member in kind)
        raise InvalidHintError(hint, value, f"it is one of {known}") from None


def _check_together(hints: Hints, given: Mapping[str, Any]) -> None:
    channel = hints.channel
    if hints.reply and given.get("reply") is False:
        raise InvalidHintError("channel", "request", "the hint 'reply' says that no reply is wanted")
    if hints.reply and channel not in (None, Channel.REQUEST):
        raise InvalidHintError("channel", given["channel"], "only a request has a reply, and 'reply' asks for one")
    if hints.mode is DeliveryMode.AT_MOST_ONCE and channel in (Channel.POINTER, Channel.MEMORY):
        raise InvalidHintError("channel", given["channel"], "what is delivered at most once is stored nowhere")
    if hints.reply and hints.latency is Latency.RELAXED:
        raise InvalidHintError("latency", given["latency"], "the sender waits for a reply")
