"""A bit flips in a file: every answer is right or an error that says what is damaged, never a wrong value."""

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

import tertulia
from tertulia.engines import _file_open
from tertulia.engines.base import Commit, Delete, Engine, MailboxOptions, Put, Send, Settle
from tertulia.errors import CorruptRecordError, EngineError, UnknownAgentError, WatchLaggedError
from tertulia.testing import ManualClock
from tertulia.testing.power_loss import Disk, write_files
from tests.figures import Figures
from tests.file.crashes import Run, picture_of, promises_of
from tests.profile import times

KEYS = {f"key:{number}": f"value {number}".encode() * (1 + number % 40) for number in range(120)}
MAIL = {f"m{number}": f"body {number}".encode() * (1 + number % 90) for number in range(60)}
HIDDEN = {"scan", "scan by tag", "claim", "what is remembered", "a mailbox"}  # what may be missed, never changed
SETTLED = [f"s{number}" for number in range(30)]
FLIPS = times(300, 5_000)
FEWER = times(100, 5_000)  # for what is tried besides


async def _fill(engine: Engine) -> None:
    for key, body in KEYS.items():
        await engine.put(Put(key, body, "ada", tags=("x",)))
    await engine.open_mailbox("ada", MailboxOptions(max_size=1000))
    await engine.open_mailbox("bob", MailboxOptions())
    await engine.subscribe("ada", "news")
    for message_id in SETTLED:
        await engine.send(Send("bob", message_id, b"", dedupe=True))
        await engine.settle(Settle("bob", message_id))
    for message_id, body in MAIL.items():
        await engine.send(Send("ada", message_id, body))


@pytest.fixture
async def whole(tmp_path: Path) -> bytes:
    """The content of a file with a space in it."""
    path = tmp_path / "whole.db"
    async with tertulia.connect(f"file:{path}", clock=ManualClock()) as space:
        await _fill(space.engine)
    content = path.read_bytes()
    _remove(path)
    return content


def _remove(path: Path) -> None:
    for item in path.parent.glob(f"{path.name}*"):
        item.unlink()


def _flipped(content: bytes, chance: random.Random) -> bytes:
    bit = chance.randrange(len(content) * 8)
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def _damaged_files(content: bytes, directory: Path, count: int, seed: int) -> Iterator[tuple[int, Path]]:
    """Yield files with one bit flipped in each, and remove them again."""
    chance = random.Random(seed)  # noqa: S311 - for a test
    for number in range(count):
        path = directory / f"{number}.db"
        path.write_bytes(_flipped(content, chance))
        yield number, path
        _remove(path)


async def _wrong(path: Path) -> tuple[set[str], bool]:
    """Read everything in a file; return where it is wrong, and whether an error told of it."""
    wrong: set[str] = set()
    told = False
    try:
        async with tertulia.connect(f"file:{path}", clock=ManualClock()) as space:
            engine = space.engine
            for key, body in KEYS.items():
                try:
                    record = await engine.get(key)
                    if record is None or record.body != body or record.tags != ("x",):
                        wrong.add("get")
                except CorruptRecordError as error:
                    told = bool(error.key)
            wrong |= await _wrong_lists(engine) | await _wrong_mail(engine)
            if (await space.agents())[0].topics != ("news",):
                wrong.add("topics")
    except UnknownAgentError:
        wrong.add("a mailbox")
    except (EngineError, WatchLaggedError):
        told = True
    return wrong, told


async def _wrong_lists(engine: Engine) -> set[str]:
    wrong: set[str] = set()
    for name, tags in (("scan", None), ("scan by tag", frozenset({"x"}))):
        found = {record.key: record.body for record in (await engine.scan("key:", tags=tags))[1]}
        if found != KEYS:
            wrong.add(name if found.items() <= KEYS.items() else f"{name}: values")
    stream = await engine.watch("*", after=0)
    changes = [await anext(stream) for _ in KEYS]
    await stream.aclose()
    if {change.key: change.record.body for change in changes if change.record} != KEYS:
        wrong.add("watch")
    return wrong


async def _wrong_mail(engine: Engine) -> set[str]:
    wrong: set[str] = set()
    again = [await engine.send(Send("bob", message_id, b"", dedupe=True)) for message_id in SETTLED]
    if not all(sent.duplicate for sent in again):
        wrong.add("what is remembered")
    claimed = {one.message_id: one.body for one in await engine.claim("ada", limit=1000)}
    if claimed != MAIL:
        wrong.add("claim" if claimed.items() <= MAIL.items() else "claim: values")
    return wrong


@pytest.mark.campaign
async def test_every_flipped_bit_is_harmless_or_an_error(whole: bytes, tmp_path: Path, figures: Figures):
    (tmp_path / "whole.db").write_bytes(whole)
    assert await _wrong(tmp_path / "whole.db") == (set(), False)
    silent: list[tuple[int, set[str]]] = []
    told_of = 0
    for number, path in _damaged_files(whole, tmp_path, FLIPS, seed=3):
        wrong, told = await _wrong(path)
        told_of += told
        if wrong and not told:
            silent.append((number, wrong))
    figures(flipped_bits=FLIPS, told_of=told_of)

    assert silent == []
    assert told_of > FLIPS // 4


