"""The blocking forms of agents; their handlers may be plain functions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, TypeVar

from tertulia.agents import memory_aware, message_passing
from tertulia.agents.handlers import Function as HandlerFunction
from tertulia.blocking.faces import MessageBroker, SharedMemory
from tertulia.blocking.portal import Session
from tertulia.blocking.proxy import Entered, Proxy, blocks, hand_over, iterates, stands_for
from tertulia.engines.base import DEFAULT_LEASE
from tertulia.errors import SpaceClosedError
from tertulia.records import WhenFull

F = TypeVar("F", bound=HandlerFunction)

# The agent whose handler runs here: set where its tasks are started, which hand it on to their worker threads.
_AGENT: ContextVar[message_passing.MessagePassingAgent | None] = ContextVar("tertulia_blocking_agent", default=None)


@stands_for(memory_aware.MemoryAwareAgent)
class MemoryAwareAgent(Proxy[memory_aware.MemoryAwareAgent]):
    """An agent with a state of its own in the memory; see tertulia.MemoryAwareAgent."""

    def __init__(self, agent_id: str, memory: SharedMemory) -> None:
        session, target = memory.portal_parts()
        self.portal_bind(session, session.call(lambda _: memory_aware.MemoryAwareAgent(agent_id, target)))

    @property
    def agent_id(self) -> str:
        """The agent's name."""
        return self._target.agent_id

    save_state = blocks(memory_aware.MemoryAwareAgent.save_state)
    load_state = blocks(memory_aware.MemoryAwareAgent.load_state)
    share_result = blocks(memory_aware.MemoryAwareAgent.share_result)
    get_shared_result = blocks(memory_aware.MemoryAwareAgent.get_shared_result)


@stands_for(message_passing.MessagePassingAgent)
class MessagePassingAgent(Entered[message_passing.MessagePassingAgent]):
    """An agent with a mailbox: `agent = MessagePassingAgent("name", space.broker)`; see tertulia.MessagePassingAgent.

    Register handlers first; then `with agent:` lets them run while the block does, and `agent.run()` until somebody
    stops the agent. A plain handler runs in a worker thread, where it may block and use this space, this agent too; a
    plain generator's parts are streamed. An `async def` handler runs on the portal's thread, where it may not block.

    A plain handler cannot be interrupted. When `stop` has no more patience, or the space closes, its message is given
    back while the function runs on: what it returns is dropped, and once the space is closed its calls raise
    SpaceClosedError.
    """

    _ends_with_space = True

    def __init__(
        self,
        agent_id: str,
        broker: MessageBroker,
        *,
        concurrency: int = 1,
        lease: float = DEFAULT_LEASE,
        max_queue_size: int = 1000,
        when_full: WhenFull = WhenFull.REJECT,
        max_attempts: int = 5,
        ordered: bool = False,
    ) -> None:
        session, target = broker.portal_parts()
        make = message_passing.MessagePassingAgent
        agent = session.call(
            lambda _: make(
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

    def portal_bind(self, session: Session, target: message_passing.MessagePassingAgent) -> None:
        """Make this the proxy of an agent."""
        super().portal_bind(session, target)
        self._stopped = asyncio.Event()

    @property
    def agent_id(self) -> str:
        """The agent's name."""
        return self._target.agent_id

    send = blocks(message_passing.MessagePassingAgent.send)
    publish = blocks(message_passing.MessagePassingAgent.publish)
    request = blocks(message_passing.MessagePassingAgent.request)
    request_stream = iterates(message_passing.MessagePassingAgent.request_stream)
    reply = blocks(message_passing.MessagePassingAgent.reply)
    subscribe = blocks(message_passing.MessagePassingAgent.subscribe)
    unsubscribe = blocks(message_passing.MessagePassingAgent.unsubscribe)

    def on_message(self, message_type: str | type, *, content_type: Any = None) -> Callable[[F], F]:
        """Register the decorated function for messages of a type; see tertulia.MessagePassingAgent.on_message."""

        def register(function: F) -> F:
            session, target = self._session, self._target
            handler = hand_over(session, None, function)
            session.call(lambda _: target.on_message(message_type, content_type=content_type)(handler))
            return function

        return register

    def start(self) -> None:
        """Register the mailbox and handle messages in the background until `stop`, or the space closes."""
        self._session.call(lambda _: self._start())

    def stop(self, *, grace: float = message_passing.STOP_GRACE) -> None:
        """Take no more messages, and let running handlers finish for up to `grace` seconds.

        Called by one of the agent's own handlers it does not wait, since it would wait for its caller.
        """
        own = _AGENT.get() is self._target
        self._session.call(lambda _: self._stop_beside(grace) if own else self._stop(grace))

    def run(self) -> None:
        """Handle messages until another thread, or a handler, calls `stop`, or the space closes; then return.

        KeyboardInterrupt stops the agent, as `stop` does, and goes on.
        """
        try:
            self.start()
            with suppress(SpaceClosedError):
                self._session.call(lambda _: self._stopped.wait())
        finally:
            self.__exit__()

    def __enter__(self) -> MessagePassingAgent:  # noqa: PYI034 - not meant to be subclassed
        self._session.call(lambda _: self._start(), lambda _: self._stop(0.0))
        return self

    def __exit__(self, *_: object) -> bool:
        with suppress(SpaceClosedError):
            self.stop()
        return False

    async def _start(self) -> None:
        self._stopped.clear()
        _AGENT.set(self._target)
        await self._target.start()

    async def _stop(self, grace: float) -> None:
        try:
            await self._target.stop(grace=grace)
        finally:
            self._stopped.set()

    def _stop_beside(self, grace: float) -> None:
        self._target.broker.background.start(self._stop(grace), f"tertulia stop of {self.agent_id}")
