"""Proxies: what blocking code holds in place of an object that lives on the portal.

One rule makes a blocking face out of any asynchronous one, so nothing is written twice. A call is made on the portal,
whether the method is a coroutine function or a plain one; the calling thread waits. What comes back is a proxy when
it is *live* (it has methods that are awaited, iterated or entered), and itself otherwise, as all records are. What
goes in is a proxy's object in place of the proxy, and a plain function in a form that the portal can await.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast, get_origin

from msgspec import Struct

from tertulia.blocking.portal import Call, Session
from tertulia.errors import SpaceClosedError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
C = TypeVar("C")  # the object that a proxy stands for
F = TypeVar("F", bound="type[Proxy[Any]]")

_END = object()
_ORIGINAL = "_tertulia_function"  # what a function of the user's was before it was handed over
_TYPE_ARGUMENTS = {"type", "content_type"}  # what is passed there may be callable, but is never to be called

# The proxies with a class of their own, by the class that they stand for.
_FACES: dict[type, type[Proxy[Any]]] = {}


def stands_for(kind: type) -> Callable[[F], F]:
    """Let the decorated class be the proxy of every object of this class."""

    def register(face: F) -> F:
        _FACES[kind] = face
        return face

    return register


class Proxy(Generic[C]):
    """Base of what stands for an object on the portal. Its own methods start with `portal_`, to be in nobody's way."""

    _session: Session
    _target: C

    @classmethod
    def portal_of(cls, session: Session, target: C) -> Self:
        """Return a proxy for an object that a call of the session has brought."""
        proxy = cls.__new__(cls)
        proxy.portal_bind(session, target)
        return proxy

    def portal_bind(self, session: Session, target: C) -> None:
        """Make this the proxy of an object."""
        self._session = session
        self._target = target

    def portal_parts(self) -> tuple[Session, C]:
        """Return the session whose calls this makes, and the object on the portal."""
        return self._session, self._target

    def portal_call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the object on the portal."""
        return invoke(self._session, getattr(self._target, name), args, kwargs)

    def __repr__(self) -> str:
        return f"<blocking {self._target!r}>"


class Entered(Proxy[C]):
    """A proxy for `with`: what is entered and left with `async with` on the portal."""

    _ends_with_space = False  # whether leaving a closed space has nothing left to do

    def __enter__(self) -> Self:
        target = cast("Any", self._target)

        async def leave(_: object) -> None:
            await target.__aexit__(asyncio.CancelledError, asyncio.CancelledError(), None)

        entered = self._session.call(lambda _: target.__aenter__(), leave)
        return self if entered is target else adapt(self._session, entered)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        target = cast("Any", self._target)
        try:
            return bool(self._session.call(lambda _: target.__aexit__(kind, error, traceback)))
        except SpaceClosedError:
            if error is None and not self._ends_with_space:
                raise
            return False


class Iterated(Proxy[C], Generic[C, T]):
    """A proxy for `for`: what is iterated over with `async for` on the portal.

    Threads that share one take turns, and each item goes to one of them.
    """

    _ends_with_space = False

    def portal_bind(self, session: Session, target: C) -> None:
        """Make this the proxy of an object."""
        super().portal_bind(session, target)
        self._turn = threading.Lock()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        try:
            with self._turn:
                item = self._session.call(lambda _: anext(cast("AsyncIterator[T]", self._target), _END))
        except SpaceClosedError:
            if not self._ends_with_space:
                raise
            item = _END
        if item is _END:
            raise StopIteration
        return adapt(self._session, item)


class Stream(Iterated[AsyncIterator[T], T]):
    """Items that come from the portal, one for each `next`. Closing it, or leaving its `with`, ends it early."""

    def close(self) -> None:
        """End the iteration on the portal too; harmless once it has ended, or the space is closed."""
        target = cast("Any", self._target)
        if hasattr(target, "aclose") and not self._session.closed:
            self._session.call(lambda _: target.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Wrapped(Entered[Any], Iterated[Any, Any]):
    """The proxy of any live object without a class of its own: every public name of it, as the rule above has it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return adapt(self._session, getattr(self._target, name))

    def __iter__(self) -> Iterator[Any]:
        target = self._target
        if hasattr(target, "__anext__"):
            return self
        return adapt(self._session, self._session.call(lambda _: target.__aiter__()))


# --- Typed faces: one line for each method, with the signature of the method it makes ----------------


def blocks(method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]) -> Callable[Concatenate[Any, P], R]:
    """Return the blocking form of a coroutine method."""
    return _face_of(method)


