"""`tertulia run` keeps agents running, shares work among their processes, and stops without losing a message."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tertulia import MessagePassingAgent, Space, connect
from tests.processes.running import LONGEST, Command, alive, children, gone, running

MODULE = '''
import asyncio, os, sys, time
from tertulia import Message, MessagePassingAgent, Space

class Agent(MessagePassingAgent):
    """An agent that lets the test know when it takes no more messages."""

    space: Space

    async def stop(self, **values) -> None:
        stopping = asyncio.ensure_future(super().stop(**values))
        await asyncio.sleep(0)
        await self.space.memory.write("stopping", True, owner=self.agent_id)
        await stopping

def make(space: Space, name: str) -> MessagePassingAgent:
    agent = Agent(name, space.broker, lease=60.0)  # what a killed process holds stays lost for the test
    agent.space = space

    @agent.on_message("default")
    async def handle(message: Message) -> object:
        return await DOES[message.content](space, agent)

    return agent

async def tell(space, agent):
    return os.getpid()

async def meet(space, agent):
    """End when another process is here too."""
    async with space.memory.watch("met:*") as changes:
        await space.memory.write(f"met:{os.getpid()}", True, owner=agent.agent_id)
        while len(await space.memory.list_keys("met:*")) < 2:
            await anext(changes)
    return os.getpid()

async def begin(space, agent):
    await space.memory.write("begun", os.getpid(), owner=agent.agent_id)

async def wait(space, agent):
    """Take until somebody writes "go on"."""
    async with space.memory.watch("go on") as changes:
        await begin(space, agent)
        await anext(changes)
    await space.memory.write("finished", os.getpid(), owner=agent.agent_id)

async def hang(space, agent):
    await begin(space, agent)
    await asyncio.Event().wait()

async def block(space, agent):
    await begin(space, agent)
    time.sleep(1000)

async def crash(space, agent):
    os._exit(7)

async def go_home(space, agent):
    await MessagePassingAgent.stop(agent)  # which knows that it is called by a handler, and does not wait for it

DOES = {name: globals()[name] for name in ("tell", "meet", "wait", "hang", "block", "crash", "go_home")}

def agent(space):
    return make(space, "ana")

async def team(space):
    return [make(space, "ana"), make(space, "ben")]

both = [agent, lambda space: make(space, "ben")]

async def main(space):
    print("main", "begins")
    try:
        await begin(space, agent(space))
        await asyncio.Event().wait()
    finally:
        await space.memory.write("cleaned up", True, owner="main")

async def once(space):
    await space.memory.write("done", True, owner="once")

async def doomed(space):
    print("\\N{skull}" * 3, "x" * 200_000, file=sys.stderr)
    raise RuntimeError("it never works")

number = 5
nothing = []
def needy(space, more): ...
async def wrong(space): return 7
'''

PLAIN = """
import os
from tertulia.blocking import MessagePassingAgent, connect

space = connect()
agent = MessagePassingAgent("ana", space.broker)

@agent.on_message("default")
def handle(message):
    return os.getpid()
"""


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "team.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.delenv("TERTULIA_URL", raising=False)
    return f"file:{tmp_path}/space.db"


@pytest.fixture
async def space(url: str) -> AsyncIterator[Space]:
    async with connect(url) as space:
        yield space


@pytest.fixture
def tester(space: Space) -> MessagePassingAgent:
    return MessagePassingAgent("tester", space.broker)


async def written(space: Space, key: str) -> object:
    """Wait for a key, and return its value."""
    async with asyncio.timeout(LONGEST), space.memory.watch(key) as changes:
        if (value := await space.memory.read(key, reader="tester")) is None:
            value = (await anext(changes)).value
    return value


async def states(space: Space, agent: str = "ana") -> list[tuple[object, str, int]]:
    """What is in a mailbox: each message's content, its state, and how often it has failed."""
    return [(item.message.content, item.state, item.failures) for item in await space.broker.peek(agent)]


# --- Keeping them running ------------------------------------------------------------------------


