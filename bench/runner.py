"""Measures rows: warm-up, then rounds of peer, ours, peer, ours; the median of the rounds' ratios, with spread."""

from __future__ import annotations

import asyncio
import gc
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from statistics import median, quantiles

from bench.rows import Row, Sampler, Scale
from bench.servers import program

MIN_ROUNDS = 7  # fewer say little about the spread
ROW_LIMIT = 900.0  # seconds; the slowest row takes a tenth of it, so only a hang meets it
FIRST_COUNT = 50  # operations of the first warm-up sample; what follows is sized by it


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How thoroughly to measure: rounds, seconds that one sample lasts, and the size of the settings.

    Samples are short and rounds many, so that the two samples of a round meet the same state of the machine.
    """

    rounds: int = 31
    sample: float = 0.03
    scale: Scale = field(default_factory=Scale)

    def __post_init__(self) -> None:
        if self.rounds < MIN_ROUNDS:
            message = f"at least {MIN_ROUNDS} rounds, not {self.rounds}"
            raise ValueError(message)


QUICK = Settings(rounds=MIN_ROUNDS, sample=0.01, scale=Scale(keys=20_000, mailboxes=500))
FULL = Settings()


@dataclass(frozen=True)
class Summary:
    """The ratios of all rounds in five numbers."""

    low: float
    lower_quartile: float
    median: float
    upper_quartile: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a row: times per operation, in seconds and in round order, or why there are none."""

    row: Row
    peer_times: tuple[float, ...] = ()
    our_times: tuple[float, ...] = ()
    missing: str | None = None
    failure: str | None = None

    @property
    def where(self) -> str:
        """What is missing was looked for there."""
        return "on this machine" if self.missing == self.row.program else "installed"

    @property
    def measured(self) -> bool:
        return bool(self.our_times)

    @property
    def ratios(self) -> tuple[float, ...]:
        """One per round: the two samples of a round were taken side by side."""
        pairs = zip(self.peer_times, self.our_times, strict=True)
        return tuple(self.row.direction.ratio(peer=peer, ours=ours) for peer, ours in pairs)

    @property
    def verdict(self) -> str:
        """Say whether the median reaches the target, and whether the rounds agree about it."""
        if self.missing is not None:
            return f"not measured: {self.missing} is not {self.where}"
        if self.failure is not None:
            return "failed"
        target = self.row.target
        if target is None:
            return "for information"
        summary = summarize(self.ratios)
        reached = self.row.direction.reached
        word = "reached" if reached(summary.median, target) else "not reached"
        agree = reached(summary.lower_quartile, target) == reached(summary.upper_quartile, target)
        return word if agree else f"{word}, barely"


def summarize(ratios: Iterable[float]) -> Summary:
    """Return median, quartiles and extremes. Quartiles include the ends, so they never leave the data."""
    found = sorted(ratios)
    if len(found) == 1:
        return Summary(*found * 5)
    lower, _, upper = quantiles(found, n=4, method="inclusive")
    return Summary(found[0], lower, median(found), upper, found[-1])


def run_rows(rows: Iterable[Row], settings: Settings, say: Callable[[str], None]) -> list[Result]:
    """Measure the rows one after the other, each in an event loop of its own; tell the progress."""
    results: list[Result] = []
    for row in rows:
        say(f"{row.name}: {row.what} vs {row.peer}")
        result = run_row(row, settings)
        say(f"  {describe(result)}")
        results.append(result)
    return results


def run_row(row: Row, settings: Settings) -> Result:
    """Measure one row. One that cannot be measured is a result too, and says why."""
    if row.package is not None and installed(row.package) is None:
        return Result(row=row, missing=row.package)
    if row.program is not None and program(row.program) is None:
        return Result(row=row, missing=row.program)
    try:
        return asyncio.run(_measure(row, settings))
    except Exception:  # noqa: BLE001 - the other rows are still worth having; the report and the exit code tell
        return Result(row=row, failure=traceback.format_exc())
    finally:
        gc.unfreeze()


def installed(package: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def describe(result: Result) -> str:
    """Return a result in a line."""
    if not result.measured:
        return result.failure or result.verdict
    summary = summarize(result.ratios)
    spread = f"{summary.lower_quartile:.3g} to {summary.upper_quartile:.3g}"
    return f"{summary.median:.3g} ({spread}): {result.verdict}"


async def _measure(row: Row, settings: Settings) -> Result:
    peer_times: list[float] = []
    our_times: list[float] = []
    async with asyncio.timeout(ROW_LIMIT), row.measure(settings.scale) as pair:
        gc.collect()
        gc.freeze()  # what the set-up made is nobody's garbage; without this each `collect` would walk all of it
        peer_count = await _warm_up(pair.peer, settings.sample)
        our_count = await _warm_up(pair.ours, settings.sample)
        for _ in range(settings.rounds):
            peer_times.append(await _sample(pair.peer, peer_count))
            our_times.append(await _sample(pair.ours, our_count))
    return Result(row=row, peer_times=tuple(peer_times), our_times=tuple(our_times))


async def _warm_up(sampler: Sampler, seconds: float) -> int:
    """Sample until one sample is long enough to tell; return how many operations take about `seconds`."""
    count = FIRST_COUNT
    while (took := await sampler(count)) < seconds / 2:
        count = max(count * 2, min(count * 20, int(count * seconds / max(took, 1e-9))))
    return max(1, round(count * seconds / took))


async def _sample(sampler: Sampler, count: int) -> float:
    """Return seconds per operation. The collector starts each sample empty, and runs as it does for users."""
    gc.collect()
    return await sampler(count) / count
