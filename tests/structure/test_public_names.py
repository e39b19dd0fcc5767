"""What `import tertulia` offers is a promise, so a name comes or goes only with this list.

An `__init__.py` imports and lists and does nothing else: importing the package must have no
effect, and a reader must find every piece of logic in a file named after it. The package's own names are
imported when they are first asked for, see `tertulia._homes`.
"""

import ast
import importlib
import pickle
import subprocess
import sys
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


def more_than_a_list(source: str) -> list[str]:
    """The statements of an `__init__.py` that are neither docstring, import nor `__all__`."""
    statements = ast.parse(source).body
    if statements and _is_docstring(statements[0]):
        del statements[0]
    return [
        f"{statement.lineno}: {ast.unparse(statement)}"
        for statement in statements
        if not _is_import(statement) and not _is_listing(statement) and not _is_for_checkers(statement)
    ]


def _is_import(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Import | ast.ImportFrom)


def _is_for_checkers(statement: ast.stmt) -> bool:
    """Whether it imports names for checkers, and for Python what finds the same names later."""
    match statement:
        case ast.If(test=ast.Name(id="TYPE_CHECKING"), body=body, orelse=orelse):
            return all(map(_is_import, (*body, *orelse)))
        case _:
            return False


def imported_for_checkers(source: str) -> dict[str, tuple[str, ...]]:
    """The names that a checker sees, by the module that they come from."""
    return {
        str(statement.module): tuple(alias.name for alias in statement.names)
        for block in ast.parse(source).body
        if isinstance(block, ast.If)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
    }


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


def test_python_finds_each_name_where_checkers_are_told_that_it_is():
    homes = importlib.import_module("tertulia._homes")

    assert imported_for_checkers((ROOT / "__init__.py").read_text(encoding="utf-8")) == homes.HOMES
    assert sorted(name for names in homes.HOMES.values() for name in names) == PUBLIC_NAMES


def test_a_name_is_the_same_object_however_it_is_asked_for():
    package = importlib.import_module("tertulia")
    errors = importlib.import_module("tertulia.errors")

    assert package.TertuliaError is errors.TertuliaError
    assert pickle.loads(pickle.dumps(package.TertuliaError)) is errors.TertuliaError  # noqa: S301 - made here
    assert set(PUBLIC_NAMES) <= set(dir(package))


def test_what_there_is_none_of_is_said_as_any_module_says_it():
    package = importlib.import_module("tertulia")

    with pytest.raises(AttributeError, match="module 'tertulia' has no attribute 'Spaces'"):
        _ = package.Spaces
    with pytest.raises(ImportError, match="cannot import name 'Spaces'"):
        from tertulia import Spaces  # noqa: F401, PLC0415 # pyright: ignore[reportAttributeAccessIssue]


def test_the_package_loads_none_of_its_modules_until_something_is_asked_of_it():
    shown = (
        "import sys, tertulia\n"
        "print(sorted(name for name in sys.modules if name.startswith('tertulia')))\n"
        "print(tertulia.errors.KeyNotFoundError.__name__, callable(tertulia.connect))\n"
        "print('tertulia.space' in sys.modules, 'connect' in vars(tertulia))"
    )
    done = subprocess.run(  # noqa: S603 - what is run is above
        [sys.executable, "-c", shown], cwd=ROOT.parent, capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout.splitlines() == [
        "['tertulia', 'tertulia._homes']",
        "KeyNotFoundError True",
        "True True",
    ]


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
        "if TYPE_CHECKING:\n    from .space import Space\nelse:\n    from ._homes import find as __getattr__",
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
        ("if TYPE_CHECKING:\n    from .space import Space\nelse:\n    Space = None", "1: if TYPE_CHECKING:"),
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
