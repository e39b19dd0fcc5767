"""Both paradigms at once: writes that notify in the same commit, and requests whose answers are kept in memory."""

from __future__ import annotations

from tertulia.patterns.cached_calls import CachedCalls
from tertulia.patterns.notifying import NotifyingWrites
from tertulia.patterns.single_flight import DEFAULT_LEASE
from tertulia.records import WhenFull
from tertulia.space import Space


class HybridCommunicationSystem(NotifyingWrites, CachedCalls):
    """Memory and messages of a space used together: `HybridCommunicationSystem(space)`.

    Any number of them, in any number of processes, may work on one space; what they cache they share. `lease` is how
    many seconds others wait for a computation whose process died or was stopped before they take it over.

    Raises, everywhere: InvalidInputError and its kin for bad input, before anything is stored or sent; EngineError
    when the engine fails; SpaceClosedError after closing.
    """

    def __init__(self, space: Space, *, lease: float = DEFAULT_LEASE) -> None:
        NotifyingWrites.__init__(self, space)
        CachedCalls.__init__(self, space, lease=lease)

    async def register_agent(
        self,
        agent_id: str,
        *,
        max_queue_size: int = 1000,
        when_full: WhenFull = WhenFull.REJECT,
        max_attempts: int = 5,
        ordered: bool = False,
    ) -> bool:
        """Give the agent a mailbox; return whether it is new. See MessageBroker.register_agent."""
        return await self.broker.register_agent(
            agent_id,
            max_queue_size=max_queue_size,
            when_full=when_full,
            max_attempts=max_attempts,
            ordered=ordered,
        )
