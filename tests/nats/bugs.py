"""Bugs that the NATS engine might have. Each is planted by a function, whose name says what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tertulia.engines import (
    _nats_commit_mail,
    _nats_keeper,
    _nats_mail,
    _nats_missed,
    _nats_patience,
    _nats_reading,
    _nats_store,
    _nats_watch,
    nats,
)
from tertulia.engines._nats_roll import Roll
from tertulia.errors import EngineUnavailableError, OutcomeUnknownError

Patch = pytest.MonkeyPatch
Bug = Callable[[Patch], None]


def _nothing(*_: Any, **__: Any) -> None: ...


# --- what is acknowledged ---


def writes_are_acknowledged_before_the_server_has_acknowledged_them(patch: Patch) -> None:
    async def publish(
        self: Any, subject: str, data: bytes, headers: dict[str, str] | None, before: Sequence[Any] = ()
    ) -> int:
        for one in (*before, (subject, data, headers)):
            await self.wire.publish(*one)
        return 1_000_000

    patch.setattr(_nats_store.Store, "_publish", publish)


def unknown_outcomes_are_taken_for_failures(patch: Patch) -> None:
    patch.setattr(_nats_patience.Patience, "given_up", lambda self: EngineUnavailableError(self.why))


def unknown_outcomes_are_taken_for_successes(patch: Patch) -> None:
    sound = _nats_store.Store.write

    async def write(self: Any, one: Any) -> int:
        try:
            return await sound(self, one)
        except OutcomeUnknownError:
            return 1_000_000

    patch.setattr(_nats_store.Store, "write", write)


def lost_acknowledgements_are_not_looked_into(patch: Patch) -> None:
    async def stored_after_all(*_: Any) -> None: ...

    patch.setattr(_nats_store.Store, "_stored_after_all", stored_after_all)


def refusals_of_a_leader_that_was_stopped_are_believed(patch: Patch) -> None:
    async def is_final(*_: Any) -> bool:
        return True

    patch.setattr(_nats_store.Store, "_is_final", is_final)


def replicas_that_lag_are_believed(patch: Patch) -> None:
    sound = _nats_reading.Reader._at_once  # noqa: SLF001 - where the bug is

    async def at_once(self: Any, filters: Any, newest: int, patience: Any, *, after: int = 0) -> Any:  # noqa: ARG001 - the shape of the method
        return await sound(self, filters, 0, patience, after=after)

    async def next_by_leader(*_: Any) -> None: ...

    patch.setattr(_nats_reading.Reader, "_at_once", at_once)
    patch.setattr(_nats_reading.Reader, "_next_by_leader", next_by_leader)


def batches_are_written_one_by_one(patch: Patch) -> None:
    async def write_all(self: Any, batch: Any, _: str) -> int:
        return [await self.write(one) for one in batch][-1]

    patch.setattr(_nats_store.Store, "write_all", write_all)


# --- messages ---


def settled_ids_are_forgotten(patch: Patch) -> None:
    patch.setattr(_nats_commit_mail.MailPlan, "_is_remembered", lambda *_: False)


def settling_does_not_look_at_who_was_faster(patch: Patch) -> None:
    sound = _nats_store.Write.headers

    def headers(self: Any) -> dict[str, str] | None:
        if ".mbx." in self.subject:
            self.expected = None
        return sound(self)

    patch.setattr(_nats_store.Write, "headers", headers)


def mailboxes_are_not_looked_at_after_a_reconnect(patch: Patch) -> None:
    patch.setattr(_nats_mail.Mail, "expire", _nothing)


def markers_go_though_no_roll_knows_what_they_say(patch: Patch) -> None:
    async def write_roll(_: Any, __: str, book: Any) -> None:
        book.roll = Roll(book.sure)

    patch.setattr(_nats_keeper.Keeper, "_write_roll", write_roll)


def what_a_server_brought_back_is_left_there(patch: Patch) -> None:
    patch.setattr(_nats_keeper.Keeper, "_bury_soon", _nothing)


# --- watches ---


def watches_do_not_resume(patch: Patch) -> None:
    patch.setattr(nats, "resume_all", _nothing)


def watches_end_when_no_server_answers_for_a_while(patch: Patch) -> None:
    async def catch_up(self: Any) -> None:
        try:
            await self._catch_up()
        except EngineUnavailableError as error:
            self._fail(error)

    patch.setattr(_nats_watch.WatchStream, "_catch_up_logged", catch_up)


def watches_do_not_notice_what_they_missed(patch: Patch) -> None:
    patch.setattr(_nats_missed.Had, "follows", lambda *_: True)
