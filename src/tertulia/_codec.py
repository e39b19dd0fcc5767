"""Values to bytes and back: MessagePack of plain types, never pickle.

What can be stored: None, bool, int (64 bits), float, str, bytes, list, tuple, set, dict, datetime and its kin,
UUID, Decimal, enums, dataclasses, `msgspec.Struct`s and pydantic models. MessagePack has no classes, so without
`type=` a value comes back in plain types (a dataclass as dict, a tuple as list, a UUID as str); with
`type=` it is checked and rebuilt. Naive datetimes come back as ISO text: store aware ones.

Depth is limited to 64 levels, both ways: deeper data is nearly always a mistake, and a recursion bomb at worst.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar, cast, overload

import msgspec

from tertulia.errors import DecodeError, EncodeError, ValueTooLargeError

T = TypeVar("T")

MAX_DEPTH = 64
_CONTAINERS = (dict, list)

# Every byte that can open a container in MessagePack: fixmap, fixarray, array 16/32, map 16/32.
_CONTAINER_BYTES = bytes([*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF])

# Every byte that can open an extension type: fixext 1 to 16, ext 8 to 32.
_EXTENSION_BYTES = bytes([0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8])


def encode(value: object, limit: int) -> bytes:
    """Return the value's bytes.

    Raises EncodeError for a value that cannot be stored and ValueTooLargeError above `limit` bytes.
    """
    try:
        data = _ENCODER.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise EncodeError(_encode_reason(value, error)) from error
    if len(data) > limit:
        raise ValueTooLargeError(len(data), limit)
    if len(data) > MAX_DEPTH and _may_be_deep(data) and _depth_exceeded(_decode_plain(data)):
        message = f"the value is nested deeper than {MAX_DEPTH} levels"
        raise EncodeError(message)
    if len(data.translate(None, _EXTENSION_BYTES)) != len(data):
        _refuse_unreadable(data)
    return data


def decode_plain(data: bytes) -> Any:
    """Return the value in plain types. Raises DecodeError."""
    value = _decode_plain(data)
    if len(data) > MAX_DEPTH and _may_be_deep(data) and _depth_exceeded(value):
        message = f"stored value is nested deeper than {MAX_DEPTH} levels"
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


def check_wire(data: bytes) -> None:
    """Raise DecodeError when bytes from elsewhere nest deeper than the limit."""
    if len(data) > MAX_DEPTH and _may_be_deep(data):
        decode_plain(data)


def checked_copy(value: T, limit: int) -> T:
    """Return what a reader would get of this value: no object is shared with the caller's."""
    return cast("T", decode_plain(encode(value, limit)))


def _refuse_unreadable(data: bytes) -> None:
    try:
        _decode_plain(data)
    except DecodeError as error:
        message = f"the value could not be read back: {error}"
        raise EncodeError(message) from error


def _decode_plain(data: bytes) -> Any:
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, RecursionError, TypeError, ValueError) as error:
        message = f"the stored bytes are no value: {error}"
        raise DecodeError(message) from error


def _may_be_deep(data: bytes) -> bool:
    """Tell whether there are enough container bytes for excess depth; false needs no second look."""
    return len(data) - len(data.translate(None, _CONTAINER_BYTES)) > MAX_DEPTH


def _depth_exceeded(value: object) -> bool:
    """Walk decoded containers level by level; at most MAX_DEPTH levels are looked at."""
    level: list[Any] = [value] if value.__class__ in _CONTAINERS else []
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            for child in (parent.values() if parent.__class__ is dict else parent)
            if child.__class__ in _CONTAINERS
        ]
        if not level:
            return False
    return True


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


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_to_plain)
_DECODER = msgspec.msgpack.Decoder(ext_hook=_refuse_extension)
