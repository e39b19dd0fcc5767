"""What JSON does not know, in terms of what it does: for whatever a command prints as JSON."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from msgspec import Struct
from msgspec.structs import asdict

__all__ = ["plain"]


def plain(value: object) -> object:
    """Return something that JSON knows in place of what it does not."""
    for kinds, convert in _PLAIN:
        if isinstance(value, kinds):
            return convert(value)
    return repr(value)


# The first that fits; each gives something that JSON knows, or that is looked up here again.
_PLAIN: tuple[tuple[type | tuple[type, ...], Callable[[Any], object]], ...] = (
    (bytes, lambda value: base64.b64encode(value).decode()),
    ((datetime, date, time), lambda value: value.isoformat()),
    ((Decimal, UUID), str),
    (Enum, lambda value: value.value),
    (Struct, asdict),
    (Mapping, dict),
    (Iterable, list),
)
