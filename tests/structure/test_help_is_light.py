"""Help answers at once: it loads nothing that only a command's work needs.

How long that takes depends on the machine, so what is pinned here is the reason: which modules are not loaded.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from tertulia import BallotState, DeliveryMode
from tertulia.cli import messages, workspace
from tertulia.cli.app import app
from tertulia.cli.calling import URL_VARIABLE
from tertulia.space import URL_VARIABLE as OF_THE_SPACE

SOURCE = Path(__file__).parents[2] / "src"

# Each is large, or loads what is: in milliseconds asyncio 40, msgspec 25, rich 60, pydantic 75 when this was written.
HEAVY = {"asyncio", "msgspec", "apsw", "nats", "rich", "ssl", "concurrent.futures", "logging", "pydantic"}
# All that the package itself may load for it.
LIGHT = {"tertulia", "tertulia._homes", "tertulia.cli", "tertulia.processes", "tertulia.processes.bounds"}

SHOWN = """
import json, sys
from tertulia.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = [*arguments, "--help"]
    try:
        main()
    except SystemExit as end:
        assert not end.code, arguments
print("---")
print(json.dumps(sorted(sys.modules)))
"""


def commands(group: object, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command and group of commands, by what is typed."""
    inner = getattr(group, "commands", {})
    return [path, *(one for name, command in inner.items() for one in commands(command, (*path, name)))]


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """What is loaded after the help of every command was shown, each in the same process."""
    asked = json.dumps(commands(get_command(app)))
    done = subprocess.run(  # noqa: S603 - what is run is above
        [sys.executable, "-c", SHOWN, asked], cwd=SOURCE, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    shown, _, modules = done.stdout.rpartition("---\n")
    assert shown.count("Usage: ") == len(commands(get_command(app)))
    return set(json.loads(modules))


def test_there_are_commands_in_groups_and_outside_of_them():
    assert {(), ("compare",), ("memory",), ("memory", "history"), ("nats", "permissions")} <= set(
        commands(get_command(app))
    )


def test_help_of_no_command_loads_what_is_heavy(loaded: set[str]):
    assert HEAVY & loaded == set()


def test_help_of_no_command_loads_what_commands_work_with(loaded: set[str]):
    own = {name for name in loaded if name.partition(".")[0] == "tertulia" and not name.startswith("tertulia.cli.")}

    assert own <= LIGHT


def test_what_help_says_without_loading_the_library_is_what_the_library_says():
    assert [mode.value for mode in messages.Mode] == [mode.value for mode in DeliveryMode]
    assert [state.value for state in workspace.State] == [state.value for state in BallotState]
    assert URL_VARIABLE == OF_THE_SPACE
