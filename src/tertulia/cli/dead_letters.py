"""`tertulia dead-letters`: messages that were given up, and what becomes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tertulia.cli.calling import FAILED, MISUSED, Json, Limit, Url, call, talk
from tertulia.cli.groups import Group
from tertulia.cli.printing import in_a_line, print_json, print_line

if TYPE_CHECKING:
    from tertulia.records import DeadLetter
    from tertulia.space import Space

__all__ = ["app"]

app = typer.Typer(
    cls=Group, help="Look after messages that were given up.", no_args_is_help=True, rich_markup_mode=None
)

AgentId = Annotated[str, typer.Argument(metavar="AGENT", help="Whose dead letters.")]
MessageId = Annotated[str | None, typer.Argument(metavar="[MESSAGE]", help="The message's id.")]
All = Annotated[bool, typer.Option("--all", help="All of them.")]


@app.command("ls")
def list_letters(agent_id: AgentId, *, limit: Limit = 100, url: Url = None, json: Json = False) -> None:
    """List an agent's dead letters, oldest first."""

    async def work(space: Space) -> None:
        for letter in await space.broker.dead_letters(agent_id, limit=limit):
            if json:
                print_json(_as_dict(letter))
            else:
                print_line(f"{letter.at:%Y-%m-%d %H:%M:%S}  {letter.message.id}  {' '.join(letter.reason.split())}")

    call("dead-letters ls", url, work)


@app.command()
def show(
    agent_id: AgentId,
    message_id: Annotated[str, typer.Argument(metavar="MESSAGE", help="The message's id.")],
    *,
    url: Url = None,
    json: Json = False,
) -> None:
    """Show a dead letter: the message, why it was given up, and every attempt. Exits with 1 when there is none."""

    async def work(space: Space) -> int | None:
        letters = await space.broker.dead_letters(agent_id, limit=10_000)
        found = [letter for letter in letters if letter.message.id == message_id]
        for letter in found:
            if json:
                print_json(_as_dict(letter))
            else:
                _print_whole(letter)
        if not found:
            talk(f"tertulia dead-letters show: {agent_id!r} has no dead letter {message_id!r}")
        return None if found else FAILED

    call("dead-letters show", url, work)


@app.command()
def retry(
    agent_id: AgentId, message_id: MessageId = None, *, every: All = False, url: Url = None, json: Json = False
) -> None:
    """Put a dead letter, or with --all every one, back into the mailbox. Exits with 1 when there is none."""
    _check_choice("retry", message_id, every=every)

    async def work(space: Space) -> int | None:
        return _say("retried", await space.broker.redeliver(agent_id, message_id), json=json)

    call("dead-letters retry", url, work)


@app.command()
def purge(
    agent_id: AgentId, message_id: MessageId = None, *, every: All = False, url: Url = None, json: Json = False
) -> None:
    """Remove a dead letter, or with --all every one, for good. Exits with 1 when there is none."""
    _check_choice("purge", message_id, every=every)

    async def work(space: Space) -> int | None:
        return _say("purged", await space.broker.purge(agent_id, message_id), json=json)

    call("dead-letters purge", url, work)


def _check_choice(command: str, message_id: str | None, *, every: bool) -> None:
    if (message_id is None) is not every:
        talk(f"tertulia dead-letters {command}: name one message, or say --all")
        raise typer.Exit(MISUSED)


def _say(what: str, count: int, *, json: bool) -> int | None:
    if json:
        print_json({what: count})
    else:
        talk(f"{what} {count}")
    return None if count else FAILED


def _as_dict(letter: DeadLetter) -> dict[str, Any]:
    return {
        "agent": letter.agent_id,
        "message": letter.message.to_dict(),
        "reason": letter.reason,
        "error": letter.error,
        "at": letter.at.isoformat(),
        "history": list(letter.history),
    }


def _print_whole(letter: DeadLetter) -> None:
    message = letter.message
    print_line(f"message   {message.id}")
    print_line(f"from      {message.sender or '?'}")
    print_line(f"sent      {message.timestamp:%Y-%m-%d %H:%M:%S}")
    print_line(f"given up  {letter.at:%Y-%m-%d %H:%M:%S}: {letter.reason}")
    print_line(f"content   {in_a_line(message.content)}")
    for failure in letter.history:
        print_line(f"attempt {failure.attempt}  {failure.at:%Y-%m-%d %H:%M:%S}: {failure.reason}")
        for line in failure.traceback.rstrip().splitlines():
            print_line(f"    {line}")
