"""The report team through messages: what one agent knows is sent to those who need it.

The scout sends a message per file to the mailbox that all readers share and compete for. A reader publishes the
facts in the same commit that acknowledges its message, so a message of a reader that dies goes to another one, and
the facts of each file come once. The critic and the writer are subscribed to the facts; the critic sends the writer
its criticism; the writer answers the scout's request with the report.

What the critic and the writer have gathered is in their own heads: a team that loses one of these begins anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial, wraps
from typing import Any, TypeVar

from msgspec import Struct

from tertulia.agents.message_passing import MessagePassingAgent
from tertulia.compare.report_team.facts import Criticism, FileFacts, FileListing
from tertulia.compare.report_team.job import SKILLS, Job, Skills
from tertulia.compare.teams import Role
from tertulia.errors import Reject
from tertulia.messaging.delivery import DeliveryTransaction
from tertulia.records import Message
from tertulia.space import Space

__all__ = ["critic", "prepare", "reader", "roles", "scout", "writer"]

MAX_MAILBOX = 2_000  # messages; the scout lists up to 1,000 files, and there is never more than one message for each

Handler = TypeVar("Handler", bound=Callable[..., Any])


# The contents of the messages. The tag makes them plain dicts with a "type", which says who handles them.


class Read(Struct, frozen=True, tag_field="type", tag=True):
    """To the readers: read this file."""

    path: str


class GoHome(Struct, frozen=True, tag_field="type", tag=True):
    """To one of the readers: the report is there."""


class Expect(Struct, frozen=True, tag_field="type", tag=True):
    """To the critic: the facts of so many files will come."""

    files: int


class Facts(Struct, frozen=True, tag_field="type", tag=True):
    """To the critic and the writer: what a reader found in a file."""

    facts: FileFacts


class Judgement(Struct, frozen=True, tag_field="type", tag=True):
    """To the writer: what the critic found."""

    criticism: Criticism


class WriteReport(Struct, frozen=True, tag_field="type", tag=True):
    """To the writer, who answers with the report: this is what it is about."""

    folder_name: str
    listing: FileListing


async def prepare(space: Space, job: Job) -> None:
    """Set up the mailboxes. Nothing can be sent to a mailbox that is not there, so this comes before the agents."""
    for role in ("reader", "critic", "writer"):
        await space.broker.register_agent(job.agent(role), max_queue_size=MAX_MAILBOX)
    for role in ("critic", "writer"):
        await space.broker.subscribe(job.agent(role), job.topic("facts"))


def roles(job: Job, skills: Skills = SKILLS) -> dict[str, Role]:
    """Return who is in the team; the scout returns the report."""
    return {
        "scout": partial(scout, job=job, skills=skills),
        **{f"reader {number}": partial(reader, job=job, skills=skills) for number in range(1, job.readers + 1)},
        "critic": partial(critic, job=job, skills=skills),
        "writer": partial(writer, job=job, skills=skills),
    }


async def scout(space: Space, job: Job, skills: Skills = SKILLS) -> str:
    """Send the readers a message for each file; return the report, which the writer answers with."""
    agent = MessagePassingAgent(job.agent("scout"), space.broker)
    listing = await skills.list_files(job.folder)
    await agent.send(job.agent("critic"), Expect(len(listing.files)))
    for file in listing.files:
        await agent.send(job.agent("reader"), Read(file.path))
    request = WriteReport(job.folder_name, listing)
    report: str = await agent.request(job.agent("writer"), request, timeout=job.patience, type=str)
    for _ in range(job.readers):
        await agent.send(job.agent("reader"), GoHome())
    return report


async def reader(space: Space, job: Job, skills: Skills = SKILLS) -> int:
    """Read files until sent home; return how many this reader has read."""
    duty = _Duty(space, job, "reader")
    done = 0

    @duty.handles(Read)
    async def read(message: Message, transaction: DeliveryTransaction) -> None:
        nonlocal done
        facts = await skills.read_file(job.folder, message.content.path)
        transaction.publish(job.topic("facts"), Message(sender=message.receiver, content=Facts(facts)))
        done += 1

    @duty.handles(GoHome)
    async def go_home(_: Message) -> None:
        await duty.finish()

    await duty.do()
    return done


async def critic(space: Space, job: Job, skills: Skills = SKILLS) -> None:
    """Gather the facts of all files, and send the writer what is wrong across them."""
    duty = _Duty(space, job, "critic")
    facts: dict[str, FileFacts] = {}
    expected: int | None = None

    @duty.handles(Expect)
    async def expect(message: Message) -> None:
        nonlocal expected
        expected = message.content.files
        await send_when_complete()

    @duty.handles(Facts)
    async def gather(message: Message) -> None:
        found: FileFacts = message.content.facts
        facts[found.path] = found
        await send_when_complete()

    async def send_when_complete() -> None:
        if len(facts) == expected:
            await duty.agent.send(job.agent("writer"), Judgement(await skills.criticise(facts.values())))
            await duty.finish()

    await duty.do()


async def writer(space: Space, job: Job, skills: Skills = SKILLS) -> None:
    """Gather the facts of all files and the criticism, and answer the scout with the report."""
    duty = _Duty(space, job, "writer", concurrency=2)  # one handler waits with the scout's request, one gathers
    gathered = asyncio.Condition()
    facts: dict[str, FileFacts] = {}
    criticism: Criticism | None = None

    @duty.handles(Facts)
    async def gather(message: Message) -> None:
        found: FileFacts = message.content.facts
        async with gathered:
            facts[found.path] = found
            gathered.notify_all()

    @duty.handles(Judgement)
    async def hear(message: Message) -> None:
        nonlocal criticism
        async with gathered:
            criticism = message.content.criticism
            gathered.notify_all()

    @duty.handles(WriteReport)
    async def write(message: Message) -> str:
        asked: WriteReport = message.content
        async with gathered:
            await gathered.wait_for(lambda: criticism is not None and len(facts) == len(asked.listing.files))
        assert criticism is not None  # noqa: S101 - it was waited for
        report = await skills.write_report(asked.folder_name, asked.listing, facts.values(), criticism)
        await duty.finish()
        return report

    await duty.do()


class _Duty:
    """An agent at work until one of its handlers says that it is done, or fails: then it ends with that error.

    That is stricter than agents are by themselves: they log a handler's error, and try the message again.
    """

    def __init__(self, space: Space, job: Job, role: str, *, concurrency: int = 1) -> None:
        self.agent = MessagePassingAgent(
            job.agent(role), space.broker, concurrency=concurrency, lease=job.lease, max_queue_size=MAX_MAILBOX
        )
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def handles(self, content_type: type) -> Callable[[Handler], Handler]:
        """Register the decorated function for messages with such a content."""

        def register(function: Handler) -> Handler:
            @wraps(function)
            async def handler(*arguments: Any) -> Any:
                try:
                    return await function(*arguments)
                except Exception as error:
                    if not self._done.done():
                        self._done.set_exception(error)
                    raise Reject(f"{type(error).__name__}: {error}") from error

            self.agent.on_message(content_type)(handler)
            return function

        return register

    async def finish(self) -> None:
        """Take no more messages; for a handler whose message is the last."""
        await self.agent.stop()
        if not self._done.done():
            self._done.set_result(None)

    async def do(self) -> None:
        """Handle messages to the end."""
        try:
            await self.agent.start()
            await self._done
        except BaseException:  # a colleague takes over, so what is being done here is of no use any more
            with suppress(asyncio.CancelledError):  # what came first is what ends this
                await self.agent.stop(grace=0)
            raise
        await self.agent.stop()  # lets the last handler commit
