"""From several runs to the figures of a paradigm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median, median_low

from tertulia.compare.measuring import KINDS
from tertulia.compare.recordings import AgentFigures, figures_of, percentile
from tertulia.compare.results import Agents, Latency, Measured, Operation, Spread
from tertulia.compare.teams import OFFICE, Played

__all__ = ["summarise"]

Figures = Mapping[str, AgentFigures]  # of one run, by agent


def summarise(runs: Sequence[Played], agents: Iterable[str]) -> Measured:
    """Sum up runs of one sort: counts are medians over the runs, latencies are of all runs together.

    Of an even number of counts the median is the lower middle one: a count that a run really had. `agents` are those of
    the team; the first word of a name is the role, and roles come in this order, the office last.
    """
    figures = [figures_of(run.recordings) for run in runs]
    roles = dict.fromkeys(_role_of(agent) for agent in (*agents, OFFICE))

    def of_one_run(figure: Callable[[AgentFigures], int]) -> int:
        return median_low(sum(map(figure, run.values())) for run in figures)

    return Measured(
        wall=Spread.of(run.seconds for run in runs),
        cpu=Spread.of(run.cpu for run in runs),
        throughput=median(
            sum(map(_operations, found.values())) / run.seconds for run, found in zip(runs, figures, strict=True)
        ),
        operations=of_one_run(_operations),
        messages_received=of_one_run(lambda agent: agent.messages_received),
        changes_noticed=of_one_run(lambda agent: agent.changes_noticed),
        bytes_written=of_one_run(lambda agent: agent.bytes_written),
        bytes_read=of_one_run(lambda agent: agent.bytes_read),
        roles=tuple(_role(role, figures) for role in roles),
        kinds=tuple(_kind(kind, figures) for kind in _kinds(figures)),
    )


def _operations(agent: AgentFigures) -> int:
    return sum(figures.count for figures in agent.operations.values())


def _role_of(agent: str) -> str:
    return agent.split(maxsplit=1)[0]


def _role(role: str, runs: Sequence[Figures]) -> Agents:
    """Sum up the agents of a role."""
    found = [[figures for name, figures in run.items() if _role_of(name) == role] for run in runs]
    return Agents(
        role=role,
        agents=max(map(len, found)),
        operations=median_low(sum(map(_operations, agents)) for agents in found),
        bytes_written=median_low(sum(agent.bytes_written for agent in agents) for agents in found),
        bytes_read=median_low(sum(agent.bytes_read for agent in agents) for agents in found),
    )


def _kinds(runs: Iterable[Figures]) -> list[str]:
    """Return the kinds of operations that there were, in a fixed order; mixed commits after the others."""
    found = {kind for run in runs for agent in run.values() for kind in agent.operations}
    return sorted(found, key=lambda kind: (KINDS.index(kind) if kind in KINDS else len(KINDS), kind))


def _kind(kind: str, runs: Sequence[Figures]) -> Operation:
    found = [[agent.operations[kind] for agent in run.values() if kind in agent.operations] for run in runs]
    seconds = [sample for run in found for figures in run for sample in figures.seconds]
    return Operation(
        kind=kind,
        count=median_low(sum(figures.count for figures in run) for run in found),
        refused=median_low(sum(figures.refused for figures in run) for run in found),
        latency=Latency(
            samples=len(seconds),
            p50=percentile(seconds, 50),
            p95=percentile(seconds, 95),
            p99=percentile(seconds, 99),
        ),
    )
