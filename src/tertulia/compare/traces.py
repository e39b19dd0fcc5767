"""Recorded conversations of agent teams: reads chat logs of several kinds into turns with a speaker and addressees.

A trace is a `.json` file, with a list of turns or an object that has one, or a `.jsonl` file with a turn on each line.
A turn is an object:

| what | field, the first that is there | |
|---|---|---|
| speaker | `sender`, `name`, `speaker`, `agent`, `role` | text |
| content | `content`, `message`, `text` | text; null is an empty turn |
| addressee | `receiver`, `recipient`, `to` | text, or absent: everybody else |

The list of an object is under `history`, `messages`, `turns` or `conversation`. Some teams write more than a name where
the speaker is: `Orchestrator (-> WebSurfer)` is addressed to WebSurfer, and any other remark in brackets at the end, as
in `Orchestrator (thought)`, is the speaker's note to itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from json import JSONDecodeError, JSONDecoder, decoder, scanner
from pathlib import Path
from typing import Any, cast

from msgspec import Struct

__all__ = [
    "MAX_TRACE_BYTES",
    "Conversation",
    "TraceAloneError",
    "TraceEmptyError",
    "TraceError",
    "TraceMalformedError",
    "TraceUnreadableError",
    "Turn",
    "check_team",
    "read_conversation",
    "read_conversations",
]

MAX_TRACE_BYTES = 64 * 2**20  # a log of a week of a busy team; beyond it, it is not the file that was meant
SUFFIXES = (".json", ".jsonl")
LISTS = ("history", "messages", "turns", "conversation")
SPEAKERS = ("sender", "name", "speaker", "agent", "role")
CONTENTS = ("content", "message", "text")
ADDRESSEES = ("receiver", "recipient", "to")

_REMARK = re.compile(r"^(?P<name>.*?)\s*\((?P<remark>[^()]*)\)$", re.DOTALL)
_ADDRESSED = re.compile(r"^->\s*(?P<to>.+)$", re.DOTALL)


class TraceError(ValueError):
    """A trace cannot be replayed. `path` is the file, `problem` what is wrong with it."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class TraceUnreadableError(TraceError):
    """Nothing can be read at that path, or it is no text."""


class TraceEmptyError(TraceError):
    """There is no turn in the file, or no trace in the folder."""


class TraceAloneError(TraceError):
    """There is nobody in it to talk to."""


class TraceMalformedError(TraceError):
    """The file is no trace. `line` counts from 1; `field` is the path to what is wrong, "" for the text itself."""

    def __init__(self, path: Path, line: int, field: str, problem: str) -> None:
        place = f"line {line}" + (f", {field}" if field else "")
        super().__init__(path, f"{place}: {problem}")
        self.line = line
        self.field = field


class Turn(Struct, frozen=True, kw_only=True):
    """One thing that was said. `to` is who it is for: other agents, or the speaker alone for a note to itself."""

    speaker: str
    to: tuple[str, ...]
    content: str


class Conversation(Struct, frozen=True, kw_only=True):
    """A recorded conversation. `agents` are all who speak or are spoken to, in the order of their appearance."""

    name: str
    agents: tuple[str, ...]
    turns: tuple[Turn, ...]

    @property
    def deliveries(self) -> int:
        """How many times somebody gets to hear something."""
        return sum(len(turn.to) for turn in self.turns)


def read_conversations(path: Path) -> list[Conversation]:
    """Return the conversation in a file, or those in all traces of a folder (not below it), by name.

    Raises TraceUnreadableError, TraceEmptyError, TraceMalformedError.
    """
    if not path.is_dir():
        return [read_conversation(path)]
    try:
        files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
    except OSError as error:
        raise TraceUnreadableError(path, f"the folder cannot be listed ({error.strerror})") from error
    if not files:
        raise TraceEmptyError(path, f"no file here ends in {' or '.join(SUFFIXES)}")
    return [read_conversation(file) for file in files]


def read_conversation(path: Path) -> Conversation:
    """Return the conversation in a file.

    Raises TraceUnreadableError, TraceEmptyError, TraceMalformedError.
    """
    text = _text(path)
    found = list(_lines(path, text) if path.suffix == ".jsonl" else _document(path, text))
    if not found:
        raise TraceEmptyError(path, "there is no turn in it")
    agents = tuple(dict.fromkeys(name for turn in found for name in (turn.speaker, turn.to) if name))
    turns = tuple(Turn(speaker=one.speaker, to=_hearers(one, agents), content=one.content) for one in found)
    return Conversation(name=path.stem, agents=agents, turns=turns)


def check_team(conversation: Conversation) -> None:
    """Raise TraceAloneError for a conversation in which there is one alone, or nothing is for anybody."""
    if len(conversation.agents) < 2 or not conversation.deliveries:  # noqa: PLR2004 - it takes two
        raise TraceAloneError(Path(conversation.name), "a team of one: nobody speaks to anybody else")


# --- Inside --------------------------------------------------------------------------------------


class _Said(Struct, frozen=True):
    """A turn as it is recorded: without an addressee it is for everybody."""

    speaker: str
    to: str | None
    content: str


