"""reStructuredText as far as a report needs it: titles and paragraphs, without literal blocks."""

from collections.abc import Iterator, Sequence

from tertulia.compare.report_team.facts import Heading
from tertulia.compare.report_team.passages import (
    Passage,
    Scan,
    literal_spans,
    mask,
    plain_passages,
)

__all__ = ["scan_restructured"]

_ADORNMENTS = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")

_MIN_ADORNMENT = 3
# Docutils accepts fewer signs under a very short title, with a warning; two are more often text.


def scan_restructured(text: str) -> Scan:
    """Return the titles and passages of a reStructuredText document.

    A title's level is the order in which its kind of adornment first appears, as in docutils.
    """
    lines = _without_literal_blocks(text.split("\n"))
    scan = Scan()
    styles: list[str] = []
    for index, style in _titles(lines):
        if style not in styles:
            styles.append(style)
        title = lines[index].strip()
        scan.headings.append(Heading(level=styles.index(style) + 1, text=title, line=index + 1))
        scan.passages.append(Passage(line=index + 1, text=title, prose=title, is_heading=True))
        lines[index] = ""
    body = ["" if _is_adornment(line) or line.startswith(".. ") else line for line in lines]
    scan.passages += map(_without_literals, plain_passages(body))
    return scan


def _without_literals(passage: Passage) -> Passage:
    prose = mask(passage.prose, literal_spans(passage.prose))
    return Passage(line=passage.line, text=passage.text, prose=prose)


def _titles(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield the index and the adornment of each title; an overline makes a different adornment."""
    for index, line in enumerate(lines[:-1]):
        under, over = lines[index + 1], lines[index - 1] if index else ""
        if not line.strip() or _is_adornment(line) or not _is_adornment(under):
            continue
        if over.rstrip() == under.rstrip():
            yield index, under[0] * 2
        elif not over.strip() and not line[0].isspace() and len(under.rstrip()) >= len(line.rstrip()):
            yield index, under[0]


def _is_adornment(line: str) -> bool:
    signs = line.rstrip()
    return len(signs) >= _MIN_ADORNMENT and len(set(signs)) == 1 and signs[0] in _ADORNMENTS


def _without_literal_blocks(lines: Sequence[str]) -> list[str]:
    """Blank the indented lines after a paragraph that ends with `::` or a code directive."""
    kept: list[str] = []
    literal: int | None = None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if literal is not None and line.strip() and indent <= literal:
            literal = None
        kept.append("" if literal is not None else line)
        opens = line.rstrip().endswith("::") or line.lstrip().startswith(".. code")
        if literal is None and opens:
            literal = indent
    return kept
