"""A workload on a space in a file whose every write and sync is recorded, and what must still be there after a crash.

What a crash leaves is compared with the file as it was after each commit: it must be the same, in every table, as after
one of them, and not an older one than what was promised by then.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import apsw

import tertulia
from tertulia._clock import SystemClock
from tertulia.engines._file_format import counters_in, encode
from tertulia.engines.base import Claimed, Commit, Delete, Engine, MailboxOptions, Publish, Put, Send, Settle
from tertulia.errors import TertuliaError
from tertulia.testing.power_loss import Disk, Event, Recording, write_files
from tertulia.testing.sqlite_files import CallKind, SQLiteFiles, Watcher

NAME = "space.db"
CLIENTS = 4  # for each of two handles that share nothing but the file
LEASE = 1000.0  # seconds; no lease runs out here
LEASED = 1  # a message's state in the file
NOTHING = encode((0, 0, 0, 0, 0, 0))  # the counters of a space in which nothing has happened
TABLES = (
    "heads", "topics", "messages", "records", "tags", "changes", "bodies", "markers", "bells", "interests",
    "listeners", "letters",
)  # fmt: skip
BROAD = MailboxOptions(max_size=100_000)


# --- what a file holds ---


@dataclass(frozen=True)
class Picture:
    """All that a file holds: as a digest, and what operations are recognised by."""

    digest: str
    revision: int = 0
    boxes: frozenset[str] = frozenset()
    topics: frozenset[tuple[str, str]] = frozenset()
    messages: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)  # state and attempt
    attempts: dict[int, tuple[int, int]] = field(default_factory=dict)  # the same, by sequence


def picture_of(path: Path) -> Picture:
    """Return what is in a file; as good as empty if there is no space in it yet."""
    connection = apsw.Connection(str(path))
    try:
        if not connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'letters'").get:
            return Picture(EMPTY)
        tables: list[Any] = [connection.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES]  # noqa: S608
        (_, _, _, *counters), *heads = tables[0]
        boxes: dict[int, str] = {number: name for name, number, *_ in heads}
        messages = [(boxes[row[2]], *row) for row in tables[2]]
        return Picture(
            _digest(tables),
            counters_in(tuple(counters))[0],
            frozenset(boxes.values()),
            frozenset((boxes[row[1]], row[2]) for row in tables[1]),
            {(box, name): (state, attempt) for box, _, _, _, name, state, _, attempt, *_ in messages},
            {sequence: (state, attempt) for _, _, sequence, _, _, state, _, attempt, *_ in messages},
        )
    finally:
        connection.close()


def _digest(tables: Sequence[Any]) -> str:
    (*_, counters, _), *heads = tables[0]
    if counters == NOTHING and not heads and not any(tables[1:]):
        return EMPTY
    return hashlib.sha256(repr(tables).encode()).hexdigest()


EMPTY = "empty"
Seen = Callable[[Picture], bool]


# --- the workload ---


@dataclass
class Operation:
    """Something that a client asked for: when, when it was acknowledged, and how to see it in a picture."""

    what: str
    begun: int
    acknowledged: int
    seen: Seen


class Run:
    """A workload that has run: what happened to the files, and what was asked for."""

    def __init__(self, *watchers: Watcher, files: Mapping[str, bytes] | None = None) -> None:
        self.recording = Recording()
        self.files = dict(files or {})  # what a crash before it left
        self.operations: list[Operation] = []
        self._watchers = watchers
        self._claims: list[Claimed] = []
        self._names: Iterator[str] = iter(())

    @property
    def events(self) -> list[Event]:
        return self.recording.events

    async def work(self, directory: Path, durability: str, *, seed: int, steps: int) -> None:
        """Have two handles of `CLIENTS` clients each take so many steps, at once; then close the space."""
        self._names = (f"{seed}-{number}" for number in count(1))
        write_files(self.files, directory)
        url = f"file:{directory / NAME}"
        with SQLiteFiles(*self._watchers, self.recording) as files:
            options: dict[str, Any] = {"durability": durability, "_vfs": files.name}
            async with (
                tertulia.connect(url, clock=SystemClock(), **options) as one,
                tertulia.connect(url, clock=SystemClock(), **options) as two,
            ):
                for name in ("work", "news"):
                    await one.engine.open_mailbox(name, BROAD)
                await one.engine.subscribe("news", "n.*")
                await asyncio.gather(
                    *(
                        self._client(space.engine, random.Random(f"{seed} {client} {place}"), steps)  # noqa: S311
                        for client in range(CLIENTS)
                        for place, space in enumerate((one, two))
                    )
                )
            self.recording.mark("closed")

    async def _client(self, engine: Engine, chance: random.Random, steps: int) -> None:
        for _ in range(steps):
            step = chance.choices(
                (self._put, self._transaction, self._send, self._publish, self._claim, self._settle, self._release,
                 self._change_boxes),
                (6, 6, 5, 2, 4, 4, 1, 1),
            )[0]  # fmt: skip
            try:
                await step(engine, chance)
            except TertuliaError:
                continue  # it lost a race, or its message has moved to another mailbox
            if chance.random() < 0.2:
                await asyncio.sleep(chance.random() * 0.001)

    async def _do(self, what: str, call: Any, seen: Callable[[Any], Seen | None]) -> Any:
        """Ask for something; once it is acknowledged, `seen` of its result says how it is seen, if it did anything."""
        begun = self.recording.mark(what)
        result = await call
        acknowledged = self.recording.mark(f"{what} acknowledged")
        if (how := seen(result)) is not None:
            self.operations.append(Operation(what, begun, acknowledged, how))
        return result

    async def _put(self, engine: Engine, chance: random.Random) -> None:
        put = Put(f"k:{chance.randrange(30)}", chance.randbytes(chance.randrange(1500)), "ada", None, ("x",))
        await self._do("put", engine.put(put), lambda record: _revised(record.revision))

    async def _transaction(self, engine: Engine, chance: random.Random) -> None:
        name = next(self._names)
        commit = Commit(
            puts=(Put(f"t:{chance.randrange(20)}", b"t" * chance.randrange(900), "bob", 1000.0),),
            deletes=(Delete(f"k:{chance.randrange(30)}"),),
            sends=(Send("work", f"t{name}", b"s" * chance.randrange(1200), dedupe=True),),
        )
        await self._do("transaction", engine.commit(commit), lambda done: _revised(done.revision))

    async def _send(self, engine: Engine, chance: random.Random) -> None:
        name = next(self._names)
        send = Send("work", f"m{name}", b"m" * chance.randrange(1200), dedupe=chance.random() < 0.5)
        await self._do("send", engine.send(send), lambda _: lambda at: ("work", f"m{name}") in at.messages)

    async def _publish(self, engine: Engine, chance: random.Random) -> None:
        name = next(self._names)
        publish = Publish("n.1", f"p{name}", b"p" * chance.randrange(900))
        await self._do("publish", engine.send(publish), lambda _: lambda at: ("news", f"p{name}") in at.messages)

    async def _claim(self, engine: Engine, chance: random.Random) -> None:
        def seen(claims: list[Claimed]) -> Seen | None:
            if not claims:
                return None
            return lambda at: all(at.attempts.get(one.sequence, (0, 0))[1] >= one.attempt for one in claims)

        box = chance.choice(("work", "news"))
        self._claims += await self._do("claim", engine.claim(box, limit=chance.randrange(1, 4), lease=LEASE), seen)

    async def _settle(self, engine: Engine, chance: random.Random) -> None:
        if not self._claims:
            return
        one = self._claims.pop(chance.randrange(len(self._claims)))
        settle = Settle(one.mailbox, one.message_id, one.sequence)
        if chance.random() < 0.5:
            await self._do("settle", engine.settle(settle), lambda _: lambda at: one.sequence not in at.attempts)
        else:
            commit = Commit(settles=(settle,), puts=(Put(f"done:{one.message_id}", b"", "ada"),))
            await self._do("answer", engine.commit(commit), lambda done: _revised(done.revision))

    async def _release(self, engine: Engine, chance: random.Random) -> None:
        if not self._claims:
            return
        one = self._claims.pop(chance.randrange(len(self._claims)))
        await self._do(
            "release",
            engine.release(one, counted=True),
            lambda done: (lambda at: at.attempts.get(one.sequence) != (LEASED, one.attempt)) if done else None,
        )

    async def _change_boxes(self, engine: Engine, chance: random.Random) -> None:
        box = f"b{next(self._names)}"
        await self._do("open", engine.open_mailbox(box, BROAD), lambda _: lambda at: box in at.boxes)
        await self._do("subscribe", engine.subscribe(box, "x.*"), lambda _: lambda at: (box, "x.*") in at.topics)
        await engine.send(Send(box, f"i{box}", b"inherited"))
        if chance.random() < 0.7:
            closing = engine.close_mailbox(box, heir="news", note=b"gone")
            await self._do("close", closing, lambda _: lambda at: box not in at.boxes)


def _revised(revision: int) -> Seen:
    return lambda at: at.revision >= revision


# --- what was promised ---


@dataclass(frozen=True)
class Promises:
    """The file after each of its commits, with the commits' indexes among the events; and what each event promises."""

    commits: list[int]
    pictures: list[Picture]
    acknowledged: list[tuple[int, int, str]]  # from which event on which commit must not be lost, and why
    synced: list[tuple[int, int]]  # from which event on which commit had been synced

    def last(self, index: int) -> int:
        """Return the last commit made by an event; 0 stands for the empty file."""
        return sum(commit <= index for commit in self.commits)

    def oldest(self, index: int, *, power: bool) -> tuple[int, str]:
        """Return the oldest commit that a crash after an event may fall back to, and why not before it."""
        synced = max((commit for at, commit in self.synced if at <= index), default=0)
        if not power:
            return synced, "a sync"
        return max(((commit, what) for at, commit, what in self.acknowledged if at <= index), default=(0, "nothing"))