async def test_a_process_that_is_killed_is_started_again_and_goes_on(
    tmp_path: Path, url: str, tester: MessagePassingAgent
):
    async with running(tmp_path, "team:agent", "--url", url) as command:
        first = await command.runs("ana")
        assert await tester.request("ana", "tell") == first
        os.kill(first, signal.SIGKILL)
        await command.line(r"ana \| was killed by SIGKILL; it starts again in 0\.1 s \(restart 1 of 10 in a row\)")
        second = await command.runs("ana")
        assert await tester.request("ana", "tell") == second != first
        os.kill(second, signal.SIGTERM)  # by somebody who wants this one to begin anew
        await command.line(r"ana \| ended with exit code 143; it starts again")


async def test_a_crash_loop_ends_with_an_error_and_takes_the_others_along(
    tmp_path: Path, url: str, space: Space, tester: MessagePassingAgent
):
    async with running(tmp_path, "team:team", "--url", url, "--max-restarts", "1") as command:
        await command.runs("ben")
        for _ in range(2):
            await tester.send("ana", "crash")
        code = await command.ended()

    assert code == 1
    assert command.said[-1] == (
        "tertulia run: ana ended with exit code 7; it has died 2 times in a row, each time within 30 s, "
        "so it is not started again"
    )
    assert len([line for line in command.said if "runs in process" in line]) == 3
    assert len(await states(space)) == 2, "nothing is lost"


async def test_a_function_that_fails_is_tried_again_and_its_traceback_is_shown(tmp_path: Path, url: str):
    async with running(tmp_path, "team:doomed", "--url", url, "--max-restarts", "1") as command:
        assert await command.ended() == 1
    said = "\n".join(command.said)
    assert said.count("team:doomed | RuntimeError: it never works") == 2
    assert "in doomed" in said
    assert "team:doomed | \N{SKULL}\N{SKULL}\N{SKULL} xxx" in said
    assert sum(len(line) for line in command.said if "xxxx" in line) > 2 * 200_000, "nothing of a long line is lost"


async def test_several_processes_of_an_agent_share_its_work(tmp_path: Path, url: str, tester: MessagePassingAgent):
    async with running(tmp_path, "team:agent", "--url", url, "--processes", "2") as command:
        await command.runs("ana/1")
        meeting = [asyncio.create_task(tester.request("ana", "meet")) for _ in range(2)]
        async with asyncio.timeout(LONGEST):
            assert len(set(await asyncio.gather(*meeting))) == 2


@pytest.mark.parametrize("target", ["team:team", "team:both"])
async def test_each_agent_of_a_list_has_a_process_of_its_own(
    tmp_path: Path, url: str, tester: MessagePassingAgent, target: str
):
    async with running(tmp_path, target, TERTULIA_URL=url) as command:
        pids = {name: int(pid) for name, pid in [await process(command), await process(command)]}
        assert pids == {name: await tester.request(name, "tell") for name in ("ana", "ben")}
        assert len({*pids.values(), command.process.pid}) == 3


async def test_an_agent_of_a_plain_module_without_async_runs_too(tmp_path: Path, url: str, tester: MessagePassingAgent):
    (tmp_path / "plain.py").write_text(PLAIN, encoding="utf-8")
    async with running(tmp_path, "plain:agent", "--url", url) as command:
        pid = await command.runs("ana")
        assert await tester.request("ana", "x") == pid
        command.send(signal.SIGTERM)
        assert await command.ended() == 0
    assert len(command.said) == 2, "it stops without a complaint"


# --- Stopping ------------------------------------------------------------------------------------


async def test_stopping_lets_the_message_in_hand_be_finished_and_takes_no_other(
    tmp_path: Path, url: str, space: Space, tester: MessagePassingAgent
):
    async with running(tmp_path, "team:agent", "--url", url, "--grace", "60") as command:
        pid = await command.runs("ana")
        await tester.send("ana", "wait")
        await tester.send("ana", "tell")
        assert await written(space, "begun") == pid
        command.send(signal.SIGTERM)
        await command.line("stopping: messages in hand are finished, within 60 s")
        await written(space, "stopping")
        assert await space.memory.read("finished", reader="tester") is None
        await space.memory.write("go on", "now", owner="tester")
        assert await command.ended() == 0
    assert await space.memory.read("finished", reader="tester") == pid
    assert await states(space) == [("tell", "waiting", 0)]
    assert not alive(pid)


