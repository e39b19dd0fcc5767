"""Markdown as blocks: headings, paragraphs, list items, tables; code and comments are left out.

It follows CommonMark (with front matter and the tables of GitHub) as far as headings, links and
prose need it, line by line. A heading on the line of a list marker (`- # Title`) is read as text.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tertulia.compare.report_team.facts import Heading
from tertulia.compare.report_team.inline import label_key, scan_inline
from tertulia.compare.report_team.passages import LineNumbers, Passage, RawLink, Scan

__all__ = ["anchor_key", "scan_markdown"]

_QUOTE = re.compile(r" {0,3}> ?")
_FENCE = re.compile(r"(`{3,})[^`]*$|(~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})(?=\s|$)")
_SETEXT = re.compile(r" {0,3}(?:(=+)|-+)\s*$")
_ITEM = re.compile(r"( *)([-*+]|\d{1,9}[.)])( +|$)")
_LABEL = re.compile(r" {0,3}\[(?!\^)([^\[\]]{1,999})\]:\s*")
_TARGET = re.compile(r"\s*(?:<([^<>]{0,2000})>|(\S{1,2000}))\s*(?:$|(?<=\s)[\"'(])")
_RAW_START = re.compile(r" {0,3}<(?:(!--)|(pre|script|style|textarea)\b)", re.IGNORECASE)
_NOT_IN_ANCHOR = re.compile(r"[^\w\- ]")
_NUMBER = re.compile(r"_(\d+)$")
_HYPHENS = re.compile(r"-{2,}")

_MIN_RULE = 3
_CODE_INDENT = 4
# Columns past the enclosing list item from which CommonMark takes a line for code.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """Lines that belong together; `level` is that of a heading, 0 for anything else."""

    line: int
    text: str
    level: int = 0


def scan_markdown(text: str) -> Scan:
    """Return the headings, passages, links and anchors of a Markdown text."""
    scanner = _BlockScanner()
    blocks = list(scanner.blocks(_without_front_matter(text.split("\n"))))
    scan = Scan()
    for block in blocks:
        _add_block(scan, block, scanner.definitions)
    scan.ids = [*_heading_anchors(scan.headings), *scan.ids]
    return scan


def anchor_key(anchor: str) -> str:
    """Return the form in which anchors are compared.

    Case does not matter, a run of hyphens counts as one, and the number of a repeated heading may
    follow a hyphen or an underscore: the programs that render Markdown differ in just that.
    """
    return _NUMBER.sub(r"-\1", _HYPHENS.sub("-", anchor.lower()))


def _add_block(scan: Scan, block: _Block, definitions: Mapping[str, str]) -> None:
    inline = scan_inline(block.text, definitions)
    line_at = LineNumbers(block.text, block.line)
    for link in inline.links:
        line = line_at(link.position)
        scan.links.append(RawLink(line=line, kind=link.kind, target=link.target, defined=link.defined))
    if block.level:
        scan.headings.append(Heading(level=block.level, text=inline.plain, line=block.line))
    scan.passages.append(Passage(line=block.line, text=inline.text, prose=inline.prose, is_heading=bool(block.level)))
    scan.ids.extend(inline.ids)


def _heading_anchors(headings: Sequence[Heading]) -> Iterator[str]:
    """Yield the anchors that GitHub gives to headings; equal ones are numbered."""
    seen: dict[str, int] = {}
    for heading in headings:
        anchor = _NOT_IN_ANCHOR.sub("", heading.text.lower()).replace(" ", "-")
        count = seen.get(anchor, 0)
        seen[anchor] = count + 1
        yield f"{anchor}-{count}" if count else anchor


def _without_front_matter(lines: list[str]) -> list[str]:
    """Blank the metadata between `---` lines at the top, whose last line would make a heading."""
    if lines[0].rstrip() != "---":
        return lines
    for index, line in enumerate(lines[1:], 1):
        if line.rstrip() in {"---", "..."}:
            return [""] * (index + 1) + lines[index + 1 :]
        if index == 1 and not line.strip():
            return lines  # a horizontal rule, not metadata
    return lines


class _BlockScanner:
    """Reads lines into blocks, and collects the link definitions.

    Every line either belongs to something raw (a fence, a comment), or ends the paragraph that is
    being collected, or continues it.
    """

    def __init__(self) -> None:
        self.definitions: dict[str, str] = {}
        self._paragraph: list[str] = []
        self._start = 0
        self._number = 0
        self._depth = 0
        self._fence = ""
        self._raw_end = ""
        self._label = ""
        self._items: list[int] = []

    def blocks(self, lines: Sequence[str]) -> Iterator[_Block]:
        for number, line in enumerate(lines, 1):
            self._number = number
            yield from self._line(line)
        yield from self._end_paragraph()

    def _line(self, line: str) -> Iterator[_Block]:
        raw = bool(self._fence or self._raw_end)
        depth, content = _unquoted(line, self._depth if raw else None)
        if depth != self._depth:
            yield from self._change_depth(depth)
        if not self._is_raw(content):
            yield from self._text_line(content.expandtabs(_CODE_INDENT))

    def _change_depth(self, depth: int) -> Iterator[_Block]:
        yield from self._end_paragraph()
        self._depth = depth
        self._fence = self._raw_end = ""
        self._items = []

    def _is_raw(self, content: str) -> bool:
        """Tell whether the line belongs to a fence or raw HTML that is open; close it at its end."""
        if self._fence:
            mark = content.strip()
            if len(mark) >= len(self._fence) and set(mark) == {self._fence[0]}:
                self._fence = ""
            return True
        if self._raw_end:
            if self._raw_end in content.lower():
                self._raw_end = ""
            return True
        return False

    def _text_line(self, line: str) -> Iterator[_Block]:
        if not line.strip(" "):
            self._label = ""
            yield from self._end_paragraph()
            return
        indent = len(line) - len(line.lstrip(" "))
        if not self._paragraph and self._is_indented_code(indent):
            return
        if self._opens_raw(line):
            yield from self._end_paragraph()
            return
        heading = self._heading(line)
        if heading:
            yield from heading
        else:
            yield from self._item_or_text(line)

    def _is_indented_code(self, indent: int) -> bool:
        """Tell whether a line after an empty one is code; a smaller indent leaves list items."""
        self._leave_items(indent)
        return indent >= (self._items[-1] if self._items else 0) + _CODE_INDENT

    def _leave_items(self, indent: int) -> None:
        while self._items and indent < self._items[-1]:
            self._items.pop()

    def _opens_raw(self, line: str) -> bool:
        fence = _FENCE.match(line.lstrip(" "))
        if fence:
            self._fence = fence[1] or fence[2]
            return True
        raw = _RAW_START.match(line)
        if raw is None:
            return False
        end = "-->" if raw[1] else f"</{raw[2].lower()}>"
        closed = end in line.lower()
        if closed and not line.lower().partition(end)[2].strip():
            return True
        if not closed:
            self._raw_end = end
        return not closed

    def _heading(self, line: str) -> list[_Block]:
        """Return the blocks that a heading or a rule completes; none when the line is neither."""
        atx = _ATX.match(line)
        if atx:
            block = _Block(line=self._number, text=_atx_text(line[atx.end() :]), level=len(atx[1]))
            return [*self._end_paragraph(), block]
        setext = _SETEXT.match(line)
        if setext and self._paragraph and not self._items:
            block = _Block(line=self._start, text="\n".join(self._paragraph), level=1 if setext[1] else 2)
            self._paragraph = []
            return [block]
        return []

    def _item_or_text(self, line: str) -> Iterator[_Block]:
        if _is_rule(line):
            yield from self._end_paragraph()
            return
        item = _ITEM.match(line)
        if item:
            yield from self._end_paragraph()
            self._leave_items(len(item[1]))
            self._items.append(item.end() if item[3] else item.end() + 1)
            line = " " * item.end() + line[item.end() :]
            if not line.strip() or self._opens_raw(line):
                return
        if not self._define(line):
            self._collect(line)

    def _define(self, line: str) -> bool:
        """Take a link definition, whose target may be on the next line.

        It cannot interrupt a paragraph.
        """
        if self._paragraph:
            return False
        label = _LABEL.match(line)
        if label and label.end() == len(line.rstrip()):
            self._label = label[1]
            return True
        name, start = (label[1], label.end()) if label else (self._label, 0)
        self._label = ""
        target = _TARGET.match(line, start) if name else None
        if target:
            address = target[2] if target[1] is None else target[1]
            self.definitions.setdefault(label_key(name), address)
        return target is not None

    def _collect(self, line: str) -> None:
        if not self._paragraph:
            self._start = self._number
        self._paragraph.append(line.strip())

    def _end_paragraph(self) -> Iterator[_Block]:
        if self._paragraph:
            yield _Block(line=self._start, text="\n".join(self._paragraph))
            self._paragraph = []


def _unquoted(line: str, limit: int | None) -> tuple[int, str]:
    """Return how many quote signs start the line, and the rest; look at *limit* signs at most.

    Inside a fence only the signs of the quote around it count; more of them are code.
    """
    depth = start = 0
    while depth != limit and (quote := _QUOTE.match(line, start)):
        depth += 1
        start = quote.end()
    return depth, line[start:]


def _is_rule(line: str) -> bool:
    signs = "".join(line.split())
    return len(signs) >= _MIN_RULE and signs[0] in "*-_" and len(set(signs)) == 1


def _atx_text(text: str) -> str:
    """Return a heading's text without the number signs that may close it."""
    text = text.strip()
    opened = text.rstrip("#")
    return opened.rstrip() if not opened or opened[-1].isspace() else text
