"""A TCP proxy between a client and a NATS server, to make connections slow, half-open, or cut at the worst moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Self

Way = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proxy:
    """Listens on a loopback port and passes bytes on to another, both ways, unless told otherwise.

    `deaf`: bytes of the server are thrown away: what clients send arrives, what is answered does not. `stuck`: nothing
    is passed on either way, and the connections stay: half-open. `delay`: seconds that the server's bytes take.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self.port = 0
        self.deaf = False
        self.delay = 0.0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.connections = 0
        self._closed = False
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_request: Callable[[bytes], None] | None = None

    @property
    def stuck(self) -> bool:
        """Whether nothing is passed on."""
        return not self._flowing.is_set()

    @stuck.setter
    def stuck(self, stuck: bool) -> None:
        if stuck:
            self._flowing.clear()
        else:
            self._flowing.set()

    @property
    def url(self) -> str:
        """The URL of the server through the proxy, without a space."""
        return f"nats://127.0.0.1:{self.port}"

    def on_request(self, callback: Callable[[bytes], None] | None) -> None:
        """Call with all that clients send, just before it is passed on."""
        self._on_request = callback

    def cut(self) -> None:
        """Drop all connections; new ones are taken."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._closed = True
        self._server.close()
        await asyncio.sleep(0)  # connections that were just taken begin, and see that it is over
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        ends = [writer]
        self._writers.add(writer)
        try:
            if not self._closed:
                server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._to)
                ends.append(server_writer)
                self._writers.add(server_writer)
                await self._pass_on((reader, server_writer), (server_reader, writer))
        except OSError:
            pass
        finally:
            self._writers.difference_update(ends)
            for one in ends:
                one.transport.abort()

    async def _pass_on(self, up: Way, down: Way) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._up(*up))
                group.create_task(self._down(*down))
        except* OSError:
            pass

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if self._on_request is not None:
                self._on_request(data)
            await self._flowing.wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            await self._flowing.wait()
            if self.deaf:
                continue
            if self.delay:
                await asyncio.sleep(self.delay)
            with suppress(RuntimeError):
                writer.write(data)
            await writer.drain()
        raise ConnectionResetError
