"""The disk fails at any call: one clear error, nothing half done or lost, and work goes on after it."""

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import pytest

import tertulia
from tertulia.engines import _file_bell, _file_hub, _file_writer, file
from tertulia.engines.base import Claimed, Commit, Delete, Engine, MailboxOptions, Put, Send, Settle
from tertulia.errors import EngineError, OutcomeUnknownError
from tertulia.records import ChangeKind
from tertulia.testing import ManualClock
from tertulia.testing.power_loss import Disk, Recording, write_files
from tertulia.testing.sqlite_files import CallKind, FailingCalls, FileCall, Refusal, SQLiteFiles
from tests.figures import Figures
from tests.file.crashes import NAME
from tests.file.locks import held
from tests.profile import campaign, times

pytestmark = pytest.mark.campaign

PLACES = 40  # at which calls the disk fails in the short run: the first so many
TIMES = times(1, 3)  # how often each operation is asked for while the disk may fail
ALWAYS = 10**9
PATIENCE = 10.0  # seconds; only a hang meets it
LEASE = 1000.0  # seconds; no lease runs out here


@dataclass(frozen=True)
class Failure:
    """How the disk fails."""

    kind: CallKind
    code: int
    part: float = 0.0


FAILURES = {
    "write": Failure(CallKind.WRITE, apsw.SQLITE_IOERR_WRITE),
    "full": Failure(CallKind.WRITE, apsw.SQLITE_FULL, part=0.5),
    "sync": Failure(CallKind.SYNC, apsw.SQLITE_IOERR_FSYNC),
    "truncate": Failure(CallKind.TRUNCATE, apsw.SQLITE_IOERR_TRUNCATE),
    "open": Failure(CallKind.OPEN, apsw.SQLITE_CANTOPEN),
    "read": Failure(CallKind.READ, apsw.SQLITE_IOERR_READ),
}

# --- what is asked for, and how to see that it happened ---

State = dict[str, Any]


async def _state(engine: Engine) -> State:
    """Return what a space holds, as its users see it."""
    _, records = await engine.scan("")
    messages = await engine.browse("work", limit=1000)
    return {
        **{f"key {record.key}": (record.version, record.body) for record in records},
        **{f"message {one.message_id}": (one.state, one.attempt, one.body) for one in messages},
    }


@dataclass
class Asked:
    """Operations of one sort: what was asked for, acknowledged, refused, and left in doubt."""

    claims: list[Claimed]
    number: int = 0
    done: list[int] = field(default_factory=list)
    refused: list[EngineError] = field(default_factory=list)
    doubtful: bool = False


async def _put(engine: Engine, asked: Asked) -> None:
    await engine.put(Put(f"new:{asked.number}", b"v" * 600, "ada"))


async def _transaction(engine: Engine, asked: Asked) -> None:
    puts = (Put(f"new:{asked.number}", b"v", "ada"), Put("old:1", str(asked.number).encode(), "ada"))
    sends = (Send("work", f"n{asked.number}", b"s" * 900),)
    await engine.commit(Commit(puts=puts, deletes=(Delete(f"old:{asked.number + 10}"),), sends=sends))


async def _send(engine: Engine, asked: Asked) -> None:
    await engine.send(Send("work", f"n{asked.number}", b"s" * 900))


async def _claim(engine: Engine, _: Asked) -> None:
    assert len(await engine.claim("work", lease=LEASE)) == 1


async def _settle(engine: Engine, asked: Asked) -> None:
    one = asked.claims[asked.number]
    await engine.settle(Settle(one.mailbox, one.message_id, one.sequence))


OPERATIONS: dict[str, Callable[[Engine, Asked], Awaitable[None]]] = {
    "put": _put, "transaction": _transaction, "send": _send, "claim": _claim, "settle": _settle,
}  # fmt: skip


# --- the disk fails during an operation ---


