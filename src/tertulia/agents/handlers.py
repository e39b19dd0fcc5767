"""Handlers: which function gets which message, and what it is given."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from tertulia.errors import InvalidInputError
from tertulia.messaging.types import TYPE_HEADER
from tertulia.records import Message

DEFAULT = "default"

Function = Callable[..., Any]


class Handler(Struct, frozen=True, kw_only=True):
    """A function for messages of one type.

    `content_type`: what the content is rebuilt as. `wants_transaction`: it takes the transaction that ends with the
    message as its second argument. `streams`: it is an async generator, whose parts are a streamed reply.
    `is_plain`: it takes the message as it is, and none of these.
    """

    function: Function
    content_type: Any
    wants_transaction: bool
    streams: bool
    is_async: bool
    is_plain: bool


class Handlers:
    """The handlers of one agent, by message type."""

    def __init__(self) -> None:
        self._by_type: dict[str, Handler] = {}

    def add(self, message_type: str | type, content_type: Any, function: Function) -> None:
        """Register a function. Raises InvalidInputError for a type that has one, or a function of no use."""
        name = _type_name(message_type)
        if not isinstance(message_type, str) and content_type is None:
            content_type = message_type
        if name in self._by_type:
            message = f"there is a handler for messages of type {name!r} already"
            raise InvalidInputError(message)
        parameters = _positional_parameters(function)
        _check_kind(function, parameters)
        wants_transaction = parameters == 2  # noqa: PLR2004 - message and transaction
        streams = inspect.isasyncgenfunction(function)
        if wants_transaction and streams:
            message = "a streaming handler takes (message): its parts leave one by one, not in one commit"
            raise InvalidInputError(message)
        self._by_type[name] = Handler(
            function=function,
            content_type=content_type,
            wants_transaction=wants_transaction,
            streams=streams,
            is_plain=content_type is None and not wants_transaction and not streams,
            is_async=inspect.iscoroutinefunction(function),
        )

    def find(self, message: Message) -> Handler | None:
        """Return the handler for the message's type, else the default one, else None."""
        found = self._by_type.get(type_of(message))
        return self._by_type.get(DEFAULT) if found is None else found


def type_of(message: Message) -> str:
    """Return a message's type: its header's, else its content's `type`, else "default"."""
    if message.headers is not None and TYPE_HEADER in message.headers:
        return message.headers[TYPE_HEADER]
    content = message.content
    if content.__class__ is dict:
        kind = content.get("type", DEFAULT)
        if isinstance(kind, str):
            return kind
    return DEFAULT


def _type_name(message_type: object) -> str:
    name = message_type.__name__ if isinstance(message_type, type) else message_type
    if not isinstance(name, str) or not name:
        message = f"a message type is a name or a class, not {message_type!r}"
        raise InvalidInputError(message)
    return name


def _check_kind(function: Function, parameters: int) -> None:
    if inspect.isgeneratorfunction(function):
        raise InvalidInputError(
            "a handler that yields parts of a reply is an `async def`: a plain generator never runs"
        )
    if inspect.isasyncgenfunction(function) and parameters > 1:
        raise InvalidInputError("a handler that yields parts of a reply takes the message only")


def _positional_parameters(function: Function) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:  # not callable, or built in without a signature
        message = f"a handler is a function of (message) or (message, transaction): {error}"
        raise InvalidInputError(message) from error
    positional = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    count = sum(parameter.kind in positional for parameter in parameters)
    if count not in (1, 2):
        message = f"a handler takes (message) or (message, transaction), not {count} arguments"
        raise InvalidInputError(message)
    needed = [
        parameter.name
        for parameter in parameters
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.default is inspect.Parameter.empty
    ]
    if needed:
        message = f"a handler takes (message) or (message, transaction); nobody gives it {', '.join(needed)}"
        raise InvalidInputError(message)
    return count
