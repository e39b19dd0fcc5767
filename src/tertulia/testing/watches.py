"""What watchers saw, held against what was committed.

The promises are those that etcd makes of its watches and checks in its robustness tests
(https://etcd.io/docs/latest/learning/api_guarantees/), in its words:

- ordered: changes come in the order of their revisions;
- unique: no change comes twice;
- reliable: no change in the watched range is left out, unless the gap was announced;
- resumable: a watch that starts after a revision goes on with the very next change.

Besides, each change must have the content that was committed. Every change has a revision of its
own, so revisions name changes, and one pass over each watch is enough.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, final

import msgspec

from tertulia.records import ChangeKind
from tertulia.testing.mailboxes import Flaws, Report

__all__ = ["Change", "Gap", "Watch", "check"]


@final
class Change(msgspec.Struct, frozen=True, tag=True):
    """One edit of a key; `value` is None unless it is a put."""

    revision: int
    key: str
    kind: ChangeKind
    value: Any = None


@final
class Gap(msgspec.Struct, frozen=True, tag=True):
    """The watcher was told that it missed changes up to `through`, or up to its next one."""

    through: int | None = None


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """What one watch received, from its opening to its end.

    A watch that was closed and resumed is two of these. `after` is the revision that it was
    asked to start after; None if it took whatever came next. `until` is a revision that it
    surely reached before it ended; None if it may have ended right after what it saw last.
    """

    name: str
    after: int | None
    events: tuple[Change | Gap, ...]
    pattern: str = "*"
    until: int | None = None


def check(committed: Iterable[Change], watches: Sequence[Watch], *, doubtful: Iterable[Change] = ()) -> Report:
    """Check watches against the whole of what was committed, in whatever order it is given.

    `doubtful` are changes whose commit had an unknown outcome; their `revision` means nothing.
    One that a watch received is taken as committed at the revision it came with.

    Reports committed changes with a "revision reused", and of received changes: "invented",
    "wrong content", "outside the pattern", "duplicated", "out of order", "repeated on resuming"
    (not after the revision asked for), "skipped on resuming" (before the first one received),
    "skipped", and "never arrived" (after the last one received, up to `until`).
    """
    flaws = Flaws()
    history: dict[int, Change] = {}
    for change in committed:
        if history.setdefault(change.revision, change) is not change:
            flaws.add("revision reused", change, "after", history[change.revision])
    _adopt(history, doubtful, watches)
    revisions = {
        pattern: sorted(r for r, change in history.items() if fnmatchcase(change.key, pattern))
        for pattern in {watch.pattern for watch in watches}
    }
    for watch in watches:
        _Reading(watch, history, revisions[watch.pattern], flaws).check()
    received = sum(len(watch.events) for watch in watches)
    return flaws.report(f"{len(history)} changes, {len(watches)} watches, {received} events")


def _adopt(history: dict[int, Change], doubtful: Iterable[Change], watches: Iterable[Watch]) -> None:
    """Take doubtful changes that were received into the history, each at most once."""
    waiting: defaultdict[tuple[str, ChangeKind], list[Change]] = defaultdict(list)
    for change in doubtful:
        waiting[change.key, change.kind].append(change)
    for event in (event for watch in watches for event in watch.events):
        if type(event) is Change and event.revision not in history:
            alike = waiting.get((event.key, event.kind), [])
            found = next((change for change in alike if change.value == event.value), None)
            if found is not None:
                alike.remove(found)
                history[event.revision] = event


class _Reading:
    """One pass over what one watch received."""

    def __init__(self, watch: Watch, history: dict[int, Change], revisions: list[int], flaws: Flaws) -> None:
        self._watch = watch
        self._history = history
        self._revisions = revisions  # of all committed changes that match the pattern
        self._flaws = flaws
        self._seen: set[int] = set()
        self._highest = -1  # revision received
        self._covered = watch.after  # all up to here was received or announced as missed
        self._passed: list[tuple[str, int]] = []  # may still come, out of order

    def check(self) -> None:
        for event in self._watch.events:
            if type(event) is Gap:
                self._forgive(event)
            elif self._is_due(event):
                self._receive(event.revision)
        if self._watch.until is not None:
            self._cover("never arrived", self._watch.until)
        for what, revision in self._passed:
            if revision not in self._seen:
                self._add(what, self._history[revision])

    def _forgive(self, gap: Gap) -> None:
        if gap.through is None:
            self._covered = None
        elif self._covered is not None:
            self._covered = max(self._covered, gap.through)
        else:
            self._covered = gap.through

    def _is_due(self, event: Change) -> bool:
        """Whether the event is one that this watch has to receive now or later."""
        true = self._history.get(event.revision)
        if true is None:
            self._add("invented", event)
        elif not fnmatchcase(true.key, self._watch.pattern):
            self._add("outside the pattern", event)
        elif event.revision in self._seen:
            self._add("duplicated", event)
        elif self._watch.after is not None and event.revision <= self._watch.after:
            self._add("repeated on resuming", event)
        else:
            if event != true:
                self._add("wrong content", event, "instead of", true)
            return True
        return False

    def _receive(self, revision: int) -> None:
        first = not self._seen
        self._seen.add(revision)
        if revision < self._highest:
            self._add("out of order", self._history[revision], "after revision", self._highest)
            return
        self._highest = revision
        self._cover("skipped on resuming" if first else "skipped", revision)

    def _cover(self, what: str, revision: int) -> None:
        """Note which changes up to this revision are missing so far."""
        if self._covered is not None:
            start = bisect_right(self._revisions, self._covered)
            end = bisect_right(self._revisions, revision)
            missing = (r for r in self._revisions[start:end] if r not in self._seen)
            self._passed += ((what, r) for r in missing)
        self._covered = max(revision, self._covered or 0)

    def _add(self, what: str, *example: object) -> None:
        self._flaws.add(what, f"watch {self._watch.name!r}:", *example)
