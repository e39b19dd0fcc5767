"""A router carries recorded conversations, turn by turn, and says which channels it took, why, and what they cost.

Run it with `python examples/router_on_conversations.py [FOLDER [URL]]`: the folder holds chat logs as JSON or JSONL, by
default those in examples/conversations; the URL names the space, by default one within this process.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path

from tertulia import Channel, IntelligentRouter, Message, MessagePassingAgent, RouteDecision, Space, connect
from tertulia.compare.traces import Conversation, read_conversations

LIMIT = 60  # seconds for a conversation to arrive; it takes milliseconds
FOLDER = Path(__file__).parent / "conversations"


class Listener:
    """One agent of a conversation, that notes what it hears."""

    def __init__(self, name: str, space: Space) -> None:
        self.heard: list[str] = []
        self.has_heard = asyncio.Condition()
        self.agent = MessagePassingAgent(name, space.broker)

        @self.agent.on_message("default")
        async def hear(message: Message) -> None:
            self.heard.append(message.content)
            async with self.has_heard:
                self.has_heard.notify_all()

    async def until(self, count: int) -> None:
        async with self.has_heard:
            await asyncio.wait_for(self.has_heard.wait_for(lambda: len(self.heard) >= count), LIMIT)


async def play(conversation: Conversation, number: int, space: Space) -> list[RouteDecision]:
    """Route every turn to whom it is for, and see that each has heard what was said to it, in order."""
    router = IntelligentRouter(space)
    names = {name: f"agent-{number}-{place}" for place, name in enumerate(conversation.agents)}
    listeners = {name: Listener(names[name], space) for name in conversation.agents}
    expected: dict[str, list[str]] = {name: [] for name in conversation.agents}
    decisions: list[RouteDecision] = []
    for listener in listeners.values():
        await listener.agent.start()
    for turn in conversation.turns:
        if turn.to:
            result = await router.route(names[turn.speaker], [names[name] for name in turn.to], turn.content)
            decisions.append(result.decision)
            for name in turn.to:
                expected[name].append(turn.content)
    for name, listener in listeners.items():
        await listener.until(len(expected[name]))
        await listener.agent.stop()
        assert listener.heard == expected[name], f"{name} did not hear what was said"
    await router.save()
    return decisions


async def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    url = sys.argv[2] if len(sys.argv) > 2 else "memory:"  # noqa: PLR2004 - the second argument
    conversations = read_conversations(folder)
    decisions: list[RouteDecision] = []
    async with connect(url) as space:
        for number, conversation in enumerate(conversations):
            decisions += await play(conversation, number, space)
        router = IntelligentRouter(space)
        heard = sum(len(decision.receivers) for decision in decisions)
        print(f"{len(conversations)} conversations, {len(decisions)} turns, heard {heard} times, each as it was said")
        by = Counter(decision.channel for decision in decisions)
        print(", ".join(f"{by[channel]} by {channel}" for channel in (Channel.MESSAGE, Channel.POINTER)))
        dearest = max(decisions, key=lambda decision: decision.size * len(decision.receivers))
        print(router.explain(dearest))
        pinned = await router.route("agent-0-0", ["agent-0-1"], "as I say", {"channel": "pointer"})
        print(router.explain(pinned.decision).splitlines()[0])


if __name__ == "__main__":
    asyncio.run(main())
