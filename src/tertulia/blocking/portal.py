"""The portal: one event loop in one thread, which does what other threads ask for while they wait.

There is one portal in a process at a time, shared by every space that is open: it starts with the first and ends,
joined, with the last. That is this package's one process-wide registry, and the reason for it is sharing: the engine
`memory:NAME` is shared within an event loop, and two threads that open it must meet in the same one.

The thread is marked as a daemon only so that the interpreter does not wait for it before its exit handlers run. One
of these closes whatever was left open and joins the thread, so it never runs on into the interpreter's end.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import os
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from tertulia._background import logger
from tertulia.blocking.workers import Workers, settle
from tertulia.errors import SpaceClosedError

CANCEL_GRACE = 5.0  # seconds that an interrupted call waits for its own end: cancelling takes no longer than a commit
CLOSE_GRACE = 5.0  # seconds that closing waits for plain functions; their calls fail at once by then
SIGNAL_CHECK = 0.5  # seconds until a signal is noticed that came just before the wait, or on Windows at any time
EXIT_GRACE = 5.0  # seconds that the interpreter's exit waits for each space that was left open

Work = Callable[["Call"], Any]


class Portal:
    """An event loop in a thread of its own; calls come in from any other thread."""

    def __init__(self) -> None:
        self.sessions: set[Session] = set()
        self._pid = os.getpid()
        self._lock = threading.RLock()  # a signal handler may make a call in the middle of one
        self._calls: set[Call] = set()
        self._ended = False
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="tertulia portal", daemon=True)
        self._thread.start()
        self._ready.wait()

    @property
    def usable(self) -> bool:
        """Whether calls can be made: False once the loop has ended, or in a forked child."""
        return self._pid == os.getpid() and not self._ended

    @property
    def forked(self) -> bool:
        """Whether this is a child process, which has the objects but not the thread."""
        return self._pid != os.getpid()

    def check_thread(self) -> None:
        """Raise RuntimeError where a blocking call could only wait for ever."""
        if self.forked:
            message = "this space was opened before a fork: open it again in the child process"
            raise RuntimeError(message)
        if threading.current_thread() is self._thread:  # not by its number, which a later thread may have
            message = (
                "a blocking call on the portal's own thread would wait for itself: "
                "let the function be a plain one (it then runs in a worker thread), not `async def`"
            )
            raise RuntimeError(message)

    def submit(self, call: Call) -> None:
        """Start the call on the loop. Raises SpaceClosedError when its space, or the portal, has ended."""
        with self._lock:
            if self._ended or (call.session.closed and not call.closes):
                raise SpaceClosedError
            self._calls.add(call)
        if not self.post(call.start):
            self.forget(call)
            raise SpaceClosedError

    def post(self, function: Callable[..., object], *args: Any) -> bool:
        """Let the loop call the function soon, in this thread's context; return False when the loop has ended."""
        assert self._loop is not None  # noqa: S101 - set before anybody has the portal
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed; it raises nothing else
            return False
        return True

    def forget(self, call: Call) -> None:
        """Drop a call that has ended."""
        with self._lock:
            self._calls.discard(call)

    def begin_close(self, session: Session) -> bool:
        """Let no call of the session start any more; return whether this is the first to close it."""
        with self._lock:
            first = not session.closed
            session.closed = True
            return first

    def end_calls(self, session: Session) -> None:
        """Cancel what the session still waits for, with SpaceClosedError; on the portal's thread."""
        with self._lock:
            left = [call for call in self._calls if call.session is session and not call.closes]
        for call in left:
            call.cancel()

    def stop(self, grace: float | None = None) -> None:
        """End the loop, cancel what still runs on it, and wait (up to `grace` seconds) until the thread is gone."""
        if self._stop is not None:
            self.post(self._stop.set)
        self._thread.join(grace)

    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                try:
                    runner.run(self._serve())
                finally:
                    self._end()  # before what is left is cancelled, so that whoever is told finds it ended
        except BaseException:  # noqa: BLE001 - a task let out SystemExit or worse, which ends every event loop
            logger.critical("the portal ended; every space opened by tertulia.blocking is closed", exc_info=True)
        finally:
            for call in self._end():  # handed over, but the loop was already closing
                call.finish(None, SpaceClosedError())
            self._ready.set()

    def _end(self) -> list[Call]:
        """Take no more calls; return those that have not ended."""
        with self._lock:
            self._ended = True
            return list(self._calls)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._ready.set()
        await self._stop.wait()


