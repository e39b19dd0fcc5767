"""Runs a team as tasks of this process, each agent with a handle of its own on the space."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter, process_time
from typing import Any

from msgspec import Struct

from tertulia.compare.measuring import Meter
from tertulia.compare.teams import OFFICE, OpenSpace, Played, Role, Step, Task, Team
from tertulia.errors import RemoteError
from tertulia.space import Space, connect

__all__ = ["Finished", "play_as_tasks", "run_roles"]


class Finished(Struct, frozen=True, kw_only=True):
    """What the roles returned, by name, and what it took; see Played."""

    results: dict[str, Any]
    seconds: float
    cpu: float


async def play_as_tasks(team: Team, task: Task, url: str, step: Step) -> Played:
    """Run a team once, in the space of that URL."""
    meter = Meter()

    @asynccontextmanager
    async def open_space(agent: str) -> AsyncGenerator[Space]:
        async with meter.space(await connect(url), agent) as space:
            yield space

    roles = team.roles(task, step)
    prepare = partial(team.prepare, task=task)
    finished = await run_roles(open_space, roles, prepare=prepare, patience=task.patience)
    return Played(
        result=finished.results.get(next(iter(roles))),
        seconds=finished.seconds,
        cpu=finished.cpu,
        recordings=(meter.recording,),
    )


async def run_roles(
    open_space: OpenSpace,
    roles: Mapping[str, Role],
    *,
    patience: float,
    prepare: Callable[[Space], Awaitable[object]] | None = None,
) -> Finished:
    """Run the roles as tasks, each with a handle of its own, until all are done.

    They begin together, when all have their handles and `prepare` has set up what they need. The first error of any
    ends them all and is raised. One that is cancelled is as one that died: the others go on without it. Raises
    TimeoutError when they take longer than `patience` seconds.
    """
    errors: list[Exception] = []  # as they happen: who is cancelled while it goes down with one ends as cancelled
    start = _Start(len(roles))
    watch = _StopWatch()

    async def work(name: str, role: Role) -> object:
        with start.place() as place:
            async with open_space(name) as space:
                try:
                    await place.wait()
                    result = await role(space)
                except Exception as error:
                    errors.append(error)
                    raise
                watch.look()
                return result

    limit = asyncio.timeout(patience)
    async with open_space(OFFICE) as office:  # the space stays open whoever comes and goes
        try:
            async with limit, asyncio.TaskGroup() as team:
                tasks = {name: team.create_task(work(name, role), name=name) for name, role in roles.items()}
                await start.all_ready.wait()
                gc.collect()  # no run pays for what another one left
                watch.start()
                if prepare is not None:
                    await prepare(office)
                start.given.set()
        except BaseExceptionGroup as group:
            raise _cause(errors or group.exceptions) from None
        except TimeoutError:
            if limit.expired():
                raise TimeoutError(f"the team was not done within {patience:g} s") from None
            raise
    results = {name: task.result() for name, task in tasks.items() if not task.cancelled()}
    return Finished(results=results, seconds=watch.seconds, cpu=watch.cpu)


class _Start:
    """Lets all begin together: those that are ready wait for the others, but not for one that has gone."""

    def __init__(self, count: int) -> None:
        self.all_ready = asyncio.Event()
        self.given = asyncio.Event()
        self._awaited = count

    def place(self) -> _Place:
        """Return a place on the starting line."""
        return _Place(self)

    def one_less(self) -> None:
        """Wait for one less."""
        self._awaited -= 1
        if self._awaited == 0:
            self.all_ready.set()


class _Place:
    """One agent's place on the starting line."""

    def __init__(self, start: _Start) -> None:
        self._start = start
        self._counted = False

    def __enter__(self) -> _Place:  # noqa: PYI034 - not meant to be subclassed
        return self

    def __exit__(self, *_: object) -> None:
        self._count()

    async def wait(self) -> None:
        """Be ready, and wait for the start."""
        self._count()
        await self._start.given.wait()

    def _count(self) -> None:
        if not self._counted:
            self._counted = True
            self._start.one_less()


class _StopWatch:
    """How much time has passed, and how much of the processor's was used, from the start to the last look."""

    def __init__(self) -> None:
        self._began = self._cpu_began = self.seconds = self.cpu = 0.0

    def start(self) -> None:
        self._began, self._cpu_began = perf_counter(), process_time()

    def look(self) -> None:
        self.seconds, self.cpu = perf_counter() - self._began, process_time() - self._cpu_began


def _cause(errors: Sequence[BaseException]) -> BaseException:
    """Return what happened first; that a colleague failed is only the news of it."""
    return next((error for error in errors if not isinstance(error, RemoteError)), errors[0])
