"""The values that the report's agents hand to each other.

All are frozen and made of plain types, so they encode to MessagePack and decode back typed, and can
travel through memory or messages alike. Lists are bounded; where a list was cut, a field beside it
holds the full number or says so, and the report tells its reader.
"""

from typing import Literal

import msgspec

__all__ = [
    "Criticism",
    "DuplicateParagraph",
    "FileFacts",
    "FileKind",
    "FileListing",
    "Heading",
    "Inconsistency",
    "InconsistentTerm",
    "Link",
    "LinkFinding",
    "LinkKind",
    "LinkProblem",
    "LinkState",
    "Paragraph",
    "Place",
    "SkippedFile",
    "SourceFile",
    "Term",
    "TermForm",
    "Wording",
]

FileKind = Literal["markdown", "restructuredtext", "python", "plain", "other"]
"""How a file is read. `other` is any text whose grammar is not known (TOML, JSON, JavaScript)."""

LinkKind = Literal["inline", "reference", "image", "autolink", "html"]

LinkState = Literal["present", "absent", "external", "unchecked", "undefined", "empty"]
"""What the reader found out about a link's target.

`present` and `absent` say whether the file is on disk; `external` has a scheme or a host;
`unchecked` leaves the folder or starts at a root that is not known; `undefined` uses a reference
label that the file never defines; `empty` has no target.
"""

LinkProblem = Literal["missing file", "missing heading", "undefined label", "empty target"]

Inconsistency = Literal["hyphenation", "capitals", "British and American"]


class SourceFile(msgspec.Struct, frozen=True, kw_only=True):
    """A text file to read: its path below the folder, with `/`, and its size in bytes."""

    path: str
    size: int


class SkippedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file or folder that the scout left out, and why."""

    path: str
    reason: str


class FileListing(msgspec.Struct, frozen=True, kw_only=True):
    """What the scout found, sorted by path.

    `skipped_count` counts all that was skipped, also what no longer fitted into `skipped`.
    `complete` is false when the scout stopped at one of its bounds before the folder's end.
    """

    files: tuple[SourceFile, ...]
    skipped: tuple[SkippedFile, ...] = ()
    skipped_count: int = 0
    complete: bool = True


class Heading(msgspec.Struct, frozen=True, kw_only=True):
    """A heading as a reader sees it, without markup; for Python a title, class or function."""

    level: int
    text: str
    line: int


class Term(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A term and how often the file uses it.

    Ordinary words are in lower case; names with underscores or inner capitals stay as written.
    """

    text: str
    count: int


class Wording(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One way of writing a word or compound in prose, from which the critic finds variants.

    `text` is a word (`email`), a hyphenated compound (`e-mail`) or a pair of words (`data base`).
    `following` is the word after a pair or hyphenated compound when that word belongs to the same
    phrase (`queue` in `dead-letter queue`), else empty. `line` is where it is first used so.
    """

    text: str
    following: str
    count: int
    line: int


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A link and what is known about its target.

    `target` is what the author wrote (for an undefined reference, the label). For `present` and
    `absent`, `path` is the target below the folder; `anchor` is the part after `#`, decoded.
    """

    line: int
    kind: LinkKind
    target: str
    state: LinkState
    path: str = ""
    anchor: str = ""


class Paragraph(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A paragraph long enough to be worth comparing: a digest of its words and how it opens."""

    digest: str
    line: int
    words: int
    opening: str


class FileFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader takes from one file; never more than 512 KiB when encoded.

    `heading_count` and `link_count` count all, also those beyond the bounded lists. `anchors` are
    the names that a link may use after `#`, as `anchor_key` writes them; when `anchors_complete` is
    false some were cut, and the critic must not call an anchor missing. `note` says what hindered
    the reader (for instance Python that does not parse), else it is empty.
    """

    path: str
    kind: FileKind
    size: int
    lines: int
    words: int
    headings: tuple[Heading, ...] = ()
    heading_count: int = 0
    anchors: tuple[str, ...] = ()
    anchors_complete: bool = True
    terms: tuple[Term, ...] = ()
    wordings: tuple[Wording, ...] = ()
    links: tuple[Link, ...] = ()
    link_count: int = 0
    paragraphs: tuple[Paragraph, ...] = ()
    note: str = ""


class Place(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A line of a file; lines count from 1."""

    path: str
    line: int


class LinkFinding(msgspec.Struct, frozen=True, kw_only=True):
    """Links of one file that lead nowhere, and why; those with the same target come together.

    `target` is as the file writes it; of a missing file's anchors none is shown. `count` counts all
    the links, also those beyond the bounded list of lines.
    """

    path: str
    target: str
    problem: LinkProblem
    count: int
    lines: tuple[int, ...]


class DuplicateParagraph(msgspec.Struct, frozen=True, kw_only=True):
    """A paragraph that stands in several places with the same words.

    `count` counts all places, also those beyond the bounded list.
    """

    opening: str
    words: int
    count: int
    places: tuple[Place, ...]


class TermForm(msgspec.Struct, frozen=True, kw_only=True):
    """One form of a term, how often it is used, and its first place in the first few files."""

    text: str
    count: int
    places: tuple[Place, ...]


class InconsistentTerm(msgspec.Struct, frozen=True, kw_only=True):
    """A term that is written in more than one way; the most used form comes first."""

    kind: Inconsistency
    forms: tuple[TermForm, ...]


class Criticism(msgspec.Struct, frozen=True, kw_only=True):
    """What the critic found across all files; the counts include what the lists left out.

    `link_count` counts links, of which one finding may hold several.
    """

    links: tuple[LinkFinding, ...] = ()
    link_count: int = 0
    duplicates: tuple[DuplicateParagraph, ...] = ()
    duplicate_count: int = 0
    terms: tuple[InconsistentTerm, ...] = ()
    term_count: int = 0
