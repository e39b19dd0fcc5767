"""Markdown inside a paragraph: code spans, links, images, HTML tags and addresses.

It follows CommonMark where that decides what a link leads to. All patterns have bounded repeats or
cannot backtrack over each other, so that a line of a megabyte takes no more than linear time.
"""

import html
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tertulia.compare.report_team.facts import LinkKind
from tertulia.compare.report_team.passages import BARRIER, Span, mask

__all__ = ["FoundLink", "Inline", "label_key", "scan_inline"]

# Bounds of the repeats: an address in a text is below 2,000 characters (what browsers have long
# accepted), a label is below 1,000 by CommonMark, and titles and tags are taken to be likewise.
_DESTINATION = re.compile(
    r"""\(\s*
        (?:<(?P<angled>[^<>\n]{0,2000})>
          |(?P<bare>(?!<)(?>(?:\\[^\s\ufffc]|[^\s()\\\ufffc]|\\|\([^\s()\ufffc]{0,500}\)){0,2000})))
        (?:\s+(?:"(?:[^"\\]|\\.){0,1000}"|'(?:[^'\\]|\\.){0,1000}'|\((?:[^()\\]|\\.){0,1000}\)))?
        \s*\)""",
    re.VERBOSE | re.DOTALL,
)
_LABEL = re.compile(r"\[([^\[\]]{0,999})\]")
_MAX_LABEL = 1000
_BRACKET = re.compile(r"\\.|!\[|\[|\]", re.DOTALL)
_BACKTICKS = re.compile(r"`+")
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")
_AUTOLINK = re.compile(r"(?<!\\)<([A-Za-z][A-Za-z0-9+.-]{1,31}:[^<>\s\ufffc]{0,2000})>")
_BARE_ADDRESS = re.compile(r"""\bhttps?://[^\s<>()\[\]"'|*\ufffc]+""")
_TAG = re.compile(r"(?<!\\)</?[A-Za-z][^<>]{0,2000}>")
_ATTRIBUTE = re.compile(r"""\b(href|src|id|name)\s*=\s*(?:"([^"]*)"|'([^']*)')""", re.IGNORECASE)
_CUSTOM_ID = re.compile(r"\s*\{[^{}\n]{0,200}#([\w:.-]{1,200})[^{}\n]{0,200}\}\s*$")
_STARS = re.compile(r"(?<!\\)\*+|~~")
_UNDERSCORES = re.compile(r"(?<![\w\\])(_{1,3})(?=\S)(.{1,300}?)(?<=\S)\1(?!\w)")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundLink:
    """A link at a position of the text; `defined` is false when its label has no definition."""

    position: int
    kind: LinkKind
    target: str
    defined: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Inline:
    """A text with its markup taken apart.

    `text` and `prose` are as long as the input; barriers stand for markup, in `prose` for code too.
    `plain` is what a reader of the rendered page sees. `ids` are anchors set in the text.
    """

    text: str
    prose: str
    plain: str
    links: tuple[FoundLink, ...]
    ids: tuple[str, ...]


def scan_inline(text: str, definitions: Mapping[str, str]) -> Inline:
    """Take *text* apart; *definitions* gives the targets of reference labels, by `label_key`."""
    codes = list(_code_spans(text))
    brackets = _Brackets(text, mask(text, [*codes, *_comments(text)]), definitions)
    brackets.scan()
    rest = mask(brackets.text, brackets.markup)
    tags = _Tags(rest)
    markup = [*_comments(text), *brackets.markup, *tags.markup]
    address_links, addresses = _addresses(mask(rest, tags.markup))
    visible = _unbracketed(mask(text, [*markup, *addresses]), brackets.signs)
    heading, custom_id = _without_custom_id(text)
    return Inline(
        text=visible,
        prose=mask(visible, codes),
        plain=_plain(heading, codes, [*markup, *brackets.images], brackets.signs),
        links=tuple(sorted([*brackets.links, *tags.links, *address_links], key=_position)),
        ids=(*tags.ids, *custom_id),
    )


def label_key(label: str) -> str:
    """Return the form in which labels are compared: case and white space do not matter."""
    return " ".join(label.casefold().split())


def _position(link: FoundLink) -> int:
    return link.position


def _code_spans(text: str) -> Iterator[Span]:
    """Yield the code spans, backticks included; an opening run needs a closing one as long."""
    runs = [match.span() for match in _BACKTICKS.finditer(text)]
    partner: dict[int, int] = {}
    latest: dict[int, int] = {}
    for index in range(len(runs) - 1, -1, -1):
        length = runs[index][1] - runs[index][0]
        if length in latest:
            partner[index] = latest[length]
        latest[length] = index
    index = 0
    while index < len(runs):
        if index in partner:
            yield runs[index][0], runs[partner[index]][1]
            index = partner[index]
        index += 1


def _comments(text: str) -> Iterator[Span]:
    start = text.find("<!--")
    while start >= 0:
        stop = text.find("-->", start)
        if stop < 0:
            return
        yield start, stop + 3
        start = text.find("<!--", stop)


