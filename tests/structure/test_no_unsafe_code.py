"""The package neither runs code that arrives as data nor swallows exceptions.

A space is shared: what one agent stores, another decodes. Formats that can execute while they are
decoded have no place in the package, not even in a branch that looks unused.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "src" / "tertulia"

UNSAFE_MODULES = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle"}
UNSAFE_FUNCTIONS = {"eval", "exec", "builtins.eval", "builtins.exec"} | {
    f"yaml.{name}" for name in ("load", "load_all", "unsafe_load", "full_load")
}
CATCH_ALL = {"Exception", "BaseException"}


def unsafe(source: str) -> list[str]:
    """The unsafe things in one module's source, each with its line."""
    found = [
        (node.lineno, name)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.stmt | ast.expr | ast.ExceptHandler)
        for name in _unsafe_names(node)
    ]
    return [f"{line}: {name}" for line, name in sorted(found)]


def _unsafe_names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ExceptHandler):
        return ["swallowed exception"] if _swallows(node) else []
    imported = _imported(node)
    used = [ast.unparse(node)] if isinstance(node, ast.Name | ast.Attribute) else []
    modules = [name for name in imported if name.partition(".")[0] in UNSAFE_MODULES]
    return modules + [name for name in imported + used if name in UNSAFE_FUNCTIONS]


def _imported(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), names=names, level=0):
            return [f"{module}.{alias.name}" for alias in names]
        case ast.Call(func=function, args=[ast.Constant(value=str(module)), *_]) if ast.unparse(function).split(".")[
            -1
        ] in {"import_module", "__import__"}:
            return [module]
        case _:
            return []


def _swallows(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        catches_all = True
    else:
        kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        catches_all = any(ast.unparse(kind) in CATCH_ALL for kind in kinds)
    return catches_all and all(_does_nothing(statement) for statement in handler.body)


def _does_nothing(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def test_the_package_has_no_unsafe_code():
    found = {
        path.relative_to(ROOT).as_posix(): problems
        for path in sorted(ROOT.rglob("*.py"))
        if (problems := unsafe(path.read_text(encoding="utf-8")))
    }

    assert found == {}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import pickle", "1: pickle"),
        ("def f():\n    import marshal as m", "2: marshal"),
        ("from shelve import open", "1: shelve.open"),
        ("import cloudpickle.cloudpickle", "1: cloudpickle.cloudpickle"),
        ("importlib.import_module('pickle')", "1: pickle"),
        ("__import__('marshal')", "1: marshal"),
        ("eval(text)", "1: eval"),
        ("exec(text)", "1: exec"),
        ("run = eval", "1: eval"),
        ("builtins.exec(text)", "1: builtins.exec"),
        ("from builtins import eval as e", "1: builtins.eval"),
        ("yaml.load(text)", "1: yaml.load"),
        ("yaml.unsafe_load(text)", "1: yaml.unsafe_load"),
        ("from yaml import load", "1: yaml.load"),
        ("try:\n    f()\nexcept:\n    pass", "3: swallowed exception"),
        ("try:\n    f()\nexcept Exception:\n    ...", "3: swallowed exception"),
        ("try:\n    f()\nexcept (OSError, BaseException):\n    'no'", "3: swallowed exception"),
    ],
)
def test_unsafe_code_is_found(source: str, expected: str):
    assert unsafe(source) == [expected]


@pytest.mark.parametrize(
    "source",
    [
        "import msgspec",
        "from .pickle import jar",
        "cursor.execute(sql)",
        "re.compile(text)",
        "yaml.safe_load(text)",
        "json.load(file)",
        "self.eval(text)",
        "try:\n    f()\nexcept FileNotFoundError:\n    pass",
        "try:\n    f()\nexcept Exception:\n    log.exception('failed')",
    ],
)
def test_safe_code_is_left_alone(source: str):
    assert unsafe(source) == []
