"""On whose behalf code runs: the grants that its wait would hold up, and the handling that it is part of.

A wait inside a block holds up what the block holds. Which block that is travels in a context variable, as the handling
of a message does, and so into tasks that are started inside: like `asyncio.gather` and `TaskGroup`, this takes it that
a block waits for the tasks started in it. Because agents that share a process are often started in each other's
blocks, a task counts only for grants of the same agent. So does the code after a plain `acquire`, which somebody
else may release.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any, Protocol

from tertulia.messaging.context import HANDLING, Handling
from tertulia.patterns._kept import grant_node, handling_node


class Held(Protocol):
    """What this file asks of a grant."""

    agent_id: str
    kind: str
    names: tuple[str, ...]
    token: str

    @property
    def held(self) -> bool:
        """Whether it is held, as far as is known here."""
        ...


_Place = tuple[str, str, int] | None  # the handling of a message, or none
_Entry = tuple[_Place, "asyncio.Task[Any] | None", Held]

_HELD: ContextVar[tuple[_Entry, ...]] = ContextVar("tertulia_held", default=())


def remember(grant: Held, *, block: bool = False) -> None:
    """Take note that the code that runs here holds the grant, until it is released or lost.

    In a `block` so does the rest of the task, whatever agent it speaks for: nobody else will leave the block.
    """
    entry = (_place(), _task() if block else None, grant)
    _HELD.set((*[entry for entry in _HELD.get() if entry[2].held and entry[2] is not grant], entry))


def held_here(agent_id: str) -> list[Held]:
    """Return the grants that a wait of this agent, made here, holds up."""
    entries = _HELD.get()
    if not entries:
        return []
    place, task = _place(), _task()
    return [
        grant
        for held_in, holder, grant in entries
        if grant.held and held_in == place and (grant.agent_id == agent_id or (holder is task and task is not None))
    ]


def nodes_held_up(agent_id: str) -> tuple[str, ...]:
    """Return the nodes of the waits-for graph that a wait of this agent, made here, holds up."""
    nodes = [grant_node(grant.token) for grant in held_here(agent_id)]
    place = _place()
    return (*nodes, handling_node(*place)) if place is not None else tuple(nodes)


def handling_here() -> Handling | None:
    """Return what is being handled here, or None."""
    return HANDLING.get()


def _place() -> _Place:
    handling = HANDLING.get()
    return None if handling is None else (handling.hops[-1], handling.message_id, handling.attempt)


def _task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # in a thread of the blocking portal
        return None
