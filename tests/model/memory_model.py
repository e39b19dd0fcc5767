"""Shared memory as a plain dict, for the state machine to compare the library with.

It knows nothing about engines. Revisions cannot be predicted, only held to their promises, so the model takes them
from the library's answers: each must be greater than any before it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from tertulia import MemoryEntry


@dataclass
class Kept:
    """What the model knows about a key that is there."""

    value: Any
    owner: str
    version: int
    created: float
    updated: float
    ttl: float | None
    expires: float | None
    tags: tuple[str, ...]
    reads: int = 0
    revision: int = 0
    created_revision: int = 0


@dataclass(frozen=True)
class Event:
    """A committed change; the revision of a removal is told to watchers only."""

    kind: str
    key: str
    value: Any = None
    revision: int | None = None


@dataclass
class MemoryModel:
    """The dict, and the log of everything that was committed."""

    keys: dict[str, Kept] = field(default_factory=dict)
    log: list[Event] = field(default_factory=list)
    revision: int = 0

    def expire(self, now: float) -> None:
        """Let the keys go whose time is over."""
        for key in [key for key, kept in self.keys.items() if kept.expires is not None and kept.expires <= now]:
            del self.keys[key]
            self.log.append(Event("expire", key))

    def planned(self, key: str, value: Any, now: float, *, owner: str | None, ttl: Any = None, tags: Any = ()) -> Kept:
        """Return what a write makes of a key; an owner of None and a ttl or tags of `...` stay as they are."""
        old = self.keys.get(key)
        ttl = (old.ttl if old else None) if ttl is ... else ttl
        tags = (old.tags if old else ()) if tags is ... else tuple(sorted(set(tags)))
        return Kept(
            value=value,
            owner=owner if owner is not None else (old.owner if old else ""),
            version=old.version + 1 if old else 1,
            created=old.created if old else now,
            updated=now,
            ttl=ttl,
            expires=None if ttl is None else now + ttl,
            tags=tags,
            reads=old.reads if old else 0,
            created_revision=old.created_revision if old else 0,
        )

    def accept(self, key: str, kept: Kept, entry: MemoryEntry) -> None:
        """Compare a write's answer with the plan, learn its revision, and keep it."""
        assert entry.revision > self.revision, "a revision was not greater than all before it"
        kept.revision = self.revision = entry.revision
        if kept.version == 1:
            kept.created_revision = entry.revision
        assert_same(key, kept, entry)
        self.keys[key] = kept
        self.log.append(Event("put", key, kept.value, entry.revision))

    def remove(self, key: str) -> bool:
        """Delete a key; tell whether it was there."""
        if self.keys.pop(key, None) is None:
            return False
        self.log.append(Event("delete", key))
        return True

    def read(self, key: str) -> Kept | None:
        """Return the key as it is, and count the access."""
        kept = self.keys.get(key)
        if kept is not None:
            kept.reads += 1
        return kept

    def listed(self, pattern: str, tags: tuple[str, ...] | None = None, owner: str | None = None) -> list[str]:
        """Return the keys that a listing must show."""
        return sorted(
            key
            for key, kept in self.keys.items()
            if fnmatchcase(key, pattern)
            and (tags is None or set(tags) & set(kept.tags))
            and (owner is None or kept.owner == owner)
        )

    def cut(self, pattern: str) -> dict[str, Kept]:
        """Return a copy of the keys that match, as a snapshot holds them."""
        return {key: replace(self.keys[key]) for key in self.listed(pattern)}


def assert_same(key: str, kept: Kept, entry: MemoryEntry) -> None:
    """Compare a key as the library shows it with what the model knows."""
    seen = Kept(
        value=entry.value,
        owner=entry.owner,
        version=entry.version,
        created=entry.created,
        updated=entry.updated,
        ttl=entry.ttl,
        expires=entry.expires,
        tags=entry.tags,
        reads=entry.access_count,
        revision=entry.revision,
        created_revision=entry.created_revision,
    )
    assert entry.key == key
    assert seen == kept
