"""What the team is told, what its members can do, and how they are run: the same for both paradigms."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from msgspec import Struct

from tertulia._names import literal
from tertulia.compare.report_team.criticism import criticise
from tertulia.compare.report_team.facts import Criticism, FileFacts, FileListing
from tertulia.compare.report_team.reading import read_file
from tertulia.compare.report_team.scouting import list_files
from tertulia.compare.report_team.writing import write_report
from tertulia.errors import RemoteError
from tertulia.space import Space

__all__ = ["MAX_READERS", "SKILLS", "Job", "OpenSpace", "Role", "Skills", "run_roles"]

MAX_READERS = 64  # as many agents as the comparison is ever run with; each is a task or a process
LEASE = 30.0  # seconds; the largest file that the scout lists is read in a tenth of it, so only the dead lose theirs
PATIENCE = 600.0  # seconds for a whole report; a thousand large files take a minute or two

P = ParamSpec("P")
R = TypeVar("R")

OpenSpace = Callable[[str], AbstractAsyncContextManager[Space]]
"""Opens a handle on the team's space for the agent of that name, so that each agent has its own."""

Role = Callable[[Space], Awaitable[object]]
"""An agent at work; it returns when its part is done."""


class Job(Struct, frozen=True, kw_only=True):
    """What everybody in the team knows; plain data, so that it can be given to another process.

    `folder` is an absolute path. `id` keeps the keys and mailboxes of teams in one space apart: up to 40 letters,
    digits, `-` and `_`. `lease`: seconds after which the work of a reader that died goes to another one.
    `patience`: seconds after which an agent gives the whole job up.
    """

    folder: str
    readers: int = 3
    id: str = "report"
    lease: float = LEASE
    patience: float = PATIENCE

    @classmethod
    def on_folder(cls, folder: str | Path, *, readers: int = 3, id: str = "report") -> Job:
        """Return a job on a folder as the caller sees it, `.` included."""
        return cls(folder=str(Path(folder).resolve()), readers=readers, id=id)

    @property
    def folder_name(self) -> str:
        """What the report calls the folder: its name alone, so that the report is the same wherever it is made."""
        return Path(self.folder).name

    def key(self, *levels: str) -> str:
        """Return a key of this job."""
        return ":".join((self.id, *levels))

    def keys(self, level: str) -> str:
        """Return the pattern of this job's keys below a level."""
        return f"{literal(self.key(level))}:*"

    def agent(self, role: str) -> str:
        """Return the name of this job's agent for a role."""
        return f"{self.id}-{role}"

    def topic(self, name: str) -> str:
        """Return a topic of this job."""
        return f"{self.id}.{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Skills:
    """What the agents can do. Given from outside, so that a run can do without (see `compare.runner`)."""

    list_files: Callable[[str], Awaitable[FileListing]]
    read_file: Callable[[str, str], Awaitable[FileFacts]]
    criticise: Callable[[Iterable[FileFacts]], Awaitable[Criticism]]
    write_report: Callable[[str, FileListing, Iterable[FileFacts], Criticism], Awaitable[str]]


def _in_thread(function: Callable[P, R]) -> Callable[P, Awaitable[R]]:
    """Return the function as one that leaves the event loop free meanwhile."""

    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.to_thread(function, *args, **kwargs)

    return call


SKILLS = Skills(
    list_files=_in_thread(list_files),
    read_file=_in_thread(read_file),
    criticise=_in_thread(criticise),
    write_report=_in_thread(write_report),
)


async def run_roles(open_space: OpenSpace, job: Job, roles: Mapping[str, Role]) -> dict[str, Any]:
    """Run the roles as tasks, each with a handle of its own, until all are done; return their results by name.

    The first error of any ends them all and is raised. One that is cancelled is as one that died: the others go on
    without it. Raises TimeoutError when they take longer than the job's patience.
    """
    errors: list[Exception] = []  # as they happen: who is cancelled while it goes down with one ends as cancelled

    async def work(name: str, role: Role) -> object:
        async with open_space(name) as space:
            try:
                return await role(space)
            except Exception as error:
                errors.append(error)
                raise

    limit = asyncio.timeout(job.patience)
    try:
        async with limit, asyncio.TaskGroup() as team:
            tasks = {name: team.create_task(work(name, role), name=name) for name, role in roles.items()}
    except BaseExceptionGroup as group:
        raise _cause(errors or group.exceptions) from None
    except TimeoutError:
        if limit.expired():
            raise TimeoutError(f"the team was not done within {job.patience:g} s") from None
        raise
    return {name: task.result() for name, task in tasks.items() if not task.cancelled()}


def _cause(errors: Sequence[BaseException]) -> BaseException:
    """Return what happened first; that a colleague failed is only the news of it."""
    return next((error for error in errors if not isinstance(error, RemoteError)), errors[0])
