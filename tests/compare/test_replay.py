"""Recorded conversations are replayed with every turn delivered exactly once, through memory and through messages."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from msgspec.structs import replace

from tertulia import connect
from tertulia.compare import replay as replaying
from tertulia.compare.replay import REPLAYS, NotDeliveredOnceError, replay
from tertulia.compare.traces import Conversation, Turn, read_conversations
from tertulia.compare.workers import Workers
from tertulia.selection.requirement import Paradigm

numbers = itertools.count()

either_way = pytest.mark.parametrize("paradigm", REPLAYS, ids=lambda paradigm: paradigm.value)


def unexpected(agent: str, line: str) -> None:
    raise AssertionError(f"{agent} said {line}")


def url() -> str:
    return f"memory:replay-{next(numbers)}"


def talk(*said: tuple[str, tuple[str, ...], str]) -> Conversation:
    turns = tuple(Turn(speaker=speaker, to=to, content=content) for speaker, to, content in said)
    agents = tuple(dict.fromkeys(name for turn in turns for name in (turn.speaker, *turn.to)))
    return Conversation(name="talk", agents=agents, turns=turns)


TALK = talk(
    ("Lead", ("Surfer",), "look it up"),
    ("Lead", ("Lead",), "a thought " * 100),
    ("Surfer", ("Lead", "Writer (senior)"), "found: 42"),
    ("Writer (senior)", ("Lead", "Surfer"), "written"),
    ("Lead", ("Surfer", "Writer (senior)"), "done; 😀 thank you"),
)


@either_way
async def test_every_turn_is_heard_once_by_everyone_it_is_for(paradigm: Paradigm):
    replayed = await replay(url(), TALK, paradigm)
    assert (replayed.agents, replayed.turns, replayed.deliveries) == (3, 5, 8)
    assert 0 < replayed.p50 <= replayed.seconds


@either_way
async def test_recorded_agents_can_be_processes(paradigm: Paradigm, tmp_path: Path):
    async with Workers(unexpected) as workers:
        replayed = await replay(f"file:{tmp_path}/space.db", TALK, paradigm, workers=workers)
    assert replayed.deliveries == 8


async def test_a_transcript_is_read_by_all_and_a_message_by_those_it_is_for():
    secret = "x" * 5_000
    conversation = talk(("a", ("b",), secret), ("b", ("c",), "go on"), ("c", ("a",), "done"))
    by_memory = await replay(url(), conversation, Paradigm.MEMORY)
    by_messages = await replay(url(), conversation, Paradigm.MESSAGES)
    assert by_memory.bytes_read["c"] > len(secret)
    assert by_messages.bytes_read["c"] < 1_000
    assert by_messages.bytes_read["b"] > len(secret)


async def test_a_turn_that_comes_twice_is_found():
    space_url = url()
    async with connect(space_url) as space:
        await space.memory.write("turn:000000", {"turn": 0, "at": 0.0, "content": "look it up"}, owner="stranger")
        with pytest.raises(ExceptionGroup, match="unhandled") as caught:
            await replay(space_url, TALK, Paradigm.MEMORY)
        assert "KeyExistsError" in repr(caught.value.exceptions)


async def test_a_turn_that_was_changed_on_its_way_is_found(monkeypatch: pytest.MonkeyPatch):
    hear = replaying._Agent.hear  # noqa: SLF001 - to break it on purpose
    changed = "tertulia.compare.replay._Agent.hear"
    monkeypatch.setattr(changed, lambda agent, said: hear(agent, {**said, "content": said["content"].upper()}))
    with pytest.raises(NotDeliveredOnceError, match="turn 1 came to Lead 0 times"):
        await replay(url(), TALK, Paradigm.MESSAGES)


async def test_a_conversation_that_nobody_hears_cannot_be_replayed():
    alone = replace(TALK, turns=(Turn(speaker="Lead", to=(), content="hello?"),), agents=("Lead",))
    with pytest.raises(NotDeliveredOnceError, match="nobody to hear"):
        await replay(url(), alone, Paradigm.MEMORY)


async def test_all_recorded_conversations_of_real_teams_are_delivered_exactly_once(recorded_traces: Path):
    conversations = read_conversations(recorded_traces)
    assert conversations
    for conversation in conversations:
        by_paradigm = {paradigm: await replay(url(), conversation, paradigm) for paradigm in REPLAYS}
        assert {replayed.deliveries for replayed in by_paradigm.values()} == {conversation.deliveries}
