"""Full disks, forks, and files that nobody else may open."""

import asyncio
import os
import sys
import uuid
from pathlib import Path

import pytest

import tertulia
from tertulia.engines import _file_mail
from tertulia.engines.base import MailboxOptions, Put, Send, Settle
from tertulia.errors import (
    AlreadySettledError,
    EngineError,
    MailboxFullError,
)
from tests.file.processes import run

# --- nobody but SQLite opens the file ---


async def test_nothing_but_sqlite_opens_the_live_file(tmp_path: Path):
    opened: list[str] = []
    watching = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            opened.append(os.fsdecode(arguments[0]))

    sys.addaudithook(hook)
    path = tmp_path / "space.db"
    for _ in range(2):
        async with tertulia.connect(f"file:{path}") as space, tertulia.connect(f"file:{path}") as other:
            await space.engine.put(Put("k", b"1", "ada"))
            await space.engine.open_mailbox("ada", MailboxOptions())
            await space.engine.send(Send("ada", uuid.uuid4().hex, b""))
            await space.engine.claim("ada")
            stream = await other.engine.watch("*", after=0)
            await anext(stream)
            await space.engine.scan("")
            await space.engine.stats()
            await space.doctor()
    watching = False

    inside = {Path(name).name for name in opened if Path(name).parent == tmp_path}
    assert inside == {"space.db-lock"}


# --- a full disk ---


@pytest.mark.parametrize("size", [200_000, 1_000_000, 3_000_000])
async def test_a_full_disk_is_an_error_and_leaves_nothing_half_written(tmp_path: Path, size: int):
    url = f"file:{tmp_path}/space.db"
    async with tertulia.connect(url):
        pass
    ((refused,),) = await run(("fill", url, size))
    word, _, acknowledged = refused.split()
    async with tertulia.connect(url) as space:
        _, records = await space.engine.scan("")
        problems = [finding for finding in await space.doctor() if finding.level == "problem"]
        await space.engine.put(Put("room again", b"", "ada"))

    assert word == "refused"
    assert int(acknowledged) > 3
    keys = {record.key for record in records}
    assert keys == {f"{name}:{number}" for name in "ab" for number in range(int(acknowledged))}
    assert problems == []


# --- forks ---


async def test_a_forked_process_is_told_to_connect_anew(tmp_path: Path):
    async with tertulia.connect(f"file:{tmp_path}/space.db") as space:
        await space.engine.put(Put("k", b"1", "ada"))
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                space.engine.get("k").send(None)
                said = b"no error"
            except EngineError as error:
                said = str(error).encode()
            except BaseException as error:  # noqa: BLE001 - the child must end here, whatever happens
                said = repr(error).encode()
            os.write(writing, said)
            os._exit(0)
        os.waitpid(child, 0)  # noqa: ASYNC222 - the child does nothing that waits
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read()
        await space.engine.put(Put("k", b"2", "ada"))
        record = await space.engine.get("k")

    assert b"forked" in said
    assert record is not None
    assert record.body == b"2"


# --- many writes at once ---


async def test_concurrent_commits_with_power_durability_share_a_sync_and_fail_alone(tmp_path: Path):
    async with tertulia.connect(f"file:{tmp_path}/space.db", durability="power") as space:
        engine = space.engine
        await engine.open_mailbox("tiny", MailboxOptions(max_size=5))
        outcomes = await asyncio.gather(
            *(engine.put(Put(f"k{number}", b"", "ada")) for number in range(50)),
            *(engine.send(Send("tiny", f"m{number}", b"")) for number in range(20)),
            return_exceptions=True,
        )
        stats = await engine.stats()

    failed = [outcome for outcome in outcomes if isinstance(outcome, MailboxFullError)]
    assert (len(failed), stats.keys, stats.mailboxes["tiny"].waiting) == (15, 50, 5)
    assert [outcome for outcome in outcomes if isinstance(outcome, BaseException)] == failed


async def test_the_log_stays_bounded_while_many_writes_happen(tmp_path: Path):
    path = tmp_path / "space.db"
    async with tertulia.connect(f"file:{path}") as space:
        for number in range(6_000):
            await space.engine.put(Put(f"k{number % 50}", b"x" * 500, "ada"))
            if number % 20 == 0:
                await asyncio.sleep(0)
        size = path.with_name("space.db-wal").stat().st_size

    assert size < 32 * 2**20  # all of it is more than twice that


async def test_a_message_that_cannot_be_told_from_another_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two ids share a hash of 63 bits once in many lifetimes; then the second one is an error, and not a duplicate."""
    monkeypatch.setattr(_file_mail, "place_in", lambda *_: 7)
    async with tertulia.connect(f"file:{tmp_path}/space.db") as space:
        await space.engine.open_mailbox("ada", MailboxOptions())
        await space.engine.send(Send("ada", "m1", b"1"))
        with pytest.raises(EngineError, match="'m2' cannot be told from message 'm1'"):
            await space.engine.send(Send("ada", "m2", b"2"))
        with pytest.raises(AlreadySettledError):
            await space.engine.settle(Settle("ada", "m2"))
        again = await space.engine.send(Send("ada", "m1", b"1"))
        stored = [(one.message_id, one.body) for one in await space.engine.claim("ada", limit=5)]

    assert again.duplicate
    assert stored == [("m1", b"1")]
