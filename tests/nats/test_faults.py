"""Servers are killed and stopped and lose their leadership while clients work; see `runs.py` for what is promised."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import nats
import pytest
from nats import errors

from tertulia.engines import _nats_keeper
from tertulia.engines import nats as nats_engine
from tests.figures import Figures
from tests.nats import bugs
from tests.nats.runs import PATIENCE, Run, running
from tests.nats.server import Cluster, Server, call
from tests.profile import times

STOPPED = 3.5  # seconds that a server stands still: longer than clients of the shorter timeout wait for it


def chance_of(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - to be repeated, not to be secret


def markers_go_soon(patch: pytest.MonkeyPatch) -> None:
    """Let markers of settled messages go while the run lasts, but later than any call is tried."""
    patch.setattr(nats_engine, "TICK", 2.0)
    for name, value in (("ROUND", 3.0), ("KEEP_SETTLED", 25), ("DEDUP_WINDOW", 25.0)):
        patch.setattr(_nats_keeper, name, value)


@pytest.mark.campaign
@pytest.mark.timeout(7_200)
async def test_one_server_that_is_killed_and_stopped_again_and_again(figures: Figures, monkeypatch: pytest.MonkeyPatch):
    markers_go_soon(monkeypatch)
    chance = chance_of(1)
    kills, stops = times(3, 60), times(1, 10)
    faults = ["kill"] * kills + ["stop"] * stops
    with Server() as server:
        async with running(f"{server.url}/team", figures) as run:
            for fault in chance.sample(faults, len(faults)):
                if fault == "kill":
                    server.kill()
                    await asyncio.sleep(chance.uniform(0.0, 0.3))
                    server.start()
                else:
                    server.pause()
                    await asyncio.sleep(STOPPED)
                    server.resume()
                await run.comes_back()
    figures(kills=kills, stops=stops)


async def test_the_storm_finds_a_bug_that_is_planted_in_it(figures: Figures, monkeypatch: pytest.MonkeyPatch):
    with Server() as server, pytest.raises(AssertionError):
        await calm_weather(server, figures, lambda: bugs.batches_are_written_one_by_one(monkeypatch))


async def calm_weather(server: Server, figures: Figures, plant: Callable[[], None]) -> None:
    async with running(f"{server.url}/team", figures) as run:
        plant()
        for _ in range(20):  # it is found in the first of them
            await run.goes_on()


# --- three servers ---


async def leader_of(cluster: Cluster, space: str) -> Server:
    """Return the server that leads a space's stream, as soon as there is one."""
    while True:
        for server in cluster.servers:
            if server.is_running and (name := await leader_by(server, space)):
                return next(one for one in cluster.servers if one.name == name)
        await asyncio.sleep(0.1)


async def leader_by(server: Server, space: str) -> str:
    """Return the name of the stream's leader as a server knows it, if it does."""
    try:
        client = await nats.connect(server.url, allow_reconnect=False, connect_timeout=5, error_cb=nothing)
        try:
            info = await call(client, f"STREAM.INFO.tertulia_{space}")
        finally:
            await client.close()
    except (errors.Error, OSError):
        return ""
    return info.get("cluster", {}).get("leader", "")


async def nothing(_: Exception) -> None: ...


class Faults:
    """What is done to three servers. Each leaves them all running."""

    def __init__(self, cluster: Cluster, run: Run, chance: random.Random) -> None:
        self.cluster = cluster
        self.run = run
        self.chance = chance

    async def leader(self) -> Server:
        async with asyncio.timeout(PATIENCE):
            return await leader_of(self.cluster, "team")

    async def follower(self) -> Server:
        leader = await self.leader()
        return self.chance.choice([server for server in self.cluster.servers if server is not leader])

    async def step_down(self) -> None:
        """The leader gives its leadership away."""
        client = await nats.connect((await self.leader()).url)
        await call(client, "STREAM.LEADER.STEPDOWN.tertulia_team")
        await client.close()
        await self.run.comes_back()

    async def kill_leader(self) -> None:
        await self.kill(await self.leader())

    async def kill_follower(self) -> None:
        await self.kill(await self.follower())

    async def kill(self, server: Server) -> None:
        """Kill one; the others go on without it, and with it when it is back."""
        server.kill()
        await self.run.comes_back()
        server.start()
        await self.run.comes_back()

    async def kill_all(self) -> None:
        for server in self.cluster.servers:
            server.kill()
        for server in self.cluster.servers:
            server.start()
        await self.run.comes_back()

    async def stop_leader(self) -> None:
        """Stop the leader until there is another one; then it goes on, and may believe for a moment that it leads."""
        leader = await self.leader()
        leader.pause()
        try:
            await self.run.comes_back()
        finally:
            leader.resume()
        await self.run.comes_back()


@pytest.mark.campaign
@pytest.mark.timeout(7_200)
async def test_three_servers_that_are_killed_and_stopped_and_change_their_leader(figures: Figures):
    chance = chance_of(2)
    with Cluster() as cluster:
        async with running(f"{cluster.url}/team?replicas=3", figures) as run:
            faults = Faults(cluster, run, chance)
            ways = [faults.step_down, faults.kill_follower, faults.kill_leader, faults.stop_leader, faults.kill_all]
            rounds = times(1, 12)
            for fault in [fault for _ in range(rounds) for fault in chance.sample(ways, len(ways))]:
                figures.progress(fault.__name__.replace("_", " "))
                await fault()
    figures(rounds_of_five_faults=rounds)
