"""MemoryRegion: permissions that hold in every commit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from tertulia.engines.base import Commit, Committed, Engine
from tertulia.errors import AccessDeniedError, KeyNotFoundError, VersionConflictError
from tertulia.memory import SharedMemory
from tertulia.records import MemoryAccessMode
from tertulia.regions import MemoryRegion
from tertulia.testing.conformance._expect import equal, expect, no, raises, within, yes
from tertulia.testing.conformance._registry import case
from tertulia.testing.conformance._steps import pass_time, pause, unit
from tertulia.testing.conformance.harness import Harness

READ, WRITE = MemoryAccessMode.READ, MemoryAccessMode.WRITE
READ_WRITE, EXCLUSIVE = MemoryAccessMode.READ_WRITE, MemoryAccessMode.EXCLUSIVE


async def _region(h: Harness, **modes: MemoryAccessMode) -> MemoryRegion:
    region = MemoryRegion("plans", (await h.open()).memory)
    for agent, mode in modes.items():
        await region.grant_access(agent, mode)
    return region


async def _may(call: Callable[[], Awaitable[object]]) -> bool:
    try:
        await call()
    except AccessDeniedError:
        return False
    return True


async def _abilities(region: MemoryRegion, agent: str) -> str:
    """Return "r", "w", both or neither."""
    reads = await _may(lambda: region.read("probe", agent_id=agent))
    writes = await _may(lambda: region.delete("probe", agent_id=agent))
    return "r" * reads + "w" * writes


@case()
async def region_is_closed_to_those_without_access(h: Harness) -> None:
    """Who was granted nothing gets AccessDeniedError for every operation, and nothing is changed."""
    region = await _region(h, ada=READ_WRITE)
    await region.write("k", 1, agent_id="ada")
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: region.read("k", agent_id="eve"),
        lambda: region.read_with_metadata("k", agent_id="eve"),
        lambda: region.list_keys(agent_id="eve"),
        lambda: region.write("k", 2, agent_id="eve"),
        lambda: region.update("k", 2, agent_id="eve"),
        lambda: region.compare_and_swap("k", 1, 2, agent_id="eve"),
        lambda: region.delete("k", agent_id="eve"),
        lambda: region.watch(agent_id="eve").__aenter__(),
    ]
    equal([await _may(call) for call in calls], [False] * len(calls), "what was allowed")
    equal(await region.read("k", agent_id="ada"), 1, "the value")


@case()
async def modes_allow_what_they_say(h: Harness) -> None:
    """READ reads, WRITE writes, READ_WRITE does both; a later grant takes the place of an earlier one."""
    region = await _region(h, ada=READ, bob=WRITE, eve=READ_WRITE)
    equal([await _abilities(region, agent) for agent in ("ada", "bob", "eve")], ["r", "w", "rw"], "the abilities")
    no(await _may(lambda: region.compare_and_swap("k", 1, 2, agent_id="bob")), "whether a writer may swap")
    await region.grant_access("eve", READ)
    equal(await _abilities(region, "eve"), "r", "the abilities after another grant")
    wanted = {"ada": READ, "bob": WRITE, "eve": READ}
    equal(await region.permissions(), wanted, "the permissions")


@case()
async def revoked_access_is_gone(h: Harness) -> None:
    """`revoke_access` takes everything away, and returns whether there was anything."""
    region = await _region(h, ada=READ_WRITE)
    yes(await region.revoke_access("ada"), "the first time")
    no(await region.revoke_access("ada"), "the second time")
    equal((await _abilities(region, "ada"), await region.permissions()), ("", {}), "what is left")


@case()
async def permissions_hold_for_every_handle(h: Harness) -> None:
    """Permissions are kept in the space: what one handle grants and revokes, another enforces."""
    region = await _region(h, ada=READ_WRITE)
    other = MemoryRegion("plans", (await h.open_again()).memory)
    await other.write("k", 1, agent_id="ada")
    await region.revoke_access("ada")
    no(await _may(lambda: other.write("k", 2, agent_id="ada")), "whether the other handle still allows it")


@case()
async def regions_are_separate(h: Harness) -> None:
    """Regions have keys and permissions of their own, also when one's name begins with the other's."""
    memory = (await h.open()).memory
    one, two = MemoryRegion("plan", memory), MemoryRegion("plan-b", memory)
    await one.grant_access("ada", READ_WRITE)
    await two.grant_access("ada", READ_WRITE)
    await one.write("k", 1, agent_id="ada")
    await two.write("k", 2, agent_id="ada")
    equal((await one.read("k", agent_id="ada"), await two.read("k", agent_id="ada")), (1, 2), "the values")
    equal(await one.list_keys(agent_id="ada"), ["k"], "the keys")
    await one.revoke_access("ada")
    equal((await _abilities(one, "ada"), await _abilities(two, "ada")), ("", "rw"), "the abilities")


@case()
async def region_works_like_memory(h: Harness) -> None:
    """A region's calls do what the memory's do, with keys relative to the region."""
    region = await _region(h, ada=READ_WRITE)
    entry = await region.write("a", 1, agent_id="ada", ttl=100.0, tags=["x"])
    equal((entry.key, entry.owner, entry.version, entry.tags), ("a", "ada", 1, ("x",)), "the entry")
    equal((await region.update("a", 2, agent_id="ada", expected_version=1)).version, 2, "the version")
    with raises(VersionConflictError, key="a"):
        await region.update("a", 3, agent_id="ada", expected_version=1)
    with raises(KeyNotFoundError, key="b"):
        await region.update("b", 3, agent_id="ada")
    yes(await region.compare_and_swap("a", 2, 4, agent_id="ada"), "the swap")
    await region.write("b", 1, agent_id="ada")
    equal(await region.list_keys("?", agent_id="ada", tags=["x"]), ["a"], "the keys")
    found = await region.read_with_metadata("a", agent_id="ada")
    equal(None if found is None else (found.key, found.value), ("a", 4), "the entry read")
    yes(await region.delete("a", agent_id="ada"), "the delete")
    equal(await region.read("a", agent_id="ada", default="gone"), "gone", "the deleted key")


@case()
async def region_cannot_be_reached_around(h: Harness) -> None:
    """A region's keys are neither read, written, listed, deleted nor swapped by way of the whole memory."""
    region = await _region(h, ada=READ_WRITE)
    await region.write("k", 1, agent_id="ada")
    space = await h.open()
    memory: SharedMemory = space.memory
    key = "region:plans:k"
    transaction = space.transaction()
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: memory.read(key, reader="ada"),
        lambda: memory.read_with_metadata(key, reader="ada"),
        lambda: memory.write(key, 2, owner="ada"),
        lambda: memory.create(key, 2, owner="ada"),
        lambda: memory.update(key, 2, updater="ada"),
        lambda: memory.compare_and_swap(key, 1, 2, requester="ada"),
        lambda: memory.modify(key, lambda _: 2, updater="ada"),
        lambda: memory.delete(key, requester="ada"),
        lambda: transaction.read(key, reader="ada"),
    ]
    equal([await _may(call) for call in calls], [False] * len(calls), "what was allowed")
    with raises(AccessDeniedError):
        transaction.write(key, 2, owner="ada")
    with raises(AccessDeniedError):
        transaction.delete(key, requester="ada")
    equal((await memory.list_keys(), await memory.list_keys("region:*")), ([], []), "the keys listed")
    equal(await region.read("k", agent_id="ada"), 1, "the value")


