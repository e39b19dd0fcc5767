"""`tertulia send`, `request`, `publish`, `listen` and `inbox`: messages by hand."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from tertulia.cli.calling import Agent, Json, Limit, Url, call, talk
from tertulia.cli.printing import in_a_line, print_json, print_line, print_table, read_value, show_value

if TYPE_CHECKING:
    from tertulia.messaging.delivery import Delivery
    from tertulia.records import Message, Receipt
    from tertulia.space import Space

__all__ = ["inbox", "list_agents", "listen", "publish", "request", "send"]


class Mode(StrEnum):
    """The delivery modes, as `tertulia.DeliveryMode` has them; help does not load the records."""

    AT_MOST_ONCE = "at_most_once"
    AT_LEAST_ONCE = "at_least_once"
    EXACTLY_ONCE = "exactly_once"


Content = Annotated[str, typer.Argument(help="JSON, or any other text as it is; - reads standard input.")]
Text = Annotated[bool, typer.Option("--text", help="Send the text as it is, though it may be JSON.")]
ModeOption = Annotated[Mode, typer.Option("--mode", help="How hard to try.")]
Ttl = Annotated[float | None, typer.Option(help="Seconds after which nobody has to handle it any more.")]
Delay = Annotated[float, typer.Option(help="Seconds before it is delivered.")]
MessageId = Annotated[str | None, typer.Option("--id", help="Its id, by which a repeated send is recognised.")]
CLI = "cli"


def send(
    receiver: Annotated[str, typer.Argument(help="The agent that is to get it.")],
    content: Content,
    *,
    text: Text = False,
    mode: ModeOption = Mode.AT_LEAST_ONCE,
    delay: Delay = 0.0,
    ttl: Ttl = None,
    message_id: MessageId = None,
    url: Url = None,
    agent: Agent = CLI,
    json: Json = False,
) -> None:
    """Send a message to an agent."""

    async def work(space: Space) -> None:
        from tertulia.agents.message_passing import MessagePassingAgent
        from tertulia.records import DeliveryMode

        receipt = await MessagePassingAgent(agent, space.broker).send(
            receiver,
            read_value(content, as_text=text),
            delivery_mode=DeliveryMode(mode),
            delay=delay,
            ttl=ttl,
            message_id=message_id,
        )
        _print_receipt(receipt, json=json)

    call("send", url, work)


def publish(
    topic: Annotated[str, typer.Argument(help="A topic, such as reports.daily.")],
    content: Content,
    *,
    text: Text = False,
    mode: ModeOption = Mode.AT_LEAST_ONCE,
    delay: Delay = 0.0,
    ttl: Ttl = None,
    message_id: MessageId = None,
    url: Url = None,
    agent: Agent = CLI,
    json: Json = False,
) -> None:
    """Publish a message to all agents that subscribed to the topic."""

    async def work(space: Space) -> None:
        from tertulia.agents.message_passing import MessagePassingAgent
        from tertulia.records import DeliveryMode

        receipt = await MessagePassingAgent(agent, space.broker).publish(
            topic,
            read_value(content, as_text=text),
            delivery_mode=DeliveryMode(mode),
            delay=delay,
            ttl=ttl,
            message_id=message_id,
        )
        _print_receipt(receipt, json=json)

    call("publish", url, work)


def request(
    receiver: Annotated[str, typer.Argument(help="The agent that is asked.")],
    content: Content,
    *,
    text: Text = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.")] = 30.0,
    stream: Annotated[bool, typer.Option("--stream", help="Print the parts of an answer as they come.")] = False,
    url: Url = None,
    agent: Agent = CLI,
    json: Json = False,
) -> None:
    """Ask an agent, and print its answer."""

    def show(value: object) -> None:
        if json:
            print_json(value)
        else:
            print_line(show_value(value))

    async def work(space: Space) -> None:
        from tertulia.agents.message_passing import MessagePassingAgent

        asking, question = MessagePassingAgent(agent, space.broker), read_value(content, as_text=text)
        if not stream:
            show(await asking.request(receiver, question, timeout=timeout))
            return
        async for part in asking.request_stream(receiver, question, timeout=timeout):
            show(part)

    call("request", url, work)


def listen(
    topic: Annotated[str, typer.Argument(help="A topic or a pattern, such as 'reports.*' or 'reports.>'.")],
    *,
    limit: Annotated[int | None, typer.Option("--limit", "-n", min=1, help="End after so many messages.")] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Print what is published to a topic, until Ctrl-C. Nobody else misses a message for it."""

    async def work(space: Space) -> None:
        async with _listener(space, topic) as name:
            talk(f"listening to {topic}")
            heard = 0
            while heard != limit:
                delivery = await space.broker.receive(name)
                if delivery is not None:
                    _print_message(delivery.message, json=json)
                    await delivery.acknowledge()
                    heard += 1

    call("listen", url, work)


