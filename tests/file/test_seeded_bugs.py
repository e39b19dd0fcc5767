"""The tests are tested: every bug that is planted in the file engine is found, and none where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tertulia.errors import TertuliaError
from tests.file import bugs, procedures
from tests.file.bugs import Bug
from tests.file.procedures import Procedure

KILLS: tuple[tuple[Bug, Procedure], ...] = (
    (bugs.records_are_not_verified, procedures.damage),
    (bugs.messages_are_not_verified, procedures.damage),
    (bugs.metadata_of_messages_is_not_verified, procedures.damage),
    (bugs.changes_are_not_verified, procedures.damage),
    (bugs.the_lock_is_not_taken, procedures.a_busy_file),
    (bugs.commits_of_others_are_not_noticed, procedures.clients_of_two_processes),
    (bugs.what_is_known_outlives_commits_of_others, procedures.clients_of_two_processes),
    (bugs.turns_are_not_counted, procedures.clients_of_two_processes),
    (bugs.reads_see_the_past, procedures.clients_of_two_processes),
    (bugs.checks_are_not_judged, procedures.clients_of_one_process),
    (bugs.acknowledgements_come_before_the_commit, procedures.clients_of_one_process),
    (bugs.commits_are_two_transactions, procedures.a_commit_that_fails),
    (bugs.a_failed_write_leaves_traces_in_its_group, procedures.concurrent_writes_of_which_some_fail),
    (bugs.watches_skip_the_last_of_a_batch, procedures.watchers),
    (bugs.watches_do_not_notice_that_changes_are_gone, procedures.late_watchers),
    (bugs.the_log_is_shorter_than_declared, procedures.watchers),
    (bugs.expiry_is_not_told, procedures.a_key_that_expires),
    (bugs.settled_ids_are_forgotten, procedures.repetitions_from_two_processes),
    (bugs.leases_of_the_living_are_ended, procedures.a_lease_that_runs_out),
    (bugs.leases_never_end, procedures.a_lease_that_runs_out),
    (bugs.stale_attempts_keep_their_rights, procedures.a_lease_that_runs_out),
    (bugs.settling_leaves_the_mailbox_full, procedures.a_small_mailbox_in_use),
    (bugs.ordered_mailboxes_are_not, procedures.an_ordered_mailbox),
    (bugs.who_waits_for_room_is_not_told, procedures.room_in_one_process),
    (bugs.a_cancelled_claim_keeps_its_message, procedures.cancelled_claims),
    (bugs.leases_outlive_the_machine, procedures.another_boot),
    (bugs.nobody_rings_and_nobody_looks, procedures.news_from_another_process),
    (bugs.letters_to_other_processes_are_lost, procedures.requests_between_processes),
    (bugs.the_living_are_taken_for_dead, procedures.requests_between_processes),
    (bugs.topics_of_other_processes_are_not_seen, procedures.topics_of_two_processes),
    (bugs.keys_are_told_apart_by_their_checksum_alone, procedures.keys_with_one_checksum),
)
PROCEDURES = dict.fromkeys(procedure for _, procedure in KILLS)


def name(function: object) -> str:
    return getattr(function, "__name__", "").replace("_", " ")


@pytest.mark.parametrize("procedure", PROCEDURES, ids=name)
async def test_nothing_is_found_in_a_sound_engine(procedure: Procedure, tmp_path: Path):
    await procedure(tmp_path)


@pytest.mark.parametrize(("bug", "procedure"), KILLS, ids=name)
async def test_the_bug_is_found(bug: Bug, procedure: Procedure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bug(monkeypatch)
    monkeypatch.setattr(procedures, "PATIENCE", 1.0)
    try:
        await procedure(tmp_path)
    except Exception as error:
        if not tells_of_a_bug(error):
            raise
    else:
        pytest.fail("the bug was not found")


def tells_of_a_bug(error: Exception) -> bool:
    """Tell whether a procedure found something, rather than being broken itself."""
    if isinstance(error, ExceptionGroup):
        return all(tells_of_a_bug(one) for one in error.exceptions)
    return isinstance(error, AssertionError | TimeoutError | TertuliaError)
