"""The tests are tested: every bug that is planted in the NATS engine is found, and none where there is none."""

from __future__ import annotations

import pytest

from tests.file.test_seeded_bugs import name, tells_of_a_bug
from tests.nats import bugs, procedures
from tests.nats.bugs import Bug
from tests.nats.procedures import Procedure

KILLS: tuple[tuple[Bug, Procedure], ...] = (
    (
        bugs.writes_are_acknowledged_before_the_server_has_acknowledged_them,
        procedures.a_server_that_is_killed_while_it_stands_still,
    ),
    (bugs.unknown_outcomes_are_taken_for_failures, procedures.answers_that_never_come),
    (bugs.unknown_outcomes_are_taken_for_successes, procedures.requests_that_never_arrive),
    (bugs.lost_acknowledgements_are_not_looked_into, procedures.answers_that_are_lost),
    (bugs.refusals_of_a_leader_that_was_stopped_are_believed, procedures.a_leader_that_was_stopped),
    (bugs.replicas_that_lag_are_believed, procedures.a_replica_that_lags),
    (bugs.batches_are_written_one_by_one, procedures.commits_that_are_looked_at),
    (bugs.settled_ids_are_forgotten, procedures.repetitions_after_a_reconnect),
    (bugs.settling_does_not_look_at_who_was_faster, procedures.two_who_settle),
    (bugs.mailboxes_are_not_looked_at_after_a_reconnect, procedures.a_message_while_a_consumer_is_away),
    (bugs.markers_go_though_no_roll_knows_what_they_say, procedures.settled_messages_that_a_killed_server_brings_back),
    (bugs.what_a_server_brought_back_is_left_there, procedures.settled_messages_that_a_killed_server_brings_back),
    (bugs.watches_do_not_resume, procedures.changes_while_a_watcher_is_away),
    (bugs.watches_do_not_notice_what_they_missed, procedures.changes_that_are_lost_on_the_way),
    (
        bugs.watches_end_when_no_server_answers_for_a_while,
        procedures.a_server_that_is_away_for_longer_than_a_call_waits,
    ),
)
PROCEDURES = dict.fromkeys(procedure for _, procedure in KILLS)


@pytest.mark.parametrize("procedure", PROCEDURES, ids=name)
async def test_nothing_is_found_in_a_sound_engine(procedure: Procedure):
    await procedure()


@pytest.mark.parametrize(("bug", "procedure"), KILLS, ids=name)
async def test_the_bug_is_found(bug: Bug, procedure: Procedure, monkeypatch: pytest.MonkeyPatch):
    bug(monkeypatch)
    monkeypatch.setattr(procedures, "PATIENCE", 1.5)
    try:
        await procedure()
    except Exception as error:
        if not tells_of_a_bug(error):
            raise
    else:
        pytest.fail("the bug was not found")
