"""The scout: which files of a folder are text to report on."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from tertulia.compare.report_team.facts import FileListing, SkippedFile, SourceFile
from tertulia.compare.report_team.input_errors import (
    FolderMissingError,
    FolderUnreadableError,
    NotAFolderError,
    NoTextFilesError,
)

__all__ = ["MAX_FILE_BYTES", "list_files"]

MAX_FILE_BYTES = 1024 * 1024
"""Text that people write stays below this; what is larger is data, and a reader holds it whole."""

_MAX_FILES = 1000
# One fact value per file: a thousand keep the run in seconds and the report readable.

_MAX_VISITED = 20_000
# Entries looked at, so that a mistaken `--input /` ends soon. A large source tree has fewer.

_MAX_SKIPPED = 200
# A longer list of left-out files tells nobody more; the full number is kept beside it.

_MAX_PATH_BYTES = 400
# Agents put the path into a memory key, which holds 512 bytes; the rest is for their prefix.

_BINARY_PROBE_BYTES = 8192
# Where git, too, looks for a NUL byte to tell binary from text.

_BUILD_FOLDERS = frozenset({"build", "dist", "node_modules", "htmlcov", "site-packages", "_build"})
_CACHE_FOLDERS = frozenset({"__pycache__"})
_MARKER_FILES = {"CACHEDIR.TAG": "cache folder", "pyvenv.cfg": "virtual environment"}


def list_files(folder: str | os.PathLike[str]) -> FileListing:
    """Return the text files below *folder*, sorted by path, and what was skipped and why.

    Hidden files and folders (their name starts with a dot) and `__pycache__` are passed over
    without being listed as skipped: they come and go while programs run, and two listings of the
    same sources shall be equal. Build outputs, virtual environments, symbolic links, binary files,
    text that is not UTF-8 and files over 1 MiB are skipped with their reason. No symbolic link is
    followed: one that leaves the folder would report on other files, one that stays inside would
    make every paragraph of its target a duplicate.

    At most 1,000 files are listed; `complete` is false when there may be more.

    Raises:
        FolderMissingError: there is nothing at *folder*.
        NotAFolderError: *folder* is not a folder.
        FolderUnreadableError: *folder* may not be listed.
        NoTextFilesError: no text file is in *folder* or below it.
    """
    scout = _Scout(_checked_folder(folder))
    scout.visit_all()
    if not scout.files:
        problem = f"no text file in this folder (skipped: {scout.skipped_count})"
        raise NoTextFilesError(os.fspath(folder), problem)
    return FileListing(
        files=tuple(sorted(scout.files, key=lambda file: file.path)),
        skipped=tuple(sorted(scout.skipped, key=lambda file: file.path)),
        skipped_count=scout.skipped_count,
        complete=scout.complete,
    )


def _checked_folder(folder: str | os.PathLike[str]) -> Path:
    name = os.fspath(folder)
    try:
        mode = Path(name).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise FolderMissingError(name, "no such folder") from None
    except (OSError, ValueError) as error:
        raise FolderUnreadableError(name, f"cannot be opened ({error})") from error
    if not stat.S_ISDIR(mode):
        raise NotAFolderError(name, "not a folder")
    try:
        os.scandir(name).close()
    except OSError as error:
        raise FolderUnreadableError(name, f"cannot be listed ({_reason(error)})") from error
    return Path(name).resolve()


class _Scout:
    """One walk through a folder, in an order that depends on the names only."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._visited = 0
        self.files: list[SourceFile] = []
        self.skipped: list[SkippedFile] = []
        self.skipped_count = 0
        self.complete = True

    def visit_all(self) -> None:
        for path in self._paths():
            self._visited += 1
            if self._visited > _MAX_VISITED or len(self.files) == _MAX_FILES:
                self.complete = False
                return
            self._visit(path)

    def _paths(self) -> Iterator[Path]:
        """Yield all files that are not hidden; pass by the folders that are not sources."""
        for parent, folders, names in os.walk(self._root, onerror=self._unlisted):
            here = Path(parent)
            folders[:] = [name for name in sorted(folders) if self._enters(here / name)]
            yield from (here / name for name in sorted(names) if not name.startswith("."))

    def _enters(self, folder: Path) -> bool:
        if folder.name.startswith(".") or folder.name in _CACHE_FOLDERS:
            return False
        reason = self._folder_reason(folder)
        if reason:
            self._skip(folder, reason)
        return not reason

    def _folder_reason(self, folder: Path) -> str:
        if folder.is_symlink():
            return self._link_reason(folder)
        if folder.name in _BUILD_FOLDERS or folder.name.endswith(".egg-info"):
            return "build output"
        found = (reason for name, reason in _MARKER_FILES.items() if (folder / name).exists())
        return next(found, "")

    def _link_reason(self, path: Path) -> str:
        try:
            inside = path.resolve().is_relative_to(self._root)
        except (OSError, RuntimeError):  # a loop of links: RuntimeError before Python 3.13
            inside = False
        where = "inside" if inside else "leaving"
        return f"symbolic link {where} the folder"

    def _visit(self, path: Path) -> None:
        try:
            details = path.lstat()
            reason = self._reason_by_name(path) or self._reason_by_mode(path, details)
            reason = reason or _reason_by_content(path.read_bytes())
        except OSError as error:
            self._skip(path, f"unreadable ({_reason(error)})")
            return
        if reason:
            self._skip(path, reason)
        else:
            self.files.append(SourceFile(path=self._relative(path), size=details.st_size))

    def _reason_by_name(self, path: Path) -> str:
        name = path.relative_to(self._root).as_posix()
        try:
            length = len(name.encode())
        except UnicodeEncodeError:
            return "name is not UTF-8"
        if not name.isprintable():
            return "name is not printable"
        return f"path longer than {_MAX_PATH_BYTES} bytes" if length > _MAX_PATH_BYTES else ""

    def _reason_by_mode(self, path: Path, details: os.stat_result) -> str:
        if stat.S_ISLNK(details.st_mode):
            return self._link_reason(path)
        if not stat.S_ISREG(details.st_mode):
            return "not a regular file"
        return "larger than 1 MiB" if details.st_size > MAX_FILE_BYTES else ""

    def _unlisted(self, error: OSError) -> None:
        self._skip(Path(error.filename), f"unreadable ({_reason(error)})")

    def _skip(self, path: Path, reason: str) -> None:
        self.skipped_count += 1
        if len(self.skipped) < _MAX_SKIPPED:
            self.skipped.append(SkippedFile(path=self._relative(path), reason=reason))

    def _relative(self, path: Path) -> str:
        """Return the path below the folder; bytes that are not UTF-8 show in hexadecimal."""
        name = path.relative_to(self._root).as_posix()
        return os.fsencode(name).decode("utf-8", "backslashreplace")[:_MAX_PATH_BYTES]


def _reason_by_content(content: bytes) -> str:
    if b"\0" in content[:_BINARY_PROBE_BYTES]:
        return "binary"
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return "not UTF-8"
    return ""


def _reason(error: OSError) -> str:
    return "permission denied" if isinstance(error, PermissionError) else type(error).__name__
