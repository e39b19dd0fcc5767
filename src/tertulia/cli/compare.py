"""`tertulia compare`: the tables go to standard output, the progress and everything else to standard error."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any, cast

from msgspec import Struct
from msgspec.structs import replace

from tertulia import TertuliaError
from tertulia.cli.compare_files import UsageError, check_files, keep_profile, publish
from tertulia.cli.compare_progress import Shown
from tertulia.compare.budget import Budget, LeftOut
from tertulia.compare.comparing import Findings, Wanted, compare_all
from tertulia.compare.places import ENGINES, LOCAL_ENGINES
from tertulia.compare.replay import NotDeliveredOnceError
from tertulia.compare.report_team.input_errors import InputFolderError
from tertulia.compare.runner import FolderChangedError, ReportsDifferError, Settings
from tertulia.compare.sizes import FULL, QUICK, Size
from tertulia.compare.stages import AgentsAs, StageError, stages_of
from tertulia.compare.traces import Conversation, TraceError, check_team, read_conversations
from tertulia.compare.units import bytes_text
from tertulia.compare.use_cases.conducting import PartFailedError
from tertulia.compare.workers import AgentDiedError, AgentFailedError
from tertulia.selection.profile import ProfileError
from tertulia.selection.requirement import UseCase

__all__ = ["REPORT", "Options", "run"]

DONE, FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
REPORT = "report"  # the report team, among the names of use cases
MAX_TEAM = 64  # agents: each may be a process
MAX_VALUE = 900_000  # bytes: every engine takes it as one value, with what is around it
FAILURES = (
    *(ReportsDifferError, FolderChangedError, AgentFailedError, AgentDiedError, PartFailedError),
    *(NotDeliveredOnceError, TertuliaError, TimeoutError, OSError, ExceptionGroup),
)


class Options(Struct, frozen=True, kw_only=True):
    """What was asked for on the command line; `repeat` is None for as many runs as usual.

    Without `engines` they are those that need no server, as far as agents can be there what is asked for.
    """

    folder: Path
    output: Path
    readers: int = 3
    repeat: int | None = None
    engines: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    url: str | None = None
    use_cases: tuple[str, ...] = ()
    teams: tuple[int, ...] = ()
    payloads: tuple[int, ...] = ()
    quick: bool = False
    full: bool = False
    budget: float | None = None
    faults: bool = True
    trace: Path | None = None
    json: str | None = None
    html: str | None = None
    profile: Path | None = None
    quiet: bool = False


def run(options: Options) -> int:
    """Compare, write and print; return the exit code."""
    logging.getLogger("tertulia").addHandler(logging.NullHandler())  # what agents log on a failure is reported below
    findings = Findings(Budget(_budget(options)))
    try:
        work = _work(options)
        check_files(options.folder if work.report else None, options, profile=bool(work.use_cases))
        with Shown(quiet=options.quiet) as shown:
            asyncio.run(_compare(options, work, shown, findings))
    except (InputFolderError, StageError, UsageError, TraceError, ProfileError) as error:
        return _complain(BAD_INPUT, str(error))
    except FAILURES as error:
        return _failed(options, findings, error)
    except (KeyboardInterrupt, asyncio.CancelledError) as stop:
        return _stopped(options, findings, INTERRUPTED if isinstance(stop, KeyboardInterrupt) else TERMINATED)
    return _finished(options, findings)


class _Work(Struct, frozen=True, kw_only=True):
    """What the options come to."""

    report: bool
    use_cases: tuple[UseCase, ...]
    conversations: tuple[Conversation, ...]
    size: Size


async def _compare(options: Options, work: _Work, shown: Shown, findings: Findings) -> None:
    """Compare; SIGTERM stops it as Ctrl-C does, so that it leaves neither files nor processes."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - asyncio.run made one
    with suppress(NotImplementedError):  # Windows has no such signal
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    server = options.url or ""
    agents = tuple(map(AgentsAs, options.agents))
    engines = options.engines or LOCAL_ENGINES
    stages = await stages_of(engines, agents, server=server, where_possible=not options.engines)
    usual = 1 if options.quick else 3
    report = Settings(
        folder=options.folder,
        readers=options.readers,
        repeat=options.repeat or usual,
        stages=stages,
        server=server,
    )
    wanted = Wanted(
        stages=stages,
        report=report if work.report else None,
        use_cases=work.use_cases,
        size=work.size,
        faults=options.faults,
        conversations=work.conversations,
        server=server,
    )
    await compare_all(wanted, shown, findings)


def _explained(problem: Exception, options: Options) -> str:
    """Return what to say of a failure; an agent's traceback, which was in another process, is shown here."""
    match _first(problem):
        case ReportsDifferError() as error:
            return f"{error}; see {_write_all(options.output, error.reports)}"
        case FolderChangedError() as error:
            return f"{error}; run it again when nobody writes there"
        case AgentFailedError() as error:
            sys.stderr.write(error.traceback)
            text = str(error)
        case PartFailedError() as error:
            sys.stderr.write(f"{error.said.rstrip()}\n")
            text = f"part {error.number} of a team failed"
        case AgentDiedError() | NotDeliveredOnceError() as error:
            text = str(error)
        case error:
            text = f"{type(error).__name__}: {error}"
    return text


def _first(error: BaseException) -> BaseException:
    """Return the first of several errors that came together."""
    found: Any = error
    while isinstance(found, BaseExceptionGroup):
        found = cast("Any", found).exceptions[0]
    return found


