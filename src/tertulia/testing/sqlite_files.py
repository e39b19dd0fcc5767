"""What SQLite does to its files, call by call: watched, and made to fail.

    with SQLiteFiles(watcher) as files:
        connection = apsw.Connection(path, vfs=files.name)

Every call goes on to the real file, with SQLite's own locks, after all watchers were asked, and is then told to them.
The shared memory of a write-ahead log (`-shm`) is memory and passes unseen. SQLite calls from whatever thread uses a
connection, so a watcher that counts or records is called from several at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from enum import StrEnum
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, cast

import apsw
from msgspec import Struct
from msgspec.structs import replace

JOURNALS = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL

_numbers = count(1)


class CallKind(StrEnum):
    """What is done to a file."""

    OPEN = "open"
    READ = "read"
    WRITE = "write"
    TRUNCATE = "truncate"
    SYNC = "sync"
    DELETE = "delete"


class FileCall(Struct, frozen=True, kw_only=True):
    """One call: `data` of a write at `offset`, new `size` of a truncation.

    `directory` says that a sync or a deletion makes the names in the directory last too; `made` that an open made
    the file.
    """

    kind: CallKind
    path: str
    offset: int = 0
    data: bytes = b""
    size: int = 0
    directory: bool = False
    made: bool = False


class Refusal(Struct, frozen=True, kw_only=True):
    """How a call goes wrong: with an extended result code of SQLite, after the first `written` bytes of a write.

    With a code of 0 the call is not made at all, and SQLite is told that it was: a disk that lies.
    """

    code: int
    written: int = 0


class Watcher(Protocol):
    """Who is asked before each call, and told when it was made."""

    def before(self, call: FileCall) -> Refusal | None:
        """Return how the call is to go wrong, or None to let it pass."""
        ...

    def after(self, call: FileCall) -> None:
        """Note that the call was made."""
        ...


class SQLiteFiles:
    """A registered VFS of SQLite, under a `name` of its own, for the length of a block.

    Every connection that uses it must be closed before the block ends. `reads` has reads watched too, which costs a
    few microseconds each.
    """

    def __init__(self, *watchers: Watcher, reads: bool = False) -> None:
        self.name = f"tertulia-watched-{next(_numbers)}"
        self._watchers = watchers
        self._reads = reads
        self._vfs: _WatchedVFS | None = None

    def __enter__(self) -> Self:
        self._vfs = _WatchedVFS(self.name, _Desk(self._watchers), reads=self._reads)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._vfs is not None:
            self._vfs.unregister()
            self._vfs = None


class FailingCalls:
    """A watcher that lets the calls of some kinds fail: the `at`-th one, counted from 1, and `times` in all from there.

    `seen` counts the calls of those kinds, so that a run in which none fails says how many places there are to fail
    at; `failed` lists those that did. A write fails after `part` of its bytes. `only` picks files by their path.
    """

    def __init__(
        self,
        kinds: Iterable[CallKind],
        *,
        code: int,
        at: int = 0,
        times: int = 1,
        part: float = 0.0,
        only: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._kinds = frozenset(kinds)
        self._code = code
        self._at = at
        self._times = times
        self._part = part
        self._only = only
        self._lock = threading.Lock()
        self.armed = True
        self.seen = 0
        self.failed: list[FileCall] = []

    def before(self, call: FileCall) -> Refusal | None:
        """Count the call, and have it fail when its time has come."""
        if not self.armed or call.kind not in self._kinds or not self._only(call.path):
            return None
        with self._lock:
            self.seen += 1
            if not 0 < self._at <= self.seen < self._at + self._times:
                return None
            self.failed.append(call)
        return Refusal(code=self._code, written=int(len(call.data) * self._part))

    def after(self, call: FileCall) -> None:
        """Nothing has to be noted."""


class _Desk:
    """Asks and tells the watchers, for all files of a VFS."""

    def __init__(self, watchers: tuple[Watcher, ...]) -> None:
        self._watchers = watchers

    def make(self, call: FileCall, do: Callable[[FileCall], None]) -> None:
        """Make the call, unless a watcher has it go wrong."""
        refusal = self._refusal(call)
        if refusal is None:
            self._do(call, do)
            return
        if refusal.written:
            self._do(replace(call, data=call.data[: refusal.written]), do)
        if refusal.code:
            raise apsw.exception_for(refusal.code)

    def _refusal(self, call: FileCall) -> Refusal | None:
        for watcher in self._watchers:
            refusal = watcher.before(call)
            if refusal is not None:
                return refusal
        return None

    def _do(self, call: FileCall, do: Callable[[FileCall], None]) -> None:
        do(call)
        for watcher in self._watchers:
            watcher.after(call)


class _WatchedVFS(apsw.VFS):
    def __init__(self, name: str, desk: _Desk, *, reads: bool) -> None:
        super().__init__(name, "")
        self._desk = desk
        self._file = _ReadWatchedFile if reads else _WatchedFile

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - apsw's
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        made = bool(flags[0] & apsw.SQLITE_OPEN_CREATE) and not Path(path).exists()
        opened: list[apsw.VFSFile] = []
        call = FileCall(kind=CallKind.OPEN, path=path, made=made)
        self._desk.make(call, lambda _: opened.append(self._file(self._desk, path, name, flags)))
        return opened[0]

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802, FBT001 - apsw's
        call = FileCall(kind=CallKind.DELETE, path=filename, directory=syncdir)
        delete = super().xDelete
        self._desk.make(call, lambda _: delete(filename, syncdir))


class _WatchedFile(apsw.VFSFile):
    def __init__(self, desk: _Desk, path: str, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._desk = desk
        self._path = path
        # SQLite's own file layer syncs the directory with the first sync of a journal that was opened to be made.
        self._sync_directory = bool(flags[0] & JOURNALS) and bool(flags[0] & apsw.SQLITE_OPEN_CREATE)
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - apsw's
        call = FileCall(kind=CallKind.WRITE, path=self._path, offset=offset, data=bytes(data))
        write = cast("Callable[[bytes, int], None]", super().xWrite)  # pyright: ignore[reportUnknownMemberType]
        self._desk.make(call, lambda done: write(done.data, offset))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - apsw's
        call = FileCall(kind=CallKind.TRUNCATE, path=self._path, size=newsize)
        truncate = super().xTruncate
        self._desk.make(call, lambda _: truncate(newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802 - apsw's
        call = FileCall(kind=CallKind.SYNC, path=self._path, directory=self._sync_directory)
        sync = super().xSync
        self._desk.make(call, lambda _: sync(flags))
        self._sync_directory = False


class _ReadWatchedFile(_WatchedFile):
    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802 - apsw's
        found: list[bytes] = []
        read = super().xRead
        call = FileCall(kind=CallKind.READ, path=self._path, offset=offset, size=amount)
        self._desk.make(call, lambda _: found.append(read(amount, offset)))
        return found[0] if found else bytes(amount)