async def test_a_handler_that_hangs_is_cancelled_at_the_grace_time_and_its_message_delivered_again(
    tmp_path: Path, url: str, space: Space, tester: MessagePassingAgent
):
    async with running(tmp_path, "team:agent", "--url", url, "--grace", "0.3") as command:
        await command.runs("ana")
        await tester.send("ana", "hang")
        await written(space, "begun")
        command.send(signal.SIGTERM)
        assert await command.ended() == 0
    assert await states(space) == [("hang", "waiting", 0)], "at once, long before its lease has run out"
    again = await space.broker.receive("ana", timeout=0)
    assert again is not None
    assert again.attempt == 2


async def test_a_second_ctrl_c_gives_messages_back_at_once(
    tmp_path: Path, url: str, space: Space, tester: MessagePassingAgent
):
    async with running(tmp_path, "team:agent", "--url", url, "--grace", "600") as command:
        pid = await command.runs("ana")
        await tester.send("ana", "hang")
        await written(space, "begun")
        command.send(signal.SIGINT)
        await command.line("stopping: messages in hand are finished, within 600 s")
        assert alive(pid)
        command.send(signal.SIGINT)
        await command.line("stopping now: messages in hand are given back")
        assert await command.ended() == 130
    assert await states(space) == [("hang", "waiting", 0)]


async def test_what_cannot_be_cancelled_ends_all_the_same_and_is_not_called_a_success(
    tmp_path: Path, url: str, space: Space, tester: MessagePassingAgent
):
    async with running(tmp_path, "team:agent", "--url", url, "--grace", "0") as command:
        pid = await command.runs("ana")
        await tester.send("ana", "block")
        await written(space, "begun")
        command.send(signal.SIGTERM)
        assert await command.ended() == 1
    assert "1 process did not stop properly" in command.said[-1]
    assert "ana | it has not stopped within 2 s, so it ends as it is" in "\n".join(command.said)
    assert not alive(pid)
    assert await states(space) == [("block", "leased", 0)], "it comes back when its lease runs out"


async def test_what_is_stopped_while_it_starts_stops(tmp_path: Path, url: str):
    async with running(tmp_path, "team:team", "--url", url, "--processes", "2") as command:
        async with asyncio.timeout(LONGEST):
            while not (starting := children(command.process.pid)):  # noqa: ASYNC110 - nobody tells of a start
                await asyncio.sleep(0.005)
        command.send(signal.SIGTERM)
        assert await command.ended() == 0
    assert not any(map(alive, starting))


async def test_a_third_signal_kills(tmp_path: Path, url: str, space: Space, tester: MessagePassingAgent):
    async with running(tmp_path, "team:agent", "--url", url) as command:
        pid = await command.runs("ana")
        await tester.send("ana", "block")
        await written(space, "begun")
        for said in ("stopping:", "stopping now:", "killing what is left"):
            command.send(signal.SIGTERM)
            await command.line(said)
        assert await command.ended() == 1
    assert "was killed by SIGKILL while it was to stop" in "\n".join(command.said)
    assert not alive(pid)


async def test_when_the_supervisor_is_killed_its_processes_finish_and_end(
    tmp_path: Path, url: str, space: Space, tester: MessagePassingAgent
):
    async with running(tmp_path, "team:agent", "--url", url, "--processes", "2") as command:
        pids = {int((await process(command))[1]) for _ in range(2)}
        await tester.send("ana", "wait")
        busy = await written(space, "begun")
        command.send(signal.SIGKILL)
        await command.process.wait()
        for pid in pids - {busy}:
            await gone(pid)
        assert alive(int(str(busy)))
        await space.memory.write("go on", "now", owner="tester")
        await gone(int(str(busy)))
    assert await space.memory.read("finished", reader="tester") == busy
    assert await states(space) == []


