"""The report team as the comparison runs it: a team for each paradigm, and a task that other processes can be given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from tertulia.compare.report_team import by_memory, by_messages
from tertulia.compare.report_team.job import SKILLS, Job, Skills
from tertulia.compare.report_team.rehearsing import Answers, told
from tertulia.compare.teams import Role, Step, Team
from tertulia.space import Space

__all__ = ["BY_MEMORY", "BY_MESSAGES", "TEAMS", "ReportTask", "ReportTeam"]


class ReportTask(Struct, frozen=True, kw_only=True):
    """A report to write; with `answers` the agents need not think, so that only communication is left."""

    job: Job
    answers: Answers | None = None

    @property
    def patience(self) -> float:
        """After so many seconds the team is given up."""
        return self.job.patience

    def skills(self, step: Step) -> Skills:
        """Return what the agents can do; each file that is really read is a step."""
        return told(SKILLS, step) if self.answers is None else self.answers.skills()


class _Paradigm(Protocol):
    """A module such as `by_memory`."""

    async def prepare(self, space: Space, job: Job) -> None: ...
    def roles(self, job: Job, skills: Skills = ...) -> dict[str, Role]: ...


class ReportTeam:
    """The team in one paradigm; `reference` is where in this module it is."""

    task_type = ReportTask

    def __init__(self, name: str, paradigm: _Paradigm) -> None:
        self.reference = f"{__name__}:{name}"
        self._paradigm = paradigm

    async def prepare(self, space: Space, task: ReportTask) -> None:
        """Set up what has to be there before the agents begin."""
        await self._paradigm.prepare(space, task.job)

    def roles(self, task: ReportTask, step: Step) -> Mapping[str, Role]:
        """Return who is in the team; the first one is the scout, who returns the report."""
        return self._paradigm.roles(task.job, task.skills(step))


BY_MEMORY = ReportTeam("BY_MEMORY", by_memory)
BY_MESSAGES = ReportTeam("BY_MESSAGES", by_messages)

TEAMS: Mapping[str, Team] = {"memory": BY_MEMORY, "messages": BY_MESSAGES}
"""The team by paradigm."""
