"""What the other processes of the router's tests do: `python -m tests.patterns.router_workers ROLE URL`."""

import asyncio
import sys

import tertulia
from tertulia import DeliveryTransaction, Message, MessagePassingAgent
from tests.file.workers import say

LEASE = 2.0  # seconds; what a killed process had in hand comes back soon


async def handle(url: str) -> None:
    """Be one of the processes of an agent that notes each message it handles, with the length of what it was sent."""
    async with tertulia.connect(url) as space:
        agent = MessagePassingAgent("reader", space.broker, lease=LEASE, max_attempts=1_000)

        @agent.on_message("default")
        async def note(message: Message, transaction: DeliveryTransaction) -> None:
            transaction.create(f"done:{message.id}", len(message.content["text"]), owner="reader")

        async with agent:
            say("ready")
            await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run({"handle": handle}[sys.argv[1]](*sys.argv[2:]))
