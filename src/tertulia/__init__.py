"""Tertulia: shared memory and messages for agents, in one atomic commit."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tertulia._names import literal
    from tertulia.agents.hybrid import HybridAgent
    from tertulia.agents.memory_aware import MemoryAwareAgent
    from tertulia.agents.message_passing import MessagePassingAgent
    from tertulia.ballots import (
        Ballot,
        BallotResult,
        BallotState,
        BallotTerms,
        Candidate,
        Denominator,
        Outcome,
        TieBreak,
        Vote,
        VotingRule,
    )
    from tertulia.errors import Reject, RetryLater, TertuliaError
    from tertulia.hypotheses import (
        BoardAction,
        BoardRecord,
        Hypothesis,
        HypothesisState,
        SolutionCandidate,
        WorkRequest,
    )
    from tertulia.memory import SharedMemory
    from tertulia.messaging.broker import MessageBroker
    from tertulia.messaging.delivery import Delivery, DeliveryTransaction
    from tertulia.messaging.mailbox import MessageQueue
    from tertulia.patterns.blackboard.board import Blackboard
    from tertulia.patterns.blackboard.control import Controller, RunEnd, RunResult
    from tertulia.patterns.blackboard.sources import KnowledgeSource, Situation
    from tertulia.patterns.caching import CacheInfo
    from tertulia.patterns.collaboration import (
        Afterwards,
        Collaboration,
        CollaborationTask,
        Contribution,
        ContributionStatus,
    )
    from tertulia.patterns.election import Election
    from tertulia.patterns.grants import Grant
    from tertulia.patterns.hybrid import HybridCommunicationSystem
    from tertulia.patterns.locks import Lock
    from tertulia.patterns.notifying import Notified
    from tertulia.patterns.router import IntelligentRouter
    from tertulia.patterns.semaphore import Semaphore
    from tertulia.patterns.vote_requests import VoteAnswers
    from tertulia.patterns.voting import Ballots
    from tertulia.patterns.workspace import BroadcastReceipt, CollaborativeWorkspace
    from tertulia.records import (
        KEEP,
        MISSING,
        AccessRecord,
        AgentInfo,
        BrokerStats,
        ChangeKind,
        DeadLetter,
        DeliveryMode,
        Failure,
        Finding,
        Holder,
        MailboxStats,
        MemoryAccessMode,
        MemoryChange,
        MemoryEntry,
        MemoryStats,
        Message,
        MessageRecord,
        QueuedMessage,
        Receipt,
        Snapshot,
        WaitsFor,
        WhenFull,
    )
    from tertulia.regions import MemoryRegion
    from tertulia.routes import (
        Channel,
        ChannelEstimate,
        Latency,
        PairReport,
        RoutedContent,
        RouteDecision,
        RouteResult,
        RouterReport,
    )
    from tertulia.selection.recommendation import Recommendation
    from tertulia.selection.requirement import CommunicationRequirement, Paradigm, UseCase
    from tertulia.selection.selector import CommunicationSelector
    from tertulia.space import Space, connect
    from tertulia.transaction import Transaction
else:
    # Each name is looked up where `_homes` says it is, when it is first asked for: `import tertulia` and the command
    # line's help do not wait for what they do not need. A checker reads the list above; a test compares the two.
    from tertulia._homes import find as __getattr__  # noqa: F401 - Python calls it
    from tertulia._homes import names as __dir__  # noqa: F401 - so does `dir`

__all__ = [
    "KEEP",
    "MISSING",
    "AccessRecord",
    "Afterwards",
    "AgentInfo",
    "Ballot",
    "BallotResult",
    "BallotState",
    "BallotTerms",
    "Ballots",
    "Blackboard",
    "BoardAction",
    "BoardRecord",
    "BroadcastReceipt",
    "BrokerStats",
    "CacheInfo",
    "Candidate",
    "ChangeKind",
    "Channel",
    "ChannelEstimate",
    "Collaboration",
    "CollaborationTask",
    "CollaborativeWorkspace",
    "CommunicationRequirement",
    "CommunicationSelector",
    "Contribution",
    "ContributionStatus",
    "Controller",
    "DeadLetter",
    "Delivery",
    "DeliveryMode",
    "DeliveryTransaction",
    "Denominator",
    "Election",
    "Failure",
    "Finding",
    "Grant",
    "Holder",
    "HybridAgent",
    "HybridCommunicationSystem",
    "Hypothesis",
    "HypothesisState",
    "IntelligentRouter",
    "KnowledgeSource",
    "Latency",
    "Lock",
    "MailboxStats",
    "MemoryAccessMode",
    "MemoryAwareAgent",
    "MemoryChange",
    "MemoryEntry",
    "MemoryRegion",
    "MemoryStats",
    "Message",
    "MessageBroker",
    "MessagePassingAgent",
    "MessageQueue",
    "MessageRecord",
    "Notified",
    "Outcome",
    "PairReport",
    "Paradigm",
    "QueuedMessage",
    "Receipt",
    "Recommendation",
    "Reject",
    "RetryLater",
    "RouteDecision",
    "RouteResult",
    "RoutedContent",
    "RouterReport",
    "RunEnd",
    "RunResult",
    "Semaphore",
    "SharedMemory",
    "Situation",
    "Snapshot",
    "SolutionCandidate",
    "Space",
    "TertuliaError",
    "TieBreak",
    "Transaction",
    "UseCase",
    "Vote",
    "VoteAnswers",
    "VotingRule",
    "WaitsFor",
    "WhenFull",
    "WorkRequest",
    "connect",
    "literal",
]
