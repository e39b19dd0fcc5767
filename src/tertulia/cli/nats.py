"""`tertulia nats permissions`: have a NATS server hold each agent to what it may do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tertulia.cli.groups import Group

__all__ = ["app"]

HELP = """Write the configuration by which a NATS server holds each agent of a space to what it may do.

From a description in TOML (FILE, or - for standard input), or from --space, --agent, --region and --key. The server \
then refuses, at once, what is not granted: a message in another's name, another's mailbox, a key or region. Passwords \
are not written: a user has an nkey, the bcrypt hash of a password, or a password from the server's environment.
"""

app = typer.Typer(cls=Group, help="NATS servers for spaces.", no_args_is_help=True, rich_markup_mode=None)


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
    from tertulia.cli.nats_permissions import Described, run

    described = Described(
        file=file, space=space, agents=agent or [], regions=region or [], keys=key or [], operator=operator
    )
    run(described, nkeys=nkey or [], hashes=password_hash or [], output=output)