Files = dict[str, bytes]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A file with a space in it."""
    directory = tmp_path_factory.mktemp("made")
    asyncio.run(_make(directory))
    return {NAME: (directory / NAME).read_bytes()}


async def _make(directory: Path) -> None:
    async with tertulia.connect(f"file:{directory / NAME}") as space:
        await space.engine.open_mailbox("work", MailboxOptions(max_size=1000))
        for number in range(20):
            await space.engine.put(Put(f"old:{number}", b"o" * 300, "ada", None, ("tag",)))
            await space.engine.send(Send("work", f"o{number}", b"m" * 100))


class Trial:
    """A space on a disk that can fail, and what its files hold by now, without opening them."""

    def __init__(self, directory: Path, made: Files, durability: str, failing: FailingCalls) -> None:
        self.failing = failing
        self.clock = ManualClock()
        self.path = directory / NAME
        self._durability = durability
        self._recording = Recording()
        self._disk = Disk(made)
        self._seen = 0
        directory.mkdir()
        write_files(made, directory)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Engine]:
        options: dict[str, Any] = {"durability": self._durability}
        with SQLiteFiles(self.failing, self._recording, reads=True) as files:
            async with tertulia.connect(f"file:{self.path}", clock=self.clock, _vfs=files.name, **options) as space:
                yield space.engine

    def files(self) -> Files:
        """Return what the files hold now."""
        for event in self._recording.events[self._seen :]:
            self._disk.apply(event)
        self._seen = len(self._recording.events)
        return self._disk.now()

    async def after_a_kill(self) -> State:
        """Return what would be there if the process were killed now."""
        return await self._state_in(self.files())

    async def after_power_losses(self, count: int) -> list[State]:
        """Return what might be there if the power went now, so many times."""
        self.files()
        chance = random.Random(1)  # noqa: S311 - for a test
        return [await self._state_in(self._disk.after_power_loss(chance)) for _ in range(count)]

    async def reopened(self) -> State:
        """Return what is there after everything was closed."""
        return await self._state_of(self.path)

    async def _state_in(self, files: Files) -> State:
        copy = self.path.parent / "copy"
        copy.mkdir()
        write_files(files, copy)
        state = await self._state_of(copy / NAME)
        shutil.rmtree(copy)
        return state

    async def _state_of(self, path: Path) -> State:
        async with tertulia.connect(f"file:{path}", clock=self.clock) as space:
            problems = [finding for finding in await space.doctor() if finding.level == "problem"]
            assert problems == []
            return await _state(space.engine)


async def _ask(engine: Engine, asked: Asked, operation: str) -> None:
    """Ask, and see to it that nothing but the right errors comes back."""
    try:
        await OPERATIONS[operation](engine, asked)
    except OutcomeUnknownError as error:
        asked.doubtful = True
        asked.refused.append(error)
    except EngineError as error:
        asked.refused.append(error)
    else:
        asked.done.append(asked.number)


async def _try(trial: Trial, operation: str) -> Asked:
    """Have the disk fail, and check all that must hold."""
    failing = trial.failing
    failing.armed = False
    async with trial.opened() as engine:
        asked = Asked(claims=await engine.claim("work", limit=8, lease=LEASE))
        await engine.put(Put("warm", b"", "ada"))
        for asked.number in range(TIMES):
            before = await _state(engine)
            failing.armed = True
            await _ask(engine, asked, operation)
            failing.armed = False
            after = await _state(engine)
            if asked.number in asked.done:
                assert after != before
            else:
                assert after == before, "what was refused has happened"
            if asked.number not in asked.done or asked.number == TIMES - 1:
                killed = await trial.after_a_kill()
                assert asked.doubtful or killed == after, "a crash revives what was refused, or loses what was not"
        for asked.number, ask in enumerate(OPERATIONS.values(), TIMES):
            await ask(engine, asked)
        last = await _state(engine)
    assert await trial.reopened() == last
    return asked


@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_failing_disk_is_an_error_and_nothing_else(
    made: Files, tmp_path: Path, durability: str, operation: str, failure: str, figures: Figures
):
    how = FAILURES[failure]
    failed = doubtful = place = 0
    while campaign() or place < PLACES:
        place += 1
        failing = FailingCalls([how.kind], code=how.code, at=place, part=how.part)
        asked = await _try(Trial(tmp_path / str(place), made, durability, failing), operation)
        shutil.rmtree(tmp_path / str(place))
        if not failing.failed:
            break
        failed += 1
        doubtful += asked.doubtful
        assert len(asked.refused) <= 1
    figures(failing_calls=failed, left_in_doubt=doubtful)


class Dying(FailingCalls):
    """A disk that fails from the first sync on."""

    def __init__(self) -> None:
        super().__init__([CallKind.SYNC, CallKind.WRITE], code=apsw.SQLITE_IOERR_FSYNC, at=1, times=ALWAYS)

    def before(self, call: FileCall) -> Refusal | None:
        is_alive = not self.failed and call.kind is not CallKind.SYNC
        return None if is_alive else super().before(call)


async def test_a_disk_that_dies_in_a_sync_leaves_the_outcome_open_until_the_next_commit(made: Files, tmp_path: Path):
    trial = Trial(tmp_path / "space", made, "power", Dying())
    trial.failing.armed = False
    async with trial.opened() as engine:
        await engine.put(Put("warm", b"", "ada"))
        before = await _state(engine)
        trial.failing.armed = True
        with pytest.raises(OutcomeUnknownError, match="synced"):
            await engine.put(Put("new", b"", "ada"))
        trial.failing.armed = False
        seen = await _state(engine)
        doubtful = await trial.after_a_kill()
        await engine.put(Put("next", b"", "ada"))
        certain = await trial.after_power_losses(30)

    assert seen == before
    assert "key new" in doubtful  # so it was right not to say that it had not happened
    assert {"key new" in state for state in certain} == {False}
    assert {"key next" in state for state in certain} == {True}


@pytest.mark.parametrize("failure", ["full", "write", "sync"])
async def test_writes_of_a_group_that_fails_are_all_refused(made: Files, tmp_path: Path, failure: str):
    how = FAILURES[failure]
    failing = FailingCalls([how.kind], code=how.code, at=1, part=how.part)
    trial = Trial(tmp_path / "space", made, "power", failing)
    failing.armed = False
    async with trial.opened() as engine:
        await engine.put(Put("warm", b"", "ada"))
        before = await _state(engine)
        failing.armed = True
        with held(tmp_path / "space" / NAME):
            writing = [asyncio.ensure_future(engine.put(Put(f"new:{number}", b"", "ada"))) for number in range(30)]
            await asyncio.sleep(0)  # all of them have asked by now
        outcomes = await asyncio.gather(*writing, return_exceptions=True)
        failing.armed = False
        after = await _state(engine)
        killed = await trial.after_a_kill()
        await engine.put(Put("new:1", b"", "ada"))

    assert {type(outcome) for outcome in outcomes} == {EngineError}
    assert after == killed == before


# --- the disk fails while a space is opened or closed ---

CODES = {
    CallKind.OPEN: apsw.SQLITE_CANTOPEN,
    CallKind.READ: apsw.SQLITE_IOERR_READ,
    CallKind.WRITE: apsw.SQLITE_FULL,
    CallKind.TRUNCATE: apsw.SQLITE_IOERR_TRUNCATE,
    CallKind.SYNC: apsw.SQLITE_IOERR_FSYNC,
    CallKind.DELETE: apsw.SQLITE_IOERR_DELETE,
}


async def _left_open(made: Files, directory: Path) -> Files:
    """Return files as a process that was killed leaves them, with a log that was not moved into the file."""
    trial = Trial(directory, made, "process", FailingCalls([], code=0))
    async with trial.opened() as engine:
        await engine.put(Put("in the log", b"", "ada"))
        return trial.files()


@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("kept", ["nothing yet", "a file", "a file with a log"])
async def test_an_opening_that_fails_changes_nothing(
    made: Files, tmp_path: Path, kept: str, kind: CallKind, figures: Figures
):
    files: Files = {"nothing yet": {}, "a file": made, "a file with a log": await _left_open(made, tmp_path / "left")}[
        kept
    ]
    expected = await Trial(tmp_path / "expected", files, "power", FailingCalls([], code=0)).reopened()
    failed = place = 0
    while campaign() or place < PLACES:
        place += 1
        failing = FailingCalls([kind], code=CODES[kind], at=place)
        trial = Trial(tmp_path / str(place), files, "power", failing)
        refused = ""
        try:
            async with trial.opened():
                failing.armed = False
        except EngineError as error:
            refused = str(error)
        if not failing.failed:
            break
        failed += 1
        assert NAME in refused or not refused
        assert await trial.reopened() == expected
    figures(failing_calls=failed)

    assert failed or kind in (CallKind.TRUNCATE, CallKind.DELETE, CallKind.WRITE, CallKind.SYNC)


@pytest.mark.parametrize("kind", CODES)
async def test_closing_never_fails_and_loses_nothing(made: Files, tmp_path: Path, kind: CallKind):
    failing = FailingCalls([kind], code=CODES[kind], at=1, times=ALWAYS)
    trial = Trial(tmp_path / "space", made, "power", failing)
    failing.armed = False
    async with trial.opened() as engine:
        engine.listen("_reply:x", print)
        await engine.put(Put("new", b"", "ada"))
        last = await _state(engine)
        failing.armed = True

    assert await trial.reopened() == last


# --- the disk fails in the background ---


@pytest.mark.parametrize("kind", [kind for kind in CODES if kind is not CallKind.DELETE])
async def test_a_checkpoint_that_fails_is_logged_and_made_later(
    made: Files,
    tmp_path: Path,
    kind: CallKind,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    figures: Figures,
):
    monkeypatch.setattr(_file_writer, "CHECKPOINT_PAGES", 60)
    failed = place = 0
    while campaign() or place < PLACES:
        place += 1
        failing = FailingCalls([kind], code=CODES[kind], at=place)
        trial = Trial(tmp_path / str(place), made, "process", failing)
        failing.armed = False
        caplog.clear()
        async with trial.opened() as engine:
            state = await _write_much(engine, trial, failing)
        if not failing.failed:
            break
        failed += 1
        assert "a checkpoint failed" in caplog.text
        assert await trial.reopened() == state
        shutil.rmtree(tmp_path / str(place))
    figures(failing_calls=failed)

    assert failed > 0


async def _write_much(engine: Engine, trial: Trial, failing: FailingCalls) -> State:
    """Write until there were several checkpoints, the first of which may fail; return what is there then."""
    clock = trial.clock
    for number in range(40):
        await engine.put(Put(f"k{number % 5}", b"v" * 2000, "ada"))
        failing.armed = number < 20
        await clock.advance(0)  # until a checkpoint that began has ended
        failing.armed = False
    log = trial.files()[f"{NAME}-wal"]
    assert len(log) < 400 * 1024
    return await _state(engine)


def _forget_pages(engine: Engine) -> None:
    """Have the pages that were read so far read again when they are needed."""
    assert isinstance(engine, file.FileEngine)
    engine._hub.execute("PRAGMA shrink_memory")  # noqa: SLF001 - no user has to do it


@asynccontextmanager
async def _failing_reads(trial: Trial, engine: Engine) -> AsyncIterator[None]:
    """Let every read fail while time passes, up to the moment that somebody waits for."""
    await trial.clock.advance(0)
    trial.failing.armed = True
    _forget_pages(engine)
    await trial.clock.advance(10.0)
    trial.failing.armed = False
    yield
    await trial.clock.advance(1.0)


@pytest.fixture
def failing_reads(made: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    """A trial in which reads fail, and nobody looks by himself from time to time."""
    monkeypatch.setattr(_file_hub, "POLL", 3600.0)
    failing = FailingCalls([CallKind.READ], code=apsw.SQLITE_IOERR_READ, at=1, times=ALWAYS)
    failing.armed = False
    return Trial(tmp_path / "space", made, "process", failing)


async def test_a_claim_that_waits_goes_on_after_reads_that_failed(
    failing_reads: Trial, caplog: pytest.LogCaptureFixture
):
    async with failing_reads.opened() as engine:
        await engine.open_mailbox("empty", MailboxOptions())
        waiting = asyncio.ensure_future(engine.claim("empty", wait=None))
        await engine.send(Send("empty", "delayed", b"", delay=10.0))
        async with _failing_reads(failing_reads, engine):
            assert not waiting.done()
        async with asyncio.timeout(PATIENCE):
            claimed = await waiting

    assert [one.message_id for one in claimed] == ["delayed"]
    assert "could not be read for those who wait" in caplog.text


async def test_a_key_expires_after_reads_that_failed(failing_reads: Trial, caplog: pytest.LogCaptureFixture):
    async with failing_reads.opened() as engine:
        stream = await engine.watch("late")
        await engine.put(Put("late", b"", "ada", 10.0))
        assert (await anext(stream)).kind is ChangeKind.PUT
        async with _failing_reads(failing_reads, engine):
            pass
        async with asyncio.timeout(PATIENCE):
            change = await anext(stream)
        await stream.aclose()

    assert change.kind is ChangeKind.EXPIRE
    assert "could not be removed" in caplog.text


async def test_news_that_could_not_be_read_are_read_later(
    made: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(_file_bell.Bell, "ring", lambda *_: _file_bell.Rung.YES)  # so that only looking helps
    failing = FailingCalls([CallKind.READ], code=apsw.SQLITE_IOERR_READ, at=2, times=ALWAYS)
    # the first tells that there are news
    failing.armed = False
    trial = Trial(tmp_path / "space", made, "process", failing)
    async with trial.opened() as here, tertulia.connect(f"file:{trial.path}") as there:
        await here.open_mailbox("empty", MailboxOptions())
        waiting = asyncio.ensure_future(here.claim("empty", wait=None))
        await asyncio.sleep(2 * _file_hub.POLL)  # it has looked, and found nothing
        failing.armed = True
        await there.engine.send(Send("empty", "m", b""))
        async with asyncio.timeout(PATIENCE):
            while not failing.failed:  # noqa: ASYNC110 - the engine looks when it likes
                await asyncio.sleep(0.01)
            failing.armed = False
            claimed = await waiting

    assert [one.message_id for one in claimed] == ["m"]
    assert "could not be read for those who wait" in caplog.text
