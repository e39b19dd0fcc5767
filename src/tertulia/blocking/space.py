"""Spaces for threads and plain scripts."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from tertulia import space
from tertulia._clock import SYSTEM_CLOCK, Clock
from tertulia.blocking.faces import MessageBroker, SharedMemory, Transaction
from tertulia.blocking.portal import Session, open_session
from tertulia.blocking.proxy import Proxy, blocks, gives, invoke


class Space(Proxy[space.Space]):
    """A shared place, for any number of threads: `with tertulia.blocking.connect(url) as space`.

    Has the calls of tertulia.Space, each of which waits for its outcome and raises, with its own type, what the
    asynchronous one raises; SpaceClosedError once the space is closed, also out of a call that was waiting then (a
    change may have happened all the same; a watch just ends). RuntimeError in a child process that was forked with the
    space open, and where waiting could not end: in `async def` handlers and callbacks, which run on the portal.

    KeyboardInterrupt, or any exception of a signal handler, cancels the call that it interrupts: a cancelled read did
    nothing, a cancelled change either happened or did not, a cancelled `receive` holds no message, what was being
    entered is left again.

    All spaces of a process share one event loop, in one thread, so that every `memory:NAME` in it is the same space.
    A space that is left open is closed when the interpreter exits, after the threads that it waits for have ended.
    """

    memory: SharedMemory
    broker: MessageBroker

    def __init__(self, session: Session, target: space.Space) -> None:
        self.portal_bind(session, target)
        self.memory = SharedMemory.portal_of(session, target.memory)
        self.broker = MessageBroker.portal_of(session, target.broker)

    @property
    def url(self) -> str:
        """What names the space."""
        return self._target.url

    @property
    def closed(self) -> bool:
        """Whether this handle was closed."""
        return self._session.closed

    transaction = gives(space.Space.transaction, Transaction)
    agents = blocks(space.Space.agents)
    doctor = blocks(space.Space.doctor)

    def wrap(self, factory: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the factory on the portal and return its result in blocking form: `space.wrap(Lock, space, "name")`.

        For every object that uses a space asynchronously, one's own classes too. Among the arguments, this space and
        what comes from it stand for their asynchronous selves, and a plain function for one that can be awaited. The
        result's methods block; its asynchronous iterators and context managers work with `for` and `with`; live
        objects that its methods return are wrapped, other values come as they are.

        Between entering and leaving such a context manager, and between the items of an iterator, the event loop sees
        different tasks.
        """
        return invoke(self._session, factory, args, kwargs)

    def close(self) -> None:
        """Close this handle. Closing twice is fine; the second call does not wait for the first.

        Calls of other threads that wait end with SpaceClosedError. Running handlers are cancelled and their messages
        given back; a plain function runs on, and is awaited for at most 5 s.
        """
        self._session.close()

    def __enter__(self) -> Space:  # noqa: PYI034 - not meant to be subclassed
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def connect(url: str | None = None, *, clock: Clock = SYSTEM_CLOCK, **options: Any) -> Space:
    """Open a space: `with tertulia.blocking.connect("memory:") as space`, or call `close` later.

    Arguments and errors are those of tertulia.connect; `memory:NAME` is one space for the whole process. A `clock`'s
    timers run on the portal's thread.
    """
    session = open_session()
    try:

        async def leave(opened: space.Space) -> None:
            await opened.aclose()

        target = session.call(lambda _: space.connect(url, clock=clock, **options), leave)
        session.on_close(lambda _: target.aclose())
        return Space(session, target)
    except BaseException:
        session.close()
        raise
