"""Processes that share a file lose nothing, do nothing twice, and wake each other."""

import asyncio
from pathlib import Path

import tertulia
from tertulia.engines._file_bell import runtime_directory
from tertulia.engines.base import Claimed, Engine, MailboxOptions, Put, Send
from tests.file.processes import PATIENCE, kill, line, run, start, started

MANY = MailboxOptions(max_size=1_000_000)


async def test_four_processes_that_increment_one_key_lose_nothing(tmp_path: Path):
    url = f"file:{tmp_path}/space.db"
    async with tertulia.connect(url) as space:
        await space.engine.put(Put("count", b"0", "ada"))
        await run(*[("increment", url, 250)] * 4)

        record = await space.engine.get("count")

    assert record is not None
    assert (record.body, record.version) == (b"1000", 1001)


async def test_consumers_in_four_processes_handle_each_message_once(tmp_path: Path):
    url = f"file:{tmp_path}/space.db"
    async with tertulia.connect(url) as space:
        await space.engine.open_mailbox("work", MANY)
        for number in range(400):
            await space.engine.send(Send("work", f"m{number}", b""))
        said = await run(*[("consume", url, "work", 0.5)] * 4)

        _, done = await space.engine.scan("done:")
        left = await space.engine.browse("work")

    assert (len(done), {record.version for record in done}, left) == (400, {1}, [])
    assert said == [[], [], [], []]


async def test_a_watch_sees_every_change_of_other_processes_in_order(tmp_path: Path):
    url = f"file:{tmp_path}/space.db"
    async with tertulia.connect(url) as space:
        stream = await space.engine.watch("*")
        writing = asyncio.create_task(run(("write", url, "a", 300), ("write", url, "b", 300)))
        async with asyncio.timeout(PATIENCE):
            seen = [await anext(stream) for _ in range(600)]
        await writing
        await stream.aclose()

    revisions = [change.revision for change in seen]
    assert revisions == list(range(1, 601))
    for name in "ab":
        keys = [change.key for change in seen if change.key.startswith(name)]
        assert keys == [f"{name}:{number}" for number in range(300)]


async def _ask(engine: Engine, message: Send, *, emit: bool) -> Claimed:
    answer: asyncio.Future[Claimed] = asyncio.get_running_loop().create_future()
    stop = engine.listen("_reply:me", answer.set_result)
    try:
        async with asyncio.timeout(PATIENCE):
            if not emit:
                await engine.send(message)
            while emit and not await engine.emit(message):  # noqa: ASYNC110 - nobody here knows when it begins
                await asyncio.sleep(0.01)
            return await answer
    finally:
        stop()


async def test_requests_and_replies_pass_between_processes(tmp_path: Path):
    url = f"file:{tmp_path}/space.db"
    async with tertulia.connect(url) as space:
        await space.engine.open_mailbox("echo", MANY)
        async with started("echo", url, "echo") as process:
            assert await line(process) == "ready"
            stored = await _ask(space.engine, Send("echo", "q1", b"_reply:me"), emit=False)
            async with asyncio.timeout(PATIENCE):
                emitted = await _ask(space.engine, Send("echo", "q2", b"_reply:me"), emit=True)

    assert (stored.message_id, stored.body) == ("q1", b"answer")
    assert (emitted.message_id, emitted.body, emitted.transient) == ("q2", b"answer", True)


async def test_what_a_killed_process_left_behind_is_cleaned_up(tmp_path: Path):
    url = f"file:{tmp_path}/space.db"
    async with tertulia.connect(url) as space:
        engine = space.engine
        await engine.open_mailbox("work", MANY)
        await engine.open_mailbox("nothing", MANY)
        await engine.send(Send("work", "m", b""))
        process = await start("hold", url, "work")
        assert await line(process) == "1"
        held = await engine.send(Send("_reply:held", "r1", b"", optional=True))
        await kill(process)

        await engine.put(Put("rings", b"", "ada"))  # and nobody is there to hear it
        gone = await engine.send(Send("_reply:held", "r2", b"", optional=True))
        states = [message.state for message in await engine.browse("work")]

    assert (held.delivered, gone.delivered, states) == (1, 0, ["leased"])


async def test_a_process_that_joins_clears_away_what_killed_ones_left_and_nobody_rings(tmp_path: Path):
    url = f"file:{tmp_path}/space.db"
    async with tertulia.connect(url) as space:
        await space.engine.open_mailbox("work", MANY)
        await space.engine.open_mailbox("nothing", MANY)
    for _ in range(2):
        process = await start("hold", url, "work")
        await line(process)
        await kill(process)
    async with started("hold", url, "work") as living:
        await line(living)
        async with tertulia.connect(url) as space:
            space.engine.listen("_reply:me", lambda _: None)
            detail = {finding.subject: finding.detail for finding in await space.doctor()}["doorbells"]
            found = (tmp_path / "space.db").stat()
            directory = runtime_directory()
            assert directory is not None
            sockets = list(directory.glob(f"{found.st_dev:x}-{found.st_ino:x}-*"))

    assert detail.endswith(f": {living.pid}")
    assert len(sockets) == 2
