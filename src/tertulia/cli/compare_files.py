"""The files that `tertulia compare` writes, checked before any work: report, JSON, page and profile."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Protocol

import msgspec
from rich.console import Console

from tertulia.compare.comparison import Comparison
from tertulia.compare.page import page_of, render
from tertulia.compare.printing import PLAIN_WIDTH, print_comparison
from tertulia.compare.runner import Outcome
from tertulia.selection.keeping import existing, keep, merged, missing
from tertulia.selection.profile import OWN_PROFILE, Profile

__all__ = ["STANDARD_OUTPUT", "UsageError", "check_files", "keep_profile", "publish"]

STANDARD_OUTPUT = "-"


class Files(Protocol):
    """Where to write what."""

    @property
    def output(self) -> Path:
        """The folder of the report."""
        ...

    @property
    def json(self) -> str | None:
        """The file of the figures."""
        ...

    @property
    def html(self) -> str | None:
        """The file of the page."""
        ...

    @property
    def profile(self) -> Path | None:
        """The file of the profile, if it is not where it is looked for."""
        ...


class UsageError(Exception):
    """The command was asked for something that cannot be done; the text is one line for people."""


# --- Before --------------------------------------------------------------------------------------


def check_files(folder: Path | None, files: Files, *, profile: bool) -> None:
    """Make sure that what is going to be written can be, and will not be read by the next run.

    `folder` is what the report is on, if there is going to be one; `profile`: whether figures are going to be kept.
    Raises UsageError, ProfileError.
    """
    if folder is not None:
        resolved, output = folder.resolve(), files.output.resolve()
        _check_apart(resolved, output)
        if resolved.is_dir():  # else the scout says what is wrong with it, and nothing should have been made
            _make_folder(output)
    for option, name in (("--json", files.json), ("--html", files.html)):
        if name is not None and (option, name) != ("--json", STANDARD_OUTPUT):
            _check_file(option, Path(name))
    if files.profile is not None:
        _check_file("--profile", files.profile)
    if profile:
        existing(_profile_of(files))


def _check_file(option: str, path: Path) -> None:
    file = path.resolve()
    if file.is_dir() or not file.parent.is_dir():
        raise UsageError(f"{option} {path}: not a file in a folder that exists")


def _check_apart(folder: Path, output: Path) -> None:
    """Refuse a place where the next run would read the report; the scout passes by `build` and whatever is hidden."""
    if not output.is_relative_to(folder):
        return
    parts = output.relative_to(folder).parts
    if not any(part == "build" or part.startswith(".") for part in parts):
        raise UsageError(
            f"--output {output}: inside the input folder, so the next run would read it; "
            "choose a place outside, or below a folder named build"
        )


def _make_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {output}: cannot be made a folder ({error.strerror})") from error


# --- After ---------------------------------------------------------------------------------------


def publish(comparison: Comparison, outcome: Outcome | None, files: Files) -> None:
    """Write the report, the figures and the page, and print. Raises OSError."""
    report = files.output / "report.md"
    if outcome is not None:
        report.write_text(outcome.report, encoding="utf-8", newline="\n")
    if files.html is not None:
        Path(files.html).write_text(render(page_of(comparison)), encoding="utf-8", newline="\n")
    figures = msgspec.json.format(msgspec.json.encode(comparison), indent=2).decode() + "\n"
    if files.json == STANDARD_OUTPUT:
        sys.stdout.write(figures)
        return
    if files.json is not None:
        Path(files.json).write_text(figures, encoding="utf-8", newline="\n")
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    print_comparison(console, comparison, report)


def keep_profile(comparison: Comparison, files: Files) -> str:
    """Write the profile if it answers every question, and return what to say of it. Raises OSError, ProfileError."""
    path = _profile_of(files)
    new = Profile(made_at=comparison.made_at, machine=comparison.environment, cells=comparison.cells)
    profile = merged(existing(path), new)
    if unknown := missing(profile):
        names = ", ".join(use_case.value for use_case in unknown)
        return f"no profile was written: it would know nothing about {names}"
    keep(path, profile)
    return f"the profile that 'tertulia recommend' goes by: {path}"


def _profile_of(files: Files) -> Path:
    return OWN_PROFILE if files.profile is None else files.profile
