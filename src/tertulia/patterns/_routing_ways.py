"""The ways that a route can take, once it is decided: each sends one content to all of its receivers, or to none."""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from tertulia._arguments import check_seconds
from tertulia.engines.base import Commit
from tertulia.errors import InvalidInputError, KeyExistsError
from tertulia.messaging.contents import POINTER_TTL, receipt
from tertulia.messaging.types import type_headers
from tertulia.patterns._routing_hints import Hints
from tertulia.patterns._routing_targets import Registered, Target
from tertulia.records import DeliveryMode, Message, Receipt, new_id
from tertulia.routes import Channel
from tertulia.space import Space

MEMORY_TTL = 86_400.0  # seconds for which what was only written waits for readers, unless a hint says how long
CELL_TAG = "cell:"  # the tag that tells a reader what its reading is to be counted for


class Sent(Struct, frozen=True, gc=False):
    """What came of a way: its receipt, and the key or the reply where there is one."""

    receipt: Receipt
    key: str | None = None
    reply: Any = None


class Ways:
    """The ways of one handle."""

    def __init__(self, space: Space, registered: Registered) -> None:
        self._space = space
        self._broker = space.broker
        self._outbox = space.broker.outbox
        self._registered = registered

    async def take(
        self, channel: Channel, sender: str, target: Target, content: object, hints: Hints, cell: str
    ) -> Sent:
        """Send the content by a channel; all or nothing."""
        if channel is Channel.MEMORY:
            return await self._write(sender, target, content, hints, cell)
        now = self._outbox.time()
        message = Message(
            id=hints.message_id or new_id(),
            sender=sender,
            receiver=target.names[0] if target.names else "",
            content=content,
            sent=now,
            delivery_mode=hints.mode,
            headers=type_headers(content),
            expires=None if hints.ttl is None else now + hints.ttl,
        )
        if channel is Channel.MESSAGE:
            return Sent(await self._send(message, target))
        if channel is Channel.POINTER:
            return Sent(await self._point(message, target, hints))
        return await self._ask(message, target, hints)

    async def _send(self, message: Message, target: Target) -> Receipt:
        if target.topic is not None:
            return await self._broker.publish(target.topic, message)
        if len(target.names) == 1:
            return await self._broker.send(message)
        messages = [replace(message, receiver=name) for name in target.names]
        if message.delivery_mode is DeliveryMode.AT_MOST_ONCE:
            await self._registered.check(target.names)
            taken = [(await self._broker.send(one)).delivered for one in messages]
            return Receipt(message.id, sum(taken))
        committed = await self._outbox.commit(Commit(sends=tuple(map(self._outbox.send_of, messages))))
        self._outbox.log_commit(messages)
        return receipt(self._outbox, message, committed.sent)

    async def _point(self, message: Message, target: Target, hints: Hints) -> Receipt:
        ttl = POINTER_TTL if hints.ttl is None else hints.ttl
        if target.topic is not None:
            return await self._broker.publish_by_pointer(target.topic, message, ttl=ttl)
        return await self._broker.send_by_pointer(message, target.names, ttl=ttl)

    async def _write(self, sender: str, target: Target, content: object, hints: Hints, cell: str) -> Sent:
        await self._registered.check(target.names)
        message_id = hints.message_id or new_id()
        key = target.prefix + message_id
        ttl = check_seconds("ttl", MEMORY_TTL if hints.ttl is None else hints.ttl)
        tags = (CELL_TAG + cell, *target.names) if len(target.names) > 1 else (CELL_TAG + cell,)
        memory = self._space.memory
        if hints.message_id is None:
            await memory.write(key, content, owner=sender, ttl=ttl, tags=tags)
            return Sent(Receipt(message_id, 0), key)
        try:
            await memory.create(key, content, owner=sender, ttl=ttl, tags=tags)
        except KeyExistsError:
            return Sent(Receipt(message_id, 0, duplicate=True), key)
        return Sent(Receipt(message_id, 0), key)

    async def _ask(self, message: Message, target: Target, hints: Hints) -> Sent:
        if target.topic is not None:
            raise InvalidInputError("a topic answers nothing: name the agents that a reply is wanted of")
        if len(target.names) == 1:
            reply = await self._broker.request_response(message, timeout=hints.timeout)
            return Sent(Receipt(message.id, 1), reply=reply.content)
        await self._registered.check(target.names)
        requests = [
            replace(message, id=f"{message.id}.{number}", receiver=name) for number, name in enumerate(target.names)
        ]
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(self._broker.request_response(request, timeout=hints.timeout)) for request in requests
            ]
        replies = {name: task.result().content for name, task in zip(target.names, asked, strict=True)}
        return Sent(Receipt(message.id, len(requests)), reply=replies)
