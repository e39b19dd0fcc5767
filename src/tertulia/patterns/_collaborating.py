"""Asking agents to work on a task together.

The invitations are one commit, so either all are invited or nobody is. Who takes part joins the workspace, works, and
writes down one contribution, the first of each agent being the one that counts. Whoever asked waits for them by a
watch, and looks after those whose presence has run out as often as presence is renewed.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from tertulia._arguments import check_seconds
from tertulia._background import logger
from tertulia._clock import instant
from tertulia._names import check_name
from tertulia._rules.deadlines import request_deadline
from tertulia.errors import (
    EngineError,
    InvalidInputError,
    NotAMemberError,
    SpaceClosedError,
    TertuliaError,
    UnknownAgentError,
    WatchLaggedError,
    WorkspaceArchivedError,
    WorkspaceError,
)
from tertulia.messaging.context import HANDLING
from tertulia.patterns._deadline import Deadline
from tertulia.patterns.collaboration import (
    CONTEXT,
    CONTRIBUTION,
    STARTED,
    TASK,
    Afterwards,
    Collaboration,
    Contribution,
    ContributionStatus,
    Invitation,
    Report,
)
from tertulia.patterns.presence import DEFAULT_PRESENCE, RENEW_AT
from tertulia.patterns.workspace import CollaborativeWorkspace
from tertulia.records import Message, new_id
from tertulia.space import Space

DEFAULT_TIMEOUT = 300.0  # seconds: several answers of a model, and their retries
MAX_COLLABORATORS = 100  # a team; more are better asked through a topic


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """How a collaboration goes; see HybridAgent.collaborate."""

    timeout: float = DEFAULT_TIMEOUT
    takeover: float = 0.0
    presence_lease: float = DEFAULT_PRESENCE
    afterwards: Afterwards = Afterwards.ARCHIVE

    def __post_init__(self) -> None:
        check_seconds("timeout", self.timeout)
        check_seconds("takeover", self.takeover, zero=True)
        check_seconds("presence_lease", self.presence_lease)
        if not isinstance(self.afterwards, Afterwards):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(f"afterwards must be an Afterwards, not {reprlib.repr(self.afterwards)}")


def check_collaborators(initiator: str, collaborators: Iterable[str]) -> tuple[str, ...]:
    """Return the names, or raise InvalidInputError for none, too many, one twice, or the initiator itself."""
    if isinstance(collaborators, str) or not isinstance(collaborators, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidInputError(f"collaborators are several agents, not {reprlib.repr(collaborators)}")
    names = tuple(check_name(name) for name in collaborators)
    if not names:
        raise InvalidInputError("there is nobody to collaborate with")
    if len(names) > MAX_COLLABORATORS:
        raise InvalidInputError(f"a collaboration takes at most {MAX_COLLABORATORS} agents, not {len(names)}")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidInputError(f"invited more than once: {', '.join(map(repr, twice))}")
    if initiator in names:
        raise InvalidInputError(f"{initiator!r} cannot invite itself: it takes part by calling")
    return names


class Collaborating:
    """One collaboration, from the side of the agent that asks for it. Used once: `run`."""

    def __init__(self, space: Space, initiator: str, collaborators: Iterable[str], terms: Terms) -> None:
        self._space = space
        self._clock = space.clock
        self._me = initiator
        self._names = check_collaborators(initiator, collaborators)
        self._terms = terms
        self._workspace = CollaborativeWorkspace(
            f"collaboration-{new_id()}",
            space,
            presence_lease=terms.presence_lease,
            owner=None if terms.afterwards is Afterwards.KEEP else initiator,
        )
        self._gone: dict[str, float] = {}  # since when (monotonic) those who had begun are not there
        self._parts: dict[str, Contribution] = {}

    async def run(self, task: object, context: object) -> Collaboration:
        """Invite, wait, collect, and close the workspace, however it ends."""
        known = {info.agent_id for info in await self._space.agents()}
        for name in self._names:
            if name not in known:
                raise UnknownAgentError(name)
        started, handling = self._clock.time(), HANDLING.get()
        inherited = None if handling is None else handling.deadline
        deadline = request_deadline(started, self._terms.timeout, inherited)
        until = self._clock.monotonic() + (deadline - started)
        workspace = self._workspace
        try:
            await workspace.join(self._me)
            await workspace.set_shared_data(TASK, task, setter=self._me)
            await workspace.set_shared_data(CONTEXT, context, setter=self._me)
            await self._invite(deadline)
            await self._wait(until)
            await self._close()
        except BaseException:
            await self._abandon()
            raise
        return Collaboration(
            workspace_id=workspace.workspace_id,
            task=task,
            initiator=self._me,
            contributions=tuple(self._part_of(name) for name in self._names),
            started_at=instant(started),
            finished_at=instant(self._clock.time()),
            afterwards=self._terms.afterwards,
        )

    async def _invite(self, deadline: float) -> None:
        """Send every invitation, in one commit."""
        invitation = Invitation(
            workspace_id=self._workspace.workspace_id,
            initiator=self._me,
            collaborators=self._names,
            deadline=deadline,
            presence_lease=self._terms.presence_lease,
        )
        content = msgspec.to_builtins(invitation)
        async with self._space.transaction() as transaction:
            for name in self._names:
                message = Message(
                    sender=self._me,
                    receiver=name,
                    content=content,
                    sent=self._clock.time(),
                    expires=deadline,
                    correlation_id=invitation.workspace_id,
                )
                transaction.send(message)

    async def _wait(self, until: float) -> None:
        """Wait until nobody's part is open any more, or time is over."""
        try:
            async with Deadline(self._clock, until):
                while not await self._watch():
                    pass
        except TimeoutError as late:
            if isinstance(late, TertuliaError):  # not the deadline's
                raise

    async def _watch(self) -> bool:
        """Wait by one watch; return False when it has to be made anew."""
        workspace, lease = self._workspace, self._terms.presence_lease
        try:
            await workspace.join(self._me, create=False)  # again, if this process was stopped for too long
            async with workspace.watch(getter=self._me) as changes:
                while not await self._look():
                    tick = self._clock.monotonic() + lease * RENEW_AT
                    with suppress(TimeoutError):
                        async with Deadline(self._clock, tick):
                            await anext(changes)
        except (WatchLaggedError, NotAMemberError):
            return False
        except WorkspaceError:  # somebody else has closed it
            return True
        except StopAsyncIteration:
            raise SpaceClosedError from None
        return True

    async def _look(self) -> bool:
        """See who has contributed, begun or gone; return whether nobody is to be waited for.

        Raises NotAMemberError, WorkspaceError when the initiator is not there itself.
        """
        await self._read_parts()
        there = set(await self._workspace.participants())
        if self._me not in there:
            raise NotAMemberError(self._me, "wait in", self._workspace.workspace_id, "it is not there")
        now = self._clock.monotonic()
        open_parts = False
        for name in self._names:
            part = self._parts.get(name)
            if part is not None and part.finished_at is not None:
                continue
            if part is None or name in there:
                self._gone.pop(name, None)
                open_parts = True
            elif now - self._gone.setdefault(name, now) < self._terms.takeover:
                open_parts = True
        return not open_parts

    async def _read_parts(self) -> None:
        """Read what is written down of the parts that are not finished yet."""
        get = self._workspace.get_shared_data
        for name in self._names:
            part = self._parts.get(name)
            if part is not None and part.finished_at is not None:
                continue
            report = await get(CONTRIBUTION + name, getter=self._me, type=Report)
            if report is not None:
                self._parts[name] = Contribution(
                    agent_id=name,
                    status=report.status,
                    result=report.result,
                    reason=report.reason,
                    error=report.error,
                    started_at=instant(report.started),
                    finished_at=instant(report.finished),
                )
            elif part is None and (began := await get(STARTED + name, getter=self._me)) is not None:
                self._parts[name] = Contribution(
                    agent_id=name, status=ContributionStatus.UNFINISHED, started_at=instant(began)
                )

    def _part_of(self, name: str) -> Contribution:
        part = self._parts.get(name)
        if part is None:
            return Contribution(agent_id=name, status=ContributionStatus.SILENT)
        if part.finished_at is None and name in self._gone:
            return msgspec.structs.replace(part, status=ContributionStatus.VANISHED)
        return part

    async def _close(self) -> None:
        """Close the workspace to what comes too late, read what came in time, and remove it if asked for."""
        workspace, afterwards = self._workspace, self._terms.afterwards
        try:
            if afterwards is not Afterwards.KEEP:
                await workspace.archive(self._me)
            await self._read_parts()
            if afterwards is Afterwards.REMOVE:
                await workspace.remove(self._me)
        except WorkspaceError as closed:
            logger.info("workspace %r was closed by somebody else: %s", workspace.workspace_id, closed)

    async def _abandon(self) -> None:
        """Remove the workspace of a collaboration that did not come about, so that nobody works for it in vain."""
        try:
            with suppress(WorkspaceArchivedError, EngineError):
                await self._workspace.join(self._me)  # what was cancelled half-way has happened by now, or never will
            await self._workspace.remove(self._me)
        except TertuliaError as error:
            logger.info("workspace %r could not be removed: %s", self._workspace.workspace_id, error)
