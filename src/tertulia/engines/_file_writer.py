"""Writing without ever waiting on the event loop: at once where the file is free, else in a thread, in groups."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import apsw

from tertulia._background import logger
from tertulia._clock import hold
from tertulia.engines._file_format import FAILURES, translated
from tertulia.engines._file_lock import WriterLock
from tertulia.engines._file_open import close
from tertulia.engines._file_recent import Recent
from tertulia.engines._file_session import CHECKPOINT_PAGES, Effects, Session
from tertulia.errors import EngineUnavailableError, SpaceClosedError

T = TypeVar("T")
Work = Callable[[Session], Any]
Job = tuple[Work, asyncio.Future[Any], Callable[[Any], None] | None, float]  # the last: when it was submitted

GROUP = 256  # writes that share one transaction: past that the sync is paid for, and others wait too long
BRIEF = 0.0003  # seconds of trying before the thread is asked, which takes about as long: ten neighbours' writes
LOCK_LIMIT = 10.0  # seconds that a write waits for another process; a commit takes milliseconds, unless it was stopped
LOCK_TRIES = 500  # for a checkpoint, one in a millisecond; whoever holds the lock for longer was stopped
END_LIMIT = 5.0  # seconds that closing waits for the thread


class Writer:
    """The writes of one process on one space.

    `on_commit` is called on the event loop after each commit, before whoever wrote goes on.
    """

    def __init__(
        self,
        session: Session,
        lock_file: Callable[[], WriterLock],
        new_session: Callable[[], Session],
        on_commit: Callable[[Effects], None],
        *,
        syncs: bool,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._session = session
        self._lock = lock_file()
        self.recent = Recent(self._lock)
        self._lock_file = lock_file
        self._new_session = new_session
        self._on_commit = on_commit
        self._syncs = syncs  # every commit waits for the disk, so none is made here
        self._jobs: deque[Job] = deque()
        self._news = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._closed = False
        self._watchdog: asyncio.TimerHandle | None = None
        self._waits_since: float | None = None  # for the lock, in the thread
        self._under_way = 0  # in threads: writes that are not settled yet, and a checkpoint
        self._release: Callable[[], None] | None = None
        self._checkpoint: asyncio.Future[None] | None = None
        self._next_checkpoint = CHECKPOINT_PAGES

    # --- on the event loop ---

    async def write(self, work: Callable[[Session], T], undo: Callable[[T], None] | None = None) -> T:
        """Do the work in a transaction; return its result. Nothing happens if it raises.

        Raises EngineUnavailableError when another process keeps the lock for too long, as one that was stopped does.
        Cancelled while it waits, nothing happens; once it is under way it may happen all the same, and then `undo`
        is called with the result.
        """
        if not self._syncs and not self._jobs:
            if self._lock.try_acquire():
                return self._write_here(work)
            until = time.monotonic() + BRIEF
            while time.monotonic() < until:
                await asyncio.sleep(0)
                if self._closed:
                    raise SpaceClosedError
                if self._lock.try_acquire():
                    return self._write_here(work)
        future = self.submit(work, undo)
        try:
            return await future
        except asyncio.CancelledError:
            if undo is not None and future.done() and not future.cancelled() and future.exception() is None:
                undo(future.result())  # it had come, and whoever waited was cancelled before it went on
            raise

    def write_soon(self, work: Work) -> asyncio.Future[Any] | None:
        """Do the work now if the file is free, else soon; what fails then is logged. None if it is done."""
        if not self._syncs and not self._jobs and self._lock.try_acquire():
            self._write_here(work)
            return None
        future = self.submit(work)
        future.add_done_callback(_log_failure)
        return future

    def submit(self, work: Work, undo: Callable[[Any], None] | None = None) -> asyncio.Future[Any]:
        """Have the work done by the thread."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._jobs.append((work, future, undo, time.monotonic()))
        self._count(1)
        self._watch_jobs()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="tertulia file writer", daemon=True)
            self._thread.start()
        self._news.release()
        return future

    def _write_here(self, work: Callable[[Session], T]) -> T:
        try:
            result, effects = self._session.run(work)
        finally:
            self._lock.release()
        self._on_commit(effects)
        if (pages := self._session.pages) >= self._next_checkpoint or self._next_checkpoint > CHECKPOINT_PAGES:
            self.look_at_log(pages)
        return result

    # --- in the thread ---

    def _run(self) -> None:
        try:
            lock = self._lock_file()
            try:
                self._work(lock)
            finally:
                lock.close()
        except BaseException as error:  # noqa: BLE001 - it is what everybody who waits gets
            self._post(self._fail_all, error)

    def _work(self, lock: WriterLock) -> None:
        session = self._new_session()
        try:
            while not self._closed:
                self._news.acquire()
                if self._jobs:
                    self._write_group(lock, session)
        finally:
            close(session.connection)

    def _take(self) -> list[Job]:
        jobs: list[Job] = []
        while self._jobs and len(jobs) < GROUP:
            jobs.append(self._jobs.popleft())
        return jobs

    def _write_group(self, lock: WriterLock, session: Session) -> None:
        """Do the writes that wait. They are taken when the lock is had: until then they can be withdrawn."""
        jobs: list[Job] = []
        outcomes: list[tuple[Job, Any, BaseException | None]] = []
        effects: Effects | None = None
        try:
            self._wait_for(lock)
            try:
                jobs = self._take()
                if not jobs:
                    return
                session.begin()
                try:
                    outcomes = [self._write_one(session, job) for job in jobs if not job[1].cancelled()]
                    session.finish()
                except BaseException as error:
                    session.rollback()
                    if isinstance(error, FAILURES):
                        raise translated(error) from error
                    raise
                effects = session.commit()
            finally:
                lock.release()
        except BaseException as error:  # noqa: BLE001 - it is what everybody who waits gets
            jobs = jobs or self._take()
            outcomes = [(job, None, error) for job in jobs]
        self._post(self._settle, outcomes, effects, session.pages, len(jobs))

    def _wait_for(self, lock: WriterLock) -> None:
        self._waits_since = time.monotonic()
        try:
            lock.acquire()
        finally:
            self._waits_since = None

    def _write_one(self, session: Session, job: Job) -> tuple[Job, Any, BaseException | None]:
        """Do one write of a group, so that its failure is its own."""
        saved = session.save()
        session.execute("SAVEPOINT one")
        try:
            result = job[0](session)
        except Exception as error:
            if not session.connection.in_transaction:  # the disk is full, or worse: all of the group is undone
                raise
            session.execute("ROLLBACK TO one")
            session.execute("RELEASE one")
            session.restore(saved)
            return job, None, translated(error) if isinstance(error, FAILURES) else error
        session.execute("RELEASE one")
        return job, result, None

    def _post(self, callback: Callable[..., None], *values: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *values)
        except RuntimeError:  # the loop has been closed: nobody waits any more
            logger.warning("the event loop of a space was closed before the space")

    # --- on the event loop again ---

    def _settle(
        self, outcomes: list[tuple[Job, Any, BaseException | None]], effects: Effects | None, pages: int, jobs: int
    ) -> None:
        if effects is not None and not self._closed:
            self._on_commit(effects)
            self.look_at_log(pages)
        for (_, future, undo, _), result, error in outcomes:
            if future.cancelled():
                if undo is not None and error is None:
                    undo(result)
            elif error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)
        self._count(-jobs)

    def _look_at_jobs(self) -> None:
        """Let the writes fail that have waited for too long for a lock that another process does not let go of."""
        self._watchdog = None
        since, now = self._waits_since, time.monotonic()
        while (job := self._first_job()) is not None:
            if since is None or now - max(since, job[3]) < LOCK_LIMIT:
                self._watch_jobs()
                return
            self._withdraw(job)

    def _watch_jobs(self) -> None:
        if self._watchdog is None and not self._closed:
            self._watchdog = self._loop.call_later(LOCK_LIMIT / 10, self._look_at_jobs)

    def _first_job(self) -> Job | None:
        try:
            return self._jobs[0]
        except IndexError:  # the thread may take them all at any time
            return None

    def _withdraw(self, job: Job) -> None:
        try:
            self._jobs.remove(job)
        except ValueError:  # the thread has the lock by now, and does it
            return
        if not job[1].done():
            job[1].set_exception(EngineUnavailableError(f"the file was busy for too long: {self._lock.holder()}"))
        self._count(-1)

    def _count(self, more: int) -> None:
        """Count what is under way, and keep a clock that is turned by hand from going on meanwhile."""
        self._under_way += more
        if self._under_way and self._release is None:
            self._release = hold(self._session.clock.clock)
        elif not self._under_way and self._release is not None:
            self._release()
            self._release = None

    def _fail_all(self, error: BaseException) -> None:
        self._thread = None
        while jobs := self._take():
            for _, future, _, _ in jobs:
                if not future.done():
                    future.set_exception(translated(error) if isinstance(error, (*FAILURES, OSError)) else error)
            self._count(-len(jobs))

    # --- checkpoints ---

    def look_at_log(self, pages: int) -> None:
        """Start a checkpoint, in a thread, when the write-ahead log has grown long enough."""
        if pages < self._next_checkpoint:
            if pages < CHECKPOINT_PAGES:  # the log has begun anew
                self._next_checkpoint = CHECKPOINT_PAGES
            return
        if self._checkpoint is None and not self._closed:
            self._next_checkpoint = pages + CHECKPOINT_PAGES
            self._count(1)
            self._checkpoint = self._loop.run_in_executor(None, self._check_point)
            self._checkpoint.add_done_callback(self._checkpoint_done)

    def _checkpoint_done(self, done: asyncio.Future[None]) -> None:
        self._checkpoint = None
        self._count(-1)
        if not done.cancelled() and (error := done.exception()) is not None:
            logger.warning("a checkpoint failed, and will be tried again: %s", error)

    def _check_point(self) -> None:
        """Move the log into the file: most of it beside other writers, what they add meanwhile while they wait.

        Only a log that was moved completely begins anew; without the second step a busy one would grow for ever.
        """
        session = self._new_session()
        try:
            session.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            lock = self._lock_file()
            try:
                if _acquired_in_time(lock):
                    session.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            finally:
                lock.close()
        except apsw.BusyError:
            return  # another process is at it
        finally:
            session.connection.close()

    async def aclose(self) -> None:
        """Do what was submitted, then end. What is submitted later fails.

        While another process keeps the lock, it is the thread that ends later, whenever it gets it.
        """
        thread = self._thread
        if thread is not None and not self._is_stuck():
            last = self.submit(lambda _: None)
            await asyncio.wait([last], timeout=END_LIMIT)
        self._closed = True
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._news.release()
        if self._checkpoint is not None:
            await asyncio.wait([self._checkpoint], timeout=END_LIMIT)
        if thread is not None and not self._is_stuck():
            await aside(thread.join, END_LIMIT)
        self._fail_all(SpaceClosedError())
        self._lock.close()

    def _is_stuck(self) -> bool:
        """Tell whether another process has kept the lock for longer than closing may take."""
        since = self._waits_since
        return since is not None and time.monotonic() - since >= END_LIMIT


async def aside(function: Callable[..., object], *values: object) -> None:
    """Call a function in a thread; at the interpreter's exit, when threads are not to be had any more, call it here."""
    try:
        call = asyncio.get_running_loop().run_in_executor(None, function, *values)
    except RuntimeError:
        function(*values)
    else:
        await call


def _acquired_in_time(lock: WriterLock) -> bool:
    for _ in range(LOCK_TRIES):
        if lock.try_acquire():
            return True
        time.sleep(0.001)
    return False


def _log_failure(future: asyncio.Future[Any]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        logger.error("a write in the background failed", exc_info=error)
