"""`python -m bench`: measure, show a table on standard output and the progress on standard error."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from rich.console import Console

from bench import (
    blackboard,
    file_memory,
    file_messages,
    file_requests,
    growth,
    memory,
    nats_space,
    requests,
    router,
    streams,
)
from bench.machine import describe_machine
from bench.report import as_json, print_report
from bench.rows import Row
from bench.runner import FULL, QUICK, run_rows

ROWS: tuple[Row, ...] = (
    *memory.ROWS,
    *requests.ROWS,
    *streams.ROWS,
    *file_memory.ROWS,
    *file_messages.ROWS,
    *file_requests.ROWS,
    *nats_space.ROWS,
    *growth.ROWS,
    *router.ROWS,
    *blackboard.ROWS,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 1 when a row could not be measured though its peer is there, else 0; a missed target is no error."""
    parser = _parser()
    options = parser.parse_args(arguments)
    rows = [row for row in ROWS if any(fnmatchcase(row.name, pattern) for pattern in options.only)]
    for pattern in options.only:
        if not any(fnmatchcase(row.name, pattern) for row in ROWS):
            parser.error(f"no row is named {pattern}; there are {', '.join(row.name for row in ROWS)}")
    settings = QUICK if options.quick else FULL
    results = run_rows(rows, settings, lambda line: print(line, file=sys.stderr, flush=True))
    machine = describe_machine()
    # What is redirected to a file is not cut to the width of a terminal that is not there.
    print_report(Console(width=None if sys.stdout.isatty() else 220), results, settings, machine)
    if options.json is not None:
        options.json.write_text(as_json(results, settings, machine), encoding="utf-8")
    return 1 if any(result.failure is not None for result in results) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Tertulia against its peers.")
    parser.add_argument("--only", nargs="+", metavar="ROW", default=["*"], help="only these rows; globs are allowed")
    parser.add_argument("--quick", action="store_true", help="short samples and small settings: rough figures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every sample to this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
