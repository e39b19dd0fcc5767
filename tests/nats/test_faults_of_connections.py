"""Connections that are cut, deaf, stuck or slow: what was done is known to be, and what was lost is made up for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tertulia import Message, MessagePassingAgent, Space, connect
from tertulia.engines.base import Commit, Delete, MailboxOptions, Put, Record, Send, Settle
from tertulia.errors import AlreadySettledError, EngineUnavailableError, OutcomeUnknownError
from tests.nats.proxy import Proxy
from tests.nats.runs import PATIENCE, soon
from tests.nats.server import Server

DEAF = 0.2  # seconds until a connection is cut after it turned deaf: the server has done by then what it was asked


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - whoever makes it so tells nobody
            await asyncio.sleep(0.02)


@asynccontextmanager
async def behind_a_proxy(url: str, **options: Any) -> AsyncIterator[tuple[Proxy, Space]]:
    """Open a space through a proxy that the test can disturb."""
    base, _, name = url.rpartition("/")
    async with Proxy(int(base.rpartition(":")[2])) as proxy, connect(f"{proxy.url}/{name}", **options) as space:
        yield proxy, space


async def lose_the_answer(proxy: Proxy, work: Awaitable[Any]) -> Any:
    """Do something whose acknowledgement is lost with the connection, once the server has had it."""

    def once(_: bytes) -> None:
        proxy.on_request(None)
        proxy.deaf = True

        def cut() -> None:
            proxy.deaf = False
            proxy.cut()

        asyncio.get_running_loop().call_later(DEAF, cut)

    proxy.on_request(once)
    return await soon(work)


# --- acknowledgements that are lost ---


async def test_a_write_whose_acknowledgement_is_lost_is_done_once_and_known_to_be(url: str):
    async with behind_a_proxy(url) as (proxy, space):
        engine = space.engine
        first = await lose_the_answer(proxy, engine.put(Put("k", b"1", "ada")))
        record = await found(space, "k")
        assert (first.revision, record.version) == (record.revision, 1)
        second = await lose_the_answer(proxy, engine.put(Put("k", b"2", "ada")))
        assert second.version == 2
        deleting = engine.commit(Commit(deletes=(Delete("k"),)))
        assert (await lose_the_answer(proxy, deleting)).deleted == (True,)
        assert await engine.get("k") is None


async def test_a_message_whose_acknowledgements_are_lost_is_stored_claimed_and_settled_once(url: str):
    async with behind_a_proxy(url) as (proxy, space):
        engine = space.engine
        await engine.open_mailbox("ada", MailboxOptions())
        sent = await lose_the_answer(proxy, engine.send(Send("ada", "m", b"body")))
        assert (sent.delivered, sent.duplicate) == (1, False)
        [claimed] = await engine.claim("ada", lease=60.0)
        assert claimed.attempt == 1
        await lose_the_answer(proxy, engine.extend(claimed, 120.0))
        await lose_the_answer(proxy, engine.settle(Settle("ada", "m", claimed.sequence)))
        assert await engine.browse("ada") == []
        with pytest.raises(AlreadySettledError):
            await engine.settle(Settle("ada", "m", claimed.sequence))


async def test_a_message_that_was_claimed_before_its_sending_was_acknowledged_is_known_to_be_sent(url: str):
    async with behind_a_proxy(url) as (proxy, space), connect(url) as other:
        await space.engine.open_mailbox("ada", MailboxOptions())
        claiming = asyncio.create_task(other.engine.claim("ada", lease=60.0, wait=None))
        sent = await lose_the_answer(proxy, space.engine.send(Send("ada", "m", b"body")))
        assert (sent.delivered, sent.duplicate) == (1, False)
        [claimed] = await soon(claiming)
        assert claimed.attempt == 1


async def test_a_commit_of_many_parts_whose_acknowledgement_is_lost_is_applied_once(url: str):
    async with behind_a_proxy(url) as (proxy, space):
        engine = space.engine
        await engine.open_mailbox("ada", MailboxOptions())
        for number in range(3):
            commit = Commit(puts=(Put("a", b"", "ada"), Put("b", b"", "ada")), sends=(Send("ada", f"m{number}", b""),))
            done = await lose_the_answer(proxy, engine.commit(commit))
            assert [record.version for record in done.records] == [number + 1] * 2
            assert [(await found(space, key)).revision for key in ("a", "b")] == [one.revision for one in done.records]
        assert [item.message_id for item in await engine.browse("ada")] == ["m0", "m1", "m2"]


async def test_a_commit_is_known_to_be_done_though_others_have_written_over_a_part_of_it(url: str):
    async with behind_a_proxy(url) as (proxy, space), connect(url) as other:
        commit = Commit(puts=(Put("a", b"1", "ada"), Put("b", b"1", "ada")))
        committing = asyncio.create_task(lose_the_answer(proxy, space.engine.commit(commit)))
        async with asyncio.timeout(PATIENCE):
            while await other.engine.get("b") is None:  # noqa: ASYNC110 - it is about this very moment
                await asyncio.sleep(0.005)
        for body in (b"2", b"3"):
            await other.engine.put(Put("b", body, "bob"))
        done = await soon(committing)
        assert [record.version for record in done.records] == [1, 1]
        assert done.records[0].revision == (await found(space, "a")).revision


async def found(space: Space, key: str) -> Record:
    record = await space.engine.get(key)
    assert record is not None
    return record


# --- connections that stand still ---


async def test_a_half_open_connection_is_given_up_and_made_anew(url: str):
    async with behind_a_proxy(url) as (proxy, space):
        await space.memory.write("k", 1, owner="ada")
        before = proxy.connections
        proxy.stuck = True
        reading = asyncio.create_task(space.memory.read("k", reader="ada"))
        await until(lambda: proxy.connections > before)
        proxy.stuck = False
        assert await soon(reading) == 1


async def test_a_half_open_connection_that_takes_no_more_bytes_is_given_up_and_made_anew(url: str):
    large = "x" * 900_000
    async with behind_a_proxy(url, timeout=PATIENCE) as (proxy, space):
        before = proxy.connections
        proxy.stuck = True
        writing = [
            asyncio.create_task(space.memory.write(f"k{number}", large, owner="ada")) for number in range(12)
        ]  # more than all buffers on the way hold
        await until(lambda: proxy.connections > before)
        proxy.stuck = False
        assert {entry.version for entry in await soon(asyncio.gather(*writing))} == {1}


async def test_a_space_closes_in_time_though_its_connection_takes_no_more_bytes(url: str):
    async with behind_a_proxy(url, timeout=0.5) as (proxy, space):
        proxy.stuck = True
        writes = [space.memory.write(f"k{number}", "x" * 900_000, owner="ada") for number in range(12)]
        errors = await soon(asyncio.gather(*writes, return_exceptions=True))
        assert {type(error) for error in errors} <= {EngineUnavailableError, OutcomeUnknownError}
        await soon(space.aclose())


async def test_what_cannot_be_reached_in_time_is_refused_or_in_doubt_and_never_hangs(url: str):
    async with behind_a_proxy(url, timeout=1.0) as (proxy, space):
        await space.broker.register_agent("ada")
        proxy.stuck = True
        calls = {
            "read": space.memory.read("k", reader="ada"),
            "list": space.memory.list_keys(),
            "write": space.memory.write("k", 1, owner="ada"),
            "send": space.broker.send(Message(sender="bob", receiver="ada", content=1)),
            "receive": space.broker.receive("ada", timeout=0.5),
            "agents": space.agents(),
        }
        outcomes = dict(zip(calls, await soon(asyncio.gather(*calls.values(), return_exceptions=True)), strict=True))
        proxy.stuck = False
        for name, outcome in outcomes.items():
            allowed = (
                (EngineUnavailableError, OutcomeUnknownError) if name in ("write", "send") else EngineUnavailableError
            )
            assert isinstance(outcome, allowed), f"{name}: {outcome!r}"


async def test_a_slow_connection_is_slow_and_nothing_else(url: str):
    async with behind_a_proxy(url) as (proxy, space):
        proxy.delay = 0.05
        await space.broker.register_agent("ada")
        async with space.transaction() as tx:
            tx.write("k", 1, owner="ada")
            tx.send(Message(sender="bob", receiver="ada", content="hello"))
        delivery = await soon(space.broker.receive("ada"))
        await delivery.acknowledge()
        assert await space.memory.read("k", reader="ada") == 1


# --- connections that are cut ---


async def test_a_watch_whose_connection_is_cut_sees_every_change(url: str):
    async with behind_a_proxy(url) as (proxy, space), connect(url) as other:
        stream = await space.engine.watch("*")
        wanted: list[bytes] = []
        for number in range(200):
            body = b"<%d>" % number
            wanted.append(body)
            await other.engine.put(Put(f"k{number % 3}", body, "ada"))
            if number % 40 == 20:
                proxy.cut()
        seen = [(await soon(anext(stream))).record for _ in wanted]
        assert [record.body for record in seen if record] == wanted


async def test_requests_are_answered_though_both_sides_lose_their_connections(url: str):
    async with behind_a_proxy(url) as (asking_by, asker), behind_a_proxy(url) as (answering_by, answerer):
        agent = MessagePassingAgent("ada", answerer.broker)

        @agent.on_message("default")
        async def double(message: Message) -> int:
            return message.content * 2

        async with agent:
            for number in range(12):
                request = Message(sender="bob", receiver="ada", content=number)
                asking = asyncio.create_task(asker.broker.request_response(request, timeout=PATIENCE))
                await asyncio.sleep(0.005 * (number % 4))
                (asking_by if number % 2 else answering_by).cut()
                assert (await soon(asking)).content == number * 2


async def test_an_answer_is_found_though_the_answerer_died_before_it_told(url: str, monkeypatch: pytest.MonkeyPatch):
    async with connect(url) as asker, connect(url) as answerer:
        agent = MessagePassingAgent("ada", answerer.broker)

        @agent.on_message("default")
        async def answer(message: Message) -> str:
            return f"{message.content}!"

        engine: Any = answerer.engine
        monkeypatch.setattr(engine._live, "deliver_soon", lambda _: None)  # noqa: SLF001 - as if it had died there
        async with agent:
            request = Message(sender="bob", receiver="ada", content="hello")
            assert (await soon(asker.broker.request_response(request, timeout=PATIENCE))).content == "hello!"


async def test_a_message_of_a_client_that_is_cut_off_comes_again_elsewhere(url: str):
    async with connect(url) as other:
        await other.broker.register_agent("ada")
        await other.broker.send(Message(sender="bob", receiver="ada", content=1))
        async with behind_a_proxy(url) as (proxy, space):
            delivery = await space.broker.receive("ada", timeout=PATIENCE, lease=0.5)
            assert delivery is not None
            proxy.stuck = True
            again = await soon(other.broker.receive("ada"))
            assert again.attempt == 2
            await again.acknowledge()
            proxy.stuck = False
            with pytest.raises(AlreadySettledError):
                await soon(delivery.acknowledge())


async def test_a_space_closes_in_time_though_its_server_is_gone():
    with Server() as server:
        space = await connect(f"{server.url}/team", timeout=3.0)
        await space.broker.register_agent("ada")
        waiting = asyncio.create_task(space.broker.receive("ada"))
        await asyncio.sleep(0.05)
        server.kill()
        await soon(space.aclose())
        await soon(asyncio.wait([waiting]))
        assert isinstance(waiting.exception(), Exception)
