"""What `tertulia run` is told to run: `module:attribute`, and what may be there.

An entry of the target is a function of a space, plain or `async def`, that returns an agent or a list of agents; or an
`async def` that does its work itself, until it returns nothing or is cancelled; or an agent that has its space already,
as those of `tertulia.blocking` do. The attribute is one entry, or a list of several.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol, TypeGuard, cast

from tertulia.errors import InvalidTargetError

__all__ = ["Factory", "Runnable", "agents_in", "is_agent", "load"]

Factory = Callable[[Any], Any]


class Runnable(Protocol):
    """What makes something an agent that can be run: `MessagePassingAgent`, the blocking one, or one's own."""

    agent_id: str

    def start(self) -> Any:
        """Begin to take messages."""
        ...

    def run(self) -> Any:
        """Take messages until there is an end to it, then return."""
        ...

    def stop(self, *, grace: float) -> Any:
        """Take no more messages, and let handlers run for up to `grace` seconds."""
        ...


def load(target: str) -> tuple[Runnable | Factory, ...]:
    """Import the target's module and return its entries.

    Raises InvalidTargetError for what is no target; and whatever the module raises while it is imported.
    """
    module, colon, attribute = target.partition(":")
    if not module or not attribute:
        raise InvalidTargetError(target, f"write module:attribute, as in {module if colon and module else 'team'}:main")
    if module.endswith(".py") or "/" in module:
        dotted = module.removesuffix(".py").strip("./").replace("/", ".")
        raise InvalidTargetError(target, f"a module, not a file: write {dotted}:{attribute}")
    found = _imported(target, module)
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise InvalidTargetError(target, f"module {module!r} has no attribute {attribute!r}") from None
    return _entries(target, found)


def is_agent(value: object) -> TypeGuard[Runnable]:
    """Tell whether something can be run as an agent."""
    methods = (getattr(value, name, None) for name in ("start", "run", "stop"))
    return (
        not isinstance(value, type)
        and isinstance(getattr(value, "agent_id", None), str)
        and all(map(callable, methods))
    )


def agents_in(target: str, made: object) -> tuple[Runnable, ...]:
    """Return the agents that a function made. Raises InvalidTargetError unless it made at least one."""
    agents = _listed(made)
    if not agents:
        raise InvalidTargetError(target, "it made no agent")
    for agent in agents:
        if not is_agent(agent):
            raise InvalidTargetError(target, f"it made {_kind(agent)}, which is no agent")
    return cast("tuple[Runnable, ...]", agents)


def _imported(target: str, module: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise InvalidTargetError(target, f"there is no module {error.name!r}, here or on the path") from None
        raise


def _entries(target: str, found: object) -> tuple[Runnable | Factory, ...]:
    entries = _listed(found)
    if not entries:
        raise InvalidTargetError(target, "the list is empty")
    for entry in entries:
        if not is_agent(entry) and not _takes_a_space(entry):
            raise InvalidTargetError(target, f"it is {_kind(entry)}, neither an agent nor a function of a space")
    return cast("tuple[Runnable | Factory, ...]", entries)


def _listed(value: object) -> tuple[object, ...]:
    return tuple(cast("list[object]", value)) if isinstance(value, list | tuple) else (value,)


def _takes_a_space(entry: object) -> bool:
    if not callable(entry) or isinstance(entry, type):
        return False
    try:
        inspect.signature(entry).bind(None)
    except (TypeError, ValueError):  # it needs something else, or does not say what
        return False
    return True


def _kind(value: object) -> str:
    if inspect.isroutine(value):
        return f"the function {value.__name__}{_signature(value)}"
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _signature(function: Callable[..., object]) -> str:
    try:
        return str(inspect.signature(function))
    except (TypeError, ValueError):
        return "(…)"
