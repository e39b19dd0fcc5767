"""The figures that the README shows are measured ones: those of the page that says how they came about."""

from __future__ import annotations

import re

from tests.docs.blocks import ROOT

RATIO = re.compile(r"\d[\d.,]*(?=×)")


def ratios(text: str) -> set[str]:
    return set(RATIO.findall(text))


def test_every_ratio_in_the_readme_stands_in_the_page_on_performance() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("## How fast it is")[1].split("\n## ")[0]
    measured = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")

    assert ratios(section)
    assert ratios(section) - ratios(measured) == set(), "measured anew? then the README's table needs it too"


def test_the_readme_in_spanish_has_the_same_figures() -> None:
    english, spanish = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.es.md"))

    assert RATIO.findall(spanish) == RATIO.findall(english)


def test_a_ratio_that_was_not_measured_is_found() -> None:
    assert ratios("1.26× its time, 0.711× (0.681-0.74)") == {"1.26", "0.711"}
