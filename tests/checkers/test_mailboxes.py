import itertools
import random
from collections import deque

import msgspec
import pytest

from tertulia.testing.mailboxes import Acknowledged, DeadLettered, Delivered, Event, Sent, check


def sent(at: int, message_id: str = "m", *, sequence: int = 1, confirmed: bool = True, producer: str = "p") -> Sent:
    return Sent(at=at, producer=producer, mailbox="box", message_id=message_id, sequence=sequence, confirmed=confirmed)


def delivered(
    at: int, message_id: str = "m", *, consumer: str = "c", attempt: int = 1, since: int | None = None
) -> Delivered:
    return Delivered(at=at, consumer=consumer, mailbox="box", message_id=message_id, attempt=attempt, since=since)


def acknowledged(at: int, message_id: str = "m", *, confirmed: bool = True) -> Acknowledged:
    return Acknowledged(at=at, consumer="c", mailbox="box", message_id=message_id, confirmed=confirmed)


def dead_lettered(at: int, message_id: str = "m", *, confirmed: bool = True) -> DeadLettered:
    return DeadLettered(at=at, mailbox="box", message_id=message_id, confirmed=confirmed)


# --- Runs of a queue without a fault ---


def run_of_a_queue(seed: int, *, messages: int = 300, fails: float = 0.0, doubt: float = 0.0) -> list[Event]:
    """Three producers, two mailboxes, competing consumers; a share of attempts and answers fails."""
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    clock = itertools.count()
    events: list[Event] = []
    boxes: dict[str, deque[tuple[Sent, int]]] = {"a": deque(), "b": deque()}
    numbers = itertools.count()
    while True:
        number = next(numbers)
        if number < messages:
            mailbox = chance.choice("ab")
            lost = chance.random() < doubt
            one = Sent(
                at=next(clock),
                producer=f"p{chance.randrange(3)}",
                mailbox=mailbox,
                message_id=f"m{number}",
                sequence=number,
                confirmed=not lost,
            )
            events.append(one)
            if not lost or chance.random() < 0.5:
                boxes[mailbox].append((one, 1))
        elif not any(boxes.values()):
            return events
        for mailbox, waiting in boxes.items():
            if waiting and chance.random() < 0.6:
                one, attempt = waiting.popleft()
                consumer = f"c{chance.randrange(4)}"
                at = next(clock)
                events.append(
                    Delivered(at=at, consumer=consumer, mailbox=mailbox, message_id=one.message_id, attempt=attempt)
                )
                if chance.random() < fails:
                    if attempt == 3:
                        events.append(DeadLettered(at=next(clock), mailbox=mailbox, message_id=one.message_id))
                    else:
                        waiting.insert(chance.randrange(len(waiting) + 1), (one, attempt + 1))
                    continue
                unsure = chance.random() < doubt
                events.append(
                    Acknowledged(
                        at=next(clock),
                        consumer=consumer,
                        mailbox=mailbox,
                        message_id=one.message_id,
                        confirmed=not unsure,
                    )
                )
                if unsure and chance.random() < 0.5:
                    waiting.appendleft((one, attempt + 1))


@pytest.mark.parametrize("seed", range(10))
def test_a_queue_without_a_fault_passes_every_check(seed: int):
    report = check(run_of_a_queue(seed), ordered=True, once=True)

    assert report.ok, report.describe()
    assert report.checked == "300 messages, 300 deliveries"


@pytest.mark.parametrize("seed", range(10))
def test_retries_dead_letters_and_unknown_outcomes_are_no_reason_for_alarm(seed: int):
    report = check(run_of_a_queue(seed, fails=0.3, doubt=0.1), ordered=True)

    assert report.ok, report.describe()


def test_the_order_in_which_records_are_given_does_not_matter():
    events = run_of_a_queue(1)
    random.Random(1).shuffle(events)  # noqa: S311 - repeatable, not secret

    assert check(events, ordered=True, once=True).ok


# --- Seeded bugs ---


def test_a_lost_message_is_found():
    assert check([sent(1)]).counts == {"lost": 1}


def test_a_message_delivered_but_never_settled_is_lost():
    assert check([sent(1), delivered(2)]).counts == {"lost": 1}


def test_losing_is_allowed_where_nothing_else_was_promised():
    assert check([sent(1), delivered(2), sent(3, "n")], once=True, lossless=False).ok


def test_a_message_whose_sending_is_in_doubt_may_be_missing_or_not():
    doubtful = sent(1, confirmed=False)

    assert check([doubtful]).ok
    assert check([doubtful, delivered(2), acknowledged(3)]).ok


def test_a_sending_recorded_at_its_call_is_confirmed_by_a_later_record():
    assert check([sent(1, confirmed=False), delivered(2), sent(3), acknowledged(4)]).ok
    assert check([sent(1, confirmed=False), sent(3)]).counts == {"lost": 1}


def test_an_invented_message_is_found():
    assert check([delivered(1), acknowledged(2)]).counts == {"invented": 1}


def test_a_message_delivered_before_it_was_sent_is_found():
    assert check([delivered(1), sent(2), acknowledged(3)]).counts == {"delivered before it was sent": 1}


def test_a_message_that_comes_back_after_its_acknowledgement_is_found():
    report = check([sent(1), delivered(2), acknowledged(3), delivered(4, attempt=2)])

    assert report.counts == {"delivered after it was settled": 1}


def test_a_message_claimed_before_the_acknowledgement_may_reach_its_consumer_after_it():
    late = delivered(9, consumer="slow", attempt=2, since=3)

    assert check([sent(1), delivered(2), acknowledged(5), late]).ok


