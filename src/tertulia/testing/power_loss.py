"""What a disk may hold after the power went, at any moment of what SQLite did to its files.

    recording = Recording()
    with SQLiteFiles(recording) as files:
        ...                       # work; recording.mark(anything) says what was acknowledged, and when
    for index, files in power_losses(recording.events, at=indexes, seed=1):
        write_files(files, directory)      # and see what can still be read

The disk modelled here keeps what was synced, and of the rest whatever it likes: each sector of 512 bytes as it was when
it was last synced, or as any write since has left it, each sector for itself, so that writes are lost, reordered and
torn; a file as long as it was at any moment since; in what was added to a file and not written, zeros or rubbish. A
file that was made or removed is there or not until its directory was synced. What it does not do: damage a sector
that nobody wrote to, or mix two writes within one sector (SQLite counts on both, and so do we).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from msgspec import Struct

from tertulia.testing.sqlite_files import CallKind, FileCall, Refusal

SECTOR = 512  # bytes that a disk writes whole or not at all; larger in most disks, but never smaller
ANY_SIZE = 0.2  # how often a file's length has nothing to do with which of its sectors were written
RUBBISH = 0.5  # how often what was added to a file, and not written, is no zeros
TORN = 0.5  # how often a sector of the last write is not written any more

_Version = tuple[int, bytes]  # a sector after so many of the changes


class Event(Struct, frozen=True, kw_only=True):
    """A call that was made, or a mark. `began` is how many events there were when a sync began: what it covers."""

    call: FileCall | None = None
    mark: Any = None
    began: int = 0


class Recording:
    """A watcher that writes down every call that changes a file, in the order in which they ended, and marks."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._lock = threading.Lock()
        self._syncs: dict[int, int] = {}

    def before(self, call: FileCall) -> Refusal | None:
        """Note when a sync begins."""
        if call.kind is CallKind.SYNC:
            self._syncs[threading.get_ident()] = len(self.events)

    def after(self, call: FileCall) -> None:
        """Write the call down."""
        if call.kind is CallKind.READ or (call.kind is CallKind.OPEN and not call.made):
            return
        with self._lock:
            began = self._syncs.pop(threading.get_ident(), 0) if call.kind is CallKind.SYNC else 0
            self.events.append(Event(call=call, began=began))

    def mark(self, mark: object) -> int:
        """Write a mark down among the calls; return its index."""
        with self._lock:
            self.events.append(Event(mark=mark))
            return len(self.events) - 1

    @property
    def syncs(self) -> int:
        """How many syncs there were."""
        return sum(event.call is not None and event.call.kind is CallKind.SYNC for event in self.events)


class Disk:
    """The files of a recording, as its events are applied one by one, in their order; names without directories.

    `files` were there, and synced, before the recording began.
    """

    def __init__(self, files: Mapping[str, bytes] | None = None) -> None:
        self._applied = 0
        self._names = {name: _Name(_File(content)) for name, content in (files or {}).items()}

    def apply(self, event: Event) -> None:
        """Take the next event in."""
        index = self._applied
        self._applied += 1
        call = event.call
        if call is None:
            return
        name = self._names.setdefault(Path(call.path).name, _Name())
        if call.kind is CallKind.OPEN:
            name.link(_File())
        elif call.kind is CallKind.DELETE:
            name.link(None)
        elif (file := name.file) is not None:
            if call.kind is CallKind.SYNC:
                file.sync(event.began)
            else:
                file.change(index, call)
        if call.directory:
            for every in self._names.values():
                every.sync()

    def now(self) -> dict[str, bytes]:
        """Return the files as everybody sees them while the power is on."""
        return {name: every.file.content() for name, every in self._names.items() if every.file is not None}

    def after_power_loss(self, chance: Random) -> dict[str, bytes]:
        """Return the files as they may be if the power goes now."""
        found = {name: every.after_power_loss(chance) for name, every in self._names.items()}
        return {name: file.after_power_loss(chance) for name, file in found.items() if file is not None}


def power_losses(
    events: Iterable[Event], *, at: Iterable[int], seed: int, files: Mapping[str, bytes] | None = None
) -> Iterator[tuple[int, dict[str, bytes]]]:
    """Yield what the disk may hold if the power goes after the events of these indexes, in their order.

    An index that is there several times gives as many states. `files` were there, and synced, before the first event.
    The same events and the same seed give the same files.
    """
    chance = Random(seed)  # noqa: S311 - to be repeated, not to be secret
    disk = Disk(files)
    wanted = Counter(at)
    for index, event in enumerate(events):
        disk.apply(event)
        for _ in range(wanted[index]):
            yield index, disk.after_power_loss(chance)


