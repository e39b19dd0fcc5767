"""MessagePassingAgent: which handler runs, how many at a time, and what its end does to the message."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from tertulia.agents.message_passing import MessagePassingAgent
from tertulia.errors import Reject, RemoteError, RetryLater
from tertulia.messaging.delivery import DeliveryTransaction
from tertulia.records import DeliveryMode, Message, WhenFull
from tertulia.testing.conformance._expect import equal, logged, raises, within, yes
from tertulia.testing.conformance._registry import MANUAL_CLOCK, case
from tertulia.testing.conformance._steps import contents, idle, message, on, pause, register, unit, until
from tertulia.testing.conformance.harness import Harness


@dataclass
class Point:
    """Content of a class of its own."""

    x: int
    y: int


# --- which handler ---


@case()
async def handler_is_chosen_by_type(h: Harness) -> None:
    """A message goes to the handler of its content's "type", else to the default one; it gets the whole message."""
    space = await h.open()
    agent = MessagePassingAgent("ada", space.broker)
    seen: list[tuple[str, str, object]] = []

    @agent.on_message("task")
    def do_task(got: Message) -> None:
        seen.append(("task", got.sender, got.content))

    @agent.on_message("default")
    async def do_rest(got: Message) -> None:
        seen.append(("default", got.sender, got.content))

    async with agent:
        for content in ({"type": "task", "n": 1}, {"type": "other"}, "text", {"type": 7}):
            await space.broker.send(message("ada", content, sender="bob"))
        await idle(h, space)
    wanted: list[tuple[str, str, object]] = [
        ("task", "bob", {"type": "task", "n": 1}),
        ("default", "bob", {"type": "other"}),
        ("default", "bob", "text"),
        ("default", "bob", {"type": 7}),
    ]
    equal(seen, wanted, "what the handlers saw")


@case()
async def content_is_rebuilt_as_its_class(h: Harness) -> None:
    """A handler registered for a class gets content of that class, as an agent sent it."""
    space = await h.open()
    ada, bob = MessagePassingAgent("ada", space.broker), MessagePassingAgent("bob", space.broker)
    on(ada, lambda got: Point(got.content.y, got.content.x), Point)
    async with ada:
        reply = await within(bob.request("ada", Point(1, 2), timeout=1000 * unit(h), type=Point))
    equal(reply, Point(2, 1), "the reply")


@case()
async def content_of_another_type_is_a_dead_letter(h: Harness) -> None:
    """Content that does not fit the handler's type is a dead letter at once, whose reason says where it differs."""
    space = await h.open()
    agent = MessagePassingAgent("ada", space.broker)
    on(agent, lambda _: None, "point", content_type=Point)
    async with agent:
        await space.broker.send(message("ada", {"type": "point", "x": 1, "y": "two"}))
        await idle(h, space)
    letter = (await space.broker.dead_letters("ada"))[0]
    yes("$.y" in letter.reason, f"whether the reason says where: {letter.reason}")


@case()
async def message_without_a_handler_is_a_dead_letter(h: Harness) -> None:
    """A message that no handler is for is a dead letter that says so; it does not vanish."""
    space = await h.open()
    agent = MessagePassingAgent("ada", space.broker)
    on(agent, lambda _: None, "known")
    async with agent:
        await space.broker.send(message("ada", {"type": "unknown"}))
        await idle(h, space)
    letters = await space.broker.dead_letters("ada")
    equal(len(letters), 1, "the number of dead letters")
    yes(
        "no handler" in letters[0].reason and "unknown" in letters[0].reason, f"whether it says so: {letters[0].reason}"
    )


# --- how many at a time ---


async def _most_at_once(h: Harness, concurrency: int) -> int:
    space = await h.open()
    agent = MessagePassingAgent("ada", space.broker, concurrency=concurrency)
    at_once: list[int] = []
    inside = 0
    go_on = asyncio.Event()

    @agent.on_message("default")
    async def handle(_: Message) -> None:
        nonlocal inside
        inside += 1
        at_once.append(inside)
        await go_on.wait()
        inside -= 1

    async with agent:
        for number in range(12):
            await agent.send("ada", number)
        await until(h, lambda: inside >= concurrency)
        await pause(h)  # one more would begin now
        go_on.set()
        await idle(h, space)
    equal(len(at_once), 12, "how many messages were handled")
    return max(at_once)


@case()
async def handlers_run_one_at_a_time(h: Harness) -> None:
    """Handlers run one at a time per agent unless told otherwise."""
    equal(await _most_at_once(h, 1), 1, "the most handlers at once")


@case()
async def handlers_run_as_many_at_a_time_as_told(h: Harness) -> None:
    """With `concurrency=3` up to three handlers run at once, and no more."""
    equal(await _most_at_once(h, 3), 3, "the most handlers at once")


