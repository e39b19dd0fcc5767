"""Which routes are alike, and which channels are open to them."""

from __future__ import annotations

from tertulia._rules.routing import MEMORY, MESSAGE, POINTER, REQUEST, size_class
from tertulia.patterns._routing_hints import Hints
from tertulia.patterns._routing_targets import MAX_TAGGED, Target
from tertulia.records import DeliveryMode
from tertulia.routes import Channel, Latency

CHANNELS = (Channel.MESSAGE, Channel.POINTER, Channel.MEMORY, Channel.REQUEST)
PLACES = {channel: place for place, channel in enumerate(CHANNELS)}

_TOLD = "receivers are to be told; latency='relaxed' would allow it"
_SILENT = "no reply is wanted"
_REPLY = "a reply is wanted"
_STORED = "what is delivered at most once is stored nowhere"
_TAGS = f"an entry is for {MAX_TAGGED} readers at most"
_PINNED = "another channel is pinned"

Refusals = tuple[str, str, str, str]

# By the kind of a route: why each channel is closed, "" where it is open.
_KINDS: dict[str, Refusals] = {
    "normal": ("", "", _TOLD, _SILENT),
    "low": ("", "", _TOLD, _SILENT),
    "relaxed": ("", "", "", _SILENT),
    "reply": (_REPLY, _REPLY, _REPLY, ""),
    "once": ("", _STORED, _STORED, _SILENT),
}


def kind_of(hints: Hints) -> str:
    """Return the kind of a route: routes of one kind have the same channels open, and the same price."""
    if hints.reply:
        return "reply"
    if hints.mode is DeliveryMode.AT_MOST_ONCE:
        return "once"
    return hints.latency


def cell_name(target: Target, size: int, kind: str) -> str:
    """Return the name of the cell that routes of this size, receiver and kind are counted in."""
    return f"{target.label}|{size_class(size)}|{kind}"


def cell_parts(name: str) -> tuple[str, str]:
    """Return the receivers and the kind that a cell is named after."""
    label, _, kind = name.rsplit("|", 2)
    return label, kind


def open_places(kind: str) -> list[int]:
    """Return the channels that are open to a kind of route; to a kind that is not known, none."""
    return [place for place, refusal in enumerate(_KINDS.get(kind, ())) if not refusal]


def latency_of(kind: str) -> Latency:
    """Return the latency that routes of a kind ask for."""
    return Latency(kind) if kind in ("low", "relaxed") else Latency.NORMAL


def refusals(kind: str, target: Target, pinned: Channel | None) -> Refusals:
    """Return why each channel is closed to a route, "" where it is open. What is pinned is open where it can be."""
    if pinned is None:
        found = _KINDS[kind]
        few = len(target.names) <= MAX_TAGGED
        return found if few else (found[MESSAGE], found[POINTER], found[MEMORY] or _TAGS, found[REQUEST])
    closed = [_PINNED] * len(CHANNELS)
    place = PLACES[pinned]
    closed[place] = _KINDS[kind][place] if place != MEMORY else ""
    if place == MEMORY and len(target.names) > MAX_TAGGED:
        closed[place] = _TAGS
    return (closed[MESSAGE], closed[POINTER], closed[MEMORY], closed[REQUEST])
