"""What cannot be a space: one clear error each, and everything as it was before, byte for byte."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import pytest

import tertulia
from tertulia.engines._file_format import APPLICATION_ID, FORMAT, SCHEMA
from tertulia.engines.base import Put
from tertulia.errors import (
    EngineError,
    EngineUnavailableError,
    IncompatibleFormatError,
    InvalidInputError,
    InvalidURLError,
    UnsupportedError,
)
from tertulia.testing.power_loss import Disk, Recording, write_files
from tertulia.testing.sqlite_files import SQLiteFiles

# --- files of others ---


def _text(path: Path) -> None:
    path.write_text("these are notes, and no database at all", encoding="ascii")


def _foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE theirs(x)")


def _foreign_with_id(path: Path) -> None:
    _foreign(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA application_id = 7")


def _foreign_and_empty(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA application_id = 7")
        database.execute("PRAGMA user_version = 7")


def _killed(path: Path, *statements: str) -> None:
    """Leave what a program leaves that is killed after these statements: the file, and a log or a journal beside it."""
    recording, disk = Recording(), Disk()
    with SQLiteFiles(recording) as files, closing(apsw.Connection(str(path), vfs=files.name)) as database:
        for statement in statements:
            database.execute(statement).fetchall()
        database.cache_flush()
        for event in recording.events:
            disk.apply(event)
    path.unlink(missing_ok=True)
    write_files(disk.now(), path.parent)


def _foreign_with_a_log(path: Path) -> None:
    _killed(path, "PRAGMA journal_mode = wal", "CREATE TABLE theirs(x)", "INSERT INTO theirs VALUES(zeroblob(9000))")


def _foreign_with_a_journal(path: Path) -> None:
    fill = "INSERT INTO theirs SELECT zeroblob(3000) FROM json_each('[1, 2, 3, 4, 5, 6, 7, 8, 9]')"
    _killed(path, "CREATE TABLE theirs(x)", fill, "BEGIN IMMEDIATE", "UPDATE theirs SET x = 'not to be kept'")


def _of_format(number: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with closing(sqlite3.connect(path)) as database:
            database.executescript(SCHEMA)
            database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            database.execute(f"PRAGMA user_version = {number}")

    return make


# --- damaged spaces ---


def _space(path: Path) -> None:
    """Leave a space that was in use when everything was killed, with most of it in the log."""
    _killed(
        path,
        "PRAGMA page_size = 1024",
        "PRAGMA journal_mode = wal",
        SCHEMA,
        f"PRAGMA application_id = {APPLICATION_ID}",
        f"PRAGMA user_version = {FORMAT}",
        "PRAGMA wal_checkpoint",
        "INSERT INTO boot VALUES(1, 'another', 0)",
    )


def _broken_header(path: Path) -> None:
    _space(path)
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 80 + path.read_bytes()[96:])


def _cut(path: Path) -> None:
    _space(path)
    os.truncate(path, path.stat().st_size // 2)


def _cut_in_the_header(path: Path) -> None:
    _space(path)
    os.truncate(path, 50)


def _overwritten(path: Path) -> None:
    _space(path)
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\x55" * 2048 + content[6144:])


def _without_counters(path: Path) -> None:
    _of_format(FORMAT)(path)


# --- what is no file, or not to be had ---


def _directory(path: Path) -> None:
    path.mkdir()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.with_name("other.db").touch()
    path.symlink_to(path.with_name("other.db"))


def _dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("nothing.db"))


def _directory_for_a_log(path: Path) -> None:
    path.with_name("space.db-wal").mkdir()


def _directory_for_a_lock(path: Path) -> None:
    path.with_name("space.db-lock").mkdir()


def _link_for_a_lock(path: Path) -> None:
    path.with_name("space.db-lock").symlink_to(path.with_name("elsewhere"))


def _contents(directory: Path) -> dict[str, bytes | str]:
    """Return what is in a directory, but for SQLite's shared memory, which is no content, and our own lock file."""
    return {
        item.name: item.read_bytes() if item.is_file() and not item.is_symlink() else str(item.lstat().st_mode)
        for item in directory.iterdir()
        if not item.name.endswith(("-shm", "-lock"))
    }


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        pytest.param(_text, IncompatibleFormatError, "not even a database", id="a text"),
        pytest.param(_foreign, IncompatibleFormatError, "not a space", id="another program's"),
        pytest.param(_foreign_with_id, IncompatibleFormatError, "not a space", id="another program's, with its id"),
        pytest.param(_foreign_and_empty, IncompatibleFormatError, "another program", id="another's empty one"),
        pytest.param(_foreign_with_a_log, IncompatibleFormatError, "not a space", id="another's, with a log"),
        pytest.param(_foreign_with_a_journal, IncompatibleFormatError, "not a space", id="another's, with a journal"),
        pytest.param(_of_format(FORMAT + 1), IncompatibleFormatError, "newer", id="a newer format"),
        pytest.param(_of_format(0), IncompatibleFormatError, "older", id="an older format"),
        pytest.param(_broken_header, EngineError, "space.db", id="a broken header"),
        pytest.param(_cut, EngineError, "damaged", id="a file that was cut"),
        pytest.param(_cut_in_the_header, EngineError, "space.db", id="a file that was cut in its header"),
        pytest.param(_overwritten, EngineError, "damaged", id="a file with foreign pages"),
        pytest.param(_without_counters, EngineError, "counters", id="a space without its counters"),
        pytest.param(_directory, EngineUnavailableError, "is a directory", id="a directory"),
        pytest.param(_pipe, EngineUnavailableError, "not a regular file", id="a pipe"),
        pytest.param(_link, EngineUnavailableError, "symbolic link", id="a link"),
        pytest.param(_dangling_link, EngineUnavailableError, "symbolic link", id="a link to nothing"),
        pytest.param(_directory_for_a_log, EngineUnavailableError, "space.db", id="a directory in the log's place"),
        pytest.param(_directory_for_a_lock, EngineUnavailableError, "-lock", id="a directory in the lock's place"),
        pytest.param(_link_for_a_lock, EngineUnavailableError, "-lock", id="a link in the lock's place"),
    ],
)
async def test_what_is_no_space_is_refused_and_left_as_it_is(
    tmp_path: Path, make: Callable[[Path], None], error: type[EngineError], words: str
):
    path = tmp_path / "space.db"
    make(path)
    before = _contents(tmp_path)

    for durability in ("process", "power"):
        with pytest.raises(error, match=words) as caught:
            await tertulia.connect(f"file:{path}", durability=durability)
        assert type(caught.value) is not EngineError or error is EngineError
        assert str(path) in str(caught.value)
        assert _contents(tmp_path) == before