class _Brackets:
    """Finds links and images by matching brackets.

    `text` is the input with its code and comments masked. `markup` are the spans of destinations
    and labels, `signs` those of the brackets around a link's text, `images` whole images.
    """

    def __init__(self, original: str, text: str, definitions: Mapping[str, str]) -> None:
        self._original = original
        self.text = text
        self._definitions = definitions
        self._open: list[tuple[int, bool]] = []
        self._resume = 0
        self.links: list[FoundLink] = []
        self.markup: list[Span] = []
        self.signs: list[Span] = []
        self.images: list[Span] = []

    def scan(self) -> None:
        for match in _BRACKET.finditer(self.text):
            if match.start() < self._resume or match[0].startswith("\\"):
                continue
            if match[0] != "]":
                self._open.append((match.start(), match[0] == "!["))
            elif self._open:
                self._close(match.start(), *self._open.pop())

    def _close(self, end: int, start: int, is_image: bool) -> None:  # noqa: FBT001 - a pair's half
        after = end + 1
        destination = _DESTINATION.match(self.text, after)
        if destination:
            target = destination["angled"]
            target = destination["bare"] if target is None else target
            self._add(start, end, destination.end(), "image" if is_image else "inline", target)
        else:
            self._reference(start, end, "image" if is_image else "reference")

    def _reference(self, start: int, end: int, kind: LinkKind) -> None:
        full = _LABEL.match(self.text, end + 1)
        label = self._original[full.start(1) : full.end(1)] if full else ""
        key = label_key(label or self._inner(start, end))
        if key in self._definitions:
            stop = full.end() if full else end + 1
            self._add(start, end, stop, kind, self._definitions[key])
        elif full and self._is_reference(start, key):
            self._add(start, end, full.end(), kind, key, defined=False)

    def _inner(self, start: int, end: int) -> str:
        """Return a link's text, or nothing when it is longer than a label may be."""
        first = start + (2 if self.text.startswith("!", start) else 1)
        return self._original[first:end] if end - first < _MAX_LABEL else ""

    def _is_reference(self, start: int, key: str) -> bool:
        """Tell a reference with a forgotten definition from other brackets in a row.

        `rows[i][j]`, footnotes and what held code are something else.
        """
        before = self.text[start - 1 : start]
        attached = before.isalnum() or before in {"_", ")", "]", BARRIER}
        return not attached and any(map(str.isalpha, key)) and key[0] != "^"

    def _add(self, start: int, end: int, stop: int, kind: LinkKind, target: str, *, defined: bool = True) -> None:
        clean = html.unescape(_ESCAPE.sub(r"\1", target))
        self.links.append(FoundLink(position=start, kind=kind, target=clean, defined=defined))
        self._resume = stop
        self.markup.append((end + 1, stop))
        self.signs += [(start, start + (2 if kind == "image" else 1)), (end, end + 1)]
        if self.text.startswith("!", start):
            self.images.append((start, stop))


class _Tags:
    """Finds HTML tags, their links and the anchors that they set."""

    def __init__(self, text: str) -> None:
        self.links: list[FoundLink] = []
        self.markup: list[Span] = []
        self.ids: list[str] = []
        for match in _AUTOLINK.finditer(text):
            self._link(match.start(), "autolink", match[1])
            self.markup.append(match.span())
        for match in _TAG.finditer(mask(text, self.markup)):
            self.markup.append(match.span())
            self._read_attributes(match.start(), match[0])

    def _read_attributes(self, position: int, tag: str) -> None:
        for match in _ATTRIBUTE.finditer(tag):
            value = html.unescape(match[2] or match[3] or "")
            if match[1].lower() in {"href", "src"}:
                self._link(position, "html", value)
            elif value:
                self.ids.append(value)

    def _link(self, position: int, kind: LinkKind, target: str) -> None:
        self.links.append(FoundLink(position=position, kind=kind, target=target))


def _addresses(text: str) -> tuple[list[FoundLink], list[Span]]:
    """Return the web addresses that stand in the text without any markup."""
    links: list[FoundLink] = []
    spans: list[Span] = []
    for match in _BARE_ADDRESS.finditer(text):
        address = match[0].rstrip(".,;:!?`")
        links.append(FoundLink(position=match.start(), kind="autolink", target=address))
        spans.append(match.span())
    return links, spans


def _unbracketed(text: str, signs: list[Span]) -> str:
    """Put spaces for the brackets of links, so that words in and after a link stay neighbours."""
    letters = list(text)
    for start, stop in signs:
        letters[start:stop] = " " * (stop - start)
    return "".join(letters)


def _without_custom_id(text: str) -> tuple[str, list[str]]:
    """Split the `{#name}` from the end of a heading, as many Markdown dialects write it."""
    match = _CUSTOM_ID.search(text[-600:]) if text.rstrip().endswith("}") else None
    if match is None:
        return text, []
    return text[: len(text) - len(match[0])], [match[1]]


def _plain(text: str, codes: list[Span], markup: list[Span], signs: list[Span]) -> str:
    """Return what a reader sees: no destinations, tags, images, emphasis signs or backticks."""
    hidden = mask(text, [*markup, *signs])
    parts: list[str] = []
    end = 0
    for start, stop in codes:
        parts += [_without_emphasis(hidden[end:start]), hidden[start:stop].strip("` \n")]
        end = stop
    parts.append(_without_emphasis(hidden[end:]))
    return " ".join("".join(parts).replace(BARRIER, "").split())


def _without_emphasis(text: str) -> str:
    return _ESCAPE.sub(r"\1", _UNDERSCORES.sub(r"\2", _STARS.sub("", text)))
