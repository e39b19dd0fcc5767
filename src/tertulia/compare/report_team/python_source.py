"""Python sources: their classes and functions as headings, docstrings and comments as prose."""

import ast
import io
import tokenize
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from inspect import cleandoc

from tertulia.compare.report_team.facts import Heading
from tertulia.compare.report_team.markdown import scan_markdown
from tertulia.compare.report_team.passages import (
    Passage,
    Scan,
    literal_spans,
    mask,
    plain_passages,
)

__all__ = ["scan_python"]

_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_Documented = ast.Module | _Definition

_TOOL_COMMENTS = ("!", "type:", "noqa", "pyright:", "ruff:", "pragma:", "fmt:", "-*-")


def scan_python(text: str) -> Scan:
    """Return the definitions and the prose of a Python source.

    Headings are the first line of the module's docstring (level 1), classes and functions (level
    2) and methods (level 3). Text that is not valid Python gives nothing but a note that says where
    it fails.
    """
    tree = _parsed(text)
    if isinstance(tree, str):
        return Scan(note=tree)
    tokens = list(_tokens(text))
    scan = Scan(headings=[*_title(tree), *_definitions(tree.body, 2)], names=_names(tokens))
    scan.passages += (
        Passage(line=heading.line, text=heading.text.split(" ")[-1], prose="", is_heading=True)
        for heading in scan.headings
        if heading.level > 1
    )
    for node in ast.walk(tree):
        if isinstance(node, _Documented):
            scan.passages += _docstring(node)
    scan.passages += _comments(tokens)
    scan.passages.sort(key=lambda passage: passage.line)
    return scan


def _parsed(text: str) -> ast.Module | str:
    """Return the syntax tree, or what is wrong with the text."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a doubtful escape in someone's source is not ours
            return ast.parse(text)
    except SyntaxError as error:
        return f"not valid Python (line {error.lineno})" if error.lineno else "not valid Python"
    except (ValueError, RecursionError, MemoryError):
        return "not valid Python, or nested too deeply to parse"


def _title(tree: ast.Module) -> Iterator[Heading]:
    docstring = ast.get_docstring(tree)
    if docstring:
        line = tree.body[0].lineno
        yield Heading(level=1, text=docstring.lstrip().split("\n", 1)[0], line=line)


def _definitions(body: Sequence[ast.stmt], level: int) -> Iterator[Heading]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield Heading(level=level, text=f"class {node.name}", line=node.lineno)
            yield from _definitions(node.body, level + 1)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield Heading(level=level, text=f"def {node.name}", line=node.lineno)


def _docstring(node: _Documented) -> Iterator[Passage]:
    """Yield the paragraphs of a docstring; doctests are code. Read as Markdown, which fits prose."""
    first = node.body[0] if node.body else None
    if not isinstance(first, ast.Expr) or not isinstance(first.value, ast.Constant):
        return
    docstring = first.value.value
    if not isinstance(docstring, str):
        return
    skipped = len(docstring) - len(docstring.lstrip())
    offset = first.lineno - 1 + docstring[:skipped].count("\n")
    for passage in scan_markdown(_without_doctests(cleandoc(docstring))).passages:
        yield replace(passage, line=passage.line + offset, is_heading=False)


def _without_doctests(docstring: str) -> str:
    lines = docstring.split("\n")
    return "\n".join("" if line.lstrip().startswith((">>>", "...")) else line for line in lines)


def _tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    try:
        yield from tokenize.generate_tokens(io.StringIO(text).readline)
    except (tokenize.TokenError, SyntaxError):
        return  # the parser accepted the text, so what was found before stands


def _names(tokens: Iterable[tokenize.TokenInfo]) -> frozenset[str]:
    return frozenset(token.string for token in tokens if token.type == tokenize.NAME)


def _comments(tokens: Iterable[tokenize.TokenInfo]) -> Iterator[Passage]:
    """Yield the comments; those on successive lines at one column make one text."""
    block: list[str] = []
    last = (0, 0)
    for token in tokens:
        if token.type != tokenize.COMMENT:
            continue
        if block and token.start != (last[0] + 1, last[1]):
            yield from _comment_passages(block, last[0])
            block = []
        comment = token.string.lstrip("#: ").rstrip()
        block.append("" if comment.startswith(_TOOL_COMMENTS) else comment)
        last = token.start
    yield from _comment_passages(block, last[0])


def _comment_passages(block: Sequence[str], last_line: int) -> Iterator[Passage]:
    for passage in plain_passages(block, last_line - len(block) + 1):
        prose = mask(passage.prose, literal_spans(passage.prose))
        yield replace(passage, prose=prose)