@case()
async def messages_are_handled_in_order(h: Harness) -> None:
    """An agent that handles one at a time handles messages in the order they were sent."""
    space = await h.open()
    agent = MessagePassingAgent("ada", space.broker)
    seen: list[object] = []
    on(agent, lambda got: seen.append(got.content))
    await register(space, "ada")
    for number in range(10):
        await space.broker.send(message("ada", number))
    async with agent:
        await idle(h, space)
    equal(seen, list(range(10)), "the order")


@case()
async def several_places_run_one_agent(h: Harness) -> None:
    """An agent that runs on several handles shares its mailbox: each message is handled once."""
    seen: list[object] = []
    agents: list[MessagePassingAgent] = []
    for space in (await h.open(), await h.open_again()):
        agent = MessagePassingAgent("ada", space.broker)
        on(agent, lambda got: seen.append(got.content))
        await agent.start()
        agents.append(agent)
    space = await h.open()
    for number in range(20):
        await space.broker.send(message("ada", number))
    await idle(h, space)
    for agent in agents:
        await agent.stop()
    equal(sorted(map(str, seen)), sorted(map(str, range(20))), "what was handled")


# --- failures ---


@case(MANUAL_CLOCK)
async def failing_handler_is_retried_then_given_up(h: Harness) -> None:
    """An exception is logged with its traceback, counted, retried with backoff, and at last dead-lettered."""
    space = await h.open()
    agent = MessagePassingAgent("ada", space.broker, max_attempts=3)
    attempts: list[int] = []

    @agent.on_message("default")
    def fail(got: Message) -> None:
        attempts.append(got.attempt)
        raise ValueError(f"attempt {got.attempt}")

    with logged() as lines:
        async with agent:
            await agent.send("ada", "m")
            await h.advance(0.04)
            equal(attempts, [1], "the attempts at first")
            await h.advance(60.0)
    equal(attempts, [1, 2, 3], "the attempts")
    letter = (await space.broker.dead_letters("ada"))[0]
    equal((letter.reason, letter.message.content, len(letter.history)), ("ValueError: attempt 3", "m", 3), "the letter")
    tracebacks = [line for line in lines if line.startswith("ERROR") and "Traceback" in line and "ValueError" in line]
    equal(len(tracebacks), 3, "the tracebacks in the log")
    equal((await space.broker.get_stats()).failed, 3, "the failures counted")


@case(MANUAL_CLOCK)
async def handler_that_recovers_has_handled_it(h: Harness) -> None:
    """A message whose handler fails first and succeeds later is handled, and is no dead letter."""
    space = await h.open()
    agent = MessagePassingAgent("ada", space.broker, max_attempts=3)
    handled: list[int] = []

    @agent.on_message("default")
    def recover(got: Message) -> None:
        if got.attempt < 3:  # noqa: PLR2004 - the last of three
            raise ValueError("not yet")
        handled.append(got.attempt)

    with logged():
        async with agent:
            await agent.send("ada", "m")
            await h.advance(60.0)
    equal((handled, await space.broker.dead_letters("ada")), ([3], []), "attempts that handled it, and dead letters")


@case(MANUAL_CLOCK)
async def asking_for_a_retry_is_no_failure(h: Harness) -> None:
    """RetryLater tries again after its delay, as often as it is raised, without counting a failure."""
    space = await h.open()
    agent = MessagePassingAgent("ada", space.broker, max_attempts=2)
    seen: list[float] = []
    start = space.clock.monotonic()

    @agent.on_message("default")
    def later(_: Message) -> None:
        seen.append(space.clock.monotonic() - start)
        if len(seen) <= 5:  # noqa: PLR2004 - more often than max_attempts
            raise RetryLater(10.0)

    async with agent:
        await agent.send("ada", "m")
        await h.advance(100.0)
    equal([round(when) for when in seen], [0, 10, 20, 30, 40, 50], "when it was handled")
    stats = await space.broker.get_stats()
    equal((stats.failed, stats.dead_lettered, stats.acknowledged), (0, 0, 1), "failed, buried, acknowledged")


@case()
async def rejecting_handler_buries_at_once(h: Harness) -> None:
    """Reject sends the message straight to the dead letters, with its reason, at the first attempt."""
    space = await h.open()
    agent = MessagePassingAgent("ada", space.broker)
    attempts: list[int] = []

    @agent.on_message("default")
    def refuse(got: Message) -> None:
        attempts.append(got.attempt)
        raise Reject("spam")

    async with agent:
        await agent.send("ada", "m")
        await idle(h, space)
    letters = await space.broker.dead_letters("ada")
    equal((attempts, [one.reason for one in letters]), ([1], ["spam"]), "attempts and dead letters")


@case()
async def failure_of_one_message_does_not_stop_the_agent(h: Harness) -> None:
    """After a failure the agent goes on with the next message."""
    space = await h.open()
    agent = MessagePassingAgent("ada", space.broker, max_attempts=1)
    seen: list[object] = []

    @agent.on_message("default")
    def handle(got: Message) -> None:
        seen.append(got.content)
        if got.content == "poison":
            raise ValueError("poison")

    with logged():
        async with agent:
            for content in ("poison", "fine"):
                await agent.send("ada", content)
            await idle(h, space)
    equal(seen, ["poison", "fine"], "what was handled")


