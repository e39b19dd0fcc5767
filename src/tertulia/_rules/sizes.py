"""About how many bytes a value takes when it is stored, without storing it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice
from typing import Any, cast

SAMPLED = 4  # items of a collection that are looked at: size classes are four times apart
DEPTH = 3  # levels that are looked at, so at most some eighty values
DEEPER = 64  # bytes that a collection below them counts for
SCALAR = 5  # a number with its type, on the average
NAMED = 40  # instants, UUIDs, enums and the like

_SCALARS = (int, float, bool, type(None))


def estimated_size(value: Any, depth: int = DEPTH) -> int:
    """Return the estimate; of a large collection the first items are looked at, and the rest is taken to be alike."""
    kind = value.__class__
    if kind is str or kind is bytes:
        return len(value) + SCALAR
    if kind in _SCALARS:
        return SCALAR
    if depth == 0:
        return DEEPER
    if kind is dict:
        return _sampled(value.items(), len(value), depth, pairs=True)
    if isinstance(value, (list, tuple, set, frozenset, dict)):
        return _sampled(cast("Collection[Any]", value), len(cast("Collection[Any]", value)), depth, pairs=False)
    fields = _fields(value)
    return _sampled(fields, len(fields), depth, pairs=False) if fields else NAMED


def _sampled(items: Iterable[Any], count: int, depth: int, *, pairs: bool) -> int:
    if not count:
        return SCALAR
    total = 0
    for item in islice(items, SAMPLED):
        if pairs:
            total += estimated_size(item[0], depth - 1) + estimated_size(item[1], depth - 1)
        else:
            total += estimated_size(item, depth - 1)
    return SCALAR + (total if count <= SAMPLED else total * count // SAMPLED)


def _fields(value: Any) -> list[Any]:
    """Return what an object's fields hold, all of them: one may be large."""
    names: Iterable[str] = getattr(value, "__struct_fields__", ()) or getattr(value, "__dataclass_fields__", ())
    if not names:
        names = getattr(value, "__dict__", ())
    return [(name, getattr(value, name, None)) for name in names]
