"""Hooks of mkdocs: what the guide links to in the repository becomes a page of the site, so that no link leaves it.

The pages are written so that their links also work where the repository is read, as `../src/tertulia/space.py` does.
Here each file outside `docs` that a page links to gets a page below `source/`: Markdown as it is, anything else as
highlighted text, a folder as a list of what is in it. A link to what does not exist is left, and fails the build.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
DOCS = "docs"
LINK = re.compile(r"(?<=\]\()(?P<path>[^)\s#]+)(?P<rest>#[^)\s]*)?(?=[)\s])")
ROOMS = {"howto": "How to", "reference": "Reference"}  # folders, and what they are called in the table of contents
FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)
LANGUAGES = {".py": "python", ".toml": "toml", ".csv": "text", ".txt": "text", ".yml": "yaml", "": "make"}
FETCHED = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=["']?https?://[^>]*>""")
LARGEST = 200_000  # bytes of a file that becomes a page; what is larger is no text to read


def on_config(config: Any) -> Any:
    """Add the pages of a room that the table of contents does not name to the end of it."""
    for room, title in ROOMS.items():
        listed = _listed(config["nav"])
        entries = next(part[title] for part in config["nav"] if title in part)
        existing = sorted(path.relative_to(ROOT / DOCS).as_posix() for path in (ROOT / DOCS / room).glob("*.md"))
        entries.extend(path for path in existing if path not in listed)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each file outside `docs` that a page, or a page made so, links to."""
    waiting = [(f"{DOCS}/{file.src_uri}", file.content_string) for file in files.documentation_pages()]
    while waiting:
        origin, text = waiting.pop()
        for target in _targets(text, origin):
            uri = _uri(target)
            if target.startswith(f"{DOCS}/") or files.get_file_from_path(uri) is not None:
                continue
            content = _page(target)
            files.append(File.generated(config, uri, content=content))
            if target.endswith(".md"):
                waiting.append((target, content))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Turn links to files outside `docs` into links to their pages, and those of such a file back into the guide."""
    uri = page.file.src_uri
    origin = uri.removeprefix("source/").removesuffix(".md") if uri.startswith("source/") else f"{DOCS}/{uri}"
    here = PurePosixPath(uri).parent

    def moved(link: re.Match[str]) -> str:
        target = _resolve(link["path"], origin)
        if target is None or (not uri.startswith("source/") and target.startswith(f"{DOCS}/")):
            return link[0]
        return os.path.relpath(_uri(target), here) + (link["rest"] or "")

    return "".join(part if part.startswith("```") else LINK.sub(moved, part) for part in FENCE.split(markdown))


def on_post_build(*, config: Any) -> None:
    """Fail if a page would fetch anything from elsewhere when it is read."""
    for page in sorted(Path(config["site_dir"]).rglob("*.html")):
        found = FETCHED.search(page.read_text(encoding="utf-8"))
        if found is not None:
            raise PluginError(f"{page.name} would fetch something from elsewhere: {found[0]}")


def _listed(nav: Any) -> set[str]:
    """Return the pages that a part of the table of contents names."""
    if isinstance(nav, str):
        return {nav}
    parts = nav.values() if isinstance(nav, dict) else nav
    return set[str]().union(*map(_listed, parts))


def _targets(text: str, origin: str) -> list[str]:
    plain = FENCE.sub("", text)
    return [target for link in LINK.finditer(plain) if (target := _resolve(link["path"], origin)) is not None]


def _resolve(link: str, origin: str) -> str | None:
    """Return the file or folder of the repository that a link in the file `origin` means, or None."""
    if ":" in link:
        return None
    path = PurePosixPath(os.path.normpath(PurePosixPath(origin).parent / link)).as_posix()
    return path if not path.startswith("..") and (ROOT / path).exists() else None


def _uri(target: str) -> str:
    """Return where in the site's sources the page of a file or folder is."""
    if target.startswith(f"{DOCS}/"):
        return target.removeprefix(f"{DOCS}/")
    return f"source/{target}.md"


def _page(target: str) -> str:
    path = ROOT / target
    if path.is_dir():
        names = sorted(child.name + "/" * child.is_dir() for child in path.iterdir() if child.name != "__pycache__")
        listed = "\n".join(f"- `{name}`" for name in names)
        return f"---\nsearch: {{exclude: true}}\n---\n# `{target}/`\n\n{listed}\n"
    text = path.read_text(encoding="utf-8")[:LARGEST]
    if path.suffix == ".md":
        return text
    language = LANGUAGES.get(path.suffix, "text")
    return f"---\nsearch: {{exclude: true}}\n---\n# `{target}`\n\n````{language}\n{text}````\n"
