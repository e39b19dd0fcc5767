"""The figures of the sales report are those of its file: added up here in another way, for this file and others.

The independent sums are made in whole cents, so that they share neither code nor arithmetic with the example.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

import tertulia

EXAMPLE = Path(__file__).parents[2] / "examples" / "sales_report.py"
PACKAGE = Path(tertulia.__file__).parents[1]
LONGEST = 60  # seconds; it takes less than one, so this is met by a hang only


async def run(*arguments: str) -> tuple[int, list[str], str]:
    """Run the example; return its exit code, the lines that it printed, and its errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-X", "dev", str(EXAMPLE), *arguments),
        env={**os.environ, "PYTHONPATH": str(PACKAGE), "PYTHONIOENCODING": "utf-8"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), LONGEST)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    # That a step of the event loop was slow is about the machine, not about the example.
    told = re.sub(r"^Executing .* took [\d.]+ seconds\n", "", errors.decode(), flags=re.MULTILINE)
    return process.returncode or 0, output.decode().splitlines(), told


def cents(text: str) -> int:
    """Return an amount such as 1,234.50 in cents."""
    return int(text.replace(",", "").replace(".", ""))


def added_up(file: Path) -> tuple[int, int, dict[str, Counter[str]]]:
    """Return how many sales a file has, their total in cents, and the sums by the words that begin a report's line."""
    sums = {"By region": Counter[str](), "By product": Counter[str](), "By month": Counter[str]()}
    lines = file.read_text(encoding="utf-8").split("\n")[1:]
    sales = [line.split(",") for line in lines if line]
    for day, region, product, units, price in sales:
        amount = int(units) * cents(price)
        sums["By region"][region] += amount
        sums["By product"][product] += amount
        sums["By month"][day[:7]] += amount
    return len(sales), sum(sums["By month"].values()), sums


def check(printed: list[str], file: Path) -> None:
    count, total, sums = added_up(file)
    said = re.fullmatch(r"(\d+) sales came to ([\d,]+\.\d\d)\.", printed[5])
    assert said is not None
    assert (int(said[1]), cents(said[2])) == (count, total)
    for line, (words, amounts) in zip(printed[6:9], sums.items(), strict=True):
        assert line.startswith(f"{words}: ")
        told = re.findall(r"([\w-]+) ([\d,]+\.\d\d)", line)
        assert {name: cents(amount) for name, amount in told} == amounts
        for name, amount, share in re.findall(r"([\w-]+) ([\d,]+\.\d\d) \((\d+\.\d)%\)", line):
            assert abs(float(share) - 100 * cents(amount) / total) <= 0.05 + 1e-9, name
    changes = [float(change) for change in re.findall(r"\(([+-]\d+\.\d)%\)", printed[8])]
    by_month = [amount for _, amount in sorted(sums["By month"].items())]
    expected = [100 * (after / before - 1) for before, after in itertools.pairwise(by_month)]
    assert changes == pytest.approx(expected, abs=0.05 + 1e-9)


async def test_the_report_on_the_file_that_comes_with_it_has_the_files_figures() -> None:
    code, printed, errors = await run()
    assert (code, errors) == (0, "")
    check(printed, EXAMPLE.with_name("sales.csv"))


async def test_the_report_on_another_file_has_that_files_figures(tmp_path: Path) -> None:
    chance = random.Random(11)  # noqa: S311 - to be repeated
    rows = [
        f"2024-0{chance.randint(1, 6)}-{chance.randint(10, 28)},{chance.choice('ABCD')},"
        f"{chance.choice(['nut', 'fig'])},{chance.randint(1, 500)},{chance.randint(0, 99)}.{chance.randint(0, 99):02}"
        for _ in range(300)
    ]
    file = tmp_path / "other.csv"
    file.write_text("date,region,product,units,unit_price\n" + "\n".join(rows) + "\n", encoding="utf-8")
    code, printed, errors = await run(str(file))
    assert (code, errors) == (0, "")
    check(printed, file)


async def test_a_file_without_sales_is_said_to_be_one(tmp_path: Path) -> None:
    file = tmp_path / "empty.csv"
    file.write_text("date,region,product,units,unit_price\n", encoding="utf-8")
    code, printed, errors = await run(str(file))
    assert (code, printed) == (1, [])
    assert "there are no sales in empty.csv" in errors
