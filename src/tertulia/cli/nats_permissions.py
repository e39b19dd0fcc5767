"""What `tertulia nats permissions` does: a server's configuration from a description of a team."""

from __future__ import annotations

import sys
from pathlib import Path

import typer
from msgspec import Struct
from msgspec.structs import replace

from tertulia.cli.calling import MISUSED, fail, talk
from tertulia.engines._nats_permissions import server_configuration
from tertulia.engines._nats_team import EVERYBODY, OPERATOR, AgentGrants, Operator, Team, checked, read_team
from tertulia.errors import InvalidInputError
from tertulia.records import MemoryAccessMode

__all__ = ["Described", "run"]

COMMAND = "nats permissions"


class Described(Struct, frozen=True, kw_only=True):
    """The team: in a file of TOML, `-` for standard input, or by the options."""

    file: str | None
    space: str | None
    agents: list[str]
    regions: list[str]
    keys: list[str]
    operator: str | None


def run(described: Described, *, nkeys: list[str], hashes: list[str], output: Path | None) -> None:
    """Write the configuration, or exit with what is wrong with the description."""
    try:
        team = checked(_with_logins(_described(described), nkeys, hashes))
        text = server_configuration(team, file=output.name if output else "permissions.conf")
        if output is not None:
            output.write_text(text, encoding="utf-8")
            talk(f"wrote {output}, for {len(team.agents)} agents of the space {team.space!r}")
    except (InvalidInputError, OSError, UnicodeDecodeError) as error:
        fail(COMMAND, str(error), MISUSED)
    if output is None:
        typer.echo(text, nl=False)


def _described(described: Described) -> Team:
    """Return the team that the file or the options describe."""
    options = (described.space, described.agents, described.regions, described.keys, described.operator)
    if described.file is None:
        return _team(*options)
    if any(options):
        raise InvalidInputError("FILE describes the space; only --nkey, --password-hash and --output go with it")
    if described.file == "-":
        return read_team(sys.stdin.read())
    return read_team(Path(described.file).read_text(encoding="utf-8"))


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
