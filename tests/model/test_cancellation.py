"""Whatever is cancelled, at whatever await: nothing is lost, held for ever or left running.

Cancellations come after a random number of the event loop's turns, and the engine gives way at random, so that over
the many they hit every await of a call.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from tertulia import (
    Delivery,
    DeliveryMode,
    DeliveryTransaction,
    Message,
    MessagePassingAgent,
    Reject,
    RetryLater,
    Space,
    WhenFull,
)
from tertulia.errors import AlreadySettledError
from tertulia.messaging.outbox import ROOM_CHECK
from tertulia.testing.clock import ManualClock, come_to_rest
from tests.figures import Figures
from tests.model.engines import EngineCase, on_every_engine, open_space
from tests.model.procedures import Interleaved, chance_of
from tests.profile import times

CANCELLATIONS = 1_000  # in a round
LEASE = 30.0

pytestmark = pytest.mark.campaign


@pytest.fixture(params=range(times(1, 20)), ids=lambda number: f"round {number}")
def chance(request: pytest.FixtureRequest, figures: Figures) -> random.Random:
    """Return the chance of one round of a test."""
    figures(cancellations=CANCELLATIONS)
    return chance_of(f"{request.node.originalname} {request.param}")


@asynccontextmanager
async def watched_space(engine: EngineCase, clock: ManualClock) -> AsyncIterator[Space]:
    """Open a space whose calls give way at random; once it is closed, no task may be left."""
    before = asyncio.all_tasks()
    async with open_space(engine, clock=clock, wrap=lambda inside: Interleaved(inside, None, seed=1)) as space:
        yield space
    await come_to_rest()
    assert asyncio.all_tasks() == before, "a task was leaked"


async def cancel_after(turns: int, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Run something for a few turns of the loop, and cancel it if it has not ended by then."""
    task = asyncio.create_task(work)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    return task


async def figures(space: Space, agent: str) -> tuple[int, int, int]:
    """Return how many messages wait, are with a consumer, and are delayed."""
    stats = await space.broker.mailbox_stats(agent)
    return stats.waiting, stats.pending, stats.delayed


# --- receiving -----------------------------------------------------------------------------------


@on_every_engine
async def test_a_cancelled_receive_holds_no_message(engine: EngineCase, chance: random.Random):
    clock = ManualClock()
    async with watched_space(engine, clock) as space:
        await space.broker.register_agent("ana")
        got: Counter[str] = Counter()
        cancelled = 0
        for number in range(CANCELLATIONS):
            receivers = [asyncio.create_task(space.broker.receive("ana")) for _ in range(3)]
            await pause(chance)
            await space.broker.send(Message(id=str(number), receiver="ana"))
            await pause(chance)
            survivor = receivers.pop(chance.randrange(3))
            for receiver in receivers:
                receiver.cancel()
            await clock.advance(0)
            in_time = [receiver.result() for receiver in receivers if not receiver.cancelled()]
            cancelled += 2 - len(in_time)
            assert survivor.done() != bool(in_time), "the message was held by none, or by two"
            delivery = in_time[0] if in_time else survivor.result()
            survivor.cancel()
            assert delivery is not None
            assert delivery.attempt == 1
            assert await figures(space, "ana") == (0, 1, 0)
            await delivery.acknowledge()
            got[delivery.message.id] += 1
        assert got == Counter(map(str, range(CANCELLATIONS)))
        assert cancelled >= CANCELLATIONS
        assert await figures(space, "ana") == (0, 0, 0)


async def pause(chance: random.Random, most: int = 4) -> None:
    for _ in range(chance.randrange(most)):
        await asyncio.sleep(0)


@on_every_engine
async def test_a_cancelled_settlement_has_happened_or_leaves_the_message_to_be_delivered_again(
    engine: EngineCase, chance: random.Random
):
    clock = ManualClock()
    async with watched_space(engine, clock) as space:
        await space.broker.register_agent("ana", max_attempts=1_000)
        outcomes: Counter[str] = Counter()
        for number in range(CANCELLATIONS):
            await space.broker.send(Message(id=str(number), receiver="ana"))
            delivery = await space.broker.receive("ana", timeout=0, lease=LEASE)
            assert delivery is not None
            assert delivery.message.id == str(number)
            task = await cancel_after(chance.randrange(5), settle(delivery, chance.randrange(3)))
            outcomes["cancelled" if task.cancelled() else "in time"] += 1
            await clock.advance(LEASE + 1)
            again = await space.broker.receive("ana", timeout=0)
            letters = await space.broker.purge("ana")
            if again is not None:
                assert again.message.id == str(number)
                await again.acknowledge()
            assert letters + (again is not None) <= 1, "a message was rejected, and delivered again"
            assert await figures(space, "ana") == (0, 0, 0)
        assert min(outcomes["cancelled"], outcomes["in time"]) > CANCELLATIONS // 10


