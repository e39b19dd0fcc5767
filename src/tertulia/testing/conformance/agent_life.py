"""The life of a MessagePassingAgent: leases, stopping, starting again, paths and times."""

from __future__ import annotations

import asyncio
from typing import Any

from tertulia._clock import sleep
from tertulia.agents.message_passing import MessagePassingAgent
from tertulia.errors import LoopError, RemoteError
from tertulia.records import DeliveryMode, Message
from tertulia.testing.conformance._expect import (
    PromiseBrokenError,
    equal,
    expect,
    logged,
    no,
    raises,
    running,
    within,
    yes,
)
from tertulia.testing.conformance._registry import MANUAL_CLOCK, case
from tertulia.testing.conformance._steps import (
    contents,
    idle,
    message,
    on,
    pass_time,
    pause,
    register,
    take,
    unit,
    until,
)
from tertulia.testing.conformance.harness import Harness

HOPS = 32  # what the design allows a message's causal path


@case(MANUAL_CLOCK)
async def lease_is_renewed_while_a_handler_runs(h: Harness) -> None:
    """A handler may run far longer than its lease: nobody else gets its message, and it is acknowledged in the end."""
    space, other = await h.open(), await h.open_again()
    agent = MessagePassingAgent("ada", space.broker, lease=30.0)
    attempts: list[int] = []

    @agent.on_message("default")
    async def work_long(got: Message) -> None:
        attempts.append(got.attempt)
        await sleep(space.clock, 3600.0)

    async with agent:
        await agent.send("ada", "m")
        for _ in range(60):
            await h.advance(61.0)
            if (await space.broker.get_stats()).acknowledged:
                break
            equal(await other.broker.receive("ada", timeout=0), None, "what another consumer gets")
    equal((attempts, (await space.broker.get_stats()).acknowledged), ([1], 1), "attempts and acknowledgements")


@case()
async def stopping_lets_the_running_handler_finish(h: Harness) -> None:
    """`stop` waits for the handler that runs, takes no further message, and leaves the rest in the mailbox."""
    space = await h.open()
    agent = MessagePassingAgent("ada", space.broker)
    gate = asyncio.Event()
    seen: list[object] = []

    @agent.on_message("default")
    async def handle(got: Message) -> None:
        await gate.wait()
        seen.append(got.content)

    await agent.start()
    for number in range(3):
        await agent.send("ada", number)
    await pause(h)
    async with running(agent.stop()) as stopping:
        await pause(h)
        no(stopping.done(), "whether it stopped under the handler")
        gate.set()
        await within(stopping)
    equal((seen, await contents(space)), ([0], [1, 2]), "what was handled, and what is left")


@case()
async def idle_agent_stops_at_once(h: Harness) -> None:
    """An agent that waits for messages stops without waiting; what comes then stays in the mailbox."""
    space = await h.open()
    agent = MessagePassingAgent("ada", space.broker)
    on(agent, lambda _: None)
    await agent.start()
    await pause(h)
    await within(agent.stop(), seconds=1.0)
    await agent.send("ada", "m")
    await pause(h)
    equal(await contents(space), ["m"], "what is in the mailbox")


@case()
async def message_that_comes_while_an_agent_stops_is_kept(h: Harness) -> None:
    """A message sent at the very moment an idle agent stops is handled or stays; it is in nobody's hands."""
    space = await h.open()
    agent = MessagePassingAgent("ada", space.broker)
    seen: list[object] = []
    on(agent, lambda got: seen.append(got.content))
    await agent.start()
    await pause(h)
    await agent.send("ada", "m")
    await within(agent.stop())
    equal([*seen, *await contents(space)], ["m"], "handled or left")


@case()
async def handler_that_takes_too_long_to_stop_is_cancelled(h: Harness) -> None:
    """After the grace a running handler is cancelled, and its message given back without a failure."""
    space = await h.open()
    agent = MessagePassingAgent("ada", space.broker)
    cancelled: list[object] = []

    @agent.on_message("default")
    async def hang(got: Message) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(got.content)
            raise

    await agent.start()
    await agent.send("ada", "m")
    await pause(h)
    stopping = asyncio.create_task(agent.stop(grace=unit(h)))
    await pause(h)
    equal(cancelled, [], "what was cancelled within the grace")
    await pass_time(h, 1.4)
    await within(stopping)
    equal(cancelled, ["m"], "what was cancelled")
    again = await take(space)
    equal((again.message.content, again.attempt, again.failures), ("m", 2, 0), "the next attempt")


