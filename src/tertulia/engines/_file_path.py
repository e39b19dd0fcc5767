"""Where a space's file is: what a URL names, and what is refused before SQLite has touched it."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path
from urllib.parse import unquote

import apsw

from tertulia.engines._file_format import FAILURES, PAGE_SIZE, translated
from tertulia.errors import EngineUnavailableError, IncompatibleFormatError, InvalidURLError, UnsupportedError

DEFAULT_PARENT = ".tertulia"  # the only directory that is made when it is missing
OLDEST_SQLITE = (3, 51, 3)  # before it two processes could lose acknowledged commits (the WAL reset bug)
LONGEST_PATH = 504  # bytes; SQLite takes 512, with `-journal`
BESIDE = ("-journal", "-wal", "-shm", "-lock")
MAGIC = b"SQLite format 3\0"
SHARED_FILE_SYSTEMS = frozenset(
    ("nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "ncpfs", "afs", "ceph", "lustre", "beegfs", "glusterfs", "9p",
     "fuse.sshfs", "fuse.glusterfs")
)  # fmt: skip


def path_of(url: str) -> Path:
    """Return the path that a `file:` URL or a plain path names. Raises InvalidURLError."""
    text = url.removeprefix("file:")
    if text.startswith("//"):
        host, slash, text = text[2:].partition("/")
        if host not in ("", "localhost") or not slash:
            raise InvalidURLError(url, "it names a file of this machine, as in `file:team.db` or `file:/a/b.db`")
        text = unquote("/" + text)
    if not text or "\0" in text:
        raise InvalidURLError(url, "it names no file; write `file:team.db`")
    return Path(os.path.abspath(text))  # noqa: PTH100 - unlike resolve() it follows no link


def check_sqlite() -> None:
    """Refuse an SQLite that can lose commits."""
    version = apsw.sqlite_lib_version()
    if tuple(int(part) for part in version.split(".")) < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise UnsupportedError(f"SQLite {version} can lose commits of concurrent processes; {oldest} is needed")


def prepare(path: Path) -> None:
    """Refuse whatever cannot be a space's file; nothing is changed, but that the default directory is made."""
    parent = path.parent
    if not parent.exists() and parent.name == DEFAULT_PARENT and parent.parent.is_dir():
        try:
            parent.mkdir(mode=0o700)
        except FileExistsError:
            pass
        except OSError as error:
            raise EngineUnavailableError(f"the directory {parent} cannot be made: {error.strerror}") from error
    if not parent.is_dir():
        raise EngineUnavailableError(f"the directory {parent} does not exist; make it first")
    system = file_system(parent)
    if system in SHARED_FILE_SYSTEMS:
        raise UnsupportedError(f"{parent} is on a network file system ({system}), where SQLite cannot share a file")
    _check_names(path)
    found = _look(path)
    if found is not None:
        _check_file(path, found)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise EngineUnavailableError(f"the directory {parent} cannot be written, and SQLite needs files in it")


def _check_names(path: Path) -> None:
    """Refuse a path that is too long, and one beside which something stands in the way."""
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise EngineUnavailableError(f"the path {path} is too long: SQLite takes {LONGEST_PATH} bytes")
    for suffix in BESIDE:
        beside = path.with_name(path.name + suffix)
        found = _look(beside)
        if found is not None and not stat.S_ISREG(found.st_mode):
            raise EngineUnavailableError(f"{beside} is not a regular file, but has the name of one that is needed")


def _look(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        why = "its name is too long" if error.errno == errno.ENAMETOOLONG else error.strerror
        raise EngineUnavailableError(f"{path} cannot be examined: {why}") from error


def _check_file(path: Path, found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise EngineUnavailableError(f"{path} is a symbolic link; name the file itself")
    if stat.S_ISDIR(found.st_mode):
        raise EngineUnavailableError(f"{path} is a directory, not a file")
    if not stat.S_ISREG(found.st_mode):
        raise EngineUnavailableError(f"{path} is not a regular file")
    if found.st_uid != os.geteuid():
        raise EngineUnavailableError(f"{path} belongs to another user")
    if not os.access(path, os.R_OK | os.W_OK):
        raise EngineUnavailableError(f"{path} cannot be read and written")
    if _look(path.with_name(path.name + "-journal")) is not None:
        _check_journal(path, found)
    elif found.st_size and not _header(path).startswith(MAGIC):
        raise IncompatibleFormatError(f"{path} is not a space: it is not even a database")


def _check_journal(path: Path, found: os.stat_result) -> None:
    """Refuse a file with a journal, which SQLite would change at once, unless it was being made when the power went.

    A space has a journal only while its first page is written; SQLite then puts that back as it was.
    """
    if found.st_size > PAGE_SIZE:
        raise IncompatibleFormatError(f"{path} is not a space: a journal of another program is beside it")


def _header(path: Path) -> bytes:
    """Read the first bytes the way SQLite does: any other way would drop the locks that this process has on it."""
    flags = [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0]
    try:
        file = apsw.VFSFile("", str(path), flags)
        try:
            return file.xRead(len(MAGIC), 0)
        finally:
            file.xClose()
    except FAILURES as error:
        raise translated(error, str(path)) from error


def file_system(directory: Path) -> str:
    """Return the type of the file system, or an empty string where it cannot be learned."""
    if sys.platform != "linux":
        return ""
    device = directory.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2:3] == [wanted] and after:
            return after.split()[0]
    return ""


def lock_beside(path: Path) -> Path:
    """Return where the writers' lock of a space's file is."""
    return path.with_name(path.name + "-lock")
