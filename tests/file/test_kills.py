"""The storm: of processes that are killed and stopped at any moment nothing is lost, and nothing is done twice."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from math import inf
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct
from msgspec.structs import replace

import tertulia
from tertulia import Message, Space, WhenFull
from tertulia.records import ChangeKind
from tertulia.testing import mailboxes, watches
from tests.figures import Figures
from tests.file import bugs
from tests.file.pool import PATIENCE, Pool, Worker
from tests.file.storm import AUDIT, COUNTERS, EXACTLY, LEAST, Done, Entry, Opened, Refused, Tried, Watched
from tests.profile import times

SLOTS = ("author0", "author1", "consumer0", "consumer1", "reader0", "reader1")


class Least(Struct, frozen=True):
    """What a storm has to do before it is over."""

    kills: int
    effects: int  # of messages that must have theirs once
    watches: int


STORMS = 4  # to find a bug that was planted: each one is so short that it may happen not to
ENOUGH = Least(times(200, 3_000), times(10_000, 200_000), times(1_000, 20_000))
ALL_AT_ONCE = 20  # every so many kills nobody survives, and the next to open finds only what is on the disk
AHEAD = 0.1  # of all kills, at most, so that they come from the beginning to the end
STOPS = 0.1  # of the times, somebody is stopped for a while as well, which may be longer than a lease
STOPPED = (0.01, 0.8)  # seconds
LIFE = (0.02, 0.25)  # seconds between two kills
OPENING = 10.0  # seconds; it takes a fraction of one, on a machine that has nothing else to do
VISITORS, AT_ONCE = 9, 3  # who open and close one file
BOX = 300  # messages, then the authors wait


class Storm:
    """The processes of one run, and what they have written down."""

    def __init__(self, pool: Pool[Entry], url: str, figures: Figures, least: Least) -> None:
        self.least = least
        self.pool = pool
        self.url = url
        self.figures = figures
        self.chance = random.Random(20)  # noqa: S311 - to be repeated, not to be secret
        self.workers: dict[str, Worker] = {}
        self.lives: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.kills = self.stops = 0
        self.asleep: dict[str, float] = {}  # until when
        self.openings: list[float] = []  # beside others
        self.openings_alone: list[float] = []  # of what those left who were killed all at once
        self.events: list[mailboxes.Event] = []
        self.committed: list[watches.Change] = []
        self.doubtful: list[watches.Change] = []
        self.tried: dict[str, Tried] = {}
        self.watches: list[watches.Watch] = []

    async def start(self, slot: str) -> None:
        role = slot[:-1]
        self.lives[slot] += 1
        values: dict[str, tuple[Any, ...]] = {
            "author": (self.lives[slot], self.sent[slot], self.least.effects // 2),
            "consumer": (),
            "reader": (self.lives[slot],),
        }
        self.workers[slot] = await self.pool.start(slot, f"tests.file.storm:{role}", self.url, slot, *values[role])

    async def rage(self) -> None:
        """Kill and replace until there were enough kills, effects and watches."""
        for slot in SLOTS:
            await self.start(slot)
        while not self.is_enough():
            await asyncio.sleep(self.chance.uniform(*LIFE))
            await self.pool.check(self.workers.values())
            if self.kills and self.kills % ALL_AT_ONCE == 0:
                await self.kill_all()
            if self.kills < self.least.kills * min(1.0, self.progress() + AHEAD):
                await self.kill(self.chance.choice(SLOTS))
            if self.chance.random() < STOPS:
                await self.stop(self.chance.choice(SLOTS))
            await self.wake(by=time.monotonic())
            for slot in SLOTS:
                self.learn(slot)
        await self.wake(by=inf)

    async def stop(self, slot: str) -> None:
        """Stop a process wherever it is, perhaps with all its locks."""
        await self.pool.signal(self.workers[slot], signal.SIGSTOP)
        self.asleep[slot] = time.monotonic() + self.chance.uniform(*STOPPED)
        self.stops += 1

    async def wake(self, *, by: float) -> None:
        for slot in [slot for slot, until in self.asleep.items() if until <= by]:
            await self.pool.signal(self.workers[slot], signal.SIGCONT)
            del self.asleep[slot]

    def progress(self) -> float:
        """Return which part is done of what is not killing."""
        effects = self.sent["author0"] + self.sent["author1"]
        return min(1.0, effects / (self.least.effects // 2 * 2), len(self.watches) / self.least.watches)

    def is_enough(self) -> bool:
        return self.progress() == 1.0 and self.kills >= self.least.kills

    async def kill(self, slot: str, *, again: bool = True) -> None:
        worker = self.workers.pop(slot)
        self.asleep.pop(slot, None)
        await self.pool.kill(worker)
        self.kills += 1
        self.learn(slot, worker)
        self.in_doubt(slot)
        if again:
            await self.start(slot)

    async def kill_all(self) -> None:
        """Leave nobody, and see how long it takes to open what is left."""
        for slot in SLOTS:
            await self.kill(slot, again=False)
        self.figures.progress(f"{self.kills} kills, {len(self.watches)} watches, {len(self.events)} events of messages")
        before = time.perf_counter()
        async with tertulia.connect(self.url) as space:
            self.openings_alone.append(time.perf_counter() - before)
            await sound(space)
        for slot in SLOTS:
            await self.start(slot)

    # --- what they say ---

    def learn(self, slot: str, worker: Worker | None = None) -> None:
        """Take in what a process has written down."""
        for entry in self.pool.news(worker or self.workers[slot]):
            match entry:
                case Opened():
                    self.openings.append(entry.seconds)
                case Tried():
                    self.tried[slot] = entry
                case Refused():
                    del self.tried[slot]
                case Done():
                    self.done(self.tried.pop(slot), entry.revision)
                case Watched():
                    self.watches.append(entry.watch)
                case _:
                    self.events.append(entry)
                    if isinstance(entry, mailboxes.Sent) and entry.confirmed and entry.mailbox == EXACTLY:
                        self.sent[slot] = max(self.sent[slot], entry.sequence)

    def done(self, tried: Tried, last: int) -> None:
        first = last - len(tried.changes) + 1
        self.committed += [replace(change, revision=first + place) for place, change in enumerate(tried.changes)]

    def in_doubt(self, slot: str) -> None:
        """Note what a killed process did last, and nobody knows whether it was done."""
        if (tried := self.tried.pop(slot, None)) is not None:
            self.doubtful += tried.changes

    # --- the end ---

    async def calm(self, space: Space) -> None:
        """Let the consumers handle what is left; then end everybody."""
        for slot in SLOTS:
            if not slot.startswith("consumer"):
                await self.kill(slot, again=False)
        async with asyncio.timeout(60):
            while any([await left_in(space, name) for name in (EXACTLY, LEAST)]):
                await self.pool.check(self.workers.values())
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.05)  # the last ones write down what they were told
        for slot in list(self.workers):
            await self.kill(slot, again=False)


async def left_in(space: Space, mailbox: str) -> int:
    stats = await space.broker.mailbox_stats(mailbox)
    return stats.waiting + stats.pending + stats.delayed


async def sound(space: Space) -> None:
    """Check that the doctor finds nothing."""
    problems = [finding for finding in await space.doctor() if finding.level == "problem"]
    assert problems == []


async def run_a_storm(directory: Path, figures: Figures, least: Least, bug: str = "") -> tuple[Storm, int]:
    """Let the storm loose, and judge everything that is left and that was said; return it, and the effects."""
    url = f"file:{directory}/space.db"
    planted = {"TERTULIA_PLANTED_BUG": bug}
    async with Pool[Entry](directory / "logs", Entry, "tests.file.storm", environment=planted) as pool:
        storm = Storm(pool, url, figures, least)
        async with tertulia.connect(url) as space:
            for name, size in ((EXACTLY, BOX), (LEAST, BOX), (AUDIT, 1_000_000)):
                await space.broker.register_agent(
                    name, max_queue_size=size, when_full=WhenFull.WAIT, max_attempts=1_000
                )
        await storm.rage()
        async with tertulia.connect(url) as space:
            await storm.calm(space)
            await sound(space)
            await nothing_written_is_lost(storm, space)
            effects = await every_effect_is_there_once(storm, space)
    nothing_went_wrong_with_messages(storm)
    nothing_went_wrong_with_watches(storm)
    return storm, effects


@pytest.mark.campaign
@pytest.mark.timeout(times(600, 7_200))  # seconds; a twentieth of it, on two cores that have nothing else to do
async def test_kills_at_any_moment_lose_and_double_nothing(tmp_path: Path, figures: Figures):
    storm, effects = await run_a_storm(tmp_path, figures, ENOUGH)
    figures(
        kills=storm.kills,
        stops=storm.stops,
        acknowledged_writes=len(storm.committed),
        exactly_once_effects=effects,
        messages=len({event.message_id for event in storm.events}),
        watches=len(storm.watches),
        gaps_told=sum(is_gap(watch) for watch in storm.watches),
        slowest_opening_in_s=max(storm.openings_alone),
        beside_others_that_are_stopped_too=max(storm.openings),
    )
    assert max(storm.openings_alone) < OPENING


@pytest.mark.campaign
async def test_processes_killed_while_they_make_open_and_close_the_file_leave_it_sound(
    tmp_path: Path, figures: Figures
):
    files = times(8, 200)
    kills = acknowledged = 0
    openings: list[float] = []
    chance = random.Random(21)  # noqa: S311 - to be repeated, not to be secret
    async with Pool[Entry](tmp_path / "logs", Entry, "tests.file.storm") as pool:
        for file in range(files):
            url = f"file:{tmp_path}/{file}.db"
            done, killed = await visited(pool, url, chance)
            before = time.perf_counter()
            async with tertulia.connect(url) as space:
                openings.append(time.perf_counter() - before)
                await sound(space)
                assert done <= {(entry.key, entry.revision) async for entry in space.memory.entries("*")}
            acknowledged += len(done)
            kills += killed
    figures(kills=kills, files=files, acknowledged_writes=acknowledged, slowest_opening_in_s=max(openings))

    assert acknowledged > files
    assert max(openings) < OPENING


async def visited(pool: Pool[Entry], url: str, chance: random.Random) -> tuple[set[tuple[str, int]], int]:
    """Let some processes make and use a file, and kill them, sooner or later; return what was acknowledged."""
    done: set[tuple[str, int]] = set()
    living: list[Worker] = []
    for number in range(VISITORS):
        living.append(await pool.start("visitor", "tests.file.storm:visitor", url, f"v{number}"))
        if len(living) > AT_ONCE or chance.random() < 0.2:
            victim = living.pop(chance.randrange(len(living)))
            await grown(pool, victim, chance.choice((0, 0, 100, 300, 600)))
            await asyncio.sleep(chance.random() * 0.02)
            done |= await last_words(pool, victim)
    for worker in living:
        done |= await last_words(pool, worker)
    return done, VISITORS


async def grown(pool: Pool[Entry], worker: Worker, size: int) -> None:
    """Wait until a process has written down so many bytes: a visit takes about 200."""
    async with asyncio.timeout(PATIENCE):
        while pool.size(worker) < size:  # noqa: ASYNC110 - a process tells nobody
            await asyncio.sleep(0.002)


async def last_words(pool: Pool[Entry], worker: Worker) -> set[tuple[str, int]]:
    """Kill a visitor, and return the keys and revisions of which it was told that they are written."""
    await pool.kill(worker)
    said = pool.news(worker)
    keys = {entry.number: entry.changes[0].key for entry in said if isinstance(entry, Tried)}
    return {(keys[entry.number], entry.revision) for entry in said if isinstance(entry, Done)}


@pytest.mark.parametrize(
    "bug",
    [
        bugs.acknowledgements_come_before_the_commit,
        bugs.settled_ids_are_forgotten,
        bugs.watches_skip_the_last_of_a_batch,
    ],
    ids=lambda bug: bug.__name__.replace("_", " "),
)
@pytest.mark.timeout(600)  # seconds; the first storm takes a few, and nearly always finds it
async def test_the_storm_finds_the_bug(bug: bugs.Bug, tmp_path: Path, figures: Figures):
    with pytest.raises(AssertionError):
        await run_larger_and_larger_storms(tmp_path, figures, bug.__name__)


async def run_larger_and_larger_storms(directory: Path, figures: Figures, bug: str) -> None:
    """Let four loose, one after the other: the busier the machine is otherwise, the less happens at once in each."""
    for size in (1, 2, 4, 8):
        place = directory / str(size)
        place.mkdir()
        await run_a_storm(place, figures, Least(5 * size, 300 * size, 30 * size), bug)


def is_gap(watch: watches.Watch) -> bool:
    return any(isinstance(event, watches.Gap) for event in watch.events)


async def nothing_written_is_lost(storm: Storm, space: Space) -> None:
    """Every key is as its last acknowledged write left it, or as a later one of unknown outcome did."""
    last: dict[str, watches.Change] = {}
    for change in storm.committed:
        if change.key not in last or change.revision > last[change.key].revision:
            last[change.key] = change
    perhaps = {(change.key, change.kind, change.value) for change in storm.doubtful}
    entries = {entry.key: entry for entry in (await space.memory.snapshot("[wcp]:*")).entries}
    for key in last.keys() | entries.keys():
        entry, acknowledged = entries.get(key), last.get(key)
        if entry is None:
            ended = watches.Change(0, key, ChangeKind.DELETE)
        else:
            ended = watches.Change(entry.revision, key, ChangeKind.PUT, entry.value)
        if acknowledged is not None and entry is not None:
            assert entry.revision >= acknowledged.revision, f"lost: {acknowledged}"
        same = acknowledged is not None and replace(ended, revision=acknowledged.revision) == acknowledged
        newer = entry is None or acknowledged is None or entry.revision > acknowledged.revision
        assert (same and not (entry and newer)) or (newer and (key, ended.kind, ended.value) in perhaps), (
            f"{key} is {ended}, but last acknowledged was {acknowledged}"
        )
    for number in range(COUNTERS):
        entry = entries[f"c:{number}"]
        assert entry.value == entry.version - 1, "an update was lost, or done twice"


async def every_effect_is_there_once(storm: Storm, space: Space) -> int:
    """What was sent to be handled once had its effects once: two writes and a message, in every one of them."""
    sent = {e.message_id for e in storm.events if isinstance(e, mailboxes.Sent) and e.mailbox == EXACTLY}
    confirmed = {
        e.message_id for e in storm.events if isinstance(e, mailboxes.Sent) and e.mailbox == EXACTLY and e.confirmed
    }
    entries = (await space.memory.snapshot("effect:*")).entries
    effects = {entry.key.removeprefix("effect:") for entry in entries}
    assert confirmed <= effects <= sent
    assert {entry.version for entry in entries} == {1}
    totals = [entry.value for entry in (await space.memory.snapshot("total:*")).entries]
    assert sum(totals) == len(effects)
    audit: Counter[str] = Counter()
    for stored in await space.engine.browse(AUDIT, limit=2_000_000):
        audit[msgspec.msgpack.decode(stored.body, type=Message).content] += 1
    assert audit == Counter(effects)
    return len(effects)


def nothing_went_wrong_with_messages(storm: Storm) -> None:
    report = mailboxes.check(storm.events, ordered=True)
    assert report.ok, report.describe()


def nothing_went_wrong_with_watches(storm: Storm) -> None:
    report = watches.check(storm.committed, storm.watches, doubtful=storm.doubtful)
    assert report.ok, report.describe()
