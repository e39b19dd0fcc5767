"""Watches go on, or say what they miss, whatever becomes of the feed and of the history that they resume with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import nats
import pytest

from tertulia import Space, connect
from tertulia.engines import _nats_missed
from tertulia.engines._nats_reading import Lagging
from tertulia.engines._nats_watch import resume_all
from tertulia.engines.base import Put
from tertulia.errors import EngineError, WatchLaggedError
from tests.nats.procedures import soon
from tests.nats.server import call, fresh_space, remove_space, shared_cluster


async def put(space: Space, *bodies: bytes) -> None:
    for body in bodies:
        await space.engine.put(Put("k", body, "ada"))


async def bodies_of(stream: Any, count: int) -> list[bytes]:
    changes = [await soon(anext(stream)) for _ in range(count)]
    return [change.record.body for change in changes]


def lose(stream: Any, *bodies: bytes) -> None:
    """Let a watch not hear of the changes with these bodies."""
    heard = stream._on_fed  # noqa: SLF001

    def forgetful(message: Any) -> None:
        if not any(body in message.data for body in bodies):
            heard(message)

    stream._subscription._handler = forgetful  # noqa: SLF001


def while_it_reads(stream: Any, monkeypatch: pytest.MonkeyPatch, work: Callable[[], Awaitable[None]]) -> None:
    """Do something once, between what a watch that resumes is about to know and its going on with the feed."""
    read = stream._missed.after  # noqa: SLF001

    async def slowly(*given: Any, **options: Any) -> Any:
        monkeypatch.setattr(stream._missed, "after", read)  # noqa: SLF001
        news = await read(*given, **options)
        await work()
        return news

    monkeypatch.setattr(stream._missed, "after", slowly)  # noqa: SLF001


async def until_fed(stream: Any, body: bytes) -> None:
    async with asyncio.timeout(30.0):
        while not any(state.body == body for _, _, state in stream._pending):  # noqa: ASYNC110, SLF001
            await asyncio.sleep(0.01)


async def test_a_watch_that_needs_a_history_which_nobody_leads_says_what_it_misses_and_can_begin_again(
    url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_nats_missed, "NO_HISTORY", 0.3)
    async with connect(url, timeout=2.0) as space, connect(url) as other:
        stream = await space.engine.watch("k")
        base, _, name = url.rpartition("/")
        client = await nats.connect(base)
        await call(client, f"STREAM.DELETE.tertulia-history_{name}")  # as one without a leader: nobody answers for it
        await client.close()
        lose(stream, b"<1>")
        await put(other, b"<1>", b"<2>")
        with pytest.raises(WatchLaggedError):
            await soon(anext(stream))
        stream = await space.engine.watch("k")
        await put(other, b"<3>")
        assert await bodies_of(stream, 1) == [b"<3>"]


async def test_a_watch_that_misses_something_while_it_goes_on_with_the_feed_reads_that_too(
    url: str, monkeypatch: pytest.MonkeyPatch
):
    async with connect(url) as space, connect(url) as other:
        stream: Any = await space.engine.watch("k")

        async def write_two_one_of_which_is_lost() -> None:
            lose(stream, b"<1>")
            await put(other, b"<1>", b"<2>")
            await until_fed(stream, b"<2>")

        while_it_reads(stream, monkeypatch, write_two_one_of_which_is_lost)
        stream.resume()
        assert await bodies_of(stream, 2) == [b"<1>", b"<2>"]


async def test_a_watch_whose_connection_is_lost_while_it_begins_has_nothing_from_before(
    url: str, monkeypatch: pytest.MonkeyPatch
):
    async with connect(url) as space, connect(url) as other:
        engine: Any = space.engine
        await put(other, b"<before>")
        ask = engine._store.last_sequence  # noqa: SLF001

        async def interrupted() -> int:
            monkeypatch.setattr(engine._store, "last_sequence", ask)  # noqa: SLF001
            resume_all(engine._streams)  # noqa: SLF001 - as after a reconnect
            for stream in engine._streams:  # noqa: SLF001
                if stream._work is not None:  # noqa: SLF001
                    await asyncio.wait([stream._work])  # noqa: SLF001
            return await ask()

        monkeypatch.setattr(engine._store, "last_sequence", interrupted)  # noqa: SLF001
        stream = await engine.watch("k")
        await put(other, b"<after>")
        assert await bodies_of(stream, 1) == [b"<after>"]


async def test_what_a_watch_has_heard_meanwhile_needs_no_history(monkeypatch: pytest.MonkeyPatch):
    url = f"{shared_cluster().url}/{fresh_space()}?replicas=3&history=0"
    try:
        async with connect(url) as space, connect(url) as other:
            stream: Any = await space.engine.watch("k")
            read = stream._store.after  # noqa: SLF001

            async def slowly(*given: Any, **options: Any) -> Any:
                monkeypatch.setattr(stream._store, "after", read)  # noqa: SLF001
                await put(other, b"<1>", b"<2>")
                await until_fed(stream, b"<2>")
                return await read(*given, **options)

            monkeypatch.setattr(stream._store, "after", slowly)  # noqa: SLF001
            stream.resume()
            assert await bodies_of(stream, 2) == [b"<1>", b"<2>"]
    finally:
        await remove_space(url)


@pytest.mark.parametrize("later", [False, True], ids=["and is read then", "or the watch says so"])
async def test_a_change_that_a_replica_left_out_is_missed_when_the_next_one_comes(
    url: str,
    later: bool,  # noqa: FBT001 - a case
    monkeypatch: pytest.MonkeyPatch,
):
    async with connect(url) as space, connect(url) as other:
        stream: Any = await space.engine.watch("*")
        read = stream._store.after  # noqa: SLF001

        async def nothing(*_: Any, **__: Any) -> list[Any]:
            monkeypatch.setattr(stream._store, "after", read)  # noqa: SLF001
            return []

        monkeypatch.setattr(stream._store, "after", nothing)  # noqa: SLF001
        lose(stream, b"<1>")
        await put(other, b"<1>")
        stream.resume()
        await soon(asyncio.wait([stream._work]))  # noqa: SLF001
        if later:
            await other.engine.put(Put("another", b"<0>", "ada"))
            assert await bodies_of(stream, 1) == [b"<0>"]
        await put(other, b"<2>")
        if later:  # it would be out of order
            with pytest.raises(WatchLaggedError):
                await soon(anext(stream))
        else:
            assert await bodies_of(stream, 2) == [b"<1>", b"<2>"]


@pytest.mark.parametrize("how", ["after", "many"])
async def test_what_is_written_while_a_replica_lags_is_read_too(how: str, monkeypatch: pytest.MonkeyPatch):
    url = f"{shared_cluster().url}/{fresh_space()}?replicas=3"
    try:
        async with connect(url) as space:
            engine: Any = space.engine
            store = engine._store  # noqa: SLF001
            at_once = store._at_once  # noqa: SLF001
            await put(space, b"<0>")

            async def lagging(*_: Any, **__: Any) -> Any:
                monkeypatch.setattr(store, "_at_once", at_once)
                await put(space, b"<1>")
                raise Lagging

            monkeypatch.setattr(store, "_at_once", lagging)
            keys = store.subjects.all_keys
            found = await store.after(0, keys, reach=1) if how == "after" else (await store.many((keys,)))[0]
            assert [one.data.count(b"<1>") for one in found] == [1]
    finally:
        await remove_space(url)


async def test_a_watch_that_cannot_go_on_for_a_reason_nobody_thought_of_says_so(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    async with connect(url) as space:
        stream: Any = await space.engine.watch("k")

        async def broken(*_: Any, **__: Any) -> None:
            raise KeyError("unforeseen")

        monkeypatch.setattr(stream._missed, "after", broken)  # noqa: SLF001
        stream.resume()
        with pytest.raises(EngineError, match="unforeseen"):
            await soon(anext(stream))
    assert "unforeseen" in caplog.text


async def test_the_history_of_three_servers_outlives_their_restarts():
    url = f"{shared_cluster().url}/{fresh_space()}?replicas=3"
    try:
        async with connect(url) as space:
            engine: Any = space.engine
            history = await engine._store.info(engine._subjects.history_stream)  # noqa: SLF001
            assert history.config["storage"] == "file"
    finally:
        await remove_space(url)
