"""How long a call goes on trying, and what is said of it in the end."""

from __future__ import annotations

import asyncio
from typing import Protocol

from tertulia.errors import EngineError, EngineUnavailableError, OutcomeUnknownError

ATTEMPT = 1.0  # seconds until a call that got no answer is tried again; to miss a leader and elect one takes 4 to 9
BRIEF = 0.1  # the same for the first try at what any replica may answer: the next to be asked may not stand still


class Unanswered(Exception):  # noqa: N818 - a signal between the engine's modules
    """A call got no answer. `sent` is False when it cannot have been acted on."""

    def __init__(self, why: str, *, sent: bool) -> None:
        super().__init__(why)
        self.why = why
        self.sent = sent


class Connection(Protocol):
    """What is waited for."""

    async def wait_up(self, seconds: float) -> None:
        """Wait until there is a connection. Raises Unanswered."""
        ...


class Patience:
    """How long a call goes on trying: until `seconds` are over, by real time."""

    __slots__ = ("_end", "attempts", "doubt", "why")

    def __init__(self, seconds: float) -> None:
        self._end = asyncio.get_running_loop().time() + seconds
        self.attempts = 0
        self.doubt = False
        self.why = ""

    @property
    def brief(self) -> float:
        """Seconds that a try may take where the next one may be answered by another server."""
        return min(ATTEMPT, BRIEF * 2.0 ** min(self.attempts, 8))

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self._end - asyncio.get_running_loop().time()

    async def after(self, lost: Unanswered, wire: Connection, pause: float) -> None:
        """Wait a moment for a server to be there again.

        Raises, when time is up, OutcomeUnknownError if something was sent, else EngineUnavailableError.
        """
        self.attempts += 1
        self.doubt = self.doubt or lost.sent
        self.why = lost.why
        if self.left <= pause:
            raise self.given_up() from lost
        await asyncio.sleep(pause)
        try:
            await wire.wait_up(self.left)
        except Unanswered as still:
            raise self.given_up() from still

    def given_up(self) -> EngineError:
        """Return the error of a call that was tried long enough."""
        if self.doubt:
            return OutcomeUnknownError(f"whether it happened is not known: {self.why}")
        return EngineUnavailableError(f"nothing was done: {self.why}")
