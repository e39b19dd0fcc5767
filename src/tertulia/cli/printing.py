"""What commands print: values as people write them, and JSON that any other program reads."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["in_a_line", "print_json", "print_line", "print_table", "read_value", "show_value"]

STANDARD_INPUT = "-"


def read_value(text: str, *, as_text: bool = False) -> Any:
    """Return the value that an argument stands for: JSON if it is JSON, else the text itself; `-` is read from stdin.

    Raises InvalidInputError for input that is no text.
    """
    if text == STANDARD_INPUT:
        try:
            text = sys.stdin.read()
        except UnicodeDecodeError as error:
            from tertulia.errors import InvalidInputError

            raise InvalidInputError("standard input is not UTF-8 text") from error
    if as_text:
        return text
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text.removesuffix("\n")  # which a shell puts behind what it pipes


def show_value(value: object) -> str:
    """Return a value that stands alone: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else _json(value)


def in_a_line(value: object) -> str:
    """Return a value that stands in a line with other things: as JSON, so "42" is not 42 and a line stays one line."""
    return _json(value)


def print_json(value: object) -> None:
    """Print a value as one line of JSON, at once."""
    print_line(_json(value))


def print_line(line: str) -> None:
    """Print a line of data, and let whoever reads it have it at once."""
    print(line, flush=True)  # noqa: T201 - what a command does


def print_table(rows: Iterable[Sequence[str]]) -> None:
    """Print rows in columns as wide as they need to be; nothing is cut."""
    lines = [tuple(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print_line("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _json(value: object) -> str:
    """Return JSON text. Raises InvalidInputError for what JSON has no way to write: NaN and infinities."""
    from tertulia.cli.plain import plain

    try:
        return json.dumps(value, default=plain, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        from tertulia.errors import InvalidInputError

        raise InvalidInputError(f"the value cannot be written as JSON: {error}") from error


def _refuse(name: str) -> None:
    raise ValueError(name)
