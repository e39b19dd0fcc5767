"""What a cached request needs besides the cache: a key for its content, and its errors as data."""

from __future__ import annotations

import hashlib
from typing import Any, cast

import msgspec

from tertulia._codec import decode_plain, encode
from tertulia.errors import (
    ContentGoneError,
    LoopError,
    MailboxFullError,
    MessagingError,
    RemoteError,
    StreamBrokenError,
    UnknownAgentError,
)
from tertulia.patterns.caching import CachedFailure, Fields

_ENCODER = msgspec.msgpack.Encoder()


def request_key(receiver: str, content: object, headers: dict[str, str] | None, limit: int) -> str:
    """Return the key of a request: the same for contents that are equal once they are stored.

    Who asks is no part of it. Raises EncodeError, ValueTooLargeError.
    """
    plain = decode_plain(encode(content, limit))
    told = _ENCODER.encode(_canonical([headers or {}, plain]))
    return f"request:{receiver}:{hashlib.sha256(told).hexdigest()}"


def _canonical(value: Any) -> Any:
    """Return a plain value with the items of every dict in one order, and no two values the same."""
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value).items()
        return [0, sorted([_ENCODER.encode(key), _ENCODER.encode(_canonical(item))] for key, item in items)]
    if isinstance(value, (list, tuple)):
        return [1, *map(_canonical, cast("list[Any]", value))]
    return value


# What each error is made of; MessagingError itself, and what has no fields here, of its text.
_MADE_OF: dict[str, tuple[type[MessagingError], tuple[str, ...]]] = {
    "RemoteError": (RemoteError, ("agent_id", "kind", "detail")),
    "UnknownAgentError": (UnknownAgentError, ("agent_id",)),
    "MailboxFullError": (MailboxFullError, ("agent_id", "size")),
    "LoopError": (LoopError, ("receiver", "path")),
    "StreamBrokenError": (StreamBrokenError, ("agent_id", "expected", "got")),
    "ContentGoneError": (ContentGoneError, ("key", "reason")),
    "MessagingError": (MessagingError, ()),
}


def fields_of(error: BaseException) -> Fields:
    """Return what a messaging error is made of, for `rebuilt`; nothing for other errors."""
    kind, names = _MADE_OF.get(type(error).__name__, (None, ()))
    if kind is not type(error):
        return ()
    return tuple(getattr(error, name) for name in names) or (str(error),)


def rebuilt(failure: CachedFailure) -> MessagingError | None:
    """Return the messaging error that a request failed with in another task or process, or None for other errors."""
    made_of = _MADE_OF.get(failure.kind)
    return None if made_of is None or not failure.fields else made_of[0](*failure.fields)
