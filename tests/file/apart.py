"""Spaces in one process that share nothing but the file, as those of two processes do."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import tertulia
from tertulia.engines import file
from tertulia.engines.file import FileEngine


async def apart(url: str, **options: Any) -> tertulia.Space:
    """Open a space as another process would: with connections and a doorbell of its own."""
    shared = dict(file._SHARED)  # noqa: SLF001 - what another process would not see
    file._SHARED.clear()  # noqa: SLF001
    space = await tertulia.connect(url, **options)
    file._SHARED.update(shared)  # noqa: SLF001
    return space


@asynccontextmanager
async def two_processes(tmp_path: Path, **options: Any) -> AsyncIterator[tuple[FileEngine, FileEngine]]:
    """Open a space twice."""
    url = f"file:{tmp_path}/space.db"
    async with await apart(url, **options) as here, await apart(url, **options) as there:
        assert isinstance(here.engine, FileEngine)
        assert isinstance(there.engine, FileEngine)
        yield here.engine, there.engine