async def test_a_refused_file_of_another_program_is_left_without_a_trace(tmp_path: Path):
    _foreign(tmp_path / "space.db")
    with pytest.raises(IncompatibleFormatError):
        await tertulia.connect(f"file:{tmp_path}/space.db")

    assert os.listdir(tmp_path) == ["space.db"]  # noqa: PTH208 - not of an asynchronous path


# --- where it may not be ---


@contextmanager
def _mode(path: Path, mode: int) -> Iterator[None]:
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(before)


async def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path):
    with _mode(tmp_path, 0o500):
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write everywhere")
        with pytest.raises(EngineUnavailableError, match="cannot be written"):
            await tertulia.connect(f"file:{tmp_path}/space.db")


@pytest.mark.parametrize("mode", [0o400, 0o200])
async def test_a_file_that_cannot_be_read_and_written_is_an_error(tmp_path: Path, mode: int):
    path = tmp_path / "space.db"
    _space(path)
    with _mode(path, mode):
        if os.access(path, os.R_OK | os.W_OK):
            pytest.skip("this user may read and write everything")
        with pytest.raises(EngineUnavailableError, match="cannot be read and written"):
            await tertulia.connect(f"file:{path}")


async def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "space.db"
    path.touch()
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)

    with pytest.raises(EngineUnavailableError, match="another user"):
        await tertulia.connect(f"file:{path}")


@pytest.mark.parametrize("name", ["n" * 250 + ".db", "n" * 300 + ".db", "/".join(["d" * 100] * 6) + "/space.db"])
async def test_a_path_that_is_too_long_is_an_error(tmp_path: Path, name: str):
    path = tmp_path / name
    if "/" in name:
        path.parent.mkdir(parents=True)

    with pytest.raises(EngineUnavailableError, match="too long"):
        await tertulia.connect(f"file:{path}")


async def test_a_path_that_is_too_long_for_sockets_is_none_for_files(tmp_path: Path):
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    async with tertulia.connect(f"file:{directory}/space.db") as space:
        stream = await space.engine.watch("*")
        await space.engine.put(Put("k", b"", "ada"))
        change = await anext(stream)
        await stream.aclose()

    assert change.key == "k"


async def test_a_missing_directory_is_an_error_and_is_not_made(tmp_path: Path):
    with pytest.raises(EngineUnavailableError, match="does not exist"):
        await tertulia.connect(f"file:{tmp_path}/missing/space.db")

    assert _contents(tmp_path) == {}
    assert not (tmp_path / "missing").exists()


async def test_the_default_directory_is_made_for_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TERTULIA_URL", raising=False)
    async with tertulia.connect() as space:
        await space.memory.write("k", 1, owner="ada")
        modes = {item.name: oct(item.stat().st_mode & 0o777) for item in (tmp_path / ".tertulia").iterdir()}

    assert oct((tmp_path / ".tertulia").stat().st_mode & 0o777) == "0o700"
    assert set(modes.values()) == {"0o600"}
    assert {"space.db", "space.db-wal", "space.db-lock"} <= set(modes)


async def test_an_sqlite_that_loses_commits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")

    with pytest.raises(UnsupportedError, match=r"3\.51\.2"):
        await tertulia.connect(f"file:{tmp_path}/space.db")


@pytest.mark.parametrize("url", ["file:", "file://elsewhere/space.db", "file:a\0b"])
async def test_a_url_that_names_no_file_is_refused(url: str):
    with pytest.raises(InvalidURLError):
        await tertulia.connect(url)


async def test_an_unknown_durability_is_refused(tmp_path: Path):
    with pytest.raises(InvalidInputError, match="process, power"):
        await tertulia.connect(f"file:{tmp_path}/space.db", durability="maybe")


async def test_a_path_alone_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    async with tertulia.connect("team.db") as space:
        await space.memory.write("k", 1, owner="ada")
    async with tertulia.connect(f"{tmp_path}/team.db") as space:
        assert await space.memory.read("k", reader="ada") == 1


async def test_odd_characters_in_a_path_are_part_of_the_name(tmp_path: Path):
    path = tmp_path / "a b%41?#&ñ'.db"
    async with tertulia.connect(f"file:{path}") as space:
        await space.memory.write("k", 1, owner="ada")

    assert path.exists()
