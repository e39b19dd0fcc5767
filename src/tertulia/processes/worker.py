"""One process of an agent, `python -m tertulia.processes.worker`: started by a supervisor, and ending with it.

It loads its part of the target, runs it until it is told to stop or the supervisor is gone, and lets the message in
hand be finished within the grace time. Exit codes: 0, it was told to stop, or has nothing more to do; 143, stopped by
SIGTERM; 124, it could not stop in time and ended itself; 1 and 2, see Refused; others are the agent's own.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from tertulia.errors import InvalidTargetError, InvalidURLError, MissingExtraError
from tertulia.processes.orders import Assignment, Loaded, Made, Refused, Running, Stop
from tertulia.processes.parent import Parent, exit_after
from tertulia.processes.target import Factory, Runnable, agents_in, is_agent, load
from tertulia.space import Space, connect

__all__ = ["main"]

T = TypeVar("T")

MARGIN = 2.0  # seconds after the grace time in which cancelled handlers clean up and the space is closed
MAKING = 1.0  # seconds after which a function that was to make agents is taken to be doing their work itself
LOG_FORMAT = "%(levelname)s %(name)s: %(message)s"  # the supervisor adds who and when
DONE, FAILED, MISUSED = 0, 1, 2
TERMINATED = 128 + signal.SIGTERM


def main() -> int:
    """Do what the assignment on the command line says; return the exit code."""
    parent = Parent()
    assignment = msgspec.json.decode(sys.argv[1], type=Assignment)
    stops = _Stops(parent, assignment.grace)
    _prefer_current_directory()
    try:
        entries = load(assignment.target)
        entry = _of(entries, assignment.entry, assignment.target)
    except InvalidTargetError as error:
        parent.report(Refused(str(error), misuse=True))
        return MISUSED
    except Exception as error:  # noqa: BLE001 - a module may raise anything while it is imported
        traceback.print_exc()
        reason = f"importing {assignment.target.partition(':')[0]!r} failed with {type(error).__name__}: {error}"
        parent.report(Refused(reason, misuse=False))
        return FAILED
    _set_up_logging(assignment.log_level)
    parent.report(Loaded(len(entries)))
    return asyncio.run(_Worker(parent, assignment, stops).work(entry))


def _prefer_current_directory() -> None:
    """Let modules of the current directory be found, as Python does for scripts and `-m`, also with PYTHONSAFEPATH."""
    here = os.getcwd()  # noqa: PTH109 - a text, as sys.path wants it
    if here not in sys.path:
        sys.path.insert(0, here)


def _set_up_logging(level: str) -> None:
    """Log to standard error, unless the module has said where to."""
    if not logging.getLogger().handlers:
        logging.basicConfig(level=level.upper(), format=LOG_FORMAT)


class _Stops:
    """The times that this process is told to stop, each with the seconds that handlers may still take.

    They are heard in a thread, from the beginning and whatever else is going on: also while the module is imported,
    or when a handler blocks the event loop. Then the process ends as it is, when its time is over.
    """

    def __init__(self, parent: Parent, grace: float) -> None:
        self.exit_code = DONE
        self._grace = grace
        self._told: list[float] = []
        self._queue: asyncio.Queue[float] = asyncio.Queue()
        self._loop: asyncio.AbstractEventLoop | None = None
        order = msgspec.msgpack.Decoder(Stop)
        parent.listen(lambda said: self._stop(order.decode(said).grace), lambda: self._stop(grace))

    def attend(self) -> None:
        """Hand over to the running event loop, which hears signals too."""
        loop = asyncio.get_running_loop()
        with suppress(NotImplementedError):  # Windows has no such signals
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._terminate)
        self._loop = loop
        self._pass_on()

    async def next(self) -> float:
        """Wait until the process is told to stop, for the first time or once more; return the grace time."""
        return await self._queue.get()

    def _terminate(self) -> None:
        self.exit_code = TERMINATED
        self._stop(self._grace)

    def _stop(self, grace: float) -> None:
        exit_after(grace + MARGIN, f"it has not stopped within {grace + MARGIN:g} s, so it ends as it is")
        self._told.append(grace)
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed, because it has stopped
                self._loop.call_soon_threadsafe(self._pass_on)

    def _pass_on(self) -> None:
        while self._told:
            self._queue.put_nowait(self._told.pop(0))


class _Worker:
    """The one agent that this process runs."""

    def __init__(self, parent: Parent, assignment: Assignment, stops: _Stops) -> None:
        self._parent = parent
        self._target = assignment.target
        self._place = assignment.place
        self._stops = stops

    async def work(self, entry: Runnable | Factory) -> int:
        """Run the entry's agent; return the exit code."""
        self._stops.attend()
        try:
            if is_agent(entry):
                await self._run_one_of(entry)
            elif callable(entry):
                await self._run_with_space(entry)
        except (_NoSpaceError, InvalidTargetError) as error:
            self._parent.report(Refused(str(error), misuse=True))
            return MISUSED
        return self._stops.exit_code

    async def _run_with_space(self, factory: Factory) -> None:
        async with await _opened() as space:
            made = await self._make(factory, space)
            if made is not None:
                await self._run_one_of(made)

    async def _make(self, factory: Factory, space: Space) -> object:
        """Return what the function makes; None when it has done its work itself, or is to stop before it is done."""
        made = factory(space)
        if not inspect.isawaitable(made):
            return () if made is None else made
        making, asked = asyncio.ensure_future(made), asyncio.ensure_future(self._stops.next())
        try:
            await asyncio.wait({making, asked}, timeout=MAKING, return_when=asyncio.FIRST_COMPLETED)
            if not making.done():
                self._parent.report(Running())
                await asyncio.wait({making, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                return making.result()
            making.cancel()
            with suppress(asyncio.CancelledError):
                await making
            return None
        finally:
            asked.cancel()

    async def _run_one_of(self, made: object) -> None:
        """Tell which agents there are, and run the one that is this process's."""
        agents = agents_in(self._target, made)
        self._parent.report(Made(tuple(agent.agent_id for agent in agents)))
        await self._run(_of(agents, self._place, self._target))

    async def _run(self, agent: Runnable) -> None:
        """Run the agent until it is told to stop and has stopped, or until there is an end to it."""
        await _done(agent.start)
        self._parent.report(Running())
        running = asyncio.ensure_future(_done(agent.run))
        stopping: list[asyncio.Future[None]] = []
        while not running.done():
            asked = asyncio.ensure_future(self._stops.next())
            await asyncio.wait({running, asked}, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                stopping.append(asyncio.ensure_future(_done(agent.stop, grace=asked.result())))
            else:
                asked.cancel()
        await asyncio.gather(running, *stopping)


class _NoSpaceError(Exception):
    """There is no space to run an agent in, and trying again would not change that."""


async def _opened() -> Space:
    """Open the space that $TERTULIA_URL names. Raises _NoSpaceError; EngineError where another time might help."""
    try:
        space = await connect()
    except (InvalidURLError, MissingExtraError) as error:
        raise _NoSpaceError(str(error)) from error
    if not space.engine.capabilities.multi_process:
        await space.aclose()
        raise _NoSpaceError(
            f"{space.url!r} is a space of one process alone, so nobody else could reach an agent there; "
            "choose one that processes can share, such as file:team.db, with --url or $TERTULIA_URL"
        )
    return space


def _of(found: tuple[T, ...], place: int, target: str) -> T:
    if place >= len(found):
        raise InvalidTargetError(target, f"it has changed: there are {len(found)} now, and this was to be {place + 1}")
    return found[place]


async def _done(method: Callable[..., Any], **values: Any) -> None:
    """Call an agent's method and wait for its end; in a thread if it blocks."""
    if inspect.iscoroutinefunction(method):
        await method(**values)
    else:
        await asyncio.to_thread(method, **values)


if __name__ == "__main__":
    sys.exit(main())
