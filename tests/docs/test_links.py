"""Every link of the guide leads somewhere: to a file, to a heading in it, or to another place altogether."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, name_of, pages, prose_of

LINK = re.compile(
    r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\((?P<target>[^)\s]+)(?: \"[^\"]*\")?\)|(?:src|href)=\"(?P<raw>[^\"]+)\""
)
ROOMS = ("howto", "reference")  # their further pages are added by docs/site/links.py
HEADING = re.compile(r"^#{1,6} +(.+?)\s*(?:\{#(?P<id>[\w-]+)\})?$", re.MULTILINE)


def problems(page: Path) -> list[str]:
    """Return the links of a page that lead nowhere."""
    text = page.read_text(encoding="utf-8")
    found = [link["target"] or link["raw"] for link in LINK.finditer(_linked(text))]
    return [f"{name_of(page)}: {target}" for target in found if not leads_somewhere(page, target)]


def leads_somewhere(page: Path, target: str) -> bool:
    if re.match(r"https?://|mailto:", target):
        return True
    path, _, heading = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    if not file.exists() or not file.is_relative_to(ROOT.resolve()):
        return False
    if not heading:
        return True
    return file.suffix == ".md" and heading in headings(file.read_text(encoding="utf-8"))


def headings(text: str) -> set[str]:
    """Return the anchors of a page's headings, as the site's builder makes them."""
    plain = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    return {found["id"] or _anchor(found[1]) for found in HEADING.finditer(plain)}


def _anchor(heading: str) -> str:
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
    ascii_only = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_only).strip().lower())


def _linked(text: str) -> str:
    """Return a page without blocks, but with the code in its lines, which may be the text of a link."""
    return re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [*pages(), ROOT / "llms.txt"], ids=name_of)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    assert problems(page) == []


def test_every_page_of_the_guide_is_in_its_table_of_contents_or_in_a_room_that_lists_its_pages() -> None:
    listed = set(re.findall(r"[\w./-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    existing = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}

    assert listed - existing == set()
    assert {path for path in existing - listed if path.partition("/")[0] not in ROOMS} == set()


def test_nothing_of_the_site_is_fetched_from_elsewhere() -> None:
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")

    assert "font: false" in settings
    assert not re.search(r"https?://", settings)


@pytest.mark.parametrize("target", ["nowhere.md", "README.md#no-such-heading", "../outside", "LICENSE#heading"])
def test_a_link_that_leads_nowhere_is_found(target: str) -> None:
    assert not leads_somewhere(ROOT / "README.md", target)


def test_prose_has_no_code() -> None:
    assert prose_of("a `b` c\n\n```sh\nd\n```\n").split() == ["a", "c"]


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("What is promised", "what-is-promised"),
        ("`tertulia run`", "tertulia-run"),
        ("Qué hace, y cómo", "que-hace-y-como"),
    ],
)
def test_an_anchor_is_made_as_the_site_makes_it(heading: str, anchor: str) -> None:
    assert headings(f"## {heading}\n") == {anchor}
