"""Sharing state: all agents look at one state and now and then change it; nobody's change may get lost.

A unit of work is an agent's turn: it looks at the state three times, then adds one to its own counter in it.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from tertulia.agents.message_passing import MessagePassingAgent
from tertulia.compare.use_cases.stage import LEASE, PATIENCE, Judged, Outcome, Stage, Team, text_of
from tertulia.errors import ConflictError
from tertulia.records import Message
from tertulia.selection.requirement import Paradigm

__all__ = ["TEAMS", "judge"]

KEY, OWNER, TOPIC = "shared:state", "owner", "state.changed"
LOOKS = 3  # before a change, as there is more to look at than to change
CHANGES, KEPT = "changes", "kept"  # counted by who made them, and by who kept the state
State = dict[str, Any]


def _empty(stage: Stage) -> State:
    return {"counts": {}, "body": text_of(stage.setting.payload)}


def _changed(agent: str, state: State) -> State:
    counts = state["counts"]
    return {**state, "counts": {**counts, agent: counts.get(agent, 0) + 1}}


async def _turns_done(stage: Stage) -> int:
    """Return how far this agent has come, as the state shows; not at its beginning if it takes up another's work."""
    state = await stage.space.memory.read(KEY, reader=stage.agent)
    return state["counts"].get(stage.agent, 0)


def _unit(stage: Stage, turn: int) -> str:
    return f"{stage.agent}:{turn}"


async def judge(outcome: Outcome) -> Judged:
    """Count the changes that were confirmed to who made them and are not in the state at the end."""
    state = await outcome.space.memory.read(KEY, reader=OWNER)
    kept = outcome.counted(KEPT) if state is None else sum(state["counts"].values())
    made = outcome.counted(CHANGES) if outcome.ledger is None else len(outcome.ledger)
    return Judged(units=made, lost=max(0, made - kept), repeated=max(0, kept - made))


# --- through memory ------------------------------------------------------------------------------


async def _share_memory(stage: Stage) -> None:
    memory, me = stage.space.memory, stage.agent
    if stage.number == 0 and await memory.read(KEY, reader=me) is None:
        await memory.write(KEY, _empty(stage), owner=me)
    await stage.ready()
    for turn in range(await _turns_done(stage), stage.setting.rounds):
        began = stage.now()
        for _ in range(LOOKS):
            await memory.read(KEY, reader=me)
        await memory.modify(KEY, partial(_changed, me), updater=me)
        stage.sample(began)
        stage.count(CHANGES)
        stage.effect(_unit(stage, turn))


# --- through messages: one agent owns the state, and is asked ------------------------------------


async def _own_state(stage: Stage) -> None:
    state = _empty(stage)
    agent = MessagePassingAgent(OWNER, stage.space.broker, lease=LEASE)

    @agent.on_message("default")
    def act(message: Message) -> State:
        nonlocal state
        if message.content:
            state = _changed(message.sender, state)
            stage.effect(str(message.content))
        return state

    async with agent:
        await stage.ready()
        await stage.over()
    stage.count(KEPT, sum(state["counts"].values()))


async def _ask_owner(stage: Stage) -> None:
    agent = MessagePassingAgent(stage.agent, stage.space.broker)
    await stage.ready()
    for turn in range(stage.setting.rounds):
        began = stage.now()
        for _ in range(LOOKS):
            await agent.request(OWNER, "", timeout=PATIENCE)
        await agent.request(OWNER, _unit(stage, turn), timeout=PATIENCE)
        stage.sample(began)
        stage.count(CHANGES)


# --- hybrid: everybody has a copy, a change is written and told in one commit --------------------


async def _keep_copy(stage: Stage) -> None:
    memory, me = stage.space.memory, stage.agent
    if stage.number == 0 and await memory.read(KEY, reader=me) is None:
        await memory.write(KEY, _empty(stage), owner=me)
    agent = MessagePassingAgent(me, stage.space.broker, lease=LEASE)
    told: list[float] = []

    @agent.on_message("default")
    def hear(message: Message) -> None:
        told.append(message.content)

    async with agent:
        await agent.subscribe(TOPIC)
        await stage.ready()
        copy = await memory.read(KEY, reader=me)
        for turn in range(copy["counts"].get(me, 0), stage.setting.rounds):
            began = stage.now()
            for _ in range(LOOKS):
                if told:
                    copy = await memory.read(KEY, reader=me)
                    stage.stale(stage.now() - min(told))
                    told.clear()
                await asyncio.sleep(0)  # an agent looks, and lets others have their turn
            copy = await _change_and_tell(stage)
            stage.sample(began)
            stage.count(CHANGES)
            stage.effect(_unit(stage, turn))


async def _change_and_tell(stage: Stage) -> State:
    me = stage.agent
    while True:
        try:
            async with stage.space.transaction() as change:
                copy = _changed(me, await change.read(KEY, reader=me))
                change.write(KEY, copy, owner=me)
                change.publish(TOPIC, Message(sender=me, content=stage.now()))
        except ConflictError:
            continue  # somebody else was faster, so there is progress
        return copy


TEAMS = {
    Paradigm.MEMORY: Team(parts=(_share_memory,)),
    Paradigm.MESSAGES: Team(parts=(_ask_owner,), services=(_own_state,), victim=lambda setting: setting.agents),
    Paradigm.HYBRID: Team(parts=(_keep_copy,)),
}
