"""A reader: the facts that one file gives to the report."""

import hashlib
import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import msgspec

from tertulia.compare.report_team.facts import (
    FileFacts,
    FileKind,
    Heading,
    Link,
    LinkState,
    Paragraph,
    Term,
    Wording,
)
from tertulia.compare.report_team.input_errors import FileUnreadableError
from tertulia.compare.report_team.markdown import anchor_key, scan_markdown
from tertulia.compare.report_team.passages import (
    BARRIER,
    LineNumbers,
    Passage,
    RawLink,
    Scan,
    plain_passages,
)
from tertulia.compare.report_team.python_source import scan_python
from tertulia.compare.report_team.restructured import scan_restructured
from tertulia.compare.report_team.scouting import MAX_FILE_BYTES
from tertulia.compare.report_team.wording import count_terms, prose_forms

__all__ = ["facts_of", "read_file"]

# Bounds of one file's facts. A long chapter has a hundred headings, a page of links five hundred,
# and a book of a megabyte about 15,000 different words; what is beyond changes no finding much.
_MAX_HEADINGS = 1000
_MAX_LINKS = 2000
_MAX_PARAGRAPHS = 2000
_MAX_TERMS = 300
_MAX_WORDS = 4000
_MAX_PAIRS = 2000
_MAX_HEADING_CHARS = 160
_MAX_TARGET_CHARS = 300
_MAX_OPENING_CHARS = 80

_MAX_FACTS_BYTES = 512 * 1024
# Half of the 1 MiB that NATS carries in one message by default, so that facts fit on every engine.

_MIN_PARAGRAPH_WORDS = 12
# Shorter ones repeat without anybody copying them ("See also", "Raises: ValueError").

_DIGEST_BYTES = 12
# Among a million paragraphs, two different ones share 96 bits with a chance below 10^-16.

_KINDS: Mapping[str, FileKind] = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".rst": "restructuredtext",
    ".py": "python",
    ".pyi": "python",
    ".txt": "plain",
    ".text": "plain",
    "": "plain",
}

_TOKEN = re.compile(r"\w+")
_LIST_FIELDS = ("headings", "anchors", "terms", "wordings", "links", "paragraphs")


