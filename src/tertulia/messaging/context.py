"""What is being handled right now, so that what a handler sends and asks inherits path and deadline."""

from __future__ import annotations

from contextvars import ContextVar

from msgspec import Struct


class Handling(Struct, frozen=True, gc=False):
    """The message that the running handler handles, as far as its consequences inherit from it.

    `hops` is the path that what is sent now has behind it; `deadline` is civil time.
    """

    hops: tuple[str, ...]
    deadline: float | None


HANDLING: ContextVar[Handling | None] = ContextVar("tertulia_handling", default=None)


def path_so_far() -> tuple[str, ...]:
    """Return the agents whose handling has led to what is sent now."""
    handling = HANDLING.get()
    return () if handling is None else handling.hops
