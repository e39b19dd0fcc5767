"""What all readers of a file's grammar return: headings, passages of prose, links and anchors."""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tertulia.compare.report_team.facts import Heading, LinkKind

__all__ = ["BARRIER", "LineNumbers", "Passage", "RawLink", "Scan", "Span", "literal_spans", "mask", "plain_passages"]

BARRIER = "\ufffc"
"""Stands for what was taken out of a text, so that the words around it do not become neighbours.

It is Unicode's object replacement character: neither a letter nor white space.
"""

Span = tuple[int, int]

_LITERAL = re.compile(r"(?<!`)``(?!`)[^`]{1,1000}``(?!`)|(?<![`\w])`[^`\n]{1,1000}`")
_NOT_NEWLINE = re.compile(r"[^\n]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A heading, paragraph, list item or table, with its markup taken out.

    `text` holds the words, code spans included; `prose` is as long, but without code, for questions
    of wording. `line` is the line of the first character.
    """

    line: int
    text: str
    prose: str
    is_heading: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RawLink:
    """A link before anyone looked for its target; `defined` is false for an unknown label."""

    line: int
    kind: LinkKind
    target: str
    defined: bool = True


@dataclass(slots=True, kw_only=True)
class Scan:
    """What a file's grammar shows.

    `ids` are the anchors of the headings and those that the author set besides. `names` are words
    of this file's code, which in its prose most likely mean the code.
    """

    headings: list[Heading] = field(default_factory=list[Heading])
    passages: list[Passage] = field(default_factory=list[Passage])
    links: list[RawLink] = field(default_factory=list[RawLink])
    ids: list[str] = field(default_factory=list[str])
    names: frozenset[str] = frozenset()
    note: str = ""


class LineNumbers:
    """Turns positions in a text into line numbers, each in logarithmic time."""

    def __init__(self, text: str, first_line: int) -> None:
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._first_line = first_line

    def __call__(self, position: int) -> int:
        """Return the number of the line that holds *position*."""
        return self._first_line + bisect_right(self._starts, position) - 1


def mask(text: str, spans: Iterable[Span]) -> str:
    """Return *text* with barriers in place of the spans; as long as before, with the same lines.

    The spans may overlap and come in any order.
    """
    parts: list[str] = []
    end = 0
    for start, stop in sorted(spans):
        if stop <= end:
            continue
        first = max(start, end)
        parts += [text[end:first], _NOT_NEWLINE.sub(BARRIER, text[first:stop])]
        end = stop
    return "".join([*parts, text[end:]])


def plain_passages(lines: Iterable[str], first_line: int = 1) -> Iterator[Passage]:
    """Yield the paragraphs of text without markup; empty lines separate them."""
    paragraph: list[str] = []
    number = first_line - 1
    for number, line in enumerate(lines, first_line):
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield _plain(paragraph, number - len(paragraph))
            paragraph = []
    if paragraph:
        yield _plain(paragraph, number - len(paragraph) + 1)


def _plain(paragraph: list[str], line: int) -> Passage:
    text = "\n".join(paragraph)
    return Passage(line=line, text=text, prose=text)


def literal_spans(text: str) -> Iterator[Span]:
    """Yield the code spans of reStructuredText and of comments: between one or two backticks."""
    for match in _LITERAL.finditer(text):
        yield match.span()