def read_file(folder: str | os.PathLike[str], path: str) -> FileFacts:
    """Return the facts of the file *path*, which is relative to *folder*, with `/`.

    Relative links are looked up on disk, but never outside the folder. The same content gives equal
    facts. Lists are bounded, and the encoded facts stay below 512 KiB.

    Raises:
        FileUnreadableError: the file is missing, lies outside the folder, is larger than 1 MiB, is
            not UTF-8 text or may not be read.
    """
    content = _content(Path(folder), path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileUnreadableError(path, f"not UTF-8 (byte {error.start})") from error
    root = Path(folder)
    return facts_of(path, text, size=len(content), exists=lambda target: _exists(root / target))


def facts_of(path: str, text: str, *, size: int, exists: Callable[[str], bool]) -> FileFacts:
    """Return the facts of a file that holds *text*.

    *exists* says whether there is a file or folder at a path relative to the folder. *size* is the
    number of bytes, which the text alone does not tell.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    kind = _kind(path, text)
    scan = _scan(kind, text)
    headings = [heading for heading in scan.headings if heading.text]
    anchors = dict.fromkeys(map(anchor_key, scan.ids))
    return _bounded(
        FileFacts(
            path=path,
            kind=kind,
            size=size,
            lines=text.count("\n") + (not text.endswith("\n") and text != ""),
            words=len(text.split()),
            headings=tuple(map(_shortened, headings[:_MAX_HEADINGS])),
            heading_count=len(headings),
            anchors=tuple(list(anchors)[:_MAX_HEADINGS]),
            anchors_complete=len(anchors) <= _MAX_HEADINGS,
            terms=_terms(scan),
            wordings=() if kind == "other" else _wordings(scan),
            links=tuple(_link(link, path, exists) for link in scan.links[:_MAX_LINKS]),
            link_count=len(scan.links),
            paragraphs=() if kind == "other" else _paragraphs(scan.passages),
            note=scan.note,
        )
    )


def _kind(path: str, text: str) -> FileKind:
    """Tell the grammar from the name; a script without a suffix is told by its first line."""
    kind = _KINDS.get(PurePosixPath(path).suffix.lower(), "other")
    return "other" if kind == "plain" and text.startswith("#!") else kind


def _content(folder: Path, path: str) -> bytes:
    try:
        file = (folder / path).resolve()
        inside = file.is_relative_to(folder.resolve()) and not Path(path).is_absolute()
        content = _bytes(file) if inside and file.is_file() else None
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: NUL; RuntimeError: link loop
        raise FileUnreadableError(path, f"cannot be read ({type(error).__name__})") from error
    if content is None:
        raise FileUnreadableError(path, "no such file" if inside else "outside the folder")
    if len(content) > MAX_FILE_BYTES:
        raise FileUnreadableError(path, "larger than 1 MiB")
    return content


def _bytes(file: Path) -> bytes:
    """Return the content, with one byte too many if it is too large."""
    with file.open("rb") as stream:
        return stream.read(MAX_FILE_BYTES + 1)


def _exists(target: Path) -> bool:
    try:
        return target.exists()
    except (OSError, ValueError):  # a name too long or with NUL is no file's name
        return False


def _scan(kind: FileKind, text: str) -> Scan:
    match kind:
        case "markdown":
            return scan_markdown(text)
        case "restructuredtext":
            return scan_restructured(text)
        case "python":
            return scan_python(text)
        case "plain" | "other":
            return Scan(passages=list(plain_passages(text.split("\n"))))


def _shortened(heading: Heading) -> Heading:
    if len(heading.text) <= _MAX_HEADING_CHARS:
        return heading
    text = heading.text[: _MAX_HEADING_CHARS - 1] + "…"
    return Heading(level=heading.level, text=text, line=heading.line)


def _terms(scan: Scan) -> tuple[Term, ...]:
    counts: Counter[str] = Counter()
    for passage in scan.passages:
        counts.update(count_terms(passage.text))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Term(text=text, count=count) for text, count in ranked[:_MAX_TERMS])


def _wordings(scan: Scan) -> tuple[Wording, ...]:
    """Return the words and compounds in the order of their text; rare ones go beyond a bound."""
    found: dict[tuple[str, str], list[int]] = {}
    for passage in scan.passages:
        line_at = LineNumbers(passage.prose, passage.line)
        for position, text, following in prose_forms(passage.prose):
            if text not in scan.names:
                found.setdefault((text, following), [0, line_at(position)])[0] += 1
    wordings = [
        Wording(text=text, following=following, count=count, line=line)
        for (text, following), (count, line) in found.items()
    ]
    wordings.sort(key=lambda wording: (-wording.count, wording.text, wording.following))
    pairs = [wording for wording in wordings if " " in wording.text]
    words = [wording for wording in wordings if " " not in wording.text]
    kept = [*words[:_MAX_WORDS], *pairs[:_MAX_PAIRS]]
    return tuple(sorted(kept, key=lambda wording: (wording.text, wording.following)))


def _paragraphs(passages: Iterable[Passage]) -> tuple[Paragraph, ...]:
    found = (_paragraph(passage) for passage in passages if not passage.is_heading)
    return tuple(paragraph for paragraph in found if paragraph)[:_MAX_PARAGRAPHS]


def _paragraph(passage: Passage) -> Paragraph | None:
    words = _TOKEN.findall(passage.text.lower())
    if len(words) < _MIN_PARAGRAPH_WORDS:
        return None
    digest = hashlib.blake2b(" ".join(words).encode(), digest_size=_DIGEST_BYTES)
    return Paragraph(
        digest=digest.hexdigest(),
        line=passage.line,
        words=len(words),
        opening=_opening(passage.text),
    )


def _opening(text: str) -> str:
    start = " ".join(text[: 4 * _MAX_OPENING_CHARS].replace(BARRIER, "").split())
    if len(start) <= _MAX_OPENING_CHARS:
        return start
    return start[: _MAX_OPENING_CHARS - 1].rsplit(" ", 1)[0] + "…"


def _link(link: RawLink, source: str, exists: Callable[[str], bool]) -> Link:
    state, path, anchor = _target(link, source, exists)
    return Link(
        line=link.line,
        kind=link.kind,
        target=link.target[:_MAX_TARGET_CHARS],
        state=state,
        path=path,
        anchor=anchor,
    )


def _target(link: RawLink, source: str, exists: Callable[[str], bool]) -> tuple[LinkState, str, str]:
    """Return the state of a link's target, its path below the folder and its anchor."""
    if not link.defined:
        return "undefined", "", ""
    if not link.target.strip():
        return "empty", "", ""
    try:
        parts = urlsplit(link.target)
    except ValueError:  # a host in brackets that is no address
        return "unchecked", "", ""
    if parts.scheme or parts.netloc:
        return "external", "", ""
    path = _below_folder(source, unquote(parts.path))
    if not path:
        return "unchecked", "", ""
    present = path == source or exists(path)
    return "present" if present else "absent", path, unquote(parts.fragment)


def _below_folder(source: str, named: str) -> str:
    """Return the path that a link in *source* names; empty when it leads out of the folder."""
    if not named:
        return source
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), named))
    return "" if path.startswith("/") or path.split("/")[0] == ".." else path


def _bounded(facts: FileFacts) -> FileFacts:
    """Halve the lists until the facts fit; only text made for it ever comes here a second time."""
    while len(msgspec.msgpack.encode(facts)) > _MAX_FACTS_BYTES:
        halves = {name: _half(getattr(facts, name)) for name in _LIST_FIELDS}
        facts = msgspec.structs.replace(facts, **halves, anchors_complete=False)
    return facts


def _half(values: Sequence[object]) -> Sequence[object]:
    return values[: len(values) // 2]