# --- exclusive access ---


@case()
async def exclusive_is_exclusive(h: Harness) -> None:
    """While one agent holds a region exclusively, everybody else is refused, whatever they were granted."""
    region = await _region(h, bob=READ_WRITE, ada=EXCLUSIVE)
    equal([await _abilities(region, agent) for agent in ("ada", "bob")], ["rw", ""], "the abilities")
    equal(await region.permissions(), {"bob": READ_WRITE, "ada": EXCLUSIVE}, "the permissions")
    with raises(AccessDeniedError, agent_id="bob"):
        await region.grant_access("bob", EXCLUSIVE)
    await region.revoke_access("ada")
    equal([await _abilities(region, agent) for agent in ("ada", "bob")], ["", "rw"], "the abilities afterwards")


@case()
async def one_of_many_gets_exclusive_access(h: Harness) -> None:
    """Of agents that ask for exclusive access at once, through several handles, one gets it."""
    regions = [await _region(h), MemoryRegion("plans", (await h.open_again()).memory)]

    async def take(number: int) -> bool:
        return await _may(lambda: regions[number % 2].grant_access(f"agent-{number}", EXCLUSIVE))

    won = await within(asyncio.gather(*(take(number) for number in range(8))))
    equal(won.count(True), 1, "how many got it")
    equal(await regions[0].permissions(), {f"agent-{won.index(True)}": EXCLUSIVE}, "the permissions")


