"""The programs in the how-to pages run, and print what the pages say."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

import tertulia

PAGES = Path(__file__).parents[2] / "docs" / "howto"
PACKAGE = Path(tertulia.__file__).parents[1]
LONGEST = 60  # seconds; they take less than one, so this is met by a hang only
PROGRAM = re.compile(r"^```python\n(.*?)^```\n\n^```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)  # and its output


@pytest.mark.parametrize("page", ["cached-requests", "write-and-notify"])
async def test_a_program_of_a_page_prints_what_the_page_says(page: str, tmp_path: Path) -> None:
    programs = PROGRAM.findall((PAGES / f"{page}.md").read_text(encoding="utf-8"))
    assert programs
    for program, output in programs:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", program),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(PACKAGE)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            printed, errors = await asyncio.wait_for(process.communicate(), LONGEST)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert (process.returncode, errors.decode()) == (0, "")
        assert printed.decode() == output
