"""The blocking forms of the hybrid system and its agents; what they are given to call may be plain functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, TypeVar

from tertulia.agents import hybrid as agents
from tertulia.agents import memory_aware
from tertulia.blocking.agents import MessagePassingAgent
from tertulia.blocking.faces import Transaction
from tertulia.blocking.proxy import Proxy, adapt, blocks, hand_over, runs, stands_for
from tertulia.blocking.space import Space
from tertulia.engines.base import DEFAULT_LEASE
from tertulia.patterns import collaboration, hybrid
from tertulia.patterns.single_flight import DEFAULT_LEASE as COMPUTE_LEASE
from tertulia.records import WhenFull


@stands_for(hybrid.HybridCommunicationSystem)
class HybridCommunicationSystem(Proxy[hybrid.HybridCommunicationSystem]):
    """Memory and messages of a space used together; see tertulia.HybridCommunicationSystem.

    A function given to `get_or_compute` runs in the calling thread, which may block and use the space. It cannot be
    interrupted there: a timeout is told once it has returned.
    """

    def __init__(self, space: Space, *, lease: float = COMPUTE_LEASE) -> None:
        session, target = space.portal_parts()
        self.portal_bind(session, session.call(lambda _: hybrid.HybridCommunicationSystem(target, lease=lease)))

    register_agent = blocks(hybrid.HybridCommunicationSystem.register_agent)
    write_and_notify = blocks(hybrid.HybridCommunicationSystem.write_and_notify)
    delete_and_notify = blocks(hybrid.HybridCommunicationSystem.delete_and_notify)
    get_or_compute = blocks(hybrid.HybridCommunicationSystem.get_or_compute)
    request_with_cache = blocks(hybrid.HybridCommunicationSystem.request_with_cache)
    invalidate = blocks(hybrid.HybridCommunicationSystem.invalidate)
    request_invalidation = blocks(hybrid.HybridCommunicationSystem.request_invalidation)
    on_invalidation = blocks(hybrid.HybridCommunicationSystem.on_invalidation)
    cache_info = runs(hybrid.HybridCommunicationSystem.cache_info)

    def add_write_and_notify(  # noqa: PLR0913 - as the method that it stands for
        self,
        transaction: Transaction,
        agent: str,
        key: str,
        value: object,
        *,
        notify: Iterable[str] = (),
        topic: str | None = None,
        expected_version: int | None = None,
        include_value: bool = False,
        ttl: float | None = None,
        tags: Iterable[str] = (),
    ) -> str:
        """Make a write and its notices part of a transaction; return the notice's message id, "" for none."""
        return self.portal_call(
            "add_write_and_notify",
            transaction,
            agent,
            key,
            value,
            notify=notify,
            topic=topic,
            expected_version=expected_version,
            include_value=include_value,
            ttl=ttl,
            tags=tags,
        )


@stands_for(collaboration.CollaborationTask)
class CollaborationTask(Proxy[collaboration.CollaborationTask]):
    """What a collaborator's function is given; its workspace blocks. See tertulia.CollaborationTask."""

    @property
    def task(self) -> Any:
        """What to do."""
        return self._target.task

    @property
    def context(self) -> Any:
        """What to do it with."""
        return self._target.context

    @property
    def workspace(self) -> Any:
        """The workspace, whose calls wait for their outcomes."""
        return adapt(self._session, self._target.workspace)

    @property
    def agent_id(self) -> str:
        """Who is asked."""
        return self._target.agent_id

    @property
    def invited_by(self) -> str:
        """Who asks."""
        return self._target.invited_by

    @property
    def collaborators(self) -> tuple[str, ...]:
        """All who are asked."""
        return self._target.collaborators

    @property
    def deadline(self) -> datetime:
        """When time is over."""
        return self._target.deadline

    @property
    def attempt(self) -> int:
        """1 for the first time that the function is called."""
        return self._target.attempt

    remaining = runs(collaboration.CollaborationTask.remaining)


F = TypeVar("F", bound=Callable[[CollaborationTask], Any])


@stands_for(agents.HybridAgent)
class HybridAgent(MessagePassingAgent):
    """An agent with a state, results, a mailbox and handlers: `HybridAgent("name", system)`; see tertulia.HybridAgent.

    Its function for tasks, like its handlers, runs in a worker thread, where it may block.
    """

    _target: agents.HybridAgent  # pyright: ignore[reportIncompatibleVariableOverride]

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
        session, target = system.portal_parts()
        agent = session.call(
            lambda _: agents.HybridAgent(
                agent_id,
                target,
                concurrency=concurrency,
                lease=lease,
                max_queue_size=max_queue_size,
                when_full=when_full,
                max_attempts=max_attempts,
                ordered=ordered,
            )
        )
        self.portal_bind(session, agent)

    save_state = blocks(memory_aware.MemoryAwareAgent.save_state)
    load_state = blocks(memory_aware.MemoryAwareAgent.load_state)
    share_result = blocks(memory_aware.MemoryAwareAgent.share_result)
    get_shared_result = blocks(memory_aware.MemoryAwareAgent.get_shared_result)
    write_and_notify = blocks(agents.HybridAgent.write_and_notify)
    get_or_compute = blocks(agents.HybridAgent.get_or_compute)
    request_with_cache = blocks(agents.HybridAgent.request_with_cache)
    collaborate = blocks(agents.HybridAgent.collaborate)

    def on_task(self, function: F) -> F:
        """Register the decorated function for the tasks that others invite this agent to."""
        session, target = self._session, self._target
        handler = hand_over(session, None, function)
        session.call(lambda _: target.on_task(handler))
        return function
