"""What a route costs by each channel, and which is the cheapest: a model that starts measured and learns.

The cost of a route is the time of the sender's call and of the receivers' calls, and a price for each byte that is
written and that receivers read. Times are predicted by a line: so much for a call, for each receiver, for each byte,
for each byte of each receiver. The lines come from measurements (see `routing_costs`); what is learned is by which
factor they are off, per channel and for each cell: one sender, its receivers, a size class, and what was asked for.
Learned sums fade, so that what has changed is noticed; they add up, so that several processes can learn together.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from msgspec import Struct

MESSAGE, POINTER, MEMORY, REQUEST = range(4)
CHANNELS = 4

PRIOR = 8.0  # observations that the measured lines count for: the first calls of a process are slower than later ones
MEMORY_OF = 64.0  # observations; at twice as many all count half, so that what has changed is soon believed
OUTLIER = 2.5  # times what was expected: one call that met a checkpoint says no more than that
EXPLORE_EVERY = 50  # routes of a cell, one of which tries another channel: two in a hundred
WORTH_EXPLORING = 2.0  # times the cheapest: with the above, exploring costs 2 % at the very worst
READ_PRIOR = 2.0  # receivers that are taken to read what is only written, until reads are seen
SPEED_RANGE = (0.02, 50.0)  # factors of the measured lines that are believed of a whole channel


class Line(Struct, frozen=True, gc=False):
    """Seconds of a channel: the sender's call, and what each receiver needs to have the content."""

    call: float
    per_receiver: float
    per_byte: float
    per_byte_and_receiver: float
    read: float
    read_per_byte: float

    def send_seconds(self, size: float, receivers: float) -> float:
        """Return the predicted seconds of the sender's call."""
        return (
            self.call + self.per_receiver * receivers + (self.per_byte + self.per_byte_and_receiver * receivers) * size
        )


class Seen(Struct, array_like=True, gc=False):
    """What was observed of a channel in a cell: sums that fade. All of them add up.

    `seconds` were needed where `expected` was predicted; `written` bytes where `nominal` would be without any
    content that was there already; `reads` happened of `readable`; the contents went to `receivers`. `routes`
    that were decided here, and those that were `pinned`, do not fade.
    """

    weight: float = 0.0
    seconds: float = 0.0
    expected: float = 0.0
    written: float = 0.0
    nominal: float = 0.0
    reads: float = 0.0
    readable: float = 0.0
    receivers: float = 0.0
    routes: int = 0
    pinned: int = 0

    def add(self, other: Seen) -> None:
        """Add what was seen elsewhere, or just now."""
        self.weight += other.weight
        self.seconds += other.seconds
        self.expected += other.expected
        self.written += other.written
        self.nominal += other.nominal
        self.reads += other.reads
        self.readable += other.readable
        self.receivers += other.receivers
        self.routes += other.routes
        self.pinned += other.pinned
        if self.weight > 2 * MEMORY_OF:
            self._fade(MEMORY_OF / self.weight)

    def _fade(self, rest: float) -> None:
        self.weight *= rest
        self.seconds *= rest
        self.expected *= rest
        self.written *= rest
        self.nominal *= rest
        self.reads *= rest
        self.readable *= rest
        self.receivers *= rest


class Cell(Struct, array_like=True):
    """What is known of one sender's routes to some receivers, of one size class. `size` is the sum of all sizes."""

    seen: list[Seen]
    routes: int = 0
    explored: int = 0
    size: float = 0.0

    def merge(self, other: Cell) -> None:
        """Add what another process has seen."""
        for mine, theirs in zip(self.seen, other.seen, strict=True):
            mine.add(theirs)
        self.routes += other.routes
        self.explored += other.explored
        self.size += other.size


# What a route is expected to cost by one channel: seconds of all that take part, bytes written, bytes read, the cost of
# all that in seconds, and how many routes were observed. A tuple, because one is made for each channel of each route.
Figures = tuple[float, float, float, float, int]


def new_cell() -> Cell:
    """Return a cell of which nothing is known yet."""
    return Cell([Seen() for _ in range(CHANNELS)])


def size_class(size: int) -> int:
    """Return the class of a content's size; each is four times as wide as the one before."""
    return (size.bit_length() + 1) // 2


def estimate(
    channel: int, line: Line, seen: Seen, size: float, receivers: float, speed: float, price: float
) -> Figures:
    """Return what one route is expected to cost.

    `speed` is the factor of the channel's line that was seen in all cells, `price` the seconds that a byte is worth.
    """
    predicted = line.call + line.per_receiver * receivers
    predicted += (line.per_byte + line.per_byte_and_receiver * receivers) * size
    prior = PRIOR * predicted
    factor = (prior * speed + seen.seconds) / (prior + seen.expected)
    reads = receivers
    written = size * receivers
    if channel == MEMORY:
        reads = receivers * (READ_PRIOR + seen.reads) / (READ_PRIOR + seen.readable)
        written = size
    elif channel == POINTER:
        written = size * (PRIOR * size + seen.written) / (PRIOR * size + seen.nominal) if size else 0.0
    # Of the receivers' calls nothing is seen here: they are taken to be off by as much as the channel is as a whole.
    seconds = predicted * factor + reads * (line.read + line.read_per_byte * size) * speed
    read = size * reads
    return seconds, written, read, seconds + price * (written + read), seen.routes + seen.pinned


def choose(figures: Sequence[Figures | str], cell: Cell) -> tuple[int, bool]:
    """Return the channel to take, and whether it is taken to learn about it; a text says why a channel is ruled out.

    -1 when all are. One route in 50 of a cell goes by the least known of the channels that may cost up to twice the
    cheapest.
    """
    best, lowest = -1, inf
    for channel, figure in enumerate(figures):
        if not isinstance(figure, str) and figure[3] < lowest:
            best, lowest = channel, figure[3]
    if (cell.routes + 1) % EXPLORE_EVERY:
        return best, False
    others = [
        channel
        for channel, figure in enumerate(figures)
        if not isinstance(figure, str) and channel != best and figure[3] <= WORTH_EXPLORING * lowest
    ]
    if not others:
        return best, False
    return min(others, key=lambda channel: cell.seen[channel].routes + cell.seen[channel].pinned), True


def observation(
    line: Line, size: float, receivers: float, seconds: float, *, believed: float, written: float, nominal: float
) -> Seen:
    """Return what one call of a channel has shown; of one that took far longer than `believed` no more than that."""
    taken = min(seconds, OUTLIER * believed)
    return Seen(1.0, taken, line.send_seconds(size, receivers), written, nominal, 0.0, 0.0, receivers)


def speed_of(seen: Seen) -> float:
    """Return the factor of a channel's line that was seen in all cells together; 1 while little was."""
    if not seen.weight:
        return 1.0
    prior = PRIOR * seen.expected / seen.weight
    factor = (prior + seen.seconds) / (prior + seen.expected)
    low, high = SPEED_RANGE
    return min(high, max(low, factor))


def believed_seconds(line: Line, seen: Seen, size: float, receivers: float, speed: float) -> float:
    """Return what the sender's call is expected to take."""
    predicted = line.send_seconds(size, receivers)
    prior = PRIOR * predicted
    return predicted * (prior * speed + seen.seconds) / (prior + seen.expected)
