"""`tertulia run`: agents as processes that are kept running. What they say goes to standard error, with who says it.

The first Ctrl-C or SIGTERM lets everybody finish what they have in hand, the second one cancels that and gives the
messages back, the third one kills.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from tertulia.cli.calling import DONE, FAILED, INTERRUPTED, MISUSED, Url, fail, talk
from tertulia.processes.bounds import GRACE, MAX_PROCESSES, MAX_RESTARTS

if TYPE_CHECKING:
    from tertulia.processes.supervisor import Outcome, Plan

__all__ = ["run"]

COMMAND = "run"
MAX_GRACE = 86_400.0  # a day; a handler that takes longer should not be one message


class LogLevel(StrEnum):
    """From where on agents log, unless their module sets up logging itself."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


def run(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:ATTRIBUTE",
            help="A function of a space that makes agents or does their work, or a list of such.",
        ),
    ],
    *,
    processes: Annotated[
        int, typer.Option("--processes", "-p", min=1, max=MAX_PROCESSES, help="How many processes for each agent.")
    ] = 1,
    url: Url = None,
    grace: Annotated[
        float,
        typer.Option(min=0, max=MAX_GRACE, help="Seconds that handlers may take to finish when all is stopped."),
    ] = GRACE,
    max_restarts: Annotated[
        int, typer.Option(min=0, max=1_000_000, help="How often in a row a process that dies is started again.")
    ] = MAX_RESTARTS,
    log_level: Annotated[LogLevel, typer.Option(help="From where on agents log.")] = LogLevel.info,
) -> None:
    """Run agents as processes, and start those again that die, until Ctrl-C or SIGTERM."""
    import asyncio

    from tertulia.processes.supervisor import Plan

    plan = Plan(
        target=target,
        processes=processes,
        url=url,
        grace=grace,
        max_restarts=max_restarts,
        log_level=log_level.value,
    )
    try:
        outcome, stopped_by = asyncio.run(_supervise(plan))
    except KeyboardInterrupt:  # where signals cannot be handled one by one
        raise typer.Exit(INTERRUPTED) from None
    if outcome.problem is not None:
        fail(COMMAND, outcome.problem, MISUSED if outcome.misuse else FAILED)
    if outcome.unfinished:
        many = "1 process" if outcome.unfinished == 1 else f"{outcome.unfinished} processes"
        fail(COMMAND, f"{many} did not stop properly; what it had in hand is delivered again after its lease")
    raise typer.Exit(INTERRUPTED if stopped_by == signal.SIGINT else DONE)


async def _supervise(plan: Plan) -> tuple[Outcome, int | None]:
    """Supervise until the end; return the outcome, and the first signal that came, if one did."""
    from tertulia.processes.supervisor import Supervisor

    supervisor = Supervisor(plan, _say)
    came: list[int] = []
    steps = (
        ("stopping: messages in hand are finished, within {:g} s", supervisor.stop),
        ("stopping now: messages in hand are given back", lambda: supervisor.stop(0.0)),
        ("killing what is left", supervisor.kill),
    )

    def on_signal(number: int) -> None:
        came.append(number)
        what, step = steps[min(len(came), len(steps)) - 1]
        talk(f"tertulia {COMMAND}: {what.format(plan.grace)}")
        step()

    with _handled(on_signal):
        return await supervisor.run(), came[0] if came else None


@contextmanager
def _handled(on_signal: Callable[[int], None]) -> Generator[None]:
    """Have the signals that ask for the end handled by a function."""
    import asyncio

    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    with suppress(NotImplementedError):  # Windows: Ctrl-C cancels, which ends all processes
        for number in numbers:
            loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        with suppress(NotImplementedError):
            for number in numbers:
                loop.remove_signal_handler(number)


def _say(name: str, line: str) -> None:
    """Pass on what a process says. Agents are more important than what they say: nothing fails if nobody reads it."""
    with suppress(OSError):
        talk(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S} {name} | {line}")
