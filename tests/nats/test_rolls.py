"""The roll of a mailbox: what it says is over, and that it never takes anything back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tertulia import Message, connect
from tertulia.engines import _nats_keeper
from tertulia.engines._nats_format import GONE, ROLL, encode, mail_state
from tertulia.engines._nats_keeper import Keeper
from tertulia.engines._nats_roll import Roll, read_roll


def over(roll: Roll, upto: int = 20) -> set[int]:
    return {seq for seq in range(1, upto) if roll.is_over(seq)}


def test_what_was_stored_by_then_and_is_not_on_the_roll_is_over():
    roll = Roll().next(9, [3, 8, 12])
    assert over(roll) == {1, 2, 4, 5, 6, 7, 9}


@pytest.mark.parametrize("alive", [[], [1], [3, 8, 9], [*range(1, 4_000, 3)]])
def test_a_roll_is_read_as_it_was_written(alive: list[int]):
    roll = Roll().next(5_000, alive)
    written = mail_state("roll", encode(roll.state("op", 7, 1.5)))
    assert (written.op, written.prev, written.at) == ("op", 7, 1.5)
    assert over(read_roll(written), 5_010) == over(roll, 5_010) == set(range(1, 5_001)) - set(alive)


def test_a_roll_without_room_for_all_ends_with_the_last_that_it_has_room_for():
    roll = Roll().next(100, [2, 5, 7, 60], most=2)
    assert (roll.upto, over(roll)) == (5, {1, 3, 4})


def test_a_roll_never_says_less_than_the_one_before():
    first = Roll().next(10, [2, 5, 7])
    then = first.next(12, [2, 5, 7, 11, 12], most=2)
    assert then.upto == 10
    assert over(first) <= over(then)
    assert over(then.next(9, [2])) >= over(then)


async def test_two_handles_that_keep_a_roll_at_once_lose_no_message_and_let_all_markers_go(
    url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_nats_keeper, "ROUND", 0.0)
    monkeypatch.setattr(_nats_keeper, "SHARE", 0)
    monkeypatch.setattr(Keeper, "_is_ripe", lambda *_: True)
    async with connect(url) as one, connect(url) as two:
        await one.broker.register_agent("ada")
        for space in (one, two):
            for content in range(5):
                await space.broker.send(Message(sender="bob", receiver="ada", content=content))
            for _ in range(3):
                delivery = await space.broker.receive("ada", timeout=30)
                assert delivery is not None
                await delivery.acknowledge()
        engines: list[Any] = [one.engine, two.engine]
        left = [stored.message_id for stored in await one.engine.browse("ada")]
        store, messages = engines[0]._store, engines[0]._subjects.messages("ada")  # noqa: SLF001
        for _ in range(3):  # each time one of them may be told that the other was faster
            await asyncio.gather(*[engine._keeper.go_round() for engine in engines])  # noqa: SLF001
        states = [mail_state(found.subject, found.data) for found in await store.after(0, messages)]
        assert [state.lasting for state in states if state.kind == GONE] == [False] * 6
        assert [state.kind for state in states].count(ROLL) == 1
        assert len(left) == 4
        for engine in engines:
            assert [stored.message_id for stored in await engine.browse("ada")] == left
        async with connect(url) as three:
            assert [claimed.message_id for claimed in await three.engine.claim("ada", limit=10)] == left


async def test_a_mailbox_that_is_closed_leaves_no_marker_that_lasts(url: str):
    async with connect(url) as space:
        engine: Any = space.engine
        for name in ("ada", "heir"):
            await space.broker.register_agent(name)
        for content in range(3):
            await space.broker.send(Message(sender="bob", receiver="ada", content=content))
        delivery = await space.broker.receive("ada", timeout=30)
        assert delivery is not None
        await delivery.acknowledge()
        assert await engine.close_mailbox("ada", heir="heir") == 2
        found = await engine._store.after(0, engine._subjects.messages("ada"))  # noqa: SLF001
        states = {one.seq: mail_state(one.subject, one.data) for one in found}
        assert sorted((state.kind, state.lasting) for state in states.values()) == [*[(GONE, False)] * 3, (ROLL, False)]
        [roll] = [read_roll(state) for state in states.values() if state.kind == ROLL]
        assert all(roll.is_over(state.prev) for state in states.values() if state.kind == GONE)
        assert len(await engine.browse("heir")) == 2
