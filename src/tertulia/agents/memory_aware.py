"""An agent that uses shared memory."""

from __future__ import annotations

from typing import Any

from tertulia._names import check_name
from tertulia.memory import SharedMemory
from tertulia.records import MemoryEntry

STATE_TAG = "agent_state"
RESULT_TAG = "shared_result"


class MemoryAwareAgent:
    """An agent with a state of its own in the memory, and results that it shares with others."""

    def __init__(self, agent_id: str, memory: SharedMemory) -> None:
        self.agent_id = check_name(agent_id)
        self.memory = memory
        self._workspace_key = f"agent:{agent_id}:workspace"

    async def save_state(self, state: object) -> MemoryEntry:
        """Keep the agent's state, in place of an earlier one; it outlives the agent's process if the space does."""
        return await self.memory.write(self._workspace_key, state, owner=self.agent_id, tags=(STATE_TAG,))

    async def load_state(self, *, default: Any = None, type: Any = None) -> Any:
        """Return the state last saved under this agent's name, or `default`."""
        return await self.memory.read(self._workspace_key, reader=self.agent_id, default=default, type=type)

    async def share_result(self, key: str, result: object, *, ttl: float | None = None) -> MemoryEntry:
        """Share a result under `shared:KEY`; who produced it, and when, is the entry's owner and time."""
        return await self.memory.write(f"shared:{key}", result, owner=self.agent_id, ttl=ttl, tags=(RESULT_TAG,))

    async def get_shared_result(self, key: str, *, default: Any = None, type: Any = None) -> Any:
        """Return a result that some agent shared, or `default`. A falsy result is a result."""
        return await self.memory.read(f"shared:{key}", reader=self.agent_id, default=default, type=type)