@asynccontextmanager
async def _listener(space: Space, topic: str) -> AsyncGenerator[str, None]:
    """Have an agent of its own that is subscribed to a topic; nothing of it stays."""
    from tertulia.records import WhenFull, new_id

    name = f"listener-{new_id()}"
    await space.broker.register_agent(name, when_full=WhenFull.DROP_OLDEST)
    try:
        await space.broker.subscribe(name, topic)
        yield name
    finally:
        await space.broker.unregister_agent(name)
        await space.broker.purge(name)


def inbox(
    agent_id: Annotated[str, typer.Argument(metavar="AGENT", help="Whose mailbox.")],
    *,
    take: Annotated[
        bool, typer.Option("--take", help="Take the messages out, as if the agent had handled them.")
    ] = False,
    limit: Limit = 100,
    url: Url = None,
    json: Json = False,
) -> None:
    """Show the messages in an agent's mailbox, oldest first."""

    async def look(space: Space) -> None:
        for item in await space.broker.queue(agent_id).peek(limit=limit):
            if json:
                print_json(item.to_dict())
            else:
                failed = f", {item.failures} failed" if item.failures else ""
                _print_message(item.message, json=False, remark=f" [{item.state}{failed}]")

    async def empty(space: Space) -> None:
        for _ in range(limit):
            delivery: Delivery | None = await space.broker.receive(agent_id, timeout=0)
            if delivery is None:
                return
            _print_message(delivery.message, json=json)
            await delivery.acknowledge()

    call("inbox", url, empty if take else look)


def list_agents(*, url: Url = None, json: Json = False) -> None:
    """List the registered agents and what is in their mailboxes."""

    async def work(space: Space) -> None:
        topics = {info.agent_id: info.topics for info in await space.agents()}
        mailboxes = (await space.broker.get_stats()).mailboxes
        rows: list[tuple[str, ...]] = [("agent", "waiting", "pending", "delayed", "dead letters", "topics")]
        for name, stats in sorted(mailboxes.items()):
            counts = (stats.waiting, stats.pending, stats.delayed, stats.dead_letters)
            if json:
                keys = ("agent", "waiting", "pending", "delayed", "dead_letters", "topics")
                print_json(dict(zip(keys, (name, *counts, topics.get(name, ())), strict=True)))
            rows.append((name, *map(str, counts), " ".join(topics.get(name, ()))))
        if not json:
            print_table(rows)

    call("agents", url, work)


def _print_receipt(receipt: Receipt, *, json: bool) -> None:
    if json:
        print_json(receipt)
        return
    boxes = f"{receipt.delivered} mailbox{'' if receipt.delivered == 1 else 'es'}"
    what = "went to the dead letters: it goes in circles" if receipt.dead_lettered else f"is in {boxes}"
    talk(f"message {receipt.message_id} {what}{', as it was already' if receipt.duplicate else ''}")


def _print_message(message: Message, *, json: bool, remark: str = "") -> None:
    if json:
        print_json(message.to_dict())
        return
    about = f" about {message.topic}" if message.topic else ""
    at = f"{message.timestamp:%Y-%m-%d %H:%M:%S}"
    print_line(f"{at}  {message.id}  from {message.sender or '?'}{about}{remark}: {in_a_line(message.content)}")
