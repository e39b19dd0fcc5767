"""Every example is run as a user runs it, and prints what it is there to show."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

import tertulia

EXAMPLES = Path(__file__).parents[2] / "examples"
PACKAGE = Path(tertulia.__file__).parents[1]
LONGEST = 60  # seconds; they take less than one, so this is met by a hang only

# What each example prints: each line is a regular expression for one whole line.
EXPECTED = {
    "five_voters.py": r"""
        the electorate: ann, bob, cid, dan, eve
        passed: majority \(yes 3, no 1, of 5 eligible\): yes; silent: eve
        bob dissents: the manual is not finished
        the version is 1\.0, written in the commit that closed the ballot
        too late: passed
        told: ann that 'change version' has passed, bob that .*, cid that .*, dan that 'change version' has passed
        still there: ann, bob, cid, dan
    """,
    "shared_memory.py": r"""
        writer reads: positive with confidence 0\.92
        writer's edit is refused: the draft is at version 2 by now
        who closed the draft\? writer True, analyst False
        100 increments at once: 100
        watcher sees: put of shared:trend -> rising
        watcher sees: delete of shared:trend -> None
        statistics: 3 entries \(analyst 1, writer 2\) at revision \d+
    """,
    "message_passing.py": r"""
        coordinator gets: done, mean 3\.0
        coordinator learns: worker raised ZeroDivisionError
        coordinator learns: no agent 'wroker' is registered in this space
        worker fetched news on attempt 2
        dead letter: \{'type': 'task', 'numbers': \[\]\} - ZeroDivisionError: division by zero
        dead letter: sing a song - I do not do 'sing a song'
    """,
    "router_on_conversations.py": r"""
        3 conversations, 36 turns, heard 70 times, each as it was said
        \d+ by message, \d+ by pointer
        agent-1-2 to agent-1-0, .*: about 34,450 bytes for 4 by (message|pointer), because .*
        \s+message: [\d.,]+ µs = [\d.,]+ µs of calls \+ 137,800 bytes written and 137,800 read at 1 ns \(.*\)
        \s+pointer: [\d.,]+ µs = [\d.,]+ µs of calls \+ [\d,]+ bytes written and 137,800 read at 1 ns \(.*\)
        \s+memory: ruled out, receivers are to be told; latency='relaxed' would allow it
        \s+request: ruled out, no reply is wanted
        agent-0-0 to agent-0-1: about 13 bytes for 1 by pointer, because a hint names the channel
    """,
    "one_commit.py": r"""
        auditor reads: 20 booked
        auditor reads: 3 booked
        auditor reads: 100 booked
        balance: 123
        nothing was committed: 'balance' moved on to version 4
        notes for the auditor: 0
    """,
    "sales_report.py": r"""
        controller: the figures agree
        reader hears from analyst: 'report' is at version 1
        controller: the figures agree
        reader hears from analyst: 'report' is at version 2
        Sales from 2025-\d\d-\d\d to 2025-\d\d-\d\d
        \d+ sales came to [\d,.]+\.
        By region: .*\.
        By product: .*\.
        By month: .*\.
        the figures were computed 1 time, and taken from the cache 1 time
        cached keys to take back when the file changes: 1
    """,
    "dining_philosophers.py": r"""
        one fork after the other: [\w ]+ is told of the circle
        '[\w ]+' waits for lock 'fork \d', held by '[\w ]+'
        '[\w ]+' waits for lock 'fork \d', held by '[\w ]+'
        '[\w ]+' waits for lock 'fork \d', held by '[\w ]+'
        '[\w ]+' waits for lock 'fork \d', held by '[\w ]+'
        '[\w ]+' waits for lock 'fork \d', held by '[\w ]+'
        it puts its fork back; \d+ broken in all, and everybody had 20 meals
        both forks at once: everybody had 20 meals, 0 deadlocks
    """,
    "cipher.py": r"""
        ended by solution: people who work together need a place where .* how it came about carlsen
        right: True; every source had a part in it: True
    """,
    "two_processes.py": r"""
        the sum is 6
        the sum is 15, by another process: True
        the process that was killed has been started again
        all stopped, exit code 0
    """,
}


def test_every_example_has_an_expectation_and_every_expectation_an_example() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
async def test_an_example_runs_anywhere_and_prints_what_it_is_there_to_show(name: str, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TERTULIA")}
    paths = [str(PACKAGE), environment.get("PYTHONPATH", "")]
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONIOENCODING": "utf-8"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-X", "dev", str(EXAMPLES / name)),
        cwd=tmp_path,
        env=environment,
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
    assert re.sub(r"^Executing .* took [\d.]+ seconds\n", "", errors.decode(), flags=re.MULTILINE) == ""
    assert process.returncode == 0
    printed = output.decode().splitlines()
    wanted = [line.strip() for line in EXPECTED[name].strip().splitlines()]
    assert len(printed) == len(wanted), printed
    for line, pattern in zip(printed, wanted, strict=True):
        assert re.fullmatch(pattern, line), f"{line!r} is not {pattern!r}"


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_an_example_says_at_its_top_what_it_shows_and_how_to_run_it(name: str) -> None:
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    assert text.startswith('"""')
    assert f"python examples/{name}" in text.split('"""')[1]
    assert "async def main() -> None:" in text
    assert text.endswith('if __name__ == "__main__":\n    asyncio.run(main())\n')
