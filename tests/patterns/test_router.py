"""The router: one call, four channels, and no difference to whoever receives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tertulia import (
    Channel,
    DeliveryMode,
    DeliveryTransaction,
    IntelligentRouter,
    Latency,
    Message,
    MessagePassingAgent,
    RetryLater,
    Space,
    connect,
)
from tertulia._rules.routing import EXPLORE_EVERY
from tertulia._rules.routing_costs import LINES
from tertulia.engines.base import Commit, Put
from tertulia.errors import (
    EncodeError,
    EngineError,
    InvalidHintError,
    InvalidInputError,
    InvalidNameError,
    InvalidTopicError,
    KeyNotFoundError,
    UnknownAgentError,
    UnknownHintError,
)
from tertulia.patterns._routing_profile import PROFILES, SAVE_EVERY
from tertulia.testing.conformance import SpaceHarness

LIMIT = 10  # seconds of real time for what happens at once unless something is broken
TEAM = ("ann", "bob", "eve")
CONTENT = {"kind": "note", "lines": [{"number": number, "text": "é" * 40} for number in range(50)], "none": None}
PUSHED = (Channel.MESSAGE, Channel.POINTER)
TARGETS: dict[str, Any] = {"one": "bob", "several": ["bob", "eve"], "topic": "topic:news.all"}


@pytest.fixture(autouse=True)
def alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let routers start from the same costs on every engine, so that what they decide does not hang on the engine."""
    for engine in LINES:
        monkeypatch.setitem(LINES, engine, LINES["memory"])


@pytest.fixture
async def team(space: Space) -> Space:
    """A space with three agents, two of whom listen to news."""
    for agent in TEAM:
        await space.broker.register_agent(agent)
    for agent in TEAM[1:]:
        await space.broker.subscribe(agent, "news.*")
    return space


@pytest.fixture
async def router(team: Space) -> IntelligentRouter:
    return IntelligentRouter(team)


async def received(space: Space, agent: str) -> list[Any]:
    """Take all that waits in an agent's mailbox."""
    found: list[Any] = []
    while (delivery := await space.broker.receive(agent, timeout=0)) is not None:
        found.append(delivery.message.content)
        await delivery.acknowledge()
    return found


async def nothing_is_stored(space: Space) -> None:
    for agent in TEAM:
        assert await space.broker.peek(agent) == []
    for prefix in ("routed:", "_tertulia:content:", "_tertulia:pointers:"):
        assert (await space.engine.scan(prefix))[1] == []


# --- the same content by every channel ------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("channel", PUSHED)
async def test_handlers_see_the_same_content_by_message_and_by_pointer(
    router: IntelligentRouter, channel: Channel, target: str
) -> None:
    seen: asyncio.Queue[tuple[str, Message]] = asyncio.Queue()
    agents = [MessagePassingAgent(name, router.space.broker) for name in TEAM[1:]]
    for agent in agents:
        agent.on_message("default")(lambda message, *, name=agent.agent_id: seen.put_nowait((name, message)))
    wanted = TEAM[1:2] if target == "one" else TEAM[1:]
    result = await router.route("ann", TARGETS[target], CONTENT, {"channel": channel})
    assert (result.channel, result.delivered, result.key) == (channel, len(wanted), None)
    async with agents[0], agents[1]:
        got = [await asyncio.wait_for(seen.get(), LIMIT) for _ in wanted]
    assert sorted(name for name, _ in got) == sorted(wanted)
    for _, message in got:
        assert (message.content, message.sender, message.id) == (CONTENT, "ann", result.message_id)
    await nothing_is_stored(router.space)


@pytest.mark.parametrize("target", TARGETS)
async def test_what_is_only_written_is_found_and_read_by_its_readers(router: IntelligentRouter, target: str) -> None:
    result = await router.route("ann", TARGETS[target], CONTENT, {"channel": "memory"})
    assert (result.channel, result.delivered) == (Channel.MEMORY, 0)
    assert result.key is not None
    for reader in TEAM[1:2] if target == "one" else TEAM[1:]:
        (found,) = await router.available("topic:news.all" if target == "topic" else reader)
        assert (found.key, found.sender) == (result.key, "ann")
        assert await router.read(found.key, reader=reader) == CONTENT
        assert await router.space.memory.read(found.key, reader=reader) == CONTENT
        assert await received(router.space, reader) == []
    assert await router.available("ann") == []


