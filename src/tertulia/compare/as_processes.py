"""Runs a team with each agent in a process of its own, on any engine whose spaces processes can share.

The processes are started once and stay from run to run, so that a run measures communication, and not how long an
interpreter takes to start. All of an agent happens in its process: its handle of the space, its work, the measuring.
This process sets up what the team needs, gives the start, and gathers what was measured when all are done.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterable, Sequence
from time import perf_counter, process_time
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from tertulia.compare.agent_process import Begin, Done, HandOver, Outcome, Play, Ready
from tertulia.compare.measuring import Meter
from tertulia.compare.teams import OFFICE, Played, Step, Task, Team
from tertulia.compare.workers import AgentFailedError, Worker, Workers
from tertulia.space import connect

__all__ = ["play_as_processes"]

NEWS = 2.0  # seconds in which who has failed says so, when another agent has heard of it first

T = TypeVar("T", Ready, Done, Outcome)


async def play_as_processes(workers: Workers, team: Team, task: Task, url: str, step: Step) -> Played:
    """Run a team once, in the space of that URL.

    Raises AgentFailedError, AgentDiedError, and TimeoutError when it takes longer than the task's patience.
    """
    limit = asyncio.timeout(task.patience)
    try:
        async with limit, workers.several(tuple(team.roles(task, step))) as agents:
            return await _play(agents, team, task, url, step)
    except TimeoutError:
        if limit.expired():
            raise TimeoutError(f"the team was not done within {task.patience:g} s") from None
        raise


async def _play(agents: Sequence[Worker], team: Team, task: Task, url: str, step: Step) -> Played:
    meter = Meter()
    async with meter.space(await connect(url), OFFICE) as office:
        encoded = Raw(msgspec.msgpack.encode(task))
        for agent in agents:
            agent.tell(Play(team.reference, agent.name, url, encoded))
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


def _tell_all(agents: Iterable[Worker], order: object) -> None:
    for agent in agents:
        agent.tell(order)


async def _from_all(agents: Sequence[Worker], kind: type[T], step: Step) -> list[T]:
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
