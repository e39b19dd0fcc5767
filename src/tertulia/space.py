"""Spaces: one shared place, named by a URL, that holds memory and mailboxes together."""

from __future__ import annotations

import os
from collections.abc import Generator
from importlib import import_module
from types import TracebackType
from typing import Any, Self

from tertulia._background import Background
from tertulia._clock import SYSTEM_CLOCK, Clock
from tertulia.engines.base import Engine
from tertulia.errors import InvalidURLError, MissingExtraError
from tertulia.memory import SharedMemory
from tertulia.messaging.broker import MessageBroker
from tertulia.records import AgentInfo, Finding
from tertulia.transaction import Transaction

DEFAULT_URL = "file:.tertulia/space.db"
URL_VARIABLE = "TERTULIA_URL"

# The module of the engine that a scheme names; it has `open_engine`.
_ENGINES: dict[str, str] = {
    "file": "tertulia.engines.file",
    "memory": "tertulia.engines.inprocess",
    "nats": "tertulia.engines.nats",
    "tls": "tertulia.engines.nats",
}


class Space:
    """A shared place: `async with connect(url) as space`. Holds `memory` and `broker`, which commit together.

    Closing it ends what this handle runs and holds (agents, watches, requests that wait); the space itself stays
    as long as its engine keeps it.
    """

    def __init__(self, url: str, engine: Engine, clock: Clock) -> None:
        self.url = url
        self.clock = clock
        self.engine = engine
        self.background = Background()
        self.memory = SharedMemory(engine, clock, self.background)
        self.broker = MessageBroker(engine, clock, self.memory, self.background)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def transaction(self) -> Transaction:
        """Return a transaction: writes and messages that are committed together, or not at all."""
        return Transaction(self.broker.outbox)

    async def agents(self) -> list[AgentInfo]:
        """Return the registered agents, by name."""
        return await self.broker.agents()

    async def doctor(self) -> list[Finding]:
        """Examine the engine and its surroundings; return what was found, good and bad."""
        return await self.engine.doctor()

    async def aclose(self) -> None:
        """Close this handle. Running handlers are cancelled and their messages given back. May be called twice."""
        await self.background.aclose()
        self.broker.close()
        await self.engine.aclose()


class _Connecting:
    """What `connect` returns: await it for a Space, or enter it with `async with`."""

    def __init__(self, url: str, clock: Clock, options: dict[str, Any]) -> None:
        self._url = url
        self._clock = clock
        self._options = options
        self._space: Space | None = None

    def __await__(self) -> Generator[Any, None, Space]:
        return self._open().__await__()

    async def __aenter__(self) -> Space:
        self._space = await self._open()
        return self._space

    async def __aexit__(self, *_: object) -> None:
        if self._space is not None:
            await self._space.aclose()

    async def _open(self) -> Space:
        module = _engine_module(self._url)
        engine: Engine = await module.open_engine(self._url, clock=self._clock, **self._options)
        return Space(self._url, engine, self._clock)


def connect(url: str | None = None, *, clock: Clock = SYSTEM_CLOCK, **options: Any) -> _Connecting:
    """Open a space: enter the result with `async with`, or await it for a Space to close yourself.

    `url` is `memory:` (this space alone), `memory:NAME` (shared in this process), `file:PATH` or a path alone (shared
    by the processes of this machine); default: $TERTULIA_URL, else `file:.tertulia/space.db`. Other options are the
    engine's: with `durability="power"` a file's commits wait for the disk.

    Raises InvalidURLError for a URL that no engine answers to, MissingExtraError when its package is not installed.
    """
    return _Connecting(url or os.environ.get(URL_VARIABLE) or DEFAULT_URL, clock, options)


def _is_path(url: str) -> bool:
    """Tell whether a URL is a path alone: without a scheme, and with a directory or a suffix in it."""
    return ":" not in url.partition("/")[0] and ("/" in url or "." in url)


def _engine_module(url: object) -> Any:
    scheme, colon, _ = url.partition(":") if isinstance(url, str) else ("", "", "")
    if isinstance(url, str) and _is_path(url):
        scheme = colon = "file"
    name = _ENGINES.get(scheme)
    if not colon or name is None:
        known = ", ".join(f"{known}:" for known in sorted(_ENGINES))
        raise InvalidURLError(
            url, f"it starts with one of {known} or is the path of a file, as in 'team.db' or './team'"
        )
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError(f"the {scheme}: engine", name.rpartition(".")[2]) from error
