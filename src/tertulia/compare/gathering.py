"""How the parts of a team begin together and end together: by signs in the memory of the space that they share."""

from __future__ import annotations

from tertulia.space import Space

__all__ = ["all_ready", "be_ready", "say_go", "say_over", "until_over"]

STAGE = "stage"  # the agent in whose name parts and conductor speak to each other
READY, GO, OVER = "stage:ready:{}", "stage:go", "stage:over"


async def be_ready(space: Space, number: int) -> None:
    """Say that the part of this number is ready, and wait until all are."""
    await space.memory.write(READY.format(number), 1, owner=STAGE)
    await _until(space, GO)


async def until_over(space: Space) -> None:
    """Wait until the work is over."""
    await _until(space, OVER)


async def all_ready(space: Space, parts: int) -> None:
    """Wait until so many parts, numbered from 0, are ready."""
    missing = {READY.format(number) for number in range(parts)}
    async with space.memory.watch(READY.format("*")) as changes:
        missing -= set(await space.memory.list_keys(READY.format("*")))
        while missing:
            missing.discard((await anext(changes)).key)


async def say_go(space: Space) -> None:
    """Let all parts begin."""
    await space.memory.write(GO, 1, owner=STAGE)


async def say_over(space: Space) -> None:
    """Let those end that go on until they are told."""
    await space.memory.write(OVER, 1, owner=STAGE)


async def _until(space: Space, key: str) -> None:
    async with space.memory.watch(key) as changes:
        if await space.memory.read(key, reader=STAGE) is None:
            await anext(changes)
