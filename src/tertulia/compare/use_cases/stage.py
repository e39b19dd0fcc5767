"""What a part of a team is given: a space, what to do, and a sheet to write down how it went.

A part does one agent's work. It runs as a task or as a process of its own and cannot tell which. All parts of a team
get ready, then begin together; who serves the others goes on until it is told that the work is over. All of this goes
through the space's memory, under keys of its own, before and after what is measured.
"""

from __future__ import annotations

import asyncio
import os
import signal
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from msgspec import Struct

from tertulia.compare.gathering import be_ready, until_over
from tertulia.selection.requirement import Paradigm, UseCase
from tertulia.space import Space

__all__ = [
    "LEASE",
    "LOOK",
    "PACE",
    "PATIENCE",
    "Judged",
    "Outcome",
    "Part",
    "Setting",
    "Sheet",
    "Stage",
    "Team",
    "text_of",
]

LEASE = 2.0  # seconds: what a killed agent held is handed on after as long; a tick of it is what renewing costs
PATIENCE = 20.0  # seconds after which a part that still waits counts as stuck: several leases

LOOK = 0.01  # seconds between looks whether there is anything left, after all that is measured

# Seconds between what is sent one at a time, so that each has arrived before the next is on its way.
PACE = 0.005


class Setting(Struct, frozen=True, kw_only=True):
    """What a team does: `rounds` units of work an agent, with values of `payload` bytes.

    `paced`: one at a time, so that latencies are those of a space at rest; otherwise as fast as it goes.
    """

    use_case: UseCase
    paradigm: Paradigm
    agents: int
    payload: int
    rounds: int
    paced: bool = False
    seed: int = 1


class Sheet(Struct, frozen=True, kw_only=True):
    """How it went for one part: latencies and staleness in seconds, counts by what was counted.

    `began` and `ended` are on the machine's monotonic clock, which all its processes share.
    """

    number: int
    began: float
    ended: float
    cpu: float
    samples: tuple[float, ...]
    staleness: tuple[float, ...]
    counts: dict[str, int]
    bytes_moved: int = 0
    bytes_read: int = 0