def promises_of(run: Run, directory: Path) -> Promises:
    """Find out from the recording what the file was like after each commit, and which commit each operation was in."""
    commits: list[int] = []
    pictures = [_picture_in(run.files, directory / "before")]
    synced: list[tuple[int, int]] = []
    disk = Disk(run.files)
    frame_ends = False
    for index, event in enumerate(run.events):
        disk.apply(event)
        call = event.call
        if call is None or not call.path.endswith("-wal"):
            continue
        if call.kind is CallKind.SYNC:
            synced.append((index, sum(commit < event.began for commit in commits)))
        elif call.kind is CallKind.WRITE:
            if frame_ends:
                commits.append(index)
                pictures.append(_picture_in(disk.now(), directory / f"commit-{len(commits)}"))
            # a frame is written as a head of 24 bytes, which says whether the frame ends a commit, and a page
            frame_ends = len(call.data) == 24 and struct.unpack(">I", call.data[4:8])[0] > 0
    return Promises(commits, pictures, [_lasting(one, commits, pictures) for one in run.operations], synced)


def _picture_in(files: dict[str, bytes], directory: Path) -> Picture:
    directory.mkdir()
    write_files(files, directory)
    picture = picture_of(directory / NAME)
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
    return picture


def _lasting(one: Operation, commits: list[int], pictures: list[Picture]) -> tuple[int, int, str]:
    """Return from which event on which commit must be there for an operation: the first one that shows it."""
    for number, commit in enumerate(commits, 1):
        if one.begun < commit < one.acknowledged and one.seen(pictures[number]):
            return one.acknowledged, number, one.what
    raise AssertionError(f"{one.what}, acknowledged at {one.acknowledged}, was not in the log by then")