def runs(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """Return the blocking form of a plain method, which still has to run on the portal."""
    return _face_of(method)


def iterates(method: Callable[Concatenate[Any, P], AsyncIterator[T]]) -> Callable[Concatenate[Any, P], Stream[T]]:
    """Return the blocking form of an asynchronous iterator."""
    return _face_of(method)


def gives(
    method: Callable[Concatenate[Any, P], Any],
    face: type[T],  # noqa: ARG001 - for the type checker; at run time `_FACES` knows
) -> Callable[Concatenate[Any, P], T]:
    """Return the blocking form of a method that returns a live object, whose proxy is a `face`."""
    return _face_of(method)


def takes(
    method: Callable[Concatenate[Any, P], Any],
    face: type[T],  # noqa: ARG001 - as above
) -> Callable[Concatenate[Any, P], T | None]:
    """Return the blocking form of a method that returns a live object or None."""
    return _face_of(method)


def _face_of(method: Callable[..., Any]) -> Any:
    @functools.wraps(method)
    def call(self: Proxy[Any], *args: Any, **kwargs: Any) -> Any:
        return self.portal_call(method.__name__, *args, **kwargs)

    return call


# --- Out of the portal and into it -------------------------------------------------------------------


def invoke(session: Session, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the function on the portal, wait, and return its outcome as this thread may have it."""

    def work(call: Call) -> Any:
        handed = [hand_over(session, call, value) for value in args]
        named = {
            name: value if name in _TYPE_ARGUMENTS else hand_over(session, call, value)
            for name, value in kwargs.items()
        }
        return function(*handed, **named)

    return adapt(session, session.call(work, _let_go))


def adapt(session: Session, value: Any) -> Any:
    """Return what a thread may have in place of a value of the portal's."""
    kind = cast("type[Any]", type(value))
    face = _FACES.get(kind)
    if face is not None:
        return face.portal_of(session, value)
    original = getattr(value, _ORIGINAL, None)
    if original is not None:
        return original
    if inspect.isroutine(value):
        return functools.partial(_invoke_routine, session, value)
    if inspect.isasyncgen(value):
        return Stream[Any].portal_of(session, value)
    return Wrapped.portal_of(session, value) if _is_live(kind) else value


def _invoke_routine(session: Session, routine: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return invoke(session, routine, args, kwargs)


@functools.cache
def _is_live(kind: type) -> bool:
    """Tell whether objects of the class have methods that only make sense on the portal."""
    if kind.__module__ == "builtins":
        return False
    waits = (inspect.iscoroutinefunction, inspect.isasyncgenfunction)
    members = [inspect.getattr_static(kind, name, None) for name in dir(kind)]
    return hasattr(kind, "__anext__") or any(test(member) for member in members for test in waits)


def hand_over(session: Session, call: Call | None, value: Any) -> Any:
    """Return what the portal gets in place of a thread's value."""
    if isinstance(value, Proxy):
        return cast("Proxy[Any]", value).portal_parts()[1]
    if not _is_function(value) or inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value):
        return value
    if inspect.isgeneratorfunction(value):
        return _async_generator(session, value)
    return Function(session, call, value)


def _is_function(value: Any) -> bool:
    data = dataclasses.is_dataclass(value) or isinstance(value, Struct)
    return callable(value) and not isinstance(value, type) and get_origin(value) is None and not data


async def _let_go(result: Any) -> None:
    """Give back what a call took for a thread that was interrupted and will never have it."""
    release = getattr(result, "release", None)
    if release is not None and inspect.iscoroutinefunction(release):
        await release()


class Function:
    """A plain function of the user's, as the portal awaits it.

    While the call that brought it waits, it runs in the thread that made the call, which has nothing else to do;
    afterwards in a worker thread. So it may block, and use the space, and never runs on the portal's thread.
    """

    def __init__(self, session: Session, call: Call | None, function: Callable[..., Any]) -> None:
        self.function = self._tertulia_function = function
        self._session = session
        self._call = call
        with suppress(ValueError):  # some built-in functions have none
            self.__signature__ = inspect.signature(function)

    async def __call__(self, *args: Any) -> Any:
        """Call the function where it may block; return what it returns, awaited if need be."""
        session = self._session
        adapted = [adapt(session, value) for value in args]
        if self._call is not None and self._call.waiting:
            result = await self._call.run_there(self.function, *adapted)
        else:
            self._call = None
            result = await session.workers.run(self.function, *adapted)
        if inspect.isawaitable(result):
            result = await result
        return hand_over(session, None, result)

    # Equal when the functions are, so that `unsubscribe` finds what `subscribe` was given.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Function) and self.function == other.function

    def __hash__(self) -> int:
        return hash(self.function)

    def __repr__(self) -> str:
        return repr(self.function)


def _async_generator(session: Session, function: Callable[..., Iterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
    """Return an asynchronous generator function whose parts a plain one makes, in worker threads."""

    @functools.wraps(function)
    async def parts(*args: Any) -> AsyncIterator[Any]:
        run = session.workers.run
        generator = cast("Any", function(*[adapt(session, value) for value in args]))
        try:
            while (part := await run(next, generator, _END)) is not _END:
                yield part
        finally:
            await run(_close, generator)

    setattr(parts, _ORIGINAL, function)
    return parts


def _close(generator: Any) -> None:
    try:
        generator.close()
    except ValueError:
        if not generator.gi_running:  # else a step of it runs, after which nobody holds it and it ends
            raise