@pytest.mark.campaign
async def test_in_a_file_too_large_to_be_checked_whole_lists_may_miss_something_until_doctor_finds_it(
    whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: Figures
):
    monkeypatch.setattr(_file_open, "CHECKED_BYTES", 0)
    missing = 0
    for number, path in _damaged_files(whole, tmp_path, FEWER, seed=4):
        content = path.read_bytes()
        wrong, told = await _wrong(path)
        if wrong and not told:
            assert wrong <= HIDDEN, number
            missing += 1
            _remove(path)
            path.write_bytes(content)
            async with tertulia.connect(f"file:{path}", clock=ManualClock()) as space:
                assert [finding for finding in await space.doctor() if finding.level == "problem"], number
    figures(flipped_bits=FEWER, hidden_until_doctor=missing)

    assert missing < FEWER // 10  # about one in forty


@pytest.mark.campaign
async def test_a_flipped_bit_in_the_log_takes_the_newest_commits_at_most(tmp_path: Path, figures: Figures):
    run = Run()
    (tmp_path / "live").mkdir()
    await run.work(tmp_path / "live", "power", seed=1, steps=10)
    promises = promises_of(run, tmp_path)
    known = {picture.digest for picture in promises.pictures}
    disk = Disk()
    for event in run.events[: promises.commits[-1] + 1]:
        disk.apply(event)
    files = disk.now()
    chance = random.Random(5)  # noqa: S311 - for a test
    shortened = 0
    for number in range(FEWER):
        place = tmp_path / str(number)
        place.mkdir()
        write_files({**files, "space.db-wal": _flipped(files["space.db-wal"], chance)}, place)
        async with tertulia.connect(f"file:{place}/space.db") as space:
            problems = [finding for finding in await space.doctor() if finding.level == "problem"]
            found = picture_of(place / "space.db").digest
        assert problems == []
        assert found in known
        shortened += found != promises.pictures[-1].digest
    figures(flipped_bits_in_the_log=FEWER, shortened=shortened)

    assert shortened > FEWER // 4


async def test_a_damaged_record_is_named_and_can_be_removed(tmp_path: Path):
    path = tmp_path / "space.db"
    async with tertulia.connect(f"file:{path}") as space:
        await space.engine.put(Put("good", b"1", "ada"))
        await space.engine.put(Put("bad", b"2", "ada"))
    with sqlite3.connect(path) as other:
        other.execute("UPDATE records SET body = x'33' WHERE key = 'bad'")
    other.close()

    async with tertulia.connect(f"file:{path}") as space:
        with pytest.raises(CorruptRecordError, match="'bad'") as caught:
            await space.engine.get("bad")
        problems = [finding.detail for finding in await space.doctor() if finding.level == "problem"]
        good = await space.engine.get("good")
        assert await space.memory.delete("bad", requester="ada")
        after = [finding.detail for finding in await space.doctor() if finding.level == "problem"]

    assert caught.value.key == "bad"
    assert good is not None
    assert good.body == b"1"
    assert len(problems) == 1
    assert "bad" in problems[0]
    assert after == []


async def test_a_damaged_memory_of_a_message_is_an_error_that_names_it(tmp_path: Path):
    path = tmp_path / "space.db"
    async with tertulia.connect(f"file:{path}") as space:
        await space.engine.open_mailbox("bob", MailboxOptions())
        await space.engine.send(Send("bob", "once", b"", dedupe=True))
        await space.engine.settle(Settle("bob", "once"))
        with sqlite3.connect(path) as other:
            other.execute("UPDATE markers SET until = 0")
        other.close()
        with pytest.raises(CorruptRecordError, match="'once'"):
            await space.engine.send(Send("bob", "once", b"", dedupe=True))
        problems = [finding.detail for finding in await space.doctor() if finding.level == "problem"]

    assert len(problems) == 1
    assert "once" in problems[0]


@pytest.mark.parametrize(("revision", "kind"), [(1, 1), (1, 2), (2, 0), (2, 2)])
async def test_a_change_of_another_kind_is_an_error_and_no_other_change(tmp_path: Path, revision: int, kind: int):
    path = tmp_path / "space.db"
    async with tertulia.connect(f"file:{path}") as space:
        await space.engine.put(Put("k", b"1", "ada"))
        await space.engine.commit(Commit(deletes=(Delete("k"),)))
        with sqlite3.connect(path) as other:
            other.execute("UPDATE changes SET kind = ? WHERE revision = ?", (kind, revision))
        other.close()
        stream = await space.engine.watch("k", after=revision - 1)
        with pytest.raises(CorruptRecordError):
            await anext(stream)
        await stream.aclose()


async def test_a_damaged_mailbox_is_found_when_the_file_is_opened(tmp_path: Path):
    path = tmp_path / "space.db"
    async with tertulia.connect(f"file:{path}") as space:
        await space.engine.open_mailbox("bob", MailboxOptions())
    with sqlite3.connect(path) as other:
        other.execute("UPDATE heads SET name = 'bab' WHERE name = 'bob'")
    other.close()

    with pytest.raises(EngineError, match="'bab'"):
        await tertulia.connect(f"file:{path}")


async def test_a_damaged_description_of_a_table_is_found_however_large_the_file_is(
    whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_file_open, "CHECKED_BYTES", 0)
    path = tmp_path / "space.db"
    described = b"CREATE TABLE records(\n  id INTEGER PRIMARY KEY"
    assert described in whole
    path.write_bytes(whole.replace(described, described.replace(b"PRIMARY", b"PBIMARY")))  # a column like any other

    with pytest.raises(EngineError, match="tables are not as they were made"):
        await tertulia.connect(f"file:{path}")
