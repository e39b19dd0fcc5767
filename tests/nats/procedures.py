"""What is done to an engine to find out whether it has one of the bugs; each is a matter of a second or two."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from unittest.mock import AsyncMock, patch

from tertulia import DeliveryMode, Message, Space, connect
from tertulia.engines import _nats_keeper
from tertulia.engines._nats_format import GONE, LIVE, ROLL, mail_state
from tertulia.engines._nats_stream import Write, WrongSequence
from tertulia.engines.base import MailboxOptions, Put, Settle
from tertulia.errors import AlreadySettledError, EngineUnavailableError, OutcomeUnknownError
from tests.nats.proxy import Proxy
from tests.nats.server import START_LIMIT, Server, fresh_space, remove_space, shared_server

PATIENCE = 30.0  # seconds for what should happen soon, on a machine that is slow; less where it is meant to fail
DEAF = 0.2  # seconds until a connection is cut after it turned deaf: the server has done by then what it was asked

Procedure = Callable[[], Awaitable[None]]


async def soon(work: Awaitable[Any]) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await work


async def on_a_fresh_space(work: Callable[[str, Proxy, Space], Awaitable[None]], **options: Any) -> None:
    """Do something with a space that is reached through a proxy, and whose URL is given, too."""
    server, name = shared_server(), fresh_space()
    try:
        async with Proxy(server.port) as proxy, connect(f"{proxy.url}/{name}", **options) as space:
            await work(f"{server.url}/{name}", proxy, space)
    finally:
        await remove_space(f"{server.url}/{name}")


def lose_the_next_answer(proxy: Proxy) -> None:
    """Let the server have what is asked next, and cut the connection before its answer comes."""

    def once(_: bytes) -> None:
        proxy.on_request(None)
        proxy.deaf = True
        asyncio.get_running_loop().call_later(DEAF, cut)

    def cut() -> None:
        proxy.deaf = False
        proxy.cut()

    proxy.on_request(once)


# --- what is acknowledged ---


async def a_server_that_is_killed_while_it_stands_still() -> None:
    """What was acknowledged is there afterwards, though the server was killed before it could do anything more."""
    with Server() as server:
        async with connect(f"{server.url}/team", timeout=1.0) as space:
            await space.memory.write("k", 0, owner="ada")
            server.pause()
            with suppress(OutcomeUnknownError, EngineUnavailableError):
                await space.memory.write("k", 1, owner="ada")
                raise AssertionError("a server that stands still has acknowledged something")
            server.kill()


async def answers_that_are_lost() -> None:
    """Whatever is done while its answers are lost is done once, and known to be."""

    async def work(_: str, proxy: Proxy, space: Space) -> None:
        memory = space.memory
        for number in range(1, 4):
            lose_the_next_answer(proxy)
            entry = await soon(memory.write("k", number, owner="ada"))
            lose_the_next_answer(proxy)
            entry = await soon(memory.update("k", -number, updater="ada", expected_revision=entry.revision))
            assert entry.version == 2 * number

    await on_a_fresh_space(work)


async def answers_that_never_come() -> None:
    """What is refused has not happened."""

    async def work(url: str, proxy: Proxy, space: Space) -> None:
        await space.memory.write("k", 0, owner="ada")
        proxy.deaf = True
        with suppress(OutcomeUnknownError):
            await space.memory.write("k", 1, owner="ada")
        async with connect(url) as other:
            try:
                await space.memory.write("l", 1, owner="ada")
            except OutcomeUnknownError:
                pass
            except EngineUnavailableError:
                assert await other.memory.read("l", reader="ada") is None, "it was refused, and is there"
            assert await other.memory.read("k", reader="ada") == 1
        proxy.deaf = False

    await on_a_fresh_space(work, timeout=1.5)


async def requests_that_never_arrive() -> None:
    """What is acknowledged has happened."""

    async def work(url: str, proxy: Proxy, space: Space) -> None:
        await space.memory.write("k", 0, owner="ada")
        proxy.stuck = True
        with suppress(OutcomeUnknownError, EngineUnavailableError):
            await space.memory.write("k", 1, owner="ada")
            async with connect(url) as other:
                assert await other.memory.read("k", reader="ada") == 1, "it was acknowledged, and is not there"
        proxy.cut()
        proxy.stuck = False

    await on_a_fresh_space(work, timeout=1.5)


async def a_leader_that_was_stopped() -> None:
    """What it refuses when it goes on, and the new leader has stored, is done, and done once."""

    async def work(_: str, proxy: Proxy, space: Space) -> None:  # noqa: ARG001 - the shape of such work
        engine: Any = space.engine
        store, memory = engine._store, space.memory  # noqa: SLF001 - there is no other way to have two answers
        store.single = False  # as with replicas, where the refusal may be of another server than the acknowledgement
        entry = await memory.write("k", 0, owner="ada")
        sound = store._publish  # noqa: SLF001
        refusals = [WrongSequence(busy=True), WrongSequence(last=0), WrongSequence(busy=True)]

        async def publish(*details: Any) -> int:
            sequence = await sound(*details)
            if refusals:
                raise refusals.pop()
            return sequence

        store._publish = publish  # noqa: SLF001
        while refusals:
            entry = await soon(memory.update("k", len(refusals), updater="ada", expected_revision=entry.revision))
        assert entry.version == 4
        transaction = space.transaction()
        refusals = [WrongSequence(last=entry.revision)]
        for key in "ab":
            transaction.write(key, 1, owner="ada")
        await soon(transaction.commit())
        assert (transaction.entry("a").version, transaction.entry("b").version) == (1, 1)

    await on_a_fresh_space(work)


async def a_replica_that_lags() -> None:
    """Nobody is shown less than what was there before, though who answers may not have heard of it yet."""

    async def work(_: str, proxy: Proxy, space: Space) -> None:  # noqa: ARG001 - the shape of such work
        engine: Any = space.engine
        store, sound = engine._store, engine._store.wire.collect  # noqa: SLF001 - there is no other way to have a replica
        store.single = False
        lags = 0

        async def collect(*details: Any, **options: Any) -> Any:
            nonlocal lags
            answers = await sound(*details, **options)
            if b"multi_last" in details[1] and lags < 3 and len(answers) > 1:
                lags += 1
                *answers, lost, end = answers
                end.headers["Nats-UpTo-Sequence"] = str(int(lost.headers["Nats-Sequence"]) - 1)
                answers.append(end)
            return answers

        store.wire.collect = collect
        revisions = [(await space.memory.write(f"k{number}", number, owner="ada")).revision for number in range(5)]
        assert len(await space.memory.list_keys()) == 5
        lags = 0
        found = await store.after(revisions[1], store.subjects.all_keys)
        assert [one.seq for one in found] == revisions[2:]

    await on_a_fresh_space(work)


async def commits_that_are_looked_at() -> None:
    """Nobody sees half of a commit."""

    async def work(url: str, proxy: Proxy, space: Space) -> None:  # noqa: ARG001 - the shape of such work
        done = asyncio.Event()

        async def write() -> None:
            for number in range(40):
                async with space.transaction() as transaction:
                    for key in ("p:a", "p:b"):
                        transaction.write(key, number, owner="ada")
            done.set()

        async with connect(url) as other, asyncio.TaskGroup() as group:
            group.create_task(write())
            while not done.is_set():
                snapshot = await other.memory.snapshot("p:*")
                assert len({entry.value for entry in snapshot.entries}) <= 1, "half of a commit is there"

    await on_a_fresh_space(work)


# --- messages ---


async def repetitions_after_a_reconnect() -> None:
    """A message that is sent again after its end is known, also when everything was looked at anew in between."""

    async def work(_: str, proxy: Proxy, space: Space) -> None:
        await space.broker.register_agent("ada")
        message = Message(sender="bob", receiver="ada", content=1, delivery_mode=DeliveryMode.EXACTLY_ONCE)
        await space.broker.send(message)
        delivery = await space.broker.receive("ada", timeout=PATIENCE)
        assert delivery is not None
        await delivery.acknowledge()
        proxy.cut()
        assert (await soon(space.broker.send(message))).duplicate

    await on_a_fresh_space(work)


async def two_who_settle() -> None:
    """Of two attempts at a message one settles it, and the other is told so."""

    async def work(url: str, proxy: Proxy, space: Space) -> None:  # noqa: ARG001 - the shape of such work
        async with connect(url) as other:
            one, two = space.engine, other.engine
            await one.open_mailbox("ada", MailboxOptions())
            for _ in range(5):
                await space.broker.send(Message(sender="bob", receiver="ada"))
                [claimed] = await soon(one.claim("ada", lease=0.05, wait=PATIENCE))
                [again] = await soon(two.claim("ada", lease=60.0, wait=PATIENCE))
                settles = [Settle("ada", one.message_id, one.sequence) for one in (claimed, again)]
                ends = await asyncio.gather(one.settle(settles[0]), two.settle(settles[1]), return_exceptions=True)
                assert sorted(map(type, ends), key=str) == sorted([type(None), AlreadySettledError], key=str)

    await on_a_fresh_space(work)


async def settled_messages_that_a_killed_server_brings_back() -> None:
    """They stay settled, also for who has never heard of them, and are removed again."""
    at_once = patch.multiple(_nats_keeper, KEEP_SETTLED=0, DEDUP_WINDOW=0.0, ROUND=0.0, SHARE=0)
    with Server() as server, at_once:
        async with connect(f"{server.url}/team") as space:
            engine: Any = space.engine
            await space.broker.register_agent("ada")
            with patch.object(engine._store, "write", mortal(engine._store.write)):  # noqa: SLF001 - see there
                for number in range(6):
                    await settle_one(space, (DeliveryMode.AT_LEAST_ONCE, DeliveryMode.EXACTLY_ONCE)[number % 2])
            await settle_one(space, DeliveryMode.AT_LEAST_ONCE)
            await space.broker.send(Message(sender="bob", receiver="ada", content="not yet"))
            with patch.object(engine._keeper, "_retire", AsyncMock()):  # noqa: SLF001 - they go by themselves here
                await engine._keeper.go_round()  # noqa: SLF001 - a handle does it once a minute
            async with asyncio.timeout(START_LIMIT):
                while sorted(await kinds_of(engine, "ada")) != [LIVE, GONE]:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.1)
            server.kill()
            server.start()
            async with connect(f"{server.url}/team") as other:
                for one in (other.engine, engine):
                    assert len(await soon(one.browse("ada"))) == 1, "a settled message is there again"
                    assert (await one.stats()).mailboxes["ada"].waiting == 1
                    claims = await one.claim("ada", limit=100)
                    assert len(claims) == 1
                    assert await one.release(claims[0])
            async with asyncio.timeout(PATIENCE):
                while (await kinds_of(engine, "ada")).count(LIVE) > 1:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.05)


async def settle_one(space: Space, mode: DeliveryMode) -> None:
    await space.broker.send(Message(sender="bob", receiver="ada", delivery_mode=mode))
    delivery = await space.broker.receive("ada", timeout=START_LIMIT)
    assert delivery is not None
    await delivery.acknowledge()


def mortal(write: Callable[[Write], Awaitable[int]]) -> Callable[[Write], Awaitable[int]]:
    """Let markers go soon, as where the server has removed a file with markers, and not an older one with messages."""

    async def written(one: Write) -> int:
        if ".mbx." in one.subject and mail_state(one.subject, one.data).kind == GONE:
            one.ttl = 1
        return await write(one)

    return written


async def kinds_of(engine: Any, mailbox: str) -> list[int]:
    """Return the kinds of all that the server has of a mailbox, but its roll."""
    found, _ = await engine._store.many((engine._subjects.messages(mailbox),))  # noqa: SLF001 - as the server shows it
    kinds = [mail_state(one.subject, one.data).kind for one in found]
    return [kind for kind in kinds if kind != ROLL]


async def a_message_while_a_consumer_is_away() -> None:
    """A consumer who waits gets what was sent while its connection was cut."""

    async def work(url: str, proxy: Proxy, space: Space) -> None:
        await space.broker.register_agent("ada")
        claiming = asyncio.create_task(space.broker.receive("ada"))
        async with connect(url) as other:
            await asyncio.sleep(0.1)
            proxy.stuck = True
            proxy.cut()
            await other.broker.send(Message(sender="bob", receiver="ada", content=1))
        proxy.stuck = False
        delivery = await soon(claiming)
        assert delivery.message.content == 1

    await on_a_fresh_space(work)


# --- watches ---


async def changes_while_a_watcher_is_away() -> None:
    """A watch goes on where it was when its connection was cut."""

    async def work(url: str, proxy: Proxy, space: Space) -> None:
        stream = await space.engine.watch("*")
        async with connect(url) as other:
            for number in range(20):
                if number == 10:
                    proxy.stuck = True
                    proxy.cut()
                await other.engine.put(Put(f"k{number % 3}", b"%d" % number, "ada"))
            proxy.stuck = False
            seen = [(await soon(anext(stream))).record for _ in range(20)]
        assert [int(record.body) for record in seen if record] == [*range(20)]

    await on_a_fresh_space(work)


async def changes_that_are_lost_on_the_way() -> None:
    """A watch sees that it missed some, and reads them."""

    async def work(url: str, proxy: Proxy, space: Space) -> None:  # noqa: ARG001 - the shape of such work
        stream: Any = await space.engine.watch("*")
        heard = stream._on_fed  # noqa: SLF001 - there is no other way to lose one message alone
        stream._subscription._handler = lambda message: None if b"<2>" in message.data else heard(message)  # noqa: SLF001
        async with connect(url) as other:
            for number in range(4):
                await other.engine.put(Put("k", b"<%d>" % number, "ada"))
            seen = [(await soon(anext(stream))).record for _ in range(4)]
        assert [record.body for record in seen if record] == [b"<%d>" % number for number in range(4)]

    await on_a_fresh_space(work)


async def a_server_that_is_away_for_longer_than_a_call_waits() -> None:
    """A watch waits for as long as it takes."""
    with Server() as server:
        async with connect(f"{server.url}/team", timeout=0.5) as space:
            stream: Any = await space.engine.watch("*")
            server.pause()
            stream.resume()
            await asyncio.sleep(1.2)
            server.resume()
            await insist(lambda: space.memory.write("k", 1, owner="ada"))
            assert (await soon(anext(stream))).key == "k"


async def insist(work: Callable[[], Awaitable[Any]]) -> Any:
    """Try until it succeeds."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(EngineUnavailableError, OutcomeUnknownError):
                return await work()
