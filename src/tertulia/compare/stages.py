"""Where a comparison takes place: an engine, and agents as tasks of one process or as processes of their own.

Engines are told apart by what they can do, never by name: agents can be processes where the engine's capabilities say
that processes can share a space.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import StrEnum
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec import Struct

from tertulia.compare.as_processes import Processes
from tertulia.compare.as_tasks import play_as_tasks
from tertulia.compare.teams import Played, Step, Task, Team
from tertulia.space import connect

__all__ = ["ENGINES", "AgentsAs", "PlayTeam", "Stage", "StageError", "open_stage", "stages_of"]

FreshSpace = Callable[[], AbstractAsyncContextManager[str]]
"""Gives the URL of a new, empty space, of which nothing is left afterwards."""

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


# --- Engines -------------------------------------------------------------------------------------


@asynccontextmanager
async def _memory_spaces() -> AsyncGenerator[FreshSpace]:
    numbers = count(1)

    @asynccontextmanager
    async def fresh() -> AsyncGenerator[str]:
        yield f"memory:compare-{next(numbers)}"

    yield fresh


@asynccontextmanager
async def _file_spaces() -> AsyncGenerator[FreshSpace]:
    """Keep the files in a directory of their own, which is removed at the end."""
    numbers = count(1)
    with TemporaryDirectory(prefix="tertulia-compare-") as directory:

        @asynccontextmanager
        async def fresh() -> AsyncGenerator[str]:
            place = Path(directory, str(next(numbers)))
            await asyncio.to_thread(place.mkdir)
            yield f"file:{place}/space.db"
            await asyncio.to_thread(shutil.rmtree, place)  # where something went wrong, all goes together

        yield fresh


ENGINES: Mapping[str, Callable[[], AbstractAsyncContextManager[FreshSpace]]] = {
    "memory": _memory_spaces,
    "file": _file_spaces,
}
"""The engines to compare on, by name, and how to have spaces there for as long as the comparison lasts."""


# --- Stages --------------------------------------------------------------------------------------


async def stages_of(engines: Iterable[str], agents: Collection[AgentsAs] = ()) -> tuple[Stage, ...]:
    """Return the stages on these engines, in their order, with agents as what is asked for there.

    Where nothing is asked for, they are processes if that is possible, else tasks. Raises StageError for an engine
    that can do nothing of what is asked for.
    """
    return tuple([stage for engine in dict.fromkeys(engines) for stage in await _stages_on(engine, agents)])


async def _stages_on(engine: str, agents: Collection[AgentsAs]) -> list[Stage]:
    shared = await _is_shared_by_processes(engine)
    possible = [AgentsAs.tasks, AgentsAs.processes] if shared else [AgentsAs.tasks]
    wanted = [one for one in possible if one in agents] if agents else possible[-1:]
    if not wanted:
        raise StageError(f"a space of the {engine} engine is in one process, so agents there can only be tasks")
    return [Stage(engine=engine, agents=one) for one in wanted]


async def _is_shared_by_processes(engine: str) -> bool:
    async with ENGINES[engine]() as fresh, fresh() as url, connect(url) as space:
        return space.engine.capabilities.multi_process


@asynccontextmanager
async def open_stage(stage: Stage, said: Callable[[str, str], None]) -> AsyncGenerator[PlayTeam]:
    """Have a stage to run teams on; nothing of it is left afterwards. `said` gets what an agent's process prints."""
    async with ENGINES[stage.engine]() as fresh:
        if stage.agents is AgentsAs.processes:
            async with Processes(said) as processes:
                yield _in_fresh_spaces(fresh, processes.play)
        else:
            yield _in_fresh_spaces(fresh, play_as_tasks)


def _in_fresh_spaces(fresh: FreshSpace, play: Callable[[Team, Task, str, Step], Awaitable[Played]]) -> PlayTeam:
    async def play_there(team: Team, task: Task, step: Step) -> Played:
        async with fresh() as url:
            return await play(team, task, url, step)

    return play_there