class Session:
    """One open space's share of the portal."""

    def __init__(self, portal: Portal) -> None:
        self.portal = portal
        self.workers = Workers(portal.post)
        self.closed = False
        self._closing: Work | None = None

    def call(self, work: Work, undo: Callable[[Any], Any] | None = None) -> Any:
        """Do the work on the portal, wait, and return or raise its outcome in this thread.

        When the wait is interrupted (KeyboardInterrupt, or any exception of a signal handler), the work is cancelled,
        its end is awaited for up to 5 s, and the interruption goes on. A result that comes nevertheless is undone.

        Raises SpaceClosedError; RuntimeError on the portal's own thread and in a forked child.
        """
        self.portal.check_thread()
        return Call(self, work, undo).make()

    def on_close(self, closing: Work) -> None:
        """Say what closes the space, once there is one."""
        self._closing = closing

    def close(self, grace: float | None = None) -> None:
        """Close the space, end its calls, and give back the portal; with a `grace`, take no longer for each step."""
        if self.portal.forked:
            return  # the parent's space goes on; nothing of it is here
        self.portal.check_thread()
        if not self.portal.begin_close(self):
            return
        try:
            with suppress(SpaceClosedError):  # the portal has ended before
                Call(self, self._close, None, closes=True).make(grace)
        finally:
            self.workers.close(CLOSE_GRACE if grace is None else grace)
            _Shared.give_back(self, grace)

    async def _close(self, call: Call) -> None:
        try:
            if self._closing is not None:
                await self._closing(call)
        finally:
            self.portal.end_calls(self)


