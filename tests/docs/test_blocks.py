"""Whoever follows a page of the guide sees what the page says."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import ROOT, Block, blocks_of, matches, name_of, pages
from tests.docs.running import Reader, dialogue

pytestmark = pytest.mark.timeout(600)  # seconds; the longest page takes a twentieth of it, on a busy machine
IN_ONE_PROCESS = 'connect("memory:")'
CHAPTERS = ("index", "two-agents", "durable", "processes", "machines")
RUN = {"python", "sh", "console", "text"}


def blocks(page: Path, *, instead: str = IN_ONE_PROCESS) -> list[Block]:
    return blocks_of(page.read_text(encoding="utf-8").replace(IN_ONE_PROCESS, instead))


# The chapters of the tutorial are one program, in one directory; every other page is for itself.
TUTORIAL = [ROOT / "docs" / "tutorial" / f"{chapter}.md" for chapter in CHAPTERS]
FOLLOWED = [page for page in pages() if page not in TUTORIAL and any(block.language in RUN for block in blocks(page))]
IN_PROCESS = [
    page for page in FOLLOWED if page.parent.name == "howto" and IN_ONE_PROCESS in page.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("page", FOLLOWED, ids=name_of)
async def test_a_page_does_what_it_says(page: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TERTULIA_URL", raising=False)
    await Reader(directory=tmp_path).follow(blocks(page))


async def test_what_a_page_sets_for_the_log_does_not_outlast_it(tmp_path: Path) -> None:
    level = logging.getLogger("tertulia").level
    page = blocks_of(f'```python\nimport logging\nlogging.getLogger("tertulia").setLevel({level + 1})\n```\n')
    await Reader(directory=tmp_path).follow(page)

    assert logging.getLogger("tertulia").level == level


async def test_the_tutorial_does_what_it_says_from_the_first_chapter_to_the_last(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    await Reader(directory=tmp_path).follow([block for page in TUTORIAL for block in blocks(page)])


def test_every_chapter_of_the_tutorial_is_in_the_program() -> None:
    assert {page for page in pages() if page.parent.name == "tutorial"} == set(TUTORIAL)


@pytest.mark.parametrize("url", ["file:page.db", "nats://localhost:4222/page"])
@pytest.mark.parametrize("page", IN_PROCESS, ids=name_of)
async def test_a_howto_that_is_written_for_one_process_does_the_same_elsewhere(
    page: Path, url: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    await Reader(directory=tmp_path).follow(blocks(page, instead=f'connect("{url}")'))


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_block_says_in_what_language_it_is_and_why_it_is_not_run_if_so(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block in blocks_of(text):
        assert block.language not in ("", "mermaid"), f"{page.name}, line {block.line}: {block.language!r}"
        assert re.fullmatch(r"|exit \d+|not run: .{10,}", block.note), f"{page.name}, line {block.line}"
    fences = re.findall(r"^`{3,}", text, flags=re.MULTILINE)
    assert len(fences) == 2 * len(blocks_of(text)), f"{page.name}: a fence that is not seen as a block"


# --- the runner itself: what a page says falsely is found


async def follow(directory: Path, text: str) -> None:
    await Reader(directory=directory).follow(blocks_of(text))


@pytest.mark.parametrize(
    "page",
    [
        "```python\nprint(1)\n```\n\n```text\n2\n```\n",
        "```python\nprint(1)\nprint(2)\n```\n\n```text\n1\n```\n",
        "```python\nassert 1 == 2\n```\n",
        "```python\nimport asyncio\nasync def main():\n    print(1)\nasyncio.run(main())\n```\n\n```text\n2\n```\n",
        "```sh\ntertulia memory get nothing --url file:a.db\n```\n",
        "<!-- exit 1 -->\n```sh\ntertulia memory put key 1 --url file:a.db\n```\n",
        "```console\n$ tertulia memory put key 1 --url file:a.db\nsomething else\n```\n",
        "```sh\nmake nothing\n```\n",
        "```sh\npip install 'tertulia[nothing]'\n```\n",
    ],
)
async def test_a_page_that_says_something_false_is_found(page: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        await follow(tmp_path, page)


async def test_a_page_is_one_program_with_files_and_commands(tmp_path: Path) -> None:
    await follow(
        tmp_path,
        '```python\nn = 1\n```\n\n```python title="words.py"\nprint("one word")\n```\n\n'
        "```python\nprint(n + 1)\n```\n\n```text\n2\n```\n\n```console\n$ python words.py  # says it\none …\n```\n",
    )


def test_a_block_that_is_marked_says_so() -> None:
    (block,) = blocks_of("text\n\n<!-- not run: it takes an hour -->\n```sh\nmake faults\n```\n")

    assert (block.language, block.text, block.line) == ("sh", "make faults\n", 5)
    assert block.note == "not run: it takes an hour"


def test_a_dialogue_is_commands_with_what_they_print() -> None:
    assert dialogue("$ a b  # why\nc\nd\n$ e\n") == [("a b", "c\nd\n"), ("e", "")]


def test_dots_stand_for_anything_in_a_line_only() -> None:
    assert matches("at … o'clock\n", "at 12 o'clock")
    assert not matches("at … o'clock", "at\n12 o'clock")
    assert not matches("1.5", "125")