@case()
async def cancellation_inside_a_handler_is_a_failure(h: Harness) -> None:
    """A handler that lets out the cancellation of something it awaited has failed; the agent goes on."""
    space = await h.open()
    agent = MessagePassingAgent("ada", space.broker, max_attempts=1)
    seen: list[object] = []

    @agent.on_message("default")
    async def handle(got: Message) -> None:
        seen.append(got.content)
        if got.content == "cancelled":
            work = asyncio.ensure_future(asyncio.sleep(3600))
            work.cancel()
            await work

    with logged():
        async with agent:
            for content in ("cancelled", "fine"):
                await agent.send("ada", content)
            await idle(h, space)
    equal(seen, ["cancelled", "fine"], "what was handled")
    equal([one.message.content for one in await space.broker.dead_letters("ada")], ["cancelled"], "the dead letters")


@case(MANUAL_CLOCK)
async def answer_that_cannot_be_delivered_does_not_stop_the_agent(h: Harness) -> None:
    """A request whose reply address is unknown or full ends as a dead letter in time, and the agent goes on."""
    space = await h.open()
    await space.broker.register_agent("full", max_queue_size=1, when_full=WhenFull.REJECT)
    await space.broker.send(message("full", "fills it"))
    agent = MessagePassingAgent("ada", space.broker, max_attempts=2)
    seen: list[object] = []
    on(agent, lambda got: seen.append(got.content))
    with logged():
        async with agent:
            for address in ("nobody", "full"):
                await space.broker.send(message("ada", f"answer {address}", reply_to=address))
            await h.advance(600.0)
            await agent.send("ada", "fine")
            await h.advance(1.0)
    yes("fine" in seen, f"whether the agent goes on: {seen}")
    stats = await space.broker.mailbox_stats("ada")
    equal((stats.waiting, stats.pending, stats.delayed), (0, 0, 0), "the mailbox")


# --- with a transaction ---


@case()
async def handlers_transaction_commits_with_reply_and_acknowledgement(h: Harness) -> None:
    """A handler with a second parameter gets a transaction, committed with its result as reply when it returns."""
    space = await h.open()
    await register(space, "log")
    agent = MessagePassingAgent("ada", space.broker)

    @agent.on_message("default")
    async def pay(got: Message, tx: DeliveryTransaction) -> str:
        tx.write("paid", got.content, owner="ada")
        tx.send(message("log", "paid"))
        equal(await space.memory.read("paid", reader="x"), None, "what others see while the handler runs")
        return "thanks"

    async with agent:
        asked = space.broker.request_response(message("ada", 5), timeout=1000 * unit(h))
        equal((await within(asked)).content, "thanks", "the reply")
        equal(await space.memory.read("paid", reader="x"), 5, "the value when the reply is there")
    equal(await contents(space, "log"), ["paid"], "the message sent")


@case()
async def failing_handlers_transaction_leaves_nothing(h: Harness) -> None:
    """When a handler with a transaction fails nothing of it is committed, and the requester gets RemoteError."""
    space = await h.open()
    await register(space, "log")
    agent = MessagePassingAgent("ada", space.broker)

    @agent.on_message("default")
    def fail(_: Message, tx: DeliveryTransaction) -> None:
        tx.write("k", 1, owner="ada")
        tx.send(message("log", "never"))
        tx.reply("never")
        raise ValueError("after all")

    async with agent:
        with logged(), raises(RemoteError, detail="after all"):
            await within(space.broker.request_response(message("ada"), timeout=1000 * unit(h)))
    equal((await space.memory.list_keys(), await contents(space, "log")), ([], []), "what was committed")


def _add_ten(n: int) -> int:
    return n + 10


@case(MANUAL_CLOCK)
async def conflicting_handler_is_tried_again_and_applied_once(h: Harness) -> None:
    """A handler whose transaction loses a race is tried again with what is true now; its effect counts once."""
    space = await h.open()
    await space.memory.write("n", 0, owner="ada")
    agent = MessagePassingAgent("ada", space.broker)
    attempts: list[int] = []

    @agent.on_message("default")
    async def add(got: Message, tx: DeliveryTransaction) -> None:
        attempts.append(got.attempt)
        tx.write("n", await tx.read("n", reader="ada") + 1, owner="ada")
        if len(attempts) == 1:
            await space.memory.modify("n", _add_ten, updater="bob")

    with logged():
        async with agent:
            await agent.send("ada", "m", delivery_mode=DeliveryMode.EXACTLY_ONCE)
            await h.advance(10.0)
    equal((len(attempts), await space.memory.read("n", reader="x")), (2, 11), "how often it ran, and the value")
