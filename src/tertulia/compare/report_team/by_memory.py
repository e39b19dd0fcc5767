"""The report team through shared memory: what one agent knows is a key that the others read or wait for.

The scout puts one work item per file on the board. Readers claim items for a while, and put the facts there in the
same commit that takes the item off. The critic and the writer wait, by watching, for what they need. Nobody knows
who the others are, or whether they have started. Under the job's id:

    work:PATH      a file to read, until its facts are there
    claim:PATH     the reader at work on it; goes by itself when the reader dies
    ready          all work items are there, and how many
    listing        what the scout found
    facts:PATH     what a reader found
    criticism      what the critic found
    report         the end
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import TypeVar

from msgspec import Struct, convert

from tertulia._names import literal
from tertulia.compare.report_team.facts import Criticism, FileFacts, FileListing
from tertulia.compare.report_team.job import SKILLS, Job, Skills
from tertulia.compare.teams import Role
from tertulia.errors import ConflictError, SpaceClosedError, WatchLaggedError
from tertulia.memory import SharedMemory
from tertulia.records import ChangeKind, MemoryChange
from tertulia.space import Space

__all__ = ["critic", "prepare", "reader", "roles", "scout", "writer"]

T = TypeVar("T")


class Ready(Struct, frozen=True):
    """All work items are on the board."""

    files: int


async def prepare(space: Space, job: Job) -> None:
    """Set up nothing: whoever comes waits for the keys that others write."""


def roles(job: Job, skills: Skills = SKILLS) -> dict[str, Role]:
    """Return who is in the team; the scout returns the report."""
    return {
        "scout": partial(scout, job=job, skills=skills),
        **{
            f"reader {number}": partial(reader, job=job, number=number, skills=skills)
            for number in range(1, job.readers + 1)
        },
        "critic": partial(critic, job=job, skills=skills),
        "writer": partial(writer, job=job, skills=skills),
    }


async def scout(space: Space, job: Job, skills: Skills = SKILLS) -> str:
    """Put a work item for each file on the board; return the report once it is there."""
    memory = space.memory
    listing = await skills.list_files(job.folder)
    for file in listing.files:
        await memory.create(job.key("work", file.path), file.path, owner="scout", tags=("work",))
    await memory.create(job.key("listing"), listing, owner="scout")
    await memory.create(job.key("ready"), Ready(len(listing.files)), owner="scout")
    return await _awaited(memory, job.key("report"), "scout", str)


async def reader(space: Space, job: Job, number: int, skills: Skills = SKILLS) -> int:
    """Read files until none is left; return how many this reader has read.

    Readers begin at different places, so that they seldom want the same file.
    """
    name = f"reader {number}"
    await _awaited(space.memory, job.key("ready"), name, Ready)
    done = 0
    while free := await _free_work(space.memory, job):
        start = len(free) * (number - 1) // job.readers
        for path in free[start:] + free[:start]:
            if not await _claim(space, job, path, name):
                break  # somebody was faster here, so look again what is free
            facts = await skills.read_file(job.folder, path)
            done += await _hand_in(space, job, path, facts, name)
    return done


async def critic(space: Space, job: Job, skills: Skills = SKILLS) -> None:
    """Wait for the facts of all files, and write down what is wrong across them."""
    memory = space.memory
    ready = await _awaited(memory, job.key("ready"), "critic", Ready)
    facts = await _all_facts(memory, job, ready.files)
    await memory.create(job.key("criticism"), await skills.criticise(facts), owner="critic")


async def writer(space: Space, job: Job, skills: Skills = SKILLS) -> None:
    """Wait for the criticism, and write the report."""
    memory = space.memory
    criticism = await _awaited(memory, job.key("criticism"), "writer", Criticism)
    listing = await _awaited(memory, job.key("listing"), "writer", FileListing)
    facts = [convert(entry.value, FileFacts) async for entry in memory.entries(job.keys("facts"))]
    report = await skills.write_report(job.folder_name, listing, facts, criticism)
    await memory.create(job.key("report"), report, owner="writer")


# --- Reading -------------------------------------------------------------------------------------


async def _free_work(memory: SharedMemory, job: Job) -> list[str]:
    """Return the files that nobody is reading; wait while all are being read. Empty when no work is left."""
    async with memory.watch(job.keys("claim")) as claims:
        while True:
            work = await _paths(memory, job, "work")
            claimed = set(await _paths(memory, job, "claim"))
            free = [path for path in work if path not in claimed]
            if free or not work:
                return free
            await _next(claims)  # a reader is done with a file, or dead and its claim has expired


async def _paths(memory: SharedMemory, job: Job, level: str) -> list[str]:
    start = len(job.key(level, ""))
    return [key[start:] for key in await memory.list_keys(job.keys(level))]


async def _claim(space: Space, job: Job, path: str, name: str) -> bool:
    """Claim a file that is still to be read, for as long as the lease; return False if somebody was faster."""
    try:
        async with space.transaction() as transaction:
            transaction.require(job.key("work", path))
            transaction.create(job.key("claim", path), name, owner=name, ttl=job.lease, tags=("claim",))
    except ConflictError:
        return False
    return True


async def _hand_in(space: Space, job: Job, path: str, facts: FileFacts, name: str) -> bool:
    """Write the facts and take the work item off, in one commit; return False if another reader has done it.

    A claim is no lock: who was too slow, and lost it, may still be the first to finish. The work item decides.
    """
    try:
        async with space.transaction() as transaction:
            transaction.require(job.key("work", path))
            transaction.write(job.key("facts", path), facts, owner=name, tags=("facts",))
            transaction.delete(job.key("work", path), requester=name)
            transaction.delete(job.key("claim", path), requester=name)
    except ConflictError:
        return False
    return True


# --- Waiting -------------------------------------------------------------------------------------


async def _awaited(memory: SharedMemory, key: str, reader: str, type: type[T]) -> T:
    """Return the key's value, as soon as there is one."""
    async with memory.watch(literal(key)) as changes:
        value = await memory.read(key, reader=reader, type=type)
        while value is None:
            change = await _next(changes)
            if change.kind is ChangeKind.PUT:
                value = convert(change.value, type)
    return value


async def _all_facts(memory: SharedMemory, job: Job, count: int) -> list[FileFacts]:
    """Return the facts of all files: those that are there, then the others as they come, none read twice."""
    pattern = job.keys("facts")
    while True:
        there = await memory.snapshot(pattern)
        facts = {entry.key: convert(entry.value, FileFacts) for entry in there.entries}
        try:
            async with memory.watch(pattern, after=there.revision) as changes:
                while len(facts) < count:
                    change = await _next(changes)
                    if change.kind is ChangeKind.PUT:
                        facts[change.key] = convert(change.value, FileFacts)
        except WatchLaggedError:
            continue  # begin again with what is there by now
        return list(facts.values())


async def _next(changes: AsyncIterator[MemoryChange]) -> MemoryChange:
    """Return the next change. Raises SpaceClosedError when there will be none."""
    change = await anext(changes, None)
    if change is None:
        raise SpaceClosedError
    return change
