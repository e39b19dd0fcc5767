"""Replays recorded conversations: each recorded agent is a real one, and says through a space what it said then.

Through messages, a turn goes to the mailboxes of those it is for. Through memory, there is one transcript, as in a
group chat: a turn is a key in it, and all who watch it read it, whoever it is for. Either way an agent speaks when it
has heard everything that it had heard before it spoke in the recording.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from statistics import median
from time import perf_counter
from typing import Any

import msgspec
from msgspec import Struct

from tertulia.compare.gathering import all_ready, be_ready, say_go
from tertulia.compare.measuring import Meter
from tertulia.compare.traces import Conversation
from tertulia.compare.workers import Workers
from tertulia.records import DeliveryMode, Message
from tertulia.selection.requirement import Paradigm
from tertulia.space import Space, connect

__all__ = ["REPLAYS", "NotDeliveredOnceError", "Replayed", "play_encoded", "replay"]

PLAY = f"{__name__}:play_encoded"

TURN, TURNS = "turn:{:06}", "turn:*"
PATIENCE = 60.0  # seconds for a whole conversation; they take a fraction of one


class Replayed(Struct, frozen=True, kw_only=True):
    """One conversation through one paradigm. Latencies are in seconds, from when a turn was said until it was heard.

    `bytes_read` is by agent: what it had to take in to hear what was for it. Of several runs they are medians, and
    `p50_spread` has the quartiles.
    """

    conversation: str
    paradigm: Paradigm
    agents: int
    turns: int
    deliveries: int
    seconds: float
    p50: float
    bytes_written: int
    bytes_read: dict[str, int]
    engine: str = ""
    agents_as: str = ""
    p50_spread: tuple[float, float] | None = None


class NotDeliveredOnceError(Exception):
    """A turn did not reach everybody it was for exactly once and unchanged; `wrong` says which, to whom, how often."""

    def __init__(self, conversation: str, paradigm: Paradigm, wrong: Sequence[str]) -> None:
        super().__init__(f"{conversation} through {paradigm.value}: {'; '.join(wrong[:5])} ({len(wrong)} in all)")
        self.wrong = tuple(wrong)


class _Notes(Struct, frozen=True):
    """What one agent noted down: the turns it heard, with a digest of each as it came, and when."""

    heard: list[tuple[int, bytes]]
    latencies: list[float]
    began: float
    ended: float
    bytes_written: int
    bytes_read: int


class _Task(Struct, frozen=True):
    """What an agent in a process of its own is told."""

    url: str
    conversation: Conversation
    paradigm: Paradigm
    agent: str


async def replay(
    url: str, conversation: Conversation, paradigm: Paradigm, *, workers: Workers | None = None
) -> Replayed:
    """Replay a conversation in a space that is empty, with agents as tasks, or each in one of those processes.

    Raises NotDeliveredOnceError; TimeoutError if it comes to no end; ExceptionGroup of what agents raise.
    """
    if not conversation.deliveries:
        raise NotDeliveredOnceError(conversation.name, paradigm, ["there is nobody to hear anything"])
    play = _in_this_process if workers is None else partial(_in_a_process, workers)
    async with await connect(url) as space, asyncio.timeout(PATIENCE):
        for agent in conversation.agents:  # nothing can be sent to a mailbox that is not there
            await space.broker.register_agent(_mailbox(conversation, agent), max_queue_size=len(conversation.turns) + 1)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(play(_Task(url, conversation, paradigm, agent))) for agent in conversation.agents
            ]
            await all_ready(space, len(tasks))
            await say_go(space)
    return _summed_up(conversation, paradigm, [task.result() for task in tasks])


def _summed_up(conversation: Conversation, paradigm: Paradigm, notes: Sequence[_Notes]) -> Replayed:
    _check_delivered_once(conversation, paradigm, notes)
    return Replayed(
        conversation=conversation.name,
        paradigm=paradigm,
        agents=len(conversation.agents),
        turns=len(conversation.turns),
        deliveries=conversation.deliveries,
        seconds=max(one.ended for one in notes) - min(one.began for one in notes),
        p50=median(latency for one in notes for latency in one.latencies),
        bytes_written=sum(one.bytes_written for one in notes),
        bytes_read={agent: one.bytes_read for agent, one in zip(conversation.agents, notes, strict=True)},
    )


def _check_delivered_once(conversation: Conversation, paradigm: Paradigm, notes: Sequence[_Notes]) -> None:
    wrong: list[str] = []
    for agent, one in zip(conversation.agents, notes, strict=True):
        heard = Counter(one.heard)
        for number, turn in enumerate(conversation.turns):
            times = heard.pop((number, _digest(turn.content)), 0)
            if times != (agent in turn.to):
                wrong.append(f"turn {number} came to {agent} {times} times")
        wrong += [f"something else came to {agent} as turn {number}" for number, _ in heard]
    if wrong:
        raise NotDeliveredOnceError(conversation.name, paradigm, wrong)


# --- One agent -----------------------------------------------------------------------------------


async def _in_this_process(task: _Task) -> _Notes:
    meter = Meter()
    async with meter.space(await connect(task.url), task.agent) as space:
        agent = _Agent(space, task.conversation, task.agent)
        await REPLAYS[task.paradigm](agent)
    figures = meter.agents[task.agent]
    return _Notes(
        agent.heard,
        list(agent.latencies),
        agent.began,
        perf_counter(),
        figures.bytes_written,
        figures.bytes_read,
    )


async def _in_a_process(workers: Workers, task: _Task) -> _Notes:
    answer = await workers.call(task.agent, PLAY, msgspec.msgpack.encode(task))
    if answer is None:
        raise RuntimeError(f"the process of {task.agent} was killed")
    return msgspec.msgpack.decode(answer, type=_Notes)


async def play_encoded(task: bytes) -> bytes:
    """Be an agent in this process; task and notes are as they go from one process to another."""
    return msgspec.msgpack.encode(await _in_this_process(msgspec.msgpack.decode(task, type=_Task)))


class _Agent:
    """What a recorded agent has to say, and what it has heard so far."""

    def __init__(self, space: Space, conversation: Conversation, name: str) -> None:
        self.space = space
        self.conversation = conversation
        self.name = name
        self.heard: list[tuple[int, bytes]] = []
        self.latencies = array("d")
        self.began = 0.0
        self.turns = conversation.turns
        self._expected = {number for number, turn in enumerate(self.turns) if name in turn.to}

    @property
    def mailbox(self) -> str:
        """The agent's own mailbox."""
        return _mailbox(self.conversation, self.name)

    async def play(
        self,
        say: Callable[[int, dict[str, Any]], Awaitable[None]],
        hear_next: Callable[[], Awaitable[None]],
    ) -> None:
        """Say each of its turns when everything before it has been heard, and hear the rest."""
        await be_ready(self.space, self.conversation.agents.index(self.name))
        self.began = perf_counter()
        for number, turn in enumerate(self.turns):
            if turn.speaker == self.name:
                await self._hear_all_before(number, hear_next)
                await say(number, {"turn": number, "at": perf_counter(), "content": turn.content})
        await self._hear_all_before(len(self.turns), hear_next)

    async def _hear_all_before(self, number: int, hear_next: Callable[[], Awaitable[None]]) -> None:
        while any(expected < number for expected in self._expected):
            await hear_next()

    def hear(self, said: dict[str, Any]) -> None:
        """Note down what was heard, as often as it comes."""
        self.heard.append((said["turn"], _digest(said["content"])))
        self.latencies.append(perf_counter() - said["at"])
        self._expected.discard(said["turn"])


