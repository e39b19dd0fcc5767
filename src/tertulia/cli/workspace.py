"""`tertulia workspace`: who works together, what they share, and what they decide."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tertulia.cli.calling import FAILED, Json, Limit, Url, call, talk
from tertulia.cli.groups import Group
from tertulia.cli.printing import in_a_line, print_json, print_line, print_table

if TYPE_CHECKING:
    from tertulia.ballots import Ballot, BallotResult, Vote
    from tertulia.patterns._workspaces import WorkspaceInfo
    from tertulia.patterns.workspace import CollaborativeWorkspace
    from tertulia.space import Space

__all__ = ["app"]

app = typer.Typer(
    cls=Group,
    help="Look at workspaces: participants, shared keys, decisions.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class State(StrEnum):
    """The states of a proposal, as `tertulia.BallotState` has them; help does not load the ballots."""

    OPEN = "open"
    CLOSED = "closed"


WorkspaceId = Annotated[str, typer.Argument(metavar="WORKSPACE", help="The workspace's name.")]
ProposalId = Annotated[str, typer.Argument(metavar="PROPOSAL", help="The proposal's id.")]


@app.command("ls")
def list_all(*, url: Url = None, json: Json = False) -> None:
    """List the workspaces, with who is there and how many proposals wait for votes."""

    async def work(space: Space) -> None:
        from tertulia.patterns._workspaces import list_workspaces

        found = await list_workspaces(space)
        if json:
            for one in found:
                print_json(one)
            return
        rows = [("workspace", "state", "shared", "open proposals", "participants")]
        rows += [
            (one.workspace_id, one.state, str(len(one.shared)), str(one.open_ballots), " ".join(one.participants))
            for one in found
        ]
        print_table(rows)

    call("workspace ls", url, work)


@app.command()
def show(workspace_id: WorkspaceId, *, url: Url = None, json: Json = False) -> None:
    """Show who is in a workspace and who has been, and the keys that they share; their values are for participants."""

    async def work(space: Space) -> None:
        from tertulia.patterns._workspaces import describe_workspace

        info = await describe_workspace(space, workspace_id)
        if json:
            print_json(info)
        else:
            _print_info(info)

    call("workspace show", url, work)


@app.command()
def proposals(
    workspace_id: WorkspaceId,
    *,
    state: Annotated[State | None, typer.Option(help="Only those that are open, or closed.")] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """List what was proposed in a workspace, in the order in which it was, and what came of it."""

    async def work(space: Space) -> None:
        from tertulia.ballots import BallotState

        wanted = None if state is None else BallotState(state)
        _print_ballots(await _workspace(workspace_id, space).proposals(state=wanted), json=json)

    call("workspace proposals", url, work)


@app.command()
def history(workspace_id: WorkspaceId, *, limit: Limit = 100, url: Url = None, json: Json = False) -> None:
    """List the decisions of a workspace, the latest last."""

    async def work(space: Space) -> None:
        _print_ballots(await _workspace(workspace_id, space).history(limit=limit), json=json)

    call("workspace history", url, work)


@app.command()
def proposal(workspace_id: WorkspaceId, proposal_id: ProposalId, *, url: Url = None, json: Json = False) -> None:
    """Show a proposal: its terms, its votes once they may be seen, and the result. Exits with 1 when there is none."""

    async def work(space: Space) -> int | None:
        known = await _workspace(workspace_id, space).proposals()
        found = [ballot for ballot in known if ballot.id == proposal_id]
        for ballot in found:
            if json:
                print_json(_as_dict(ballot))
            else:
                _print_ballot(ballot)
        if not found:
            talk(f"tertulia workspace proposal: {workspace_id!r} has no proposal {proposal_id!r}")
        return None if found else FAILED

    call("workspace proposal", url, work)


def _workspace(workspace_id: str, space: Space) -> CollaborativeWorkspace:
    from tertulia.patterns.workspace import CollaborativeWorkspace

    return CollaborativeWorkspace(workspace_id, space)


# --- For people ----------------------------------------------------------------------------------


def _print_info(info: WorkspaceInfo) -> None:
    gone = [member for member in info.members if member not in info.participants]
    print_line(f"{info.workspace_id}: {info.state}, made {_at(info.made_at)}")
    print_line(f"participants: {_names(info.participants)}")
    print_line(f"were here: {_names(gone)}")
    print_line(f"open proposals: {info.open_ballots}")
    if info.shared:
        print_line("")
        print_table((one.key, f"v{one.version}", one.owner, _at(one.updated_at)) for one in info.shared)


def _print_ballots(ballots: Iterable[Ballot], *, json: bool) -> None:
    for ballot in ballots:
        if json:
            print_json(_as_dict(ballot))
        else:
            print_line(f"{_at(ballot.opened_at)}  {ballot.id}  {ballot.proposer}: {ballot.question} [{_state(ballot)}]")


def _print_ballot(ballot: Ballot) -> None:
    from tertulia.records import MISSING

    print_line(f"{ballot.question}  [{_state(ballot)}]")
    print_line(f"proposed by {ballot.proposer}, {_at(ballot.opened_at)}{_because(ballot.reason)}")
    for option in ballot.options:
        key = "" if option.key is None else f": {option.key}"
        value = "" if option.value is MISSING else f" = {in_a_line(option.value)}"
        print_line(f"option {option.name}{key}{value}")
    terms = ballot.terms
    print_line(f"rule: {terms.rule.value}; electorate: {_names(terms.electorate)}; until {_at(terms.deadline_at)}")
    for vote in ballot.votes:
        print_line(f"{vote.voter} votes {_choice(vote)}{_because(vote.reason)}")
    if ballot.result is None:
        print_line(f"voted so far: {_names(ballot.voted)}")
    else:
        print_line(f"{_decided(ballot.result)}, {_at(ballot.result.closed_at)}: {ballot.result.why}")


def _state(ballot: Ballot) -> str:
    if ballot.result is None:
        return f"open, {len(ballot.voted)} of {len(ballot.terms.electorate)} voted"
    return _decided(ballot.result)


def _decided(result: BallotResult) -> str:
    winner = f" {result.winner}" if result.winner is not None and result.winner != "yes" else ""
    return f"{result.outcome.value}{winner}{', applied' if result.applied else ''}"


def _choice(vote: Vote) -> str:
    return vote.choice if isinstance(vote.choice, str) else ", ".join(vote.choice)


def _names(names: Iterable[str]) -> str:
    return ", ".join(names) or "nobody"


def _because(reason: str) -> str:
    return f", because {reason}" if reason else ""


def _at(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S}"


# --- For programs --------------------------------------------------------------------------------


def _as_dict(ballot: Ballot) -> dict[str, Any]:
    """Return a ballot as JSON has it: instants in ISO form, and no value where there is none."""
    from msgspec.structs import asdict

    from tertulia.records import MISSING

    found = asdict(ballot)
    found["opened"], found["terms"] = ballot.opened_at, _terms(ballot)
    found["options"] = [
        {name: value for name, value in asdict(option).items() if value is not MISSING} for option in ballot.options
    ]
    found["votes"] = [_vote(vote) for vote in ballot.votes]
    found["result"] = None if ballot.result is None else _result(ballot.result)
    return found


def _terms(ballot: Ballot) -> dict[str, Any]:
    from msgspec.structs import asdict

    return {**asdict(ballot.terms), "deadline": ballot.terms.deadline_at}


def _vote(vote: Vote) -> dict[str, Any]:
    from msgspec.structs import asdict

    return {**asdict(vote), "cast": vote.cast_at}


def _result(result: BallotResult) -> dict[str, Any]:
    from msgspec.structs import asdict

    return {
        **asdict(result),
        "closed": result.closed_at,
        "votes": [_vote(vote) for vote in result.votes],
        "dissent": [vote.voter for vote in result.dissent],
    }
