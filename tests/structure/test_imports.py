"""Imports inside the package point down the layers, never up and never in a circle.

`faults` reads sources, not imported modules, so it sees what no run would: imports inside
functions, behind `TYPE_CHECKING`, or in an engine whose extra is not installed. The only way past
it is the one the design asks for: `space.py` loads an engine by name through importlib.
"""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "tertulia"
ROOT = Path(__file__).parents[2] / "src" / PACKAGE

# From the ground up. A module may import its own layer and those before it; so testing, the last,
# may import all of them and nothing may import testing.
LAYERS = (
    (
        "ground",
        {
            "records",
            "ballots",
            "hypotheses",
            "routes",
            "errors",
            "_codec",
            "_names",
            "_clock",
            "_background",
            "_arguments",
        },
    ),
    ("rules", {"_rules"}),
    ("engines", {"engines"}),
    ("core", {"space", "memory", "watching", "regions", "messaging", "transaction", "_commits"}),
    ("patterns", {"patterns"}),
    ("agents", {"agents"}),
    ("processes", {"processes"}),
    ("comparison", {"compare", "selection"}),
    ("portal", {"blocking"}),
    ("the package itself", {"", "_homes"}),
    ("faces", {"cli", "__main__"}),
    ("testing", {"testing"}),
)
LEVELS = {part: level for level, (_, parts) in enumerate(LAYERS) for part in parts}

Sources = Mapping[str, str]


def faults(sources: Sources) -> list[str]:
    """What is wrong with the imports in `sources`, one line each.

    `sources` maps a path inside the package, such as `messaging/broker.py`, to its text.
    """
    edges = sorted(_edges(sources))
    found = [
        f"{_module(path)}: in no layer; add it to LAYERS" for path in sources if _part(_module(path)) not in LEVELS
    ]
    for importer, imported, line in edges:
        reason = _refusal(importer, imported)
        if reason:
            found.append(f"{importer}:{line} imports {imported}: {reason}")
    return found + _cycles((importer, imported) for importer, imported, _ in edges)


def _refusal(importer: str, imported: str) -> str | None:
    upper, lower = _part(importer), _part(imported)
    if upper not in LEVELS:
        return None  # already reported as a module in no layer
    if lower not in LEVELS:
        return "in no layer"
    if LEVELS[lower] > LEVELS[upper]:
        return f"{LAYERS[LEVELS[upper]][0]} may not import {LAYERS[LEVELS[lower]][0]}"
    return _refusal_of_engine(importer, imported)


def _refusal_of_engine(importer: str, imported: str) -> str | None:
    engine = _engine(imported)
    if engine is None or engine == _engine(importer) or _part(importer) == "testing":
        return None
    if _part(importer) == "engines":
        return "engines share only their base"
    return "an engine is loaded by URL, not imported"


def _engine(module: str) -> str | None:
    """The engine that a module belongs to; the base and private helpers belong to none."""
    parts = module.split(".")
    if parts[1:2] != ["engines"] or len(parts) < 3 or parts[2] == "base" or parts[2][0] == "_":
        return None
    return parts[2]


def _cycles(edges: Iterator[tuple[str, str]]) -> list[str]:
    graph: dict[str, set[str]] = {}
    for importer, imported in edges:
        graph.setdefault(importer, set()).add(imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return ["cycle: " + " <- ".join(error.args[1])]
    return []


def _edges(sources: Sources) -> Iterator[tuple[str, str, int]]:
    modules = {_module(path) for path in sources}
    for path, text in sources.items():
        importer = _module(path)
        package = importer if path.endswith("__init__.py") else importer.rpartition(".")[0]
        for node in ast.walk(ast.parse(text, filename=path)):
            if not isinstance(node, ast.stmt | ast.expr):
                continue
            for imported in _targets(node, package, modules):
                if imported.partition(".")[0] == PACKAGE and not _by_url(node, importer, imported):
                    yield importer, imported, node.lineno


def _targets(node: ast.AST, package: str, modules: set[str]) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            start = _absolute("." * level + (module or ""), package)
            deeper = [f"{start}.{alias.name}" for alias in names]
            return [name if name in modules else start for name in deeper]
        case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]) if _last_name(function) in {
            "import_module",
            "__import__",
        }:
            return [_absolute(name, package)]
        case _:
            return []


def _by_url(node: ast.AST, importer: str, imported: str) -> bool:
    loads = isinstance(node, ast.Call)
    return loads and _part(importer) == "space" and _part(imported) == "engines"


def _absolute(name: str, package: str) -> str:
    level = len(name) - len(name.lstrip("."))
    if not level:
        return name
    parents = package.split(".")[: len(package.split(".")) - level + 1]
    return ".".join([*parents, name[level:]]).rstrip(".")


def _last_name(function: ast.expr) -> str | None:
    return getattr(function, "attr", getattr(function, "id", None))


def _module(path: str) -> str:
    parts = [PACKAGE, *path.removesuffix(".py").split("/")]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _part(module: str) -> str:
    """What places a module in a layer: the first name after the package's."""
    return module.partition(".")[2].partition(".")[0]


def test_the_package_imports_only_downwards():
    sources = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))
    }

    assert faults(sources) == []


