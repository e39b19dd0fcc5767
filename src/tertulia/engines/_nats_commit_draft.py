"""What a commit is to write, as far as it is planned."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from tertulia.engines._nats_boxes import Registry
from tertulia.engines._nats_history import History
from tertulia.engines._nats_keys import Keys
from tertulia.engines._nats_live import Live
from tertulia.engines._nats_mail import Mail
from tertulia.engines._nats_store import Store
from tertulia.engines._nats_stream import Found, Write
from tertulia.engines._nats_subjects import Subjects
from tertulia.engines.base import Commit

READ_AT_ONCE = 500  # subjects read in one request


class Outdated(Exception):  # noqa: N818 - a signal between the engine's modules
    """A plan fails on what may be old knowledge."""


class Parts(Struct, frozen=True, kw_only=True):
    """The parts of a handle that commits concern."""

    store: Store
    subjects: Subjects
    keys: Keys
    registry: Registry
    mail: Mail
    live: Live
    history: History
    new_op: Callable[[], str]


class Draft:
    """The writes of a commit, and what they rely on: the sequences that subjects are at.

    Not `fresh`: planned with what the handle remembers, which may be old.
    """

    def __init__(self, parts: Parts, commit: Commit, *, fresh: bool) -> None:
        self.parts = parts
        self.commit = commit
        self.fresh = fresh
        self.op = parts.new_op()
        self.checks: dict[str, int] = {}
        self.writes: list[Write] = []

    async def read_all(self, subjects: list[str]) -> list[Found]:
        """Return what these subjects hold; all at one moment where they are not too many."""
        if len(subjects) == 1:
            one = await self.parts.store.get(subjects[0])
            return [] if one is None else [one]
        found: list[Found] = []
        for start in range(0, len(subjects), READ_AT_ONCE):
            found += (await self.parts.store.many(subjects[start : start + READ_AT_ONCE]))[0]
        return found
