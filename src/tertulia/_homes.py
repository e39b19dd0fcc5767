"""Where each public name of the package is defined, and how it is found there when somebody first asks for it.

`import tertulia` is to cost next to nothing: a command line that only shows its help, and a program that uses a part of
the library, should not wait until all of it is loaded.
"""

import sys
from importlib import import_module
from types import ModuleType

__all__ = ["HOMES", "find", "names"]

PACKAGE = "tertulia"

HOMES: dict[str, tuple[str, ...]] = {
    "tertulia._names": ("literal",),
    "tertulia.agents.hybrid": ("HybridAgent",),
    "tertulia.agents.memory_aware": ("MemoryAwareAgent",),
    "tertulia.agents.message_passing": ("MessagePassingAgent",),
    "tertulia.ballots": (
        "Ballot",
        "BallotResult",
        "BallotState",
        "BallotTerms",
        "Candidate",
        "Denominator",
        "Outcome",
        "TieBreak",
        "Vote",
        "VotingRule",
    ),
    "tertulia.errors": ("Reject", "RetryLater", "TertuliaError"),
    "tertulia.hypotheses": (
        "BoardAction",
        "BoardRecord",
        "Hypothesis",
        "HypothesisState",
        "SolutionCandidate",
        "WorkRequest",
    ),
    "tertulia.memory": ("SharedMemory",),
    "tertulia.messaging.broker": ("MessageBroker",),
    "tertulia.messaging.delivery": ("Delivery", "DeliveryTransaction"),
    "tertulia.messaging.mailbox": ("MessageQueue",),
    "tertulia.patterns.blackboard.board": ("Blackboard",),
    "tertulia.patterns.blackboard.control": ("Controller", "RunEnd", "RunResult"),
    "tertulia.patterns.blackboard.sources": ("KnowledgeSource", "Situation"),
    "tertulia.patterns.caching": ("CacheInfo",),
    "tertulia.patterns.collaboration": (
        "Afterwards",
        "Collaboration",
        "CollaborationTask",
        "Contribution",
        "ContributionStatus",
    ),
    "tertulia.patterns.election": ("Election",),
    "tertulia.patterns.grants": ("Grant",),
    "tertulia.patterns.hybrid": ("HybridCommunicationSystem",),
    "tertulia.patterns.locks": ("Lock",),
    "tertulia.patterns.notifying": ("Notified",),
    "tertulia.patterns.router": ("IntelligentRouter",),
    "tertulia.patterns.semaphore": ("Semaphore",),
    "tertulia.patterns.vote_requests": ("VoteAnswers",),
    "tertulia.patterns.voting": ("Ballots",),
    "tertulia.patterns.workspace": ("BroadcastReceipt", "CollaborativeWorkspace"),
    "tertulia.records": (
        "KEEP",
        "MISSING",
        "AccessRecord",
        "AgentInfo",
        "BrokerStats",
        "ChangeKind",
        "DeadLetter",
        "DeliveryMode",
        "Failure",
        "Finding",
        "Holder",
        "MailboxStats",
        "MemoryAccessMode",
        "MemoryChange",
        "MemoryEntry",
        "MemoryStats",
        "Message",
        "MessageRecord",
        "QueuedMessage",
        "Receipt",
        "Snapshot",
        "WaitsFor",
        "WhenFull",
    ),
    "tertulia.regions": ("MemoryRegion",),
    "tertulia.routes": (
        "Channel",
        "ChannelEstimate",
        "Latency",
        "PairReport",
        "RoutedContent",
        "RouteDecision",
        "RouteResult",
        "RouterReport",
    ),
    "tertulia.selection.recommendation": ("Recommendation",),
    "tertulia.selection.requirement": ("CommunicationRequirement", "Paradigm", "UseCase"),
    "tertulia.selection.selector": ("CommunicationSelector",),
    "tertulia.space": ("Space", "connect"),
    "tertulia.transaction": ("Transaction",),
}

_HOME_OF = {name: module for module, defined in HOMES.items() for name in defined}


def find(name: str) -> object:
    """Return a public name or a module of the package, and keep it there, so that it is looked for once.

    Raises AttributeError, as any module does for what it does not have.
    """
    if name in _HOME_OF:
        found: object = getattr(import_module(_HOME_OF[name]), name)
        setattr(sys.modules[PACKAGE], name, found)
        return found
    if not name.startswith("_"):  # what Python, inspect and doctest look for is never a module of ours
        module = _module(f"{PACKAGE}.{name}")
        if module is not None:
            return module  # which importing it has made an attribute of the package
    raise AttributeError(f"module {PACKAGE!r} has no attribute {name!r}", name=name, obj=sys.modules[PACKAGE])


def _module(path: str) -> ModuleType | None:
    """Return a module of the package, None if there is none: `tertulia.errors` needs no import of its own."""
    try:
        return import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path:  # it is there, and something that it needs is not
            raise
        return None


def names() -> list[str]:
    """Return what `dir()` lists: what is there already, and what can be asked for."""
    return sorted({*vars(sys.modules[PACKAGE]), *_HOME_OF})
