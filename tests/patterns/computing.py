"""What the tests of the cache compute: functions that count their calls and wait until they are let go on."""

from __future__ import annotations

import asyncio
from typing import Any


class Function:
    """Something to compute: it counts its calls, and returns the number of the call unless told otherwise."""

    def __init__(self, *outcomes: Any) -> None:
        self.calls = 0
        self.cancelled = 0
        self.outcomes = outcomes
        self.gate = asyncio.Event()
        self.gate.set()

    @classmethod
    def held(cls, *outcomes: Any) -> Function:
        """Return a function that waits until its gate is set."""
        function = cls(*outcomes)
        function.gate.clear()
        return function

    async def __call__(self) -> Any:
        self.calls += 1
        number = self.calls
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        outcome = self.outcomes[number - 1] if number <= len(self.outcomes) else number
        if isinstance(outcome, Exception):
            raise outcome
        return outcome