# --- after the crash ---


@dataclass
class Aftermath:
    """What crashes left: all that is wrong with it, and how many commits were lost, which may be right."""

    faults: list[str] = field(default_factory=list)
    crashes: int = 0
    lost: int = 0


async def look_after(directory: Path, promises: Promises, index: int, aftermath: Aftermath, *, power: bool) -> bool:
    """Open what a crash left, and write down what is wrong with it, and what was lost; return whether all is well."""
    found, faults = await _open(directory)
    digests = [picture.digest for picture in promises.pictures]
    last = promises.last(index)
    oldest, why = promises.oldest(index, power=power)
    if found is not None and found.digest not in digests[oldest : last + 1]:
        told = f"as after commit {digests.index(found.digest)}" if found.digest in digests else "as it never was"
        faults.append(f"it is {told}; commit {oldest} of {last} must be there, because of {why}")
    elif found is not None:
        aftermath.lost += digests[oldest : last + 1][::-1].index(found.digest)
    aftermath.crashes += 1
    aftermath.faults += [f"{directory.name}, after event {index}: {fault}" for fault in faults]
    return not faults


async def _open(directory: Path) -> tuple[Picture | None, list[str]]:
    try:
        async with tertulia.connect(f"file:{directory / NAME}") as space:
            faults = [finding.detail for finding in await space.doctor() if finding.level == "problem"]
            found = picture_of(directory / NAME)
            await space.engine.put(Put("after", b"the crash", "ada"))
            record = await space.engine.get("after")
    except TertuliaError as error:
        return None, [f"it cannot be used: {error}"]
    if record is None or record.body != b"the crash":
        faults.append("it does not keep what is written now")
    return found, faults
