"""One agent in two processes that are kept running: what `tertulia run two_processes:clerk --processes 2` does.

The processes share the agent's mailbox, so work goes to whichever is free. One that dies is started again, and nobody
who waits for an answer learns of it. When all is stopped, what is in hand is finished first.

Run it with `python examples/two_processes.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from tempfile import TemporaryDirectory

from tertulia import Message, MessagePassingAgent, Space, connect

PROCESSES = 2


def clerk(space: Space) -> MessagePassingAgent:
    """Make the agent; this is called in each of its processes."""
    agent = MessagePassingAgent("clerk", space.broker)

    @agent.on_message("sum")
    async def add(message: Message) -> dict[str, int]:
        return {"sum": sum(message.content["numbers"]), "by": os.getpid()}

    return agent


async def run_clerk(url: str) -> Process:
    """Do what one would do in a terminal, and wait until both processes run."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tertulia", "run", "two_processes:clerk", "--processes", str(PROCESSES), "--url", url),
        cwd=Path(__file__).parent,
        stderr=PIPE,
    )
    for _ in range(PROCESSES):
        await one_more_runs(process)
    return process


async def one_more_runs(process: Process) -> None:
    """Wait until a process of the agent says that it runs."""
    assert process.stderr is not None
    while "runs in process" not in (line := (await process.stderr.readline()).decode()):
        assert line, "it ended before"


async def main() -> None:
    with TemporaryDirectory() as directory:
        url = f"file:{directory}/office.db"
        running = await run_clerk(url)
        async with connect(url) as space:
            client = MessagePassingAgent("client", space.broker)
            answer = await client.request("clerk", {"type": "sum", "numbers": [1, 2, 3]})
            print(f"the sum is {answer['sum']}")

            os.kill(answer["by"], signal.SIGKILL)
            another = await client.request("clerk", {"type": "sum", "numbers": [4, 5, 6]})
            print(f"the sum is {another['sum']}, by another process: {another['by'] != answer['by']}")
            await one_more_runs(running)
            print("the process that was killed has been started again")

        running.terminate()
        await running.communicate()
        print(f"all stopped, exit code {running.returncode}")


if __name__ == "__main__":
    asyncio.run(main())
