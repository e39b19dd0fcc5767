"""What a router has learned: kept with it, written down in the space, and put together with what others learned."""

from __future__ import annotations

import msgspec
from msgspec import Struct, field

from tertulia._background import logger
from tertulia._codec import decoder_for
from tertulia._rules.routing import Cell, Seen, new_cell, speed_of
from tertulia.engines.base import Check, CheckFailed, Commit, Engine, Put
from tertulia.errors import TertuliaError

PROFILES = "_tertulia:routing:"
MAX_CELLS = 512  # of one sender, at some 250 bytes: who talks to more in more sizes starts to forget the oldest
MAX_RACES = 100  # lost in a row over one profile; what was learned is then written with the next lot
SAVE_EVERY = 128  # routes of a sender between two writings: what a crash may cost, and what a writing is spread over
TOTAL = "*"  # the cell of all routes together


class Profile(Struct, array_like=True):
    """One sender's cells, by what they are about."""

    cells: dict[str, Cell] = field(default_factory=dict[str, Cell])

    def cell(self, name: str) -> Cell:
        """Return a cell, a new one if there is none."""
        found = self.cells.get(name)
        if found is None:
            found = self.cells[name] = new_cell()
            if len(self.cells) > MAX_CELLS:
                del self.cells[next(known for known in self.cells if known != TOTAL)]
        return found

    def merge(self, other: Profile) -> None:
        """Add what another profile has seen."""
        for name, cell in other.cells.items():
            self.cell(name).merge(cell)


_PROFILES = decoder_for(Profile)


class News(Struct, frozen=True, gc=False):
    """One observation: of which cell and channel, what was seen, of which size, and whether to learn about it."""

    cell: str
    channel: int
    seen: Seen
    size: float = 0.0
    explored: bool = False


class Learned:
    """One sender's profile in this handle: what is known, and what of it nobody else knows yet.

    `speeds` are by which factor each channel's line was off, in all cells together.
    """

    __slots__ = ("_engine", "_fresh", "_key", "_news", "_saving", "_scheduled", "known", "speeds")

    def __init__(self, engine: Engine, sender: str) -> None:
        self._engine = engine
        self._key = PROFILES + sender
        self._fresh = Profile()
        self._news: list[News] = []  # since the last time that they were gathered in `_fresh`
        self._saving = False
        self._scheduled = False
        self._know(Profile())

    def _know(self, profile: Profile) -> None:
        self.known = profile
        self.speeds = [speed_of(seen) for seen in profile.cell(TOTAL).seen]

    async def load(self) -> None:
        """Read what was written down. Figures that cannot be read are told, and started over."""
        record = await self._engine.get(self._key)
        if record is not None:
            self._know(self._decode(record.body))

    def see(self, news: News) -> bool:
        """Take one observation into its cell, and into that of all routes; return whether it is time to save."""
        _note(self.known, news)
        self.speeds[news.channel] = speed_of(self.known.cells[TOTAL].seen[news.channel])
        self._news.append(news)
        if len(self._news) < SAVE_EVERY:
            return False
        self._gather()
        due, self._scheduled = not self._scheduled, True
        return due

    async def save(self) -> None:
        """Write down what was learned since the last time, together with what others wrote; know that too from now on.

        An engine that fails is logged: a route does not fail for the figures about it.
        """
        self._scheduled = False
        self._gather()
        if self._saving or not self._fresh.cells:
            return
        fresh, self._fresh, self._saving = self._fresh, Profile(), True
        try:
            written = await self._write(fresh)
        except TertuliaError as error:
            logger.warning("what a router has learned could not be written down: %s", error)
            written = False
        finally:
            self._saving = False
        if not written:
            fresh.merge(self._fresh)
            self._fresh = fresh

    async def _write(self, fresh: Profile) -> bool:
        for _ in range(MAX_RACES):
            record = await self._engine.get(self._key)
            profile = Profile() if record is None else self._decode(record.body)
            profile.merge(fresh)
            check = Check(self._key, absent=True) if record is None else Check(self._key, record.revision)
            put = Put(self._key, msgspec.msgpack.encode(profile), "")
            try:
                await self._engine.commit(Commit(checks=(check,), puts=(put,)))
            except CheckFailed:
                continue
            self._gather()
            profile.merge(self._fresh)  # what was seen while this was written
            self._know(profile)
            return True
        return False

    def _gather(self) -> None:
        for news in self._news:
            _note(self._fresh, news)
        self._news.clear()

    def _decode(self, body: bytes) -> Profile:
        try:
            return _PROFILES.decode(body)
        except msgspec.MsgspecError as error:
            logger.warning("what was learned under %r cannot be read and is started over: %s", self._key, error)
            return Profile()


def _note(profile: Profile, news: News) -> None:
    cell = profile.cell(news.cell)
    cell.seen[news.channel].add(news.seen)
    if news.seen.weight:
        cell.routes += 1
        cell.size += news.size
        cell.explored += news.explored
        profile.cell(TOTAL).seen[news.channel].add(news.seen)
