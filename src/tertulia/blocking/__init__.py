"""Tertulia for threads and plain scripts: the same spaces and names, without `await`."""

from tertulia.blocking.agents import MemoryAwareAgent, MessagePassingAgent
from tertulia.blocking.faces import (
    Delivery,
    DeliveryTransaction,
    MemoryRegion,
    MemoryWatch,
    MessageBroker,
    MessageQueue,
    RegionWatch,
    SharedMemory,
    Transaction,
)
from tertulia.blocking.hybrid import CollaborationTask, HybridAgent, HybridCommunicationSystem
from tertulia.blocking.locks import Election, Grant, Hold, LeaderWatch, Lock, Semaphore
from tertulia.blocking.patterns import Ballots, CollaborativeWorkspace, IntelligentRouter, WorkspaceWatch
from tertulia.blocking.proxy import Stream
from tertulia.blocking.space import Space, connect

__all__ = [
    "Ballots",
    "CollaborationTask",
    "CollaborativeWorkspace",
    "Delivery",
    "DeliveryTransaction",
    "Election",
    "Grant",
    "Hold",
    "HybridAgent",
    "HybridCommunicationSystem",
    "IntelligentRouter",
    "LeaderWatch",
    "Lock",
    "MemoryAwareAgent",
    "MemoryRegion",
    "MemoryWatch",
    "MessageBroker",
    "MessagePassingAgent",
    "MessageQueue",
    "RegionWatch",
    "Semaphore",
    "SharedMemory",
    "Space",
    "Stream",
    "Transaction",
    "WorkspaceWatch",
    "connect",
]
