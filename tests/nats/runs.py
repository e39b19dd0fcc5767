"""A run of the storm: its clients on a space whose servers fail, and what they wrote down held against what is."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec

from tertulia import Message, Space, connect
from tertulia.records import ChangeKind
from tertulia.testing import linearizability as lin
from tertulia.testing import mailboxes, watches
from tests.figures import Figures
from tests.model.procedures import overlapping
from tests.nats import storm
from tests.nats.storm import AUDIT, EXACTLY, LAST, LEAST, PATTERNS, Author, Book, Consumer, Reader, Told, Watcher

PATIENCE = 90.0  # seconds for what should happen soon, on a machine that is slow
SHORT, LONG = 3.0, 20.0  # seconds that calls try to reach a server: shorter and longer than an election
AUTHORS, SHARERS = 2, 6
SIZE = 1_000_000  # messages of a mailbox


class Run:
    """The clients of one run; see `running`."""

    def __init__(self, url: str, figures: Figures) -> None:
        self.url = url
        self.figures = figures
        self.book = Book()
        self.slowest_return = 0.0
        self.spaces: list[Space] = []
        self._stack = AsyncExitStack()
        self._watchers: list[Watcher] = []
        self._consumers: list[Consumer] = []
        self._tasks: dict[str, list[asyncio.Task[None]]] = {"watchers": [], "consumers": [], "others": []}

    async def begin(self) -> None:
        """Open the space for every client, and let all of them work."""
        keeper = await self.open(LONG)
        for name in (EXACTLY, LEAST, AUDIT):
            await keeper.broker.register_agent(name, max_queue_size=SIZE, max_attempts=1_000)
        watching = await self.open(SHORT)
        self._watchers = [Watcher(self.book, watching, pattern) for pattern in PATTERNS]
        for watcher in self._watchers:
            self.start("watchers", watcher.work())
        for watcher in self._watchers:
            await soon(watcher.ready.wait())
        for number in range(AUTHORS):
            self.start("others", Author(self.book, await self.open(SHORT), f"author{number}").work())
            space = await self.open((SHORT, LONG)[number % 2])
            for mailbox in (EXACTLY, LEAST):
                consumer = Consumer(self.book, space, f"{mailbox}{number}", mailbox)
                self._consumers.append(consumer)
                self.start("consumers", consumer.work())
        self.start("others", Reader(self.book, await self.open(SHORT), "reader").work())
        sharing = [await self.open(LONG) for _ in range(2)]
        for number in range(SHARERS):
            self.start("others", storm.share_keys(self.book, sharing[number % 2], f"client{number}"))
        await self.goes_on()

    async def open(self, timeout: float) -> Space:
        space = await self._stack.enter_async_context(connect(self.url, timeout=timeout))
        self.spaces.append(space)
        return space

    def start(self, kind: str, work: Coroutine[Any, Any, None]) -> None:
        self._tasks[kind].append(asyncio.create_task(work))

    # --- while it goes on ---

    async def goes_on(self, most: int = 5) -> float:
        """Wait until every kind of call succeeds again, and every watch brings news; return how long that took."""
        started = time.monotonic()
        before = self.book.done.copy()
        kinds = ("write", "count", "commit", "send", "handle", "share", *(f"watch {one}" for one in PATTERNS))

        await self.until(lambda: [kind for kind in kinds if self.book.done[kind] < before[kind] + most])
        return time.monotonic() - started

    async def comes_back(self) -> None:
        """The same after a fault is over, or a majority is there; the slowest return is kept."""
        self.slowest_return = max(self.slowest_return, await self.goes_on())
        self.figures.progress(f"back after {self.slowest_return:.1f} s at most; {sum(self.book.done.values())} calls")

    async def until(self, lacking: Callable[[], list[str]]) -> None:
        """Wait until nothing is lacking, as long as no client has failed."""
        end = time.monotonic() + PATIENCE
        while lacks := lacking():
            assert time.monotonic() < end, f"these do not go on: {lacks}; so far: {self.book.errors}"
            for task in [task for tasks in self._tasks.values() for task in tasks]:
                if task.done() and task.exception() is not None:
                    await task
            await asyncio.sleep(0.02)

    # --- the end ---

    async def aclose(self) -> None:
        """Stop whatever runs."""
        tasks = [task for tasks in self._tasks.values() for task in tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._stack.aclose()

    async def end(self) -> None:
        """Let the authors end, then the consumers, who handle all that is left, then the watches."""
        self.book.stopping = True
        await soon(asyncio.gather(*self._tasks["others"]))
        keeper = self.spaces[0]
        for mailbox in (EXACTLY, LEAST):
            end = time.monotonic() + PATIENCE
            while left := await keeper.engine.browse(mailbox, limit=5):
                assert time.monotonic() < end, f"nobody handles what is left in {mailbox!r}: {left}"
                await asyncio.sleep(0.1)
        for consumer in self._consumers:
            consumer.ended = True
        await soon(asyncio.gather(*self._tasks["consumers"]))
        for key in LAST:
            entry = await keeper.memory.write(key, "end", owner="keeper")
            self.book.take(Told.DONE, entry.revision, storm.put(key, "end"))
        await soon(asyncio.gather(*self._tasks["watchers"]))

    async def judge(self) -> None:
        book = self.book
        async with connect(self.url, timeout=LONG) as space:
            await nothing_written_is_lost(book, space)
            effects = await every_effect_is_there_once(book, space)
        self.figures(
            writes=len(book.committed), messages=book.sent, effects=effects, watches=len(book.watches), gaps=book.gaps,
            refused=book.errors["EngineUnavailableError"], in_doubt=book.errors["OutcomeUnknownError"],
            slowest_call_in_s=book.slowest, slowest_return_in_s=self.slowest_return,
        )  # fmt: skip
        report = mailboxes.check(book.events, ordered=True)
        assert report.ok, report.describe()
        report = watches.check(book.committed, book.watches, doubtful=book.doubtful)
        assert report.ok, report.describe()
        what_was_shared_is_linearizable(book)


async def soon(work: Any) -> Any:
    """Await something that should happen at once."""
    async with asyncio.timeout(PATIENCE):
        return await work


async def nothing_written_is_lost(book: Book, space: Space) -> None:
    """Every key is as its last acknowledged write left it, or as a later one of unknown outcome did."""
    last: dict[str, watches.Change] = {}
    for change in book.committed:
        if change.key not in last or change.revision > last[change.key].revision:
            last[change.key] = change
    perhaps = {(change.key, change.kind, change.value) for change in book.doubtful}
    entries = {entry.key: entry for entry in (await space.memory.snapshot("[wcp]:*")).entries}
    for key in last.keys() | entries.keys():
        entry, acknowledged = entries.get(key), last.get(key)
        kind, value = (ChangeKind.PUT, entry.value) if entry is not None else (ChangeKind.DELETE, None)
        same = acknowledged is not None and (acknowledged.kind, acknowledged.value) == (kind, value)
        if entry is not None and acknowledged is not None:
            assert entry.revision >= acknowledged.revision, f"lost: {acknowledged}"
            same = same and entry.revision == acknowledged.revision
        assert same or (key, kind, value) in perhaps, f"{key} is {entry}, but last acknowledged was {acknowledged}"
    for key in [key for key in entries if key[0] == "c" and key not in LAST]:
        assert entries[key].value == entries[key].version - 1, "an update was lost, or done twice"


async def every_effect_is_there_once(book: Book, space: Space) -> int:
    """What was sent to be handled once had its effects once: two writes and a message, in every one of them."""
    sent = [event for event in book.events if isinstance(event, mailboxes.Sent) and event.mailbox == EXACTLY]
    entries = (await space.memory.snapshot("effect:*")).entries
    effects = {entry.key.removeprefix("effect:") for entry in entries}
    assert {event.message_id for event in sent if event.confirmed} <= effects <= {event.message_id for event in sent}
    assert {entry.version for entry in entries} == {1}, "an effect was there twice"
    totals = [entry.value for entry in (await space.memory.snapshot("total:*")).entries]
    assert sum(totals) == len(effects), "an effect was lost, or there twice"
    audit: Counter[str] = Counter()
    for stored in await space.engine.browse(AUDIT, limit=SIZE):
        audit[msgspec.msgpack.decode(stored.body, type=Message).content] += 1
    assert audit == Counter(effects), "a message of an effect was lost, or there twice"
    return len(effects)


def what_was_shared_is_linearizable(book: Book) -> None:
    operations = book.operations
    assert overlapping(operations) > len(operations) / 20, "the clients were meant to disturb each other"
    verdict = lin.check(operations)
    assert verdict.ok, verdict.describe()


@asynccontextmanager
async def running(url: str, figures: Figures) -> AsyncIterator[Run]:
    """Let clients work for the length of the block; then let them end, and judge what they wrote down."""
    run = Run(url, figures)
    try:
        await run.begin()
        yield run
        await run.end()
        await run.judge()
    finally:
        await run.aclose()