async def _by_messages(agent: _Agent) -> None:
    broker, conversation = agent.space.broker, agent.conversation

    async def say(number: int, said: dict[str, Any]) -> None:
        async with agent.space.transaction() as turn:  # all of those it is for get it, or none
            for hearer in agent.turns[number].to:
                turn.send(
                    Message(
                        id=f"turn-{number}",
                        sender=agent.mailbox,
                        receiver=_mailbox(conversation, hearer),
                        content=said,
                        delivery_mode=DeliveryMode.EXACTLY_ONCE,
                    )
                )

    async def hear_next() -> None:
        delivery = await broker.receive(agent.mailbox)
        assert delivery is not None  # noqa: S101 - it waits for ever
        agent.hear(delivery.message.content)
        await delivery.acknowledge()

    await agent.play(say, hear_next)


async def _by_memory(agent: _Agent) -> None:
    memory, turns = agent.space.memory, agent.turns

    async def say(number: int, said: dict[str, Any]) -> None:
        await memory.create(TURN.format(number), said, owner=agent.mailbox)

    async with memory.watch(TURNS) as transcript:

        async def hear_next() -> None:
            said: dict[str, Any] = (await anext(transcript)).value
            number: int = said["turn"]
            if agent.name in turns[number].to:
                agent.hear(said)

        await agent.play(say, hear_next)


REPLAYS: Mapping[Paradigm, Callable[[_Agent], Awaitable[None]]] = {
    Paradigm.MEMORY: _by_memory,
    Paradigm.MESSAGES: _by_messages,
}


def _mailbox(conversation: Conversation, agent: str) -> str:
    """Return a name for a recorded agent that a space takes, whatever it is called in the recording."""
    return f"agent-{conversation.agents.index(agent)}"


def _digest(content: str) -> bytes:
    return blake2b(content.encode(errors="surrogatepass"), digest_size=16).digest()
