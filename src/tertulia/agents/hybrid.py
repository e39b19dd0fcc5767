"""An agent that uses memory and messages under one name, and works with others on a task."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from tertulia.agents.memory_aware import MemoryAwareAgent
from tertulia.agents.message_passing import MessagePassingAgent
from tertulia.engines.base import DEFAULT_LEASE
from tertulia.errors import InvalidInputError
from tertulia.messaging.types import type_headers
from tertulia.patterns._collaborating import DEFAULT_TIMEOUT, Collaborating, Terms
from tertulia.patterns._taking_part import take_part
from tertulia.patterns.cached_calls import COMPUTE_TIMEOUT, INVALIDATION, REQUEST_TIMEOUT
from tertulia.patterns.caching import DEFAULT_TTL
from tertulia.patterns.collaboration import INVITATION, Afterwards, Collaboration, Invitation, TaskFunction
from tertulia.patterns.hybrid import HybridCommunicationSystem
from tertulia.patterns.notifying import Notified
from tertulia.patterns.presence import DEFAULT_PRESENCE
from tertulia.records import Message, WhenFull

F = TypeVar("F", bound=TaskFunction)


class HybridAgent(MemoryAwareAgent, MessagePassingAgent):
    """An agent with a state, results, a mailbox and handlers: `async with HybridAgent(name, system) as agent`.

    It has all that MemoryAwareAgent and MessagePassingAgent have, and the calls of its system made in its name. While
    it is started it also takes part in collaborations that others invite it to, with the function that `on_task`
    registered, and takes cached keys back when it is told to by a message of type "cache_invalidate".
    """

    def __init__(
        self,
        agent_id: str,
        system: HybridCommunicationSystem,
        *,
        concurrency: int = 1,
        lease: float = DEFAULT_LEASE,
        max_queue_size: int = 1000,
        when_full: WhenFull = WhenFull.REJECT,
        max_attempts: int = 5,
        ordered: bool = False,
    ) -> None:
        if not isinstance(system, HybridCommunicationSystem):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInputError(
                f"a HybridAgent is made with a HybridCommunicationSystem(space), not with {reprlib.repr(system)}"
            )
        MemoryAwareAgent.__init__(self, agent_id, system.memory)
        MessagePassingAgent.__init__(
            self,
            agent_id,
            system.broker,
            concurrency=concurrency,
            lease=lease,
            max_queue_size=max_queue_size,
            when_full=when_full,
            max_attempts=max_attempts,
            ordered=ordered,
        )
        self.system = system
        self._task_function: TaskFunction | None = None
        self.on_message(INVITATION, content_type=Invitation)(self._take_part)
        self.on_message(INVALIDATION)(system.on_invalidation)

    # --- memory and messages at once ---

    async def write_and_notify(
        self,
        key: str,
        value: object,
        *,
        notify: Iterable[str] = (),
        topic: str | None = None,
        expected_version: int | None = None,
        include_value: bool = False,
        ttl: float | None = None,
        tags: Iterable[str] = (),
    ) -> Notified:
        """Write a key and tell agents of it, in one commit; see HybridCommunicationSystem.write_and_notify."""
        return await self.system.write_and_notify(
            self.agent_id,
            key,
            value,
            notify=notify,
            topic=topic,
            expected_version=expected_version,
            include_value=include_value,
            ttl=ttl,
            tags=tags,
        )

    async def get_or_compute(
        self,
        key: str,
        function: Callable[[], Any],
        *,
        ttl: float | None = DEFAULT_TTL,
        stale_while_revalidate: float = 0.0,
        negative_ttl: float | None = None,
        tags: Iterable[str] = (),
        timeout: float | None = COMPUTE_TIMEOUT,
        type: Any = None,
    ) -> Any:
        """Return a cached value, or compute it; see HybridCommunicationSystem.get_or_compute."""
        return await self.system.get_or_compute(
            key,
            function,
            agent=self.agent_id,
            ttl=ttl,
            stale_while_revalidate=stale_while_revalidate,
            negative_ttl=negative_ttl,
            tags=tags,
            timeout=timeout,
            type=type,
        )

    async def request_with_cache(
        self,
        receiver: str,
        content: object,
        *,
        key: str | None = None,
        ttl: float | None = DEFAULT_TTL,
        stale_while_revalidate: float = 0.0,
        negative_ttl: float | None = None,
        tags: Iterable[str] = (),
        timeout: float = REQUEST_TIMEOUT,
        type: Any = None,
    ) -> Any:
        """Ask an agent, or return its cached answer; see HybridCommunicationSystem.request_with_cache."""
        return await self.system.request_with_cache(
            self.agent_id,
            receiver,
            content,
            key=key,
            ttl=ttl,
            stale_while_revalidate=stale_while_revalidate,
            negative_ttl=negative_ttl,
            tags=tags,
            timeout=timeout,
            headers=type_headers(content),
            type=type,
        )

    # --- collaborating ---

    def on_task(self, function: F) -> F:
        """Register the decorated function, plain or async, for the tasks that others invite this agent to.

        It gets a CollaborationTask, and what it returns is this agent's contribution. Raising Reject declines, with a
        reason; RetryLater has it called again later; any other exception is logged, and told to who asked. The
        function is called again, maybe in another process, when its process dies before the contribution is written
        down, so at least once; of its contributions the first counts. It is cancelled when time is over.
        """
        if not callable(function):
            raise InvalidInputError(f"a function for tasks is called with the task: {reprlib.repr(function)} cannot be")
        if self._task_function is not None:
            raise InvalidInputError(f"{self.agent_id!r} has a function for tasks already")
        self._task_function = function
        return function

    async def collaborate(
        self,
        task: object,
        collaborators: Iterable[str],
        shared_context: object = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        takeover: float = 0.0,
        presence_lease: float = DEFAULT_PRESENCE,
        afterwards: Afterwards = Afterwards.ARCHIVE,
    ) -> Collaboration:
        """Have agents work on a task together, and return who did what, when, how long it took, and what failed.

        Opens a workspace with the task and the context, and invites all of them in one commit. Each that is a started
        HybridAgent, in any process, joins the workspace, and its `on_task` function contributes. Waits until everybody
        has contributed, declined or failed, and for `timeout` seconds at most, within a handler no longer than the
        request that it handles. One whose process died or was stopped is given up when its presence runs out, after
        `presence_lease` seconds, and `takeover` seconds more in which another process of the same agent may take its
        part over; while others are waited for, it may still come back.

        That somebody contributed nothing is no error: see `Collaboration.complete` and `raise_for_missing`. What comes
        too late is refused. The workspace is then archived, removed, or left open, as `afterwards` says.

        Raises, before anything has begun, UnknownAgentError for who is not registered; InvalidInputError for nobody,
        one twice, or this agent itself; EncodeError, ValueTooLargeError; MailboxFullError when an invitation cannot be
        delivered.

        Cancellation: the workspace is removed, and what is still contributed is refused. If this process dies, or
        is stopped for long, the workspace is abandoned when `presence_lease` has passed and half of it more: what is
        still contributed is refused with WorkspaceAbandonedError, and those who were members can read and remove it.
        One that was to be left open stays open all the same.
        """
        terms = Terms(timeout=timeout, takeover=takeover, presence_lease=presence_lease, afterwards=afterwards)
        return await Collaborating(self.system.space, self.agent_id, collaborators, terms).run(task, shared_context)

    async def _take_part(self, message: Message) -> None:
        await take_part(self.system.space, self.agent_id, message, self._task_function)
