"""Worker threads: where plain functions run that the portal calls, so that they may block."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import Any

from msgspec import Struct

from tertulia._background import logger
from tertulia.errors import SpaceClosedError

Post = Callable[..., bool]


class Workers:
    """The worker threads of one open space; a thread is started when none is free, and kept until `close`.

    There are as many as functions run at once: one for each handler that an agent's `concurrency` allows, and one
    for each subscription.
    """

    def __init__(self, post: Post) -> None:
        self._post = post
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._free = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._closed = False

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run the function in a worker thread, in a copy of the caller's context; return what it returns.

        A thread cannot be interrupted: when this call is cancelled, the function runs on and its result is dropped.
        """
        if self._closed:
            raise SpaceClosedError
        job = _Job(function, args, copy_context(), asyncio.get_running_loop().create_future())
        if not self._free.acquire(blocking=False):
            self._start_thread()
        self._jobs.put(job)
        return await job.future

    def close(self, grace: float) -> None:
        """End the threads; wait up to `grace` seconds for functions that still run, except the caller's own."""
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        deadline = time.monotonic() + grace
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
                if thread.is_alive():
                    logger.warning("%s still runs a function %g s after its space was closed", thread.name, grace)

    def _start_thread(self) -> None:
        # A daemon only so that a function that never returns cannot keep the interpreter from exiting.
        name = f"tertulia worker {len(self._threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run(self._post)
            del job  # an idle thread holds nothing of the last function alive
            self._free.release()


class _Job(Struct):
    """A function to run, and the portal's future for its outcome."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    context: Context
    future: asyncio.Future[Any]

    def run(self, post: Post) -> None:
        if self.future.cancelled():
            return
        try:
            result = self.context.run(self.function, *self.args)
        except BaseException as error:  # noqa: BLE001 - it is handed on to whoever waits for the function
            post(settle, self.future, None, _transportable(error))
        else:
            post(settle, self.future, result, None)


def settle(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    """Give a future of the portal its outcome; an error that nobody waits for any more is logged."""
    if not future.done():
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
    elif error is not None and not isinstance(error, SpaceClosedError):
        logger.error("a function failed after it was given up", exc_info=error)


def _transportable(error: BaseException) -> BaseException:
    """Return the error, or one in its place that does not mean something else to the event loop."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    stand_in = RuntimeError(f"a function raised {type(error).__name__}")
    stand_in.__cause__ = error
    return stand_in
