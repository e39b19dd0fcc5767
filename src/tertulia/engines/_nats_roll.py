"""The roll of a mailbox: which of its messages were there at one moment, kept in the mailbox itself.

That a message was settled is a marker in its place, which cannot be kept for ever. But a server that was killed builds
its index anew from its files, and where a marker has gone by its time to live, what it had replaced is there again: the
file has no word of its end (nats-server 2.15.1, also on three replicas; reported as nats-server#8505 for keys). So no
marker goes until the roll knows without it that the message has gone: whatever was stored up to the roll's sequence and
is not on it is over, whatever a server says.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

import msgspec

from tertulia.engines._nats_format import ROLL, MailState
from tertulia.errors import CorruptRecordError

MOST = 100_000  # messages on a roll, about two bytes each; of those beyond, which are younger, markers stay
ROOM = 8  # bytes that one may take at most

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[int]).decode


class Roll:
    """The sequences at which the messages of a mailbox stood that were there when it had come to `upto`."""

    __slots__ = ("_alive", "upto")

    def __init__(self, upto: int = 0, alive: Iterable[int] = ()) -> None:
        self.upto = upto
        self._alive = frozenset(alive)

    def is_over(self, seq: int) -> bool:
        """Tell whether what was stored at a sequence had been replaced by then."""
        return seq <= self.upto and seq not in self._alive

    def next(self, upto: int, alive: Iterable[int], most: int = MOST) -> Roll:
        """Return the roll of a later moment, at which all up to a sequence is known; it never says less than this.

        Where there are too many messages it ends with the last one that it has room for.
        """
        seqs = sorted(seq for seq in alive if seq <= upto)
        if len(seqs) > most:
            upto = max(self.upto, seqs[most - 1])
            seqs = [seq for seq in seqs if seq <= upto]
        return Roll(max(upto, self.upto), seqs)

    def state(self, op: str, prev: int, now: float) -> MailState:
        """Return it as it is stored: the distances between its sequences."""
        seqs = sorted(self._alive)
        steps = [seq - before for before, seq in zip([0, *seqs], seqs, strict=False)]
        return MailState(ROLL, op, prev, first=self.upto, at=now, body=_encode(steps))


def read_roll(state: MailState) -> Roll:
    """Return a roll that was stored. Raises CorruptRecordError."""
    try:
        return Roll(state.first, accumulate(_decode(state.body)))
    except msgspec.MsgspecError as error:
        raise CorruptRecordError("a mailbox's roll", f"its bytes cannot be read: {error}") from error
