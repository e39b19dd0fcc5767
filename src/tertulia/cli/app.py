"""The commands of `tertulia`. What a command needs is imported when it runs, so that `--help` answers at once.

Exit codes: 0, done; 1, the work failed; 2, it was asked for in a way that cannot be done; 130, stopped by Ctrl-C;
141, whoever read the output has gone.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tertulia.cli import dead_letters, memory, messages, nats, workspace
from tertulia.cli.doctor import doctor
from tertulia.cli.groups import Group
from tertulia.cli.run import run as run_agents

__all__ = ["app", "main"]

INTERRUPTED = 130  # what shells call a command that was stopped by Ctrl-C: 128 + SIGINT

# A paragraph is a line: the help is laid out for the terminal that it is shown on.
COMPARE_HELP = """Measure shared memory against messages on this machine.

A team of agents (a scout, readers, a critic and a writer) analyses a folder of text and writes a report on it, and \
six use cases of communication (state_sharing, request_response, event_streaming, broadcast, caching, coordination) \
are done: through shared memory, through messages, and through both in one commit, with the agents as tasks of one \
process and with each in a process of its own. All reports must be equal, byte for byte. Somebody is killed half-way, \
to see what is lost, repeated or stuck.

Tables show what each way costs, and what it costs is kept in .tertulia/profile.json, for 'tertulia recommend'. \
Without more it takes about a minute.
"""

app = typer.Typer(
    cls=Group,
    name="tertulia",
    help="The communication layer for multi-agent systems: shared memory, messages, and both at once.",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich's help takes a tenth of a second to import
    pretty_exceptions_enable=False,  # a traceback that comes through is a fault of ours, and is wanted whole
    add_completion=False,
)


class EngineName(StrEnum):
    """The engines that a comparison can run on."""

    memory = "memory"
    file = "file"
    nats = "nats"


class AgentsAsName(StrEnum):
    """What each agent of a comparison can be."""

    tasks = "tasks"
    processes = "processes"
    both = "both"


def main() -> None:
    """Run the command line, and exit with its code."""
    try:
        app()
    except KeyboardInterrupt:  # before or after a command's own handling
        sys.exit(INTERRUPTED)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer gives a callback the option's value
    if wanted:
        from tertulia.compare.environment import own_version

        typer.echo(f"tertulia {own_version()}")
        raise typer.Exit


@app.callback()
def tertulia(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """The communication layer for multi-agent systems: shared memory, messages, and both at once."""


@app.command(help=COMPARE_HELP)
def compare(
    *,
    input: Annotated[  # noqa: A002 - the name of the option
        Path, typer.Option("--input", "-i", metavar="DIR", help="The folder of text to report on.")
    ] = Path(),
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where to write the report.")] = Path(
        "build/tertulia"
    ),
    readers: Annotated[int, typer.Option(min=1, max=64, help="How many agents read files at once.")] = 3,
    repeat: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="How many measured runs each way. Default: 3.", show_default=False),
    ] = None,
    use_case: Annotated[
        list[str] | None,
        typer.Option(help="One of the six, or report; may be given again. Default: all.", show_default=False),
    ] = None,
    engine: Annotated[
        list[EngineName] | None,
        typer.Option(
            help="What keeps the space that the agents share; may be given again. Default: memory and file.",
            show_default=False,
        ),
    ] = None,
    url: Annotated[str | None, typer.Option(help="The server, for the nats engine: nats://HOST:PORT.")] = None,
    agents: Annotated[
        list[AgentsAsName] | None,
        typer.Option(
            help="What each agent is; may be given again. Default: processes where the engine allows it.",
            show_default=False,
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Each report once each way: less than a minute.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Teams of 2, 8, 32 and 64, and 100 B, 10 kB and 256 kB: ten minutes.")
    ] = False,
    budget: Annotated[
        float | None,
        typer.Option(
            min=1,
            max=86_400,
            metavar="SECONDS",
            help="End by then, and say what was left out. Default: 50, 540 with --full.",
            show_default=False,
        ),
    ] = None,
    team: Annotated[
        list[int] | None, typer.Option(metavar="N", help="Agents in a team of a use case; may be given again.")
    ] = None,
    payload: Annotated[
        list[int] | None, typer.Option(metavar="BYTES", help="Size of what is shared or sent; may be given again.")
    ] = None,
    faults: Annotated[bool, typer.Option(help="Kill somebody half-way, where agents are processes.")] = True,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR", help="Replay recorded conversations (and only what --use-case names beside them)."
        ),
    ] = None,
    json: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write all figures as JSON to this file too; - for standard output alone."),
    ] = None,
    html: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a page with plots, which needs nothing else.")
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where the figures for 'tertulia recommend' go; default: where it looks."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Compare, and exit with the code of the outcome."""
    from tertulia.cli.compare import Options, run

    code = run(
        Options(
            folder=input,
            output=output,
            readers=readers,
            repeat=repeat,
            engines=tuple(dict.fromkeys(one.value for one in engine or ())),
            agents=_agents_as(agents or []),
            url=url,
            use_cases=tuple(use_case or ()),
            teams=tuple(team or ()),
            payloads=tuple(payload or ()),
            quick=quick,
            full=full,
            budget=budget,
            faults=faults,
            trace=trace,
            json=json,
            html=html,
            profile=profile,
            quiet=quiet,
        )
    )
    raise typer.Exit(code)


