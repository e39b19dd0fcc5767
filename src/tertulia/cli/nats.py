"""`tertulia nats permissions`: have a NATS server hold each agent to what it may do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import replace

from tertulia.cli.calling import MISUSED, fail, talk
from tertulia.engines._nats_permissions import server_configuration
from tertulia.engines._nats_team import EVERYBODY, OPERATOR, AgentGrants, Operator, Team, checked, read_team
from tertulia.errors import InvalidInputError
from tertulia.records import MemoryAccessMode

__all__ = ["app"]

COMMAND = "nats permissions"
HELP = """Write the configuration by which a NATS server holds each agent of a space to what it may do.

From a description in TOML (FILE, or - for standard input), or from --space, --agent, --region and --key. The server \
then refuses, at once, what is not granted: a message in another's name, another's mailbox, a key or region. Passwords \
are not written: a user has an nkey, the bcrypt hash of a password, or a password from the server's environment.
"""

app = typer.Typer(help="NATS servers for spaces.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def nats() -> None:
    """NATS servers for spaces."""


@app.command(help=HELP)
def permissions(
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help="The description.", show_default=False)] = None,
    *,
    space: Annotated[str | None, typer.Option(help="The space, where no FILE describes it.")] = None,
    agent: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="An agent, which may send to all others; again for more.")
    ] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=AGENT:MODE]", help="A region, for all to read and write, or for one agent."),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN[=AGENT:MODE]", help="A key, or all below a level (shared:*), as --region."),
    ] = None,
    operator: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who may do everything; default: operator.")
    ] = None,
    nkey: Annotated[
        list[str] | None, typer.Option(metavar="NAME=U…", help="The public nkey by which a user logs in.")
    ] = None,
    password_hash: Annotated[
        list[str] | None, typer.Option(metavar="NAME=$2a$…", help="The bcrypt hash of a user's password.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write; default: standard output.")
    ] = None,
) -> None:
    """Write a server's configuration; see HELP."""
    try:
        flags = (space, agent, region, key, operator)
        if file is None:
            team = _team(space, agent or [], region or [], key or [], operator)
        elif any(flags):
            raise InvalidInputError("FILE describes the space; only --nkey, --password-hash and --output go with it")  # noqa: TRY301
        else:
            team = read_team(sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8"))
        team = checked(_with_logins(team, nkey or [], password_hash or []))
        text = server_configuration(team, file=output.name if output else "permissions.conf")
        if output is not None:
            output.write_text(text, encoding="utf-8")
            talk(f"wrote {output}, for {len(team.agents)} agents of the space {team.space!r}")
    except (InvalidInputError, OSError, UnicodeDecodeError) as error:
        fail(COMMAND, str(error), MISUSED)
    if output is None:
        typer.echo(text, nl=False)


def _team(space: str | None, agents: list[str], regions: list[str], keys: list[str], operator: str | None) -> Team:
    """Return the team that the options describe."""
    if space is None or not agents:
        raise InvalidInputError("describe the space in a FILE, or by --space and --agent")
    granted: dict[str, tuple[dict[str, MemoryAccessMode], dict[str, MemoryAccessMode]]]
    granted = {name: ({}, {}) for name in agents}
    for place, (option, items) in enumerate((("--region", regions), ("--key", keys))):
        for item in items:
            what, named, mode = _grant(option, item)
            for name in [named] if named else agents:
                if name not in granted:
                    raise InvalidInputError(f"{option} {item}: {name!r} is not an --agent")
                granted[name][place][what] = mode
    grants = {
        name: AgentGrants(sends=(EVERYBODY,), regions=of_regions, keys=of_keys)
        for name, (of_regions, of_keys) in granted.items()
    }
    return Team(space=space, operator=Operator(name=operator or OPERATOR), agents=grants)


def _grant(option: str, item: str) -> tuple[str, str, MemoryAccessMode]:
    """Return what is granted, to whom ("" for all), and how."""
    what, equals, rest = item.rpartition("=")
    if not equals:
        return item, "", MemoryAccessMode.READ_WRITE
    name, _, mode = rest.rpartition(":")
    try:
        return what, name, MemoryAccessMode(mode)
    except ValueError:
        modes = ", ".join(one.value for one in MemoryAccessMode)
        raise InvalidInputError(f"{option} {item}: after = comes AGENT:MODE, where MODE is one of {modes}") from None


def _with_logins(team: Team, nkeys: list[str], hashes: list[str]) -> Team:
    """Return the team with what the options say of how users log in."""
    for field, items in (("nkey", nkeys), ("password_hash", hashes)):
        for item in items:
            name, _, value = item.partition("=")
            if name == team.operator.name:
                team = replace(team, operator=replace(team.operator, **{field: value}))
            elif name in team.agents:
                agents = {**team.agents, name: replace(team.agents[name], **{field: value})}
                team = replace(team, agents=agents)
            else:
                raise InvalidInputError(f"there is no user {name!r} to log in so")
    return team
