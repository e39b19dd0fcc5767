"""Functions in processes of their own, many and soon: each is forked off a clean process that has only done imports.

Python's own fork server does it. No space is open where a child is forked off, so nothing is shared that must not be.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection

__all__ = ["run_in_process"]

_CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED = ["tertulia.compare.use_cases.conducting", "tertulia.engines.file"]


async def run_in_process(function: Callable[[bytes], bytes], argument: bytes) -> bytes | None:
    """Return what a function of a module returns in a process of its own; None when that process was killed.

    Cancellation kills the process.
    """
    _CONTEXT.set_forkserver_preload(PRELOADED)
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_answer, args=(theirs, function, argument), daemon=True)
    try:
        await asyncio.to_thread(process.start)  # the first one waits for the fork server
        theirs.close()
        return await _heard(ours)
    finally:
        ours.close()
        if process.pid is not None:
            process.kill()
            await asyncio.shield(asyncio.to_thread(process.join))
            process.close()


def _answer(pipe: Connection, function: Callable[[bytes], bytes], argument: bytes) -> None:
    pipe.send_bytes(function(argument))
    pipe.close()


async def _heard(pipe: Connection) -> bytes | None:
    """Return what comes through a pipe, None when nobody is there any more to send anything."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(pipe.fileno(), lambda: ready.done() or ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(pipe.fileno())
    try:
        return await asyncio.to_thread(pipe.recv_bytes)
    except (EOFError, OSError):
        return None
