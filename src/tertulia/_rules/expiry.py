"""What a write keeps of the record before it."""

from __future__ import annotations

from typing import Protocol

from tertulia.records import Keep


class HasLifetime(Protocol):
    """The part of a record that a later write may keep."""

    @property
    def owner(self) -> str: ...
    @property
    def ttl(self) -> float | None: ...
    @property
    def tags(self) -> tuple[str, ...]: ...


def kept_ttl(ttl: float | Keep | None, old: HasLifetime | None) -> float | None:
    """Return the time to live that a write gives: its own, or with KEEP the old record's, restarted."""
    if isinstance(ttl, Keep):
        return None if old is None else old.ttl
    return ttl


def kept_tags(tags: tuple[str, ...] | Keep, old: HasLifetime | None) -> tuple[str, ...]:
    """Return the tags that a write gives: its own, or with KEEP the old record's."""
    if isinstance(tags, Keep):
        return () if old is None else old.tags
    return tags


def kept_owner(owner: str | Keep, old: HasLifetime | None) -> str:
    """Return the owner that a write gives: its own, or with KEEP the old record's."""
    if isinstance(owner, Keep):
        return "" if old is None else old.owner
    return owner
