"""Recorded conversations are read with their speakers and addressees, and what is wrong with one is said exactly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tertulia.compare.traces import (
    MAX_TRACE_BYTES,
    TraceEmptyError,
    TraceMalformedError,
    TraceUnreadableError,
    Turn,
    read_conversation,
    read_conversations,
)


def trace(path: Path, document: object) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document, indent=1), encoding="utf-8")
    return path


def test_a_turn_without_an_addressee_is_for_everybody_else(tmp_path: Path):
    said = [{"name": "ana", "content": "hello"}, {"name": "ben", "content": "hi"}, {"name": "eva", "content": "yes?"}]
    conversation = read_conversation(trace(tmp_path / "chat.json", said))
    assert conversation.name == "chat"
    assert conversation.agents == ("ana", "ben", "eva")
    assert conversation.turns[1] == Turn(speaker="ben", to=("ana", "eva"), content="hi")
    assert conversation.deliveries == 6


def test_an_addressee_in_the_speakers_name_is_understood(tmp_path: Path):
    history = [
        {"role": "Lead (-> Surfer)", "content": "look it up"},
        {"role": "Surfer", "content": "found"},
        {"role": "Lead (thought)", "content": "good"},
    ]
    conversation = read_conversation(trace(tmp_path / "team.json", {"question": "?", "history": history}))
    assert conversation.agents == ("Lead", "Surfer")
    assert [(turn.speaker, turn.to) for turn in conversation.turns] == [
        ("Lead", ("Surfer",)),
        ("Surfer", ("Lead",)),
        ("Lead", ("Lead",)),
    ]


def test_the_generic_form_is_read_line_by_line(tmp_path: Path):
    lines = '{"sender": "a", "receiver": "b", "content": "one"}\n\n{"sender": "b", "receiver": "a", "content": null}\n'
    conversation = read_conversation(trace(tmp_path / "log.jsonl", lines))
    assert [(turn.to, turn.content) for turn in conversation.turns] == [(("b",), "one"), (("a",), "")]


def test_a_name_outweighs_a_role(tmp_path: Path):
    conversation = read_conversation(trace(tmp_path / "c.json", [{"role": "user", "name": "ana", "content": "hello"}]))
    assert conversation.turns[0].speaker == "ana"


def test_a_name_that_is_only_a_remark_is_a_name(tmp_path: Path):
    conversation = read_conversation(trace(tmp_path / "c.json", [{"role": "(system)", "content": "hello"}]))
    assert conversation.agents == ("(system)",)


def test_a_folder_is_read_file_by_file_in_the_order_of_names(tmp_path: Path):
    for name in ("b.jsonl", "a.jsonl"):
        trace(tmp_path / name, '{"sender": "x", "content": ""}')
    trace(tmp_path / "LICENSE", "no trace")
    assert [conversation.name for conversation in read_conversations(tmp_path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "text", "line", "field"),
    [
        ("t.json", '[\n {"name": "a", "content": "x"},\n {"name": "a"}\n]', 3, "[1].content"),
        ("t.json", '{"history": [\n\n{"name": "a", "content": 7}]}', 3, "history[0].content"),
        ("t.json", '{"messages": [{"name": " ", "content": ""}]}', 1, "messages[0].name"),
        ("t.json", '{"turns": [{"content": ""}]}', 1, "turns[0].sender"),
        ("t.json", '[{"name": "a", "to": ["b"], "content": ""}]', 1, "[0].to"),
        ("t.json", '["hello"]', 1, "[0]"),
        ("t.json", r'[{"name": "a", "content": "half \ud83d"}]', 1, "[0].content"),
        ("t.json", '{\n"history": [\n', 3, ""),
        ("t.json", '{"talk": []}', 1, ""),
        ("t.json", "[" * 100_000, 1, ""),
        ("t.jsonl", '{"name": "a", "content": "x"}\n{"name": "a", content}\n', 2, ""),
        ("t.jsonl", '{"name": "a", "content": "x"}\n\n{"name": "a"}\n', 3, "content"),
    ],
)
def test_what_is_malformed_is_named_with_line_and_field(tmp_path: Path, name: str, text: str, line: int, field: str):
    with pytest.raises(TraceMalformedError) as caught:
        read_conversation(trace(tmp_path / name, text))
    assert (caught.value.line, caught.value.field) == (line, field)
    assert str(caught.value).startswith(f"{tmp_path / name}: line {line}")


@pytest.mark.parametrize(("name", "text"), [("t.json", ""), ("t.json", "[]"), ("t.jsonl", "\n \n"), ("t.json", " \n")])
def test_a_trace_without_a_turn_is_said_to_be_empty(tmp_path: Path, name: str, text: str):
    with pytest.raises(TraceEmptyError, match="no turn"):
        read_conversation(trace(tmp_path / name, text))


def test_a_folder_without_a_trace_is_said_to_be_empty(tmp_path: Path):
    with pytest.raises(TraceEmptyError, match="no file here"):
        read_conversations(tmp_path)


def test_what_cannot_be_read_as_text_is_said(tmp_path: Path):
    with pytest.raises(TraceUnreadableError, match="cannot be read"):
        read_conversations(tmp_path / "absent.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceUnreadableError, match="not UTF-8"):
        read_conversation(tmp_path / "binary.json")
    with (tmp_path / "huge.json").open("wb") as huge:
        huge.truncate(MAX_TRACE_BYTES + 1)
    with pytest.raises(TraceUnreadableError, match="larger than"):
        read_conversation(tmp_path / "huge.json")


def test_the_recorded_conversations_of_real_teams_are_read_whole(recorded_traces: Path):
    files = sorted(recorded_traces.glob("*.json"))
    conversations = read_conversations(recorded_traces)
    assert [one.name for one in conversations] == [file.stem for file in files]
    for file, conversation in zip(files, conversations, strict=True):
        recorded = json.loads(file.read_text(encoding="utf-8"))["history"]
        assert [turn.content for turn in conversation.turns] == [turn["content"] for turn in recorded]
        assert all(turn.to for turn in conversation.turns) or len(conversation.agents) == 1
