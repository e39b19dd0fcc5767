"""What became of writes whose acknowledgement was lost, or may have come from a server that leads no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum

from msgspec import Struct

from tertulia.engines._nats_format import decode_head, mail_state
from tertulia.engines._nats_stream import Found, Write
from tertulia.engines._nats_subjects import Subjects

ASKED = 100  # members of a batch that are asked at most: one that is as it was left tells of all


class Fate(Enum):
    """What is known of a try at a write."""

    STORED = "stored"
    NOT_STORED = "not stored"
    UNKNOWN = "others have written over what could tell"


class Verdict(Struct, frozen=True):
    """What became of it; where it was stored, the sequence of its last message."""

    fate: Fate
    last: int = 0


def telling(batch: Sequence[Write]) -> list[Write]:
    """Return the members of a batch that can tell: those that say which operation they are of, and what was before."""
    return [one for one in batch if one.op and one.expected is not None and not one.check][:ASKED]


def judge(batch: Sequence[Write], found: Mapping[str, Found], subjects: Subjects, before: int) -> Verdict:
    """Tell from what their subjects hold, all read at one moment, whether these writes were stored, as they all were.

    Subjects never go back to a sequence. So one that still holds what was there before, or what somebody else put
    directly over that, shows that nothing was stored; one that holds this operation's message, or a later state of a
    message that this operation brought, that all was. `before`: a sequence that had been reached before the first try.
    """
    verdict = Verdict(Fate.UNKNOWN)
    for place, one in enumerate(batch):
        if one.op and one.expected is not None and not one.check:
            sequence = _stored_at(one, found.get(one.subject), subjects, before)
            if sequence is not None and sequence > 0:
                return Verdict(Fate.STORED, sequence + len(batch) - 1 - place)
            if sequence == 0:
                verdict = Verdict(Fate.NOT_STORED)
    return verdict


def _stored_at(one: Write, found: Found | None, subjects: Subjects, before: int) -> int | None:
    """Return the sequence that a write got, 0 when it was not stored, None when this does not tell."""
    if found is None:
        return None if one.expected else 0
    if found.seq == one.expected or found.seq <= before:
        return 0
    head = decode_head(found.data)
    if head.op == one.op:
        return found.seq
    if head.prev == one.expected:
        return 0
    if one.subject.startswith(subjects.all_mail[:-1]):
        mail = mail_state(one.subject, found.data)
        if mail.origin == one.op:
            return mail.first
    return None
