"""The instrument counts exactly what was done, and the sums and sentences say what was counted."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from tertulia import DeliveryMode, Message, MessagePassingAgent, Space, connect
from tertulia.compare.conclusion import conclude, conclude_across
from tertulia.compare.measuring import Meter
from tertulia.compare.recordings import AgentFigures, Arrival, Recording, figures_of, percentile
from tertulia.compare.results import Measured, Paradigm, Spread, StageResult
from tertulia.compare.summary import summarise
from tertulia.compare.teams import Played
from tertulia.compare.units import bytes_text, percent_text, range_text, seconds_text
from tertulia.errors import KeyExistsError, VersionConflictError

LONGEST = 10  # seconds; nothing here takes a tenth of one
VALUE = {"mood": "good", "notes": ["a", "b"]}
SIZE = len(msgspec.msgpack.encode(VALUE))


class Script:
    """A space that several measured agents share, and the meter that measures them."""

    def __init__(self, name: str) -> None:
        ticks = itertools.count()
        self.meter = Meter(clock=lambda: float(next(ticks)))  # every look at it is one second later
        self._url = f"memory:{name}"

    @asynccontextmanager
    async def agent(self, name: str) -> AsyncIterator[Space]:
        async with self.meter.space(await connect(self._url), name) as space:
            yield space

    @property
    def agents(self) -> dict[str, AgentFigures]:
        return figures_of([self.meter.recording])

    def counts(self, agent: str) -> dict[str, int]:
        return {kind: figures.count for kind, figures in self.agents[agent].operations.items()}

    def seconds(self, agent: str, kind: str) -> list[float]:
        return self.agents[agent].operations[kind].seconds


@pytest.fixture
def script(request: pytest.FixtureRequest) -> Script:
    return Script(request.node.name)


# --- Memory --------------------------------------------------------------------------------------


async def test_writes_and_reads_are_counted_with_their_bytes_and_belong_to_who_made_them(script: Script):
    async with script.agent("writer") as writer, script.agent("reader") as reader:
        for key in ("a", "b", "c"):
            await writer.memory.write(key, VALUE, owner="writer")
        await writer.memory.create("d", VALUE, owner="writer")
        await writer.memory.delete("d", requester="writer")
        for _ in range(2):
            assert await reader.memory.read("a", reader="reader") == VALUE
        assert await reader.memory.read("nothing", reader="reader") is None
        assert len(await reader.memory.list_keys("*")) == 3
        assert len([entry async for entry in reader.memory.entries("*")]) == 3

    assert script.counts("writer") == {"write": 5}
    assert script.agents["writer"].bytes_written == 4 * SIZE
    assert script.agents["writer"].bytes_read == 0
    assert script.counts("reader") == {"read": 3, "list": 2}
    assert script.agents["reader"].bytes_read == (2 + 3) * SIZE, "keys alone are no bodies"
    assert script.agents["reader"].bytes_written == 0


async def test_each_call_has_one_latency_and_it_is_the_time_between_its_begin_and_end(script: Script):
    async with script.agent("writer") as writer:
        await writer.memory.write("a", VALUE, owner="writer")
        await writer.memory.modify("a", lambda value: value, updater="writer")

    assert script.seconds("writer", "write") == [1.0, 1.0]
    assert script.seconds("writer", "read") == [1.0]


async def test_a_lost_race_is_counted_timed_and_called_refused_but_writes_no_bytes(script: Script):
    async with script.agent("writer") as writer:
        await writer.memory.create("a", VALUE, owner="writer")
        with pytest.raises(KeyExistsError):
            await writer.memory.create("a", VALUE, owner="writer")
        with pytest.raises(VersionConflictError):
            await writer.memory.update("a", VALUE, updater="writer", expected_version=7)

    figures = script.agents["writer"]
    assert figures.operations["write"].count == 3
    assert figures.operations["write"].refused == 2
    assert len(figures.operations["write"].seconds) == 3
    assert figures.bytes_written == SIZE


async def test_a_change_that_is_waited_for_takes_from_its_commit_until_it_is_noticed(script: Script):
    async with (
        script.agent("writer") as writer,
        script.agent("watcher") as watcher,
        watcher.memory.watch("*") as changes,
    ):
        noticed = asyncio.create_task(anext(changes))
        await asyncio.sleep(0)  # it asks now, and waits
        for _ in range(50):
            script.meter.clock()  # an idle wait, which is nobody's latency
        await writer.memory.write("a", VALUE, owner="writer")
        assert (await asyncio.wait_for(noticed, LONGEST)).value == VALUE

    assert script.counts("watcher") == {"watch": 1, "notice": 1}
    assert script.seconds("watcher", "notice") == [2.0], "from the begin of the write, which ends after 1"
    assert script.agents["watcher"].changes_noticed == 1
    assert script.agents["watcher"].bytes_read == SIZE


async def test_a_change_that_lies_there_takes_from_when_it_is_asked_for(script: Script):
    async with (
        script.agent("writer") as writer,
        script.agent("watcher") as watcher,
        watcher.memory.watch("*") as changes,
    ):
        await writer.memory.write("a", VALUE, owner="writer")
        await writer.memory.delete("a", requester="writer")
        for _ in range(50):
            script.meter.clock()  # a busy watcher
        await anext(changes)
        await anext(changes)

    assert script.seconds("watcher", "notice") == [1.0, 1.0]
    assert script.agents["watcher"].changes_noticed == 2
    assert script.agents["watcher"].bytes_read == SIZE, "a delete carries no value"


# --- Messages ------------------------------------------------------------------------------------


async def test_sent_received_and_acknowledged_messages_are_counted_with_their_bytes(script: Script):
    async with script.agent("sender") as sender, script.agent("receiver") as receiver:
        await receiver.broker.register_agent("receiver")
        for _ in range(3):
            await sender.broker.send(Message(sender="sender", receiver="receiver", content=VALUE))
        for _ in range(3):
            delivery = await receiver.broker.receive("receiver", timeout=LONGEST)
            assert delivery is not None
            await delivery.acknowledge()
        assert await receiver.broker.receive("receiver", timeout=0) is None

    written = script.agents["sender"].bytes_written
    assert script.counts("sender") == {"send": 3}
    assert script.counts("receiver") == {"set up": 2, "receive": 4, "acknowledge": 3}
    assert script.agents["receiver"].messages_received == 3
    assert script.agents["receiver"].bytes_read == written > 3 * SIZE
    assert len(script.seconds("receiver", "receive")) == 3, "what did not come has no latency"


async def test_an_idle_receiver_and_a_busy_one_have_the_same_latency(script: Script):
    async with script.agent("sender") as sender, script.agent("receiver") as receiver:
        await receiver.broker.register_agent("receiver")
        waiting = asyncio.create_task(receiver.broker.receive("receiver"))
        await asyncio.sleep(0)
        for _ in range(50):
            script.meter.clock()
        await sender.broker.send(Message(sender="sender", receiver="receiver", content=1))
        await asyncio.wait_for(waiting, LONGEST)
        await sender.broker.send(Message(sender="sender", receiver="receiver", content=2))
        for _ in range(50):
            script.meter.clock()
        await receiver.broker.receive("receiver", timeout=LONGEST)

    assert script.seconds("receiver", "receive") == [2.0, 1.0]


async def test_a_published_message_is_written_once_and_read_by_each_subscriber(script: Script):
    async with script.agent("sender") as sender, script.agent("first") as first, script.agent("second") as second:
        for name, space in (("first", first), ("second", second)):
            await space.broker.register_agent(name)
            await space.broker.subscribe(name, "news.*")
        await sender.broker.publish("news.today", Message(sender="sender", content=VALUE))
        for name, space in (("first", first), ("second", second)):
            assert await space.broker.receive(name, timeout=LONGEST) is not None

    written = script.agents["sender"].bytes_written
    assert script.agents["first"].bytes_read == script.agents["second"].bytes_read == written
    assert script.counts("first") == {"set up": 3, "receive": 1}


async def test_a_request_is_a_send_a_receive_one_commit_and_a_reply(script: Script):
    async with script.agent("client") as client, script.agent("server") as server:
        echo = MessagePassingAgent("echo", server.broker)
        echo.on_message("default")(lambda message: message.content)
        async with echo:
            assert await MessagePassingAgent("client", client.broker).request("echo", VALUE, timeout=LONGEST) == VALUE

    assert script.counts("client") == {"send": 1, "receive reply": 1}
    counts = script.counts("server")
    assert (counts["receive"], counts["send + acknowledge"]) == (1, 1)
    assert script.agents["client"].bytes_read == script.agents["server"].bytes_written
    assert script.agents["server"].bytes_read == script.agents["client"].bytes_written
    assert len(script.seconds("client", "receive reply")) == 1


async def test_a_commit_of_several_sorts_is_one_operation_named_after_them(script: Script):
    async with script.agent("agent") as space:
        await space.broker.register_agent("other")
        async with space.transaction() as transaction:
            transaction.write("a", VALUE, owner="agent")
            transaction.send(Message(sender="agent", receiver="other", content=VALUE))

    assert script.counts("agent") == {"set up": 2, "write + send": 1}


async def test_a_message_that_is_handed_over_at_most_once_is_counted_like_any_other(script: Script):
    async with script.agent("sender") as sender, script.agent("receiver") as receiver:
        await receiver.broker.register_agent("receiver")
        message = Message(sender="sender", receiver="receiver", content=VALUE, delivery_mode=DeliveryMode.AT_MOST_ONCE)
        await sender.broker.send(message)
        assert await receiver.broker.receive("receiver", timeout=LONGEST) is not None

    assert script.counts("sender") == {"send": 1}
    assert script.agents["receiver"].messages_received == 1
    assert script.agents["receiver"].bytes_read == script.agents["sender"].bytes_written


async def test_a_call_that_is_cancelled_under_way_is_no_operation(script: Script, monkeypatch: pytest.MonkeyPatch):
    async def never(*_: object) -> None:
        await asyncio.get_running_loop().create_future()

    async with await connect("memory:") as plain, script.meter.space(plain, "agent") as space:
        monkeypatch.setattr(plain.engine, "get", never)
        reading = asyncio.create_task(space.memory.read("a", reader="agent"))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading], timeout=LONGEST)

    assert reading.cancelled()
    assert script.counts("agent") == {}


async def test_a_cancelled_wait_is_no_operation(script: Script):
    async with script.agent("receiver") as receiver:
        await receiver.broker.register_agent("receiver")
        waiting = asyncio.create_task(receiver.broker.receive("receiver"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting], timeout=LONGEST)

    assert script.counts("receiver") == {"set up": 2}


# --- Several processes ---------------------------------------------------------------------------


def test_what_one_process_sent_and_another_got_is_put_together_whatever_comes_first():
    sender = Recording(sent={"m1": 1.0, "m2": 5.0}, commits=[(7, 10.0), (4, 8.0)])
    receiver = Recording(
        agents={"ana": AgentFigures()},
        arrivals=[
            Arrival("ana", "receive", 3.5, 2.0, ("m1",)),
            Arrival("ana", "receive", 5.5, 4.0, ("m2", "unknown")),
            Arrival("ana", "receive", 9.0, 8.0, ("unknown",)),
            Arrival("ana", "receive reply", 6.0, None, ("m2",)),
            Arrival("ana", "notice", 9.0, 0.0, revision=3),
            Arrival("ana", "notice", 11.0, 0.0, revision=5),
            Arrival("ana", "notice", 11.0, 0.0, revision=8),
        ],
    )
    for _ in range(3):
        receiver.agents["ana"].done("receive", None)
        receiver.agents["ana"].done("notice", None)
    receiver.agents["ana"].done("receive reply", None)

    figures = figures_of([receiver, sender])
    assert figures.keys() == {"ana"}
    assert figures["ana"].operations["receive"].seconds == [1.5, 0.5], "from when both were ready; unknown has none"
    assert figures["ana"].operations["receive reply"].seconds == [1.0]
    assert figures["ana"].operations["notice"].seconds == [1.0, 1.0], "each from the begin of the commit it was part of"
    assert figures["ana"].operations["notice"].count == 3
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(receiver), type=Recording) == receiver, "it can be handed over"


async def test_a_commit_that_changes_no_key_is_not_taken_for_the_one_that_made_the_revision(script: Script):
    async with script.agent("writer") as writer, script.agent("sender") as sender:
        await writer.broker.register_agent("ana")
        entry = await writer.memory.write("a", VALUE, owner="writer")
        async with sender.transaction() as transaction:
            transaction.send(Message(sender="sender", receiver="ana", content=1))
            transaction.send(Message(sender="sender", receiver="ana", content=2))
        await sender.memory.delete("absent", requester="sender")

    assert [revision for revision, _ in script.meter.recording.commits] == [entry.revision]


# --- Sums ----------------------------------------------------------------------------------------


def a_run(seconds: float, *, reads: int, size: int = 10, cpu: float = 0.0) -> Played:
    meter = Meter()
    for agent in ("scout", "reader 1", "reader 2"):
        figures = meter.figures(agent)
        for number in range(reads):
            figures.done("read", (number + 1) / 1000)
        figures.bytes_read = reads * size
    meter.figures("scout").done("write", 0.001, refused=True)
    return Played(result="report", seconds=seconds, cpu=cpu, recordings=(meter.recording,))


TEAM = ("scout", "reader 1", "reader 2", "critic")


def test_counts_are_those_of_the_middle_run_and_latencies_are_of_all_runs_together():
    measured = summarise(
        [a_run(2.0, reads=10, cpu=5.0), a_run(4.0, reads=30, cpu=7.0), a_run(3.0, reads=20, cpu=6.0)], TEAM
    )

    assert measured.wall.median == 3.0
    assert measured.wall.runs == (2.0, 4.0, 3.0)
    assert measured.cpu.median == 6.0
    assert measured.operations == 61
    assert measured.throughput == pytest.approx(61 / 3)
    assert measured.bytes_read == 600
    read, write = measured.kinds
    assert (read.kind, read.count, read.refused) == ("read", 60, 0)
    assert (write.kind, write.count, write.refused) == ("write", 1, 1)
    assert read.latency.samples == 180
    assert (read.latency.p50, read.latency.p99) == (0.010, 0.030)
    assert write.latency.p95 is None, "three samples say nothing about one in twenty"


def test_agents_of_one_role_are_summed_up():
    roles = {role.role: role for role in summarise([a_run(1.0, reads=5)], TEAM).roles}

    assert (roles["reader"].agents, roles["reader"].bytes_read, roles["reader"].operations) == (2, 100, 10)
    assert (roles["scout"].agents, roles["scout"].bytes_read, roles["scout"].operations) == (1, 50, 6)
    assert (roles["critic"].agents, roles["critic"].bytes_read) == (0, 0)
    assert list(roles) == ["scout", "reader", "critic", "office"], "in the team's order, who sets up last"


@pytest.mark.parametrize(
    ("count", "percent", "expected"),
    [
        (100, 50, 50),
        (100, 95, 95),
        (100, 99, 99),
        (1000, 99, 990),
        (101, 50, 51),
        (2, 50, 1),
        (1, 50, None),
        (99, 99, None),
        (19, 95, None),
        (20, 95, 19),
        (0, 50, None),
    ],
)
def test_a_percentile_is_a_sample_that_so_many_do_not_exceed_or_none_when_too_few(
    count: int, percent: float, expected: int | None
):
    shuffled = [float(number * 7919 % count) + 1 for number in range(count)]  # 7919 is prime, so each number comes once

    assert percentile(shuffled, percent) == expected


def test_the_spread_of_one_run_is_that_run_and_of_several_the_quartiles():
    assert Spread.of([2.0]) == Spread(median=2.0, lower_quartile=2.0, upper_quartile=2.0, runs=(2.0,))
    spread = Spread.of([5.0, 1.0, 2.0, 3.0, 400.0])
    assert (spread.lower_quartile, spread.median, spread.upper_quartile) == (2.0, 3.0, 5.0)


@pytest.mark.parametrize(
    ("show", "expected"),
    [
        (lambda: seconds_text(4.456), "4.46 s"),
        (lambda: seconds_text(123.4), "123 s"),
        (lambda: seconds_text(0.0123), "12.3 ms"),
        (lambda: seconds_text(0.000_999_9), "1.00 ms"),
        (lambda: seconds_text(0.000_95), "950 µs"),
        (lambda: seconds_text(4.7e-7), "470 ns"),
        (lambda: seconds_text(0.0), "0.00 ns"),
        (lambda: range_text(0.0629, 0.0492, 1.5), "49.2 to 1,500 ms"),
        (lambda: bytes_text(0), "0 B"),
        (lambda: bytes_text(999), "999 B"),
        (lambda: bytes_text(999.9), "1.00 kB"),
        (lambda: bytes_text(1_280_000), "1.28 MB"),
        (lambda: percent_text(0.004), "less than 1 %"),
        (lambda: percent_text(0.042), "4 %"),
    ],
)
def test_figures_are_shown_in_three_digits_and_a_unit(show: Callable[[], str], expected: str):
    assert show() == expected


# --- The sentence --------------------------------------------------------------------------------


def paradigm(name: str, job: list[float], alone: list[float]) -> Paradigm:
    def measured(runs: list[float]) -> Measured:
        return Measured(
            wall=Spread.of(runs),
            cpu=Spread.of(runs),
            throughput=0.0,
            operations=0,
            messages_received=0,
            changes_noticed=0,
            bytes_written=0,
            bytes_read=2_000,
            roles=(),
            kinds=(),
        )

    return Paradigm(name=name, job=measured(job), alone=measured(alone))


def test_runs_that_overlap_are_called_equal():
    said = conclude(
        paradigm("memory", [1.0, 1.1, 1.2], [0.010, 0.011, 0.012]),
        paradigm("messages", [1.1, 1.2, 1.3], [0.011, 0.012, 0.013]),
    )

    assert "both take the same time within the spread (communication is 1 % of the time" in said
    assert "communication alone shows no difference beyond the spread (11.0 ms through memory, 12.0 ms" in said
    assert said.endswith("and the agents read 2.00 kB and 2.00 kB.")


def test_two_runs_are_too_few_to_call_one_faster():
    said = conclude(paradigm("memory", [2.0, 2.0], [1.5] * 6), paradigm("messages", [1.0, 1.0], [0.5] * 6))

    assert "fewer than 3 runs each way cannot tell which is faster" in said
    assert "times as fast (communication" not in said


def test_a_difference_that_communication_explains_is_stated_with_its_size():
    said = conclude(
        paradigm("memory", [2.0, 2.0, 2.0], [1.5, 1.5, 1.5]), paradigm("messages", [1.0, 1.0, 1.0], [0.5, 0.5, 0.5])
    )

    assert "through messages the job is done 2.00 times as fast (communication is 75 % of the time" in said
    assert "communication alone is 3.0 times as fast through messages (1.50 s through memory, 500 ms" in said


def test_a_difference_that_communication_does_not_explain_is_not_credited_to_the_paradigm():
    said = conclude(
        paradigm("memory", [1.0, 1.0, 1.0], [0.010, 0.010, 0.010]),
        paradigm("messages", [2.0, 2.0, 2.0], [0.020, 0.020, 0.020]),
    )

    assert (
        "through shared memory the job is done 2.00 times as fast, but that is more than communication explains" in said
    )
    assert "do not rely on it" in said


def stage(engine: str, agents: str, factor: float, runs: int = 3) -> StageResult:
    memory = paradigm("memory", [1.0 * factor] * runs, [0.1 * factor] * 9)
    messages = paradigm("messages", [2.0 * factor] * runs, [0.4 * factor * factor] * 9)
    return StageResult(engine=engine, agents=agents, paradigms=(memory, messages), conclusion="")


def test_stages_are_set_beside_the_first_one():
    stages = [stage("memory", "tasks", 1.0), stage("file", "processes", 0.5), stage("file", "tasks", 3.0)]

    assert conclude_across(stages) == (
        "Beside tasks on memory, processes on file take 0.5 times (memory) and 0.25 times (messages) as long for "
        "communication alone, and 0.5 times (memory) and 0.5 times (messages) as long for the whole job. "
        "Beside tasks on memory, tasks on file take 3 times (memory) and 9 times (messages) as long for "
        "communication alone, and 3 times (memory) and 3 times (messages) as long for the whole job."
    )
    assert conclude_across(stages[:1]) == ""


def test_two_runs_say_nothing_about_the_whole_job_on_another_stage():
    assert "the whole job" not in conclude_across([stage("memory", "tasks", 1.0, 2), stage("file", "tasks", 2.0, 2)])
