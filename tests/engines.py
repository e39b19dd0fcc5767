"""The engines that the tests of everything above the engines run on: each gives the URL of a fresh, empty space."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

from tests.nats.server import fresh_space, shared_server

_numbers = itertools.count(1)

ENGINES: dict[str, Callable[[Path], str]] = {
    "memory": lambda _: f"memory:tests-{next(_numbers)}",
    "file": lambda directory: f"file:{directory}/space-{next(_numbers)}.db",
    # The server starts when the first test asks for it. In memory, because batches on its disk take ten times longer.
    "nats": lambda _: f"{shared_server().url}/{fresh_space()}?storage=memory",
}
SEPARATE_PROCESSES = ("file", "nats")  # those whose spaces other processes can join
