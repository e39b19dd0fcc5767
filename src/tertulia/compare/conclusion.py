"""What the figures say, in a sentence for each stage and one about them all, and no more than they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tertulia.compare.results import Measured, Paradigm, StageResult
from tertulia.compare.units import bytes_text, percent_text, seconds_text

__all__ = ["MIN_RUNS", "conclude", "conclude_across"]

NOISE = 3.0  # a difference so many times as large as communication alone explains is the machine's, not the paradigm's

MIN_RUNS = 3  # with fewer there is no spread to compare a difference with


def conclude(memory: Paradigm, messages: Paradigm) -> str:
    """Return what the figures of one workload say about the choice."""
    return f"On this workload {_about_the_job(memory, messages)}; {_about_communication(memory, messages)}."


def conclude_across(stages: Sequence[StageResult]) -> str:
    """Return what several stages say beside the first one; empty when there is no other."""
    return " ".join(_beside(stages[0], other) for other in stages[1:])


def _beside(first: StageResult, other: StageResult) -> str:
    """Say how long another stage takes, in times of the first one."""
    alone = _ratios(first, other, lambda paradigm: paradigm.alone)
    which = f"Beside {first.agents} on {first.engine}, {other.agents} on {other.engine}"
    said = f"{which} take {alone} for communication alone"
    if len(first.paradigms[0].job.wall.runs) < MIN_RUNS:
        return f"{said}."
    return f"{said}, and {_ratios(first, other, lambda paradigm: paradigm.job)} for the whole job."


def _ratios(first: StageResult, other: StageResult, sort: Callable[[Paradigm], Measured]) -> str:
    """Return the ratios of the wall times, one for each paradigm."""
    pairs = zip(other.paradigms, first.paradigms, strict=True)
    ratios = [f"{sort(one).wall.median / sort(than).wall.median:.2g} times ({one.name})" for one, than in pairs]
    return f"{' and '.join(ratios)} as long"


def _about_the_job(memory: Paradigm, messages: Paradigm) -> str:
    first, second = memory.job.wall, messages.job.wall
    share = max(one.alone.wall.median / one.job.wall.median for one in (memory, messages))
    work = f"communication is {percent_text(share)} of the time, the agents' own work is the rest"
    if len(first.runs) < MIN_RUNS:
        return f"fewer than {MIN_RUNS} runs each way cannot tell which is faster ({work})"
    if first.overlaps(second):
        return f"both take the same time within the spread ({work})"
    faster, slower = sorted((memory, messages), key=lambda one: one.job.wall.median)
    gap = slower.job.wall.median - faster.job.wall.median
    ratio = slower.job.wall.median / faster.job.wall.median
    said = f"{_through(faster)} the job is done {ratio:.2f} times as fast"
    if gap > NOISE * abs(slower.alone.wall.median - faster.alone.wall.median):
        return f"{said}, but that is more than communication explains ({work}), so do not rely on it"
    return f"{said} ({work})"


def _about_communication(memory: Paradigm, messages: Paradigm) -> str:
    first, second = memory.alone, messages.alone
    if first.wall.overlaps(second.wall):
        alone = "communication alone shows no difference beyond the spread"
    else:
        faster, slower = sorted((memory, messages), key=lambda one: one.alone.wall.median)
        ratio = slower.alone.wall.median / faster.alone.wall.median
        alone = f"communication alone is {ratio:.1f} times as fast {_through(faster)}"
    times = f"{seconds_text(first.wall.median)} through memory, {seconds_text(second.wall.median)} through messages"
    read = f"the agents read {bytes_text(memory.job.bytes_read)} and {bytes_text(messages.job.bytes_read)}"
    return f"{alone} ({times}), and {read}"


def _through(paradigm: Paradigm) -> str:
    return "through shared memory" if paradigm.name == "memory" else f"through {paradigm.name}"
