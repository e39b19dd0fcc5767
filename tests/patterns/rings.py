"""Random deadlocks, made on purpose: rings of agents, each of which holds something and waits for what the next holds.

A ring is closed only when everybody holds its own, so it deadlocks every time; and because each way of waiting is
known, so is the circle that has to be named.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from itertools import pairwise

from tertulia import Lock, Message, MessagePassingAgent, Semaphore, Space
from tertulia.errors import DeadlockError, RemoteError

WAYS = ("lock", "lock", "semaphore", "message", "relay", "busy")

Edge = tuple[str, str, str]  # agent, kind, name


class Ring:
    """One ring of 2 to 5 agents, in a space that has other rings in it too."""

    def __init__(self, number: int, spaces: list[Space], choice: random.Random) -> None:
        self.name = f"r{number}"
        self.size = choice.randint(2, 5)
        self.ways = [choice.choice(WAYS) for _ in range(self.size)]
        self.permits = choice.randint(1, 3)
        self.spaces = [choice.choice(spaces) for _ in range(self.size)]
        self.deadlocks: list[DeadlockError] = []
        self.finished: list[str] = []
        self.failed: list[str] = []
        self._closed = asyncio.Barrier(self.size)
        self._busy = [asyncio.Event() for _ in range(self.size)]

    async def run(self) -> None:
        """Let every agent hold its own, then wait for the next one's, until the ring was broken and all are done."""
        async with AsyncExitStack() as stack:
            for seat in range(self.size):
                for helper in self._helpers(seat):
                    await stack.enter_async_context(helper)
            async with asyncio.TaskGroup() as group:
                for seat in range(self.size):
                    group.create_task(self._sit(seat))

    def expected(self) -> list[Edge]:
        """Return the waits of the circle, beginning with the first agent's."""
        found: list[Edge] = []
        for seat, way in enumerate(self.ways):
            after = (seat + 1) % self.size
            kind = "semaphore" if self.ways[after] == "semaphore" else "lock"
            path = [self._agent(seat)]
            if way == "relay":
                path.append(self._agent(seat, "relay"))
            if way in ("message", "relay", "busy"):
                path.append(self._agent(seat, "helper"))
            found += [(asker, "request", asked) for asker, asked in pairwise(path)]
            found.append((path[-1], kind, self._thing(after)))
        return found

    # --- the agents ---

    async def _sit(self, seat: int) -> None:
        agent_id = self._agent(seat)
        try:
            async with AsyncExitStack() as stack:
                await self._hold_own(seat, agent_id, stack)
                await self._closed.wait()
                await self._want_next(seat, agent_id)
        except DeadlockError as deadlock:
            self.deadlocks.append(deadlock)
        except RemoteError as error:  # a helper was chosen to give way
            self.failed.append(error.kind)
        else:
            self.finished.append(agent_id)

    async def _hold_own(self, seat: int, agent_id: str, stack: AsyncExitStack) -> None:
        """Hold the agent's own lock, or every permit of its semaphore."""
        own = self._lock(seat, seat)
        for _ in range(self.permits if isinstance(own, Semaphore) else 1):
            await stack.enter_async_context(own.hold(agent_id, lease=1000))

    async def _want_next(self, seat: int, agent_id: str) -> None:
        way = self.ways[seat]
        after = self._lock(seat, (seat + 1) % self.size)
        if way in ("lock", "semaphore"):
            async with after.hold(agent_id, timeout=None):
                return
        agent = MessagePassingAgent(agent_id, self.spaces[seat].broker)
        if way == "busy":  # somebody who holds nothing keeps the helper busy, so that it never comes to the request
            busy = self._agent(seat, "helper")
            await MessagePassingAgent("passer-by", self.spaces[seat].broker).send(busy, "wait")
            await self._busy[seat].wait()
            assert await agent.request(busy, "nothing", timeout=1000) == "done"
        else:
            asked = "relay" if way == "relay" else "helper"
            assert await agent.request(self._agent(seat, asked), "wait", timeout=1000) == "done"

    def _helpers(self, seat: int) -> list[MessagePassingAgent]:
        way = self.ways[seat]
        helpers: list[MessagePassingAgent] = []
        if way in ("message", "relay", "busy"):
            helpers.append(self._helper(seat))
        if way == "relay":
            helpers.append(self._relay(seat))
        return helpers

    def _helper(self, seat: int) -> MessagePassingAgent:
        helper = MessagePassingAgent(self._agent(seat, "helper"), self.spaces[seat].broker)
        after = self._lock(seat, (seat + 1) % self.size)

        @helper.on_message("default")
        async def handle(message: Message) -> str:
            if message.content == "wait":
                self._busy[seat].set()
                try:
                    async with after.hold(helper.agent_id, timeout=None):
                        return "done"
                except DeadlockError as deadlock:
                    self.deadlocks.append(deadlock)
                    raise
            return "done"

        return helper

    def _relay(self, seat: int) -> MessagePassingAgent:
        relay = MessagePassingAgent(self._agent(seat, "relay"), self.spaces[(seat + 1) % self.size].broker)

        @relay.on_message("default")
        async def handle(message: Message) -> object:
            try:
                return await relay.request(self._agent(seat, "helper"), message.content, timeout=1000)
            except DeadlockError as deadlock:
                self.deadlocks.append(deadlock)
                raise

        return relay

    # --- names ---

    def _agent(self, seat: int, role: str = "agent") -> str:
        return f"{self.name}-{role}{seat}"

    def _thing(self, seat: int) -> str:
        return f"{self.name}:thing{seat}"

    def _lock(self, seat: int, whose: int) -> Lock | Semaphore:
        """Return what `whose` agent holds, as the agent at a seat sees it."""
        if self.ways[whose] == "semaphore":
            return Semaphore(self.spaces[seat], self._thing(whose), self.permits)
        return Lock(self.spaces[seat], self._thing(whose))
