"""Coordination: a team goes through phases, and nobody begins a phase before all have ended the one before.

A unit of work is one agent's passage: from its arrival at the end of a phase until it may begin the next one.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tertulia.agents.message_passing import MessagePassingAgent
from tertulia.compare.use_cases.stage import LEASE, PATIENCE, Judged, Outcome, Stage, Team, text_of
from tertulia.errors import ConflictError
from tertulia.records import Message
from tertulia.selection.requirement import Paradigm

__all__ = ["TEAMS", "judge"]

COORDINATOR, TOPIC = "coordinator", "phase.begins"
ARRIVED, PHASE, PLACE = "arrived:{}", "phase", "place:{}"
CONCURRENCY = 128  # all agents of the largest team wait with the coordinator at once
TOO_EARLY = "too early"


async def judge(outcome: Outcome) -> Judged:
    """Count the passages that nobody made, and those that were made twice."""
    setting = outcome.setting
    return outcome.ledgered(
        {f"agent-{agent}:{phase}" for agent in range(setting.agents) for phase in range(setting.rounds)}
    )


def _passed(stage: Stage, phase: int, began: float) -> None:
    stage.sample(began)
    stage.effect(f"{stage.agent}:{phase}")


def _note(stage: Stage, phase: int) -> dict[str, Any]:
    """Return what an agent leaves behind when it arrives: what it has done, of the payload's size."""
    return {"phase": phase, "body": text_of(stage.setting.payload)}


async def _phases_passed(stage: Stage) -> int:
    """Return how many phases this agent has passed, which is more than none for one that takes up another's work."""
    place = await stage.space.memory.read(PLACE.format(stage.agent), reader=stage.agent)
    return 0 if place is None else place["phase"] + 1


# --- through memory: who has arrived is a set under a key, and all watch the key of the phase ----


async def _arrive_in_memory(stage: Stage) -> None:
    memory, me = stage.space.memory, stage.agent
    async with memory.watch(PHASE) as changes:
        await stage.ready()
        for phase in range(await _phases_passed(stage), stage.setting.rounds):
            began = stage.now()
            await memory.write(PLACE.format(me), _note(stage, phase), owner=me)
            arrived = await memory.modify(
                ARRIVED.format(phase), lambda agents: sorted({*agents, me}), updater=me, default=[]
            )
            if len(arrived.value) == stage.setting.agents:
                await memory.write(PHASE, phase + 1, owner=me)
            while (await memory.read(PHASE, reader=me, default=0)) <= phase:
                await anext(changes)
            _passed(stage, phase, began)


# --- through messages: a coordinator answers when all have said that they are there --------------


async def _coordinate(stage: Stage) -> None:
    agent = MessagePassingAgent(COORDINATOR, stage.space.broker, lease=LEASE, concurrency=CONCURRENCY)
    latest: dict[str, int] = {}
    changed = asyncio.Condition()

    def all_there(phase: int) -> bool:
        """Who has come to a later phase has been here: a coordinator that died may have let it pass."""
        return len(latest) == stage.setting.agents and all(reached >= phase for reached in latest.values())

    @agent.on_message("default")
    async def arrive(message: Message) -> int:
        phase = message.content["phase"]
        async with changed:
            latest[message.sender] = max(phase, latest.get(message.sender, phase))
            changed.notify_all()
            await changed.wait_for(lambda: all_there(phase))
        stage.effect(f"{message.sender}:{phase}")
        return phase

    async with agent:
        await stage.ready()
        await stage.over()


async def _report_to_coordinator(stage: Stage) -> None:
    agent = MessagePassingAgent(stage.agent, stage.space.broker)
    await stage.ready()
    for phase in range(stage.setting.rounds):
        began = stage.now()
        await agent.request(COORDINATOR, _note(stage, phase), timeout=PATIENCE)
        stage.sample(began)


# --- hybrid: the last to arrive says so in the commit in which it arrives ------------------------


async def _arrive_and_tell(stage: Stage) -> None:
    me = stage.agent
    agent = MessagePassingAgent(me, stage.space.broker, lease=LEASE)
    begun = asyncio.Condition()
    phase_told = await stage.space.memory.read(PHASE, reader=me, default=0)

    @agent.on_message("default")
    async def hear(message: Message) -> None:
        nonlocal phase_told
        async with begun:
            phase_told = max(phase_told, message.content)
            begun.notify_all()

    async with agent:
        await agent.subscribe(TOPIC)
        await stage.ready()
        for phase in range(await _phases_passed(stage), stage.setting.rounds):
            began = stage.now()
            await _arrive_in_one_commit(stage, phase)
            async with begun:
                await begun.wait_for(lambda phase=phase: phase_told > phase)
            _passed(stage, phase, began)


async def _arrive_in_one_commit(stage: Stage, phase: int) -> None:
    me = stage.agent
    while True:
        try:
            async with stage.space.transaction() as arrival:
                there = {*await arrival.read(ARRIVED.format(phase), reader=me, default=[]), me}
                arrival.write(ARRIVED.format(phase), sorted(there), owner=me)
                arrival.write(PLACE.format(me), _note(stage, phase), owner=me)
                if len(there) == stage.setting.agents:
                    arrival.write(PHASE, phase + 1, owner=me)
                    arrival.publish(TOPIC, Message(sender=me, content=phase + 1))
        except ConflictError:
            continue  # somebody else arrived at the same time
        return


TEAMS = {
    Paradigm.MEMORY: Team(parts=(_arrive_in_memory,)),
    Paradigm.MESSAGES: Team(
        parts=(_report_to_coordinator,), services=(_coordinate,), victim=lambda setting: setting.agents
    ),
    Paradigm.HYBRID: Team(parts=(_arrive_and_tell,)),
}