@case()
async def exclusive_access_is_a_lease(h: Harness) -> None:
    """Exclusive access ends after its lease: others come in again, and the one who held it stays out."""
    region = await _region(h, bob=READ_WRITE)
    await region.grant_access("ada", EXCLUSIVE, lease=unit(h))
    equal(await _abilities(region, "bob"), "", "bob's abilities while it lasts")
    await pass_time(h, 1.6)
    equal([await _abilities(region, agent) for agent in ("ada", "bob")], ["", "rw"], "the abilities afterwards")
    await region.grant_access("bob", EXCLUSIVE)


@case()
async def exclusive_lease_is_renewed_by_granting_it_again(h: Harness) -> None:
    """The holder's lease is renewed by granting it again, and lasts that long from then."""
    region = await _region(h, bob=READ_WRITE)
    for _ in range(3):
        await region.grant_access("ada", EXCLUSIVE, lease=unit(h))
        await pass_time(h, 0.6)
    equal([await _abilities(region, agent) for agent in ("ada", "bob")], ["rw", ""], "the abilities")


@case()
async def exclusive_access_adds_to_what_was_granted(h: Harness) -> None:
    """When an exclusive lease is over its holder has what it had been granted before."""
    region = await _region(h, ada=READ)
    await region.grant_access("ada", EXCLUSIVE, lease=unit(h))
    equal(await _abilities(region, "ada"), "rw", "the abilities while it lasts")
    await pass_time(h, 1.6)
    equal(await _abilities(region, "ada"), "r", "the abilities afterwards")


class _Interrupted:
    """An engine in which something happens just before the next commit."""

    def __init__(self, engine: Engine, meanwhile: Callable[[], Awaitable[object]]) -> None:
        self._engine = engine
        self._meanwhile: Callable[[], Awaitable[object]] | None = meanwhile

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    async def commit(self, commit: Commit) -> Committed:
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        return await self._engine.commit(commit)


async def _interrupted(h: Harness, meanwhile: Callable[[], Awaitable[object]]) -> MemoryRegion:
    space = await h.open_again()
    engine = cast("Engine", _Interrupted(space.engine, meanwhile))
    return MemoryRegion("plans", SharedMemory(engine, space.clock, space.background))


@case()
async def revocation_stops_a_write_under_way(h: Harness) -> None:
    """A change that was allowed when it began, but is not when it is committed, is refused and changes nothing."""
    region = await _region(h, ada=READ_WRITE, bob=READ_WRITE)
    await region.write("k", 0, agent_id="bob")
    changes: list[Callable[[MemoryRegion], Awaitable[object]]] = [
        lambda interrupted: interrupted.write("k", 1, agent_id="ada"),
        lambda interrupted: interrupted.update("k", 1, agent_id="ada"),
        lambda interrupted: interrupted.compare_and_swap("k", 0, 1, agent_id="ada"),
        lambda interrupted: interrupted.delete("k", agent_id="ada"),
    ]
    for change in changes:
        await region.grant_access("ada", READ_WRITE)
        with raises(AccessDeniedError, agent_id="ada"):
            await change(await _interrupted(h, lambda: region.revoke_access("ada")))
        equal(await region.read("k", agent_id="bob"), 0, "the value")


