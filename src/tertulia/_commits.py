"""What the parts of the core that commit have in common."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tertulia.engines.base import Check, CheckFailed, Commit, Committed, Engine, Put, Record
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


class GuardFailed(Exception):  # noqa: N818 - a signal between modules, never seen by users
    """What a GuardedEngine guards has changed; nothing of the commit was done. Look again, and start over."""


class GuardedEngine:
    """The part of an engine that a memory's calls use, with checks of its owner's in every commit.

    `refusal` returns what is raised when one of them has failed.
    """

    def __init__(
        self, engine: Engine, checks: tuple[Check, ...], refusal: Callable[[], Exception] = GuardFailed
    ) -> None:
        self._engine = engine
        self._checks = checks
        self._refusal = refusal
        self.capabilities = engine.capabilities
        self.scan = engine.scan
        self.get = engine.get
        self.watch = engine.watch
        self.stats = engine.stats

    async def put(self, put: Put) -> Record:
        """Commit one put, and return the record."""
        return (await self.commit(Commit(puts=(put,)))).records[0]

    async def commit(self, commit: Commit) -> Committed:
        """Commit, unless a guard has failed: that raises the refusal."""
        guarded = msgspec.structs.replace(commit, checks=(*self._checks, *commit.checks))
        try:
            return await self._engine.commit(guarded)
        except CheckFailed as failed:
            if failed.check in self._checks:
                raise self._refusal() from None
            raise
