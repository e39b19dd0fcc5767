"""How a blackboard is kept: keys, and what stands under them."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any, cast

from msgspec.structs import replace

from tertulia._codec import convert, decode_plain
from tertulia._names import MAX_NAME_BYTES, check_name, literal, topic_of
from tertulia.engines.base import Record
from tertulia.errors import InvalidHypothesisError, InvalidNameError
from tertulia.hypotheses import BoardAction, BoardRecord, Hypothesis
from tertulia.messaging.outbox import encodable
from tertulia.records import MemoryEntry, new_id
from tertulia.transaction import Transaction

MAX_REASON = 20_000  # bytes: pages of it; what is longer is better a content
MAX_LINKS = 1_000  # from one hypothesis: beyond, nobody could say any more what its confidence rests on


class Keys:
    """The keys of one blackboard. They are ordinary keys of the space, so that anybody can look and watch."""

    def __init__(self, name: str) -> None:
        self.work = f"board.{check_name(name)}.work"
        if len(self.work.encode()) > MAX_NAME_BYTES:
            raise InvalidNameError(name, f"a board's takes at most {MAX_NAME_BYTES - len('board..work')} bytes")
        self.topic = topic_of("board", name)
        self.prefix = f"board:{name}:"
        self.hypotheses = f"{self.prefix}hypothesis:"
        self.log = f"{self.prefix}log:"
        self.agenda = f"{self.prefix}agenda:"
        self.running = f"{self.prefix}running:"
        self.ran = f"{self.prefix}ran:"
        self.focus = f"{self.prefix}focus"
        self.ballots = f"_tertulia:board:{name}:ballot:"  # votes are sealed, so they are out of reach

    def hypothesis(self, hypothesis_id: str) -> str:
        """Return the key of a hypothesis."""
        return self.hypotheses + hypothesis_id

    def all_hypotheses(self) -> str:
        """Return the pattern of the keys of all hypotheses."""
        return literal(self.hypotheses) + "*"


def hypothesis_of(entry: MemoryEntry) -> Hypothesis:
    """Return the hypothesis that an entry holds, with its version and its place in the order."""
    found: Hypothesis = convert(entry.value, Hypothesis)
    return replace(found, version=entry.version, order=entry.created_revision, posted=entry.created)


def hypothesis_in(record: Record) -> Hypothesis:
    """Return the hypothesis that a record holds, as `hypothesis_of` does."""
    found: Hypothesis = convert(decode_plain(record.body), Hypothesis)
    return replace(found, version=record.version, order=record.created_revision, posted=record.created)


def kept(hypothesis: Hypothesis) -> Hypothesis:
    """Return a hypothesis as it is written: without what the space knows better."""
    return replace(hypothesis, version=0, order=0, posted=0.0)


def log(
    transaction: Transaction,
    keys: Keys,
    kind: BoardAction,
    agent: str,
    hypothesis: str | None = None,
    **details: Any,
) -> None:
    """Write down what the transaction does. The revision of what is written is its place in the order."""
    what = {"kind": kind.value, "agent": agent, "hypothesis": hypothesis, "details": details}
    transaction.create(keys.log + new_id(), what, owner=agent)


def record_of(entry: MemoryEntry) -> BoardRecord:
    """Return what was written down."""
    return convert({**entry.value, "order": entry.created_revision, "at": entry.created}, BoardRecord)


def checked_confidence(confidence: float) -> float:
    """Return a confidence, or raise InvalidHypothesisError unless it is a number from 0 to 1."""
    if isinstance(confidence, bool) or not isinstance(confidence, (int, float)) or not isfinite(confidence):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidHypothesisError("confidence", f"must be a number, not {confidence!r}")
    if not 0 <= confidence <= 1:
        raise InvalidHypothesisError("confidence", f"must be from 0 to 1, not {confidence!r}")
    return float(confidence)


def checked_id(hypothesis_id: str) -> str:
    """Return an id, or raise InvalidHypothesisError for what can be none."""
    if hypothesis_id.__class__ is not str or not hypothesis_id:
        raise InvalidHypothesisError("id", f"must be a text, not {reprlib.repr(hypothesis_id)}")
    return hypothesis_id


def checked_reason(reason: str) -> str:
    """Return a reason, or raise InvalidHypothesisError for what is no text that can be kept."""
    if reason.__class__ is not str:
        raise InvalidHypothesisError("reason", f"must be a text, not {reprlib.repr(reason)}")
    if len(encodable(reason).encode()) > MAX_REASON:
        raise InvalidHypothesisError("reason", f"takes more than {MAX_REASON:,} bytes")
    return encodable(reason)


def checked_sections(sections: object) -> tuple[str, ...] | None:
    """Return the sections of a board, or raise InvalidHypothesisError."""
    if sections is None:
        return None
    if isinstance(sections, str) or not isinstance(sections, Sequence) or not sections:
        raise InvalidHypothesisError("sections", f"must be several names, or None, not {cast('object', sections)!r}")
    names = tuple(check_name(section) for section in cast("Sequence[str]", sections))
    if len(set(names)) < len(names):
        raise InvalidHypothesisError("sections", f"must be different: {', '.join(names)}")
    return names


def checked_links(name: str, links: Iterable[str], own_id: str | None = None) -> tuple[str, ...]:
    """Return ids without repeats, or raise InvalidHypothesisError for what can be no link."""
    if isinstance(links, str) or not isinstance(links, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidHypothesisError(name, f"must be several ids, not {reprlib.repr(links)}")
    given = list(links)
    for one in given:
        if one.__class__ is not str or not one:
            raise InvalidHypothesisError(name, f"must be ids, not {reprlib.repr(one)}")
        if one == own_id:
            raise InvalidHypothesisError(name, "a hypothesis is no evidence for or against itself")
    found = tuple(dict.fromkeys(given))
    if len(found) > MAX_LINKS:
        raise InvalidHypothesisError(name, f"at most {MAX_LINKS:,} links, not {len(found):,}")
    return found


def checked_section(section: str, declared: Sequence[str] | None) -> str:
    """Return a section, or raise InvalidHypothesisError for one that is not declared."""
    check_name(section)
    if declared is not None and section not in declared:
        raise InvalidHypothesisError("section", f"must be one of {', '.join(declared)}, not {section!r}")
    return section
