"""The part of a commit that concerns keys: what it checks, puts and deletes."""

from __future__ import annotations

from msgspec.structs import replace

from tertulia.engines._nats_commit_draft import Draft, Outdated
from tertulia.engines._nats_format import EXPIRED, LIVE, KeyState
from tertulia.engines._nats_stream import Write
from tertulia.engines.base import CheckFailed
from tertulia.errors import AccessDeniedError


class KeyPlan:
    """Plans in a draft what becomes of keys.

    `put` is what is written, deletes too; `deleted` tells of each delete whether the key was there.
    """

    def __init__(self, draft: Draft) -> None:
        self._ = draft.parts
        self._draft = draft
        self._keys: dict[str, tuple[int, KeyState | None]] = {}
        self.put: list[tuple[str, KeyState, Write]] = []
        self.deleted: list[bool] = []

    async def load(self) -> None:
        """Find out what the keys hold; what is over is ended first. Raises Outdated."""
        keys, commit = self._.keys, self._draft.commit
        wanted = dict.fromkeys(
            [one.key for one in commit.checks] + [one.key for one in commit.puts] + [one.key for one in commit.deletes]
        )
        unknown = [key for key in wanted if self._draft.fresh or keys.known(key) is None]
        for found in await self._draft.read_all([self._.subjects.key(key) for key in unknown]):
            key, state = keys.found(found)
            self._keys[key] = (found.seq, state)
        for key in wanted:
            if key not in self._keys:
                known = None if key in unknown else keys.known(key)
                self._keys[key] = (0, None) if known is None else known
        for key, (seq, state) in list(self._keys.items()):
            if state is not None and state.kind == LIVE and keys.is_over(state):
                try:
                    await keys.end(key, seq)  # watchers see its end before anything else becomes of it
                except AccessDeniedError:  # whoever may write it does that
                    self._keys[key] = seq, replace(state, kind=EXPIRED)
                    continue
                known = keys.known(key)
                if known is None or known[1].kind == LIVE:
                    raise Outdated
                self._keys[key] = known

    def _live(self, key: str) -> tuple[int, KeyState | None]:
        seq, state = self._keys[key]
        return seq, state if state is not None and state.kind == LIVE else None

    def judge_checks(self) -> None:
        """Hold the checks against what is known. Raises CheckFailed, Outdated."""
        for check in self._draft.commit.checks:
            seq, state = self._live(check.key)
            try:
                check.judge(None if state is None else state.record(check.key, seq))
            except CheckFailed:
                if not self._draft.fresh:
                    raise Outdated from None
                raise

    def plan(self) -> None:
        """Plan the puts and deletes, and that what they rely on is looked at."""
        keys, subjects, commit = self._.keys, self._.subjects, self._draft.commit
        for put in commit.puts:
            self._write(put.key, keys.put_state(put, *self._keys[put.key], self._draft.op))
        for delete in commit.deletes:
            seq, old = self._live(delete.key)
            self.deleted.append(old is not None)
            if old is not None:
                self._write(delete.key, keys.gone_state(seq, old, self._draft.op))
            else:
                self._draft.checks[subjects.key(delete.key)] = seq
        written = {key for key, _, _ in self.put}
        for check in commit.checks:
            if check.key not in written:
                self._draft.checks[subjects.key(check.key)] = self._keys[check.key][0]

    def _write(self, key: str, state: KeyState) -> None:
        write = self._.keys.write_of(key, state)
        self.put.append((key, state, write))
        self._draft.writes.append(write)
