"""What a router says about itself: why one route went as it did, and what all of them cost."""

from __future__ import annotations

from collections.abc import Iterable

from tertulia._rules.routing import Cell
from tertulia.patterns._routing_cells import CHANNELS, cell_parts, latency_of
from tertulia.routes import Channel, PairReport, RouteDecision, RouterReport

Costs = dict[Channel, float]


def explanation(decision: RouteDecision) -> str:
    """Return a decision in words: what was to go where, what each channel would cost, and what decided."""
    to = decision.topic if decision.topic is not None else ", ".join(decision.receivers)
    what = f"{decision.sender} to {to}: about {decision.size:,} bytes for {decision.readers:g} by {decision.channel}"
    lines = [f"{what}, because {_reason(decision)}"]
    for estimate in decision.estimates:
        if estimate.ruled_out:
            lines.append(f"  {estimate.channel}: ruled out, {estimate.ruled_out}")
            continue
        figures = (
            f"{estimate.cost * 1e6:,.1f} µs = {estimate.seconds * 1e6:,.1f} µs of calls"
            f" + {estimate.written:,.0f} bytes written and {estimate.read:,.0f} read at {decision.price * 1e9:g} ns"
        )
        seen = f"{estimate.observed} routes seen" if estimate.observed else "as measured, none seen yet"
        lines.append(f"  {estimate.channel}: {figures} ({seen})")
    return "\n".join(lines)


def _reason(decision: RouteDecision) -> str:
    if decision.pinned:
        return "a hint names the channel"
    if decision.reply:
        return "a reply is wanted"
    if decision.explored:
        return "one route in fifty tries a channel of which little is known"
    possible = [estimate for estimate in decision.estimates if not estimate.ruled_out]
    if len(possible) == 1:
        return "no other channel is possible"
    costs = sorted(estimate.cost for estimate in possible)
    return (
        f"it is the cheapest; the next costs {costs[1] / costs[0]:.2f} times as much" if costs[0] > 0 else "it is free"
    )


def report_of(cells: Iterable[tuple[str, str, Cell, Costs]], *, fetched: int, fetched_bytes: int) -> RouterReport:
    """Return the figures of all cells: sender, name, what was seen, and what a route costs by each open channel."""
    pairs: list[PairReport] = []
    routes = dict.fromkeys(CHANNELS, 0)
    explored, cost = 0, 0.0
    for sender, name, cell, costs in cells:
        for place, channel in enumerate(CHANNELS):
            routes[channel] += cell.seen[place].routes + cell.seen[place].pinned
        explored += cell.explored
        pair = _pair(sender, name, cell, costs)
        if pair is not None:
            pairs.append(pair)
            cost += sum(count * costs[channel] for channel, count in pair.routes.items())
    pairs.sort(key=lambda pair: -pair.regret)
    regret = sum(pair.regret for pair in pairs)
    return RouterReport(
        routes=routes,
        explored=explored,
        cost=cost,
        regret=regret,
        fetched=fetched,
        fetched_bytes=fetched_bytes,
        pairs=tuple(pairs),
    )


def _pair(sender: str, name: str, cell: Cell, costs: Costs) -> PairReport | None:
    """Return the figures of a cell; None where nothing was for the router to decide."""
    routes = {channel: cell.seen[place].routes for place, channel in enumerate(CHANNELS) if channel in costs}
    if not sum(routes.values()):
        return None
    label, kind = cell_parts(name)
    cheapest = min(costs, key=lambda channel: costs[channel])
    return PairReport(
        sender=sender,
        receivers=label,
        size=cell.size / max(1, cell.routes),
        latency=latency_of(kind),
        routes=routes,
        costs=costs,
        cheapest=cheapest,
        regret=sum(count * (costs[channel] - costs[cheapest]) for channel, count in routes.items()),
    )
