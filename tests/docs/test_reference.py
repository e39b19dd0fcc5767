"""The reference has everything that is promised: each public name is on one of its pages."""

from __future__ import annotations

import importlib
import re

import pytest

import tertulia
from tertulia import blocking
from tests.docs.blocks import ROOT

PAGES = sorted((ROOT / "docs" / "reference" / "api").glob("*.md"))
ENTRY = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)
ENTRIES = [entry for page in PAGES for entry in ENTRY.findall(page.read_text(encoding="utf-8"))]
MODULES = {"tertulia.errors": "TertuliaError", "tertulia.engines.base": "Engine"}  # whole ones, and something in each


def test_every_public_name_is_in_the_reference() -> None:
    shown = {entry.removeprefix("tertulia.") for entry in ENTRIES}
    told = (ROOT / "docs" / "reference" / "api" / "records.md").read_text(encoding="utf-8")

    missing = set(tertulia.__all__) - shown - set(MODULES.values())
    assert {name for name in missing if f"`{name}`" not in told} == set()


def test_every_name_for_threads_is_named_in_the_reference() -> None:
    told = (ROOT / "docs" / "reference" / "api" / "blocking.md").read_text(encoding="utf-8")
    returned = {"CollaborationTask", "Hold", "LeaderWatch", "MemoryWatch", "RegionWatch", "Stream", "WorkspaceWatch"}

    assert [name for name in blocking.__all__ if name not in returned and f"{name}" not in told] == []


@pytest.mark.parametrize("entry", ENTRIES)
def test_what_the_reference_shows_exists_and_says_what_it_is(entry: str) -> None:
    if entry in MODULES:
        assert hasattr(importlib.import_module(entry), MODULES[entry])
        return
    module, _, name = entry.rpartition(".")
    assert getattr(importlib.import_module(module), name).__doc__


def test_nothing_is_shown_twice() -> None:
    assert sorted(set(ENTRIES)) == sorted(ENTRIES)
