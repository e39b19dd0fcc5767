"""What the other processes of these tests do: `python -m tests.file.workers ROLE URL …`."""

import asyncio
import resource
import signal
import sys
from typing import Any

import tertulia
from tertulia.engines.base import Check, CheckFailed, Commit, Engine, Publish, Put, Send, Settle
from tertulia.errors import AlreadySettledError, EngineError
from tertulia.testing.sqlite_files import CallKind, FailingCalls, SQLiteFiles

LEASE = 0.3  # seconds; what a killed consumer held comes back soon


def say(*words: object) -> None:
    """Tell the test something, as a line of its own."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def increment(engine: Engine, times: str) -> None:
    for _ in range(int(times)):
        while True:
            record = await engine.get("count")
            assert record is not None
            more = Put("count", str(int(record.body) + 1).encode(), "ada")
            try:
                await engine.commit(Commit(checks=(Check("count", revision=record.revision),), puts=(more,)))
                break
            except CheckFailed:
                await asyncio.sleep(0)


async def consume(engine: Engine, mailbox: str, idle: str) -> None:
    """Settle whatever comes, and write down what it was, in one commit each, until nothing comes any more."""
    while claimed := await engine.claim(mailbox, limit=2, lease=LEASE, wait=float(idle)):
        for one in claimed:
            settle = Settle(one.mailbox, one.message_id, one.sequence)
            try:
                await engine.commit(Commit(settles=(settle,), puts=(Put(f"done:{one.message_id}", b"", "ada"),)))
            except AlreadySettledError:
                say("late", one.message_id)


async def write(engine: Engine, prefix: str, times: str) -> None:
    for number in range(int(times)):
        await engine.put(Put(f"{prefix}:{number}", b"value", prefix))
        if number % 10 == 9:
            await asyncio.sleep(0)


async def echo(engine: Engine, mailbox: str) -> None:
    """Answer what comes: by a durable message to the mailbox that the body names, or by an emitted one."""
    say("ready")
    while True:
        for one in await engine.claim(mailbox, wait=None):
            reply = Send(one.body.decode(), one.message_id, b"answer", optional=True)
            if one.transient:
                await engine.emit(reply)
            else:
                settle = Settle(one.mailbox, one.message_id, one.sequence)
                await engine.commit(Commit(settles=(settle,), sends=(reply,)))


async def hold(engine: Engine, mailbox: str) -> None:
    """Claim a message for a minute, listen to a mailbox, watch, and wait to be killed."""
    await engine.watch("*")
    engine.listen("_reply:held", lambda _: None)
    say(len(await engine.claim(mailbox, lease=60.0)))
    await engine.claim("nothing", wait=None)


async def publish(engine: Engine, topic: str, times: str) -> None:
    for number in range(int(times)):
        await engine.send(Publish(topic, f"p{number}", b""))


async def fill(engine: Engine, size: str) -> None:
    """Write until the system refuses, with files limited to `size` bytes; then say what was acknowledged."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))
    number = 0
    try:
        while True:
            pair = (Put(f"a:{number}", b"v" * 900, "ada"), Put(f"b:{number}", b"v" * 900, "ada"))
            await engine.commit(Commit(puts=pair))
            number += 1
    except EngineError as error:
        say("refused", type(error).__name__, number)


async def write_at_once(_: Engine, url: str, name: str, writers: str, times: str) -> None:
    """Have writers write beside each other, each commit waiting for the disk; say how often the log was synced."""
    log = FailingCalls([CallKind.SYNC], code=0, only=lambda path: path.endswith("-wal"))

    async def write_often(engine: Engine, writer: int) -> None:
        for _ in range(int(times)):
            await engine.put(Put(f"{name}:{writer}", b"", name))

    with SQLiteFiles(log) as files:
        options: dict[str, Any] = {"durability": "power", "_vfs": files.name}
        async with tertulia.connect(url, **options) as space:
            await asyncio.gather(*(write_often(space.engine, writer) for writer in range(int(writers))))
            say(log.seen)


async def main(role: str, url: str, *values: str) -> None:
    async with tertulia.connect(url) as space:
        await globals()[role](space.engine, *values)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
