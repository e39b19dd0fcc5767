"""Memory, a message and an acknowledgement in one commit: all of it happens once, or none of it does.

A teller books payments. It fails after it has changed all that it wanted to change, and payments are sent twice, and
still none is booked twice, lost, or reported without being booked.

Run it with `python examples/one_commit.py`.
"""

from __future__ import annotations

import asyncio
import logging

from tertulia import DeliveryMode, DeliveryTransaction, Message, MessagePassingAgent, Space, connect
from tertulia.errors import VersionConflictError

UNLUCKY = 100  # the payment whose first attempt fails


def hire_teller(space: Space) -> MessagePassingAgent:
    teller = MessagePassingAgent("teller", space.broker)

    @teller.on_message("payment")
    async def book(message: Message, transaction: DeliveryTransaction) -> None:
        amount = message.content["amount"]
        balance = await transaction.read("balance", reader="teller", default=0)
        transaction.write("balance", balance + amount, owner="teller")
        transaction.send(Message(sender="teller", receiver="auditor", content=f"{amount} booked"))
        if amount == UNLUCKY and message.attempt == 1:
            raise RuntimeError("the power went out")  # nothing of this attempt is left
        # Returning commits: the balance, the note to the auditor, and that the payment is handled.

    return teller


async def main() -> None:
    logging.getLogger("tertulia").setLevel(logging.CRITICAL)  # the failure is on purpose
    async with connect("memory:") as space, hire_teller(space):
        await space.broker.register_agent("auditor")
        bank = MessagePassingAgent("bank", space.broker)
        for number, amount in enumerate([100, 20, 3]):
            for _ in range(2):  # an impatient sender: the second time is recognised by its id
                await bank.send(
                    "teller",
                    {"type": "payment", "amount": amount},
                    delivery_mode=DeliveryMode.EXACTLY_ONCE,
                    message_id=f"payment-{number}",
                )

        for _ in range(3):
            note = await space.broker.receive("auditor", timeout=10)
            assert note is not None, "the teller reports every payment"
            print(f"auditor reads: {note.message.content}")
            await note.acknowledge()
        print(f"balance: {await space.memory.read('balance', reader='auditor')}")

        # The same without a handler: what was decided from a read is still true when it is written.
        try:
            async with space.transaction() as transaction:
                balance = await transaction.read("balance", reader="bank")
                await space.memory.write("balance", 0, owner="thief")
                transaction.write("balance", balance + 5, owner="bank")
                transaction.send(Message(sender="bank", receiver="auditor", content="5 booked"))
        except VersionConflictError as conflict:
            print(f"nothing was committed: {conflict.key!r} moved on to version {conflict.actual_version}")
        print(f"notes for the auditor: {await space.broker.queue('auditor').size()}")


if __name__ == "__main__":
    asyncio.run(main())
