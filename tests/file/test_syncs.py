"""How often the disk is waited for: once for all commits that wait at the same time, and not at all where nobody asked.

Counted, never timed.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import tertulia
from tertulia._clock import SystemClock
from tertulia.engines import _file_writer
from tertulia.engines.base import Put
from tertulia.testing.sqlite_files import CallKind, FailingCalls, SQLiteFiles
from tests.file.locks import held
from tests.file.processes import run

WRITES = 200  # fewer than a group may have


@dataclass
class Setting:
    """A space whose log is watched, by the path of its file."""

    path: Path
    spaces: list[tertulia.Space]
    log: FailingCalls

    async def syncs_of(self, *writes: list[Put]) -> int:
        """Return how often the log is synced while each handle makes its writes, all of them at once."""
        before = self.log.seen
        with held(self.path):
            making = [
                asyncio.create_task(space.engine.put(put))
                for space, puts in zip(self.spaces, writes, strict=True)
                for put in puts
            ]
            await asyncio.sleep(0)  # each of them has asked by now
        await asyncio.gather(*making)
        return self.log.seen - before


@asynccontextmanager
async def _setting(directory: Path, durability: str, handles: int = 1) -> AsyncIterator[Setting]:
    """Open handles that share nothing but the file, as processes do."""
    log = FailingCalls([CallKind.SYNC], code=0, only=lambda path: path.endswith("-wal"))
    path = directory / "space.db"
    spaces: list[tertulia.Space] = []
    with SQLiteFiles(log) as files:
        for _ in range(handles):
            options: dict[str, Any] = {"durability": durability, "_vfs": files.name}
            spaces.append(await tertulia.connect(f"file:{path}", clock=SystemClock(), **options))
        try:
            for space in spaces:
                await space.engine.put(Put("first", b"", "ada"))  # begins the log
            yield Setting(path, spaces, log)
        finally:
            for space in spaces:
                await space.aclose()


def _puts(name: str, count: int = WRITES) -> list[Put]:
    return [Put(f"{name}:{number}", b"", "ada") for number in range(count)]


async def test_commits_that_wait_at_the_same_time_share_one_sync(tmp_path: Path):
    async with _setting(tmp_path, "power") as setting:
        assert await setting.syncs_of(_puts("a")) == 1


async def test_each_process_makes_one_sync_for_all_that_wait_in_it(tmp_path: Path):
    async with _setting(tmp_path, "power", handles=2) as setting:
        assert await setting.syncs_of(_puts("a"), _puts("b")) == 2


async def test_more_commits_than_a_group_takes_are_synced_in_groups(tmp_path: Path):
    async with _setting(tmp_path, "power") as setting:
        assert await setting.syncs_of(_puts("a", 3 * _file_writer.GROUP)) == 3


async def test_no_commit_is_acknowledged_without_a_sync(tmp_path: Path):
    async with _setting(tmp_path, "power") as setting:
        for number in range(50):
            assert await setting.syncs_of(_puts(f"k{number}", 1)) == 1


@pytest.mark.parametrize("handles", [1, 2])
async def test_no_commit_waits_for_the_disk_unless_asked_to(tmp_path: Path, handles: int):
    async with _setting(tmp_path, "process", handles) as setting:
        assert await setting.syncs_of(*[_puts(str(handle)) for handle in range(handles)]) == 0


async def test_busy_processes_share_syncs(tmp_path: Path):
    url = f"file:{tmp_path}/space.db"
    writers, writes = 20, 25

    said = await run(*[("write_at_once", url, url, name, writers, writes) for name in "ab"])

    syncs = [int(count) for (count,) in said]
    assert all(0 < count < writers * writes / 4 for count in syncs)
    async with tertulia.connect(url) as space:
        _, records = await space.engine.scan("")
        assert len(records) == 2 * writers
        assert {record.version for record in records} == {writes}
