"""A coordinator asks a worker, and sees what becomes of work that fails.

Run it with `python examples/message_passing.py`.
"""

from __future__ import annotations

import asyncio
import logging

from tertulia import Message, MessagePassingAgent, Reject, RetryLater, Space, connect
from tertulia.errors import RemoteError, UnknownAgentError


def hire_worker(space: Space, fetched: asyncio.Event) -> MessagePassingAgent:
    worker = MessagePassingAgent("worker", space.broker)

    @worker.on_message("task")
    async def handle_task(message: Message) -> dict[str, object]:
        numbers = message.content["numbers"]
        return {"status": "done", "mean": sum(numbers) / len(numbers)}  # the return value answers the request

    @worker.on_message("fetch")
    async def handle_fetch(message: Message) -> None:
        if message.attempt == 1:
            raise RetryLater(0.05, "the site is busy")  # does not count as a failure
        print(f"worker fetched {message.content['page']} on attempt {message.attempt}")
        fetched.set()

    @worker.on_message("default")
    async def handle_anything_else(message: Message) -> None:
        raise Reject(f"I do not do {message.content!r}")  # straight to the dead letters

    return worker


async def main() -> None:
    logging.getLogger("tertulia").setLevel(logging.CRITICAL)  # failures are logged; here they are printed
    fetched = asyncio.Event()
    async with connect("memory:") as space, hire_worker(space, fetched):
        coordinator = MessagePassingAgent("coordinator", space.broker)

        answer = await coordinator.request("worker", {"type": "task", "numbers": [1, 2, 6]}, timeout=5)
        print(f"coordinator gets: {answer['status']}, mean {answer['mean']}")

        # A handler that fails answers with its error at once. The request is kept with its traceback.
        try:
            await coordinator.request("worker", {"type": "task", "numbers": []}, timeout=5)
        except RemoteError as error:
            print(f"coordinator learns: {error.agent_id} raised {error.kind}")

        # So does asking somebody who is not there.
        try:
            await coordinator.request("wroker", {"type": "task", "numbers": [1]}, timeout=5)
        except UnknownAgentError as error:
            print(f"coordinator learns: {error}")

        # What is only sent is kept until it is handled, or until nobody can.
        await coordinator.send("worker", {"type": "fetch", "page": "news"})
        await coordinator.send("worker", "sing a song")
        await fetched.wait()
        for letter in await space.broker.dead_letters("worker"):
            print(f"dead letter: {letter.message.content} - {letter.reason}")


if __name__ == "__main__":
    asyncio.run(main())
