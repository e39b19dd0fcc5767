"""Taking part in a collaboration, when an invitation has come."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import suppress
from typing import Any

from tertulia._background import logger
from tertulia._clock import instant
from tertulia.errors import (
    InvalidInputError,
    KeyExistsError,
    NotAMemberError,
    Reject,
    RetryLater,
    TertuliaError,
    WorkspaceError,
)
from tertulia.messaging.context import HANDLING, Handling, path_so_far
from tertulia.messaging.outbox import encodable
from tertulia.patterns._deadline import Deadline
from tertulia.patterns._failures import MAX_DETAIL, text_of
from tertulia.patterns.collaboration import (
    CONTEXT,
    CONTRIBUTION,
    STARTED,
    TASK,
    CollaborationTask,
    ContributionStatus,
    Invitation,
    Report,
    TaskFunction,
)
from tertulia.patterns.workspace import CollaborativeWorkspace
from tertulia.records import Message
from tertulia.space import Space


async def take_part(space: Space, agent_id: str, message: Message, function: TaskFunction | None) -> None:
    """Do what an invitation asks for, and write the contribution down.

    A repeated invitation changes nothing once there is a contribution. Raises RetryLater if the function does.

    Cancellation: the agent is not there any more, and another process may take its part over.
    """
    invitation: Invitation = message.content
    workspace = CollaborativeWorkspace(invitation.workspace_id, space, presence_lease=invitation.presence_lease)
    try:
        await workspace.join(agent_id, create=False)
        if await workspace.get_shared_data(CONTRIBUTION + agent_id, getter=agent_id) is None:
            part = _Part(space, agent_id, invitation, workspace, message.attempt)
            await part.do(function)
    except KeyExistsError:
        logger.info("another process of %r was faster in %r", agent_id, workspace.workspace_id)
    except (WorkspaceError, NotAMemberError) as closed:
        logger.info("what %r did for %r came too late: %s", agent_id, workspace.workspace_id, closed)
    except asyncio.CancelledError:
        with suppress(TertuliaError):
            await workspace.leave(agent_id)
        raise


class _Part:
    """One agent's part in a collaboration, while it does it."""

    def __init__(
        self, space: Space, agent_id: str, invitation: Invitation, workspace: CollaborativeWorkspace, attempt: int
    ) -> None:
        self._clock = space.clock
        self._me = agent_id
        self._invitation = invitation
        self._workspace = workspace
        self._attempt = attempt
        self._started = space.clock.time()

    async def do(self, function: TaskFunction | None) -> None:
        """Call the function and write down what it returns, or why it does not."""
        if function is None:
            await self._write_down(ContributionStatus.DECLINED, reason="it has no function for tasks: see on_task")
            return
        await self._workspace.set_shared_data(STARTED + self._me, self._started, setter=self._me)
        get = self._workspace.get_shared_data
        task = CollaborationTask(
            task=await get(TASK, getter=self._me),
            context=await get(CONTEXT, getter=self._me),
            workspace=self._workspace,
            agent_id=self._me,
            invited_by=self._invitation.initiator,
            collaborators=self._invitation.collaborators,
            deadline=instant(self._invitation.deadline),
            attempt=self._attempt,
            _clock=self._clock,
        )
        try:
            result = await self._call(function, task)
        except RetryLater:
            raise
        except Reject as no:
            await self._write_down(ContributionStatus.DECLINED, reason=no.reason)
        except Exception as error:  # noqa: BLE001 - whatever it is, who asked has to know
            await self._failed(error)
        else:
            await self._done(result)

    async def _call(self, function: TaskFunction, task: CollaborationTask) -> Any:
        """Call the function, until time is over; what it asks others inherits that."""
        token = HANDLING.set(Handling(path_so_far(), self._invitation.deadline))
        until = self._clock.monotonic() + task.remaining()
        try:
            async with Deadline(self._clock, until):
                result = function(task)
                return await result if inspect.isawaitable(result) else result
        finally:
            HANDLING.reset(token)

    async def _failed(self, error: Exception) -> None:
        logger.error("agent %r failed in %r", self._me, self._workspace.workspace_id, exc_info=error)
        if self._clock.time() < self._invitation.deadline:  # else it is unfinished, as all that was not done by then
            await self._write_down(ContributionStatus.FAILED, reason=text_of(error), error=type(error).__name__)

    async def _done(self, result: object) -> None:
        try:
            await self._write_down(ContributionStatus.DONE, result=result)
        except InvalidInputError as error:  # it cannot be stored
            await self._failed(error)

    async def _write_down(
        self, status: ContributionStatus, *, result: object = None, reason: str = "", error: str = ""
    ) -> None:
        """Write the contribution, unless there is one. Raises KeyExistsError then; WorkspaceError when it is late."""
        report = Report(
            status=status,
            started=self._started,
            finished=self._clock.time(),
            result=result,
            reason=encodable(reason[:MAX_DETAIL]),
            error=error,
        )
        await self._workspace.set_shared_data(CONTRIBUTION + self._me, report, setter=self._me, expected_version=0)
