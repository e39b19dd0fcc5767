"""Ringing the bells of other processes, and handing them what was stored for their listeners."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tertulia.engines._file_bell import RING, Bell, Rung

AGAIN = 0.002  # seconds until a bell that was full is rung again
TRIES = 20  # of those; who has not heard by then finds out by looking, as it does from time to time


class Rings:
    """The rings of one process. What was stored comes in order, because all rings to a bell do.

    A ring that finds the bell full is made up for by a plain one, after which the other looks for itself. Until that
    is done nothing more is handed over, as it would overtake what was not.
    """

    def __init__(self, bell: Callable[[], Bell | None], forget: Callable[[str], None]) -> None:
        self._bell = bell
        self._forget = forget
        self._missed: dict[str, tuple[str, int]] = {}  # instances, with their bells and the tries that are left
        self._timer: asyncio.TimerHandle | None = None

    def ring(self, instance: str, path: str, datagram: bytes = RING) -> Rung:
        """Ring once, with something to hand over unless that would come out of order. Never waits."""
        bell = self._bell()
        if bell is None or not path:
            return Rung.NO
        if datagram and instance in self._missed:
            datagram = RING
        rung = bell.ring(path, datagram)
        if rung is Rung.YES:
            if not datagram:
                self._missed.pop(instance, None)
        elif rung is Rung.GONE:
            self._missed.pop(instance, None)
            self._forget(instance)
        elif instance not in self._missed:
            self._missed[instance] = (path, TRIES)
            self._start()
        return rung

    def hand(self, instance: str, path: str, datagram: bytes) -> bool:
        """Hand something over whose order does not matter; return whether the other will hear of it."""
        bell = self._bell()
        rung = Rung.NO if bell is None else bell.ring(path, datagram)
        if rung is Rung.GONE:
            self._forget(instance)
        return rung is Rung.YES

    def _start(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(AGAIN, self._ring_again)

    def _ring_again(self) -> None:
        self._timer = None
        for instance, (path, tries) in list(self._missed.items()):
            if tries and self.ring(instance, path) not in (Rung.YES, Rung.GONE):
                self._missed[instance] = (path, tries - 1)
        if any(tries for _, tries in self._missed.values()):
            self._start()

    def in_order(self, instance: str, path: str) -> bool:
        """Tell whether something that is stored nowhere may be handed over now; if not, try to make it so."""
        return instance not in self._missed or self.ring(instance, path) is Rung.YES

    def close(self) -> None:
        """Ring no more."""
        self._missed.clear()
        if self._timer is not None:
            self._timer.cancel()
