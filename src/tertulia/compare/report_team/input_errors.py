"""What can be wrong with the folder to report on.

    InputFolderError (ValueError)
    ├── FolderMissingError      there is nothing at that path
    ├── NotAFolderError         there is something, but no folder
    ├── FolderUnreadableError   the folder may not be listed
    ├── NoTextFilesError        the folder holds no text file to report on
    └── FileUnreadableError     a file that was asked for cannot be read as text

Each has the `path` that was asked for and the `problem` as fields, and both in its text.
"""

__all__ = [
    "FileUnreadableError",
    "FolderMissingError",
    "FolderUnreadableError",
    "InputFolderError",
    "NoTextFilesError",
    "NotAFolderError",
]


class InputFolderError(ValueError):
    """The folder cannot be reported on; `path` says what was asked for."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem

    def __reduce__(self) -> tuple[type["InputFolderError"], tuple[str, str]]:
        """Keep both fields when the error crosses a process boundary."""
        return type(self), (self.path, self.problem)


class FolderMissingError(InputFolderError):
    """There is nothing at that path."""


class NotAFolderError(InputFolderError):
    """The path leads to something that is not a folder."""


class FolderUnreadableError(InputFolderError):
    """The folder exists, but may not be listed."""


class NoTextFilesError(InputFolderError):
    """The folder, with all below it, holds no text file to report on."""


class FileUnreadableError(InputFolderError):
    """A file cannot be read: missing, outside the folder, too large, or not UTF-8 text."""
