"""Mailboxes, driven at random by Hypothesis, equal plain lists at every step: nothing is lost, doubled or reordered."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from tertulia import Delivery, DeliveryMode, Message, Receipt, WhenFull
from tertulia.errors import AlreadySettledError, LeaseLostError, MailboxFullError, UnknownAgentError
from tertulia.testing.clock import ManualClock, come_to_rest
from tests.figures import Figures
from tests.model.engines import EngineCase, Place, Wrap, machine_settings, on_every_engine, open_space
from tests.model.mailbox_model import Box, Item, MailboxModel, topic_matches

T = TypeVar("T")

AGENTS = ("ana", "bo", "cleo")
TOPICS = ("news", "news.eu", "news.eu.es", "sport")
TOPIC_PATTERNS = ("news", "news.*", "news.>", "*.eu", ">", "sport.>")
STORED = (DeliveryMode.AT_LEAST_ONCE, DeliveryMode.EXACTLY_ONCE)
HELD = 8  # deliveries that the machine keeps, settled ones too, to try things on

agents = st.sampled_from(AGENTS)
options = st.tuples(st.integers(1, 4), st.sampled_from(tuple(WhenFull)), st.integers(1, 3), st.booleans())
modes = st.sampled_from(STORED)
ids = st.sampled_from(("repeated-1", "repeated-2", "repeated-3")) | st.none()
delays = st.sampled_from((0.0, 0.0, 5.0))
ttls = st.sampled_from((None, None, None, 8.0))
leases = st.sampled_from((10.0, 30.0))
numbers = st.integers(0, HELD - 1)
rarely = st.integers(0, 5).map((0).__eq__)
whens_full = st.sampled_from(tuple(WhenFull))


@dataclass
class Held:
    """A delivery in hand, and the message that it is in the model."""

    agent: str
    delivery: Delivery
    item: Item
    attempt: int
    failures: int
    max_attempts: int
    history: tuple[str, ...]


class MailboxMachine(RuleBasedStateMachine):
    """Every rule does one thing to the mailboxes and to the model, and compares what both say."""

    engine: ClassVar[EngineCase]
    wrap: ClassVar[Wrap | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock()
        self.place = Place(self.engine)
        self.space = self.run(self.place.open(clock=self.clock, wrap=type(self).wrap))
        self.broker = self.space.broker
        self.broker.outbox.jitter = lambda: 0.5
        self.model = MailboxModel(self.clock)
        self.held: list[Held] = []
        self.sent = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize(whens_full=st.tuples(whens_full, whens_full), ordered=st.booleans())
    def start(self, whens_full: tuple[WhenFull, WhenFull], ordered: bool) -> None:  # noqa: FBT001
        self.register("ana", 4, whens_full[0], 3, ordered)
        self.register("bo", 2, whens_full[1], 2, ordered=False)
        self.register("cleo", 4, WhenFull.REJECT, 1, ordered=False)
        self.subscribe("ana", "news.>", on=True)
        self.subscribe("bo", "*.eu", on=True)

    # --- agents and topics ---

    @rule(agent=agents, choices=options, really=rarely)
    def register_again(self, agent: str, choices: tuple[int, WhenFull, int, bool], really: bool) -> None:  # noqa: FBT001
        if really or agent not in self.model.boxes:
            self.register(agent, *choices)

    def register(self, agent: str, size: int, when_full: WhenFull, max_attempts: int, ordered: bool) -> None:  # noqa: FBT001
        new = self.run(
            self.broker.register_agent(
                agent, max_queue_size=size, when_full=when_full, max_attempts=max_attempts, ordered=ordered
            )
        )
        assert new == (agent not in self.model.boxes)
        box = self.model.boxes.setdefault(agent, Box(size, when_full, max_attempts, ordered))
        box.size, box.when_full, box.max_attempts, box.ordered = size, when_full, max_attempts, ordered
        self.model.dead.setdefault(agent, [])
        self.model.transients.setdefault(agent, set())

    @rule(agent=agents, really=rarely)
    def unregister(self, agent: str, really: bool) -> None:  # noqa: FBT001
        if not really:
            return
        assert self.run(self.broker.unregister_agent(agent)) == self.model.unregister(agent)

    @rule(agent=agents, pattern=st.sampled_from(TOPIC_PATTERNS), on=st.booleans())
    def subscribe(self, agent: str, pattern: str, on: bool) -> None:  # noqa: FBT001
        changing = (self.broker.subscribe if on else self.broker.unsubscribe)(agent, pattern)
        if agent not in self.model.boxes:
            self.must_raise(UnknownAgentError, changing)
            return
        topics = self.model.boxes[agent].topics
        assert self.run(changing) == ((pattern in topics) != on)
        topics.symmetric_difference_update({pattern} if (pattern in topics) != on else ())

    # --- sending ---

    def message(self, receiver: str, message_id: str | None, mode: DeliveryMode, ttl: float | None = None) -> Message:
        self.sent += 1
        return Message(
            id=message_id or f"own-{self.sent}",
            sender="tester",
            receiver=receiver,
            content=self.sent,
            delivery_mode=mode,
            expires=None if ttl is None else self.clock.time() + ttl,
        )

    @rule(agent=agents, message_id=ids, mode=modes, delay=delays, ttl=ttls)
    def send(self, agent: str, message_id: str | None, mode: DeliveryMode, delay: float, ttl: float | None) -> None:
        message = self.message(agent, message_id, mode, ttl)
        sending = self.broker.send(message, delay=delay, timeout=0)
        if agent not in self.model.boxes:
            self.must_raise(UnknownAgentError, sending)
        elif self.model.knows(agent, message.id, exactly_once=mode is DeliveryMode.EXACTLY_ONCE):
            assert self.run(sending) == Receipt(message.id, 0, duplicate=True)
        elif self.model.boxes[agent].refuses():
            self.must_raise(MailboxFullError, sending)
        else:
            receipt = self.run(sending)
            self.compare_receipt(receipt, message, {agent: self.model.accept(agent, item_of(message), delay=delay)})

    @rule(agent=agents, delays=st.lists(delays, min_size=1, max_size=3))
    def send_new_ones(self, agent: str, delays: list[float]) -> None:
        for delay in delays:
            self.send(agent, None, DeliveryMode.AT_LEAST_ONCE, delay, None)

    @rule(agent=agents, topic=st.sampled_from((None, *TOPICS)), message_id=ids)
    def send_at_most_once(self, agent: str, topic: str | None, message_id: str | None) -> None:
        """What is not stored may come, at most once; to nobody it cannot be sent."""
        message = self.message(agent if topic is None else "", message_id, DeliveryMode.AT_MOST_ONCE)
        sending = self.broker.send(message) if topic is None else self.broker.publish(topic, message)
        if topic is None and agent not in self.model.boxes:
            self.must_raise(UnknownAgentError, sending)
            return
        takers = [agent] if topic is None else self.subscribers(topic)
        assert self.run(sending).delivered <= len(takers)
        for taker in takers:
            self.model.transients[taker].add(message.content)

    @precondition(lambda self: self.waiting_boxes())
    @rule(number=numbers, makes_room=st.booleans())
    def send_and_wait_for_room(self, number: int, makes_room: bool) -> None:  # noqa: FBT001
        """A sender waits as its receiver chose: until there is room, or until its time is over."""
        waiting = self.waiting_boxes()
        self.run(self.wait_for_room(waiting[number % len(waiting)], makes_room=makes_room))

    def waiting_boxes(self) -> list[str]:
        boxes = self.model.boxes.items()
        return [name for name, box in boxes if box.when_full is WhenFull.WAIT and box.excess() == 1]

    async def wait_for_room(self, agent: str, *, makes_room: bool) -> None:
        message = self.message(agent, None, DeliveryMode.AT_LEAST_ONCE)
        sending = asyncio.ensure_future(self.broker.send(message, timeout=4.0))
        await come_to_rest()
        assert not sending.done(), "the sender did not wait for room"
        if makes_room:
            item = next(iter(self.model.boxes[agent].items.values()))
            await self.broker.acknowledge(agent, item.id)
            self.model.acknowledge(agent, item)
            await come_to_rest()
            assert sending.done(), "there is room, and the sender still waits"
            self.compare_receipt(await sending, message, {agent: self.model.accept(agent, item_of(message))})
        else:
            await self.clock.advance(4.0)
            self.model.pass_time()
            with pytest.raises(MailboxFullError):
                await sending

    @rule(topic=st.sampled_from(TOPICS), message_id=ids, mode=modes, delay=delays)
    def publish(self, topic: str, message_id: str | None, mode: DeliveryMode, delay: float) -> None:
        """A copy goes to every subscriber that does not have it, or, if one cannot take it, to nobody."""
        message = self.message("", message_id, mode)
        publishing = self.broker.publish(topic, message, delay=delay, timeout=0)
        subscribers = self.subscribers(topic)
        once = mode is DeliveryMode.EXACTLY_ONCE
        takers = [agent for agent in subscribers if not self.model.knows(agent, message.id, exactly_once=once)]
        if any(self.model.boxes[agent].refuses() for agent in takers):
            self.must_raise(MailboxFullError, publishing)
            return
        receipt = self.run(publishing)
        dropped = {agent: self.model.accept(agent, item_of(message), delay=delay) for agent in takers}
        self.compare_receipt(receipt, message, dropped, duplicate=bool(subscribers) and not takers)

    def subscribers(self, topic: str) -> list[str]:
        boxes = self.model.boxes.items()
        return [name for name, box in boxes if any(topic_matches(pattern, topic) for pattern in box.topics)]

    def compare_receipt(
        self, receipt: Receipt, message: Message, dropped: dict[str, list[str]], *, duplicate: bool = False
    ) -> None:
        assert (receipt.message_id, receipt.delivered, receipt.duplicate) == (message.id, len(dropped), duplicate)
        assert sorted(receipt.dropped) == sorted((agent, gone) for agent in dropped for gone in dropped[agent])

    # --- receiving ---

    @rule(agent=agents, lease=leases)
    def receive(self, agent: str, lease: float) -> None:
        if agent not in self.model.boxes:
            self.must_raise(UnknownAgentError, self.broker.receive(agent, timeout=0, lease=lease))
            return
        delivery = self.receive_stored(agent, lease)
        item = self.model.take(agent, lease)
        if delivery is None or item is None:
            assert delivery is item
            return
        message = delivery.message
        assert (message.id, message.content, message.receiver) == (item.id, item.content, agent)
        assert (message.attempt, delivery.attempt, delivery.failures) == (item.attempt, item.attempt, item.failures)
        box = self.model.boxes[agent]
        self.held.append(Held(agent, delivery, item, item.attempt, item.failures, box.max_attempts, item.history))
        del self.held[:-HELD]

    @rule(agent=agents, count=st.integers(1, 3))
    def receive_several(self, agent: str, count: int) -> None:
        for _ in range(count):
            self.receive(agent, 30.0)

    def receive_stored(self, agent: str, lease: float) -> Delivery | None:
        """Receive until something comes that was stored; what was not may come between, once."""
        while True:
            delivery = self.run(self.broker.receive(agent, timeout=0, lease=lease))
            if delivery is None or delivery.message.delivery_mode is not DeliveryMode.AT_MOST_ONCE:
                return delivery
            self.model.transients[agent].remove(delivery.message.content)
            self.run(delivery.acknowledge())

    def chosen(self, number: int) -> Held:
        """Return a delivery, mostly one that has its lease still."""
        alive = [held for held in self.held if self.is_leased(held)]
        among = alive if alive and number % 4 else self.held
        return among[number % len(among)]

    def is_stored(self, held: Held) -> bool:
        """Tell whether the very message of a delivery is still in its mailbox."""
        box = self.model.boxes.get(held.agent)
        return box is not None and box.items.get(held.item.id) is held.item

    def is_leased(self, held: Held) -> bool:
        """Tell whether a delivery still has its lease."""
        return self.is_stored(held) and held.item.state == "leased" and held.item.attempt == held.attempt

    @precondition(lambda self: self.held)
    @rule(number=numbers)
    def acknowledge(self, number: int) -> None:
        held = self.chosen(number)
        if self.is_stored(held):
            self.run(held.delivery.acknowledge())
            self.model.acknowledge(held.agent, held.item)
        else:
            self.must_raise(AlreadySettledError, held.delivery.acknowledge())

    @rule(agent=agents, number=numbers)
    def acknowledge_by_id(self, agent: str, number: int) -> None:
        """Any message can be taken out by its id, a waiting or delayed one too."""
        box = self.model.boxes.get(agent)
        stored = [] if box is None else list(box.items.values())
        if number < len(stored):
            self.run(self.broker.acknowledge(agent, stored[number].id))
            self.model.acknowledge(agent, stored[number])
        else:
            self.must_raise(AlreadySettledError, self.broker.acknowledge(agent, "nothing-of-that-id"))

    @precondition(lambda self: self.held)
    @rule(number=numbers, delay=delays, counted=st.booleans(), reason=st.sampled_from(("", "not now")))
    def release(self, number: int, delay: float, counted: bool, reason: str) -> None:  # noqa: FBT001
        held = self.chosen(number)
        mine = self.is_leased(held)
        assert self.run(held.delivery.release(delay=delay, counted=counted, reason=reason)) == mine
        if mine:
            self.model.give_back(held.item, delay=delay, counted=counted, reason=reason)

    @precondition(lambda self: self.held)
    @rule(number=numbers)
    def reject(self, number: int) -> None:
        held = self.chosen(number)
        if self.is_stored(held):
            self.run(held.delivery.reject("unwanted"))
            self.model.bury(held.agent, held.item, "unwanted", held.history)
        else:
            self.must_raise(AlreadySettledError, held.delivery.reject("unwanted"))

    @precondition(lambda self: self.held)
    @rule(number=numbers)
    def fail(self, number: int) -> None:
        """An exception counts: the message comes again after a delay that doubles, until its last attempt."""
        held = self.chosen(number)
        error = RuntimeError("boom")
        failures = held.failures + 1
        if failures < held.max_attempts:
            mine = self.is_leased(held)
            assert not self.run(held.delivery.fail(error))
            if mine:
                delay = 0.1 * 2 ** (failures - 1) * 0.75
                self.model.give_back(held.item, delay=delay, counted=True, reason="RuntimeError: boom")
        elif self.is_stored(held):
            assert self.run(held.delivery.fail(error))
            self.model.bury(held.agent, held.item, "RuntimeError: boom", held.history)
        else:
            self.must_raise(AlreadySettledError, held.delivery.fail(error))
        self.model.counters["failed"] += 1

    @precondition(lambda self: self.held)
    @rule(number=numbers, lease=leases)
    def extend(self, number: int, lease: float) -> None:
        held = self.chosen(number)
        if self.is_leased(held):
            self.run(held.delivery.extend(lease))
            held.item.until = self.clock.monotonic() + lease
        else:
            self.must_raise(LeaseLostError, held.delivery.extend(lease))

    @precondition(lambda self: self.held)
    @rule(number=numbers, receiver=agents)
    def handle_in_a_transaction(self, number: int, receiver: str) -> None:
        """Memory, the next message and the acknowledgement are committed together, or none of them is."""
        held = self.chosen(number)
        message = self.message(receiver, None, DeliveryMode.EXACTLY_ONCE)
        failure = self.expected_failure(held, receiver)
        if failure is None:
            self.run(self.handle(held, message))
            self.model.acknowledge(held.agent, held.item)
            self.model.accept(receiver, item_of(message))
        else:
            self.must_raise(failure, self.handle(held, message))
        kept = self.run(self.space.memory.read("handled", reader="tester"))
        assert (kept == message.content) == (failure is None)

    def expected_failure(self, held: Held, receiver: str) -> type[Exception] | None:
        if not self.is_stored(held):
            return AlreadySettledError
        box = self.model.boxes.get(receiver)
        if box is None:
            return UnknownAgentError
        return MailboxFullError if box.refuses(freed=receiver == held.agent) else None

    async def handle(self, held: Held, message: Message) -> None:
        transaction = held.delivery.transaction()
        transaction.write("handled", message.content, owner="tester")
        transaction.send(message)
        committing = asyncio.ensure_future(transaction.commit())
        await come_to_rest()
        if not committing.done():  # it waits for room in the receiver's mailbox, in vain
            await self.clock.advance(30.0)
            self.model.pass_time()
        await committing

    # --- dead letters ---

    @precondition(lambda self: any(self.model.dead.values()))
    @rule(agent=agents, everything=st.booleans(), number=numbers)
    def redeliver(self, agent: str, everything: bool, number: int) -> None:  # noqa: FBT001
        chosen = self.chosen_letters(agent, everything=everything, number=number)
        work = self.broker.redeliver(agent, None if everything else (chosen or [_NOTHING])[0].id)
        box = self.model.boxes.get(agent)
        failure = None
        moved = 0
        for letter in chosen:
            if box is None or (letter.id not in box.items and box.refuses()):
                failure = UnknownAgentError if box is None else MailboxFullError
                break
            moved += self.model.redeliver(agent, letter)
        assert self.run(self.patiently(work, failure)) == (None if failure else moved)

    async def patiently(self, work: Coroutine[Any, Any, int], failure: type[Exception] | None) -> int | None:
        """Do what may have to wait for room, and must in the end fail as given."""
        doing = asyncio.ensure_future(work)
        await come_to_rest()
        if not doing.done():
            await self.clock.advance(30.0)
            self.model.pass_time()
        if failure is None:
            return await doing
        with pytest.raises(failure):
            await doing
        return None

    @precondition(lambda self: any(self.model.dead.values()))
    @rule(agent=agents, everything=rarely, number=numbers)
    def purge(self, agent: str, everything: bool, number: int) -> None:  # noqa: FBT001
        chosen = self.chosen_letters(agent, everything=everything, number=number)
        purging = self.broker.purge(agent, None if everything else (chosen or [_NOTHING])[0].id)
        assert self.run(purging) == len(chosen)
        for letter in chosen:
            self.model.purge(agent, letter)

    def chosen_letters(self, agent: str, *, everything: bool, number: int) -> list[Item]:
        """Return all dead letters, or all of one id."""
        letters = list(self.model.dead.get(agent, []))
        if everything or not letters:
            return letters
        chosen = letters[number % len(letters)]
        return [letter for letter in letters if letter.id == chosen.id]

    # --- time ---

    @rule(seconds=st.sampled_from((1.0, 1.0, 6.0, 10.0, 31.0, 3600.0)))
    def time_passes(self, seconds: float) -> None:
        self.run(self.clock.advance(seconds))
        self.model.pass_time()

    @rule(seconds=st.integers(-20, 20))
    def the_civil_clock_jumps(self, seconds: int) -> None:
        """Leases and delays do not move with it; when messages expire does."""
        self.clock.jump(float(seconds))

    # --- what always holds ---

    @invariant()
    def figures_equal_the_model(self) -> None:
        stats = self.run(self.broker.get_stats())
        seen = {
            name: (box.waiting, box.pending, box.delayed, box.dead_letters, box.max_queue_size)
            for name, box in stats.mailboxes.items()
        }
        assert seen == {
            name: (*(len(box.in_state(state)) for state in ("waiting", "leased", "delayed")), len(letters), box.size)
            for name, box, letters in ((name, box, self.model.dead[name]) for name, box in self.model.boxes.items())
        }
        assert stats.topics == len({topic for box in self.model.boxes.values() for topic in box.topics})
        counted = {name: getattr(stats, name) for name in ("acknowledged", "failed", "dead_lettered", "dropped")}
        assert counted == {name: self.model.counters[name] for name in counted}

    @invariant()
    def dead_letters_equal_the_model(self) -> None:
        for agent in AGENTS:
            letters = self.run(self.broker.dead_letters(agent))
            seen = [
                (letter.message.id, letter.message.content, [f.reason for f in letter.history]) for letter in letters
            ]
            model = self.model.dead.get(agent, [])
            assert seen == [(letter.id, letter.content, list(letter.history)) for letter in model]

    # --- the end ---

    def must_raise(self, kind: type[Exception], work: Coroutine[Any, Any, Any]) -> None:
        with pytest.raises(kind):
            self.run(work)

    def teardown(self) -> None:
        try:
            if sys.exception() is None:  # after a failure, more of them would only hide the first
                self.drain()
        finally:
            self.run(self.space.aclose())
            self.loop.close()
            self.place.remove()

    def drain(self) -> None:
        """Handle all that is left: every message that was accepted has then ended exactly once."""
        self.time_passes(3600.0)
        for agent, box in self.model.boxes.items():
            self.register(agent, box.size, box.when_full, 1_000, ordered=False)
            while box.items:
                self.receive(agent, 10.0)
                if box.items:
                    self.acknowledge(-1)
        left = Counter((agent, item.content) for agent, letters in self.model.dead.items() for item in letters)
        assert self.model.ended + left == self.model.accepted


_NOTHING = Item("nothing-of-that-id", 0, 0)


def item_of(message: Message) -> Item:
    return Item(
        message.id,
        message.content,
        0,
        exactly_once=message.delivery_mode is DeliveryMode.EXACTLY_ONCE,
        expires=message.expires,
    )


@pytest.mark.campaign
@pytest.mark.timeout(3_600)  # for a failure: making its example small takes minutes
@on_every_engine
def test_mailboxes_equal_plain_lists_whatever_is_done_to_them(engine: EngineCase, figures: Figures):
    tried = machine_settings()
    figures(examples=tried.max_examples, steps=tried.max_examples * tried.stateful_step_count)
    run_machine(type("Machine", (MailboxMachine,), {"engine": engine}), settings=tried)


@on_every_engine
async def test_a_delayed_message_holds_back_later_ones_though_an_earlier_one_was_settled(engine: EngineCase):
    async with open_space(engine) as space:
        await space.broker.register_agent("ana", ordered=True)
        for message_id, delay in (("settled", 0.0), ("delayed", 60.0), ("later", 0.0)):
            await space.broker.send(Message(id=message_id, receiver="ana"), delay=delay)
        await space.broker.acknowledge("ana", "settled")
        assert await space.broker.receive("ana", timeout=0) is None
