"""What cases check with: plain functions, so that they also hold under `python -O`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

PATIENCE = 10.0  # real seconds for what should happen at once; only a fault meets it


class PromiseBrokenError(AssertionError):
    """The engine did not do what the contract says."""


def expect(condition: object, promise: str) -> None:
    """Raise PromiseBrokenError unless the condition is true."""
    if not condition:
        raise PromiseBrokenError(promise)


def yes(got: object, what: str) -> None:
    """Raise PromiseBrokenError unless it is True."""
    if got is not True:
        raise PromiseBrokenError(f"{what} should be True, but is {got!r}")


def no(got: object, what: str) -> None:
    """Raise PromiseBrokenError unless it is False."""
    if got is not False:
        raise PromiseBrokenError(f"{what} should be False, but is {got!r}")


def equal(got: T, wanted: T, what: str = "it") -> None:
    """Raise PromiseBrokenError unless both are equal."""
    if got != wanted:
        raise PromiseBrokenError(f"{what} should be {wanted!r}, but is {got!r}")


@contextmanager
def raises(kind: type[E], /, **fields: object) -> Generator[list[E], None, None]:
    """Expect the block to raise exactly this kind of error, with these values in its fields; it is put in the list."""
    caught: list[E] = []
    try:
        yield caught
    except kind as error:
        caught.append(error)
        for name, wanted in fields.items():
            equal(getattr(error, name, None), wanted, f"the {kind.__name__}'s {name}")
    if not caught:
        raise PromiseBrokenError(f"nothing was raised; {kind.__name__} should be")


async def within(awaitable: Awaitable[T], seconds: float = PATIENCE) -> T:
    """Return the result, which should be there at once: waits for at most 10 s of real time."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await awaitable
    except TimeoutError as error:
        if not limit.expired():
            raise  # the awaited work's own
        raise PromiseBrokenError(f"{awaitable!r} did not end within {seconds:g} s") from error


@asynccontextmanager
async def running(work: Coroutine[Any, Any, T]) -> AsyncGenerator[asyncio.Task[T], None]:
    """Run a coroutine beside the block, and cancel it at the block's end if it still runs."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


class _Recorder(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self._lines = lines
        self._format = logging.Formatter("%(levelname)s %(message)s")

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self._format.format(record))


@contextmanager
def logged() -> Generator[list[str], None, None]:
    """Collect what the library logs in the block, with tracebacks; each entry begins with its level."""
    logger = logging.getLogger("tertulia")
    lines: list[str] = []
    recorder = _Recorder(lines)
    level = logger.level
    logger.addHandler(recorder)
    logger.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        logger.setLevel(level)
        logger.removeHandler(recorder)
