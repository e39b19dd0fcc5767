"""The fenced blocks of the guide's pages, as data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

# A fence with what is said about it: a comment on the line before it, its language, and the name of the file it is.
_BLOCK = re.compile(
    r'^(?:<!-- (?P<note>[^\n]*?) -->\n)?(?P<fence>`{3,})(?P<language>[\w-]*)(?: title="(?P<title>[^"]+)")?[ ]*\n'
    r"(?P<text>.*?)^(?P=fence)[ ]*$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block. `note`: the comment before it; `title`: the file it shows; `line`: where its text begins."""

    language: str
    text: str
    line: int
    note: str = ""
    title: str = ""


def pages() -> list[Path]:
    """Return every page that people read, in order."""
    root = sorted(ROOT.glob("*.md"))
    return root + sorted((ROOT / "docs").rglob("*.md"))


def name_of(page: Path) -> str:
    """Return how a page is called in the tests."""
    return page.relative_to(ROOT).as_posix()


def blocks_of(text: str) -> list[Block]:
    """Return the blocks of a page, in order."""
    return [
        Block(
            language=found["language"],
            text=found["text"],
            line=text.count("\n", 0, found.start("text")) + 1,
            note=found["note"] or "",
            title=found["title"] or "",
        )
        for found in _BLOCK.finditer(text)
    ]


def prose_of(text: str) -> str:
    """Return a page without its blocks and without what is marked as code in a line."""
    return re.sub(r"`[^`\n]*`", "", _BLOCK.sub("", text))


def matches(wanted: str, printed: str) -> bool:
    """Tell whether what was printed is what a page shows, where `…` stands for anything within a line."""
    pattern = ".*".join(re.escape(part) for part in wanted.strip().split("…"))
    return re.fullmatch(pattern, printed.strip()) is not None
