"""What a death costs: in each run the part whose death hurts most is killed when half of its work is done.

Another process takes its place. These runs are judged and not timed, and most of each is a wait for what the dead one
held; so several go on at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing

from msgspec import Struct

from tertulia.compare.places import FreshSpace
from tertulia.compare.use_cases.conducting import play_as_processes
from tertulia.compare.use_cases.stage import Setting
from tertulia.compare.use_cases.teams import TEAMS, team_of
from tertulia.compare.workers import Workers
from tertulia.selection.profile import Faults
from tertulia.selection.requirement import Paradigm, UseCase

__all__ = ["Death", "deaths", "deaths_of"]

AGENTS, ROUNDS, PAYLOAD = 4, 40, 100
AT_ONCE = 4  # runs, of five processes each


class Death(Struct, frozen=True):
    """A use case built in one way, on an engine that processes can share, in which somebody is killed."""

    use_case: UseCase
    paradigm: Paradigm
    engine: str


def deaths_of(use_cases: Sequence[UseCase], engines: Sequence[str]) -> tuple[Death, ...]:
    """Return every way in which these use cases are built, on each of these engines."""
    return tuple(
        Death(use_case, paradigm, engine)
        for engine in engines
        for use_case in use_cases
        for paradigm in TEAMS[use_case]
    )


async def deaths(
    wanted: Sequence[Death],
    spaces: Mapping[str, FreshSpace],
    workers: Workers,
    *,
    begun: Callable[[Death], object] = lambda _: None,
    in_time: Callable[[], bool] = lambda: True,
) -> AsyncGenerator[tuple[Death, Faults | None]]:
    """Yield what came of the work in each of these ways, as it becomes known. Raises what conducting raises.

    It is None for those that were not begun, since when it was their turn it was not `in_time` any more.
    """
    room = asyncio.Semaphore(AT_ONCE)

    async def judged(death: Death) -> tuple[Death, Faults | None]:
        async with room, spaces[death.engine]() as url:
            if not in_time():
                return death, None
            begun(death)
            return death, await _with_a_death(death, url, workers)

    async with aclosing(_as_done([asyncio.ensure_future(judged(death)) for death in wanted])) as found:
        async for one in found:
            yield one


async def _as_done(
    running: Sequence[asyncio.Task[tuple[Death, Faults | None]]],
) -> AsyncGenerator[tuple[Death, Faults | None]]:
    """Yield results in the order in which they come; none goes on when this ends."""
    pending = set(running)
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for one in sorted(done, key=running.index):
                yield one.result()
    finally:
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _with_a_death(death: Death, url: str, workers: Workers) -> Faults:
    setting = Setting(use_case=death.use_case, paradigm=death.paradigm, agents=AGENTS, payload=PAYLOAD, rounds=ROUNDS)
    played = await play_as_processes(workers, url, setting, dies_after=_half(setting))
    judged = played.judged
    return Faults(units=judged.units, lost=judged.lost, repeated=judged.repeated, stuck=played.stuck)


def _half(setting: Setting) -> int:
    """Return half of the effects that the victim would have: its own, or those that it has for all others."""
    team = team_of(setting)
    serves = not team.ends_by_itself(setting, team.victim(setting))
    if setting.use_case is UseCase.CACHING:
        return 3  # of some twenty computations; an agent of many makes few of them
    return setting.rounds * (setting.agents if serves else 1) // 2
