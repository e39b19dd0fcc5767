"""Five philosophers share five forks, and each needs the two beside its plate.

If each takes the left fork first and then waits for the right one, they wait for each other for ever. Here one of them
is told, with the whole circle, puts its fork back and tries again. If they take both forks in one step, there is no
circle to begin with.

Run it with `python examples/dining_philosophers.py`.
"""

from __future__ import annotations

import asyncio

from tertulia import Lock, Space, connect
from tertulia.errors import DeadlockError

PHILOSOPHERS = ["Hypatia", "Averroes", "Zhuangzi", "Sor Juana", "Arendt"]
MEALS = 20


def forks_of(seat: int) -> tuple[str, str]:
    return f"fork {seat}", f"fork {(seat + 1) % len(PHILOSOPHERS)}"


async def dine_one_fork_after_the_other(space: Space, seat: int, table: asyncio.Barrier) -> list[DeadlockError]:
    me = PHILOSOPHERS[seat]
    left, right = forks_of(seat)
    deadlocks: list[DeadlockError] = []
    for meal in range(MEALS):
        while True:
            try:
                async with Lock(space, left).hold(me):
                    if meal == 0 and not deadlocks:
                        await table.wait()  # everybody has the left fork by now
                    async with Lock(space, right).hold(me):
                        await asyncio.sleep(0)  # eating
                break
            except DeadlockError as deadlock:
                deadlocks.append(deadlock)
    return deadlocks


async def dine_with_both_forks(space: Space, seat: int) -> list[DeadlockError]:
    deadlocks: list[DeadlockError] = []
    for _ in range(MEALS):
        try:
            async with Lock(space, *forks_of(seat)).hold(PHILOSOPHERS[seat]):
                await asyncio.sleep(0)
        except DeadlockError as deadlock:
            deadlocks.append(deadlock)
    return deadlocks


async def main() -> None:
    async with connect("memory:") as space:
        seats = range(len(PHILOSOPHERS))
        table = asyncio.Barrier(len(PHILOSOPHERS))
        told = await asyncio.gather(*(dine_one_fork_after_the_other(space, seat, table) for seat in seats))
        deadlocks = [deadlock for each in told for deadlock in each]
        first = min(deadlocks, key=lambda deadlock: deadlock.cycle[0].since)
        print(f"one fork after the other: {first.agent_id} is told of the circle")
        for wait in first.cycle:
            print(wait)
        print(f"it puts its fork back; {len(deadlocks)} broken in all, and everybody had {MEALS} meals")

        told = await asyncio.gather(*(dine_with_both_forks(space, seat) for seat in seats))
        print(f"both forks at once: everybody had {MEALS} meals, {sum(map(len, told))} deadlocks")


if __name__ == "__main__":
    asyncio.run(main())
