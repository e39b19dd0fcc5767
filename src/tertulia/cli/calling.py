"""How a command reaches a space, and how it ends: with an exit code, and what went wrong in one line.

Data goes to standard output, talk to standard error. Exit codes are those of `tertulia.cli.app`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from tertulia.space import Space

__all__ = [
    "DONE",
    "FAILED",
    "INTERRUPTED",
    "MISUSED",
    "Agent",
    "Json",
    "Limit",
    "Url",
    "call",
    "fail",
    "nobody_reads",
    "talk",
]

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130
UNREAD = 141  # what shells call a command whose reader has gone: 128 + SIGPIPE
URL_VARIABLE = "TERTULIA_URL"  # as in `tertulia.space`, which help does not need to load

Url = Annotated[
    str | None,
    typer.Option("--url", "-u", envvar=URL_VARIABLE, help="The space; default: file:.tertulia/space.db."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON; what comes bit by bit, as a line each.")]
Agent = Annotated[str, typer.Option("--as", metavar="AGENT", help="The agent in whose name this is done.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many at most.")]

Work = Callable[["Space"], Awaitable[int | None]]


def call(command: str, url: str | None, work: Work) -> NoReturn:
    """Do the work with an open space, and exit: with what it returns, or with the code of its error."""
    import asyncio
    import logging

    from tertulia.errors import InvalidInputError, MissingExtraError, TertuliaError

    logging.getLogger("tertulia").addHandler(logging.NullHandler())  # what matters of it is said below
    try:
        code = asyncio.run(_with_space(url, work))
    except BrokenPipeError:
        nobody_reads()
    except (InvalidInputError, MissingExtraError) as error:
        fail(command, str(error), MISUSED)
    except (TertuliaError, TimeoutError, OSError) as error:
        fail(command, f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    raise typer.Exit(DONE if code is None else code)


async def _with_space(url: str | None, work: Work) -> int | None:
    from tertulia.space import connect

    async with connect(url) as space:
        return await work(space)


def nobody_reads() -> NoReturn:
    """Exit as a program does whose reader has gone (`| head -1`), which is nothing to complain about."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - what is still to be written goes there
    raise typer.Exit(UNREAD)


def fail(command: str, problem: str, code: int = FAILED) -> NoReturn:
    """Say what is wrong, on one line of standard error, and exit."""
    talk(f"tertulia {command}: {' '.join(problem.split())}")
    raise typer.Exit(code)


def talk(line: str) -> None:
    """Say something to whoever watches; it is not part of the output."""
    print(line, file=sys.stderr)  # noqa: T201 - what a command does