def _complain(code: int, problem: str) -> int:
    print(f"tertulia compare: {' '.join(problem.split())}", file=sys.stderr)  # noqa: T201 - what a command does
    return code


def _failed(options: Options, findings: Findings, problem: Exception) -> int:
    """Say what went wrong, and show what was measured before, unless it is of no use any more."""
    if findings and not isinstance(problem, (ReportsDifferError, FolderChangedError)):
        with suppress(OSError):  # the first error is the one to tell
            publish(findings.comparison(complete=False), findings.outcome(), options)
    return _complain(FAILED, _explained(problem, options))


def _stopped(options: Options, findings: Findings, code: int) -> int:
    """Show what was measured until somebody stopped it; a profile of it would be half of one."""
    if not findings:
        return _complain(code, "stopped; nothing was written")
    try:
        publish(findings.comparison(complete=False), findings.outcome(), options)
    except OSError as error:
        return _complain(code, f"stopped; what was measured until then was not written: {error}")
    return _complain(code, "stopped; this is what was measured until then, and no profile was written")


def _finished(options: Options, findings: Findings) -> int:
    comparison = findings.comparison(complete=True)
    try:
        publish(comparison, findings.outcome(), options)
        said = keep_profile(comparison, options) if comparison.cells else ""
    except (OSError, ProfileError) as error:
        return _complain(FAILED, f"not everything was written: {error}")
    page = "" if options.html is None else f"the page with tables and plots, for a browser: {options.html}"
    _talk(findings.left_out, findings.budget)
    for line in filter(None, (page, said)):
        if not options.quiet:
            print(line, file=sys.stderr)  # noqa: T201 - what a command does
    return DONE


def _talk(left_out: Sequence[LeftOut], budget: Budget) -> None:
    """Say what is missing, however quiet it was to be: who reads the figures should know."""
    if left_out:
        many = f"{len(left_out)} thing{'s' * (len(left_out) > 1)}"
        print(f"left out, to end within {budget.seconds:g} s (--budget): {many}", file=sys.stderr)  # noqa: T201 - see above
    for line in _grouped(left_out):
        print(f"  {line}", file=sys.stderr)  # noqa: T201 - see above


def _grouped(left_out: Sequence[LeftOut]) -> list[str]:
    """Return a line for each place where use cases were left out, and for whatever else was; JSON has each alone."""
    lines: dict[str, list[str]] = {}
    for one in left_out:
        if one.point is None:
            lines[f"{one.what}: {one.why}"] = []
            continue
        where = f"{one.point.engine}, {one.point.agents_as}, {one.point.agents} agents, {bytes_text(one.point.payload)}"
        lines.setdefault(where, []).append(one.point.use_case.value.replace("_", " "))
    return [f"{where}: {', '.join(names)}" if names else where for where, names in lines.items()]


def _write_all(output: Path, reports: dict[str, str]) -> str:
    """Write reports that should be equal, for the user to compare."""
    names: list[str] = []
    for name, report in reports.items():
        path = output / f"report-by-{re.sub('[^a-z0-9]+', '-', name).strip('-')}.md"
        path.write_text(report, encoding="utf-8", newline="\n")
        names.append(str(path))
    return " and ".join(names)


# --- What was asked for --------------------------------------------------------------------------


def _work(options: Options) -> _Work:
    """Make sense of the options. Raises UsageError, TraceError."""
    if options.quick and options.full:
        raise UsageError("--quick and --full: one of them")
    _check_server(options)
    named = _named(options.use_cases)
    everything = not named and options.trace is None
    conversations = [] if options.trace is None else read_conversations(options.trace)
    for conversation in conversations:
        check_team(conversation)
    return _Work(
        report=everything or REPORT in named,
        use_cases=tuple(one for one in UseCase if everything or one.value in named),
        conversations=tuple(conversations),
        size=_size(options),
    )


def _check_server(options: Options) -> None:
    needing = [name for name in options.engines if ENGINES[name].needs_server]
    if needing and not options.url:
        raise UsageError(f"--engine {needing[0]} needs the URL of its server: --url {needing[0]}://HOST:PORT")
    if options.url and not needing:
        raise UsageError("--url is for an engine that needs a server: add --engine nats")


def _named(names: Sequence[str]) -> list[str]:
    known = [REPORT, *(use_case.value for use_case in UseCase)]
    wanted = [name.replace("-", "_") for name in names]
    for name, given in zip(wanted, names, strict=True):
        if name not in known:
            raise UsageError(f"--use-case {given}: there is none of this name; there are {', '.join(known)}")
    return wanted


def _budget(options: Options) -> float:
    """Return the seconds it may take: as asked for, else as it is said of the size; whoever names points gets them."""
    if options.budget is not None:
        return options.budget
    named = options.teams or options.payloads
    if named and not (options.quick or options.full):
        return inf
    return (FULL if options.full else QUICK).budget


def _size(options: Options) -> Size:
    size = FULL if options.full else QUICK
    for team in options.teams:
        if team == 1:
            raise UsageError("--team 1: a team of one has nobody to communicate with")
        if not 2 <= team <= MAX_TEAM:  # noqa: PLR2004 - it takes two
            raise UsageError(f"--team {team}: from 2 to {MAX_TEAM}")
    for payload in options.payloads:
        if not 1 <= payload <= MAX_VALUE:
            raise UsageError(f"--payload {payload}: from 1 to {MAX_VALUE:,} bytes")
    return replace(
        size,
        teams=options.teams or size.teams,
        payloads=options.payloads or size.payloads,
        repeat=options.repeat or size.repeat,
    )