async def test_a_request_returns_the_reply_of_one_or_of_each(router: IntelligentRouter) -> None:
    agents = [MessagePassingAgent(name, router.space.broker) for name in TEAM[1:]]
    for agent in agents:
        agent.on_message("default")(lambda message, *, name=agent.agent_id: [name, len(message.content["lines"])])
    async with agents[0], agents[1]:
        one = await router.route("ann", "bob", CONTENT, {"reply": True})
        both = await router.route("ann", ["bob", "eve"], CONTENT, {"reply": LIMIT})
    assert (one.channel, one.reply) == (Channel.REQUEST, ["bob", 50])
    assert (both.channel, both.reply) == (Channel.REQUEST, {"bob": ["bob", 50], "eve": ["eve", 50]})


@dataclass
class Order:
    number: int
    text: str


@pytest.mark.parametrize("channel", PUSHED)
async def test_an_object_reaches_the_handler_of_its_class(router: IntelligentRouter, channel: Channel) -> None:
    agent = MessagePassingAgent("bob", router.space.broker)
    seen: asyncio.Queue[Any] = asyncio.Queue()

    @agent.on_message(Order)
    async def take(message: Message, transaction: DeliveryTransaction) -> None:
        transaction.write("order", message.content.number, owner="bob")
        seen.put_nowait(message.content)

    async with agent:
        await router.route("ann", "bob", Order(7, "x" * 5_000), {"channel": channel})
        assert await asyncio.wait_for(seen.get(), LIMIT) == Order(7, "x" * 5_000)


# --- which channel --------------------------------------------------------------------------------------


async def test_the_channel_follows_size_readers_reply_and_what_is_allowed(router: IntelligentRouter) -> None:
    crowd = [f"agent-{number}" for number in range(20)]
    for agent in crowd:
        await router.space.broker.register_agent(agent)
    large = "x" * 400_000

    async def chosen(receiver: Any, content: Any, **hints: Any) -> Channel:
        return (await router.decide("ann", receiver, content, hints)).channel

    assert await chosen("bob", "hello") is Channel.MESSAGE
    assert await chosen(crowd, "hello") is Channel.MESSAGE
    assert await chosen(crowd, large) is Channel.POINTER
    assert await chosen(crowd, "hello", latency="relaxed") is Channel.MEMORY
    assert await chosen("bob", large, reply=True) is Channel.REQUEST
    assert await chosen(crowd, large, durability="at_most_once") is Channel.MESSAGE
    await nothing_is_stored(router.space)  # a decision sends nothing


async def test_who_pays_nothing_for_bytes_keeps_less_in_memory(team: Space) -> None:
    dear = IntelligentRouter(team, price_per_byte=1e-3)
    assert (await dear.decide("ann", list(TEAM), "x" * 1_000)).channel is Channel.POINTER
    assert (await dear.decide("ann", list(TEAM), "x" * 1_000, {"latency": "low"})).channel is Channel.MESSAGE


# --- hints ------------------------------------------------------------------------------------------------


async def test_an_unknown_hint_is_named_with_those_that_are_known(router: IntelligentRouter) -> None:
    with pytest.raises(UnknownHintError) as caught:
        await router.route("ann", "bob", CONTENT, {"chanel": "memory"})
    assert caught.value.hint == "chanel"
    assert {"latency", "durability", "reply", "ttl", "channel"} <= set(caught.value.known)
    await nothing_is_stored(router.space)


BAD_HINTS: list[dict[Any, Any]] = [
    {"latency": "soon"},
    {"latency": []},
    {"durability": "for ever"},
    {"channel": "pigeon"},
    {"channel": None},
    {"reply": "yes"},
    {"reply": 0},
    {"reply": -1.0},
    {"ttl": 0},
    {"ttl": float("nan")},
    {"ttl": "1 h"},
    {"message_id": ""},
    {"message_id": 5},
    {"channel": "memory", "reply": True},
    {"channel": "pointer", "durability": "at_most_once"},
    {"channel": "memory", "durability": DeliveryMode.AT_MOST_ONCE},
    {"channel": "request", "reply": False},
    {"latency": "relaxed", "reply": True},
]


