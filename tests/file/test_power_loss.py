"""The power goes: what was acknowledged with durability="power" is there; with "process" the newest at most is not."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tertulia.engines import _file_open, _file_writer
from tertulia.engines._file_session import Session
from tertulia.testing.power_loss import Event, power_losses, write_files
from tertulia.testing.sqlite_files import CallKind, FileCall, Refusal
from tests.figures import Figures
from tests.file.crashes import Aftermath, Run, look_after, promises_of
from tests.profile import times

pytestmark = pytest.mark.campaign

STEPS = 15  # of each client: about 120 operations, 60 to 110 commits and four checkpoints
OFTEN = 80  # pages of log before a checkpoint, so that there are several
ENOUGH = 300  # losses that find any of the mistakes below, ten times over; most are found by the first few
MADE = 40  # events while a space is made and opened


@pytest.fixture(autouse=True)
def _checkpoints_are_frequent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_file_writer, "CHECKPOINT_PAGES", OFTEN)


def _moments(events: list[Event], count: int, chance: random.Random, *, anywhere: bool) -> list[int]:
    """Return when the power is to go: around a sync or removal, or also at any time and while the file is made."""
    kinds = (CallKind.SYNC, CallKind.DELETE, CallKind.TRUNCATE)
    turns = [index for index, event in enumerate(events) if event.call is not None and event.call.kind in kinds]
    moments: list[int] = []
    for _ in range(count):
        at = chance.choice(turns)
        if anywhere:
            at = chance.choice((chance.randrange(len(events)), at, chance.randrange(MADE)))
        moments.append(min(max(at + chance.choice((-1, 0, 0, 1)), 0), len(events) - 1))
    return moments


async def _let_it_go(
    run: Run, directory: Path, count: int, seed: int, *, power: bool, to_the_end: bool = True
) -> Aftermath:
    """Let the power go so many times, or until something is wrong, and return what is wrong afterwards."""
    promises = promises_of(run, directory)
    moments = _moments(run.events, count, random.Random(seed), anywhere=to_the_end)  # noqa: S311 - for a test
    aftermath = Aftermath()
    for number, (index, files) in enumerate(power_losses(run.events, at=moments, seed=seed, files=run.files)):
        place = directory / f"loss-{number}"
        place.mkdir()
        write_files(files, place)
        if await look_after(place, promises, index, aftermath, power=power):
            shutil.rmtree(place)
        elif not to_the_end:
            break
    return aftermath


async def _run(directory: Path, durability: str, seed: int, *watchers: Any, steps: int = STEPS) -> Run:
    run = Run(*watchers)
    (directory / "live").mkdir(parents=True)
    await run.work(directory / "live", durability, seed=seed, steps=steps)
    return run


@pytest.mark.parametrize("durability", ["power", "process"])
async def test_a_power_loss_takes_nothing_that_was_promised(tmp_path: Path, durability: str, figures: Figures):
    losses = lost = 0
    for seed in range(times(3, 100)):
        run = await _run(tmp_path / str(seed), durability, seed)
        aftermath = await _let_it_go(run, tmp_path / str(seed), 50, seed, power=durability == "power")
        assert aftermath.faults == []
        losses += aftermath.crashes
        lost += aftermath.lost
    figures(power_losses=losses, commits_lost_that_were_not_promised=lost)

    assert lost > 0  # else nothing was lost that could be; how much is, depends on what two syncs had between them


async def test_after_a_power_loss_the_promises_hold_again(tmp_path: Path, figures: Figures):
    files: dict[str, bytes] = {}
    rounds = times(3, 100)
    for number in range(rounds):
        place = tmp_path / str(number)
        (place / "live").mkdir(parents=True)
        run = Run(files=files)
        await run.work(place / "live", "power", seed=number, steps=3)
        aftermath = await _let_it_go(run, place, 10, number, power=True)
        assert aftermath.faults == []
        chance = random.Random(number)  # noqa: S311 - for a test
        ((_, files),) = power_losses(run.events, at=[chance.randrange(len(run.events))], seed=number, files=files)
    figures(power_losses=rounds * 10)


# --- the tests can fail: mistakes that an engine could make, and a disk could, are found ---


class Lies:
    """A disk that says it has synced some of its files, and has not."""

    def __init__(self, ending: str) -> None:
        self._ending = ending

    def before(self, call: FileCall) -> Refusal | None:
        lies = call.kind is CallKind.SYNC and call.path.endswith(self._ending)
        return Refusal(code=0) if lies else None

    def after(self, call: FileCall) -> None:
        pass


def _no_syncs_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_file_open.DURABILITIES, "power", "OFF")


def _no_sync_of_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_file_open.DURABILITIES, "power", "NORMAL")


def _no_syncs_of_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_file_open.DURABILITIES, "process", "OFF")


def _acknowledged_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def write_group(self: Any, lock: Any, session: Session) -> None:
        lock.acquire()
        jobs = self._take()
        session.begin()
        outcomes = [self._write_one(session, job) for job in jobs if not job[1].cancelled()]
        session.finish()
        self._post(self._settle, outcomes, session.effects, session.pages, len(jobs))
        session.commit()
        lock.release()

    monkeypatch.setattr(_file_writer.Writer, "_write_group", write_group)


def _a_commit_in_two_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Session.finish

    def finish(self: Session) -> None:
        self.execute("COMMIT")
        self.execute("BEGIN IMMEDIATE")
        plain(self)

    monkeypatch.setattr(Session, "finish", finish)


def _nothing(_: pytest.MonkeyPatch) -> None:
    """The disk alone is at fault."""


def _names_are_forgotten(events: list[Event]) -> list[Event]:
    """Return the events as they are where no directory is ever synced."""
    return [
        event if event.call is None else replace(event, call=replace(event.call, directory=False)) for event in events
    ]


@pytest.mark.parametrize(
    ("mistake", "lies", "durability"),
    [
        pytest.param(_no_syncs_at_all, None, "power", id="no syncs at all"),
        pytest.param(_no_sync_of_a_commit, None, "power", id="no sync of a commit"),
        pytest.param(_acknowledged_before_the_commit, None, "power", id="acknowledged before the commit"),
        pytest.param(_a_commit_in_two_parts, None, "power", id="a commit in two parts"),
        pytest.param(_no_syncs_of_checkpoints, None, "process", id="no syncs of checkpoints"),
        pytest.param(_nothing, "-wal", "power", id="the disk lies about the log"),
        pytest.param(_nothing, "-wal", "process", id="the disk lies about the log, and few rely on it"),
        pytest.param(_nothing, ".db", "power", id="the disk lies about the file"),
        pytest.param(_nothing, ".db", "process", id="the disk lies about the file, and few rely on it"),
    ],
)
async def test_a_mistake_about_syncing_is_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mistake: Callable[[pytest.MonkeyPatch], None],
    lies: str | None,
    durability: str,
):
    mistake(monkeypatch)
    run = await _run(tmp_path, durability, 1, *([Lies(lies)] if lies else []), steps=8)
    monkeypatch.undo()
    try:
        power = durability == "power"
        faults = (await _let_it_go(run, tmp_path, ENOUGH, 1, power=power, to_the_end=False)).faults
    except AssertionError as error:  # an acknowledged operation that is nowhere in the log by then
        faults = [str(error)]

    assert faults


async def test_a_directory_that_is_not_synced_is_found(tmp_path: Path):
    run = await _run(tmp_path, "power", 1)
    run.recording.events = _names_are_forgotten(run.events)

    assert (await _let_it_go(run, tmp_path, ENOUGH, 1, power=True, to_the_end=False)).faults
