"""Caching: all agents need answers that take a while to compute, most of them the same few.

A unit of work is one answer, as who needed it sees it. What is computed stands for a call of a model or a tool: it
takes 5 ms in which the processor has nothing to do.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from functools import partial

from tertulia.agents.message_passing import MessagePassingAgent
from tertulia.compare.use_cases.stage import LEASE, PATIENCE, Judged, Outcome, Stage, Team, text_of
from tertulia.errors import KeyExistsError
from tertulia.patterns.hybrid import HybridCommunicationSystem
from tertulia.records import MISSING, Message
from tertulia.selection.requirement import Paradigm

__all__ = ["KEYS", "TEAMS", "judge"]

KEYS = 20  # how many different answers there are to need
COMPUTING = 0.005  # seconds
CACHE, ANSWER = "cache", "answer:{}"
COMPUTED, SERVED = "computed", "served"
CONCURRENCY = 64  # as many as there may be agents, so that nobody waits behind an answer that is being computed


def _needs(stage: Stage) -> Iterator[str]:
    """Yield the keys that this agent needs, the first ones much more often (as in Zipf's law)."""
    choose = random.Random(stage.setting.seed * 1_000 + stage.number)  # noqa: S311 - a workload, no secret
    weights = [1 / (place + 1) for place in range(KEYS)]
    for place in choose.choices(range(KEYS), weights, k=stage.setting.rounds):
        yield ANSWER.format(place)


async def _compute(stage: Stage, key: str) -> str:
    await asyncio.sleep(COMPUTING)
    stage.count(COMPUTED)
    stage.effect(key)
    return key + text_of(stage.setting.payload)


async def judge(outcome: Outcome) -> Judged:
    """Count the needs that were never met, and the computations that somebody had done before."""
    setting = outcome.setting
    needs = setting.agents * setting.rounds
    ledger = outcome.ledger
    again = 0 if ledger is None else sum(ledger.values()) - len(ledger)
    return Judged(units=needs, lost=max(0, needs - outcome.counted(SERVED)), repeated=again)


# --- through memory: look, else compute and write ------------------------------------------------


async def _look_else_compute(stage: Stage) -> None:
    await stage.ready()
    for key in _needs(stage):
        began = stage.now()
        await _from_memory(stage, key)
        stage.count(SERVED)
        stage.sample(began)


async def _from_memory(stage: Stage, key: str) -> str:
    memory, me = stage.space.memory, stage.agent
    value = await memory.read(key, reader=me, default=MISSING)
    if value is not MISSING:
        return value
    value = await _compute(stage, key)
    try:
        await memory.create(key, value, owner=me)
    except KeyExistsError:
        return await memory.read(key, reader=me)  # somebody computed it at the same time
    return value


# --- through messages: one agent keeps the answers, and computes those that it does not have -----


async def _keep_answers(stage: Stage) -> None:
    agent = MessagePassingAgent(CACHE, stage.space.broker, lease=LEASE, concurrency=CONCURRENCY)
    answers: dict[str, asyncio.Task[str]] = {}

    @agent.on_message("default")
    async def answer(message: Message) -> str:
        key = message.content
        if key not in answers:
            answers[key] = asyncio.ensure_future(_compute(stage, key))
        return await asyncio.shield(answers[key])

    async with agent:
        await stage.ready()
        await stage.over()


async def _ask_cache(stage: Stage) -> None:
    agent = MessagePassingAgent(stage.agent, stage.space.broker)
    await stage.ready()
    for key in _needs(stage):
        began = stage.now()
        await agent.request(CACHE, key, timeout=PATIENCE)
        stage.count(SERVED)
        stage.sample(began)


# --- hybrid: the first to need it computes, the others are told ----------------------------------


async def _get_or_compute(stage: Stage) -> None:
    system = HybridCommunicationSystem(stage.space, lease=LEASE)
    await stage.ready()
    for key in _needs(stage):
        began = stage.now()
        await system.get_or_compute(key, partial(_compute, stage, key))
        stage.count(SERVED)
        stage.sample(began)


TEAMS = {
    Paradigm.MEMORY: Team(parts=(_look_else_compute,)),
    Paradigm.MESSAGES: Team(parts=(_ask_cache,), services=(_keep_answers,), victim=lambda setting: setting.agents),
    Paradigm.HYBRID: Team(parts=(_get_or_compute,)),
}
