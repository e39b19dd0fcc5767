"""Five voters decide on a change, and one of them crashes: it holds up nobody, and what was decided is done once.

Four voters live here, the fifth in a process of its own, which is killed before it can vote. The ballot is decided
as soon as nothing can change its result any more. The change, the outcome and its announcement are one commit.

Run it with `python examples/five_voters.py`.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack

from tertulia import CollaborativeWorkspace, Message, MessagePassingAgent, Space, connect
from tertulia.errors import BallotClosedError

LEASE = 1.0  # seconds after which a crashed voter is there no longer; the default is 30

OPINIONS = {
    "ann": {"choice": "yes", "reason": "the tests pass"},
    "bob": {"choice": "no", "reason": "the manual is not finished"},
    "cid": {"choice": "yes", "reason": "users wait for it"},
    "dan": {"choice": "yes", "reason": "the manual can follow"},
}

learned: list[str] = []


def make_voter(space: Space, name: str) -> MessagePassingAgent:
    agent = MessagePassingAgent(name, space.broker)

    @agent.on_message("vote_request")
    async def answer(message: Message) -> dict[str, str]:
        return OPINIONS[message.receiver]  # a language model would read message.content here, and think

    @agent.on_message("ballot_closed")
    async def learn(message: Message) -> None:
        learned.append(f"{name} that '{message.content['question']}' has {message.content['outcome']}")

    return agent


async def crash(url: str) -> None:
    """Join as eve in this process, and never do anything again."""
    async with connect(url) as space:
        await space.broker.register_agent("eve")
        await CollaborativeWorkspace("release", space, presence_lease=LEASE).join("eve")
        print("joined", flush=True)
        await asyncio.Event().wait()


async def start_eve(url: str) -> asyncio.subprocess.Process:
    eve = await asyncio.create_subprocess_exec(sys.executable, __file__, url, stdout=asyncio.subprocess.PIPE)
    assert eve.stdout is not None
    await eve.stdout.readline()
    return eve


async def main() -> None:
    if len(sys.argv) > 1:  # this is eve's process
        await crash(sys.argv[1])
        return
    with tempfile.TemporaryDirectory() as directory:
        url = f"file:{directory}/space.db"
        async with connect(url) as space, AsyncExitStack() as running:
            workspace = CollaborativeWorkspace("release", space, presence_lease=LEASE)
            for name in OPINIONS:
                await running.enter_async_context(make_voter(space, name))
                await workspace.join(name)
            eve = await start_eve(url)
            await workspace.set_shared_data("version", "0.9", setter="ann")

            ballot = await workspace.propose_change("ann", "version", "1.0", reason="it is time", quorum=4, deadline=60)
            print(f"the electorate: {', '.join(ballot.terms.electorate)}")
            eve.kill()
            await eve.communicate()

            answers = await workspace.request_votes("chair", ballot.id)  # eve gets a request, too
            result = answers.ballot.result
            assert result is not None, "four have voted, three of five are a majority"
            print(f"{result.outcome}: {result.why}; silent: {', '.join(result.silent)}")
            for vote in result.dissent:
                print(f"{vote.voter} dissents: {vote.reason}")
            entry = await workspace.get_shared_entry("version", getter="bob")
            assert entry is not None
            print(f"the version is {entry.value}, written in the commit that closed the ballot")

            try:
                await workspace.vote("bob", ballot.id, "yes")
            except BallotClosedError as error:
                print(f"too late: {error.outcome}")
            while "eve" in await workspace.participants():  # noqa: ASYNC110 - nobody tells when a lease is over
                await asyncio.sleep(LEASE / 10)
            print(f"told: {', '.join(sorted(learned))}")
            print(f"still there: {', '.join(await workspace.participants())}")


if __name__ == "__main__":
    asyncio.run(main())