ALLOWED: dict[str, Sources] = {
    "downwards": {
        "errors.py": "",
        "memory.py": "from tertulia.errors import TertuliaError\nfrom . import errors",
        "patterns/locks.py": "from tertulia.memory import SharedMemory",
    },
    "within a layer": {
        "memory.py": "",
        "space.py": "from tertulia.memory import SharedMemory",
    },
    "an engine and the base": {
        "engines/base.py": "from tertulia._rules import expiry",
        "engines/file.py": "from .base import Engine\nfrom ._bells import ring",
        "engines/_bells.py": "",
    },
    "an engine that is a folder": {
        "engines/file/__init__.py": "from tertulia.engines.file.claims import claim",
        "engines/file/claims.py": "from ..base import Engine",
        "engines/base.py": "",
    },
    "an engine loaded by the space": {
        "space.py": "import importlib\nimportlib.import_module('tertulia.engines.file')",
        "engines/file.py": "",
    },
    "testing and an engine": {
        "testing/kit.py": "from tertulia.engines.inprocess import InProcessEngine",
        "engines/inprocess.py": "",
    },
    "a neighbour that shares the prefix of the name": {
        "errors.py": "import tertuliana.patterns",
    },
    "a sibling next to an init that imports both": {
        "messaging/__init__.py": "from .broker import Broker\nfrom .mailbox import Mailbox",
        "messaging/broker.py": "from . import mailbox",
        "messaging/mailbox.py": "",
    },
}

REFUSED: dict[str, tuple[Sources, str]] = {
    "upwards": (
        {"errors.py": "from tertulia.memory import SharedMemory", "memory.py": ""},
        "ground may not import core",
    ),
    "upwards, relative": (
        {"_rules/retry.py": "from ..space import connect", "space.py": ""},
        "rules may not import core",
    ),
    "upwards, inside a function": (
        {"records.py": "def late():\n    import tertulia.messaging.broker"},
        "tertulia.records:2 imports tertulia.messaging.broker",
    ),
    "upwards, for types only": (
        {"_clock.py": "if TYPE_CHECKING:\n    from tertulia.space import Space"},
        "ground may not import core",
    ),
    "upwards, by name": (
        {"memory.py": "import_module('tertulia.patterns.locks')"},
        "core may not import patterns",
    ),
    "upwards, by relative name": (
        {"memory.py": "importlib.import_module('.agents', __package__)"},
        "core may not import agents",
    ),
    "core to patterns": (
        {"messaging/broker.py": "from tertulia import patterns", "patterns/__init__.py": ""},
        "core may not import patterns",
    ),
    "the space to patterns by name": (
        {"space.py": "importlib.import_module('tertulia.patterns.locks')"},
        "core may not import patterns",
    ),
    "patterns to agents": (
        {"patterns/hybrid.py": "from tertulia.agents.hybrid import HybridAgent"},
        "patterns may not import agents",
    ),
    "through the package itself": (
        {"memory.py": "from tertulia import Space", "__init__.py": ""},
        "core may not import the package itself",
    ),
    "anything to a face": (
        {"selection/selector.py": "from tertulia.cli.tables import table"},
        "comparison may not import faces",
    ),
    "a face to testing": (
        {"cli/doctor.py": "from tertulia.testing import FaultyEngine"},
        "faces may not import testing",
    ),
    "engine to engine": (
        {"engines/file.py": "from tertulia.engines.inprocess import x", "engines/inprocess.py": ""},
        "engines share only their base",
    ),
    "engine to engine, relative": (
        {"engines/nats.py": "from . import file", "engines/file.py": ""},
        "engines share only their base",
    ),
    "the base to an engine": (
        {"engines/base.py": "from .file import FileEngine", "engines/file.py": ""},
        "engines share only their base",
    ),
    "a helper of engines to an engine": (
        {"engines/_bells.py": "from .file import FileEngine", "engines/file.py": ""},
        "engines share only their base",
    ),
    "core to an engine": (
        {"memory.py": "from tertulia.engines.file import FileEngine", "engines/file.py": ""},
        "an engine is loaded by URL, not imported",
    ),
    "the space to an engine, by statement": (
        {"space.py": "def load():\n    from tertulia.engines import file", "engines/file.py": ""},
        "an engine is loaded by URL, not imported",
    ),
    "a cycle of two": (
        {"memory.py": "import tertulia.regions", "regions.py": "import tertulia.memory"},
        "cycle: ",
    ),
    "a cycle hidden in functions and types": (
        {
            "messaging/broker.py": "from . import delivery",
            "messaging/delivery.py": "def late():\n    from . import mailbox",
            "messaging/mailbox.py": "if TYPE_CHECKING:\n    from .broker import Broker",
        },
        "cycle: ",
    ),
    "a cycle through an init": (
        {
            "messaging/__init__.py": "from .broker import Broker",
            "messaging/broker.py": "from tertulia.messaging import Broker",
        },
        "cycle: ",
    ),
    "a module that imports itself": (
        {"memory.py": "from tertulia.memory import SharedMemory"},
        "cycle: ",
    ),
    "a module in no layer": (
        {"helpers.py": ""},
        "tertulia.helpers: in no layer",
    ),
    "an import of a module in no layer": (
        {"memory.py": "from tertulia.helpers import help_out"},
        "in no layer",
    ),
}


@pytest.mark.parametrize("sources", ALLOWED.values(), ids=ALLOWED.keys())
def test_these_imports_are_allowed(sources: Sources):
    assert faults(sources) == []


@pytest.mark.parametrize(("sources", "expected"), REFUSED.values(), ids=REFUSED.keys())
def test_these_imports_are_refused(sources: Sources, expected: str):
    found = faults(sources)

    assert len(found) == 1
    assert expected in found[0]
