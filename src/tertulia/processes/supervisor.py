"""Keeps the processes of agents running: starts them, starts again those that die, and stops them together.

A process that dies is started again after 0.1 s, then after twice as long each time, 10 s at most (`_rules.restarts`).
One that dies again and again, each time within 30 s, is given up after `max_restarts` in a row, and with it the whole:
somebody has to look. A process that ends with exit code 0 has nothing more to do, and is left alone.

Nobody but a process itself knows how many agents its target makes, since this one does not import it: the first ones
tell, and the others are started then.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

import msgspec
from msgspec import Struct

from tertulia._rules.restarts import STEADY, deaths_in_a_row, restart_delay
from tertulia.processes.bounds import GRACE, MAX_RESTARTS
from tertulia.processes.child import Child, ending, start_child
from tertulia.processes.orders import Assignment, Loaded, Made, Refused, Report, Running, Stop
from tertulia.space import URL_VARIABLE

__all__ = ["Outcome", "Plan", "Supervisor"]

MARGIN = 4.0  # seconds after the grace time until a process is killed; it ends itself before, if it can
WORKER = "tertulia.processes.worker"
TERMINATED = 128 + signal.SIGTERM  # what a worker ends with that somebody else has told to stop


class Plan(Struct, frozen=True, kw_only=True):
    """What is to be kept running: each agent of `target` (`module:attribute`) in so many `processes`.

    `url` names the space, None for the default one. `grace`: seconds that running handlers get when all is stopped.
    `max_restarts` in a row are tried for each process. `log_level`: see Assignment.
    """

    target: str
    processes: int = 1
    url: str | None = None
    grace: float = GRACE
    max_restarts: int = MAX_RESTARTS
    log_level: str = "info"


class Outcome(Struct, frozen=True, kw_only=True):
    """How it ended. `problem`: why all of it was given up, None if it was not; `misuse`: it could not be run at all.

    `unfinished`: how many processes did not come to a proper end when they were told to stop.
    """

    problem: str | None = None
    misuse: bool = False
    unfinished: int = 0


class Seat(Struct, frozen=True):
    """The place of one process: agent number `place` of an entry of the target, and the how-manieth copy of it."""

    entry: int
    place: int
    copy: int


class Supervisor:
    """Keeps the processes of a plan running; `say` gets each line of theirs, and of its own, with who says it."""

    def __init__(self, plan: Plan, say: Callable[[str, str], None]) -> None:
        self._plan = plan
        self._say = say
        self._kept: dict[Seat, asyncio.Task[None]] = {}
        self._names: dict[tuple[int, int], str] = {}
        self._running: set[_Process] = set()
        self._stopping = asyncio.Event()
        self._outcome = Outcome()
        self._unfinished = 0

    async def run(self) -> Outcome:
        """Keep the processes running until `stop`, or all have finished, or one is given up; return how it ended.

        No process is left when this returns, or raises, or is cancelled.
        """
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._have(0, 0)
        return msgspec.structs.replace(self._outcome, unfinished=self._unfinished)

    def stop(self, grace: float | None = None) -> None:
        """Let all processes stop: they take no more messages, and handlers may run for `grace` more seconds.

        After that they are cancelled and their messages given back. Called again, the grace time begins anew.
        """
        self._stopping.set()
        for process in self._running:
            process.stop(self._plan.grace if grace is None else grace)

    def kill(self) -> None:
        """End all processes at once; the messages in their hands come back when their leases run out."""
        self._stopping.set()
        for process in self._running:
            process.child.kill()

    # --- one process ---

    def _have(self, entry: int, place: int) -> None:
        """Have all the processes of an agent that there should be."""
        for copy in range(self._plan.processes):
            seat = Seat(entry, place, copy)
            if seat not in self._kept and not self._stopping.is_set():
                self._kept[seat] = self._group.create_task(self._keep(seat))

    async def _keep(self, seat: Seat) -> None:
        """Keep one process running."""
        deaths, is_first = 0, True
        while not self._stopping.is_set():
            try:
                process = await self._start(seat)
            except OSError as error:
                deaths = deaths_in_a_row(deaths, 0.0)
                await self._pause(seat, f"cannot be started: {error.strerror}", deaths)
                continue
            refused, code = await self._attend(process)
            if self._stopping.is_set():
                self._note_end(seat, code)
            elif refused is not None and is_first:  # later, it may be that what it is made of is just being replaced
                self._give_up(refused.reason, misuse=refused.misuse)
            elif code == 0:
                self._say(self._name(seat), "has finished")
                return
            else:
                deaths = deaths_in_a_row(deaths, process.ran())
                await self._pause(seat, ending(code) if refused is None else refused.reason, deaths)
            is_first = False

    async def _start(self, seat: Seat) -> _Process:
        plan = self._plan
        assignment = Assignment(
            target=plan.target, entry=seat.entry, place=seat.place, grace=plan.grace, log_level=plan.log_level
        )
        child = await start_child(
            WORKER,
            (msgspec.json.encode(assignment).decode(),),
            said=lambda line: self._say(self._name(seat), line),
            environment=None if plan.url is None else {URL_VARIABLE: plan.url},
        )
        process = _Process(seat, child)
        self._running.add(process)
        if self._stopping.is_set():
            process.stop(plan.grace)
        return process

    async def _attend(self, process: _Process) -> tuple[Refused | None, int]:
        """Hear a process to its end; return its refusal, if it is one, and its exit code."""
        refused: Refused | None = None
        try:
            while (said := await process.child.hear()) is not None:
                report: Report = msgspec.msgpack.decode(said, type=Report)
                if isinstance(report, Refused):
                    refused = report
                else:
                    self._heed(process, report)
            return refused, await process.child.ended()
        finally:
            self._running.discard(process)
            await process.end()

    def _heed(self, process: _Process, report: Loaded | Made | Running) -> None:
        match report:
            case Loaded(entries):
                for entry in range(entries):
                    self._have(entry, 0)
            case Made(agents):
                entry = process.seat.entry
                for place, name in enumerate(agents):
                    self._names[entry, place] = name
                    self._have(entry, place)
            case Running():
                self._note_running(process)

    def _note_running(self, process: _Process) -> None:
        if process.began is None:
            process.began = monotonic()
            self._say(self._name(process.seat), f"runs in process {process.child.pid}")

    def _note_end(self, seat: Seat, code: int) -> None:
        if code not in (0, TERMINATED):
            self._unfinished += 1
            self._say(self._name(seat), f"{ending(code)} while it was to stop")

    async def _pause(self, seat: Seat, death: str, deaths: int) -> None:
        """Wait for the time between a death and the next start, or give up."""
        limit = self._plan.max_restarts
        if deaths > limit:
            times = "once" if deaths == 1 else f"{deaths} times in a row, each time within {STEADY:g} s"
            self._give_up(f"{self._name(seat)} {death}; it has died {times}, so it is not started again")
            return
        delay = restart_delay(deaths)
        self._say(self._name(seat), f"{death}; it starts again in {delay:g} s (restart {deaths} of {limit} in a row)")
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), delay)

    def _give_up(self, problem: str, *, misuse: bool = False) -> None:
        if self._outcome.problem is None:
            self._outcome = Outcome(problem=problem, misuse=misuse)
        self.stop()

    def _name(self, seat: Seat) -> str:
        """Return what the process is called: after its agent, as far as that is known."""
        name = self._names.get((seat.entry, seat.place), self._plan.target)
        return name if self._plan.processes == 1 else f"{name}/{seat.copy + 1}"


class _Process:
    """A process that runs, and since when."""

    def __init__(self, seat: Seat, child: Child) -> None:
        self.seat = seat
        self.child = child
        self.began: float | None = None
        self._killing: asyncio.TimerHandle | None = None

    def ran(self) -> float:
        """Return for how many seconds it has been at work."""
        return 0.0 if self.began is None else monotonic() - self.began

    async def end(self) -> None:
        """Take leave of it, and kill it if it is still there."""
        if self._killing is not None:
            self._killing.cancel()
        await self.child.aclose()

    def stop(self, grace: float) -> None:
        """Tell it to stop, and kill it when it does not."""
        self.child.tell(Stop(grace))
        if self._killing is not None:
            self._killing.cancel()
        self._killing = asyncio.get_running_loop().call_later(grace + MARGIN, self.child.kill)
