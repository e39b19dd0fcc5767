"""What the other processes of these tests do: `python -m tests.patterns.lock_workers ROLE URL …`."""

from __future__ import annotations

import asyncio
import sys

import tertulia
from tertulia import Lock, MessagePassingAgent, Space
from tertulia.errors import DeadlockError, LockLostError
from tertulia.records import new_id


def say(*words: object) -> None:
    """Tell the test something, as a line of its own."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def count(space: Space, agent_id: str, lease: str) -> None:
    """Read a number and write the next one, again and again, with nothing but the lock against the others."""
    lock = Lock(space, "count")
    while True:
        try:
            async with lock.hold(agent_id, lease=float(lease), timeout=None) as grant:
                number = await space.memory.read("count", reader=agent_id, default=0)
                await asyncio.sleep(0)
                done = new_id()
                async with grant.transaction() as transaction:
                    transaction.write("count", number + 1, owner=agent_id)
                    transaction.write(f"done:{done}", number + 1, owner=agent_id)
                say(done)
        except LockLostError:
            say("lost")


async def overstay(space: Space, agent_id: str, lease: str) -> None:
    """Hold a lock, do nothing until told, not even renew it, and then write what it protects at once."""
    grant = await Lock(space, "value").acquire(agent_id, lease=float(lease), timeout=None)
    await grant.write("value", agent_id)
    say("holding", grant.fence)
    sys.stdin.readline()  # blocks the event loop: whoever stops this process does not stop it within a commit
    try:
        await grant.write("value", agent_id)
        say("written")
    except LockLostError:
        say("refused", grant.lost.is_set())


async def hold_and_want(space: Space, agent_id: str, mine: str, other: str, way: str) -> None:
    """Hold one lock, wait for the word, then want another: directly, or through an agent that takes it."""
    agent = MessagePassingAgent(agent_id, space.broker)

    @agent.on_message("default")
    async def take(_: object) -> str:
        async with Lock(space, mine).hold(f"{agent_id}-helper", timeout=20):
            return "done"

    async with agent, space.memory.watch("go") as changes, space.memory.watch("ended:*") as ends:
        try:
            async with Lock(space, mine).hold(agent_id):
                say("holding")
                await anext(changes)
                if way == "lock":
                    async with Lock(space, other).hold(agent_id, timeout=20):
                        pass
                else:
                    await agent.request(other, "please", timeout=20)
        except DeadlockError as deadlock:
            say("deadlock", *(f"{wait.agent_id}>{wait.kind}:{wait.name}" for wait in deadlock.cycle))
        else:
            say("done")
        await space.memory.write(f"ended:{agent_id}", 1, owner=agent_id)
        async with asyncio.timeout(20):  # the agent's own lock may still be asked for
            await anext(ends)
            await anext(ends)


async def main(role: str, url: str, *values: str) -> None:
    async with tertulia.connect(url) as space:
        await globals()[role](space, *values)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
