"""What is stored for the listener of another process is handed over by the bell: once, in order, and never lost."""

import asyncio
from pathlib import Path

import pytest

from tertulia.engines import _file_bell, _file_letters
from tertulia.engines._file_bell import Bell, Rung
from tertulia.engines.base import Engine, Send
from tertulia.engines.file import FileEngine
from tests.file.apart import two_processes

PATIENCE = 10.0  # seconds; only a hang meets it
MANY = 60  # more than any bell has room for


def listening(engine: Engine) -> list[str]:
    """Listen, and return the list that the ids of what comes are added to."""
    got: list[str] = []
    engine.listen("_reply:x", lambda claimed: got.append(claimed.message_id))
    return got


async def until_there_are(got: list[str], count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while len(got) < count:  # noqa: ASYNC110 - the callback is what is being tested
            await asyncio.sleep(0.001)


async def until_none_is_stored(engine: FileEngine) -> None:
    hub = engine._hub  # noqa: SLF001 - what is in the file is seen by nobody else
    async with asyncio.timeout(PATIENCE):
        while hub.execute("SELECT count(*) FROM letters").get:  # noqa: ASYNC110 - the file tells nobody
            await asyncio.sleep(0.001)


def names(count: int) -> list[str]:
    return [f"r{number}" for number in range(count)]


async def test_a_reply_that_was_carried_is_not_handed_over_again_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_file_letters, "LETTERS_LEFT", 0.01)
    async with two_processes(tmp_path) as (here, there):
        got = listening(here)
        for name in names(3):
            await there.send(Send("_reply:x", name, b""))
        await until_there_are(got, 3)
        here._hub.look_around()  # noqa: SLF001 - as when a bell is rung
        await until_none_is_stored(here)

    assert got == names(3)


async def test_a_reply_that_is_read_before_its_ring_is_heard_comes_once(tmp_path: Path):
    async with two_processes(tmp_path) as (here, there):
        got = listening(here)
        await there.send(Send("_reply:x", "r0", b""))  # in the bell, and not heard yet
        here._hub.look_around()  # noqa: SLF001 - as when a bell is rung
        read = list(got)
        await there.send(Send("_reply:x", "r1", b""))
        await until_there_are(got, 2)

    assert (read, got) == (["r0"], ["r0", "r1"])


async def test_a_bell_that_is_full_delays_replies_but_loses_and_turns_none(tmp_path: Path):
    async with two_processes(tmp_path) as (here, there):
        got = listening(here)
        for name in names(MANY):  # without giving the listener a turn
            await there.send(Send("_reply:x", name, b""))
        at_once = len(got)
        await until_there_are(got, MANY)

    assert at_once == 0
    assert got == names(MANY)


@pytest.mark.parametrize("lost", [0, 2, 4])
async def test_a_reply_whose_ring_is_lost_is_not_overtaken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: int):
    async with two_processes(tmp_path) as (here, there):
        got = listening(here)
        await there.send(Send("_reply:x", "first", b""))  # so that both are set up
        await until_there_are(got, 1)
        rings: list[bytes] = []
        ring = Bell.ring

        def lose_one(self: Bell, path: str, datagram: bytes = _file_bell.RING) -> Rung:
            rings.append(datagram)
            return Rung.FULL if len(rings) == lost + 1 else ring(self, path, datagram)

        monkeypatch.setattr(Bell, "ring", lose_one)
        for name in names(5):
            await there.send(Send("_reply:x", name, b""))
        await until_there_are(got, 6)

    assert got == ["first", *names(5)]
    assert _file_bell.RING in rings[lost + 1 :]


async def test_what_is_emitted_does_not_overtake_what_was_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with two_processes(tmp_path) as (here, there):
        got = listening(here)
        await there.send(Send("_reply:x", "first", b""))  # so that both are set up
        await until_there_are(got, 1)
        ring = Bell.ring
        monkeypatch.setattr(Bell, "ring", lambda *_: Rung.FULL)
        await there.send(Send("_reply:x", "stored", b""))
        monkeypatch.setattr(Bell, "ring", ring)
        taken = await there.emit(Send("_reply:x", "emitted", b""))
        await until_there_are(got, 3)

    assert taken == 1
    assert got == ["first", "stored", "emitted"]


async def test_a_reply_too_large_for_a_bell_comes_in_order_all_the_same(tmp_path: Path):
    async with two_processes(tmp_path) as (here, there):
        got = listening(here)
        for name, size in (("r0", 10), ("r1", 2 * _file_bell.MAX_DATAGRAM), ("r2", 10)):
            await there.send(Send("_reply:x", name, b"x" * size))
        await until_there_are(got, 3)

    assert got == names(3)


async def test_replies_are_removed_from_the_file_though_more_and_more_come(tmp_path: Path):
    async with two_processes(tmp_path) as (here, there):
        got = listening(here)
        total = _file_letters.LETTERS + MANY
        for number, name in enumerate(names(total)):
            await there.send(Send("_reply:x", name, b""))
            await until_there_are(got, number + 1)
        stored = here._hub.execute("SELECT count(*) FROM letters").get  # noqa: SLF001 - seen by nobody else

    assert got == names(total)
    assert stored < total
