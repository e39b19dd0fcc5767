"""The portal: how calls are interrupted, how spaces close, and what must not hang."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import pytest

import tertulia
from tertulia import Message, blocking
from tertulia.blocking import portal
from tertulia.errors import InvalidURLError, SpaceClosedError

LIMIT = 20  # seconds; a bound for waits that end at once unless something is broken


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("tertulia")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert ours() == []


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


class Waiter:
    """Something on the portal that waits until it is cancelled, and tells when it does."""

    def __init__(self, space: tertulia.Space) -> None:
        self.started = threading.Event()
        self.cancelled = threading.Event()
        self.released = threading.Event()
        self._space = space

    async def for_ever(self) -> None:
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()

    async def for_a_message(self) -> object:
        self.started.set()
        return await self._space.broker.receive("bob")

    async def for_a_reply(self) -> object:
        self.started.set()
        return await self._space.broker.request_response(Message(sender="ann", receiver="bob"))

    async def stubbornly(self) -> Waiter:
        """Return a result although it is cancelled."""
        with contextlib.suppress(asyncio.CancelledError):
            await self.for_ever()
        return self

    async def release(self) -> None:
        self.released.set()

    async def cancelled_within(self) -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async def __aenter__(self) -> Self:
        await self.stubbornly()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.released.set()


@pytest.fixture
def space() -> Iterator[blocking.Space]:
    with blocking.connect("memory:") as space:
        space.broker.register_agent("bob")
        yield space


@pytest.fixture
def waiter(space: blocking.Space) -> Any:
    return space.wrap(Waiter, space)


@pytest.fixture
def interrupted(waiter: Any, threads: ThreadPoolExecutor) -> Callable[[Callable[[], object]], None]:
    """Make a call in this thread, send it a signal as soon as it waits, and expect KeyboardInterrupt."""
    main = threading.main_thread().ident
    assert main is not None

    def send() -> None:
        assert waiter.started.wait(LIMIT)
        signal.pthread_kill(main, signal.SIGINT)

    def interrupt(call: Callable[[], object]) -> None:
        threads.submit(send)
        with pytest.raises(KeyboardInterrupt):
            call()

    return interrupt


# --- interruption ------------------------------------------------------------------------------------


def test_an_interrupted_call_is_cancelled_on_the_portal_and_the_space_goes_on(
    space: blocking.Space, waiter: Any, interrupted: Callable[..., None]
):
    interrupted(waiter.for_ever)

    assert waiter.cancelled.is_set()
    assert space.memory.list_keys() == []


@pytest.mark.timeout(LIMIT)
def test_a_call_that_is_interrupted_before_it_begins_ends_at_once(space: blocking.Space, monkeypatch: Any):
    session, _ = space.portal_parts()

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(portal, "CANCEL_GRACE", 1_000.0)
        patch.setattr(session.portal, "submit", interrupt)
        with pytest.raises(KeyboardInterrupt):
            space.memory.list_keys()

    assert space.memory.list_keys() == []


@pytest.mark.timeout(LIMIT)
def test_a_call_that_is_interrupted_before_its_first_step_ends_at_once(space: blocking.Space, monkeypatch: Any):
    start = portal.Call.start

    def interrupted(call: portal.Call) -> None:
        start(call)
        call._give_up()  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001 - what an interruption posts

    with monkeypatch.context() as patch:
        patch.setattr(portal.Call, "start", interrupted)
        with pytest.raises(CancelledError):
            space.memory.list_keys()

    assert space.memory.list_keys() == []


def test_an_interrupted_receive_holds_no_message(space: blocking.Space, waiter: Any, interrupted: Callable[..., None]):
    interrupted(waiter.for_a_message)
    space.broker.send(Message(sender="ann", receiver="bob"))
    delivery = space.broker.receive("bob", timeout=0)

    assert delivery is not None
    assert delivery.attempt == 1


def test_what_an_interrupted_call_takes_nevertheless_is_given_back(waiter: Any, interrupted: Callable[..., None]):
    interrupted(waiter.stubbornly)

    assert waiter.released.wait(LIMIT)


def test_what_is_interrupted_while_it_is_entered_is_left_again(waiter: Any, interrupted: Callable[..., None]):
    interrupted(waiter.__enter__)

    assert waiter.released.wait(LIMIT)


def test_an_interrupted_transaction_commits_nothing(
    space: blocking.Space, waiter: Any, interrupted: Callable[..., None]
):
    def write() -> None:
        with space.transaction() as tx:
            tx.write("a", 1, owner="ann")
            waiter.for_ever()

    interrupted(write)

    assert space.memory.list_keys() == []


def test_an_interrupted_run_stops_its_agent(space: blocking.Space, waiter: Any, interrupted: Callable[..., None]):
    agent = blocking.MessagePassingAgent("worker", space.broker)
    agent.on_message("default")(lambda _: waiter.started.set())
    space.broker.register_agent("worker")
    space.broker.send(Message(sender="ann", receiver="worker"))

    interrupted(agent.run)
    space.broker.send(Message(sender="ann", receiver="worker"))

    assert space.broker.queue("worker").size() == 1


def test_a_cancellation_inside_the_work_is_an_ordinary_exception_outside(waiter: Any):
    with pytest.raises(CancelledError):
        waiter.cancelled_within()


# --- closing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["for_ever", "for_a_message", "for_a_reply"])
def test_closing_ends_the_calls_that_other_threads_wait_for(
    space: blocking.Space, waiter: Any, threads: ThreadPoolExecutor, call: str
):
    waiting = threads.submit(getattr(waiter, call))
    assert waiter.started.wait(LIMIT)

    space.close()

    with pytest.raises(SpaceClosedError):
        waiting.result(LIMIT)


def test_a_watch_ends_when_the_space_closes(space: blocking.Space, threads: ThreadPoolExecutor):
    first = threading.Event()

    def watch() -> None:
        with space.memory.watch() as changes:
            for _ in changes:
                first.set()

    watching = threads.submit(watch)
    while not first.is_set():  # until the watch has begun
        space.memory.write("a", 1, owner="ann")
    space.close()

    assert watching.result(LIMIT) is None


def test_everything_raises_space_closed_after_closing(space: blocking.Space):
    space.broker.send(Message(sender="ann", receiver="bob"))
    delivery = space.broker.receive("bob", timeout=0)
    assert delivery is not None
    transaction = space.transaction()
    parts = space.memory.entries()
    agent = blocking.MessagePassingAgent("ann", space.broker)
    space.close()
    calls: list[Callable[[], object]] = [
        lambda: space.memory.read("a", reader="ann"),
        space.memory.access_log,
        lambda: space.broker.receive("bob"),
        lambda: space.broker.queue("bob"),
        space.transaction,
        space.agents,
        delivery.acknowledge,
        transaction.commit,
        transaction.__enter__,
        lambda: next(parts),
        agent.start,
        lambda: agent.on_message("x")(print),
        lambda: blocking.MemoryRegion("r", space.memory),
        lambda: space.wrap(Waiter, space),
    ]

    assert space.closed
    for call in calls:
        with pytest.raises(SpaceClosedError):
            call()


def test_leaving_a_transaction_of_a_closed_space_says_that_it_was_not_committed(space: blocking.Space):
    transaction = space.transaction()
    transaction.__enter__()
    space.close()

    with pytest.raises(SpaceClosedError):
        transaction.__exit__(None, None, None)


def test_leaving_a_closed_space_by_an_exception_keeps_the_exception(space: blocking.Space):
    def fail() -> None:
        with space.transaction(), space.memory.watch():
            space.close()
            raise LookupError("the first")

    with pytest.raises(LookupError, match="the first"):
        fail()


def test_closing_twice_and_from_many_threads_is_fine(space: blocking.Space, threads: ThreadPoolExecutor):
    for closing in [threads.submit(space.close) for _ in range(8)]:
        closing.result(LIMIT)
    space.close()

    assert space.closed


def test_a_handler_may_close_its_own_space(space: blocking.Space):
    closed = threading.Event()
    agent = blocking.MessagePassingAgent("closer", space.broker)

    @agent.on_message("default")
    def close(_: Message) -> None:
        space.close()
        closed.set()

    agent.start()
    space.broker.send(Message(sender="ann", receiver="closer"))

    assert closed.wait(LIMIT)
    for thread in threading.enumerate():
        if thread.name.startswith("tertulia worker"):  # nobody could wait for the thread that closed the space
            thread.join(LIMIT)


def test_closing_waits_for_plain_handlers_whose_calls_then_fail(space: blocking.Space):
    begun, failed = threading.Event(), threading.Event()
    agent = blocking.MessagePassingAgent("reader", space.broker)

    @agent.on_message("default")
    def receive(_: Message) -> None:
        begun.set()
        try:
            space.broker.receive("bob")
        except SpaceClosedError:
            failed.set()

    agent.start()
    space.broker.send(Message(sender="ann", receiver="reader"))
    assert begun.wait(LIMIT)
    space.close()

    assert failed.is_set()


def test_the_portal_ends_with_the_last_space_and_starts_again_with_the_next():
    first, second = blocking.connect("memory:"), blocking.connect("memory:")
    assert ours() == ["tertulia portal"]
    first.close()
    assert second.memory.list_keys() == []
    second.close()
    assert ours() == []

    with blocking.connect("memory:") as third:
        assert third.memory.list_keys() == []


def test_a_connection_that_fails_leaves_no_thread():
    with pytest.raises(InvalidURLError):
        blocking.connect("gopher:hole")

    assert ours() == []


def test_a_portal_that_is_torn_down_closes_its_spaces_and_the_next_one_works(
    space: blocking.Space, waiter: Any, threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
):
    agent = blocking.MessagePassingAgent("breaker", space.broker)

    @agent.on_message("default")
    async def leave(_: Message) -> None:
        raise SystemExit(1)

    waiting = threads.submit(waiter.for_ever)
    assert waiter.started.wait(LIMIT)
    with caplog.at_level(logging.CRITICAL, "tertulia"):
        agent.start()
        with pytest.raises(SpaceClosedError):
            agent.request("breaker", "go")
        with pytest.raises(SpaceClosedError):
            waiting.result(LIMIT)
        with pytest.raises(SpaceClosedError):
            space.memory.list_keys()
        space.close()

    with blocking.connect("memory:") as another:
        assert another.memory.list_keys() == []
    assert "the portal ended" in caplog.text


# --- processes ---------------------------------------------------------------------------------------


def run_script(text: str) -> subprocess.CompletedProcess[str]:
    """Run a script in an interpreter of its own; it must end within the limit."""
    head = "import os, sys, threading, time\nimport tertulia.blocking\nfrom tertulia import Message, blocking\n"
    return subprocess.run(  # noqa: S603 - the text is this file's own
        [sys.executable, "-X", "faulthandler", "-c", head + textwrap.dedent(text)],
        capture_output=True,
        text=True,
        timeout=LIMIT * 2,
        check=False,
    )


def output(text: str) -> str:
    done = run_script(text)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_script_that_closes_its_space_exits():
    assert output("with blocking.connect('memory:') as s: print(s.memory.list_keys())") == "[]\n"


def test_a_script_that_does_not_close_its_space_exits_and_closes_it():
    assert (
        output("""
        class Noisy:
            def __init__(self, space): space.background.start(self.end(), "noisy")
            async def end(self):
                import asyncio
                try:
                    await asyncio.Event().wait()
                finally:
                    print("closed", flush=True)
            async def touch(self): ...
        space = blocking.connect("memory:")
        space.wrap(Noisy, space).touch()
        print("end")
        """)
        == "end\nclosed\n"
    )


def test_a_script_that_does_not_close_a_file_exits_without_a_word_and_leaves_nothing_open(tmp_path: Path):
    path = tmp_path / "space.db"
    assert (
        output(f"""
        space = blocking.connect("file:{path}")
        space.memory.write("key", 1, owner="ann")
        space.broker.register_agent("bob")
        print(space.broker.receive("bob", timeout=0.01))
        """)
        == "None\n"
    )
    assert not path.with_name("space.db-wal").exists(), "the last one out tidies up"


def test_a_script_that_leaves_an_agent_with_a_blocked_handler_exits():
    assert (
        output("""
        space = blocking.connect("memory:")
        agent = blocking.MessagePassingAgent("bob", space.broker)
        begun = threading.Event()
        @agent.on_message("default")
        def handle(message):
            begun.set()
            space.broker.receive("bob")
        agent.start()
        agent.send("bob", "x")
        print(begun.wait(10))
        """)
        == "True\n"
    )


def test_a_script_whose_handler_never_ends_exits_all_the_same():
    done = run_script("""
        from tertulia.blocking import portal
        portal.EXIT_GRACE = 0.2
        space = blocking.connect("memory:")
        agent = blocking.MessagePassingAgent("bob", space.broker)
        begun = threading.Event()
        @agent.on_message("default")
        def handle(message):
            begun.set()
            time.sleep(1000)
        agent.start()
        agent.send("bob", "x")
        print(begun.wait(10))
        """)

    assert (done.returncode, done.stdout) == (0, "True\n")
    assert "still runs a function" in done.stderr


def test_threads_that_outlive_the_script_are_still_served():
    assert (
        output("""
        space = blocking.connect("memory:")
        def work():
            threading.main_thread().join()
            space.memory.write("late", 1, owner="ann")
            print(space.memory.list_keys())
        threading.Thread(target=work).start()
        """)
        == "['late']\n"
    )


def test_a_script_that_fails_inside_its_space_ends_with_its_error_and_frees_its_threads():
    done = run_script("""
        with blocking.connect("memory:") as space:
            space.broker.register_agent("bob")
            begun = threading.Event()
            def wait():
                begun.set()
                try:
                    space.broker.receive("bob")
                except tertulia.errors.SpaceClosedError as error:
                    print(error)
            threading.Thread(target=wait).start()
            begun.wait(10)
            raise LookupError("no luck")
        """)

    assert (done.returncode, done.stdout) == (1, "the space is closed\n")
    assert done.stderr.endswith("LookupError: no luck\n")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_is_told_to_open_the_space_again_and_can():
    done = run_script("""
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of every fork beside threads
        with blocking.connect("memory:") as space:
            space.memory.write("a", 1, owner="ann")
            watch = space.memory.watch()
            child = os.fork()
            if child == 0:
                for call in (lambda: space.memory.read("a", reader="ann"), watch.__enter__):
                    try:
                        call()
                    except RuntimeError as error:
                        print(error, flush=True)
                with blocking.connect("memory:") as own:
                    own.memory.write("b", 2, owner="bob")
                    print(own.memory.list_keys(), flush=True)
                left_open = blocking.connect("memory:")
                sys.exit(7)
            _, status = os.waitpid(child, 0)
            print(os.waitstatus_to_exitcode(status), space.memory.list_keys())
        """)

    told = "this space was opened before a fork: open it again in the child process\n"
    assert (done.returncode, done.stdout) == (0, f"{told}{told}['b']\n7 ['a']\n")
