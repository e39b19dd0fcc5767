"""Request and response: one agent serves, all others ask it; every question is to be answered once.

A unit of work is one answer, as who asked sees it. The answer repeats the question, so both have the payload's size.
"""

from __future__ import annotations

from typing import Any

from tertulia.agents.message_passing import MessagePassingAgent
from tertulia.compare.use_cases.stage import LEASE, PATIENCE, Judged, Outcome, Stage, Team, text_of
from tertulia.records import ChangeKind, Message
from tertulia.selection.requirement import Paradigm
from tertulia.watching import MemoryWatch

__all__ = ["TEAMS", "judge"]

SERVER = "server"
ASKED, ANSWERED = "ask:{}", "answer:{}"
Content = dict[str, Any]


def _question(stage: Stage, number: int) -> Content:
    return {"id": f"{stage.agent}:{number}", "from": stage.agent, "body": text_of(stage.setting.payload)}


async def judge(outcome: Outcome) -> Judged:
    """Count the questions that nobody answered, and those that were worked on more than once."""
    setting = outcome.setting
    return outcome.ledgered(
        {f"agent-{asker}:{number}" for asker in range(1, setting.agents) for number in range(setting.rounds)}
    )


# --- through messages ----------------------------------------------------------------------------


async def _answer(stage: Stage) -> None:
    agent = MessagePassingAgent(SERVER, stage.space.broker, lease=LEASE)

    @agent.on_message("default")
    def answer(message: Message) -> Content:
        stage.effect(message.content["id"])
        return message.content

    async with agent:
        await stage.ready()
        await stage.over()


async def _ask(stage: Stage) -> None:
    agent = MessagePassingAgent(stage.agent, stage.space.broker)
    await stage.ready()
    for number in range(stage.setting.rounds):
        began = stage.now()
        await agent.request(SERVER, _question(stage, number), timeout=PATIENCE)
        stage.sample(began)


# --- through memory: a key for what each agent asks, and one for what it is answered -------------


async def _answer_in_memory(stage: Stage) -> None:
    memory = stage.space.memory
    async with memory.watch("ask:*") as questions:
        await stage.ready()
        await stage.serve(_answer_each(stage, questions))


async def _answer_each(stage: Stage, questions: MemoryWatch) -> None:
    """Answer what was asked before this server began, and whatever is asked from then on, each question once."""
    memory, answered = stage.space.memory, set[str]()
    async for entry in memory.entries("ask:*"):
        answer = await memory.read(ANSWERED.format(entry.value["from"]), reader=SERVER)
        if answer is None or answer["id"] != entry.value["id"]:
            await _write_answer(stage, entry.value)
        answered.add(entry.value["id"])
    async for change in questions:
        if change.kind is ChangeKind.PUT and change.value["id"] not in answered:
            await _write_answer(stage, change.value)


async def _write_answer(stage: Stage, question: Content) -> None:
    stage.effect(question["id"])
    await stage.space.memory.write(ANSWERED.format(question["from"]), question, owner=SERVER)


async def _ask_in_memory(stage: Stage) -> None:
    memory, me = stage.space.memory, stage.agent
    async with memory.watch(ANSWERED.format(me)) as answers:
        await stage.ready()
        for number in range(stage.setting.rounds):
            began = stage.now()
            question = _question(stage, number)
            await memory.write(ASKED.format(me), question, owner=me)
            while (await anext(answers)).value["id"] != question["id"]:
                continue  # an answer that was given twice
            stage.sample(began)


# --- hybrid: contents stay in memory, and messages say where --------------------------------------


async def _answer_by_key(stage: Stage) -> None:
    memory = stage.space.memory
    agent = MessagePassingAgent(SERVER, stage.space.broker, lease=LEASE)

    @agent.on_message("default")
    async def answer(message: Message) -> str:
        question = await memory.read(message.content, reader=SERVER)
        stage.effect(question["id"])
        key = ANSWERED.format(question["from"])
        await memory.write(key, question, owner=SERVER)
        return key

    async with agent:
        await stage.ready()
        await stage.over()


async def _ask_by_key(stage: Stage) -> None:
    memory, me = stage.space.memory, stage.agent
    agent = MessagePassingAgent(me, stage.space.broker)
    await stage.ready()
    for number in range(stage.setting.rounds):
        began = stage.now()
        key = ASKED.format(me)
        await memory.write(key, _question(stage, number), owner=me)
        await memory.read(await agent.request(SERVER, key, timeout=PATIENCE), reader=me)
        stage.sample(began)


TEAMS = {
    Paradigm.MEMORY: Team(parts=(_answer_in_memory, _ask_in_memory), serves=True),
    Paradigm.MESSAGES: Team(parts=(_answer, _ask), serves=True),
    Paradigm.HYBRID: Team(parts=(_answer_by_key, _ask_by_key), serves=True),
}
