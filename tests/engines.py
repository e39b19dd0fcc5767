"""The engines that the tests of everything above the engines run on: each gives the URL of a fresh, empty space."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

_numbers = itertools.count(1)

ENGINES: dict[str, Callable[[Path], str]] = {
    "memory": lambda _: f"memory:tests-{next(_numbers)}",
    "file": lambda directory: f"file:{directory}/space-{next(_numbers)}.db",
}
SEPARATE_PROCESSES = ("file",)  # those whose spaces other processes can join
