"""An agent in a process of its own, `python -m tertulia.compare.agent_process`: see `workers`, which starts it.

It stays from run to run, as the one process does in which agents are tasks. In each it opens its own handle on the
team's space, measures itself, and hands over what it has measured when nobody works any more. It also calls functions
that do all of that by themselves. When the comparison is gone it closes the space and ends.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib import import_module
from time import perf_counter, process_time
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from tertulia.compare.measuring import Meter
from tertulia.compare.recordings import Recording
from tertulia.compare.teams import team_at
from tertulia.errors import RemoteError
from tertulia.processes.parent import Parent, exit_after
from tertulia.space import connect

__all__ = [
    "Answer",
    "Begin",
    "Call",
    "Done",
    "Failed",
    "HandOver",
    "Outcome",
    "Play",
    "Ready",
    "Report",
    "Stepped",
    "main",
]

LEAVING = 3.0  # seconds to close the space when the comparison is gone; then the process ends as it is


class Play(Struct, frozen=True, tag=True):
    """To an agent: get ready to play this role of the team, with this task, in the space of this URL."""

    team: str
    agent: str
    url: str
    task: Raw


class Call(Struct, frozen=True, tag=True):
    """To an agent: call the coroutine function that is at `module:name`, and say what it returns."""

    function: str
    argument: bytes


class Begin(Struct, frozen=True, tag=True):
    """To an agent: all are ready."""


class HandOver(Struct, frozen=True, tag=True):
    """To an agent: all are done, so say what you have measured."""


class Ready(Struct, frozen=True, tag=True):
    """The agent has its handle on the space, and waits for the start."""


class Stepped(Struct, frozen=True, tag=True):
    """One more piece of the work is done."""


class Done(Struct, frozen=True, tag=True):
    """The agent has done its part: when, by the machine's clock, and with how many seconds of processor time."""

    at: float
    cpu: float


class Outcome(Struct, frozen=True, tag=True):
    """What the role returned, encoded, and what was measured."""

    result: Raw
    recording: Recording


class Answer(Struct, frozen=True, tag=True):
    """What a function has returned."""

    value: bytes


class Failed(Struct, frozen=True, tag=True):
    """The agent has failed. `is_news`: it only learnt that another one has."""

    kind: str
    text: str
    traceback: str
    is_news: bool


Report = Ready | Stepped | Done | Outcome | Answer | Failed
T = TypeVar("T", Begin, HandOver)


def main() -> int:
    """Play until the comparison is gone; return the exit code."""
    parent = Parent()
    logging.getLogger("tertulia").addHandler(logging.NullHandler())  # a failure is reported, as a whole
    asyncio.run(_serve(parent))
    return 0


async def _serve(parent: Parent) -> None:
    """Do what is ordered until nobody orders any more."""
    loop = asyncio.get_running_loop()
    orders: asyncio.Queue[bytes] = asyncio.Queue()
    gone = asyncio.Event()

    def leave() -> None:
        exit_after(LEAVING, "it could not leave its space in time")
        loop.call_soon_threadsafe(gone.set)

    parent.listen(lambda order: loop.call_soon_threadsafe(orders.put_nowait, order), leave)
    playing = asyncio.ensure_future(_play_on(parent, orders))
    leaving = asyncio.ensure_future(gone.wait())
    await asyncio.wait({playing, leaving}, return_when=asyncio.FIRST_COMPLETED)
    leaving.cancel()
    playing.cancel()
    with suppress(asyncio.CancelledError):
        await playing


async def _play_on(parent: Parent, orders: asyncio.Queue[bytes]) -> None:
    while True:
        order: Play | Call = msgspec.msgpack.decode(await orders.get(), type=Play | Call)
        try:
            if isinstance(order, Play):
                await _play(order, parent, orders)
            else:
                parent.report(Answer(await _called(order)))
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is for the comparison to say
            text = "".join(traceback.format_exception(error))
            parent.report(Failed(type(error).__name__, str(error), text, isinstance(error, RemoteError)))


async def _play(play: Play, parent: Parent, orders: asyncio.Queue[bytes]) -> None:
    """Play a role once."""
    team = team_at(play.team)
    task: Any = msgspec.msgpack.decode(play.task, type=team.task_type)
    role = team.roles(task, lambda: parent.report(Stepped()))[play.agent]
    meter = Meter()
    async with meter.space(await connect(play.url), play.agent) as space:
        gc.collect()  # no run pays for what another one left
        parent.report(Ready())
        await _order(orders, Begin)
        cpu = process_time()
        result = await role(space)
        parent.report(Done(perf_counter(), process_time() - cpu))
    await _order(orders, HandOver)
    parent.report(Outcome(Raw(msgspec.msgpack.encode(result)), meter.recording))


async def _called(call: Call) -> bytes:
    """Call a function; no call pays for what another one left."""
    module, _, name = call.function.partition(":")
    function: Callable[[bytes], Awaitable[bytes]] = getattr(import_module(module), name)
    gc.collect()
    return await function(call.argument)


async def _order(orders: asyncio.Queue[bytes], kind: type[T]) -> T:
    """Wait for the next order, which is of this kind."""
    return msgspec.msgpack.decode(await orders.get(), type=kind)


if __name__ == "__main__":
    sys.exit(main())
