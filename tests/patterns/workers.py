"""What the other processes of these tests do: `python -m tests.patterns.workers ROLE URL …`."""

import asyncio
import os
import random
import select
import signal
import sys
import time
import uuid
from importlib import import_module

import tertulia
from tertulia import CollaborationTask, HybridAgent, HybridCommunicationSystem
from tests.file.workers import say

LEASE = 2.5  # seconds; what a killed process did is taken over soon, and a busy machine's process is not thought dead
NOTIFIED = ("ann", "bob")


async def compute(url: str, calls: str, *keys: str) -> None:
    """For each key wait for the word, ask for it so often at once, and say what came; say so when computing."""
    async with tertulia.connect(url) as space:
        system = HybridCommunicationSystem(space, lease=LEASE)
        for key in keys:
            async with space.memory.watch(f"go:{key}") as changes:
                say("ready", key)
                await anext(changes)

            async def function(key: str = key) -> str:
                me = uuid.uuid4().hex
                await space.memory.create(f"computing:{key}:{me}", os.getpid(), owner="worker")
                say("computing", key)
                while await space.memory.read(f"hold:{key}", reader="worker"):  # noqa: ASYNC110 - the test lets go
                    await asyncio.sleep(0.02)
                return me

            results = await asyncio.gather(*[system.get_or_compute(key, function) for _ in range(int(calls))])
            say("got", key, *sorted(set(results)), system.cache_info().refused)


async def take_part(url: str, name: str) -> None:
    """Be an agent that says when it works on a task, and contributes its process's id once it may."""
    async with tertulia.connect(url) as space:
        agent = HybridAgent(name, HybridCommunicationSystem(space), lease=LEASE)

        @agent.on_task
        async def contribute(task: CollaborationTask) -> int:
            say("working", os.getpid())
            while await space.memory.read(f"hold:{name}", reader=name):  # noqa: ASYNC110 - the test lets go
                await asyncio.sleep(0.02)
            await task.workspace.set_shared_data(f"seen:{name}", task.context, setter=name)
            return os.getpid()

        async with agent:
            say("ready")
            await asyncio.get_running_loop().create_future()


def notify(url: str, kills: str, seed: str) -> None:
    """Have two children write and notify; kill one of them at some moment and replace it, so many times.

    Most are killed some milliseconds after their first write, every tenth while it opens the space.
    """
    import_module("tertulia.engines.file")  # so that no child has to
    chance = random.Random(seed)  # noqa: S311 - to be repeated
    children = [_Child(url, number) for number in range(2)]
    for number in range(int(kills)):
        child = children[number % 2]
        if number % 10:
            child.wait_until_it_writes()
        time.sleep(chance.random() * 0.03)
        child.kill()
        children[number % 2] = _Child(url, number + 2)
    for child in children:
        child.kill()


class _Child:
    """A forked process that writes and notifies until it is killed."""

    def __init__(self, url: str, number: int) -> None:
        self._ear, mouth = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                asyncio.run(_write_for_ever(url, f"w{number}", mouth))
            finally:
                os._exit(1)  # what a fork must never do is go on with its parent's work
        os.close(mouth)

    def wait_until_it_writes(self) -> None:
        assert select.select([self._ear], [], [], 30)[0], "a child does not get to write"

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._ear)


async def _write_for_ever(url: str, name: str, mouth: int) -> None:
    async with tertulia.connect(url) as space:
        system = HybridCommunicationSystem(space)
        while True:
            for key in (f"own:{name}", "both"):
                done = await system.write_and_notify(name, key, name, notify=NOTIFIED)
                say("acknowledged", key, done.entry.revision)
                os.write(mouth, b".")
            done = await system.delete_and_notify(name, "both", notify=NOTIFIED)
            if done is not None:
                say("deleted", "both", done.entry.revision)


def main() -> None:
    role, url, *values = sys.argv[1:]
    if role == "notify":
        notify(url, *values)
    else:
        asyncio.run({"compute": compute, "take_part": take_part}[role](url, *values))


if __name__ == "__main__":
    main()
