"""The causal path of a message, and when it is too long."""

from __future__ import annotations

MAX_HOPS = 32  # real pipelines are shorter; agents that answer each other's answers get here in a blink


def extended_path(hops: tuple[str, ...], agent_id: str) -> tuple[str, ...]:
    """Return the path of a message that an agent sends while it handles one with path `hops`."""
    return (*hops, agent_id)


def is_loop(hops: tuple[str, ...]) -> bool:
    """Tell whether a message has been handed on too often."""
    return len(hops) > MAX_HOPS
