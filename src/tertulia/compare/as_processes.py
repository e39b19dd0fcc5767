"""Runs a team with each agent in a process of its own, on any engine whose spaces processes can share.

The processes are started once and stay from run to run, so that a run measures communication, and not how long an
interpreter takes to start. All of an agent happens in its process: its handle of the space, its work, the measuring.
This process sets up what the team needs, gives the start, and gathers what was measured when all are done.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from time import perf_counter, process_time
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
from msgspec import Raw

from tertulia.compare.agent_process import Begin, Done, Failed, HandOver, Outcome, Play, Ready, Report, Stepped
from tertulia.compare.measuring import Meter
from tertulia.compare.teams import OFFICE, Played, Step, Task, Team
from tertulia.processes.child import Child, ending, start_child
from tertulia.space import connect

__all__ = ["AgentDiedError", "AgentFailedError", "Processes"]

AGENT = "tertulia.compare.agent_process"
LEAVING = 5.0  # seconds for a process to leave its space; it ends itself before, if it can
NEWS = 2.0  # seconds in which who has failed says so, when another agent has heard of it first

T = TypeVar("T", Ready, Done, Outcome)


class AgentFailedError(Exception):
    """An agent has raised an error in its process; `kind` is its type, `detail` its text, `traceback` where it was."""

    def __init__(self, agent: str, failed: Failed) -> None:
        super().__init__(f"the {agent} failed in its process with {failed.kind}: {failed.text}")
        self.agent = agent
        self.kind = failed.kind
        self.detail = failed.text
        self.traceback = failed.traceback
        self.is_news = failed.is_news


class AgentDiedError(Exception):
    """An agent's process has ended in the middle of a run; `pid` was its number, `code` its exit code."""

    def __init__(self, agent: str, pid: int, code: int) -> None:
        super().__init__(f"the {agent}'s process {pid} {ending(code)}")
        self.agent = agent
        self.pid = pid
        self.code = code


class Processes:
    """The processes of agents, by name; `async with` ends them all. `said` gets what one prints, and who it is."""

    def __init__(self, said: Callable[[str, str], None]) -> None:
        self._said = said
        self._agents: dict[str, _Agent] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.gather(*(agent.child.aclose(LEAVING) for agent in self._agents.values()))

    async def play(self, team: Team, task: Task, url: str, step: Step) -> Played:
        """Run a team once, in the space of that URL.

        Raises AgentFailedError, AgentDiedError, and TimeoutError when it takes longer than the task's patience. After
        any of them the processes are of no more use.
        """
        limit = asyncio.timeout(task.patience)
        try:
            async with limit:
                return await self._play(team, task, url, step)
        except TimeoutError:
            if limit.expired():
                raise TimeoutError(f"the team was not done within {task.patience:g} s") from None
            raise

    async def _play(self, team: Team, task: Task, url: str, step: Step) -> Played:
        meter = Meter()
        names = tuple(team.roles(task, step))
        agents = [await self._agent(name) for name in names]
        async with meter.space(await connect(url), OFFICE) as office:
            encoded = Raw(msgspec.msgpack.encode(task))
            for agent in agents:
                agent.child.tell(Play(team.reference, agent.name, url, encoded))
            await _from_all(agents, Ready, step)
            gc.collect()
            began, cpu_began = perf_counter(), process_time()
            await team.prepare(office, task)
            _tell_all(agents, Begin())
            done = await _from_all(agents, Done, step)
            cpu = process_time() - cpu_began
        _tell_all(agents, HandOver())
        outcomes = await _from_all(agents, Outcome, step)
        return Played(
            result=msgspec.msgpack.decode(outcomes[0].result),
            seconds=max(one.at for one in done) - began,
            cpu=cpu + sum(one.cpu for one in done),
            recordings=(meter.recording, *(outcome.recording for outcome in outcomes)),
        )

    async def _agent(self, name: str) -> _Agent:
        """Return the agent of that name, in a process that is started now if there is none."""
        if name not in self._agents:
            self._agents[name] = _Agent(name, await start_child(AGENT, said=partial(self._said, name)))
        return self._agents[name]


class _Agent:
    """An agent in its process, as seen from here."""

    def __init__(self, name: str, child: Child) -> None:
        self.name = name
        self.child = child

    async def next(self, kind: type[T], step: Step) -> T:
        """Wait for the next report, which is of this kind but for steps. Raises AgentFailedError, AgentDiedError."""
        while (said := await self.child.hear()) is not None:
            report: Report = msgspec.msgpack.decode(said, type=Report)
            if isinstance(report, Stepped):
                step()
            elif isinstance(report, Failed):
                raise AgentFailedError(self.name, report)
            elif isinstance(report, kind):
                return report
        raise AgentDiedError(self.name, self.child.pid, await self.child.ended())


def _tell_all(agents: Iterable[_Agent], order: object) -> None:
    for agent in agents:
        agent.child.tell(order)


async def _from_all(agents: Sequence[_Agent], kind: type[T], step: Step) -> list[T]:
    """Wait for a report of each agent; raise the first error, but rather one that happened than the news of it."""
    waiting = [asyncio.ensure_future(agent.next(kind, step)) for agent in agents]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)
        errors = _errors(waiting)
        if errors and all(map(_is_news, errors)):
            await asyncio.wait(waiting, timeout=NEWS)
            errors = _errors(waiting)
        if errors:
            raise next((error for error in errors if not _is_news(error)), errors[0])
        return [one.result() for one in waiting]
    finally:
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def _errors(waiting: Iterable[asyncio.Future[Any]]) -> list[BaseException]:
    found = (one.exception() for one in waiting if one.done())
    return [error for error in found if error is not None]


def _is_news(error: BaseException) -> bool:
    return isinstance(error, AgentFailedError) and error.is_news
