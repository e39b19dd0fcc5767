"""The values of the router: channels, decisions, results and figures. All of them are frozen."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from msgspec import Struct

from tertulia.records import DeliveryMode

__all__ = [
    "Channel",
    "ChannelEstimate",
    "Latency",
    "PairReport",
    "RouteDecision",
    "RouteResult",
    "RoutedContent",
    "RouterReport",
]


class Channel(StrEnum):
    """How a content reaches its receivers.

    MESSAGE: in a message to each. POINTER: kept in memory once, with a message to each that points at it; they see no
    difference. MEMORY: written only, for whoever looks. REQUEST: in a message, and the sender waits for the reply.
    """

    MESSAGE = "message"
    POINTER = "pointer"
    MEMORY = "memory"
    REQUEST = "request"


class Latency(StrEnum):
    """How soon receivers are to have a content.

    LOW: as soon as can be; bytes cost nothing. NORMAL: they are told at once. RELAXED: they look when they need it, so
    they may be told or not, whichever is cheaper.
    """

    LOW = "low"
    NORMAL = "normal"
    RELAXED = "relaxed"


class ChannelEstimate(Struct, frozen=True, kw_only=True):
    """What a route was expected to cost by one channel when it was decided.

    `seconds` of sender and receivers together, `written` and `read` in bytes, `cost` in seconds with the bytes' price.
    `observed`: how many routes of this kind went by the channel before. `ruled_out` says why it could not be taken.
    """

    channel: Channel
    seconds: float = 0.0
    written: float = 0.0
    read: float = 0.0
    cost: float = 0.0
    observed: int = 0
    ruled_out: str = ""


class RouteDecision(Struct, frozen=True, kw_only=True):
    """Which channel a route took, and why.

    `size` is estimated, in bytes; `readers` is how many receivers there are, or of a topic how many are expected.
    `pinned`: a hint named the channel. `explored`: it was taken to learn what it costs. `price` is that of a byte, in
    seconds. `figures` are those of `estimates`, unnamed.
    """

    sender: str
    receivers: tuple[str, ...]
    topic: str | None
    channel: Channel
    size: int
    readers: float
    latency: Latency
    delivery_mode: DeliveryMode
    reply: bool
    pinned: bool
    explored: bool
    price: float
    figures: tuple[tuple[float, float, float, float, int] | str, ...]

    @property
    def estimates(self) -> tuple[ChannelEstimate, ...]:
        """What each channel was expected to cost, or why it was ruled out."""
        return tuple(map(_estimate, Channel, self.figures))


def _estimate(channel: Channel, figures: tuple[float, float, float, float, int] | str) -> ChannelEstimate:
    if isinstance(figures, str):
        return ChannelEstimate(channel=channel, ruled_out=figures)
    seconds, written, read, cost, observed = figures
    return ChannelEstimate(channel=channel, seconds=seconds, written=written, read=read, cost=cost, observed=observed)


class RouteResult(Struct, frozen=True, kw_only=True):
    """What became of a route.

    `delivered`: how many mailboxes hold the message; by MEMORY none does. `key`: where the content is, by MEMORY.
    `reply`: the content of the reply, by REQUEST; of several receivers, a dict by their names. `duplicate`: a route
    with this `message_id` was stored before, so nothing was added.
    """

    channel: Channel
    message_id: str
    delivered: int
    decision: RouteDecision
    key: str | None = None
    reply: Any = None
    duplicate: bool = False


class RoutedContent(Struct, frozen=True, kw_only=True):
    """A content that was routed by memory, as `available` lists it: who wrote it, and how often it was read."""

    key: str
    sender: str
    revision: int
    expires: float | None
    reads: int


class PairReport(Struct, frozen=True, kw_only=True):
    """The figures of one sender's routes to some receivers, of one size and kind.

    `size` is the mean, in bytes. `routes`: how many went by each channel; `costs`: what one is expected to cost now.
    `regret` is in seconds: how much more all of them are expected to have cost than by what is cheapest now.
    """

    sender: str
    receivers: str
    size: float
    latency: Latency
    routes: dict[Channel, int]
    costs: dict[Channel, float]
    cheapest: Channel
    regret: float


class RouterReport(Struct, frozen=True, kw_only=True):
    """What a router has done, with what other processes have written down of theirs.

    `cost` and `regret` are estimates in seconds, a byte's price included. `explored`: how many routes were taken to
    learn. `fetched` and `fetched_bytes`: contents that receivers of this handle got by pointers. `pairs`: the dearest
    regret first.
    """

    routes: dict[Channel, int]
    explored: int
    cost: float
    regret: float
    fetched: int
    fetched_bytes: int
    pairs: tuple[PairReport, ...]

    @property
    def relative_regret(self) -> float:
        """The regret as a part of what the cheapest channels would have cost."""
        best = self.cost - self.regret
        return self.regret / best if best > 0 else 0.0
