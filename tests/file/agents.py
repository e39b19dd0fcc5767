"""Agents in processes of their own, whose handlers raise, hang, stop and die."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import time

from msgspec import Struct

import tertulia
from tertulia import DeliveryTransaction, Message, MessagePassingAgent, Reject, RetryLater
from tests.file.nursery import Log

NAME = "ana"
ATTEMPTS = 3
LEASE = 0.4  # seconds
LONGER = 1.5 * LEASE
FATES = (
    *["end well"] * 20,
    *["raise"] * 6,
    *["die"] * 4,
    *["refuse"] * 3,
    *["later"] * 3,
    *["exit", "hang", "sleep", "stop"],
)
DEADLY = ("die", "exit", "hang")


class Met(Struct):
    """An attempt at a message, and what becomes of its handler."""

    message_id: str
    attempt: int
    fate: str


async def agent(log: Log, url: str, seed: str) -> None:
    """Handle messages until one of them is the end of this process."""
    logging.getLogger("tertulia").setLevel(logging.CRITICAL)
    chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    space = await tertulia.connect(url)
    handling = MessagePassingAgent(NAME, space.broker, lease=LEASE, max_attempts=ATTEMPTS, max_queue_size=100_000)

    @handling.on_message("default")
    async def handle(message: Message, transaction: DeliveryTransaction) -> None:
        transaction.write(f"done:{message.id}", message.attempt, owner=NAME)
        fate = chance.choice(FATES)
        log.say(Met(message.id, message.attempt, fate))
        await _meet(fate)

    await handling.start()
    await asyncio.get_running_loop().create_future()


async def _meet(fate: str) -> None:
    match fate:
        case "raise":
            raise RuntimeError("boom")
        case "refuse":
            raise Reject("unwanted")
        case "later":
            raise RetryLater(0.02)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "hang":  # and renew the lease for ever: somebody has to kill it
            await asyncio.get_running_loop().create_future()
        case "sleep":  # with the whole event loop, so that the lease runs out
            time.sleep(LONGER)  # noqa: ASYNC251 - as careless handlers do
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case _:
            pass
