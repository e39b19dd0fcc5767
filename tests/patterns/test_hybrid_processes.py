"""The hybrid system where processes share a space, and some of them are killed or stopped."""

from __future__ import annotations

import asyncio
import signal
from asyncio.subprocess import Process
from collections import defaultdict
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import tertulia
from tertulia import CollaborativeWorkspace, ContributionStatus, HybridAgent, HybridCommunicationSystem, Space
from tests.engines import ENGINES, SEPARATE_PROCESSES
from tests.file.processes import PATIENCE, kill, line, start
from tests.profile import times

WORKERS = "tests.patterns.workers"
KILLS = times(60, 2_000)
PROCESSES, CALLS = 10, 100


@pytest.fixture(params=SEPARATE_PROCESSES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return ENGINES[request.param](tmp_path)


async def until(process: Process, word: str) -> list[str]:
    """Return the rest of the next line that starts with the word, after others."""
    while True:
        said = (await line(process)).split()
        assert said, "the process has ended"
        if said[0] == word:
            return said[1:]


async def first_to_say(word: str, processes: list[Process]) -> Process:
    """Return the process that says the word first."""
    waiting = {asyncio.create_task(until(process, word)): process for process in processes}
    done, others = await asyncio.wait(waiting, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await asyncio.wait(others)
    (first,) = done
    return waiting[first]


async def times_computed(space: Space, key: str) -> int:
    return len(await space.memory.list_keys(f"computing:{key}:*"))


async def test_a_thousand_misses_in_ten_processes_compute_once_and_once_more_when_the_computing_one_is_killed(
    url: str,
) -> None:
    async with tertulia.connect(url) as space, AsyncExitStack() as stack:
        processes: list[Process] = []
        for _ in range(PROCESSES):
            process = await start("compute", url, CALLS, "calm", "deadly", module=WORKERS)
            stack.push_async_callback(kill, process)
            processes.append(process)
        for process in processes:
            await until(process, "ready")

        await space.memory.write("go:calm", value=True, owner="test")
        results = [await until(process, "got") for process in processes]
        assert len({tuple(result) for result in results}) == 1
        assert len(results[0]) == 3  # the key, one value, nothing refused
        assert await times_computed(space, "calm") == 1

        for process in processes:
            await until(process, "ready")
        await space.memory.write("hold:deadly", value=True, owner="test")
        await space.memory.write("go:deadly", value=True, owner="test")
        first = await first_to_say("computing", processes)
        await kill(first)
        processes.remove(first)
        await space.memory.delete("hold:deadly", requester="test")
        results = [await until(process, "got") for process in processes]
        assert len({tuple(result) for result in results}) == 1
        assert await times_computed(space, "deadly") == 2


async def test_what_a_stopped_process_computed_is_refused_once_another_has_taken_over(url: str) -> None:
    async with tertulia.connect(url) as space, AsyncExitStack() as stack:
        processes: list[Process] = []
        for _ in range(2):
            process = await start("compute", url, 3, "k", module=WORKERS)
            stack.push_async_callback(kill, process)
            processes.append(process)
            await until(process, "ready")
        await space.memory.write("hold:k", value=True, owner="test")
        await space.memory.write("go:k", value=True, owner="test")
        stopped = await first_to_say("computing", processes)
        (other,) = [process for process in processes if process is not stopped]
        stopped.send_signal(signal.SIGSTOP)
        await space.memory.delete("hold:k", requester="test")
        assert await until(other, "computing") == ["k"]
        _, value, refused = await until(other, "got")
        assert refused == "0"
        stopped.send_signal(signal.SIGCONT)
        assert await until(stopped, "got") == ["k", value, "1"]
        entry = await space.memory.read_with_metadata("cache:k", reader="test")
        assert entry is not None
        assert (entry.version, entry.value["value"]) == (1, value)
        assert await times_computed(space, "k") == 2


async def test_of_collaborators_in_other_processes_that_are_killed_one_is_replaced_and_one_is_missed(url: str) -> None:
    async with tertulia.connect(url) as space, AsyncExitStack() as stack:
        processes: dict[str, list[Process]] = {"writer": [], "loner": [], "analyst": []}
        for name in ("writer", "loner", "analyst", "analyst"):
            process = await start("take_part", url, name, module=WORKERS)
            stack.push_async_callback(kill, process)
            processes[name].append(process)
        for process in (*processes["writer"], *processes["loner"], *processes["analyst"]):
            await until(process, "ready")
        for name in ("loner", "analyst"):
            await space.memory.write(f"hold:{name}", value=True, owner="test")
        chief = HybridAgent("chief", HybridCommunicationSystem(space))
        working = asyncio.create_task(
            chief.collaborate(
                "report", list(processes), "context", timeout=10 * PATIENCE, presence_lease=2.5, takeover=7.0
            )
        )
        lost = await first_to_say("working", processes["analyst"])
        await until(processes["loner"][0], "working")
        await kill(lost)
        await kill(processes["loner"][0])
        await space.memory.delete("hold:analyst", requester="test")
        done = await asyncio.wait_for(working, PATIENCE)

        (other,) = [process for process in processes["analyst"] if process is not lost]
        assert done.results == {"writer": processes["writer"][0].pid, "analyst": other.pid}
        assert [part.status for part in done.missing] == [ContributionStatus.VANISHED]
        workspace = CollaborativeWorkspace(done.workspace_id, space)
        assert await workspace.get_shared_data("seen:writer", getter="chief") == "context"
        assert await workspace.list_shared_data("seen:*", getter="chief") == ["seen:analyst", "seen:writer"]


async def test_kills_leave_no_write_without_its_notices_and_no_notice_without_its_write(url: str) -> None:
    kills = KILLS if url.startswith("file:") else KILLS // 3  # where reading the notices takes longer than the kills
    async with tertulia.connect(url) as space:
        for agent in ("ann", "bob"):
            await space.broker.register_agent(agent, max_queue_size=1_000_000)
        process = await start("notify", url, kills, 20, module=WORKERS)
        async with asyncio.timeout(PATIENCE + kills):
            output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        told = {agent: await all_notices(space, agent) for agent in ("ann", "bob")}
        assert told["ann"] == told["bob"]

        versions = {key: 0 for key, _, _, _ in told["ann"]}
        deleted = dict.fromkeys(versions, 0)
        for key, action, version, revision in told["ann"]:
            if action == "write":
                assert version == versions[key] + 1, "a write was not told of, or told of twice"
                versions[key], deleted[key] = version, revision
            else:
                assert (version, revision) == (versions[key], deleted[key])
                versions[key] = 0
        entries = {entry.key: entry.version async for entry in space.memory.entries()}
        assert entries == {key: version for key, version in versions.items() if version}
        acknowledged = defaultdict[str, set[int]](set)
        for said in output.decode().splitlines():
            word, key, revision = said.split()
            acknowledged[f"{word} {key}"].add(int(revision))
        written = {revision for _, action, _, revision in told["ann"] if action == "write"}
        removed = {revision for _, action, _, revision in told["ann"] if action == "delete"}
        assert sum(map(len, acknowledged.values())) > kills
        for what, revisions in acknowledged.items():
            assert revisions <= (removed if what.startswith("deleted") else written), what
        assert len(versions) > kills * 9 // 10  # a key of its own for each child that was not killed at its start


async def all_notices(space: Space, agent: str) -> list[tuple[str, str, int, int]]:
    """Take all notices from a mailbox, in order."""
    found: list[tuple[str, str, int, int]] = []
    while claimed := await space.engine.claim(agent, limit=500):
        for one in claimed:
            message = space.broker.admit(one)
            assert message is not None
            content = message.content
            found.append((content["key"], content["action"], content["version"], content["revision"]))
    return found
