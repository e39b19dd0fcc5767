"""Servers are killed and stopped and lose their leadership while clients work; see `runs.py` for what is promised."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.figures import Figures
from tests.nats.runs import running
from tests.nats.server import Server
from tests.profile import times


def chance_of(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - to be repeated, not to be secret


@pytest.mark.campaign
async def test_one_server_that_is_killed_and_stopped_again_and_again(figures: Figures):
    chance = chance_of(1)
    kills, stops = times(4, 60), times(1, 10)
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
                    await asyncio.sleep(4.0)
                    server.resume()
                await run.comes_back()
    figures(kills=kills, stops=stops)
