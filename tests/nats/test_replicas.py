"""What a handle knows is whole and in order, whichever of several replicas answers, and whatever the feed leaves out.

One server plays all of them: it is taken for several replicas, and now and then answers as one would that was stopped,
or that catches up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tertulia import Message, Space, connect
from tertulia.engines._nats_stream import WrongSequence
from tests.nats.procedures import soon


@pytest.fixture
async def other(url: str) -> AsyncIterator[Space]:
    async with connect(url) as space:
        yield space


@pytest.fixture
async def engine(url: str, other: Space) -> AsyncIterator[Any]:
    """The engine of a handle that takes its server for several."""
    await other.broker.register_agent("ada")
    async with connect(url) as space:
        engine: Any = space.engine
        engine._store.single = False  # noqa: SLF001 - there is no other way to have one server be several
        yield engine


async def send(space: Space, *contents: str) -> None:
    for content in contents:
        await space.broker.send(Message(sender="bob", receiver="ada", content=content, id=content))


async def claimed(engine: Any, count: int) -> list[str]:
    """Return which messages are claimed, one after the other."""
    names: list[str] = []
    for _ in range(count):
        names += [one.message_id for one in await soon(engine.claim("ada", limit=1, lease=30.0, wait=30.0))]
    return names


async def begin_to_consume(engine: Any) -> Any:
    """Return the handle's view of the empty mailbox, which the feed keeps up to date from now on."""
    assert await engine.claim("ada", limit=1, lease=30.0, wait=0.0) == []
    return engine._mail.view("ada")  # noqa: SLF001


async def until_known(view: Any, *names: str) -> None:
    async with asyncio.timeout(30.0):
        while not all(any(key.endswith(name) for key in view.items) for name in names):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def while_a_replica_catches_up(engine: Any, monkeypatch: pytest.MonkeyPatch, space: Space, key: str) -> None:
    """Let a key be written anew while a replica is read that leaves out what was replaced, and has not come further."""
    sound = engine._store._at_once  # noqa: SLF001

    async def at_once(*details: Any, **options: Any) -> Any:
        monkeypatch.setattr(engine._store, "_at_once", sound)  # noqa: SLF001
        found, upto = await sound(*details, **options)
        await space.memory.write(key, "new", owner="bob")
        return [one for one in found if engine._subjects.key_of(one.subject) != key], upto  # noqa: SLF001

    monkeypatch.setattr(engine._store, "_at_once", at_once)  # noqa: SLF001


async def test_a_snapshot_has_what_a_replica_that_catches_up_has_neither_old_nor_new(
    engine: Any, other: Space, monkeypatch: pytest.MonkeyPatch
):
    for key in "abc":
        await other.memory.write(key, "old", owner="bob")
    while_a_replica_catches_up(engine, monkeypatch, other, "b")
    _, records = await engine.scan("")
    assert sorted(record.key for record in records) == ["a", "b", "c"]


async def test_what_was_stored_later_is_read_though_a_replica_that_catches_up_has_neither_old_nor_new(
    engine: Any, other: Space, monkeypatch: pytest.MonkeyPatch
):
    revisions = [(await other.memory.write(key, "old", owner="bob")).revision for key in "abc"]
    while_a_replica_catches_up(engine, monkeypatch, other, "b")
    found = await engine._store.after(revisions[0], engine._subjects.all_keys)  # noqa: SLF001
    assert [engine._subjects.key_of(one.subject) for one in found] == ["c", "b"]  # noqa: SLF001


async def test_a_watch_that_reads_on_brings_every_change_though_a_replica_that_catches_up_has_left_one_out(
    engine: Any, other: Space, monkeypatch: pytest.MonkeyPatch
):
    stream = await engine.watch("*")
    monkeypatch.setattr(stream._subscription, "_handler", lambda _: None)  # noqa: SLF001 - the feed brings nothing
    revisions = [(await other.memory.write(key, "old", owner="bob")).revision for key in "abc"]
    while_a_replica_catches_up(engine, monkeypatch, other, "b")
    stream.resume()
    changes = [await soon(anext(stream)) for _ in range(4)]
    assert [change.revision for change in changes][:3] == revisions
    assert [change.key for change in changes] == ["a", "b", "c", "b"]


async def test_a_leader_that_has_less_than_is_known_to_be_stored_is_asked_again(
    engine: Any, other: Space, monkeypatch: pytest.MonkeyPatch
):
    store = engine._store  # noqa: SLF001
    stale = await store.info()
    entry = await other.memory.write("k", 1, owner="bob")
    assert await engine.get("k") is not None
    sound = store.info

    async def info(*details: Any) -> Any:
        monkeypatch.setattr(store, "info", sound)
        await sound(*details)
        return stale

    monkeypatch.setattr(store, "info", info)
    assert await store.last_sequence() >= entry.revision


async def test_a_message_that_a_server_does_not_find_which_is_behind_is_not_overtaken(
    engine: Any, other: Space, monkeypatch: pytest.MonkeyPatch
):
    view = await begin_to_consume(engine)
    await send(other, "one", "two")
    await until_known(view, "one", "two")
    store = engine._store  # noqa: SLF001
    write, get = store.write, store.get

    async def refuse(_: Any) -> int:
        monkeypatch.setattr(store, "write", write)
        raise WrongSequence(last=0)

    async def find_nothing(*_: Any, **__: Any) -> None:
        monkeypatch.setattr(store, "get", get)

    monkeypatch.setattr(store, "write", refuse)
    monkeypatch.setattr(store, "get", find_nothing)
    assert await claimed(engine, 2) == ["one", "two"]


async def test_a_message_that_the_feed_left_out_is_claimed_in_its_turn(
    engine: Any, other: Space, monkeypatch: pytest.MonkeyPatch
):
    view = await begin_to_consume(engine)
    fed = engine._mail._on_fed  # noqa: SLF001

    def leave_out(at: Any, message: Any) -> None:
        if b"left-out" not in message.data:
            fed(at, message)

    monkeypatch.setattr(engine._mail, "_on_fed", leave_out)  # noqa: SLF001
    await send(other, "left-out", "fed")
    await until_known(view, "fed")
    view.looked = 0.0  # as it is after a second
    assert await claimed(engine, 2) == ["left-out", "fed"]


async def test_who_claims_while_a_mailbox_is_still_being_read_does_not_get_what_came_last(
    engine: Any, other: Space, monkeypatch: pytest.MonkeyPatch
):
    await send(other, "one", "two")
    begun, go_on = asyncio.Event(), asyncio.Event()
    read = engine._mail.look  # noqa: SLF001

    async def slowly(view: Any) -> None:
        begun.set()
        await go_on.wait()
        await read(view)

    monkeypatch.setattr(engine._mail, "look", slowly)  # noqa: SLF001
    first = asyncio.create_task(claimed(engine, 1))
    await soon(begun.wait())
    await send(other, "three")
    await until_known(engine._mail.view("ada"), "three")  # noqa: SLF001
    second = asyncio.create_task(claimed(engine, 1))
    await asyncio.wait([second], timeout=0.5)  # time enough to claim, if it does not wait for the first
    go_on.set()
    assert sorted(await soon(first) + await soon(second)) == ["one", "two"]