def test_a_message_that_comes_back_as_a_dead_letter_is_found():
    report = check([sent(1), delivered(2), dead_lettered(3), delivered(4, attempt=2)])

    assert report.counts == {"delivered after it was settled": 1}


def test_a_message_acknowledged_twice_is_found():
    report = check([sent(1), delivered(2), delivered(3, attempt=2), acknowledged(4), acknowledged(5)])

    assert report.counts == {"acknowledged twice": 1}


def test_an_acknowledgement_in_doubt_may_be_repeated():
    assert check([sent(1), delivered(2), acknowledged(3, confirmed=False)]).ok
    assert check([sent(1), delivered(2), acknowledged(3, confirmed=False), delivered(4), acknowledged(5)]).ok


def test_a_message_acknowledged_before_anybody_got_it_is_found():
    report = check([sent(1), acknowledged(2), delivered(3)])

    assert report.counts == {"acknowledged without a delivery": 1, "delivered after it was settled": 1}


def test_a_message_acknowledged_and_dead_lettered_is_found():
    report = check([sent(1), delivered(2), acknowledged(3), dead_lettered(4)])

    assert report.counts == {"acknowledged and dead-lettered": 1}


def test_a_message_dead_lettered_twice_is_found():
    report = check([sent(1), delivered(2), dead_lettered(3), dead_lettered(4)])

    assert report.counts == {"dead-lettered twice": 1}


def test_a_message_may_be_dead_lettered_without_a_delivery():
    assert check([sent(1), dead_lettered(2)]).ok


def test_a_second_delivery_is_found_where_one_was_promised():
    twice = [sent(1), delivered(2), delivered(3, attempt=2), acknowledged(4)]

    assert check(twice).ok
    assert check(twice, once=True).counts == {"delivered more than once": 1}


def test_an_overtaken_message_is_found():
    swapped = [
        *(sent(1, "first", sequence=1), sent(2, "second", sequence=2)),
        *(delivered(3, "second"), delivered(4, "first")),
        *(acknowledged(5, "second"), acknowledged(6, "first")),
    ]

    assert check(swapped).ok
    assert check(swapped, ordered=True).counts == {"overtaken": 1}


def test_a_message_whose_sending_is_in_doubt_may_come_at_any_time():
    events = [
        *(sent(1, "first", sequence=1, confirmed=False), sent(2, "second", sequence=2), sent(3, "third", sequence=3)),
        *(delivered(4, "second"), delivered(5, "first"), delivered(6, "third")),
        *(acknowledged(7, "second"), acknowledged(8, "first"), acknowledged(9, "third")),
    ]

    assert check(events, ordered=True).ok
    known = [*events, sent(10, "first", sequence=1)]
    assert check(known, ordered=True).counts == {"overtaken": 1}


def test_messages_of_different_producers_may_overtake_each_other():
    events = [
        *(sent(1, "first", sequence=1), sent(2, "second", sequence=2, producer="q")),
        *(delivered(3, "second"), delivered(4, "first")),
        *(acknowledged(5, "second"), acknowledged(6, "first")),
    ]

    assert check(events, ordered=True).ok


def test_a_retried_message_may_be_overtaken():
    events = [
        *(sent(1, "first", sequence=1), sent(2, "second", sequence=2)),
        *(delivered(3, "first"), delivered(4, "second"), delivered(5, "first", attempt=2)),
        *(acknowledged(6, "second"), acknowledged(7, "first")),
    ]

    assert check(events, ordered=True).ok


def test_competing_consumers_may_tell_of_their_messages_late():
    told_late = [
        *(sent(1, "first", sequence=1), sent(2, "second", sequence=2)),
        *(delivered(5, "second", consumer="b", since=3), acknowledged(6, "second")),
        *(delivered(8, "first", consumer="a", since=4), acknowledged(9, "first")),
    ]
    began_after = [
        delivered(8, "first", consumer="a", since=7) if event.message_id == "first" and event.at == 8 else event
        for event in told_late
    ]

    assert check(told_late, ordered=True).ok
    assert check(began_after, ordered=True).counts == {"overtaken": 1}


@pytest.mark.parametrize("seed", range(10))
def test_one_fault_in_a_long_run_is_the_only_one_found(seed: int):
    events = run_of_a_queue(seed)
    position = next(i for i, e in enumerate(events) if i > 200 + seed and isinstance(e, Acknowledged))
    victim = events[position]

    forgotten = check([*events[:position], *events[position + 1 :]])
    repeated = check([*events, msgspec.structs.replace(victim, at=10_000)])

    assert forgotten.counts == {"lost": 1}
    assert repr(victim.message_id) in forgotten.flaws[0].examples[0]
    assert repeated.counts == {"acknowledged twice": 1}


# --- The report ---


def test_the_report_names_a_few_examples_and_counts_the_rest():
    report = check([sent(i, f"m{i}", sequence=i) for i in range(8)])

    assert report.flaws[0].count == 8
    assert len(report.flaws[0].examples) == 5
    assert "lost: 8\n" in report.describe()
    assert report.describe().endswith("and 3 more")


def test_the_report_of_a_good_run_says_so():
    assert check([]).describe() == "0 messages, 0 deliveries: no flaws"


def test_events_of_several_processes_can_be_encoded_and_joined():
    events = run_of_a_queue(3)
    parts = [msgspec.msgpack.encode(events[::2]), msgspec.msgpack.encode(events[1::2])]

    decoded = itertools.chain.from_iterable(msgspec.msgpack.decode(part, type=list[Event]) for part in parts)

    assert check(decoded, ordered=True, once=True).ok
