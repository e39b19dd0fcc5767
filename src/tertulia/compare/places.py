"""Where the spaces of a comparison are: for each engine, how to have new ones of which nothing is left afterwards."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit, urlunsplit

from msgspec import Struct

from tertulia.errors import EngineUnavailableError, MissingExtraError
from tertulia.records import new_id

__all__ = ["ENGINES", "LOCAL_ENGINES", "EnginePlaces", "FreshSpace"]

FreshSpace = Callable[[], AbstractAsyncContextManager[str]]
"""Gives the URL of a new, empty space, of which nothing is left afterwards."""


class EnginePlaces(Struct, frozen=True):
    """How to have spaces of an engine for as long as a comparison lasts; `needs_server`: at a URL that is given."""

    open: Callable[[str], AbstractAsyncContextManager[FreshSpace]]
    needs_server: bool = False


@asynccontextmanager
async def _memory_spaces(_: str) -> AsyncGenerator[FreshSpace]:
    numbers = count(1)

    @asynccontextmanager
    async def fresh() -> AsyncGenerator[str]:
        yield f"memory:compare-{next(numbers)}"

    yield fresh


@asynccontextmanager
async def _file_spaces(_: str) -> AsyncGenerator[FreshSpace]:
    """Keep the files in a directory of their own, which is removed at the end."""
    numbers = count(1)
    with TemporaryDirectory(prefix="tertulia-compare-") as directory:

        @asynccontextmanager
        async def fresh() -> AsyncGenerator[str]:
            place = Path(directory, str(next(numbers)))
            await asyncio.to_thread(place.mkdir)
            yield f"file:{place}/space.db"
            await asyncio.to_thread(shutil.rmtree, place)  # where something went wrong, all goes together

        yield fresh


@asynccontextmanager
async def _nats_spaces(server: str) -> AsyncGenerator[FreshSpace]:
    """Have spaces with names that nobody else has, on the server of a URL, and with the URL's options.

    Each is removed when it is left, however that happens.
    """
    numbers, run = count(1), new_id()[:12]

    @asynccontextmanager
    async def fresh() -> AsyncGenerator[str]:
        url = urlunsplit(urlsplit(server)._replace(path=f"/compare-{run}-{next(numbers)}"))
        try:
            yield url
        except (EngineUnavailableError, MissingExtraError):
            raise  # who cannot be reached has nothing that could be removed now
        except BaseException:
            with suppress(EngineUnavailableError):  # the error that came first is the one to tell
                await _remove_nats_space(url)
            raise
        await _remove_nats_space(url)

    yield fresh


async def _remove_nats_space(url: str) -> None:
    from tertulia.engines._nats_removal import remove_space  # noqa: PLC0415 - needs the extra, which opening has found

    await remove_space(url)


ENGINES: Mapping[str, EnginePlaces] = {
    "memory": EnginePlaces(_memory_spaces),
    "file": EnginePlaces(_file_spaces),
    "nats": EnginePlaces(_nats_spaces, needs_server=True),
}
"""The engines to compare on, by name."""

LOCAL_ENGINES = tuple(name for name, places in ENGINES.items() if not places.needs_server)
"""Those that need nothing but this machine."""
