"""What a comparison runs: a team of agents with a task, built in one paradigm, and where and how it is run.

A use case gives one `Team` for each paradigm. A team does not know whether its agents are tasks or processes, nor on
which engine: it is handed spaces. So every team runs in every setting, and what differs is the setting's doing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from typing import Any, Protocol

from msgspec import Struct

from tertulia.compare.recordings import Recording
from tertulia.space import Space

__all__ = ["OFFICE", "OpenSpace", "Played", "Role", "Step", "Task", "Team", "team_at"]

OFFICE = "office"  # the name under which what a team needs is set up, before its agents begin

OpenSpace = Callable[[str], AbstractAsyncContextManager[Space]]
"""Opens a handle on the team's space for the agent of that name, so that each agent has its own."""

Role = Callable[[Space], Awaitable[object]]
"""An agent at work; it returns when its part is done."""

Step = Callable[[], None]
"""Tells whoever watches the progress that one more piece of the work is done."""


class Task(Protocol):
    """What a team is to do: plain data, since it is handed to other processes. `patience`: seconds it may take."""

    @property
    def patience(self) -> float:
        """After so many seconds the team is given up."""
        ...


class Team(Protocol):
    """A use case built in one paradigm.

    `reference`: where this very object is, as `module:NAME`, for another process to import it. `task_type`: what its
    tasks are decoded as there.
    """

    @property
    def reference(self) -> str:
        """Return `module:NAME`."""
        ...

    @property
    def task_type(self) -> type[Any]:
        """Return the type of the team's tasks."""
        ...

    async def prepare(self, space: Space, task: Any) -> None:
        """Set up what has to be there before the agents begin, with the office's handle."""
        ...

    def roles(self, task: Any, step: Step) -> Mapping[str, Role]:
        """Return who is in the team and what each does. What the first one returns is the team's result."""
        ...


class Played(Struct, frozen=True, kw_only=True):
    """One run of a team.

    `seconds`: from when all agents stood ready, each with its handle of the space, until the last one had done its
    part; setting up mailboxes is in it, starting processes and opening the space is not. `cpu`: seconds of processor
    time that all processes took meanwhile, together.
    """

    result: Any
    seconds: float
    cpu: float
    recordings: tuple[Recording, ...]


def team_at(reference: str) -> Team:
    """Return the team that a reference names."""
    module, _, name = reference.partition(":")
    team: Team = getattr(import_module(module), name)
    return team