async def process(command: Command) -> tuple[str, str]:
    """Wait for the next process that runs; return its name and number."""
    name, pid = (await command.line(r" (\S+) \| runs in process (\d+)$")).groups()
    return name, pid


# --- Functions that do their work themselves -----------------------------------------------------


async def test_a_main_is_cancelled_on_ctrl_c_and_cleans_up_and_what_it_prints_is_shown(
    tmp_path: Path, url: str, space: Space
):
    async with running(tmp_path, "team:main", "--url", url) as command:
        await written(space, "begun")
        command.send(signal.SIGINT)
        assert await command.ended() == 130
    assert await space.memory.read("cleaned up", reader="tester") is True
    assert any(line.endswith(" team:main | main begins") for line in command.said)


async def test_when_all_have_finished_so_has_the_command(tmp_path: Path, url: str, space: Space):
    async with running(tmp_path, "team:once", "--url", url) as command:
        assert await command.ended() == 0
    assert command.said[-1].endswith(" team:once | has finished")
    assert await space.memory.read("done", reader="tester") is True


async def test_an_agent_that_stops_itself_has_finished(tmp_path: Path, url: str, tester: MessagePassingAgent):
    async with running(tmp_path, "team:agent", "--url", url) as command:
        await command.runs("ana")
        await tester.send("ana", "go_home")
        assert await command.ended() == 0
    assert command.said[-1].endswith(" ana | has finished")


# --- What cannot be run --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["team:number"], "cannot run 'team:number': it is a value of type int, neither an agent nor a function of"),
        (["team:wrong"], "cannot run 'team:wrong': it made a value of type int, which is no agent"),
        (["team:agent", "--url", "memory:team"], "'memory:team' is a space of one process alone"),
        (["team:agent", "--url", "bogus:team"], "invalid space URL 'bogus:team'"),
    ],
)
async def test_what_can_never_run_is_one_line_and_exit_code_2(
    tmp_path: Path, url: str, arguments: list[str], problem: str
):
    async with running(tmp_path, *arguments, TERTULIA_URL=url) as command:
        assert await command.ended() == 2
    assert command.said[-1].startswith(f"tertulia run: {problem}")
    assert "Traceback" not in "\n".join(command.said)
    assert "starts again" not in "\n".join(command.said)


async def test_a_module_that_cannot_be_imported_is_shown_with_its_traceback_and_not_tried_again(
    tmp_path: Path, url: str
):
    (tmp_path / "broken.py").write_text("def agent(space): ...\nmissing.name\n", encoding="utf-8")
    async with running(tmp_path, "broken:agent", "--url", url) as command:
        assert await command.ended() == 1
    assert command.said[-1] == ("tertulia run: importing 'broken' failed with NameError: name 'missing' is not defined")
    assert any('broken.py", line 2' in line for line in command.said)
    assert "starts again" not in "\n".join(command.said)


async def test_the_module_in_the_reference_runs(tmp_path: Path, url: str, tester: MessagePassingAgent):
    page = (Path(__file__).parents[2] / "docs" / "reference" / "run.md").read_text(encoding="utf-8")
    (tmp_path / "team.py").write_text(page.split('```python title="team.py"\n')[1].split("```")[0], encoding="utf-8")
    command_line = page.split("```sh\n")[1].split("```")[0].split()
    assert command_line[:2] == ["tertulia", "run"]
    async with running(tmp_path, *command_line[2:], "--url", url) as command:
        await command.line("runs in process")
        assert await tester.request("analyst", {"type": "question"}) == {"answer": 42}


async def test_a_number_of_processes_that_cannot_be_is_refused(tmp_path: Path, url: str):
    async with running(tmp_path, "team:agent", "--url", url, "--processes", "0") as command:
        assert await command.ended() == 2
    assert "--processes" in "\n".join(command.said)