@case(MANUAL_CLOCK)
async def deliveries_are_kept_while_their_block_runs(h: Harness) -> None:
    """`async with delivery` renews the lease while the block runs, and no longer; a bare delivery's runs out."""
    space = await h.open()
    await register(space, "ada")
    await space.broker.send(message("ada"))
    delivery = await space.broker.receive("ada", timeout=0, lease=3.0)
    if delivery is None:
        raise PromiseBrokenError("the message should be delivered")
    async with delivery:
        for _ in range(10):
            await h.advance(1.0)
        equal(await space.broker.receive("ada", timeout=0), None, "what another consumer gets meanwhile")
    await space.broker.send(message("ada", "bare"))
    bare = await space.broker.receive("ada", timeout=0, lease=3.0)
    expect(bare is not None, "the second message should be delivered")
    await h.advance(3.0)
    again = await take(space)
    equal((again.message.content, again.failures), ("bare", 1), "what is delivered again")


@case()
async def closing_the_space_gives_messages_back(h: Harness) -> None:
    """Closing a space cancels its handlers and gives their messages back, so that another place goes on at once."""
    space, other = await h.open(), await h.open_again()
    agent = MessagePassingAgent("ada", other.broker)

    @agent.on_message("default")
    async def hang(_: Message) -> None:
        await asyncio.Event().wait()

    await agent.start()
    await space.broker.send(message("ada", "m"))
    await pause(h)
    equal((await space.broker.mailbox_stats("ada")).pending, 1, "how many messages are pending")
    await within(other.aclose())
    again = await take(space)
    equal((again.message.content, again.attempt, again.failures), ("m", 2, 0), "the next attempt")


@case()
async def agent_can_start_again(h: Harness) -> None:
    """A stopped agent can be started again, and handles what came meanwhile; starting twice is starting once."""
    space = await h.open()
    agent = MessagePassingAgent("ada", space.broker)
    seen: list[object] = []
    on(agent, lambda got: seen.append(got.content))
    await agent.start()
    await agent.stop()
    await agent.send("ada", "meanwhile")
    await agent.start()
    await agent.start()
    await idle(h, space)
    await agent.stop()
    equal(seen, ["meanwhile"], "what was handled")


@case()
async def unregistered_agent_ends(h: Harness) -> None:
    """An agent whose mailbox is removed stops by itself; stopping it then is no error."""
    space = await h.open()
    agent = MessagePassingAgent("ada", space.broker)
    on(agent, lambda _: None)
    await agent.start()
    await pause(h)
    with logged() as lines:
        await space.broker.unregister_agent("ada")
        await until(h, lambda: any("'ada' stops" in line for line in lines))
    await within(agent.stop())


# --- topics, times, paths ---


@case()
async def agent_runs_until_one_of_its_handlers_stops_it(h: Harness) -> None:
    """`run` starts an agent and returns when somebody stops it: after the handler that did so has ended."""
    space = await h.open()
    agent = MessagePassingAgent("ada", space.broker)
    await register(space, "ada")

    @agent.on_message("default")
    async def handle(got: Message) -> None:
        if got.content == "go home":
            await agent.stop()

    async with running(agent.run()) as run:
        await agent.send("ada", "work")
        await idle(h, space)
        no(run.done(), "whether it ended after its first message")
        await agent.send("ada", "go home")
        await agent.send("ada", "too late")
        await within(run)
    equal(await contents(space), ["too late"], "what is left in the mailbox")


@case()
async def agent_runs_until_its_mailbox_is_removed(h: Harness) -> None:
    """`run` returns when there is nothing more to come."""
    space = await h.open()
    agent = MessagePassingAgent("ada", space.broker)
    await register(space, "ada")
    async with running(agent.run()) as run:
        await pause(h)
        no(run.done(), "whether it ended while its mailbox was there")
        await space.broker.unregister_agent("ada")
        await within(run)


@case()
async def agents_publish_and_subscribe(h: Harness) -> None:
    """What an agent publishes is handled by every agent that subscribed, with the topic and its sender."""
    space = await h.open()
    seen: list[tuple[str, str, str | None, object]] = []
    agents = [MessagePassingAgent(name, space.broker) for name in ("ada", "bob")]
    for agent in agents:
        on(agent, lambda got: seen.append((got.receiver, got.sender, got.topic, got.content)))
        await agent.start()
        yes(await agent.subscribe("news.*"), "whether the subscription is new")
    equal((await agents[0].publish("news.today", "hello")).delivered, 2, "how many mailboxes took it")
    await until(h, lambda: len(seen) == len(agents))
    wanted = [("ada", "ada", "news.today", "hello"), ("bob", "ada", "news.today", "hello")]
    equal(sorted(seen), wanted, "what was handled")
    yes(await agents[0].unsubscribe("news.*"), "whether the subscription was there")
    for agent in agents:
        await agent.stop()