def _agents_as(asked: list[AgentsAsName]) -> tuple[str, ...]:
    """Return what agents are to be, each once; nothing for whatever the engine allows."""
    both = (AgentsAsName.tasks, AgentsAsName.processes)
    wanted = both if AgentsAsName.both in asked else asked
    return tuple(dict.fromkeys(one.value for one in wanted))


@app.command()
def recommend(
    *,
    use_case: Annotated[
        str | None, typer.Option("--use-case", help="state_sharing, request_response, event_streaming, …")
    ] = None,
    agents: Annotated[int, typer.Option(help="How many agents there are.")] = 2,
    payload: Annotated[int, typer.Option(help="Bytes of a usual message or value.")] = 1_000,
    latency_sensitive: Annotated[bool, typer.Option("--latency-sensitive", help="The slow ones count.")] = False,
    high_throughput: Annotated[bool, typer.Option("--high-throughput", help="How much gets through counts.")] = False,
    strong_consistency: Annotated[bool, typer.Option("--strong-consistency", help="No update may be lost.")] = False,
    fault_tolerant: Annotated[bool, typer.Option("--fault-tolerant", help="Any process may die.")] = False,
    scalable: Annotated[bool, typer.Option("--scalable", help="The team is going to grow.")] = False,
    processes: Annotated[bool, typer.Option("--processes", help="Agents are in several processes.")] = False,
    machines: Annotated[bool, typer.Option("--machines", help="Agents are on several machines.")] = False,
    durable: Annotated[bool, typer.Option("--durable", help="The state outlives the processes.")] = False,
    power_safe: Annotated[bool, typer.Option("--power-safe", help="It outlives a power cut, too.")] = False,
    profile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Figures to go by; default: your latest.")
    ] = None,
    language: Annotated[str, typer.Option("--language", "-l", metavar="en|es", help="Of the reasons.")] = "en",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how agents should communicate, from measured figures. Without --use-case you are asked, at most six times."""
    from tertulia.cli.recommend import run

    fields = {
        "use_case": use_case,
        "agents": agents,
        "payload": payload,
        "latency_sensitive": latency_sensitive,
        "high_throughput": high_throughput,
        "strong_consistency": strong_consistency,
        "fault_tolerant": fault_tolerant,
        "scalable": scalable,
        "processes": processes,
        "machines": machines,
        "durable": durable,
        "power_safe": power_safe,
    }
    run(fields, profile=profile, language=language, json=json)


app.command("run")(run_agents)
app.add_typer(memory.app, name="memory")
app.command()(messages.send)
app.command()(messages.request)
app.command()(messages.publish)
app.command()(messages.listen)
app.command()(messages.inbox)
app.command("agents")(messages.list_agents)
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(workspace.app, name="workspace")
app.command()(doctor)
app.add_typer(nats.app, name="nats")