class Call:
    """One call of a thread that waits for it: a task on the portal, with a line back to the thread."""

    def __init__(
        self, session: Session, work: Work, undo: Callable[[Any], Any] | None = None, *, closes: bool = False
    ) -> None:
        self.session = session
        self.closes = closes
        self.waiting = True  # whether the thread still runs what the portal sends it
        self._work = work
        self._undo = undo
        self._inbox: SimpleQueue[_Errand | None] = SimpleQueue()  # None: there is an outcome
        self._task: asyncio.Task[None] | None = None
        self._given_up = False
        self._done = False
        self._result: Any = None
        self._error: BaseException | None = None

    # --- on the calling thread ---

    def make(self, timeout: float | None = None) -> Any:
        """Start the call and wait for its outcome; run the functions that it needs meanwhile."""
        try:
            self.session.portal.submit(self)
            while (errand := self._next(timeout)) is not None:
                errand.run(self.session.portal.post)
        except Empty:
            raise TimeoutError("the space did not close in time") from None
        except SpaceClosedError:
            raise
        except BaseException:
            self._interrupt()
            raise
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # no cycle through the traceback
        return self._result

    def _next(self, timeout: float | None) -> _Errand | None:
        if timeout is not None or threading.current_thread() is not threading.main_thread():
            return self._inbox.get(timeout=timeout)
        while True:  # the main thread, where signals are handled, but not in the middle of every wait
            with suppress(Empty):
                return self._inbox.get(timeout=SIGNAL_CHECK)

    def _interrupt(self) -> None:
        portal = self.session.portal
        if self.closes or not portal.post(self._give_up):
            return  # closing goes on without us
        with suppress(Empty):
            while self._inbox.get(timeout=CANCEL_GRACE) is not None:
                pass

    # --- on the portal's thread ---

    def start(self) -> None:
        """Run the work as a task."""
        if self._given_up:
            self.finish(None, CancelledError())
        else:
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._task.add_done_callback(self._ended)

    def cancel(self) -> None:
        """Cancel the work, if it still runs."""
        if self._task is not None:
            self._task.cancel()

    async def run_there(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run the function in the thread that waits for this call; return what it returns."""
        future = asyncio.get_running_loop().create_future()
        self._inbox.put(_Errand(function, args, future))
        return await future

    def finish(self, result: object, error: BaseException | None) -> None:
        """Write down the outcome, once, and wake the thread."""
        if self._done:
            return
        self._done = True
        self.waiting = False
        self._result = result
        self._error = error
        self.session.portal.forget(self)
        self._inbox.put(None)

    async def _run(self) -> None:
        try:
            result = self._work(self)
            if inspect.isawaitable(result):
                result = await result
            if self._given_up and self._undo is not None:
                await self._undo(result)
        except asyncio.CancelledError:
            self.finish(None, SpaceClosedError() if self._cancelled_by_closing() else CancelledError())
        except BaseException as error:  # noqa: BLE001 - it is raised where the call was made
            self.finish(None, error)
        else:
            self.finish(result, None)

    def _ended(self, _: object) -> None:
        """See that there is an outcome: a task that is cancelled before its first step has run nothing at all."""
        self.finish(None, SpaceClosedError() if self._cancelled_by_closing() else CancelledError())

    def _cancelled_by_closing(self) -> bool:
        """Tell the space's end from an interruption, and from a cancellation that the work itself let out."""
        return not self._given_up and self._task is not None and self._task.cancelling() > 0

    def _give_up(self) -> None:
        self._given_up = True
        self.waiting = False
        if self._done:
            self._task = asyncio.get_running_loop().create_task(self._undo_late())
        elif self._task is None:  # it was interrupted before it was handed over, and never begins
            self.finish(None, CancelledError())
        else:
            self.cancel()

    async def _undo_late(self) -> None:
        """Undo a result that was there before its thread was interrupted."""
        try:
            if self._error is None and self._undo is not None:
                await self._undo(self._result)
        except Exception:  # noqa: BLE001 - nobody has the call any more that could raise it
            logger.exception("the result of an interrupted call could not be undone")
        finally:
            self._inbox.put(None)


class _Errand:
    """A function that the portal has the waiting thread run."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], future: asyncio.Future[Any]) -> None:
        self._function = function
        self._args = args
        self._future = future

    def run(self, post: Callable[..., bool]) -> None:
        try:
            result = self._function(*self._args)
        except StopIteration as error:  # means something else to the event loop
            stand_in = RuntimeError("the function raised StopIteration")
            stand_in.__cause__ = error
            post(settle, self._future, None, stand_in)
        except Exception as error:  # noqa: BLE001 - it is raised where the portal called the function
            post(settle, self._future, None, error)
        else:
            post(settle, self._future, result, None)


class _Shared:
    """The process's portal, while any space is open."""

    lock = threading.RLock()
    portal: Portal | None = None

    @classmethod
    def take(cls) -> Session:
        with cls.lock:
            if cls.portal is None or not cls.portal.usable:
                cls.portal = Portal()
            session = Session(cls.portal)
            cls.portal.sessions.add(session)
            return session

    @classmethod
    def give_back(cls, session: Session, grace: float | None) -> None:
        portal = session.portal
        with cls.lock:
            portal.sessions.discard(session)
            last = not portal.sessions
            if last and cls.portal is portal:
                cls.portal = None
        if last:
            portal.stop(grace)

    @classmethod
    def close_all(cls) -> None:
        """Close what was left open, in bounded time; at the interpreter's exit."""
        portal = cls.portal
        if portal is None or portal.forked:
            return
        for session in list(portal.sessions):
            try:
                session.close(EXIT_GRACE)
            except Exception:  # noqa: BLE001 - the others must still be closed
                logger.exception("a space that was left open could not be closed")
        portal.stop(EXIT_GRACE)

    @classmethod
    def forget(cls) -> None:
        """Start anew in a forked child, where the parent's thread does not exist and its lock may be held."""
        cls.lock = threading.RLock()
        cls.portal = None


def open_session() -> Session:
    """Return a share of the process's portal, starting it if need be; `Session.close` gives it back."""
    return _Shared.take()


atexit.register(_Shared.close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Shared.forget)