async def settle(delivery: Delivery, way: int) -> None:
    """Settle or give back a delivery, one way or another."""
    if way == 0:
        await delivery.acknowledge()
    elif way == 1:
        await delivery.release()
    else:
        await delivery.reject("unwanted")


# --- committing ----------------------------------------------------------------------------------


@on_every_engine
async def test_cancelled_senders_that_wait_for_room_leave_the_others_their_turn(
    engine: EngineCase, chance: random.Random
):
    clock = ManualClock()
    async with watched_space(engine, clock) as space:
        await space.broker.register_agent("ana", max_queue_size=2, when_full=WhenFull.WAIT)
        confirmed: set[str] = set()
        cancelled: set[str] = set()
        got: Counter[str] = Counter()
        for number in range(CANCELLATIONS // 4):
            senders = {
                f"{number}-{place}": asyncio.create_task(
                    space.broker.send(Message(id=f"{number}-{place}", receiver="ana"))
                )
                for place in range(8)
            }
            doomed = chance.sample(sorted(senders), 4)
            idle = 0
            while not all(sender.done() for sender in senders.values()):
                await pause(chance, 8)
                if doomed:
                    senders[doomed.pop()].cancel()
                delivery = await space.broker.receive("ana", timeout=0)
                if delivery is not None:
                    await delivery.acknowledge()
                    got[delivery.message.id] += 1
                    idle = 0
                elif not doomed:
                    idle += 1
                    assert idle < 4, "there is room, and the senders wait"
                    await clock.advance(ROOM_CHECK)  # who was told of the room was cancelled, the others look again
            confirmed |= {name for name, sender in senders.items() if not sender.cancelled()}
            cancelled |= {name for name, sender in senders.items() if sender.cancelled()}
        while (delivery := await space.broker.receive("ana", timeout=0)) is not None:
            await delivery.acknowledge()
            got[delivery.message.id] += 1
        assert len(cancelled) > CANCELLATIONS // 4
        assert max(got.values()) == 1
        assert confirmed <= set(got) <= confirmed | cancelled


@on_every_engine
async def test_room_that_a_cancelled_sender_was_told_of_is_found_by_the_next(engine: EngineCase, chance: random.Random):
    clock = ManualClock()
    async with watched_space(engine, clock) as space:
        await space.broker.register_agent("ana", max_queue_size=1, when_full=WhenFull.WAIT)
        cancelled = 0
        for _ in range(CANCELLATIONS // 5):
            await space.broker.send(Message(receiver="ana"))
            first, second = (asyncio.create_task(space.broker.send(Message(receiver="ana"))) for _ in range(2))
            await clock.advance(0)
            await take_one(space)
            await pause(chance, 6)
            first.cancel()
            await asyncio.wait([first])
            cancelled += first.cancelled()
            if not first.cancelled():
                await take_one(space)
            await clock.advance(ROOM_CHECK)
            if not second.done():  # the first was cancelled when its message was stored
                await take_one(space)
                await clock.advance(ROOM_CHECK)
            assert second.done(), "there is room, and a sender waits"
            while await take_one(space):
                pass
        assert cancelled > CANCELLATIONS // 50


async def take_one(space: Space) -> bool:
    """Handle the next message, if there is one."""
    delivery = await space.broker.receive("ana", timeout=0)
    if delivery is not None:
        await delivery.acknowledge()
    return delivery is not None


@on_every_engine
async def test_a_cancelled_transaction_is_applied_as_a_whole_or_not_at_all(engine: EngineCase, chance: random.Random):
    clock = ManualClock()
    async with watched_space(engine, clock) as space:
        await space.broker.register_agent("ana", max_queue_size=CANCELLATIONS)
        applied = 0
        for number in range(CANCELLATIONS):
            task = await cancel_after(chance.randrange(5), commit_both(space, number))
            entry = await space.memory.read("a", reader="ana"), await space.memory.read("b", reader="ana")
            assert entry in ((number, number), (None, None))
            assert entry == (number, number) or task.cancelled()
            applied += entry == (number, number)
            for key in ("a", "b"):
                await space.memory.delete(key, requester="ana")
        assert await figures(space, "ana") == (applied, 0, 0)
        assert CANCELLATIONS // 10 < applied < CANCELLATIONS * 9 // 10


async def commit_both(space: Space, number: int) -> None:
    async with space.transaction() as transaction:
        transaction.write("a", number, owner="ana")
        transaction.write("b", number, owner="ana")
        transaction.send(Message(id=str(number), receiver="ana"))


# --- watching ------------------------------------------------------------------------------------


@on_every_engine
async def test_a_watch_whose_reader_is_cancelled_again_and_again_misses_nothing(
    engine: EngineCase, chance: random.Random
):
    clock = ManualClock()
    async with watched_space(engine, clock) as space:
        seen: list[int] = []
        written = cancelled = 0
        async with space.memory.watch("key") as changes:
            while cancelled < CANCELLATIONS:
                reading = asyncio.create_task(anext(changes))
                await pause(chance)
                if chance.random() < 0.5:
                    written += 1
                    await space.memory.write("key", written, owner="ana")
                reading.cancel()
                await asyncio.wait([reading])
                cancelled += reading.cancelled()
                if not reading.cancelled():
                    seen.append(reading.result().value)
            while len(seen) < written:
                seen.append((await anext(changes)).value)
        assert seen == list(range(1, written + 1))


# --- requests ------------------------------------------------------------------------------------


@on_every_engine
async def test_cancelled_requests_are_handled_once_and_their_replies_are_for_nobody(
    engine: EngineCase, chance: random.Random
):
    clock = ManualClock()
    handled: Counter[int] = Counter()
    async with watched_space(engine, clock) as space:
        agent = MessagePassingAgent("ana", space.broker, concurrency=4)

        @agent.on_message("default")
        async def answer(message: Message) -> int:
            await pause(chance)
            handled[message.content] += 1
            return message.content * 2

        async with agent:
            answers: list[int | None] = []
            for first in range(0, CANCELLATIONS, 50):
                asked = range(first, first + 50)
                answers += await asyncio.gather(*[ask(space, number, chance) for number in asked])
            await clock.advance(0)
            assert await figures(space, "ana") == (0, 0, 0)
            assert await space.broker.dead_letters("ana") == []
    answered = {number for number, answer in enumerate(answers) if answer is not None}
    assert all(answers[number] == number * 2 for number in answered)
    assert CANCELLATIONS // 10 < len(answered) < CANCELLATIONS * 9 // 10
    assert max(handled.values()) == 1
    assert answered <= set(handled)


async def ask(space: Space, number: int, chance: random.Random) -> int | None:
    """Ask and, most times, give up; return the answer that came before."""
    message = Message(id=f"request-{number}", sender="bo", receiver="ana", content=number)
    task = await cancel_after(chance.randrange(60), space.broker.request_response(message))
    return None if task.cancelled() else task.result().content


# --- handlers ------------------------------------------------------------------------------------


async def send_all(space: Space, *, max_attempts: int = 5) -> None:
    """Put as many messages into ana's mailbox as handlers are to fail."""
    await space.broker.register_agent("ana", max_attempts=max_attempts, max_queue_size=CANCELLATIONS)
    for number in range(CANCELLATIONS):
        await space.broker.send(Message(id=str(number), receiver="ana", delivery_mode=DeliveryMode.EXACTLY_ONCE))


@on_every_engine
async def test_an_agent_stopped_in_the_middle_of_its_work_handles_every_message_once(
    engine: EngineCase, chance: random.Random
):
    clock = ManualClock()
    async with watched_space(engine, clock) as space:
        agent = MessagePassingAgent("ana", space.broker, concurrency=5, max_queue_size=CANCELLATIONS)

        @agent.on_message("default")
        async def handle(message: Message, transaction: DeliveryTransaction) -> None:
            await pause(chance)
            transaction.create(f"done:{message.id}", message.attempt, owner="ana")
            await pause(chance)

        await send_all(space)
        stops = 0
        while await figures(space, "ana") != (0, 0, 0):
            await agent.start()
            await pause(chance, 12)
            await agent.stop(grace=0)
            assert (await figures(space, "ana"))[1] == 0, "a stopped agent holds a lease"
            stops += 1
        assert stops > CANCELLATIONS // 20
        assert len(await space.memory.list_keys("done:*")) == CANCELLATIONS
        assert await space.broker.dead_letters("ana") == []


@on_every_engine
async def test_an_agent_goes_on_when_what_its_handler_awaits_is_cancelled(
    engine: EngineCase, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.CRITICAL, "tertulia")
    clock = ManualClock()
    handled: list[str] = []
    async with watched_space(engine, clock) as space, MessagePassingAgent("ana", space.broker, max_attempts=1) as agent:

        @agent.on_message("default")
        async def handle(message: Message) -> None:
            handled.append(message.id)
            if message.id == "loses a task":
                await meet("lose a task")

        for message_id in ("loses a task", "ends well"):
            await space.broker.send(Message(id=message_id, receiver="ana"))
        await clock.advance(0)
        letters = await space.broker.dead_letters("ana")
    assert handled == ["loses a task", "ends well"]
    assert [letter.message.id for letter in letters] == ["loses a task"]


@on_every_engine
async def test_of_handlers_that_raise_hang_or_die_each_message_ends_once(
    engine: EngineCase, chance: random.Random, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.CRITICAL, "tertulia")
    clock = ManualClock()
    fates: Counter[str] = Counter()
    async with watched_space(engine, clock) as space:
        agent = MessagePassingAgent("ana", space.broker, concurrency=20, max_attempts=3, max_queue_size=CANCELLATIONS)

        @agent.on_message("default")
        async def handle(message: Message, transaction: DeliveryTransaction) -> None:
            transaction.create(f"done:{message.id}", message.attempt, owner="ana")
            fate = chance.choice(("raise", "raise", "refuse", "later", "hang", "die", "lose a task", "end well"))
            fates[fate] += 1
            await pause(chance)
            await meet(fate)

        await send_all(space)
        while await figures(space, "ana") != (0, 0, 0):
            await agent.start()
            await clock.advance(1.0)
            await agent.stop(grace=0)
        done = {key.removeprefix("done:") for key in await space.memory.list_keys("done:*")}
        letters = [letter.message.id for letter in await space.broker.dead_letters("ana", limit=CANCELLATIONS)]
    assert len(letters) == len(set(letters))
    assert not done & set(letters), "a message was both handled and given up"
    assert done | set(letters) == {str(number) for number in range(CANCELLATIONS)}
    assert min(fates.values()) > CANCELLATIONS // 20


async def meet(fate: str) -> None:
    """End, or do not end, as one of the handlers that agents really have."""
    match fate:
        case "raise":
            raise RuntimeError("boom")
        case "refuse":
            raise Reject("unwanted")
        case "later":
            raise RetryLater(1.0)
        case "hang":
            await asyncio.get_running_loop().create_future()
        case "die":  # the whole consumer, as when its process is told to end
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        case "lose a task":  # something that the handler awaits is cancelled; the agent is not
            lost = asyncio.get_running_loop().create_future()
            lost.cancel()
            await lost
        case _:
            pass


@on_every_engine
async def test_of_consumers_that_hang_past_their_lease_only_one_gets_to_settle(
    engine: EngineCase, chance: random.Random
):
    clock = ManualClock()
    async with watched_space(engine, clock) as space:
        await send_all(space, max_attempts=3)
        hanging: list[Delivery] = []
        effects: Counter[str] = Counter()
        while await figures(space, "ana") != (0, 0, 0):
            while (delivery := await space.broker.receive("ana", timeout=0, lease=LEASE)) is not None:
                hanging.append(delivery)
                if chance.random() < 0.3:  # one that hung comes to, perhaps long after its lease
                    effects[await settle_late(hanging.pop(chance.randrange(len(hanging))))] += 1
            await clock.advance(LEASE + 1)
        for delivery in hanging:
            assert await settle_late(delivery) == "", "a message that had ended was settled again"
        letters = [letter.message.id for letter in await space.broker.dead_letters("ana", limit=CANCELLATIONS)]
        done = await space.memory.list_keys("done:*")
    del effects[""]
    assert max(effects.values()) == 1
    assert {f"done:{message_id}" for message_id in effects} == set(done)
    assert sorted([*effects, *letters]) == sorted(str(number) for number in range(CANCELLATIONS))
    assert letters
    assert done


async def settle_late(delivery: Delivery) -> str:
    """Commit the delivery's effect and acknowledgement; return its id, or nothing if another attempt was faster."""
    transaction = delivery.transaction()
    transaction.write(f"done:{delivery.message.id}", delivery.attempt, owner="ana")
    with suppress(AlreadySettledError):
        await transaction.commit()
        return delivery.message.id
    return ""