class Stage:
    """One part's view of a run. `dies_after`: kill this process after so many effects, for a fault run."""

    def __init__(
        self,
        space: Space,
        setting: Setting,
        number: int,
        *,
        ledger: Path | None = None,
        dies_after: int | None = None,
    ) -> None:
        self.space = space
        self.setting = setting
        self.number = number
        self.agent = f"agent-{number}"
        self._ledger = ledger
        self._dies_after = dies_after
        self._effects = 0
        self._samples = array("d")
        self._staleness = array("d")
        self._counts: Counter[str] = Counter()
        self._began = self._ended = perf_counter()
        self._cpu = process_time()

    @property
    def is_judged(self) -> bool:
        """Whether every effect is written down, because somebody is going to die in this run."""
        return self._ledger is not None

    # --- together with the others ---

    async def ready(self) -> None:
        """Say that this part is ready, and wait until all are."""
        await be_ready(self.space, self.number)
        self._began = self._ended = perf_counter()
        self._cpu = process_time()

    async def over(self) -> None:
        """Wait until the work is over."""
        await until_over(self.space)

    async def serve(
        self, work: Coroutine[Any, Any, object], drained: Callable[[], Awaitable[bool]] | None = None
    ) -> None:
        """Do work that has no end of its own until the work of the others is over, and until nothing is left of it."""
        working = asyncio.ensure_future(work)
        try:
            over = asyncio.ensure_future(self.over())
            await asyncio.wait((working, over), return_when=asyncio.FIRST_COMPLETED)
            over.cancel()
            while not working.done() and drained is not None and not await drained():
                await asyncio.wait((working,), timeout=LOOK)
        finally:
            working.cancel()
            await asyncio.wait((working,))
        if not working.cancelled():
            working.result()

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Look again and again whether something is so; only after all that is measured."""
        while not await condition():  # noqa: ASYNC110 - there is nothing that tells
            await asyncio.sleep(LOOK)

    # --- what is written down ---

    now = staticmethod(perf_counter)

    def sample(self, began: float) -> None:
        """Write down a unit of work that began at an instant and is done now."""
        self._ended = perf_counter()
        self._samples.append(self._ended - began)

    def stale(self, seconds: float) -> None:
        """Write down how old something was when it was looked at, or for how long a copy was out of date."""
        self._staleness.append(max(0.0, seconds))

    def count(self, what: str, times: int = 1) -> None:
        """Count something."""
        self._counts[what] += times

    def effect(self, unit: str) -> None:
        """Do what cannot be taken back, and what nobody may do twice: here it is a line in a ledger.

        A part that is to die does so then: the work is done, and nobody knows it yet.
        """
        self._effects += 1
        self._counts["effects"] += 1
        if self._ledger is not None:
            with self._ledger.open("ab", buffering=0) as ledger:
                ledger.write(f"{unit}\n".encode())
        if self._effects == self._dies_after:
            os.kill(os.getpid(), signal.SIGKILL)

    def sheet(self, *, bytes_moved: int = 0, bytes_read: int = 0) -> Sheet:
        """Return what was written down."""
        return Sheet(
            number=self.number,
            began=self._began,
            ended=self._ended,
            cpu=process_time() - self._cpu,
            samples=tuple(self._samples),
            staleness=tuple(self._staleness),
            counts=dict(self._counts),
            bytes_moved=bytes_moved,
            bytes_read=bytes_read,
        )


Part = Callable[[Stage], Awaitable[None]]


class Team(Struct, frozen=True, kw_only=True):
    """How a use case is built in one way.

    `parts` are the agents' work: the last of them is done by as many as there are, the ones before by one each; with
    `serves` the first goes on until the work of the others is over. So do `services`, which come on top of the agents
    that were asked for, and are numbered after them. `victim` is the number of the part whose death hurts most.
    """

    parts: tuple[Part, ...]
    serves: bool = False
    services: tuple[Part, ...] = ()
    victim: Callable[[Setting], int] = lambda _: 0

    def part(self, setting: Setting, number: int) -> Part:
        """Return the part of a number."""
        if number >= setting.agents:
            return self.services[number - setting.agents]
        return self.parts[min(number, len(self.parts) - 1)]

    def ends_by_itself(self, setting: Setting, number: int) -> bool:
        """Tell whether a part ends when its work is done, and not when it is told that all is over."""
        return number < setting.agents and not (self.serves and number == 0)

    def size(self, setting: Setting) -> int:
        """Return how many parts there are."""
        return setting.agents + len(self.services)


class Outcome(Struct, frozen=True):
    """What is left of a run when all parts have ended: the space, their sheets, and the ledger's lines by unit."""

    space: Space
    setting: Setting
    sheets: tuple[Sheet, ...]
    ledger: Mapping[str, int] | None

    def counted(self, what: str) -> int:
        """Return how often all parts together counted something."""
        return sum(sheet.counts.get(what, 0) for sheet in self.sheets)

    def ledgered(self, expected: Collection[str]) -> Judged:
        """Judge by the ledger: what was expected and is not in it, and what is in it more than once.

        Where there is none because nobody was to die, all that is known is how many effects there were.
        """
        if self.ledger is None:
            done = self.counted("effects")
            return Judged(units=len(expected), lost=max(0, len(expected) - done), repeated=max(0, done - len(expected)))
        repeated = sum(times - 1 for times in self.ledger.values())
        return Judged(units=len(expected), lost=len(set(expected) - set(self.ledger)), repeated=repeated)


class Judged(Struct, frozen=True, kw_only=True):
    """How many units of work there were, and of these how many were lost, and done more than once."""

    units: int
    lost: int
    repeated: int


def text_of(size: int) -> str:
    """Return a text of so many bytes that compresses no better than prose."""
    words = "agents share what they know and say what they need to whoever can help "
    return (words * (size // len(words) + 1))[:size]