@case()
async def exclusive_access_stops_a_write_under_way(h: Harness) -> None:
    """A write that began before another agent got exclusive access is refused when it would be committed after."""
    region = await _region(h, ada=READ_WRITE)
    interrupted = await _interrupted(h, lambda: region.grant_access("bob", EXCLUSIVE))
    with raises(AccessDeniedError, agent_id="ada"):
        await interrupted.write("k", 1, agent_id="ada")
    equal(await region.read("k", agent_id="bob", default="absent"), "absent", "the value")


@case()
async def lease_that_ends_stops_a_write_under_way(h: Harness) -> None:
    """A holder whose lease ends, and is taken by another, before its write is committed, changes nothing."""
    region = await _region(h)
    await region.grant_access("ada", EXCLUSIVE, lease=unit(h))

    async def lose() -> None:
        await pass_time(h, 1.6)
        await region.grant_access("bob", EXCLUSIVE)

    interrupted = await _interrupted(h, lose)
    with raises(AccessDeniedError, agent_id="ada"):
        await interrupted.write("k", 1, agent_id="ada")
    equal(await region.read("k", agent_id="bob", default="absent"), "absent", "the value")


@case()
async def change_of_others_permissions_does_not_stop_a_write(h: Harness) -> None:
    """A write goes on when meanwhile only somebody else's permissions changed, and is applied once."""
    region = await _region(h, ada=READ_WRITE)
    interrupted = await _interrupted(h, lambda: region.grant_access("bob", READ))
    entry = await interrupted.write("k", 1, agent_id="ada")
    equal((entry.version, await region.read("k", agent_id="bob")), (1, 1), "version and value")


@case()
async def region_watch_shows_the_regions_changes(h: Harness) -> None:
    """A watch on a region shows its changes, with relative keys, and no others."""
    region = await _region(h, ada=READ_WRITE)
    async with region.watch("a*", agent_id="ada") as changes:
        await (await h.open()).memory.write("a-outside", 1, owner="ada")
        await region.write("b", 1, agent_id="ada")
        await region.write("a1", 1, agent_id="ada")
        change = await within(anext(aiter(changes)))
        equal((change.key, change.value), ("a1", 1), "the first change")


@case()
async def region_watch_ends_with_the_permission(h: Harness) -> None:
    """A watch on a region raises AccessDeniedError, and shows nothing more, once its agent may not read any more."""
    region = await _region(h, ada=READ, bob=WRITE)
    async with region.watch(agent_id="ada") as changes:
        await region.write("k", 1, agent_id="bob")
        equal((await within(anext(aiter(changes)))).value, 1, "the change while it may read")
        await region.revoke_access("ada")
        await region.write("k", 2, agent_id="bob")
        with raises(AccessDeniedError, agent_id="ada"):
            await within(anext(aiter(changes)))


@case()
async def holders_region_watch_outlasts_others(h: Harness) -> None:
    """An exclusive holder's own watch goes on while everybody else's ends."""
    region = await _region(h, ada=READ, bob=READ)
    async with region.watch(agent_id="ada") as hers, region.watch(agent_id="bob") as his:
        await region.grant_access("ada", EXCLUSIVE)
        await region.write("k", 1, agent_id="ada")
        await pause(h)
        equal((await within(anext(aiter(hers)))).value, 1, "what the holder sees")
        with raises(AccessDeniedError, agent_id="bob"):
            await within(anext(aiter(his)))
    expect((await region.permissions())["ada"] is EXCLUSIVE, "the holder should still hold it")
