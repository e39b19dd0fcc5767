"""The line from a child process to the one that started it: orders come, reports go, and its end is noticed.

The other end is `child`.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper

from tertulia.processes.frames import HEADER, frame, length_of

__all__ = ["OVERDUE", "Parent", "exit_after"]

OVERDUE = 124  # the exit code of a process that ended itself because it did not come to an end; as `timeout` has it

_INPUT, _OUTPUT, _ERRORS = 0, 1, 2


class Parent:
    """The process that started this one. Made once, at the beginning, before anything is printed.

    From then on standard input is empty, and what is printed goes to standard error: the pipes that were there belong
    to the two processes alone.
    """

    def __init__(self) -> None:
        self._orders = os.dup(_INPUT)
        self._reports = os.dup(_OUTPUT)
        self._reporting = threading.Lock()
        _redirect_to_nothing(_INPUT)
        os.dup2(_ERRORS, _OUTPUT)
        output: object = sys.stdout
        if isinstance(output, TextIOWrapper):
            output.reconfigure(line_buffering=True, errors="backslashreplace")

    def report(self, message: object) -> None:
        """Tell the parent something; nothing happens when it is gone."""
        data = memoryview(frame(message))
        with self._reporting, suppress(BrokenPipeError):
            while data:
                data = data[os.write(self._reports, data) :]

    def listen(self, on_order: Callable[[bytes], object], on_gone: Callable[[], object]) -> None:
        """Call a function with each order, and another one when the parent is gone or has let go of this process.

        Both run in a thread of their own, so that orders are heard whatever the rest of the process is busy with.
        """
        threading.Thread(target=self._listen, args=(on_order, on_gone), name="tertulia parent", daemon=True).start()

    def _listen(self, on_order: Callable[[bytes], object], on_gone: Callable[[], object]) -> None:
        while (order := self._next_order()) is not None:
            on_order(order)
        # Nobody reads what is said any more: who prints should not fail for that.
        _redirect_to_nothing(_OUTPUT)
        _redirect_to_nothing(_ERRORS)
        on_gone()

    def _next_order(self) -> bytes | None:
        header = self._read(HEADER)
        return None if header is None else self._read(length_of(header))

    def _read(self, size: int) -> bytes | None:
        data = bytearray()
        while len(data) < size:
            piece = os.read(self._orders, size - len(data))
            if not piece:
                return None
            data += piece
        return bytes(data)


def exit_after(seconds: float, why: str) -> None:
    """End this process after so many seconds, if it still runs, whatever it is doing then: without any cleaning up."""

    def exit_now() -> None:
        with suppress(OSError):
            os.write(_ERRORS, f"{why}\n".encode())
        os._exit(OVERDUE)

    timer = threading.Timer(seconds, exit_now)
    timer.daemon = True
    timer.start()


def _redirect_to_nothing(fd: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, fd)
    os.close(nothing)
