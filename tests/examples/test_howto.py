"""The code in the how-to pages is run: the Python blocks of a page, one after the other, as one program."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

HOWTO = Path(__file__).parents[2] / "docs" / "howto"
PRINTS = {  # what the programs of some pages print, where the page says so
    "locks": r"""
        \d+
        \('account:1', 'account:2'\)
        None
        'ann' waits for a reply of 'bob'
        'bob' waits for lock 'report', held by 'ann'
        None
        \('ann',\)
        'ann' does not hold lock 'report' any more: it was released
    """,
}
LONGEST = 60  # seconds; they take less than one, so this is met by a hang only


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", sorted(HOWTO.glob("*.md")), ids=lambda page: page.stem)
async def test_the_code_of_a_howto_page_does_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": page.stem}
    found = blocks(page)
    assert found
    for block in found:
        code = compile(block, page.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, names)  # noqa: S307 - it is the page's own code
        if inspect.isawaitable(result):
            await asyncio.wait_for(result, LONGEST)
    if page.stem in PRINTS:
        wanted = "\n".join(line.strip() for line in PRINTS[page.stem].strip().splitlines())
        printed = capsys.readouterr().out.strip()
        assert re.fullmatch(wanted, printed), printed
