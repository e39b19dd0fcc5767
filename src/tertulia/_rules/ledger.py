"""Who still needs a content that is kept once for many messages, and when it can go.

A content has one ledger, found by its digest. A ledger counts the pointers to each copy: a content has a second copy
only where the first would end too early for a new pointer, since a copy's lifetime cannot be put off without writing
all of it again.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

MAX_SLACK = 3_600.0  # seconds that a copy outlives its first pointer: same content within the hour is written once
MAX_COPIES = 256  # older ones are left to their end: with a new one an hour at most, ten days of them


class Copy(Struct, frozen=True, array_like=True, gc=False):
    """One stored copy. `pointers` are with messages that nobody has settled; `holds` keep it without a count.

    A hold stands for the pointers of a publication until its sender knows how many they are. Until then the count
    may be below zero, where receivers were faster than that.
    """

    name: str
    expires: float
    pointers: int
    holds: int = 0

    @property
    def is_needed(self) -> bool:
        """Whether somebody may still ask for it."""
        return self.pointers > 0 or self.holds > 0


class Ledger(Struct, frozen=True, array_like=True, gc=False):
    """The copies of one content that are needed, oldest first."""

    copies: tuple[Copy, ...] = ()

    @property
    def expires(self) -> float:
        """When the last copy ends."""
        return max((copy.expires for copy in self.copies), default=0.0)

    def find(self, name: str) -> Copy | None:
        """Return the copy of this name."""
        return next((copy for copy in self.copies if copy.name == name), None)

    def lasting(self, until: float) -> Copy | None:
        """Return a copy that is there until then at least, or None when a new one has to be made."""
        return next((copy for copy in reversed(self.copies) if copy.expires >= until), None)

    def added(self, copy: Copy, now: float) -> Ledger:
        """Return the ledger with one more copy, without those whose time is over."""
        alive = [known for known in self.copies if known.expires > now]
        return Ledger((*alive[1 - MAX_COPIES :], copy))

    def counted(self, name: str, pointers: int, holds: int = 0) -> tuple[Ledger, bool]:
        """Return the ledger with so many pointers and holds more or fewer, and whether the copy is to be deleted.

        A copy that the ledger does not know ends by itself, and nothing changes.
        """
        copy = self.find(name)
        if copy is None:
            return self, False
        changed = replace(copy, pointers=copy.pointers + pointers, holds=max(0, copy.holds + holds))
        if changed.is_needed:
            return Ledger(tuple(changed if known is copy else known for known in self.copies)), False
        return Ledger(tuple(known for known in self.copies if known is not copy)), True


def slack(ttl: float) -> float:
    """Return how long a copy outlives a pointer that is good for `ttl` seconds, so that later ones can share it."""
    return min(ttl, MAX_SLACK)
