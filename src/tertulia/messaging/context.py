"""What is being handled right now, so that what a handler sends and asks inherits path and deadline."""

from __future__ import annotations

from contextvars import ContextVar

from msgspec import Struct


class Handling(Struct, frozen=True):
    """The message that the running handler handles, as far as its consequences inherit from it."""

    agent_id: str
    message_id: str
    hops: tuple[str, ...]
    deadline: float | None


HANDLING: ContextVar[Handling | None] = ContextVar("tertulia_handling", default=None)
