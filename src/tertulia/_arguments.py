"""Checks of arguments that are no names: durations, revisions, counts, tags. All raise InvalidInputError."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from typing import cast

from tertulia._names import MAX_NAME_BYTES, text_fault
from tertulia.errors import InvalidInputError

MAX_TAGS = 64  # tags are for finding entries; more of them are better kept in the value
MAX_SECONDS = 100 * 365 * 86_400.0  # a century: longer is for ever, and instants past the year 9999 do not exist


def check_seconds(name: str, seconds: object, *, zero: bool = False) -> float:
    """Return a duration, or raise InvalidInputError unless it is above (or at) zero, and a century at most."""
    if seconds.__class__ is float and 0.0 < seconds <= MAX_SECONDS:  # pyright: ignore[reportOperatorIssue] - just told
        return seconds  # pyright: ignore[reportReturnType]
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, (int, float))
        or not 0 <= seconds <= MAX_SECONDS  # which NaN is not either
        or (seconds == 0 and not zero)
    ):
        shown = reprlib.repr(seconds)
        message = f"{name} must be a number of seconds above 0 and up to {MAX_SECONDS:,.0f}, not {shown}"
        raise InvalidInputError(message)
    return float(seconds)


def check_revision(name: str, revision: object) -> None:
    """Raise InvalidInputError unless it is None or can be a revision: a whole number from 0."""
    if revision is None:
        return
    if isinstance(revision, bool) or not isinstance(revision, int) or revision < 0:
        message = f"{name} must be a revision, 0 or more, not {reprlib.repr(revision)}"
        raise InvalidInputError(message)


def check_count(name: str, count: object, limit: int) -> int:
    """Return a count, or raise InvalidInputError unless it is a whole number from 1 to the limit."""
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= limit:
        message = f"{name} must be a whole number from 1 to {limit:,}, not {reprlib.repr(count)}"
        raise InvalidInputError(message)
    return count


def check_tags(tags: object) -> tuple[str, ...]:
    """Return tags as a sorted tuple without repeats, or raise InvalidInputError."""
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        message = f"tags must be several strings, not {tags!r}"
        raise InvalidInputError(message)
    found = list(cast("Iterable[object]", tags))
    for tag in found:
        if reason := text_fault(tag, MAX_NAME_BYTES):
            message = f"invalid tag {reprlib.repr(tag)}: {reason}"
            raise InvalidInputError(message)
    if len(set(found)) > MAX_TAGS:
        message = f"an entry takes at most {MAX_TAGS} tags"
        raise InvalidInputError(message)
    return tuple(sorted(cast("set[str]", set(found))))
