"""A clock that stands still until a test turns it."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from contextvars import Context, copy_context

START = 1_767_225_600.0  # civil time of a new clock: 2026-01-01T00:00:00Z
MONOTONIC_START = 1_000.0  # small, so that it is never mistaken for civil time, and not zero
MAX_TURNS = 10_000  # of the event loop for one pause: work that needs more never comes to rest
BLIND_TURNS = (
    100  # where the loop does not tell whether it has more to do: any chain of tasks in the library is shorter
)
WORK_LIMIT = 30.0  # real seconds for work in threads to end; a commit takes milliseconds, so only a hang meets it


class ManualClock:
    """A `Clock` for tests: time passes by `advance` and in no other way, so nothing sleeps and no race is left.

    Give it to `connect(url, clock=...)`. It serves one event loop at a time, and only that loop's thread.

    Civil and monotonic time pass together in `advance`; `jump` moves civil time alone, as an administrator does.
    """

    def __init__(self, start: float = START) -> None:
        self._civil = start
        self._monotonic = MONOTONIC_START
        self._timers: list[_Timer] = []
        self._made = 0
        self._advancing = False
        self._held = 0
        self._freed: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<ManualClock {self._civil:.6f}, {self.pending} timers>"

    # --- what a clock is asked for ---

    def time(self) -> float:
        """Return civil time, in seconds since the epoch."""
        return self._civil

    def monotonic(self) -> float:
        """Return seconds that `advance` alone adds to; `jump` does not touch them."""
        return self._monotonic

    def call_later(self, delay: float, callback: Callable[[], object]) -> _Timer:
        """Call `callback` once `advance` has let `delay` seconds pass, in the caller's context.

        With a delay of zero or less it is called on the event loop's next turn, without any `advance`.
        """
        self._made += 1
        timer = _Timer(self._monotonic + max(delay, 0.0), self._made, callback)
        if delay > 0:
            heapq.heappush(self._timers, timer)
        else:
            asyncio.get_running_loop().call_soon(timer.fire)
        return timer

    def hold(self) -> Callable[[], None]:
        """Keep time from passing until what this returns is called, once, in the event loop's thread.

        An engine asks for it while it works in a thread: `advance` waits for that, in real time.
        """
        self._held += 1
        return self._release

    @property
    def pending(self) -> int:
        """How many timers wait for time to pass."""
        return sum(not timer.cancelled for timer in self._timers)

    # --- what a test does ---

    async def advance(self, seconds: float) -> None:
        """Let time pass.

        First the event loop runs until it is at rest, so that tasks made just now have set their timers. Then every
        timer that is due within `seconds`, those set meanwhile too, fires at its own time, the earlier one first and
        those of one instant in the order they were set; after each the loop runs until it is at rest again. When
        this returns, exactly `seconds` have passed and the loop is at rest: no task can run on without time, a
        thread of somebody else's, or something from outside the process. What an engine does in threads is waited for
        (see `hold`); other threads, real timers and sockets are not.

        `advance(0)` lets the loop come to rest. An exception from a timer's callback comes out of here, at the time
        when it was due. Raises ValueError for negative seconds, and RuntimeError when another `advance` of this
        clock is under way, when tasks go on by themselves for 10,000 turns of the loop, or when work in a thread
        does not end within 30 real seconds.

        Cancellation: time stays where it is by then.
        """
        if not seconds >= 0:
            raise ValueError(f"time passes forwards only, not by {seconds!r} s; see jump()")
        if self._advancing:
            raise RuntimeError("another advance() of this clock is under way")
        self._advancing = True
        try:
            await self._pass_until(self._monotonic + seconds)
        finally:
            self._advancing = False

    def jump(self, seconds: float) -> None:
        """Move civil time, forwards or back, without letting any pass: no timer fires, no lease moves."""
        self._civil += seconds

    # --- inside ---

    async def _pass_until(self, end: float) -> None:
        await self._rest()
        while (timer := self._next_due(end)) is not None:
            self._move_to(timer.when)
            timer.fire()
            await self._rest()
        self._move_to(end)
        await self._rest()

    async def _rest(self) -> None:
        """Let the loop come to rest, and the threads whose work it waits for."""
        await come_to_rest()
        while self._held:
            self._freed = asyncio.get_running_loop().create_future()
            done, _ = await asyncio.wait([self._freed], timeout=WORK_LIMIT)
            if not done:
                raise RuntimeError(f"work in a thread has not ended within {WORK_LIMIT:g} s")
            await come_to_rest()

    def _release(self) -> None:
        self._held -= 1
        if not self._held and self._freed is not None and not self._freed.done():
            self._freed.set_result(None)

    def _next_due(self, end: float) -> _Timer | None:
        while self._timers and self._timers[0].when <= end:
            timer = heapq.heappop(self._timers)
            if not timer.cancelled:
                return timer
        return None

    def _move_to(self, when: float) -> None:
        self._civil += when - self._monotonic
        self._monotonic = when


class _Timer:
    """A pending call of a ManualClock."""

    __slots__ = ("_callback", "_context", "_place", "cancelled", "when")

    def __init__(self, when: float, number: int, callback: Callable[[], object]) -> None:
        self.when = when
        self.cancelled = False
        self._place = (when, number)
        self._callback = callback
        self._context: Context = copy_context()

    def __lt__(self, other: _Timer) -> bool:
        return self._place < other._place

    def cancel(self) -> None:
        """Make sure that the callback will not run. May be called at any time, more than once."""
        self.cancelled = True

    def fire(self) -> None:
        """Make the call, unless it was cancelled; never twice."""
        if not self.cancelled:
            self.cancelled = True
            self._context.run(self._callback)


async def come_to_rest() -> None:
    """Run the event loop until nothing is left that can run without waiting.

    Exact on asyncio's own loops; on another kind of loop it is 100 turns. Raises RuntimeError after 10,000 turns.
    """
    ready: object = getattr(asyncio.get_running_loop(), "_ready", None)
    if ready is None:
        for _ in range(BLIND_TURNS):
            await asyncio.sleep(0)
        return
    for _ in range(MAX_TURNS):
        await asyncio.sleep(0)
        if not ready:  # only this task was left to run
            return
    raise RuntimeError(f"the event loop does not come to rest: tasks go on by themselves for {MAX_TURNS:,} turns")