@case()
async def message_with_a_ttl_is_not_handled_too_late(h: Harness) -> None:
    """A message sent with a `ttl` is not handled after it: it is a dead letter with reason "expired"."""
    space = await h.open()
    await register(space, "ada")
    agent = MessagePassingAgent("ada", space.broker)
    seen: list[object] = []
    on(agent, lambda got: seen.append(got.content))
    await agent.send("ada", "stale", ttl=unit(h))
    await agent.send("ada", "fresh", ttl=1000 * unit(h))
    await pass_time(h, 1.6)
    async with agent:
        await idle(h, space)
    letters = [(one.message.content, one.reason) for one in await space.broker.dead_letters("ada")]
    equal((seen, letters), (["fresh"], [("stale", "expired")]), "what was handled, and the dead letters")


@case()
async def repeated_send_with_an_id_is_handled_once(h: Harness) -> None:
    """An EXACTLY_ONCE send that is repeated with its `message_id` is handled once."""
    space = await h.open()
    agent = MessagePassingAgent("ada", space.broker)
    seen: list[object] = []
    on(agent, lambda got: seen.append(got.content))
    async with agent:
        for _ in range(3):
            await agent.send("ada", "m", delivery_mode=DeliveryMode.EXACTLY_ONCE, message_id="order-7")
            await idle(h, space)
    equal(seen, ["m"], "what was handled")


@case()
async def messages_carry_their_causal_path(h: Harness) -> None:
    """What a handler sends, publishes or asks carries the agents that it came through, oldest first."""
    space = await h.open()
    await register(space, "end")
    ada, bob = MessagePassingAgent("ada", space.broker), MessagePassingAgent("bob", space.broker)

    @ada.on_message("default")
    async def pass_on(got: Message) -> object:
        return await ada.request("bob", got.content, timeout=1000 * unit(h))

    @bob.on_message("default")
    async def finish(got: Message) -> list[str]:
        await bob.send("end", got.content)
        return list(got.hops)

    async with ada, bob:
        reply = await within(space.broker.request_response(message("ada"), timeout=1000 * unit(h)))
    equal(reply.content, ["ada"], "the path of what bob got")
    equal((await take(space, "end")).message.hops, ("ada", "bob"), "the path of what came out at the end")


@case()
async def endless_conversation_ends_as_a_dead_letter(h: Harness) -> None:
    """Agents that answer each other's answers are stopped: past 32 hops a message is a dead letter, reason "loop"."""
    space = await h.open()
    count = 0
    agents = [MessagePassingAgent(name, space.broker) for name in ("ada", "bob")]

    async def answer(got: Message) -> None:
        nonlocal count
        count += 1
        other = "bob" if got.receiver == "ada" else "ada"
        await agents[got.receiver == "bob"].send(other, "and you?")

    for agent in agents:
        agent.on_message("default")(answer)
        await agent.start()
    await space.broker.send(message("ada", "hello"))
    for name in ("ada", "bob", "ada", "bob"):
        await idle(h, space, name)
    for agent in agents:
        await agent.stop()
    letters = [*await space.broker.dead_letters("ada"), *await space.broker.dead_letters("bob")]
    equal([(one.reason, len(one.message.hops)) for one in letters], [("loop", HOPS + 1)], "the dead letters")
    equal(count, HOPS + 1, "how many messages were handled")


@case()
async def endless_request_is_an_error(h: Harness) -> None:
    """Agents that ask each other in circles get LoopError, which comes back to whoever began."""
    space = await h.open()
    agents = [MessagePassingAgent(name, space.broker, concurrency=HOPS) for name in ("ada", "bob")]

    async def ask(got: Message) -> object:
        other = "bob" if got.receiver == "ada" else "ada"
        return await agents[got.receiver == "bob"].request(other, "and you?", timeout=1000 * unit(h))

    for agent in agents:
        agent.on_message("default")(ask)
        await agent.start()
    with logged(), raises(RemoteError) as caught:
        await within(space.broker.request_response(message("ada"), timeout=1000 * unit(h)))
    for agent in agents:
        await agent.stop()
    expect(LoopError.__name__ in str(caught[0]) or "hops" in str(caught[0]), f"it should name the loop: {caught[0]}")


@case()
async def agents_of_one_team_work_at_the_same_time(h: Harness) -> None:
    """Handlers of different agents run side by side: two that wait for each other's message come through."""
    space = await h.open()
    done: list[Any] = []
    met = {"ada": asyncio.Event(), "bob": asyncio.Event()}
    agents = [MessagePassingAgent(name, space.broker) for name in met]

    async def meet(got: Message) -> None:
        met[got.receiver].set()
        await asyncio.gather(*(event.wait() for event in met.values()))
        done.append(got.receiver)

    for agent in agents:
        agent.on_message("default")(meet)
        await agent.start()
    for name in met:
        await space.broker.send(message(name))
    await until(h, lambda: len(done) == len(met))
    for agent in agents:
        await agent.stop()
