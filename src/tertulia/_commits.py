"""What the parts of the core that commit have in common."""

from __future__ import annotations

from tertulia.engines.base import CheckFailed, Commit, Engine
from tertulia.errors import (
    ConflictError,
    InvalidInputError,
    KeyExistsError,
    KeyNotFoundError,
    VersionConflictError,
)


def conflict(failed: CheckFailed, key: str) -> ConflictError:
    """Return the public error for a failed check."""
    check, record = failed.check, failed.record
    if check.absent:
        return KeyExistsError(key)
    if record is None:
        return KeyNotFoundError(key)
    parts = {
        "version": check.version,
        "revision": check.revision,
        "creation revision": check.created_revision,
    }
    expected = ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None)
    return VersionConflictError(
        key,
        expected=expected,
        actual_version=record.version,
        actual_revision=record.revision,
    )


def check_commit_size(engine: Engine, commit: Commit) -> None:
    """Raise InvalidInputError for a commit with more parts than the engine takes."""
    parts = (commit.checks, commit.settles, commit.puts, commit.deletes, commit.sends)
    operations = sum(map(len, parts))
    limit = engine.capabilities.max_commit_operations
    if operations > limit:
        message = f"one commit takes at most {limit:,} operations on this engine, not {operations:,}"
        raise InvalidInputError(message)
