import random
from typing import Any

import msgspec
import pytest

from tertulia.records import ChangeKind
from tertulia.testing.watches import Change, Gap, Watch, check


def put(revision: int, key: str = "a", value: Any = None) -> Change:
    return Change(revision, key, ChangeKind.PUT, f"value {revision}" if value is None else value)


HISTORY = [put(revision) for revision in range(1, 11)]


def watch(*events: Change | Gap, after: int | None = 0, until: int | None = None, pattern: str = "*") -> Watch:
    return Watch(name="w", after=after, events=events, until=until, pattern=pattern)


# --- Good watches ---


def random_history(chance: random.Random) -> list[Change]:
    revision = 0
    changes: list[Change] = []
    for _ in range(200):
        revision += chance.choice((1, 1, 3))
        kind = chance.choice(list(ChangeKind))
        key = f"{chance.choice('ab')}:{chance.randrange(3)}"
        changes.append(Change(revision, key, kind, revision if kind is ChangeKind.PUT else None))
    return changes


@pytest.mark.parametrize("seed", range(20))
def test_watches_that_were_cut_and_resumed_anywhere_pass(seed: int):
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    history = random_history(chance)
    watches: list[Watch] = []
    for pattern, prefix in (("*", ""), ("a:*", "a:"), ("b:1", "b:1"), ("[ab]:2", "")):
        due = [c for c in history if c.key.startswith(prefix) and (pattern != "[ab]:2" or c.key.endswith("2"))]
        position, after = 0, 0
        while position < len(due):
            end = position + chance.randrange(1, 30)
            part = tuple(due[position:end])
            watches.append(Watch(name=f"{pattern} {position}", after=after, events=part, pattern=pattern))
            position, after = end, part[-1].revision

    report = check(history, watches)

    assert report.ok, report.describe()


def test_a_watch_may_end_anywhere_unless_it_is_known_how_far_it_came():
    assert check(HISTORY, [watch(*HISTORY[:4])]).ok
    assert check(HISTORY, [watch(*HISTORY[:4], until=4)]).ok
    assert check(HISTORY, [watch(*HISTORY[:4], until=6)]).counts == {"never arrived": 2}


def test_a_watch_that_received_nothing_is_judged_by_how_far_it_came():
    assert check(HISTORY, [watch()]).ok
    assert check(HISTORY, [watch(after=8, until=10)]).counts == {"never arrived": 2}


def test_a_watch_from_now_on_begins_with_whatever_comes_first():
    assert check(HISTORY, [watch(*HISTORY[6:], after=None, until=10)]).ok
    assert check(HISTORY, [watch(HISTORY[6], HISTORY[8], after=None)]).counts == {"skipped": 1}


def test_changes_of_other_keys_are_not_expected():
    history = [put(1, "a"), put(2, "b"), put(3, "a")]

    assert check(history, [watch(history[0], history[2], pattern="a", until=3)]).ok


def test_an_announced_gap_excuses_what_it_covers_and_nothing_more():
    assert check(HISTORY, [watch(*HISTORY[:2], Gap(5), *HISTORY[5:], until=10)]).ok
    assert check(HISTORY, [watch(*HISTORY[:2], Gap(), *HISTORY[7:], until=10)]).ok
    assert check(HISTORY, [watch(Gap(4), *HISTORY[4:], after=None)]).ok
    assert check(HISTORY, [watch(*HISTORY[:2], Gap(4), *HISTORY[5:])]).counts == {"skipped": 1}
    assert check(HISTORY, [watch(*HISTORY[:2], Gap(1), *HISTORY[3:])]).counts == {"skipped": 1}


# --- Seeded bugs ---


def test_a_skipped_change_is_found():
    report = check(HISTORY, [watch(*HISTORY[:3], *HISTORY[4:])])

    assert report.counts == {"skipped": 1}
    assert "watch 'w': Change(revision=4" in report.describe()


def test_a_duplicated_change_is_found():
    assert check(HISTORY, [watch(*HISTORY[:3], HISTORY[2])]).counts == {"duplicated": 1}


def test_changes_out_of_order_are_found_and_are_not_called_skipped_too():
    swapped = [HISTORY[0], HISTORY[2], HISTORY[1], HISTORY[3]]

    assert check(HISTORY, [watch(*swapped)]).counts == {"out of order": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        put(3, "a", "other value"),
        put(3, "b"),
        Change(3, "a", ChangeKind.EXPIRE),
    ],
)
def test_wrong_content_is_found(wrong: Change):
    assert check(HISTORY, [watch(*HISTORY[:2], wrong, HISTORY[3])]).counts == {"wrong content": 1}


def test_an_invented_change_is_found():
    assert check(HISTORY, [watch(*HISTORY, put(11))]).counts == {"invented": 1}


def test_a_change_outside_the_pattern_is_found():
    history = [put(1, "a"), put(2, "b")]

    assert check(history, [watch(*history, pattern="a")]).counts == {"outside the pattern": 1}


def test_a_silent_gap_on_resuming_is_found():
    first = watch(*HISTORY[:4])
    resumed = watch(*HISTORY[5:], after=4)

    assert check(HISTORY, [first, resumed]).counts == {"skipped on resuming": 1}


def test_a_change_repeated_on_resuming_is_found():
    resumed = watch(*HISTORY[3:], after=4)

    assert check(HISTORY, [resumed]).counts == {"repeated on resuming": 1}


def test_a_revision_reused_is_found():
    assert check([*HISTORY, put(10, "b")], []).counts == {"revision reused": 1}


def test_a_dropped_expiry_is_found():
    history = [put(1), Change(2, "a", ChangeKind.EXPIRE), put(3)]

    assert check(history, [watch(history[0], history[2])]).counts == {"skipped": 1}


# --- Commits of unknown outcome ---


def test_a_doubtful_change_may_be_received_or_not():
    doubtful = put(0, value="perhaps")
    received = put(11, value="perhaps")

    assert check(HISTORY, [watch(*HISTORY)], doubtful=[doubtful]).ok
    assert check(HISTORY, [watch(*HISTORY, received)], doubtful=[doubtful]).ok


def test_a_doubtful_change_that_came_twice_is_found():
    doubtful = put(0, value="perhaps")
    received = [put(11, value="perhaps"), put(12, value="perhaps")]

    assert check(HISTORY, [watch(*HISTORY, *received)], doubtful=[doubtful]).counts == {"invented": 1}


def test_a_doubtful_change_that_one_watch_received_is_due_to_all():
    doubtful = put(0, value="perhaps")
    history = [*HISTORY[:5], *HISTORY[6:]]
    with_it = watch(*history[:5], put(6, value="perhaps"), *history[5:])

    report = check(history, [watch(*history), with_it], doubtful=[doubtful])

    assert report.counts == {"skipped": 1}


# --- Across processes ---


def test_watches_can_be_encoded():
    one = watch(HISTORY[0], Gap(3), HISTORY[3], until=4)

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=Watch) == one
