"""What the team is told, and what its members can do: the same for both paradigms."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from msgspec import Struct

from tertulia._names import literal
from tertulia.compare.report_team.criticism import criticise
from tertulia.compare.report_team.facts import Criticism, FileFacts, FileListing
from tertulia.compare.report_team.reading import read_file
from tertulia.compare.report_team.scouting import list_files
from tertulia.compare.report_team.writing import write_report

__all__ = ["MAX_READERS", "SKILLS", "Job", "Skills"]

MAX_READERS = 64  # as many agents as the comparison is ever run with; each is a task or a process
LEASE = 30.0  # seconds; the largest file that the scout lists is read in a tenth of it, so only the dead lose theirs
PATIENCE = 600.0  # seconds for a whole report; a thousand large files take a minute or two

P = ParamSpec("P")
R = TypeVar("R")


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
    """What the agents can do. Given from outside, so that a run can do without (see `rehearsing`)."""

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