@pytest.mark.parametrize("hints", BAD_HINTS, ids=str)
async def test_a_hint_that_means_nothing_is_refused(hints: dict[Any, Any]) -> None:
    async with connect("memory:") as space:
        await space.broker.register_agent("bob")
        with pytest.raises(InvalidHintError) as caught:
            await IntelligentRouter(space).route("ann", "bob", CONTENT, hints)
        assert caught.value.hint in hints
        assert await space.broker.peek("bob") == []


BAD_ROUTES: list[tuple[type[Exception], Any, Any, Any, Any]] = [
    (InvalidNameError, "", "bob", 1, None),
    (InvalidNameError, "a:b", "bob", 1, None),
    (InvalidNameError, "ann", "", 1, None),
    (InvalidNameError, "ann", ["bob", "_x"], 1, None),
    (InvalidTopicError, "ann", "topic:*", 1, None),
    (InvalidInputError, "ann", [], 1, None),
    (InvalidInputError, "ann", 5, 1, None),
    (InvalidInputError, "ann", b"bob", 1, None),
    (InvalidInputError, "ann", [f"a{number}" for number in range(901)], 1, None),
    (InvalidInputError, "ann", "bob", 1, ["channel"]),
    (UnknownHintError, "ann", "bob", 1, {5: 1}),
    (InvalidInputError, "ann", "topic:x", 1, {"reply": True}),
    (EncodeError, "ann", "bob", object(), None),
    (EncodeError, "ann", ["bob"], object(), {"channel": "pointer"}),
    (EncodeError, "ann", ["bob"], {1: object()}, {"channel": "memory"}),
]


@pytest.mark.parametrize(("error", "sender", "receiver", "content", "hints"), BAD_ROUTES)
async def test_a_bad_route_stores_nothing(
    error: type[Exception], sender: Any, receiver: Any, content: Any, hints: Any
) -> None:
    async with connect("memory:") as space:
        for agent in TEAM:
            await space.broker.register_agent(agent)
        with pytest.raises(error):
            await IntelligentRouter(space).route(sender, receiver, content, hints)
        await nothing_is_stored(space)


@pytest.mark.parametrize("receiver", ["nobody", ["bob", "nobody"]], ids=["one", "among others"])
@pytest.mark.parametrize(
    "hints", [{"channel": channel} for channel in Channel] + [{"durability": "at_most_once"}], ids=str
)
async def test_an_unknown_receiver_is_an_error_and_nobody_gets_anything(
    router: IntelligentRouter, hints: dict[str, Any], receiver: Any
) -> None:
    with pytest.raises(UnknownAgentError):
        await router.route("ann", receiver, CONTENT, hints)
    await nothing_is_stored(router.space)


async def test_a_ttl_bounds_what_is_sent_and_what_is_kept(router: IntelligentRouter, harness: SpaceHarness) -> None:
    for channel in PUSHED:
        await router.route("ann", "bob", CONTENT, {"channel": channel, "ttl": 1})
    key = (await router.route("ann", "bob", CONTENT, {"channel": "memory", "ttl": 1})).key
    assert key is not None
    await harness.advance(3.5)
    assert await received(router.space, "bob") == []
    assert [letter.reason for letter in await router.space.broker.dead_letters("bob")] == ["expired", "expired"]
    assert await router.available("bob") == []
    with pytest.raises(KeyNotFoundError):
        await router.read(key, reader="bob")
    assert (await router.space.engine.scan("_tertulia:content:"))[1] == []


async def test_durability_is_the_message_s_delivery_mode(router: IntelligentRouter) -> None:
    for mode in (DeliveryMode.AT_LEAST_ONCE, DeliveryMode.EXACTLY_ONCE):
        await router.route("ann", "bob", CONTENT, {"durability": mode})
        (waiting,) = await router.space.broker.peek("bob")
        assert waiting.message.delivery_mode is mode
        await received(router.space, "bob")
    result = await router.route("ann", "bob", CONTENT, {"durability": "at_most_once"})
    assert result.channel is Channel.MESSAGE
    await nothing_is_stored(router.space)


async def test_read_is_for_what_was_routed(router: IntelligentRouter) -> None:
    await router.space.memory.write("own", 1, owner="ann")
    with pytest.raises(InvalidInputError):
        await router.read("own", reader="bob")


# --- nothing lost, nothing doubled ----------------------------------------------------------------------


