"""`tertulia memory`: look at shared memory and change it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tertulia.cli.calling import FAILED, Agent, Json, Limit, Url, call, talk
from tertulia.cli.groups import Group
from tertulia.cli.printing import in_a_line, print_json, print_line, print_table, read_value, show_value

if TYPE_CHECKING:
    from tertulia.records import MemoryChange
    from tertulia.space import Space

__all__ = ["app"]

QUIET = 1.0  # seconds without another change after which a history is over; what is kept comes at once

app = typer.Typer(cls=Group, help="Look at shared memory and change it.", no_args_is_help=True, rich_markup_mode=None)

Key = Annotated[str, typer.Argument(help="A key, such as shared:plan.")]
Pattern = Annotated[str, typer.Argument(help="A glob over whole keys, such as 'shared:*'.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", "-t", help="A tag; may be given again.")]
CLI = "cli"


@app.command()
def get(key: Key, *, url: Url = None, agent: Agent = CLI, json: Json = False) -> None:
    """Print the value of a key; with --json all that is known about it. Exits with 1 when it is absent."""

    async def work(space: Space) -> int | None:
        entry = await space.memory.read_with_metadata(key, reader=agent)
        if entry is None:
            talk(f"tertulia memory get: there is no key {key!r}")
            return FAILED
        if json:
            print_json(entry.to_dict())
        else:
            print_line(show_value(entry.value))
        return None

    call("memory get", url, work)


@app.command()
def put(
    key: Key,
    value: Annotated[str, typer.Argument(help="JSON, or any other text as it is; - reads standard input.")],
    *,
    text: Annotated[bool, typer.Option("--text", help="Store the text as it is, though it may be JSON.")] = False,
    ttl: Annotated[float | None, typer.Option(help="Seconds after which the key is gone.")] = None,
    tag: Tags = None,
    create: Annotated[bool, typer.Option("--create", help="Fail if the key is there.")] = False,
    expected_version: Annotated[int | None, typer.Option(help="Fail unless the key is at this version.")] = None,
    url: Url = None,
    agent: Agent = CLI,
    json: Json = False,
) -> None:
    """Write a value under a key."""

    async def work(space: Space) -> None:
        memory, tags, new = space.memory, tag or (), read_value(value, as_text=text)
        if expected_version is not None:
            entry = await memory.update(key, new, updater=agent, expected_version=expected_version, ttl=ttl, tags=tags)
        elif create:
            entry = await memory.create(key, new, owner=agent, ttl=ttl, tags=tags)
        else:
            entry = await memory.write(key, new, owner=agent, ttl=ttl, tags=tags)
        if json:
            print_json(entry.to_dict())
        else:
            talk(f"{key} is at version {entry.version}, revision {entry.revision}")

    if create and expected_version is not None:
        raise typer.BadParameter("a key that is to be created has no version yet", param_hint="--expected-version")
    call("memory put", url, work)


@app.command()
def delete(
    key: Key,
    *,
    expected_version: Annotated[int | None, typer.Option(help="Fail unless the key is at this version.")] = None,
    url: Url = None,
    agent: Agent = CLI,
) -> None:
    """Remove a key. Exits with 1 when it was absent."""

    async def work(space: Space) -> int | None:
        if await space.memory.delete(key, requester=agent, expected_version=expected_version):
            return None
        talk(f"tertulia memory delete: there is no key {key!r}")
        return FAILED

    call("memory delete", url, work)


@app.command("ls")
def list_keys(
    pattern: Pattern = "*",
    *,
    tag: Tags = None,
    owner: Annotated[str | None, typer.Option(help="Only what this agent owns.")] = None,
    long: Annotated[bool, typer.Option("--long", "-l", help="With version, owner, age and tags.")] = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """List the keys that match; with --json their entries, a line each."""

    async def work(space: Space) -> None:
        if not long and not json:
            for key in await space.memory.list_keys(pattern, tags=tag, owner=owner):
                print_line(key)
            return
        entries = [entry async for entry in space.memory.entries(pattern, tags=tag, owner=owner)]
        if json:
            for entry in entries:
                print_json(entry.to_dict())
        elif entries:
            print_table(
                (
                    entry.key,
                    f"v{entry.version}",
                    entry.owner,
                    f"{entry.updated_at:%Y-%m-%d %H:%M:%S}",
                    *_tags(entry.tags),
                )
                for entry in entries
            )

    call("memory ls", url, work)


@app.command()
def watch(
    pattern: Pattern = "*",
    *,
    after: Annotated[int | None, typer.Option(help="Begin with the changes after this revision.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="End after so many changes.")] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Print changes as they are committed, until Ctrl-C."""

    async def work(space: Space) -> None:
        seen = 0
        async with space.memory.watch(pattern, after=after) as changes:
            talk(f"watching {pattern}")
            async for change in changes:
                _print_change(change, json=json)
                seen += 1
                if seen == limit:
                    return

    call("memory watch", url, work)


@app.command()
def history(key: Key, *, limit: Limit = 100, url: Url = None, json: Json = False) -> None:
    """Print the latest changes of a key, as far back as the space keeps them."""

    async def work(space: Space) -> int | None:
        changes = await _history(space, key)
        for change in changes[-limit:]:
            _print_change(change, json=json)
        if not changes:
            talk(f"tertulia memory history: the space keeps no change of {key!r}")
        return None if changes else FAILED

    call("memory history", url, work)


async def _history(space: Space, key: str) -> list[MemoryChange]:
    """Return the changes of a key that the space still has, oldest first."""
    from tertulia.errors import WatchLaggedError

    entry = await space.memory.read_with_metadata(key, reader=CLI)
    newest = (await space.memory.get_stats()).revision
    back = newest
    while True:
        try:
            return await _changes(space, key, newest - back, None if entry is None else entry.revision)
        except WatchLaggedError:  # it does not keep as many
            if back == 0:
                return []
            back //= 2


async def _changes(space: Space, key: str, after: int, until: int | None) -> list[MemoryChange]:
    """Return the changes after a revision: those up to another one, or those that come without waiting."""
    import asyncio

    from tertulia._names import literal

    found: list[MemoryChange] = []
    if until is not None and until <= after:
        return found
    async with space.memory.watch(literal(key), after=after) as changes:
        while until is None or not found or found[-1].revision < until:
            try:
                found.append(await asyncio.wait_for(anext(changes), QUIET))
            except TimeoutError:
                break
    return found


def _print_change(change: MemoryChange, *, json: bool) -> None:
    from tertulia.records import ChangeKind

    if json:
        entry = None if change.entry is None else change.entry.to_dict()
        print_json(
            {
                "kind": change.kind.value,
                "key": change.key,
                "revision": change.revision,
                "at": change.at.isoformat(),
                "entry": entry,
            }
        )
        return
    at = f"{change.at:%Y-%m-%d %H:%M:%S}"
    value = f" = {in_a_line(change.value)}" if change.kind is ChangeKind.PUT else ""
    by = "" if change.entry is None else f" by {change.entry.owner}"
    print_line(f"{at}  {change.revision}  {change.kind.value} {change.key}{value}{by}")


def _tags(tags: tuple[str, ...]) -> tuple[str]:
    return (" ".join(tags),)
