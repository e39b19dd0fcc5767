"""Two agents share what they know: one writes results, the other reads, watches and changes them safely.

Run it with `python examples/shared_memory.py`. The space lives in this process; with the URL `file:team.db` the
agents could be separate programs.
"""

from __future__ import annotations

import asyncio

from tertulia import MemoryAwareAgent, SharedMemory, connect
from tertulia.errors import VersionConflictError


async def share_a_result(memory: SharedMemory) -> None:
    """An analyst shares a result, and a writer reads it. Nobody can change the other's copy."""
    analyst = MemoryAwareAgent("analyst", memory)
    writer = MemoryAwareAgent("writer", memory)
    await analyst.share_result("mood", {"sentiment": "positive", "confidence": 0.92}, ttl=3600)
    mood = await writer.get_shared_result("mood")
    print(f"writer reads: {mood['sentiment']} with confidence {mood['confidence']}")


async def change_what_others_change_too(memory: SharedMemory) -> None:
    """Each of these fails or retries rather than overwrite what somebody else wrote meanwhile."""
    draft = await memory.write("draft", "Sales went up.", owner="writer")
    await memory.update("draft", "Sales rose by 8 %.", updater="analyst", expected_version=draft.version)
    try:
        await memory.update("draft", "Sales soared!", updater="writer", expected_version=draft.version)
    except VersionConflictError as conflict:
        print(f"writer's edit is refused: the draft is at version {conflict.actual_version} by now")

    first = await memory.compare_and_swap("draft", "Sales rose by 8 %.", "FINAL", requester="writer")
    second = await memory.compare_and_swap("draft", "Sales rose by 8 %.", "FINAL", requester="analyst")
    print(f"who closed the draft? writer {first}, analyst {second}")

    counting = [memory.modify("words", lambda n: n + 1, updater="writer", default=0) for _ in range(100)]
    await asyncio.gather(*counting)
    print(f"100 increments at once: {await memory.read('words', reader='analyst')}")


async def watch_for_changes(memory: SharedMemory) -> None:
    """A watcher sees every committed change in order, and can resume after any revision."""
    async with memory.watch("shared:*") as changes:
        analyst = MemoryAwareAgent("analyst", memory)
        await analyst.share_result("trend", "rising")
        await memory.delete("shared:trend", requester="analyst")
        for _ in range(2):
            change = await anext(changes)
            print(f"watcher sees: {change.kind.value} of {change.key} -> {change.value}")


async def main() -> None:
    async with connect("memory:") as space:
        await share_a_result(space.memory)
        await change_what_others_change_too(space.memory)
        await watch_for_changes(space.memory)
        stats = await space.memory.get_stats()
        owners = ", ".join(f"{owner} {count}" for owner, count in sorted(stats.entries_by_owner.items()))
        print(f"statistics: {stats.total_entries} entries ({owners}) at revision {stats.revision}")


if __name__ == "__main__":
    asyncio.run(main())