def _hearers(said: _Said, agents: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in agents if name != said.speaker) if said.to is None else (said.to,)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_TRACE_BYTES:
            raise TraceUnreadableError(path, f"larger than {MAX_TRACE_BYTES // 2**20} MiB")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TraceUnreadableError(path, "not UTF-8 text") from error
    except OSError as error:
        raise TraceUnreadableError(path, f"cannot be read ({error.strerror})") from error


def _lines(path: Path, text: str) -> Iterator[_Said]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                turn = _decoded(line)
            except JSONDecodeError as error:
                raise TraceMalformedError(path, number, "", f"not JSON ({error.msg})") from error
            try:
                yield _said(turn)
            except _FieldError as error:
                raise TraceMalformedError(path, number, error.field, error.problem) from None


def _document(path: Path, text: str) -> Iterator[_Said]:
    if not text.strip():
        return
    try:
        document = _decoded(text)
    except JSONDecodeError as error:
        raise TraceMalformedError(path, error.lineno, "", f"not JSON ({error.msg})") from error
    field, turns = _list_of(path, document)
    for number, turn in enumerate(turns):
        try:
            yield _said(turn)
        except _FieldError as error:
            within = f"{field}[{number}]" + (f".{error.field}" if error.field else "")
            line = _line_of(text, field, number)
            raise TraceMalformedError(path, line, within, error.problem) from None


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise JSONDecodeError("nested too deeply", text, 0) from None


def _list_of(path: Path, document: object) -> tuple[str, list[object]]:
    """Return the name of the list of turns, and the list."""
    if isinstance(document, list):
        return "", cast("list[object]", document)
    if isinstance(document, dict):
        fields = cast("dict[str, object]", document)
        for name in LISTS:
            turns = fields.get(name)
            if isinstance(turns, list):
                return name, cast("list[object]", turns)
    raise TraceMalformedError(path, 1, "", f"neither a list of turns nor an object with a list under {_any_of(LISTS)}")


class _FieldError(Exception):
    """A turn's field is not what it should be."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field = field
        self.problem = problem


def _said(turn: object) -> _Said:
    if not isinstance(turn, dict):
        raise _FieldError("", "a turn is an object")
    fields = cast("Mapping[str, object]", turn)
    speaker = _named(fields, SPEAKERS)
    if speaker is None:
        raise _FieldError(SPEAKERS[0], f"nobody says it; expected one of {_any_of(SPEAKERS)}")
    to = _named(fields, ADDRESSEES)
    name, remark = _without_remark(speaker)
    if to is None and remark:
        addressed = _ADDRESSED.match(remark)
        to = addressed["to"].strip() if addressed else name
    return _Said(name, to, _content(fields))


def _named(fields: Mapping[str, object], names: Sequence[str]) -> str | None:
    """Return the text of the first of these fields that is there; null is not there."""
    for field in names:
        value = fields.get(field)
        if value is None:
            continue
        if not isinstance(value, str) or not value.strip():
            raise _FieldError(field, "expected a name")
        return _whole(field, value.strip())
    return None


def _content(fields: Mapping[str, object]) -> str:
    for field in CONTENTS:
        if field in fields:
            value = fields[field]
            if value is None:  # a turn that only calls a tool
                return ""
            if isinstance(value, str):
                return _whole(field, value)
            raise _FieldError(field, "expected text")
    raise _FieldError(CONTENTS[0], f"nothing is said; expected one of {_any_of(CONTENTS)}")


def _whole(field: str, text: str) -> str:
    """Return a text, unless it has half of a character, which no UTF-8 can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _FieldError(field, f"half of a character at {error.start} (a lone surrogate)") from None
    return text


def _without_remark(speaker: str) -> tuple[str, str]:
    """Split `Name (remark)`; a name that is nothing but a remark is a name."""
    match = _REMARK.match(speaker)
    if match is None or not match["name"]:
        return speaker, ""
    return match["name"], match["remark"].strip()


def _any_of(names: Sequence[str]) -> str:
    return ", ".join(names)


def _line_of(text: str, field: str, number: int) -> int:
    """Return the line on which a turn begins."""
    found = _Places(text).turn(field, number)
    return 1 if found is None else text.count("\n", 0, found) + 1


# The parts of json that are written in Python are not in its type stubs.
_UNTYPED_DECODER: Any = decoder
_UNTYPED_SCANNER: Any = scanner


class _Places(JSONDecoder):
    """Decodes once more, slowly, and notes where each object begins. Only asked when something is wrong."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._began: dict[int, int] = {}
        self.parse_object = self._parse_object
        self.scan_once = _UNTYPED_SCANNER.py_make_scanner(self)
        self._document: Any = self.decode(text)

    def turn(self, field: str, number: int) -> int | None:
        turns: list[object] = self._document[field] if field else self._document
        return self._began.get(id(turns[number]))

    def _parse_object(self, text_and_end: tuple[str, int], *arguments: Any) -> tuple[Any, int]:
        made, end = cast("tuple[Any, int]", _UNTYPED_DECODER.JSONObject(text_and_end, *arguments))
        self._began[id(made)] = text_and_end[1] - 1
        return made, end
