"""Messages that came with a lease: claimed by their sender, in the commit that stored them, for a claimant that waits.

That spares whoever is idle the claim, which is a third of a request's way. Only an empty mailbox with one process that
ever waits for it is served so; at most one message of it can then be on its way, and nobody else would have got it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from tertulia.engines._file_format import Execute
from tertulia.engines._file_mail import handed_to
from tertulia.engines._file_time import FileClock
from tertulia.engines._file_waiters import Waiters, wake_one
from tertulia.engines.base import Claimed


class Handed:
    """What has come and has not been taken yet. What nobody here waits for is given back."""

    def __init__(self, claimants: Waiters, give_back: Callable[[list[Claimed]], None]) -> None:
        self._claimants = claimants
        self._give_back = give_back
        self._come: dict[str, deque[Claimed]] = {}
        self._newest: dict[str, int] = {}  # sequences that came: another comes to a mailbox when that one is settled

    def put(self, claimed: Claimed) -> None:
        """Wake somebody for a message that has come, or give it back; one that came before is over, or in hand."""
        if claimed.sequence > self.newest(claimed.mailbox):
            self._newest[claimed.mailbox] = claimed.sequence
            self._come.setdefault(claimed.mailbox, deque()).append(claimed)
            self.wake_next(claimed.mailbox)

    def find(self, execute: Execute, clock: FileClock, instance: str) -> None:
        """Take what was handed over though nobody rang, as when its sender was killed right then."""
        for mailbox in {*self._newest, *self._claimants}:
            for claimed in self._unheard(mailbox, execute, clock, instance):
                self.put(claimed)

    def find_one(self, execute: Execute, mailbox: str, clock: FileClock, instance: str) -> Claimed | None:
        """Return a message that was handed over from this mailbox and of which nobody here has heard yet."""
        first, *others = self._unheard(mailbox, execute, clock, instance) or (None,)
        if first is not None:
            self._newest[mailbox] = first.sequence
        for claimed in others:
            self.put(claimed)
        return first

    def newest(self, mailbox: str) -> int:
        """Return the sequence of the newest message that has come from a mailbox, taken or not."""
        return self._newest.get(mailbox, 0)

    def _unheard(self, mailbox: str, execute: Execute, clock: FileClock, instance: str) -> list[Claimed]:
        newest = self.newest(mailbox)
        return [one for one in handed_to(execute, clock, mailbox, instance) if one.sequence > newest]

    def take(self, mailbox: str) -> Claimed | None:
        """Return a message that has come, if there is one."""
        queue = self._come.get(mailbox)
        if queue is None:
            return None
        claimed = queue.popleft()
        if not queue:
            del self._come[mailbox]
        return claimed

    def wake_next(self, mailbox: str) -> None:
        """Wake somebody, in place of one who was woken and went away; if nobody waits, give back what has come."""
        if not wake_one(self._claimants.get(mailbox)) and (queue := self._come.pop(mailbox, None)):
            self._give_back(list(queue))