def write_files(files: Mapping[str, bytes], directory: Path) -> None:
    """Write the files into a directory."""
    for name, content in files.items():
        (directory / name).write_bytes(content)


class _Name:
    """A name in the directory, and which file it stands for: now, and since the directory was last synced."""

    def __init__(self, file: _File | None = None) -> None:
        self._since = [file]

    @property
    def file(self) -> _File | None:
        return self._since[-1]

    def link(self, file: _File | None) -> None:
        self._since.append(file)

    def sync(self) -> None:
        del self._since[:-1]

    def after_power_loss(self, chance: Random) -> _File | None:
        return chance.choice(self._since)


class _File:
    """What a file holds for certain, and what was done to it since."""

    def __init__(self, synced: bytes = b"") -> None:
        self._synced = bytearray(synced)
        self._since: list[tuple[int, FileCall]] = []

    def change(self, index: int, call: FileCall) -> None:
        self._since.append((index, call))

    def sync(self, began: int) -> None:
        """Make certain what had been done before the sync began."""
        done = sum(index < began for index, _ in self._since)
        for _, call in self._since[:done]:
            _apply(self._synced, call)
        del self._since[:done]

    def content(self) -> bytes:
        content = bytearray(self._synced)
        for _, call in self._since:
            _apply(content, call)
        return bytes(content)

    def after_power_loss(self, chance: Random) -> bytes:
        if not self._since:
            return bytes(self._synced)
        content = bytearray(self._synced)
        sizes = [len(content)]
        sectors: dict[int, list[_Version]] = {}  # those that were changed, the oldest version of each first
        for number, (_, call) in enumerate(self._since, 1):
            changed = _sectors(call, len(content))
            for sector in changed:
                if sector not in sectors:
                    sectors[sector] = [(0, _sector(content, sector))]
            _apply(content, call)
            sizes.append(len(content))
            for sector in changed:
                sectors[sector].append((number, _sector(content, sector)))
        return self._put_together(sizes, sectors, chance)

    def _put_together(self, sizes: list[int], sectors: dict[int, list[_Version]], chance: Random) -> bytes:
        choose = _choice(len(sizes) - 1, list(sectors), chance)
        size = chance.choice(sizes) if chance.random() < ANY_SIZE else sizes[choose(-1)]
        content = self._synced[:size]
        added = size - len(content)
        if added > 0:
            content += chance.randbytes(added) if chance.random() < RUBBISH else bytes(added)
        for sector, versions in sectors.items():
            number = choose(sector)
            version = next(text for made, text in reversed(versions) if made <= number)
            start = sector * SECTOR
            version = version[: max(size - start, 0)]
            content[start : start + len(version)] = version
        return bytes(content)


def _choice(last: int, sectors: list[int], chance: Random) -> Callable[[int], int]:
    """Return what tells for a sector which change is the last that reached the disk (0: none), or -1 for the size.

    One of several ways, the extreme ones among them, where most mistakes show.
    """
    way = chance.choice(("none", "all", "all but one", "one alone", "up to one", "most", "few", "any"))
    if way in ("none", "all"):
        return lambda _: last if way == "all" else 0
    if way in ("all but one", "one alone"):
        odd = chance.choice(sectors) if sectors else -1
        return lambda sector: last if (sector == odd) == (way == "one alone") else 0
    if way == "up to one":
        cut = chance.randint(0, last)
        return lambda _: max(0, cut - (chance.random() < TORN))
    rate = {"most": 0.9, "few": 0.1, "any": 0.5}[way]
    return lambda _: last if chance.random() < rate else chance.randint(0, last)


def _apply(content: bytearray, call: FileCall) -> None:
    """Do to a file's content what a call does."""
    if call.kind is CallKind.TRUNCATE:
        del content[call.size :]
        content += bytes(call.size - len(content))
        return
    content += bytes(max(call.offset - len(content), 0))
    content[call.offset : call.offset + len(call.data)] = call.data


def _sectors(call: FileCall, size: int) -> range:
    """Return which sectors of a file of this size a call changes."""
    if call.kind is CallKind.TRUNCATE:
        return range(call.size // SECTOR, -(-size // SECTOR))
    return range(call.offset // SECTOR, -(-(call.offset + len(call.data)) // SECTOR))


def _sector(content: bytearray, sector: int) -> bytes:
    return bytes(content[sector * SECTOR : (sector + 1) * SECTOR])
