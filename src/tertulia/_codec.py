"""Values to bytes and back: MessagePack of plain types, never pickle.

What can be stored: None, bool, int (64 bits), float, str, bytes, list, tuple, set, dict, datetime and its kin,
UUID, Decimal, enums, dataclasses, `msgspec.Struct`s and pydantic models. MessagePack has no classes, so without
`type=` a value comes back in plain types (a dataclass as dict, a tuple as list, a UUID as str); with
`type=` it is checked and rebuilt. Naive datetimes come back as ISO text: store aware ones.

Depth is limited to 64 levels, both ways: deeper data is nearly always a mistake, and a recursion bomb at worst.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import chain
from typing import Any, TypeVar, overload

import msgspec

from tertulia.errors import DecodeError, EncodeError, ValueTooLargeError

T = TypeVar("T")

MAX_DEPTH = 64
_CONTAINERS = (dict, list, tuple)  # a tuple where a key is an array
_SMALL = 8  # up to so many items a loop is faster than making sets of types
_SCALARS = frozenset({str, int, float, bool, bytes, type(None)})

# Bytes that can open a container in MessagePack (fixmap, fixarray, array and map 16/32). Bytes without enough of them
# cannot be deep, and counting them costs less than walking the value.
_CONTAINER_BYTES = bytes([*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF])
_HARMLESS_BYTES = bytes(sorted(set(range(256)) - set(_CONTAINER_BYTES)))


def encode(value: object, limit: int) -> bytes:
    """Return the value's bytes.

    Raises EncodeError for a value that cannot be stored and ValueTooLargeError above `limit` bytes.
    """
    try:
        data = _pack(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise EncodeError(_encode_reason(value, error)) from error
    if len(data) > limit:
        raise ValueTooLargeError(len(data), limit)
    if not _is_flat(value):
        _check_readable(data)
    return data


def encode_message(message: Any, content: object, limit: int) -> bytes:
    """Return the bytes of one of the library's own records, in which only `content` is a user's; see `encode`."""
    try:
        data = _pack(message)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise EncodeError(_encode_reason(content, error)) from error
    if len(data) > limit:
        raise ValueTooLargeError(len(data), limit)
    if not _is_flat(content):
        _check_readable(data)
    return data


def _is_flat(value: object) -> bool:
    """Tell whether a value is a scalar, or a dict or list of scalars: so it can be neither deep nor unreadable.

    Most of what agents exchange is, and this is the cheapest way to know.
    """
    kind = value.__class__
    if kind is dict:
        items: dict[Any, Any] = value  # pyright: ignore[reportAssignmentType] - just told
        if len(items) <= _SMALL:
            for key, item in items.items():  # noqa: SIM110 - a generator costs more than it saves here
                if key.__class__ is not str or item.__class__ not in _SCALARS:
                    return False
            return True
        return _SCALARS.issuperset(map(type, items.values())) and _SCALARS.issuperset(map(type, items))
    if kind is list:
        return _SCALARS.issuperset(map(type, value))  # pyright: ignore[reportArgumentType]
    return kind in _SCALARS


def decode_plain(data: bytes) -> Any:
    """Return the value in plain types. Raises DecodeError."""
    try:
        value = _unpack(data)
    except (msgspec.MsgspecError, RecursionError, TypeError, ValueError) as error:
        message = f"the stored bytes are no value: {error}"
        raise DecodeError(message) from error
    if len(data) > MAX_DEPTH and is_deep(data, value):
        message = f"the value is nested deeper than {MAX_DEPTH} levels"
        raise DecodeError(message)
    return value


@overload
def decode(data: bytes, type: type[T]) -> T: ...
@overload
def decode(data: bytes, type: Any = None) -> Any: ...
def decode(data: bytes, type: Any = None) -> Any:
    """Return the value, checked against `type` when one is given.

    Raises DecodeError that says where (`$.path`) the bytes are not of that type.
    """
    return decode_plain(data) if type is None else convert(decode_plain(data), type)


def convert(value: object, type: Any) -> Any:
    """Return a decoded plain value as the type asked for. Raises DecodeError with the path."""
    try:
        return msgspec.convert(value, type, dec_hook=_from_plain)
    except (msgspec.ValidationError, RecursionError, ValueError) as error:
        raise DecodeError(str(error)) from error
    except TypeError as error:  # msgspec cannot handle the type itself
        message = f"cannot decode to {type!r}: {error}"
        raise DecodeError(message) from error


def decoder_for(type: Any) -> msgspec.msgpack.Decoder[Any]:
    """Return a decoder for one of the library's own records; extension types are refused."""
    return msgspec.msgpack.Decoder(type, ext_hook=_refuse_extension)


def is_deep(data: bytes, value: object) -> bool:
    """Tell whether a value decoded from these bytes nests deeper than the limit."""
    return not _is_flat(value) and len(data.translate(None, _HARMLESS_BYTES)) > MAX_DEPTH and _depth_exceeded(value)


def _check_readable(data: bytes) -> None:
    """Raise EncodeError for bytes that could not be read back: too deep, extension types, keys that do not hash."""
    try:
        decode_plain(data)
    except DecodeError as error:
        message = f"the value could not be read back: {error}"
        raise EncodeError(message) from error


def _depth_exceeded(value: object) -> bool:
    """Walk decoded containers level by level; at most MAX_DEPTH levels are looked at."""
    level: list[Any] = [value] if value.__class__ in _CONTAINERS else []
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _children(parent) if child.__class__ in _CONTAINERS]
        if not level:
            return False
    return True


def _children(parent: Any) -> Iterable[Any]:
    return chain(parent, parent.values()) if parent.__class__ is dict else parent


def _encode_reason(value: object, error: Exception) -> str:
    if isinstance(error, RecursionError):
        return f"the value is nested deeper than {MAX_DEPTH} levels, or contains itself"
    if isinstance(error, OverflowError):
        return "an integer is beyond 64 bits; store it as a string"
    return f"a {type(value).__name__} cannot be stored: {error}"


def _to_plain(value: object) -> object:
    """Encode what msgspec does not know: pydantic models (by duck typing, it is not a dependency)."""
    dump = getattr(value, "model_dump", None)
    if callable(dump) and callable(getattr(type(value), "model_validate", None)):
        return dump(mode="python")
    if isinstance(value, BaseException):
        message = "exceptions cannot be stored; store their text"
        raise TypeError(message)
    message = f"objects of type {type(value).__qualname__} cannot be stored"
    raise TypeError(message)


def _from_plain(type: Any, value: object) -> object:
    validate = _validator(type)
    if validate is None:
        message = f"cannot rebuild objects of type {type!r}"
        raise TypeError(message)
    return validate(value)


@lru_cache(256)
def _validator(type: Any) -> Any:
    return getattr(type, "model_validate", None)


def _refuse_extension(code: int, _data: memoryview) -> object:
    message = f"extension type {code} is refused"
    raise ValueError(message)


_pack = msgspec.msgpack.Encoder(enc_hook=_to_plain).encode
_unpack = msgspec.msgpack.Decoder(ext_hook=_refuse_extension).decode
