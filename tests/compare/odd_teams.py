"""Teams that do what a comparison has to cope with; an agent's process imports them from here."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from time import process_time
from typing import Any

from msgspec import Struct

from tertulia import Space
from tertulia.compare.report_team.teams import ReportTask
from tertulia.compare.teams import Role, Step
from tertulia.errors import RemoteError

Deed = Callable[[Space, Step], Awaitable[object]]


class OddTask(Struct, frozen=True, kw_only=True):
    patience: float = 60.0


class OddTeam:
    """Two agents, each of which does one thing; before, the office writes "set up"."""

    def __init__(self, name: str, *, first: Deed, second: Deed, task_type: type[Any] = OddTask) -> None:
        self.reference = f"{__name__}:{name}"
        self.task_type = task_type
        self._deeds = {"first": first, "second": second}

    async def prepare(self, space: Space, task: object) -> None:
        assert isinstance(task, self.task_type)
        await space.memory.write("set up", os.getpid(), owner="office")

    def roles(self, task: object, step: Step) -> dict[str, Role]:
        assert isinstance(task, self.task_type)
        return {name: lambda space, deed=deed: deed(space, step) for name, deed in self._deeds.items()}


async def gather_pids(space: Space, step: Step) -> list[int]:
    """Return the numbers of the office's process, of this one, and of the other's, which it waits for."""
    async with space.memory.watch("second") as changes:
        pid = await space.memory.read("second", reader="first")
        if pid is None:
            pid = (await anext(changes)).value
    step()
    return [await space.memory.read("set up", reader="first"), os.getpid(), pid]


async def write_pid(space: Space, step: Step) -> None:
    step()
    await space.memory.write("second", os.getpid(), owner="second")


async def wait(space: Space, _: Step) -> None:
    async with space.memory.watch("nothing") as changes:
        await anext(changes)


async def fail(_: Space, __: Step) -> None:
    stumble()


def stumble() -> None:
    raise ValueError("on purpose")


async def fail_when_told(space: Space, _: Step) -> None:
    async with space.memory.watch("told") as changes:
        if await space.memory.read("told", reader="second") is None:
            await anext(changes)
    stumble()


async def tell_and_hear_of_it(space: Space, _: Step) -> None:
    await space.memory.write("told", "now", owner="first")
    raise RemoteError("second", "ValueError", "on purpose")


async def die(_: Space, __: Step) -> None:
    sys.stderr.write("some last words\n")
    os._exit(7)


async def burn(_: Space, __: Step) -> None:
    """Use the processor for as long as BURNT says."""
    began = process_time()
    while process_time() - began < BURNT:
        pass


BURNT = 0.2  # seconds of processor time
BURNING = OddTeam("BURNING", first=burn, second=burn)
PIDS = OddTeam("PIDS", first=gather_pids, second=write_pid)
FAILING = OddTeam("FAILING", first=wait, second=fail)
FAILING_REPORT = OddTeam("FAILING_REPORT", first=wait, second=fail, task_type=ReportTask)
NEWS = OddTeam("NEWS", first=tell_and_hear_of_it, second=fail_when_told)
DYING = OddTeam("DYING", first=wait, second=die)
STUCK = OddTeam("STUCK", first=wait, second=wait)