@pytest.mark.parametrize("channel", [*PUSHED, Channel.MEMORY])
async def test_a_route_that_is_repeated_under_its_id_arrives_once(router: IntelligentRouter, channel: Channel) -> None:
    hints = {"channel": channel, "durability": "exactly_once", "message_id": "route-1"}
    first = await router.route("ann", ["bob", "eve"], CONTENT, hints)
    again = await router.route("ann", ["bob", "eve"], CONTENT, hints)
    assert (first.message_id, first.duplicate, again.message_id, again.duplicate) == ("route-1", False, "route-1", True)
    for agent in ("bob", "eve"):
        if channel is Channel.MEMORY:
            assert len(await router.available(agent)) == 1
        else:
            assert await received(router.space, agent) == [CONTENT]
    third = await router.route("ann", ["bob", "eve"], CONTENT, hints)
    assert third.duplicate
    decision = await router.decide("ann", ["bob", "eve"], CONTENT, hints)
    assert sum(estimate.observed for estimate in decision.estimates) == 1  # what stores nothing tells nothing of costs
    if channel is not Channel.MEMORY:
        await nothing_is_stored(router.space)


async def passing(harness: SpaceHarness, done: asyncio.Task[None]) -> None:
    """Let time pass until the task is done: what was put off comes back after a while."""
    for _ in range(200):
        if done.done():
            break
        await harness.advance(0.1)
    await asyncio.wait_for(done, LIMIT)


async def all_handled(space: Space, routes: int) -> asyncio.Task[None]:
    """Return a task that ends when so many are noted under `handled`; it watches already."""
    watching = asyncio.Event()

    async def watch() -> None:
        async with space.memory.watch("handled") as changes:
            watching.set()
            async for change in changes:
                if len(change.value) >= routes:
                    return

    task = asyncio.create_task(watch())
    await asyncio.wait_for(watching.wait(), LIMIT)
    return task


async def test_many_routes_by_mixed_channels_arrive_once_each_whoever_fails_on_the_way(
    router: IntelligentRouter, harness: SpaceHarness
) -> None:
    """Two processes handle one agent's messages, each third attempt fails, and the effects are counted in the space."""
    routes = 24
    spaces = [router.space, await harness.open_again()]
    agents = [MessagePassingAgent("bob", space.broker, max_attempts=50) for space in spaces]
    attempts = 0

    async def handle(message: Message, transaction: DeliveryTransaction) -> None:
        nonlocal attempts
        attempts += 1
        if attempts % 3 == 0:
            raise RetryLater(0.05)
        handled = await transaction.read("handled", reader="bob", default=[])
        transaction.write("handled", [*handled, message.content["number"]], owner="bob")

    done = await all_handled(router.space, routes)
    for agent in agents:
        agent.on_message("default")(handle)
    async with agents[0], agents[1]:
        for number in range(routes):
            content = {"number": number, "text": "x" * (10 if number % 2 else 3_000)}
            hints = {"channel": PUSHED[number % 2], "durability": "exactly_once", "message_id": f"route-{number}"}
            for _ in range(2):  # the sender is not sure that it has
                await router.route("ann", "bob", content, hints)
        await passing(harness, done)
    assert sorted(await router.space.memory.read("handled", reader="ann")) == list(range(routes))
    await nothing_is_stored(router.space)


# --- learning ---------------------------------------------------------------------------------------------


