"""What is being handled right now, so that what a handler sends and asks inherits path and deadline.

It is also how whoever looks at waits (see `RequestObserver`) knows which handling a wait holds up.
"""

from __future__ import annotations

from contextvars import ContextVar

from msgspec import Struct


class Handling(Struct, frozen=True, gc=False):
    """The message that the running handler handles, as far as its consequences inherit from it.

    `hops` is the path that what is sent now has behind it, the handling agent last; `deadline` is civil time.
    `message_id` and `attempt` tell the handling from all others of its mailbox. `marked`: somebody up the path of
    requests waits with a lease in hand, see WAITS_HEADER. `answered`: the requester has its reply already.
    """

    hops: tuple[str, ...]
    deadline: float | None
    message_id: str = ""
    attempt: int = 1
    marked: bool = False
    answered: bool = False


WAITS_HEADER = "tertulia-waits"  # on a request: its sender, or a requester before it, holds a lease while it waits

HANDLING: ContextVar[Handling | None] = ContextVar("tertulia_handling", default=None)


def path_so_far() -> tuple[str, ...]:
    """Return the agents whose handling has led to what is sent now."""
    handling = HANDLING.get()
    return () if handling is None else handling.hops
