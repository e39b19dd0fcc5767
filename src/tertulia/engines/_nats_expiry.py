"""The ends of keys' times that this handle looks after: its own keys, and those that its watches have seen."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from tertulia._clock import Alarm, Clock

MAX_ENDS = 200_000  # keys looked after, about 150 bytes each; the ends of more are seen when somebody reads them
SLACK = 1_000  # entries of keys that were written anew which the heap may hold beside as many that count


class Expiries:
    """Calls `on_end(key, seq)` when the time of a key, as it was written at a sequence, is over."""

    def __init__(self, clock: Clock, on_end: Callable[[str, int], None]) -> None:
        self._clock = clock
        self._on_end = on_end
        self._latest: dict[str, tuple[int, float]] = {}
        self._heap: list[tuple[float, str, int]] = []
        self._alarm = Alarm(clock, self._ring)

    def add(self, key: str, seq: int, end: float) -> None:
        """Look after a key."""
        known = self._latest.get(key)
        if (known is not None and known[0] >= seq) or (known is None and len(self._latest) >= MAX_ENDS):
            return
        self._latest[key] = (seq, end)
        heapq.heappush(self._heap, (end, key, seq))
        if len(self._heap) > SLACK + 2 * len(self._latest):
            self._heap = [(end, key, seq) for key, (seq, end) in self._latest.items()]
            heapq.heapify(self._heap)
        self._alarm.ring_in(end - self._clock.time())

    def drop(self, key: str) -> None:
        """The key lasts, or is gone."""
        self._latest.pop(key, None)

    def _ring(self) -> None:
        now = self._clock.time()
        while self._heap and self._heap[0][0] <= now:
            _, key, seq = heapq.heappop(self._heap)
            if self._latest.get(key, (0, 0.0))[0] == seq:
                del self._latest[key]
                self._on_end(key, seq)
        if self._heap:
            self._alarm.ring_in(self._heap[0][0] - now)

    def close(self) -> None:
        """Look after nothing any more."""
        self._alarm.cancel()
