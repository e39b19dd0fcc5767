"""Streams of events: one agent takes in what all others produce, each producer's events in their order.

A unit of work is one event, from when its producer began to hand it over until the consumer has done its work on it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tertulia.agents.message_passing import MessagePassingAgent
from tertulia.compare.use_cases.stage import LEASE, PACE, Judged, Outcome, Stage, Team, text_of
from tertulia.errors import WatchLaggedError
from tertulia.records import MemoryEntry, Message, WhenFull
from tertulia.selection.requirement import Paradigm

__all__ = ["TEAMS", "judge"]

CONSUMER = "consumer"
EVENT, EVENTS = "event:{}:{:09}", "event:*"
DISORDER = "out of order"
Event = dict[str, Any]


def _event(stage: Stage, number: int) -> Event:
    return {"from": stage.agent, "number": number, "at": stage.now(), "body": text_of(stage.setting.payload)}


async def judge(outcome: Outcome) -> Judged:
    """Count the events that never arrived, and those that were worked on more than once."""
    setting = outcome.setting
    return outcome.ledgered(
        {f"agent-{producer}:{number}" for producer in range(1, setting.agents) for number in range(setting.rounds)}
    )


class _Consumer:
    """What consuming is, however the events come."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._last: dict[str, int] = {}

    def consume(self, event: Event) -> None:
        """Work on an event, and note if it comes after a later one of the same producer."""
        producer, number = event["from"], event["number"]
        self._stage.effect(f"{producer}:{number}")
        self._stage.sample(event["at"])
        if number < self._last.get(producer, -1):
            self._stage.count(DISORDER)
        self._last[producer] = number


async def _let_it_arrive(stage: Stage) -> None:
    """Where latency is measured: let the others have their turn, and the space come to rest, before the next event."""
    if stage.setting.paced:
        await asyncio.sleep(PACE * (stage.setting.agents - 1))


# --- through messages ----------------------------------------------------------------------------


async def _consume_messages(stage: Stage) -> None:
    consumer = _Consumer(stage)
    agent = MessagePassingAgent(CONSUMER, stage.space.broker, lease=LEASE, when_full=WhenFull.WAIT)

    @agent.on_message("default")
    def take(message: Message) -> None:
        consumer.consume(message.content)

    async def drained() -> bool:
        queue = stage.space.broker.queue(CONSUMER)
        return await queue.size() + await queue.get_pending_count() == 0

    async with agent:
        await stage.ready()
        await stage.serve(asyncio.Event().wait(), drained)


async def _produce_messages(stage: Stage) -> None:
    agent = MessagePassingAgent(stage.agent, stage.space.broker)
    await stage.ready()
    for number in range(stage.setting.rounds):
        await agent.send(CONSUMER, _event(stage, number))
        await _let_it_arrive(stage)


# --- through memory: a key for each event, which goes when its work is done ----------------------


async def _consume_keys(stage: Stage) -> None:
    async def drained() -> bool:
        return not await stage.space.memory.list_keys(EVENTS)

    await stage.ready()
    await stage.serve(_consume_as_they_come(stage), drained)


async def _consume_as_they_come(stage: Stage) -> None:
    memory, consumer = stage.space.memory, _Consumer(stage)
    seen = 0
    while True:
        async with memory.watch(EVENTS) as changes:
            waiting = sorted([entry async for entry in memory.entries(EVENTS)], key=lambda entry: entry.revision)
            try:
                for entry in waiting:
                    seen = await _consume_key(stage, consumer, entry, seen)
                async for change in changes:
                    if change.entry is not None:
                        seen = await _consume_key(stage, consumer, change.entry, seen)
            except WatchLaggedError:
                stage.count("lagged")  # look at what there is, and go on from there


async def _consume_key(stage: Stage, consumer: _Consumer, entry: MemoryEntry, seen: int) -> int:
    """Work on an event unless it was seen before; return the latest revision seen."""
    if entry.revision <= seen:
        return seen
    consumer.consume(entry.value)
    await stage.space.memory.delete(entry.key, requester=CONSUMER)
    return entry.revision


async def _produce_keys(stage: Stage) -> None:
    await stage.ready()
    for number in range(stage.setting.rounds):
        key = EVENT.format(stage.agent, number)
        await stage.space.memory.write(key, _event(stage, number), owner=stage.agent)
        await _let_it_arrive(stage)


TEAMS = {
    Paradigm.MEMORY: Team(parts=(_consume_keys, _produce_keys), serves=True),
    Paradigm.MESSAGES: Team(parts=(_consume_messages, _produce_messages), serves=True),
}