class Slowed:
    """A timer of a router, and what each way of sending takes by it: the calls are real, their times are made up."""

    def __init__(self, space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.seconds = {"send": 1e-5, "send_by_pointer": 1e-5, "write": 1e-5}
        for place, name in ((space.broker, "send"), (space.broker, "send_by_pointer"), (space.memory, "write")):
            monkeypatch.setattr(place, name, self._slow(name, getattr(place, name)))

    def __call__(self) -> float:
        return self.now

    def _slow(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        async def slow(*arguments: Any, **options: Any) -> Any:
            self.now += self.seconds[name]
            return await call(*arguments, **options)

        return slow


async def routed(router: IntelligentRouter, count: int, **hints: Any) -> list[Channel]:
    """Return the channels of so many routes, but for those that were made to explore."""
    channels: list[Channel] = []
    for _ in range(count):
        result = await router.route("ann", "bob", "x" * 3_000, hints)
        if not result.decision.explored:
            channels.append(result.channel)
        await received(router.space, "bob")
    return channels


async def test_what_has_become_dear_is_left_and_what_has_become_cheap_is_found_again(
    team: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowed = Slowed(team, monkeypatch)
    router = IntelligentRouter(team, timer=slowed)
    assert set(await routed(router, 10)) == {Channel.MESSAGE}
    slowed.seconds["send"] = 1.0
    await routed(router, 60)
    assert set(await routed(router, 10)) == {Channel.POINTER}
    slowed.seconds.update(send=1e-5, send_by_pointer=1.0)
    await routed(router, 120)
    assert set(await routed(router, 10)) == {Channel.MESSAGE}


async def test_what_is_learned_of_one_pair_and_size_stays_with_it(team: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    slowed = Slowed(team, monkeypatch)
    slowed.seconds["send"] = 1.0
    router = IntelligentRouter(team, timer=slowed)
    await routed(router, 30, channel="message")
    mine = (await router.decide("ann", "bob", "x" * 3_000)).estimates[0]
    another = (await router.decide("eve", "bob", "x" * 3_000)).estimates[0]
    larger = (await router.decide("ann", "bob", "x" * 30_000)).estimates[0]
    assert (mine.observed, another.observed, larger.observed) == (30, 0, 0)
    assert mine.cost > 10 * another.cost


async def test_how_often_readers_look_is_learned(router: IntelligentRouter) -> None:
    relaxed = {"latency": "relaxed", "channel": "memory"}
    unread = (await router.decide("ann", "bob", "x" * 3_000, relaxed)).estimates[2]
    keys = [(await router.route("ann", "bob", "x" * 3_000, relaxed)).key for _ in range(20)]
    rarely = (await router.decide("ann", "bob", "x" * 3_000, relaxed)).estimates[2]
    for key in keys:
        for _ in range(5):
            assert key is not None
            await router.read(key, reader="bob")
    often = (await router.decide("ann", "bob", "x" * 3_000, relaxed)).estimates[2]
    assert rarely.read < 0.2 * unread.read
    assert often.read > 3 * unread.read


async def test_a_content_that_is_there_already_costs_nothing_to_write(router: IntelligentRouter) -> None:
    pinned = {"channel": "pointer"}
    fresh = (await router.decide("ann", "bob", CONTENT, pinned)).estimates[1]
    for _ in range(20):
        await router.route("ann", "bob", CONTENT, pinned)
    known = (await router.decide("ann", "bob", CONTENT, pinned)).estimates[1]
    assert known.written < 0.5 * fresh.written


async def test_few_routes_explore_and_none_that_is_pinned(router: IntelligentRouter) -> None:
    decisions = [(await router.route("ann", "bob", "x" * 3_000)).decision for _ in range(4 * EXPLORE_EVERY)]
    assert sum(decision.explored for decision in decisions) <= 4
    await received(router.space, "bob")
    for number in range(2 * EXPLORE_EVERY):
        pinned = PUSHED[number % 2]
        result = await router.route("ann", "bob", "x" * 3_000, {"channel": pinned})
        assert (result.channel, result.decision.pinned, result.decision.explored) == (pinned, True, False)


# --- kept in the space -----------------------------------------------------------------------------------


async def test_what_was_learned_outlives_the_process(
    team: Space, harness: SpaceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowed = Slowed(team, monkeypatch)
    slowed.seconds["send"] = 1.0
    router = IntelligentRouter(team, timer=slowed)
    await routed(router, 30)
    await router.save()
    later = IntelligentRouter(await harness.open_again())
    decision = await later.decide("ann", "bob", "x" * 3_000)
    assert decision.channel is Channel.POINTER
    assert decision.estimates == (await router.decide("ann", "bob", "x" * 3_000)).estimates


async def test_what_several_processes_learn_is_added_up(team: Space, harness: SpaceHarness) -> None:
    routers = [IntelligentRouter(team), IntelligentRouter(await harness.open_again())]
    for router in routers:
        await router.decide("ann", "bob", CONTENT)  # both begin with what is there: nothing
    for place, router in enumerate(routers):
        for _ in range(10 + place):
            await router.route("ann", "bob", CONTENT, {"channel": "message"})
    await asyncio.gather(*(router.save() for router in routers))
    await asyncio.gather(*(router.save() for router in routers))
    report = await IntelligentRouter(team).report()
    assert report.pairs == ()  # it has asked for no sender yet
    third = IntelligentRouter(team)
    assert (await third.decide("ann", "bob", CONTENT)).estimates[0].observed == 21
    assert (await third.report()).routes[Channel.MESSAGE] == 21


async def test_it_is_written_down_every_so_often_without_being_asked(router: IntelligentRouter) -> None:
    for number in range(SAVE_EVERY):
        await router.route("ann", "bob", "hello")
        if number % 50 == 49:
            await received(router.space, "bob")
    for _ in range(100 * LIMIT):
        if (await router.space.engine.get(PROFILES + "ann")) is not None:
            break
        await asyncio.sleep(0.01)
    decision = await IntelligentRouter(router.space).decide("ann", "bob", "hello")
    assert sum(estimate.observed for estimate in decision.estimates) == SAVE_EVERY


async def test_figures_that_cannot_be_written_or_read_cost_no_route(
    router: IntelligentRouter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await router.route("ann", "bob", "hello")
    commit = router.space.engine.commit

    async def refuse(_: Commit) -> None:
        raise EngineError("the disk is full")

    monkeypatch.setattr(router.space.engine, "commit", refuse)
    await router.save()
    assert "could not be written down" in caplog.text
    monkeypatch.setattr(router.space.engine, "commit", commit)
    await router.save()
    again = IntelligentRouter(router.space)
    assert (await again.decide("ann", "bob", "hello")).estimates[0].observed == 1
    await router.space.engine.commit(Commit(puts=(Put(PROFILES + "eve", b"\xc1", ""),)))
    assert (await router.route("eve", "bob", "hello")).channel is Channel.MESSAGE
    assert "started over" in caplog.text


# --- what it says ----------------------------------------------------------------------------------------


async def test_a_decision_explains_itself_with_the_figures_of_each_channel(router: IntelligentRouter) -> None:
    decision = (await router.route("ann", ["bob", "eve"], CONTENT)).decision
    text = router.explain(decision)
    assert text.startswith(f"ann to bob, eve: about {decision.size:,} bytes for 2 by {decision.channel}")
    assert [line.strip().partition(":")[0] for line in text.splitlines()[1:]] == list(Channel)
    by_channel = {estimate.channel: estimate for estimate in decision.estimates}
    chosen = by_channel[decision.channel]
    assert f"{chosen.cost * 1e6:,.1f} µs" in text
    assert chosen.cost == min(estimate.cost for estimate in decision.estimates if not estimate.ruled_out)
    assert "relaxed" in by_channel[Channel.MEMORY].ruled_out
    for hints, reason in (
        ({"channel": "pointer"}, "a hint names the channel"),
        ({"reply": True}, "a reply is wanted"),
        ({"durability": "at_most_once"}, "no other channel is possible"),
    ):
        assert reason in router.explain(await router.decide("ann", "bob", CONTENT, hints))


async def test_the_report_counts_routes_and_estimates_costs_and_regret(
    team: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowed = Slowed(team, monkeypatch)
    slowed.seconds.update(send=1.0, write=0.001)
    router = IntelligentRouter(team, timer=slowed)
    await routed(router, 40)
    await routed(router, 5, channel="pointer")
    await routed(router, 3, latency="relaxed", channel="memory")
    report = await router.report()
    assert sum(report.routes.values()) == 48
    assert report.routes[Channel.MESSAGE] > 0
    assert report.routes[Channel.POINTER] > 5
    assert report.routes[Channel.MEMORY] == 3
    dearest = report.pairs[0]
    assert (dearest.sender, dearest.receivers, dearest.latency) == ("ann", "bob", Latency.NORMAL)
    assert sum(dearest.routes.values()) == 40  # those that were pinned are not the router's doing
    assert dearest.cheapest is Channel.POINTER
    wasted = dearest.routes[Channel.MESSAGE] * (dearest.costs[Channel.MESSAGE] - dearest.costs[Channel.POINTER])
    assert dearest.regret == pytest.approx(wasted)
    assert report.regret == pytest.approx(sum(pair.regret for pair in report.pairs))
    assert report.relative_regret == pytest.approx(report.regret / (report.cost - report.regret))
    assert report.fetched == sum(1 for _ in range(report.routes[Channel.POINTER]))
