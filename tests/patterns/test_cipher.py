"""A real problem with a known answer is solved on a blackboard, on every engine, also when helpers are killed."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

import tertulia
from tertulia import connect
from tertulia.hypotheses import BoardAction
from tertulia.patterns.blackboard.board import Blackboard
from tests.engines import SEPARATE_PROCESSES

EXAMPLE = Path(__file__).parents[2] / "examples" / "cipher.py"
PACKAGE = Path(tertulia.__file__).parents[1]
LONGEST = 100  # seconds that only a hang takes
HELPERS = 3
HALF_WAY = 15  # activations: somewhat less than half of what it takes


@pytest.fixture(scope="module")
def cipher() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cipher", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cipher"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", [1, 2])
async def test_the_cipher_is_solved_whatever_the_key(cipher: ModuleType, url: str, seed: int):
    async with connect(url) as space:
        board = cipher.board_of(space)
        await board.post_hypothesis("clerk", "text", cipher.encipher(cipher.PLAIN, seed), confidence=1)
        result = await cipher.decipher(space)
        assert (result.ended.value, result.failed) == ("solution", 0)
        assert await cipher.deciphered(space) == cipher.PLAIN


async def test_no_source_could_have_done_it_alone(cipher: ModuleType):
    async with connect("memory:") as space:
        board = cipher.board_of(space)
        await board.post_hypothesis("clerk", "text", cipher.encipher(cipher.PLAIN, 3), confidence=1)
        await cipher.decipher(space)
        authors = Counter(one.author for one in await board.hypotheses(all_states=True))
        assert all(authors[source.name] for source in cipher.SOURCES)


async def start_helper(url: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLE),
        "join",
        url,
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        stdout=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize("url", SEPARATE_PROCESSES, indirect=True)
async def test_several_processes_solve_it_though_one_is_killed_half_way(cipher: ModuleType, url: str):
    async with connect(url) as space:
        board = cipher.board_of(space)
        await board.post_hypothesis("clerk", "text", cipher.encipher(cipher.PLAIN, 4), confidence=1)
        helpers = [await start_helper(url) for _ in range(HELPERS)]
        try:
            async with asyncio.timeout(LONGEST), board.watch() as changes:
                while await ran(board) < HALF_WAY:
                    await anext(changes)
                os.kill(helpers[0].pid, signal.SIGKILL)
                for helper in helpers:
                    await helper.wait()
        finally:
            for helper in helpers:
                if helper.returncode is None:
                    helper.kill()
                await helper.communicate()
        assert [helper.returncode for helper in helpers] == [-signal.SIGKILL, 0, 0]
        assert await cipher.deciphered(space) == cipher.PLAIN
        twice = Counter(
            (one.agent, one.hypothesis, one.details["version"])
            for one in await board.history(limit=100_000)
            if one.kind is BoardAction.RAN
        )
        assert set(twice.values()) == {1}


async def ran(board: Blackboard) -> int:
    history = await board.history(limit=100_000)
    return sum(one.kind is BoardAction.RAN for one in history)
