"""From the meters of several runs to the figures of a paradigm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median, median_low

from msgspec import Struct

from tertulia.compare.measuring import KINDS, AgentFigures, Meter, percentile
from tertulia.compare.results import Agents, Latency, Measured, Operation, Spread

__all__ = ["Run", "summarise"]

ROLES = ("scout", "reader", "critic", "writer", "office")
"""In the order in which work passes through them; the office only sets up."""


class Run(Struct, frozen=True):
    """One run: what came of it, how long it took, and what was measured on the way."""

    report: str
    seconds: float
    meter: Meter


def summarise(runs: Sequence[Run]) -> Measured:
    """Sum up runs of one sort: counts are medians over the runs, latencies are of all runs together.

    Of an even number of counts the median is the lower middle one: a count that a run really had.
    """
    meters = [run.meter for run in runs]

    def of_one_run(figure: Callable[[AgentFigures], int]) -> int:
        return median_low(sum(map(figure, meter.agents.values())) for meter in meters)

    return Measured(
        wall=Spread.of(run.seconds for run in runs),
        throughput=median(sum(map(_operations, run.meter.agents.values())) / run.seconds for run in runs),
        operations=of_one_run(_operations),
        messages_received=of_one_run(lambda agent: agent.messages_received),
        changes_noticed=of_one_run(lambda agent: agent.changes_noticed),
        bytes_written=of_one_run(lambda agent: agent.bytes_written),
        bytes_read=of_one_run(lambda agent: agent.bytes_read),
        roles=tuple(_role(role, meters) for role in ROLES),
        kinds=tuple(_kind(kind, meters) for kind in _kinds(meters)),
    )


def _operations(agent: AgentFigures) -> int:
    return sum(figures.count for figures in agent.operations.values())


def _role(role: str, meters: Sequence[Meter]) -> Agents:
    """Sum up the agents of a role; readers have a number behind it."""
    found = [[agent for name, agent in meter.agents.items() if name.split()[0] == role] for meter in meters]
    return Agents(
        role=role,
        agents=max(map(len, found)),
        operations=median_low(sum(map(_operations, agents)) for agents in found),
        bytes_written=median_low(sum(agent.bytes_written for agent in agents) for agents in found),
        bytes_read=median_low(sum(agent.bytes_read for agent in agents) for agents in found),
    )


def _kinds(meters: Iterable[Meter]) -> list[str]:
    """Return the kinds of operations that there were, in a fixed order; mixed commits after the others."""
    found = {kind for meter in meters for agent in meter.agents.values() for kind in agent.operations}
    return sorted(found, key=lambda kind: (KINDS.index(kind) if kind in KINDS else len(KINDS), kind))


def _kind(kind: str, meters: Sequence[Meter]) -> Operation:
    runs = [[agent.operations[kind] for agent in meter.agents.values() if kind in agent.operations] for meter in meters]
    seconds = [sample for run in runs for figures in run for sample in figures.seconds]
    return Operation(
        kind=kind,
        count=median_low(sum(figures.count for figures in run) for run in runs),
        refused=median_low(sum(figures.refused for figures in run) for run in runs),
        latency=Latency(
            samples=len(seconds),
            p50=percentile(seconds, 50),
            p95=percentile(seconds, 95),
            p99=percentile(seconds, 99),
        ),
    )
