"""What agents need of their communication."""

from __future__ import annotations

import reprlib
from enum import Enum

from msgspec import Struct

from tertulia._arguments import check_count
from tertulia.errors import InvalidInputError

__all__ = ["MAX_AGENTS", "MAX_PAYLOAD", "CommunicationRequirement", "Paradigm", "UseCase"]

MAX_AGENTS = 10_000
MAX_PAYLOAD = 1_073_741_824  # bytes: 1 GiB, beyond what any engine takes as one value


class UseCase(Enum):
    """What agents communicate for."""

    STATE_SHARING = "state_sharing"
    REQUEST_RESPONSE = "request_response"
    EVENT_STREAMING = "event_streaming"
    BROADCAST = "broadcast"
    CACHING = "caching"
    COORDINATION = "coordination"


class Paradigm(Enum):
    """How agents communicate. HYBRID changes memory and sends messages in one commit."""

    MEMORY = "memory"
    MESSAGES = "messages"
    HYBRID = "hybrid"


class CommunicationRequirement(Struct, frozen=True, kw_only=True):
    """What is asked of the communication. Only `use_case` is needed; the others have the modest defaults.

    `latency_sensitive`: the slow ones count, not only the usual. `high_throughput`: how much gets through counts.
    `strong_consistency`: every reader sees the latest, and no update is lost. `fault_tolerant`: what was acknowledged
    survives the death of any process, and is neither lost nor done twice. `scalable`: the team is going to grow.
    `agents`: how many there are. `payload`: the usual size of a value or message, in bytes. `processes`: the agents are
    more than one process; `machines`: they are on more than one machine. `durable`: the state outlives the processes.
    `power_safe`: it outlives a power cut, too.

    Raises InvalidInputError for fields that are not what they should be.
    """

    use_case: UseCase
    latency_sensitive: bool = False
    high_throughput: bool = False
    strong_consistency: bool = False
    fault_tolerant: bool = False
    scalable: bool = False
    agents: int = 2
    payload: int = 1_000
    processes: bool = False
    machines: bool = False
    durable: bool = False
    power_safe: bool = False

    def __post_init__(self) -> None:
        _check_use_case(self.use_case)
        check_count("agents", self.agents, MAX_AGENTS)
        if self.agents < 2:  # noqa: PLR2004 - it takes two to communicate
            raise InvalidInputError("a team of one has nobody to communicate with: agents must be 2 or more")
        check_count("payload", self.payload, MAX_PAYLOAD)
        for name in FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise InvalidInputError(f"{name} must be True or False, not {reprlib.repr(getattr(self, name))}")


FLAGS = (
    "latency_sensitive",
    "high_throughput",
    "strong_consistency",
    "fault_tolerant",
    "scalable",
    "processes",
    "machines",
    "durable",
    "power_safe",
)


def _check_use_case(use_case: object) -> None:
    if not isinstance(use_case, UseCase):
        raise InvalidInputError(f"use_case must be a UseCase, not {reprlib.repr(use_case)}")
