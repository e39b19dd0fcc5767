"""Processes to do work in: clean Pythons that are started once and then asked again and again.

Starting one takes as long as hundreds of requests between two that run, so none is ended while it may still be of use.
One that failed, died or was given up is of no more use; it is ended, and the next who needs one gets a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from tertulia.compare.agent_process import Answer, Call, Done, Failed, Outcome, Ready, Report, Stepped
from tertulia.compare.teams import Step
from tertulia.processes.child import Child, ending, start_child

__all__ = ["AgentDiedError", "AgentFailedError", "Worker", "Workers"]

AGENT = "tertulia.compare.agent_process"
LEAVING = 5.0  # seconds for a process to leave its space; it ends itself before, if it can

T = TypeVar("T", Ready, Done, Outcome, Answer)


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


class Worker:
    """A process and the name of the agent that it is at the moment."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._child: Child | None = None

    async def start(self, said: Callable[[str, str], None]) -> None:
        """Start the process."""
        self._child = await start_child(AGENT, said=lambda line: said(self.name, line))

    @property
    def child(self) -> Child:
        """The process, which was started."""
        assert self._child is not None  # noqa: S101 - nobody gets one that is not
        return self._child

    def tell(self, order: object) -> None:
        """Send the process an order."""
        self.child.tell(order)

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


class Workers:
    """All processes; `async with` ends them. `said` gets what one prints, and the name of the agent that it is."""

    def __init__(self, said: Callable[[str, str], None]) -> None:
        self._said = said
        self._idle: list[Worker] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.gather(*(worker.child.aclose(LEAVING) for worker in self._idle))

    @asynccontextmanager
    async def several(self, names: tuple[str, ...]) -> AsyncGenerator[list[Worker]]:
        """Have a process for each of these agents: whatever was this agent before, else whatever is idle, else new.

        When the block fails they are ended: nobody knows what they are still busy with.
        """
        workers: list[Worker] = []
        try:
            for name in names:
                workers.append(await self._take(name))  # noqa: PERF401 - so that those are ended that were started
            yield workers
        except BaseException:
            await asyncio.gather(*(worker.child.aclose(LEAVING) for worker in workers))
            raise
        self._idle += workers

    async def call(self, name: str, function: str, argument: bytes) -> bytes | None:
        """Return what a function (`module:name`) returns in a process; None when that process was killed.

        Cancellation kills the process. Raises AgentFailedError.
        """
        worker = await self._take(name)
        try:
            worker.tell(Call(function, argument))
            answer = await worker.next(Answer, _nothing)
        except AgentFailedError:
            self._idle.append(worker)
            raise
        except AgentDiedError as death:
            await worker.child.aclose()
            if death.code >= 0:
                raise
            return None
        except BaseException:
            await asyncio.shield(worker.child.aclose())
            raise
        self._idle.append(worker)
        return answer.value

    async def _take(self, name: str) -> Worker:
        same = (worker for worker in self._idle if worker.name == name)
        worker = next(same, self._idle[0] if self._idle else None)
        if worker is not None:
            self._idle.remove(worker)
            worker.name = name
            return worker
        worker = Worker(name)
        await worker.start(self._said)
        return worker


def _nothing() -> None:
    """A call has no steps."""
