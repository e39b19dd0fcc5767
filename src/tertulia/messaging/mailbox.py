"""Mailboxes: the queue of one agent, shared by all processes that act for it."""

from __future__ import annotations

from typing import Protocol

from tertulia.messaging.delivery import Delivery
from tertulia.records import MailboxStats, Message, QueuedMessage, Receipt


class Broker(Protocol):
    """The calls of a MessageBroker that name an agent."""

    async def send_to(self, agent_id: str, message: Message) -> Receipt:
        """Send the message to this agent."""
        ...

    async def receive(self, agent_id: str, *, timeout: float | None = None) -> Delivery | None:
        """Take the agent's next message."""
        ...

    async def acknowledge(self, agent_id: str, message_id: str) -> None:
        """Take a message out of the agent's mailbox."""
        ...

    async def peek(self, agent_id: str, *, limit: int = 100) -> list[QueuedMessage]:
        """Show the agent's messages."""
        ...

    async def mailbox_stats(self, agent_id: str) -> MailboxStats:
        """Return the figures of the agent's mailbox."""
        ...


class MessageQueue:
    """One agent's mailbox, as `broker.queue(agent_id)`: the broker's calls with the agent filled in.

    Every method but `acknowledge` raises UnknownAgentError when the agent is not registered.
    """

    def __init__(self, agent_id: str, broker: Broker) -> None:
        self.agent_id = agent_id
        self._broker = broker

    async def enqueue(self, message: Message) -> Receipt:
        """Store the message in this mailbox, whoever it names as receiver. See MessageBroker.send."""
        return await self._broker.send_to(self.agent_id, message)

    async def dequeue(self, *, timeout: float | None = None) -> Delivery | None:
        """Take the next message under a lease; see MessageBroker.receive."""
        return await self._broker.receive(self.agent_id, timeout=timeout)

    async def acknowledge(self, message_id: str) -> None:
        """Take a message out for good. Raises AlreadySettledError when it is not there."""
        await self._broker.acknowledge(self.agent_id, message_id)

    async def peek(self, *, limit: int = 100) -> list[QueuedMessage]:
        """Show the messages, oldest first, without taking them; see MessageBroker.peek."""
        return await self._broker.peek(self.agent_id, limit=limit)

    async def size(self) -> int:
        """Return how many messages wait to be delivered, delayed ones included."""
        stats = await self._broker.mailbox_stats(self.agent_id)
        return stats.waiting + stats.delayed

    async def get_pending_count(self) -> int:
        """Return how many messages are with a consumer that has not settled them yet."""
        return (await self._broker.mailbox_stats(self.agent_id)).pending
