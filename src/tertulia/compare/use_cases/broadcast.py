"""Broadcast: one agent speaks, and all others are to hear everything that it says.

A unit of work is one announcement heard by one hearer, from when the speaker began to make it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tertulia.agents.message_passing import MessagePassingAgent
from tertulia.compare.use_cases.stage import LEASE, PACE, Judged, Outcome, Setting, Stage, Team, text_of
from tertulia.records import Message, WhenFull
from tertulia.selection.requirement import Paradigm

__all__ = ["TEAMS", "judge"]

SPEAKER, TOPIC, NEWS = "speaker", "news", "news:latest"
CURSOR = "cursor:{}"
Announcement = dict[str, Any]


def _announcement(stage: Stage, number: int) -> Announcement:
    return {"number": number, "at": stage.now(), "body": text_of(stage.setting.payload)}


async def judge(outcome: Outcome) -> Judged:
    """Count what a hearer never heard, and what it heard more than once."""
    setting = outcome.setting
    return outcome.ledgered(
        {f"agent-{hearer}:{number}" for hearer in range(1, setting.agents) for number in range(setting.rounds)}
    )


async def _let_it_arrive(stage: Stage) -> None:
    """Where latency is measured: let all hear it, and the space come to rest, before the next announcement."""
    if stage.setting.paced:
        await asyncio.sleep(PACE * (stage.setting.agents - 1))


def _hear(stage: Stage, number: int, at: float) -> None:
    stage.effect(f"{stage.agent}:{number}")
    stage.sample(at)


def _is_last(stage: Stage, number: int) -> bool:
    return number == stage.setting.rounds - 1


# --- through messages ----------------------------------------------------------------------------


async def _publish(stage: Stage) -> None:
    agent = MessagePassingAgent(SPEAKER, stage.space.broker)
    await stage.ready()
    for number in range(stage.setting.rounds):
        await agent.publish(TOPIC, _announcement(stage, number))
        await _let_it_arrive(stage)


async def _hear_messages(stage: Stage) -> None:
    agent, heard_all = _hearer(stage)

    @agent.on_message("default")
    def hear(message: Message) -> None:
        _hear(stage, message.content["number"], message.content["at"])
        if _is_last(stage, message.content["number"]):
            heard_all.set()

    async with agent:
        await agent.subscribe(TOPIC)
        await stage.ready()
        await _until_all_heard(stage, heard_all)


def _hearer(stage: Stage) -> tuple[MessagePassingAgent, asyncio.Event]:
    return MessagePassingAgent(stage.agent, stage.space.broker, lease=LEASE, when_full=WhenFull.WAIT), asyncio.Event()


async def _until_all_heard(stage: Stage, heard_all: asyncio.Event) -> None:
    """Wait for the last announcement, and for what was held by a hearer that died and comes again."""

    async def drained() -> bool:
        queue = stage.space.broker.queue(stage.agent)
        return await queue.size() + await queue.get_pending_count() == 0

    await heard_all.wait()
    if stage.is_judged:
        await stage.until(drained)


# --- through memory: one key that all watch; each keeps a cursor, so that nobody misses anything -


async def _write(stage: Stage) -> None:
    await stage.ready()
    for number in range(stage.setting.rounds):
        await stage.space.memory.write(NEWS, _announcement(stage, number), owner=SPEAKER)
        await _let_it_arrive(stage)


async def _watch(stage: Stage) -> None:
    memory, cursor = stage.space.memory, CURSOR.format(stage.agent)
    after = await memory.read(cursor, reader=stage.agent)
    async with memory.watch(NEWS, after=after) as changes:
        await stage.ready()
        async for change in changes:
            _hear(stage, change.value["number"], change.value["at"])
            await memory.write(cursor, change.revision, owner=stage.agent)
            if _is_last(stage, change.value["number"]):
                return


# --- hybrid: written and told in one commit; who hears of it reads what is there -----------------


async def _write_and_tell(stage: Stage) -> None:
    await stage.ready()
    for number in range(stage.setting.rounds):
        async with stage.space.transaction() as news:
            news.write(NEWS, _announcement(stage, number), owner=SPEAKER)
            news.publish(TOPIC, Message(sender=SPEAKER, content={"number": number, "at": stage.now()}))
        await _let_it_arrive(stage)


async def _read_when_told(stage: Stage) -> None:
    agent, heard_all = _hearer(stage)

    @agent.on_message("default")
    async def look(message: Message) -> None:
        number = message.content["number"]
        latest = await stage.space.memory.read(NEWS, reader=stage.agent)
        if latest["number"] != number:
            stage.count("overtaken")  # by a later one, which is what there is to know now
        _hear(stage, number, message.content["at"])
        if _is_last(stage, number):
            heard_all.set()

    async with agent:
        await agent.subscribe(TOPIC)
        await stage.ready()
        await _until_all_heard(stage, heard_all)


def _a_hearer(_: Setting) -> int:
    return 1


TEAMS = {
    Paradigm.MEMORY: Team(parts=(_write, _watch), victim=_a_hearer),
    Paradigm.MESSAGES: Team(parts=(_publish, _hear_messages), victim=_a_hearer),
    Paradigm.HYBRID: Team(parts=(_write_and_tell, _read_when_told), victim=_a_hearer),
}
