"""Where a comparison takes place: an engine, and agents as tasks of one process or as processes of their own.

Engines are told apart by what they can do, never by name: agents can be processes where the engine's capabilities say
that processes can share a space.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from enum import StrEnum
from functools import partial
from urllib.parse import urlsplit

from msgspec import Struct

from tertulia.compare.as_processes import play_as_processes
from tertulia.compare.as_tasks import play_as_tasks
from tertulia.compare.places import ENGINES, FreshSpace
from tertulia.compare.teams import Played, Step, Task, Team
from tertulia.compare.workers import Workers
from tertulia.errors import EngineError, InvalidInputError, MissingExtraError
from tertulia.space import connect

__all__ = ["AgentsAs", "PlayTeam", "Stage", "StageError", "open_stage", "stages_of"]

REACHED = 5.0  # seconds within which a server answers that is there

PlayTeam = Callable[[Team, Task, Step], Awaitable[Played]]
"""Runs a team once, in a space of its own."""


class AgentsAs(StrEnum):
    """What each agent is."""

    tasks = "tasks"
    processes = "processes"


class Stage(Struct, frozen=True, kw_only=True):
    """An engine by its name, and what each agent is there."""

    engine: str
    agents: AgentsAs

    def __str__(self) -> str:
        return f"{self.engine}, {self.agents.value}"


class StageError(ValueError):
    """There can be no such stage."""


async def stages_of(
    engines: Iterable[str], agents: Collection[AgentsAs] = (), *, server: str = "", where_possible: bool = False
) -> tuple[Stage, ...]:
    """Return the stages on these engines, in their order, with agents as what is asked for there.

    Where nothing is asked for, they are processes if that is possible, else tasks. `server` is the URL of the server
    for the engines that need one. An engine that can do nothing of what is asked for is left out if `where_possible`.
    Raises StageError for one that is not, for an engine that is not known, and when a server is not there.
    """
    stages = [stage for engine in dict.fromkeys(engines) for stage in await _stages_on(engine, agents, server)]
    if not where_possible:
        _check_each(engines, stages)
    return tuple(stages)


def _check_each(engines: Iterable[str], stages: Collection[Stage]) -> None:
    """Agents can be tasks everywhere, so what an engine cannot do is to let them be processes."""
    staged = {stage.engine for stage in stages}
    for engine in engines:
        if engine not in staged:
            raise StageError(f"a space of the {engine} engine is in one process, so agents there can only be tasks")


async def _stages_on(engine: str, agents: Collection[AgentsAs], server: str) -> list[Stage]:
    shared = await _is_shared_by_processes(engine, server)
    possible = [AgentsAs.tasks, AgentsAs.processes] if shared else [AgentsAs.tasks]
    wanted = [one for one in possible if one in agents] if agents else possible[-1:]
    return [Stage(engine=engine, agents=one) for one in wanted]


async def _is_shared_by_processes(engine: str, server: str) -> bool:
    """Ask the engine itself, which is also how a server is found that is not there."""
    if engine not in ENGINES:
        raise StageError(f"there is no engine {engine!r}; there are {', '.join(ENGINES)}")
    if ENGINES[engine].needs_server:
        await _check_server(engine, server)
    async with ENGINES[engine].open(server) as fresh, fresh() as url, connect(url) as space:
        return space.engine.capabilities.multi_process


async def _check_server(engine: str, server: str) -> None:
    """Open and close a space on the server; the name is of no importance, and nothing is stored."""
    if urlsplit(server).scheme not in (engine, "tls") or not urlsplit(server).netloc:
        raise StageError(f"the {engine} engine needs the URL of its server: --url {engine}://HOST:PORT")
    try:
        async with ENGINES[engine].open(server) as fresh, fresh() as url, connect(url, timeout=REACHED):
            return
    except (EngineError, InvalidInputError, MissingExtraError, OSError) as error:
        raise StageError(f"the {engine} engine cannot be used: {error}") from error


@asynccontextmanager
async def open_stage(stage: Stage, said: Callable[[str, str], None], *, server: str = "") -> AsyncGenerator[PlayTeam]:
    """Have a stage to run teams on; nothing of it is left afterwards. `said` gets what an agent's process prints."""
    async with ENGINES[stage.engine].open(server) as fresh:
        if stage.agents is AgentsAs.processes:
            async with Workers(said) as workers:
                yield _in_fresh_spaces(fresh, partial(play_as_processes, workers))
        else:
            yield _in_fresh_spaces(fresh, play_as_tasks)


def _in_fresh_spaces(fresh: FreshSpace, play: Callable[[Team, Task, str, Step], Awaitable[Played]]) -> PlayTeam:
    async def play_there(team: Team, task: Task, step: Step) -> Played:
        async with fresh() as url:
            return await play(team, task, url, step)

    return play_there
