"""Lines: who waits for a name, first come first, and whose turn it is.

A line is one record with the ids of those who wait. Who is first takes what is free and leaves the line in one commit,
which fails if either changed meanwhile. Those who died are passed over once their wait has run out. Who waits for
several names stands in all their lines, and lets others pass while one of the names is held: what is free is never
kept from one agent by another that cannot take it.
"""

from __future__ import annotations

from tertulia.engines.base import Check, CheckFailed, Commit, Delete, Engine, Put, Record
from tertulia.errors import LineFullError
from tertulia.patterns._bell import Ear
from tertulia.patterns._carried import CarriedCommits
from tertulia.patterns._kept import LINE_TTL, Waiting, encode_kept, holder_key, ids_of, line_key, wait_key, waiting_of
from tertulia.patterns._waits import OWNER, KeptWait

MAX_RACES = 1_000  # lost in a row for one change of a line: each is somebody else's change, so this is a crowd
MAX_LINE = 1_000  # that wait for one name: each who comes or goes writes the line anew, 30 bytes for each in it


class Place:
    """The place of one who waits, or would, in the lines of all the names that it waits for.

    `keys` are those of the lines. Everything is done at one's turn at all of them; see Turns.
    """

    def __init__(self, kept: KeptWait, engine: Engine, commits: CarriedCommits) -> None:
        self.joined = False
        self.keys = tuple(line_key(kept.waiting.kind, name) for name in kept.waiting.names)
        self._kept = kept
        self._waiting = kept.waiting
        self._engine = engine
        self._commits = commits
        self._lines: dict[str, Record | None] = {}  # by key, as they were when last looked at
        self._dead: set[str] = set()  # ids that the last look found without a wait

    # --- coming and going ---

    async def join(self) -> None:
        """Go to the end of every line where it does not stand yet, in one commit. Raises LineFullError."""
        if not self.joined:
            self.joined = True
            await self._kept.announce()
        for _ in range(MAX_RACES):
            await self._read_lines()
            missing = {key: ids_of(line) for key, line in self._lines.items() if self._waiting.id not in ids_of(line)}
            for key, ids in missing.items():
                missing[key] = await self._with_room(ids)
            puts = [_line_put(key, (*ids, self._waiting.id)) for key, ids in missing.items()]
            if await self._commit(Commit(checks=self._unchanged(), puts=(*puts, self._kept.put))):
                return
        raise self._full()

    async def leave(self) -> None:
        """Leave every line, and take the wait away; without it the others pass over a place that is left behind."""
        for _ in range(MAX_RACES):
            await self._read_lines()
            self._dead.clear()
            if await self._commit(self.leaving()):
                break
        await self._kept.close()

    def leaving(self, checks: tuple[Check, ...] = (), puts: tuple[Put, ...] = ()) -> Commit:
        """Return the commit that leaves the lines, as they were when last looked at, and does this too."""
        gone = {*self._dead, self._waiting.id}
        edits: list[Put] = []
        deletes = [Delete(self._kept.key)] if self.joined else []
        for key, line in self._lines.items():
            if line is not None and not gone.isdisjoint(ids_of(line)):
                left = tuple(one for one in ids_of(line) if one not in gone)
                if left:
                    edits.append(_line_put(key, left))
                else:
                    deletes.append(Delete(key))
        return Commit(checks=(*self._unchanged(), *checks), puts=(*puts, *edits), deletes=tuple(deletes))

    async def keep(self, now: float) -> None:
        """Renew the wait, and the lines once half of their time is over."""
        await self._kept.renew()
        await self._read_lines()
        old = [line for line in self._lines.values() if line is not None and line.updated < now - LINE_TTL / 2]
        if old:
            await self._commit(
                Commit(checks=self._unchanged(), puts=tuple(_line_put(line.key, ids_of(line)) for line in old))
            )

    # --- whose turn it is ---

    async def is_first(self, ear: Ear) -> bool:
        """Tell whether nobody who can go stands before; if somebody does, the ear rings when that changes."""
        await self._read_lines()
        self._dead.clear()
        if self.joined and any(self._waiting.id not in ids_of(line) for line in self._lines.values()):
            await self.join()  # it was passed over: this process did not run for a while
        for line in list(self._lines.values()):
            if line is not None and not await self._is_first_in(ids_of(line), ear):
                return False
        return True

    async def _is_first_in(self, ids: tuple[str, ...], ear: Ear) -> bool:
        before = ids[: ids.index(self._waiting.id)] if self._waiting.id in ids else ids
        for other in reversed(before):
            key = wait_key(other)
            ear.listens(key)
            record = await self._engine.get(key)
            if record is None:
                self._dead.add(other)
            elif not await self._lets_pass(waiting_of(record), ear):
                return False
        return True

    async def _lets_pass(self, other: Waiting, ear: Ear) -> bool:
        """Tell whether another cannot go yet, because it waits for several names and one of them is held."""
        if len(other.names) == 1:
            return False
        for name in other.names:
            key = holder_key(other.kind, name)
            ear.listens(key)
            if await self._engine.get(key) is not None:
                return True
        return False

    # --- inside ---

    async def _read_lines(self) -> None:
        self._lines = {key: await self._engine.get(key) for key in self.keys}

    def _unchanged(self) -> tuple[Check, ...]:
        return tuple(
            Check(key, absent=True) if line is None else Check(key, line.revision) for key, line in self._lines.items()
        )

    async def _with_room(self, ids: tuple[str, ...]) -> tuple[str, ...]:
        """Return those in a line, without the dead if it is full. Raises LineFullError."""
        if len(ids) < MAX_LINE:
            return ids
        alive = tuple([one for one in ids if await self._engine.get(wait_key(one)) is not None])
        if len(alive) >= MAX_LINE:
            raise self._full()
        return alive

    def _full(self) -> LineFullError:
        waiting = self._waiting
        return LineFullError(waiting.kind, waiting.names, waiting.agent_id, MAX_LINE)

    async def _commit(self, commit: Commit) -> bool:
        try:
            await self._commits.commit(commit)
        except CheckFailed:
            return False
        return True


def _line_put(key: str, ids: tuple[str, ...]) -> Put:
    return Put(key, encode_kept(ids), OWNER, LINE_TTL)
