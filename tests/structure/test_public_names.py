"""What `import tertulia` offers is a promise, so a name comes or goes only with this list.

An `__init__.py` imports and lists and does nothing else: importing the package must have no
effect, and a reader must find every piece of logic in a file named after it.
"""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "src" / "tertulia"

# Sorted as `sorted()` does, one name a line; about forty at most.
PUBLIC_NAMES: list[str] = [
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
    "KEEP",
    "KnowledgeSource",
    "Latency",
    "Lock",
    "MISSING",
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
    "Semaphore",
    "SharedMemory",
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


def more_than_a_list(source: str) -> list[str]:
    """The statements of an `__init__.py` that are neither docstring, import nor `__all__`."""
    statements = ast.parse(source).body
    if statements and _is_docstring(statements[0]):
        del statements[0]
    return [
        f"{statement.lineno}: {ast.unparse(statement)}"
        for statement in statements
        if not isinstance(statement, ast.Import | ast.ImportFrom) and not _is_listing(statement)
    ]


def _is_docstring(statement: ast.stmt) -> bool:
    match statement:
        case ast.Expr(value=ast.Constant(value=str())):
            return True
        case _:
            return False


def _is_listing(statement: ast.stmt) -> bool:
    match statement:
        case ast.Assign(targets=[ast.Name(id="__all__")], value=ast.List() | ast.Tuple() as names):
            return all(isinstance(name, ast.Constant) for name in names.elts)
        case _:
            return False


def test_the_public_names_are_the_pinned_ones():
    package = importlib.import_module("tertulia")

    assert sorted(getattr(package, "__all__", [])) == PUBLIC_NAMES


def test_the_pinned_list_is_sorted_and_has_no_name_twice():
    assert sorted(set(PUBLIC_NAMES)) == PUBLIC_NAMES


def test_every_public_name_can_be_imported():
    package = importlib.import_module("tertulia")

    assert [name for name in PUBLIC_NAMES if not hasattr(package, name)] == []


def test_every_init_only_imports_and_lists():
    found = {
        path.relative_to(ROOT).as_posix(): problems
        for path in sorted(ROOT.rglob("__init__.py"))
        if (problems := more_than_a_list(path.read_text(encoding="utf-8")))
    }

    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "",
        '"""What it is."""',
        '"""What it is."""\nfrom .space import Space\nimport tertulia.x\n__all__ = ["Space"]',
        '__all__ = ("a", "b")',
    ],
)
def test_imports_and_a_list_are_accepted(source: str):
    assert more_than_a_list(source) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("version = read_version()", "1: version = read_version()"),
        ("def __getattr__(name): ...", "1: def __getattr__(name):"),
        ("import os\nif os.name == 'nt':\n    import msvcrt", "2: if os.name == 'nt':"),
        ("try:\n    import nats\nexcept ImportError:\n    nats = None", "1: try:"),
        ("__all__ = sorted(globals())", "1: __all__ = sorted(globals())"),
        ("__all__ = [*names]", "1: __all__ = [*names]"),
        ("__all__ = ['a']\n__all__ += ['b']", "2: __all__ += ['b']"),
        ("import a\n'a second string'", "2: 'a second string'"),
    ],
)
def test_anything_more_is_found(source: str, expected: str):
    found = more_than_a_list(source)

    assert len(found) == 1
    assert found[0].startswith(expected)
