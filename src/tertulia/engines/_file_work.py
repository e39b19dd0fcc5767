"""What the engine's calls do inside a transaction, put together from records and messages."""

from __future__ import annotations

from tertulia.engines import _file_mail as mail
from tertulia.engines import _file_records as records
from tertulia.engines._file_format import Execute, encode, read_notes
from tertulia.engines._file_session import Session
from tertulia.engines._file_time import FileClock
from tertulia.engines.base import Claimed, Commit, Committed, Sent, Stored, stamped
from tertulia.errors import LeaseLostError

STATES = ("waiting", "leased", "delayed")


def commit(session: Session, edit: Commit) -> Committed:
    """Apply all of a commit; whatever raises undoes it."""
    now = session.clock.time()
    for check in edit.checks:
        records.judge(session, check, now)
    for settle in edit.settles:
        mail.settle(session, settle)
    done = tuple([records.put(session, put, now) for put in edit.puts])
    deleted = tuple([records.delete(session, delete.key, now) for delete in edit.deletes])
    sent: tuple[Sent, ...] = ()
    if edit.sends:
        sending = mail.Sending(session)
        sent = tuple([sending.send(send) for send in (stamped(edit.sends, done) if done else edit.sends)])
    return Committed(session.revision, done, deleted, sent)


def extend(session: Session, claimed: Claimed, lease: float) -> None:
    message = mail.leased(session, claimed)
    if message is None:
        raise LeaseLostError(claimed.message_id)
    due = session.clock.now() + lease
    sooner = due < message.due
    mail.change(session, message, mail.LEASED, due)
    if sooner:
        session.claimable(claimed.mailbox)  # who waits has to look sooner than it meant to


def release(session: Session, claimed: Claimed, delay: float, note: bytes, *, counted: bool) -> bool:
    message = mail.leased(session, claimed)
    if message is None:
        return False
    state, due = (mail.DELAYED, session.clock.now() + delay) if delay > 0.0 else (mail.WAITING, 0.0)
    notes = encode((*read_notes(message.notes), note)) if note else None
    mail.change(session, message, state, due, failures=message.failures + counted, notes=notes)
    session.claimable(claimed.mailbox)
    return True


def browse(execute: Execute, mailbox: str, limit: int, message_id: str | None, clock: FileClock) -> list[Stored]:
    box = mail.find_box(execute, mailbox)
    if box is None:
        return []
    now = clock.now()
    shown: list[Stored] = []
    for message in mail.browse(execute, box.id, limit, message_id):
        over = message.state != mail.WAITING and message.due <= now
        failures = message.failures + (over and message.state == mail.LEASED)
        state = "waiting" if over else STATES[message.state]
        shown.append(
            Stored(
                mailbox, message.message_id, mail.body_of(execute, message), message.sequence, state,
                message.attempt, failures, read_notes(message.notes), message.stored_at,
            )
        )  # fmt: skip
    return shown
