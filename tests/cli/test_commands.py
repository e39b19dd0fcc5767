"""The commands that look at a space and change it, each run as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import tertulia
from tertulia import DeliveryMode, Message, Reject, blocking
from tertulia.cli.app import app

PACKAGE = Path(tertulia.__file__).parents[1]
LONGEST = 60  # seconds that only a hang takes


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"file:{tmp_path}/space.db"
    monkeypatch.setenv("TERTULIA_URL", url)
    return url


@pytest.fixture
def space(url: str) -> Iterator[blocking.Space]:
    with blocking.connect(url) as space:
        yield space


def tertulia_command(*arguments: str, stdin: str = "", code: int = 0) -> Result:
    result = CliRunner().invoke(app, arguments, input=stdin)
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return result


def lines(result: Result) -> list[Any]:
    """The JSON of each line of output."""
    return [json.loads(line) for line in result.stdout.splitlines()]


# --- memory --------------------------------------------------------------------------------------


def test_what_is_put_is_got_back(url: str):
    put = tertulia_command("memory", "put", "plan:today", '{"steps": [1, 2.5, null]}', "--tag", "plan")
    assert put.stdout == ""
    assert "version 1" in put.stderr
    assert json.loads(tertulia_command("memory", "get", "plan:today").stdout) == {"steps": [1, 2.5, None]}
    (entry,) = lines(tertulia_command("memory", "get", "plan:today", "--json"))
    assert (entry["owner"], entry["version"], entry["tags"]) == ("cli", 1, ["plan"])
    assert url.startswith("file:")


@pytest.mark.parametrize(
    ("argument", "options", "stdin", "stored"),
    [
        ("hello there", (), "", "hello there"),
        ("42", (), "", 42),
        ("42", ("--text",), "", "42"),
        ("-", (), '["from", "a pipe"]\n', ["from", "a pipe"]),
        ("-", (), "two\nlines\n", "two\nlines"),
        ("-", ("--text",), "as it is\n", "as it is\n"),
        ("NaN", (), "", "NaN"),
        ("[" * 100_000, (), "", "[" * 100_000),
    ],
)
def test_a_value_is_json_if_it_can_be_and_text_otherwise(
    space: blocking.Space, argument: str, options: tuple[str, ...], stdin: str, stored: object
):
    tertulia_command("memory", "put", "key", argument, *options, stdin=stdin)
    assert space.memory.read("key", reader="test") == stored


def test_an_absent_key_is_said_on_standard_error_with_exit_code_1(url: str):
    for command in ("get", "delete", "history"):
        result = tertulia_command("memory", command, "nowhere", code=1)
        assert result.stdout == ""
        assert "nowhere" in result.stderr
    assert url


def test_a_version_that_moved_on_is_refused_and_nothing_is_changed(space: blocking.Space):
    space.memory.write("key", "new", owner="test")
    space.memory.write("key", "newer", owner="test")
    refused = tertulia_command("memory", "put", "key", "mine", "--expected-version", "1", code=1)
    assert "VersionConflictError" in refused.stderr
    assert "KeyExistsError" in tertulia_command("memory", "put", "key", "mine", "--create", code=1).stderr
    assert space.memory.read("key", reader="test") == "newer"
    tertulia_command("memory", "put", "key", "mine", "--expected-version", "2", "--as", "ana")
    assert space.memory.read("key", reader="test") == "mine"


def test_keys_are_listed_by_pattern_tag_and_owner(space: blocking.Space):
    space.memory.write("a:1", 1, owner="ana", tags=("red",))
    space.memory.write("a:2", 2, owner="ben")
    space.memory.write("b:1", 3, owner="ana")
    assert tertulia_command("memory", "ls").stdout == "a:1\na:2\nb:1\n"
    assert tertulia_command("memory", "ls", "a:*", "--owner", "ana").stdout == "a:1\n"
    assert [entry["value"] for entry in lines(tertulia_command("memory", "ls", "--tag", "red", "--json"))] == [1]
    assert tertulia_command("memory", "ls", "-l", "b:*").stdout.split()[:3] == ["b:1", "v1", "ana"]
    assert tertulia_command("memory", "ls", "nothing:*").stdout == ""


def test_history_shows_the_changes_of_one_key_alone_also_of_one_that_is_gone(space: blocking.Space):
    space.memory.write("k*", 1, owner="ana")
    space.memory.write("kk", "another", owner="ana")
    space.memory.write("k*", 2, owner="ben")
    assert [change["entry"]["value"] for change in lines(tertulia_command("memory", "history", "k*", "--json"))] == [
        1,
        2,
    ]
    space.memory.delete("k*", requester="ana")
    history = lines(tertulia_command("memory", "history", "k*", "--json", "--limit", "2"))
    assert [change["kind"] for change in history] == ["put", "delete"]


def test_a_watch_prints_changes_until_it_has_enough(space: blocking.Space):
    revision = space.memory.write("w:1", "before", owner="ana").revision
    space.memory.write("w:2", "after", owner="ana")
    space.memory.delete("w:1", requester="ana")
    changes = lines(tertulia_command("memory", "watch", "w:*", "--after", str(revision), "-n", "2", "--json"))
    assert [(change["kind"], change["key"]) for change in changes] == [("put", "w:2"), ("delete", "w:1")]


def test_bytes_and_instants_are_written_as_json(space: blocking.Space):
    space.memory.write("odd", {"raw": b"\x00\xff", "when": tertulia.Message().timestamp}, owner="test")
    (entry,) = lines(tertulia_command("memory", "get", "odd", "--json"))
    assert entry["value"]["raw"] == "AP8="
    assert entry["value"]["when"].startswith("20")


def test_a_number_that_json_cannot_write_is_refused_not_changed(space: blocking.Space):
    space.memory.write("endless", float("inf"), owner="test")
    refused = tertulia_command("memory", "get", "endless", "--json", code=2)
    assert refused.stdout == ""
    assert "JSON" in refused.stderr


# --- messages ------------------------------------------------------------------------------------


def test_a_message_sent_by_hand_is_in_the_inbox_until_it_is_taken(space: blocking.Space):
    space.broker.register_agent("ana")
    receipt = lines(tertulia_command("send", "ana", '{"do": "it"}', "--as", "ben", "--id", "m1", "--json"))[0]
    assert (receipt["message_id"], receipt["delivered"], receipt["duplicate"]) == ("m1", 1, False)
    assert "already" in tertulia_command("send", "ana", "again", "--id", "m1").stderr
    (shown,) = lines(tertulia_command("inbox", "ana", "--json"))
    assert (shown["state"], shown["message"]["sender"], shown["message"]["content"]) == ("waiting", "ben", {"do": "it"})
    assert 'from ben [waiting]: {"do": "it"}' in tertulia_command("inbox", "ana").stdout
    assert 'from ben: {"do": "it"}' in tertulia_command("inbox", "ana", "--take").stdout
    assert tertulia_command("inbox", "ana").stdout == ""


def test_agents_are_listed_with_what_waits_for_them(space: blocking.Space):
    space.broker.register_agent("ana")
    space.broker.subscribe("ana", "news.>")
    tertulia_command("publish", "news.today", "rain")
    (agent,) = lines(tertulia_command("agents", "--json"))
    assert (agent["agent"], agent["waiting"], agent["topics"]) == ("ana", 1, ["news.>"])
    assert tertulia_command("agents").stdout.splitlines()[1].split() == ["ana", "1", "0", "0", "0", "news.>"]


def test_an_agent_is_asked_and_its_answer_printed(space: blocking.Space):
    agent = blocking.MessagePassingAgent("echo", space.broker)

    @agent.on_message("default")
    def answer(message: Message) -> object:
        return {"you said": message.content}

    with agent:
        assert lines(tertulia_command("request", "echo", "hello", "--json")) == [{"you said": "hello"}]
        assert tertulia_command("request", "echo", "hello", "--stream").stdout == '{"you said": "hello"}\n'


@pytest.mark.parametrize("command", [("send", "nobody", "x"), ("request", "nobody", "x"), ("inbox", "nobody")])
def test_an_unknown_agent_is_said_at_once(url: str, command: tuple[str, ...]):
    result = tertulia_command(*command, code=1)
    assert "UnknownAgentError: no agent 'nobody'" in result.stderr
    assert url


def test_what_is_published_is_heard_by_a_listener_that_leaves_nothing_behind(url: str, space: blocking.Space):
    with subprocess.Popen(
        [sys.executable, "-m", "tertulia", "listen", "news.*", "-n", "1", "--json"],
        env=os.environ | {"PYTHONPATH": str(PACKAGE), "TERTULIA_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as listener:
        assert listener.stderr is not None
        assert listener.stderr.readline() == "listening to news.*\n"
        tertulia_command("publish", "news.today", "rain")
        printed, _ = listener.communicate(timeout=LONGEST)
    assert listener.returncode == 0
    assert json.loads(printed)["content"] == "rain"
    assert space.agents() == []
    assert space.broker.get_stats().mailboxes == {}


@pytest.mark.parametrize("command", [("listen", "news"), ("memory", "watch")])
def test_ctrl_c_ends_what_would_go_on_for_ever(url: str, space: blocking.Space, command: tuple[str, ...]):
    with subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "tertulia", *command],
        env=os.environ | {"PYTHONPATH": str(PACKAGE), "TERTULIA_URL": url},
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stderr is not None
        assert running.stderr.readline().startswith(("listening", "watching"))
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=LONGEST)
    assert (running.returncode, said) == (130, "")
    assert space.agents() == []


READER_GONE = 141


@pytest.mark.parametrize(
    "command",
    [
        ("memory", "history", "long", "-n", "20"),
        ("memory", "ls", "--json"),
        ("memory", "get", "long"),
        ("recommend", "--use-case", "caching", "--json"),
    ],
    ids=" ".join,
)
def test_a_reader_who_has_gone_is_no_error_and_nothing_is_said_of_it(
    url: str, space: blocking.Space, command: tuple[str, ...]
):
    for _ in range(20):
        space.memory.write("long", "x" * 20_000, owner="ana")
    reading, writing = os.pipe()
    os.close(reading)  # so that the first line meets nobody, however fast anything is
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "tertulia", *command],
            env=os.environ | {"PYTHONPATH": str(PACKAGE), "TERTULIA_URL": url},
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=LONGEST,
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (READER_GONE, "")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("two\nlines", r'"two\nlines"'),
        ("42", '"42"'),
        (42, "42"),
        ("ñandú 😀", '"ñandú 😀"'),
        ("\x1b[2J", r'"\u001b[2J"'),
    ],
)
def test_in_a_line_a_value_is_json_so_that_it_cannot_be_taken_for_another(
    space: blocking.Space, value: object, shown: str
):
    space.memory.write("key", value, owner="ana")
    space.broker.register_agent("ana")
    blocking.MessagePassingAgent("ben", space.broker).send("ana", value)

    (line,) = tertulia_command("memory", "history", "key").stdout.splitlines()
    assert line.endswith(f"put key = {shown} by ana")
    (line,) = tertulia_command("inbox", "ana").stdout.splitlines()
    assert line.endswith(f"from ben [waiting]: {shown}")
    (line,) = tertulia_command("inbox", "ana", "--take").stdout.splitlines()
    assert line.endswith(f"from ben: {shown}")
    assert tertulia_command("memory", "get", "key").stdout == f"{value}\n", "alone it is what it is"


# --- dead letters --------------------------------------------------------------------------------


@pytest.fixture
def buried(space: blocking.Space) -> str:
    """A message that its receiver refused."""
    agent, refused = blocking.MessagePassingAgent("ana", space.broker), threading.Event()

    @agent.on_message("default")
    def refuse(_: Message) -> None:
        refused.set()
        raise Reject("not today")

    with agent:
        receipt = blocking.MessagePassingAgent("ben", space.broker).send("ana", "please", message_id="m1")
        assert refused.wait(LONGEST)
    return receipt.message_id


def test_a_dead_letter_is_listed_shown_retried_and_purged(buried: str, space: blocking.Space):
    (letter,) = lines(tertulia_command("dead-letters", "ls", "ana", "--json"))
    assert (letter["message"]["id"], letter["reason"]) == (buried, "not today")
    assert tertulia_command("dead-letters", "ls", "ana").stdout.endswith("  m1  not today\n")
    shown = tertulia_command("dead-letters", "show", "ana", "m1").stdout
    assert 'content   "please"' in shown
    assert "attempt 1" in shown
    assert lines(tertulia_command("dead-letters", "retry", "ana", "m1", "--json")) == [{"retried": 1}]
    assert [item.message.id for item in space.broker.peek("ana")] == ["m1"]
    assert "retried 0" in tertulia_command("dead-letters", "retry", "ana", "--all", code=1).stderr
    space.broker.unregister_agent("ana")
    assert "purged 1" in tertulia_command("dead-letters", "purge", "ana", "--all").stderr
    assert "no dead letter" in tertulia_command("dead-letters", "show", "ana", "m1", code=1).stderr


@pytest.mark.parametrize("command", ["retry", "purge"])
def test_one_dead_letter_is_named_or_all_are_said_never_neither_or_both(url: str, command: str):
    assert "--all" in tertulia_command("dead-letters", command, "ana", code=2).stderr
    tertulia_command("dead-letters", command, "ana", "m1", "--all", code=2)
    assert url


# --- the whole -----------------------------------------------------------------------------------


def test_doctor_reports_what_it_looked_at(url: str):
    findings = lines(tertulia_command("doctor", "--json"))
    assert {"level", "subject", "detail"} == set(findings[0])
    assert any(finding["subject"] == "contents" and finding["level"] == "ok" for finding in findings)
    assert "contents" in tertulia_command("doctor").stdout
    assert url


def test_bad_input_is_one_line_and_exit_code_2(url: str):
    for arguments in (("memory", "put", "bad\nkey", "1"), ("send", "", "x"), ("doctor", "--url", "bogus:")):
        result = tertulia_command(*arguments, code=2)
        assert result.stdout == ""
        assert result.stderr.startswith("tertulia ")
        assert result.stderr.count("\n") == 1
    assert url


def test_a_message_that_could_not_be_stored_leaves_nothing(url: str, space: blocking.Space):
    space.broker.register_agent("ana", max_queue_size=1)
    tertulia_command("send", "ana", "first", "--mode", DeliveryMode.EXACTLY_ONCE.value)
    assert "MailboxFullError" in tertulia_command("send", "ana", "second", code=1).stderr
    assert len(space.broker.peek("ana")) == 1
    assert url


def test_help_needs_none_of_the_heavy_imports():
    script = """
import sys
from tertulia.cli.app import app
try:
    app(["--help"])
except SystemExit as end:
    assert end.code == 0
print([name for name in ("rich", "tertulia.compare", "apsw", "nats") if name in sys.modules])
"""
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        capture_output=True,
        text=True,
        check=True,
        timeout=LONGEST,
    )
    assert done.stdout.splitlines()[-1] == "[]"
    for command in (
        "memory",
        "send",
        "request",
        "publish",
        "listen",
        "inbox",
        "dead-letters",
        "doctor",
        "run",
        "run",
        "compare",
    ):
        assert f"  {command} " in done.stdout
