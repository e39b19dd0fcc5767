"""Requests whose answers are kept: the sketch's `request_with_cache`, and what it got wrong."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from tertulia import CacheInfo, HybridCommunicationSystem, Message, MessagePassingAgent, Reject, Space
from tertulia.errors import (
    ComputeFailedError,
    ContentGoneError,
    InvalidInputError,
    LoopError,
    MailboxFullError,
    MessagingError,
    RemoteError,
    RequestTimeoutError,
    StreamBrokenError,
    TertuliaError,
    UnknownAgentError,
)
from tertulia.patterns._requests import fields_of, rebuilt, request_key
from tertulia.patterns.caching import CachedFailure
from tertulia.testing.conformance import SpaceHarness

TTL = 4.0  # seconds; short, since on some engines time really has to pass
LIMIT = 5  # seconds of real time for what happens at once unless something is broken


async def soon(awaitable: Any) -> Any:
    return await asyncio.wait_for(awaitable, LIMIT)


class Oracle:
    """An agent that is asked: it counts, waits until it may answer, and fails if told so."""

    def __init__(self, space: Space) -> None:
        self.asked: list[Any] = []
        self.senders: list[str] = []
        self.answers: dict[str, Any] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.agent = MessagePassingAgent("oracle", space.broker, concurrency=10)
        self.agent.on_message("default")(self.answer)

    async def answer(self, message: Message) -> Any:
        self.asked.append(message.content)
        self.senders.append(message.sender)
        await self.gate.wait()
        answer = self.answers.get(str(message.content), len(self.asked))
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def system(space: Space) -> HybridCommunicationSystem:
    return HybridCommunicationSystem(space)


@pytest.fixture
async def oracle(space: Space) -> AsyncIterator[Oracle]:
    oracle = Oracle(space)
    async with oracle.agent:
        yield oracle


async def test_a_question_is_asked_once_whoever_asks(
    harness: SpaceHarness, system: HybridCommunicationSystem, oracle: Oracle
) -> None:
    other = HybridCommunicationSystem(await harness.open_again())
    assert await soon(system.request_with_cache("ann", "oracle", {"q": "why", "n": 1})) == 1
    assert await soon(other.request_with_cache("bob", "oracle", {"n": 1, "q": "why"})) == 1
    assert await soon(system.request_with_cache("ann", "oracle", {"q": "why", "n": 2})) == 2
    assert (oracle.asked, oracle.senders) == ([{"q": "why", "n": 1}, {"q": "why", "n": 2}], ["ann", "ann"])
    assert (system.cache_info().computed, other.cache_info().hits) == (2, 1)


@pytest.mark.parametrize("falsy", [None, 0, "", [], False])
async def test_a_falsy_answer_is_not_asked_for_again(
    system: HybridCommunicationSystem, oracle: Oracle, falsy: object
) -> None:
    oracle.answers["q"] = falsy
    for _ in range(2):
        assert await soon(system.request_with_cache("ann", "oracle", "q")) == falsy
    assert oracle.asked == ["q"]


async def test_many_who_ask_at_once_ask_once(
    harness: SpaceHarness, system: HybridCommunicationSystem, oracle: Oracle
) -> None:
    other = HybridCommunicationSystem(await harness.open_again())
    oracle.gate.clear()
    asking = [
        asyncio.create_task(one.request_with_cache(name, "oracle", "q"))
        for one, name in [(system, "ann"), (other, "bob")] * 10
    ]
    await harness.advance(0)
    oracle.gate.set()
    assert await soon(asyncio.gather(*asking)) == [1] * 20
    assert oracle.asked == ["q"]


async def test_a_key_of_ones_own_replaces_the_one_made_of_the_content(
    system: HybridCommunicationSystem, oracle: Oracle
) -> None:
    assert await soon(system.request_with_cache("ann", "oracle", "q", key="for ann", tags=["t"])) == 1
    assert await soon(system.request_with_cache("bob", "oracle", "another", key="for ann")) == 1
    assert await soon(system.request_with_cache("bob", "oracle", "q", key="for bob")) == 2
    assert await system.memory.list_keys("cache:*") == ["cache:for ann", "cache:for bob"]
    assert await system.invalidate(tag="t") == 1
    assert await soon(system.request_with_cache("ann", "oracle", "q", key="for ann")) == 3
    assert oracle.asked == ["q"] * 3


async def test_an_answer_is_asked_for_anew_once_its_time_is_over(
    harness: SpaceHarness, system: HybridCommunicationSystem, oracle: Oracle
) -> None:
    assert await soon(system.request_with_cache("ann", "oracle", "q", ttl=TTL)) == 1
    await harness.advance(TTL + 0.5)
    assert await soon(system.request_with_cache("ann", "oracle", "q", ttl=TTL, stale_while_revalidate=TTL)) == 2
    await harness.advance(TTL + 0.5)
    assert await soon(system.request_with_cache("ann", "oracle", "q", ttl=TTL, stale_while_revalidate=TTL)) == 2
    await harness.advance(0)
    await harness.advance(0)
    assert await soon(system.request_with_cache("ann", "oracle", "q")) == 3
    assert oracle.asked == ["q"] * 3


class Weather(msgspec.Struct):
    place: str
    degrees: int


async def test_a_typed_question_reaches_its_handler_and_a_typed_answer_comes_back(
    system: HybridCommunicationSystem, oracle: Oracle
) -> None:
    @oracle.agent.on_message(Weather)
    async def forecast(message: Message) -> Weather:
        oracle.asked.append(message.content)
        return Weather(message.content.place, message.content.degrees + 1)

    headers = {"tertulia-type": "Weather"}
    for _ in range(2):
        answer = await soon(
            system.request_with_cache("ann", "oracle", Weather("Lugo", 20), headers=headers, type=Weather)
        )
        assert answer == Weather("Lugo", 21)
    assert oracle.asked == [Weather("Lugo", 20)]
    plain = {"place": "Lugo", "degrees": 20}
    assert await soon(system.request_with_cache("ann", "oracle", plain)) == 2  # another handler's answer
    del forecast


# --- failures ----------------------------------------------------------------------------------------


async def test_a_failing_handler_is_a_remote_error_for_everybody_who_asked(
    harness: SpaceHarness, system: HybridCommunicationSystem, oracle: Oracle, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "tertulia")
    other = HybridCommunicationSystem(await harness.open_again())
    oracle.answers["q"] = ValueError("no idea")
    oracle.gate.clear()
    asking = [asyncio.create_task(one.request_with_cache("ann", "oracle", "q")) for one in (system, other) * 3]
    await harness.advance(0)
    oracle.gate.set()
    for error in await soon(asyncio.gather(*asking, return_exceptions=True)):
        assert isinstance(error, RemoteError)
        assert (error.agent_id, error.kind, error.detail) == ("oracle", "ValueError", "no idea")
    assert oracle.asked == ["q"]
    oracle.answers["q"] = "an idea"
    assert await soon(other.request_with_cache("ann", "oracle", "q")) == "an idea"


async def test_a_cached_refusal_is_served_as_the_same_error_without_asking(
    harness: SpaceHarness, system: HybridCommunicationSystem, oracle: Oracle
) -> None:
    other = HybridCommunicationSystem(await harness.open_again())
    oracle.answers["q"] = Reject("not my field")
    for one in (system, other, system):
        with pytest.raises(RemoteError) as caught:
            await soon(one.request_with_cache("ann", "oracle", "q", negative_ttl=TTL))
        assert (caught.value.kind, caught.value.detail) == ("Reject", "not my field")
    assert oracle.asked == ["q"]
    await harness.advance(TTL + 0.5)
    oracle.answers["q"] = 7
    assert await soon(other.request_with_cache("ann", "oracle", "q")) == 7


async def test_a_request_to_nobody_is_refused_at_once(system: HybridCommunicationSystem) -> None:
    errors = await soon(
        asyncio.gather(
            *[system.request_with_cache("ann", "nobody", "q", timeout=3600.0) for _ in range(3)],
            return_exceptions=True,
        )
    )
    assert [type(error) for error in errors] == [UnknownAgentError] * 3
    assert errors[0].agent_id == "nobody"
    assert system.cache_info().failures == 1


async def test_a_full_mailbox_is_told_at_once(system: HybridCommunicationSystem) -> None:
    await system.register_agent("busy", max_queue_size=1)
    await system.broker.send(Message(receiver="busy"))
    with pytest.raises(MailboxFullError) as caught:
        await soon(system.request_with_cache("ann", "busy", "q", timeout=3600.0))
    assert caught.value.agent_id == "busy"


async def test_a_request_that_is_not_answered_ends_at_its_timeout_and_is_not_a_failure_of_the_others(
    harness: SpaceHarness, system: HybridCommunicationSystem, oracle: Oracle
) -> None:
    other = HybridCommunicationSystem(await harness.open_again())
    oracle.gate.clear()
    hasty = asyncio.create_task(system.request_with_cache("ann", "oracle", "q", timeout=1.0))
    await harness.advance(0)
    patient = [asyncio.create_task(one.request_with_cache("bob", "oracle", "q")) for one in (system, other)]
    await harness.advance(1.5)
    with pytest.raises(RequestTimeoutError) as caught:
        await soon(hasty)
    assert (caught.value.receiver, caught.value.timeout) == ("oracle", 1.0)
    oracle.gate.set()
    answers = await soon(asyncio.gather(*patient))
    assert answers[0] == answers[1]
    assert system.cache_info().failures + other.cache_info().failures == 0


async def test_bad_input_is_refused_before_anything_is_sent(system: HybridCommunicationSystem, oracle: Oracle) -> None:
    for wrong in (("a:b", "oracle", "q"), ("ann", "", "q"), ("ann", "oracle", object())):
        with pytest.raises(InvalidInputError):
            await system.request_with_cache(*wrong)
    every: list[dict[str, Any]] = [{"timeout": 0}, {"timeout": None}, {"ttl": 0}, {"key": ""}]
    for options in every:
        with pytest.raises(InvalidInputError):
            await system.request_with_cache("ann", "oracle", "q", **options)
    assert oracle.asked == []
    assert system.cache_info() == CacheInfo()


# --- keys and errors as data -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "another"),
    [
        (1, True),
        (1, 1.0),
        (0, False),
        ("1", 1),
        (None, 0),
        ("a", b"a"),
        ([1, 2], [2, 1]),
        ([], {}),
        ([[]], [{}]),
        ({"a": 1}, [["a", 1]]),
        ({1: "a"}, {"1": "a"}),
        ({"a": {"b": 1}}, {"a": {"b": 2}}),
        ([0, [["a", 1]]], {"a": 1}),
    ],
)
def test_contents_that_differ_have_keys_that_differ(one: object, another: object) -> None:
    assert request_key("oracle", one, None, 1000) != request_key("oracle", another, None, 1000)
    assert request_key("oracle", one, None, 1000) == request_key("oracle", one, None, 1000)


def test_equal_contents_have_one_key_and_other_receivers_and_types_another() -> None:
    key = request_key("oracle", {"a": [{"x": 1, "y": 2}], 1: 2}, None, 1000)
    assert key == request_key("oracle", {1: 2, "a": ({"y": 2, "x": 1},)}, {}, 1000)
    assert key != request_key("other", {"a": [{"x": 1, "y": 2}], 1: 2}, None, 1000)
    assert key != request_key("oracle", {"a": [{"x": 1, "y": 2}], 1: 2}, {"tertulia-type": "T"}, 1000)
    assert key.startswith("request:oracle:")


def every_kind_of(kind: type[Exception]) -> list[type[Exception]]:
    return [kind, *[each for child in kind.__subclasses__() for each in every_kind_of(child)]]


EXAMPLES: list[MessagingError] = [
    RemoteError("oracle", "ValueError", "no idea"),
    UnknownAgentError("nobody"),
    MailboxFullError("busy", 7),
    LoopError("oracle", ("ann", "oracle", "ann")),
    StreamBrokenError("oracle", 3, 5),
    ContentGoneError("key", "its time is over"),
    MessagingError("'oracle' does not take messages now"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_a_messaging_error_is_rebuilt_from_data_as_it_was(error: MessagingError) -> None:
    failure = CachedFailure(
        flight=1, computed_by="ann", kind=type(error).__name__, detail=str(error), fields=fields_of(error)
    )
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(failure), type=CachedFailure)
    again = rebuilt(stored)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_every_messaging_error_but_a_timeout_can_be_rebuilt() -> None:
    assert {type(error) for error in EXAMPLES} == set(every_kind_of(MessagingError)) - {RequestTimeoutError}


def test_other_errors_are_told_as_failures_of_the_computation() -> None:
    class RemoteError(TertuliaError):  # not the library's own
        pass

    for error in (RemoteError("x"), ValueError("x")):
        failure = CachedFailure(
            flight=1, computed_by="ann", kind=type(error).__name__, detail="x", fields=fields_of(error)
        )
        assert rebuilt(failure) is None
        assert isinstance(failure.as_error("k"), ComputeFailedError)
