"""A voter in a process of its own: `python -m tests.patterns.voters URL NAME SEED`. It votes until it is killed.

It says what it is about to do before each vote, and afterwards how that ended, each in a line of its own.
"""

from __future__ import annotations

import asyncio
import random
import sys

import tertulia
from tertulia.errors import BallotClosedError

CHOICES = ("yes", "yes", "no", "abstain")
PAUSE = 0.002  # seconds between two looks


def say(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


async def main(url: str, name: str, seed: str) -> None:
    chance = random.Random(seed)  # noqa: S311 - for a test
    async with tertulia.connect(url) as space:
        workspace = tertulia.CollaborativeWorkspace("parliament", space, presence_lease=2.0)
        await workspace.join(name)
        say("joined", "-", "-")
        while True:
            for ballot in await workspace.proposals(state="open"):
                if name in ballot.voted and chance.random() < 0.9:
                    continue  # else it changes its mind
                choice = chance.choice(CHOICES)
                say("trying", ballot.id, choice)
                try:
                    await workspace.vote(name, ballot.id, choice)
                except BallotClosedError:
                    say("refused", ballot.id, choice)
                else:
                    say("counted", ballot.id, choice)
            await asyncio.sleep(PAUSE)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
