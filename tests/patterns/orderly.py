"""Random programs that cannot deadlock: everybody takes what it needs in one order, by itself or through others."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack

from tertulia import Election, Lock, Message, MessagePassingAgent, Semaphore, Space
from tertulia._clock import sleep

LEVELS = 6
AGENTS = 5
ROUNDS = 1


class Program:
    """Five agents that use six things, each in the order of their levels.

    A thing is a lock, a semaphore or an election; each has a helper that takes it for others who ask. A helper is
    always busy with its own thing only, so to ask it is a step of its level.
    """

    def __init__(self, number: int, spaces: list[Space], choice: random.Random) -> None:
        self.name = f"p{number}"
        self.spaces = spaces
        self.kinds = [choice.choice(("lock", "lock", "semaphore", "election")) for _ in range(LEVELS)]
        self.plans = [[self._plan(choice) for _ in range(ROUNDS)] for _ in range(AGENTS)]
        self.homes = [choice.choice(spaces) for _ in range(LEVELS + AGENTS)]
        self.done = 0

    def _plan(self, choice: random.Random) -> list[tuple[int, bool, float]]:
        """Return the levels that an agent goes through, whether it asks the helper, and how long it works there."""
        levels = sorted(choice.sample(range(LEVELS), choice.randint(1, LEVELS)))
        return [(level, choice.random() < 0.4, choice.choice((0.0, 0.0, 0.02, 0.3))) for level in levels]

    async def run(self) -> None:
        """Let all agents go through their plans; whatever goes wrong comes out of here."""
        async with AsyncExitStack() as stack:
            for level in range(LEVELS):
                await stack.enter_async_context(self._helper(level))
            async with asyncio.TaskGroup() as group:
                for number in range(AGENTS):
                    group.create_task(self._work(number))

    async def _work(self, number: int) -> None:
        space = self.homes[LEVELS + number]
        agent = MessagePassingAgent(f"{self.name}-agent{number}", space.broker)
        for plan in self.plans[number]:
            async with AsyncExitStack() as stack:
                for level, asks, pause in plan:
                    if asks:
                        await agent.request(self._helper_name(level), pause, timeout=1000)
                    else:
                        thing = self._thing(space, level)
                        await stack.enter_async_context(_held(thing, agent.agent_id))
                        await _pause(space, pause)
            self.done += 1

    def _helper(self, level: int) -> MessagePassingAgent:
        space = self.homes[level]
        helper = MessagePassingAgent(self._helper_name(level), space.broker)

        @helper.on_message("default")
        async def handle(message: Message) -> None:
            async with _held(self._thing(space, level), helper.agent_id):
                await _pause(space, message.content)

        return helper

    def _helper_name(self, level: int) -> str:
        return f"{self.name}-helper{level}"

    def _thing(self, space: Space, level: int) -> Lock | Semaphore | Election:
        name = f"{self.name}:{level}"
        kind = self.kinds[level]
        if kind == "lock":
            return Lock(space, name)
        return Semaphore(space, name, 2) if kind == "semaphore" else Election(space, name)


def _held(thing: Lock | Semaphore | Election, agent_id: str):  # noqa: ANN202 - a Hold, which has no public name
    if isinstance(thing, Election):
        return thing.lead(agent_id, lease=1000)
    return thing.hold(agent_id, lease=1000, timeout=None)


async def _pause(space: Space, seconds: float) -> None:
    if seconds:
        await sleep(space.clock, seconds)
