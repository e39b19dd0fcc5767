"""Bugs that the file engine might have. Each is planted by a function, whose name says what is wrong."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from tertulia.engines import (
    _file_bell,
    _file_format,
    _file_hub,
    _file_known,
    _file_lock,
    _file_mail,
    _file_open,
    _file_reads,
    _file_records,
    _file_session,
    _file_watch,
    _file_work,
    _file_writer,
)

Patch = pytest.MonkeyPatch
Bug = Callable[[Patch], None]


def _nothing(*_: Any, **__: Any) -> None: ...


# --- damage is not noticed ---


def records_are_not_verified(patch: Patch) -> None:
    sound = _file_format.unpack_record

    def trusting(key: str | None, crc: int, meta: bytes, body: bytes | None) -> Any:
        record = sound(key, crc, meta, None)
        record.body = body or b""
        return record

    for module in (_file_records, _file_reads):
        patch.setattr(module, "unpack_record", trusting)


def messages_are_not_verified(patch: Patch) -> None:
    patch.setattr(_file_mail, "is_intact", lambda *_: True)


def metadata_of_messages_is_not_verified(patch: Patch) -> None:
    patch.setattr(_file_mail, "load", lambda row: _file_mail.Message(*row))


def changes_are_not_verified(patch: Patch) -> None:
    patch.setattr(_file_watch, "unpack_change", _unverified_change)


def _unverified_change(revision: int, _kind: int, crc: int, meta: bytes, body: bytes | None) -> Any:
    record = _file_format.unpack_record(None, crc, meta, None)
    record.body = body or b""
    return _file_watch.Change(_file_format.ChangeKind.PUT, record.key, revision, record.updated, record)


# --- writers get in each other's way ---


def the_lock_is_not_taken(patch: Patch) -> None:
    patch.setattr(_file_lock.WriterLock, "try_acquire", lambda _: True)
    patch.setattr(_file_lock.WriterLock, "acquire", _nothing)


def commits_of_others_are_not_noticed(patch: Patch) -> None:
    """A process goes by the counters that it wrote last."""
    load, commit = _file_session.Session.load, _file_session.Session.commit
    names = ("revision", "sequence", "topics", "bells", "log_bytes", "boxes")

    def own_load(self: Any) -> None:
        load(self)
        for name, value in self.__dict__.get("kept", {}).items():
            setattr(self, name, value)

    def own_commit(self: Any) -> Any:
        self.kept = {name: getattr(self, name) for name in names}
        return commit(self)

    patch.setattr(_file_session.Session, "load", own_load)
    patch.setattr(_file_session.Session, "commit", own_commit)


def what_is_known_outlives_commits_of_others(patch: Patch) -> None:
    patch.setattr(_file_known.Known, "clear", _nothing)


def turns_are_not_counted(patch: Patch) -> None:
    patch.setattr(_file_lock.WriterLock, "_begin_turn", _nothing)


def reads_see_the_past(patch: Patch) -> None:
    """A read transaction is left open on the event loop's connection, when it was last written with."""
    sound = _file_session.Session.run

    def run(self: Any, work: Any) -> Any:
        if self.connection.in_transaction:
            self.execute("COMMIT")
        done = sound(self, work)
        self.execute("BEGIN")
        _ = self.execute(_file_format.COUNTERS).get  # it is what fixes the moment
        return done

    patch.setattr(_file_session.Session, "run", run)


def checks_are_not_judged(patch: Patch) -> None:
    patch.setattr(_file_records, "judge", _nothing)


def acknowledgements_come_before_the_commit(patch: Patch) -> None:
    """Now and then a commit is answered, and then does not happen, as when the process dies in between."""
    sound = _file_session.Session.commit
    chance = random.Random(1)  # noqa: S311 - to be repeated, not to be secret

    def commit(self: Any) -> Any:
        if chance.random() < 0.02:
            effects = self.effects
            self.rollback()
            return effects
        return sound(self)

    patch.setattr(_file_session.Session, "commit", commit)


def commits_are_two_transactions(patch: Patch) -> None:
    """What was written stays, though a message of the same commit cannot be sent."""
    sound = _file_work.mail.Sending

    class Sending(sound):
        def __init__(self, session: Any) -> None:
            session.finish()
            session.execute("COMMIT")
            session.execute("BEGIN IMMEDIATE")
            session.load()
            super().__init__(session)

    patch.setattr(_file_work.mail, "Sending", Sending)


def a_failed_write_leaves_traces_in_its_group(patch: Patch) -> None:
    def write_one(self: Any, session: Any, job: Any) -> Any:  # noqa: ARG001 - the shape of the method
        try:
            return job, job[0](session), None
        except Exception as error:  # noqa: BLE001 - as the sound one does
            return job, None, error

    patch.setattr(_file_writer.Writer, "_write_one", write_one)


# --- watches ---


def watches_skip_the_last_of_a_batch(patch: Patch) -> None:
    sound = _file_watch.WatchStream._read  # noqa: SLF001 - where the bug is

    def read(self: Any) -> bool:
        before = len(self._buffer)
        found = sound(self)
        if len(self._buffer) - before > 1:
            self._buffer.pop()
        return found

    patch.setattr(_file_watch.WatchStream, "_read", read)


