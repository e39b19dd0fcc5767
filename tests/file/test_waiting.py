"""Waiting for others: never on the event loop, never for a lost ring, never beyond a lease's end."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import tertulia
from tertulia.engines import _file_bell, _file_hub, _file_time, _file_writer
from tertulia.engines.base import MailboxOptions, Put, Send, Settle
from tertulia.testing import ManualClock
from tests.file.apart import apart
from tests.file.locks import held

PATIENCE = 10.0  # seconds; only a hang meets it


async def test_a_busy_file_keeps_nobody_but_the_writer_waiting(tmp_path: Path):
    path = tmp_path / "space.db"
    async with tertulia.connect(f"file:{path}") as space:
        await space.engine.put(Put("k", b"1", "ada"))
        with held(path):
            writing = asyncio.create_task(space.engine.put(Put("k", b"2", "ada")))
            for _ in range(50):
                await asyncio.sleep(0.001)
                during = await space.engine.get("k")
            waits = not writing.done()
        async with asyncio.timeout(PATIENCE):
            await writing
        after = await space.engine.get("k")

    assert waits
    assert during is not None
    assert after is not None
    assert (during.body, after.body) == (b"1", b"2")


async def test_a_write_that_is_cancelled_while_it_waits_has_not_happened(tmp_path: Path):
    path = tmp_path / "space.db"
    async with tertulia.connect(f"file:{path}") as space:
        with held(path):
            writing = asyncio.create_task(space.engine.put(Put("k", b"1", "ada")))
            await asyncio.sleep(0.02)  # long enough to be in the thread's hands
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing
        await space.engine.put(Put("other", b"", "ada"))
        _, records = await space.engine.scan("")

    assert [record.key for record in records] == ["other"]


async def test_a_claim_that_is_cancelled_when_it_was_done_but_not_told_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with tertulia.connect(f"file:{tmp_path}/space.db", durability="power") as space:
        await space.engine.open_mailbox("ada", MailboxOptions())
        await space.engine.send(Send("ada", "m", b""))
        sound = _file_writer.Writer._settle  # noqa: SLF001 - where the moment is

        def settle(self: Any, *values: Any) -> None:
            sound(self, *values)
            monkeypatch.undo()
            claiming.cancel()  # before the loop has let it go on

        monkeypatch.setattr(_file_writer.Writer, "_settle", settle)
        claiming = asyncio.create_task(space.engine.claim("ada", lease=60.0))
        with suppress(asyncio.CancelledError):
            await claiming
        async with asyncio.timeout(PATIENCE):
            after = await space.engine.claim("ada", wait=None)

    assert claiming.cancelled()
    assert [claimed.message_id for claimed in after] == ["m"]


@pytest.mark.parametrize("turns", range(0, 40, 3))
async def test_a_claim_that_is_cancelled_under_way_holds_nothing(tmp_path: Path, turns: int):
    async with tertulia.connect(f"file:{tmp_path}/space.db", durability="power") as space:
        await space.engine.open_mailbox("ada", MailboxOptions())
        await space.engine.send(Send("ada", "m", b""))
        claiming = asyncio.create_task(space.engine.claim("ada", lease=60.0))
        for _ in range(turns):
            await asyncio.sleep(0.0001)
        claiming.cancel()
        try:
            claimed = await claiming
        except asyncio.CancelledError:
            async with asyncio.timeout(PATIENCE):
                claimed = await space.engine.claim("ada", wait=None)

    assert [(one.message_id, one.attempt) for one in claimed] == [("m", 1)]


async def test_a_lost_ring_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    url = f"file:{tmp_path}/space.db"
    rung: list[str] = []

    def lose(_: _file_bell.Bell, path: str, datagram: bytes = b"") -> _file_bell.Rung:
        rung.append(path + str(datagram))
        return _file_bell.Rung.YES

    monkeypatch.setattr(_file_bell.Bell, "ring", lose)
    async with await apart(url) as here, await apart(url) as there:
        await here.engine.open_mailbox("ada", MailboxOptions())
        stream = await here.engine.watch("k")
        claiming = asyncio.create_task(here.engine.claim("ada", wait=None))
        await asyncio.sleep(0.01)
        await there.engine.put(Put("k", b"", "ada"))
        await there.engine.send(Send("ada", "m", b""))
        async with asyncio.timeout(PATIENCE):
            change, claimed = await anext(stream), await claiming
        await stream.aclose()

    assert (change.key, claimed[0].message_id) == ("k", "m")
    assert len(rung) >= 2


async def test_without_a_place_for_sockets_processes_look_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_file_hub, "runtime_directory", lambda: None)
    url = f"file:{tmp_path}/space.db"
    got: list[str] = []
    async with await apart(url) as here, await apart(url) as there:
        await here.engine.open_mailbox("ada", MailboxOptions())
        here.engine.listen("_reply:x", lambda claimed: got.append(claimed.message_id))
        claiming = asyncio.create_task(here.engine.claim("ada", wait=None))
        await asyncio.sleep(0.01)
        await there.engine.send(Send("ada", "m", b""))
        await there.engine.send(Send("_reply:x", "r", b""))
        async with asyncio.timeout(PATIENCE):
            claimed = await claiming
            while not got:  # noqa: ASYNC110 - the callback is what is being tested
                await asyncio.sleep(0.01)

    assert ([one.message_id for one in claimed], got) == (["m"], ["r"])


def test_a_directory_whose_path_is_too_long_is_no_place_for_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    long = tmp_path / ("d" * 60)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    monkeypatch.setattr(_file_bell.tempfile, "gettempdir", lambda: str(long))

    assert _file_bell.runtime_directory() is None


async def test_leases_of_an_earlier_boot_are_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    url = f"file:{tmp_path}/space.db"
    async with tertulia.connect(url) as space:
        await space.engine.open_mailbox("ada", MailboxOptions())
        await space.engine.send(Send("ada", "held", b""))
        await space.engine.send(Send("ada", "late", b"", delay=600.0))
        await space.engine.open_mailbox("bob", MailboxOptions())
        await space.engine.send(Send("bob", "once", b"", dedupe=True))
        await space.engine.settle(Settle("bob", "once"))
        assert len(await space.engine.claim("ada", lease=600.0)) == 1

    monkeypatch.setattr(_file_time, "_boot_id", lambda: "another boot")
    async with tertulia.connect(url) as space:
        states = {item.message_id: item.state for item in await space.engine.browse("ada")}
        claimed = await space.engine.claim("ada")
        again = await space.engine.send(Send("bob", "once", b"", dedupe=True))
        problems = [finding for finding in await space.doctor() if finding.level == "problem"]

    assert (again.duplicate, problems) == (True, [])
    assert states == {"held": "waiting", "late": "delayed"}
    assert [(one.message_id, one.attempt, one.failures) for one in claimed] == [("held", 2, 1)]


async def test_a_key_of_a_process_that_died_expires_for_those_who_watch(tmp_path: Path):
    url = f"file:{tmp_path}/space.db"
    clock = ManualClock()
    async with await apart(url, clock=clock) as here:
        stream = await here.engine.watch("*")
        async with await apart(url, clock=clock) as there:
            await there.engine.put(Put("k", b"", "ada", ttl=5.0))
        async with asyncio.timeout(PATIENCE):
            kinds = [(await anext(stream)).kind.value]
            await asyncio.sleep(0.6)  # real seconds: the slow look finds out when it will expire
            await clock.advance(6.0)
            kinds.append((await anext(stream)).kind.value)
        await stream.aclose()

    assert kinds == ["put", "expire"]