def watches_do_not_notice_that_changes_are_gone(patch: Patch) -> None:
    patch.setattr(_file_watch.WatchStream, "check_start", _nothing)
    sound = _file_watch.WatchStream._read  # noqa: SLF001 - where the bug is

    def read(self: Any) -> bool:
        oldest = self._execute("SELECT min(revision) FROM changes").get
        if oldest is not None:
            self._cursor = max(self._cursor, oldest - 1)
        return sound(self)

    patch.setattr(_file_watch.WatchStream, "_read", read)


def the_log_is_shorter_than_declared(patch: Patch) -> None:
    patch.setattr(_file_session, "HISTORY_CHANGES", 100)


def expiry_is_not_told(patch: Patch) -> None:
    sound = _file_records._mark  # noqa: SLF001 - where the bug is

    def mark(session: Any, key: str, kind: int, now: float) -> None:
        if kind != _file_records._EXPIRE:  # noqa: SLF001
            sound(session, key, kind, now)

    patch.setattr(_file_records, "_mark", mark)


# --- messages ---


def settled_ids_are_forgotten(patch: Patch) -> None:
    patch.setattr(_file_mail, "_remember", _nothing)


def leases_of_the_living_are_ended(patch: Patch) -> None:
    sound = _file_mail.return_due

    def return_all(session: Any, box: Any) -> None:
        for message in _file_mail.browse(session.execute, box.id, -1, None):
            if message.state == _file_mail.LEASED:
                _file_mail.change(session, message, _file_mail.WAITING, 0.0)
        sound(session, box)

    patch.setattr(_file_mail, "return_due", return_all)


def leases_never_end(patch: Patch) -> None:
    sound = _file_mail.look

    def look(execute: Any, name: str) -> Any:
        number, ordered, _, ready = sound(execute, name)
        return number, ordered, None, ready

    patch.setattr(_file_mail, "return_due", _nothing)
    for module in (_file_mail, _file_hub):
        patch.setattr(module, "look", look)


def stale_attempts_keep_their_rights(patch: Patch) -> None:
    """Attempts are not told apart, so whoever held a message once may extend and release it for ever."""
    sound = _file_mail.leased

    def leased(session: Any, claimed: Any) -> Any:
        found = session.execute("SELECT attempt FROM messages WHERE sequence = ?", (claimed.sequence,)).get
        return sound(
            session, _file_mail.Claimed(claimed.mailbox, claimed.message_id, b"", claimed.sequence, found or 0)
        )

    patch.setattr(_file_mail, "leased", leased)


def settling_leaves_the_mailbox_full(patch: Patch) -> None:
    sound = _file_mail.settle

    def settle(session: Any, what: Any) -> None:
        sound(session, what)
        session.execute("UPDATE boxes SET size = size + 1 WHERE name = ?", (what.mailbox,))

    patch.setattr(_file_mail, "settle", settle)


def ordered_mailboxes_are_not(patch: Patch) -> None:
    for module in (_file_mail, _file_hub):
        patch.setattr(module, "is_held_back", lambda *_: False)


def who_waits_for_room_is_not_told(patch: Patch) -> None:
    patch.setattr(_file_session.Session, "roomier", _nothing)


def a_cancelled_claim_keeps_its_message(patch: Patch) -> None:
    patch.setattr(_file_hub.Hub, "unclaim", _nothing)


def leases_outlive_the_machine(patch: Patch) -> None:
    patch.setattr(_file_open, "_carry_over", _nothing)


# --- processes do not find each other ---


def nobody_rings_and_nobody_looks(patch: Patch) -> None:
    patch.setattr(_file_bell.Bell, "ring", lambda *_: _file_bell.Rung.YES)
    patch.setattr(_file_hub.Hub, "_on_poll", _nothing)


def letters_to_other_processes_are_lost(patch: Patch) -> None:
    sound = _file_mail.hand_to_listener

    def hand(session: Any, send: Any) -> bool:
        session.execute("SAVEPOINT letter")
        effects = session.effects.copy()
        handed = sound(session, send)
        if session.effects.letters == effects.letters:  # it is for another process
            session.execute("ROLLBACK TO letter")
            session.effects = effects
        session.execute("RELEASE letter")
        return handed

    patch.setattr(_file_mail, "hand_to_listener", hand)


def the_living_are_taken_for_dead(patch: Patch) -> None:
    """A bell that has been rung, and not heard yet, is taken for one that nobody hears any more."""
    patch.setattr(_file_bell.Bell, "ring", lambda *_: _file_bell.Rung.GONE)


def topics_of_other_processes_are_not_seen(patch: Patch) -> None:
    def patterns(self: Any) -> Any:
        return self.__dict__.setdefault("first", {}).get("patterns", (-1, {}))

    def keep(self: Any, value: Any) -> None:
        known = self.__dict__.setdefault("first", {})
        if known.get("patterns", (-1,))[0] == -1:
            known["patterns"] = value
        known["patterns"] = (self.topics, known["patterns"][1])

    patch.setattr(_file_session.Session, "patterns", property(patterns, keep), raising=False)


# --- keys ---


def keys_are_told_apart_by_their_checksum_alone(patch: Patch) -> None:
    """Two keys whose checksums are the same lie in one place, and the later one takes it."""

    def find(session: Any, key: str) -> Any:
        place = _file_records.place_of(key)
        row = session.execute("SELECT key, crc, meta, body FROM records WHERE id = ?", (place,)).get
        if row is not None and row[0] != key:
            session.execute("DELETE FROM records WHERE id = ?", (place,))
            row = None
        return place, None if row is None else _file_format.unpack_record(key, row[1], row[2], row[3])

    patch.setattr(_file_records, "_find", find)
