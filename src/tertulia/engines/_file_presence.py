"""Who is there: the tables in which processes find each other. Each function is part of a transaction."""

from __future__ import annotations

from tertulia.engines._file_format import Execute
from tertulia.engines._file_session import Session

CONSUMERS = (
    "SELECT b.instance, b.path FROM bells b WHERE b.instance != ? AND b.path != '' AND b.instance IN"
    " (SELECT instance FROM listeners WHERE name = ? UNION SELECT instance FROM interests WHERE topic = ?)"
)


def all_bells(execute: Execute) -> list[tuple[str, str]]:
    """Return the instances that are written down, with the paths of their bells."""
    return execute("SELECT instance, path FROM bells").fetchall()


def join(session: Session, bell: tuple[str, str, int, float], topics: dict[str, float], names: tuple[str, ...]) -> None:
    """Write down an instance's bell, what it is interested in (with its lease, for a mailbox), what it listens to."""
    session.execute("INSERT OR REPLACE INTO bells(instance, path, pid, since) VALUES(?, ?, ?, ?)", bell)
    for topic, lease in topics.items():
        values = (topic, bell[0], lease)
        session.execute("INSERT OR REPLACE INTO interests(topic, instance, lease) VALUES(?, ?, ?)", values)
    for name in names:
        session.execute("INSERT OR REPLACE INTO listeners(name, instance) VALUES(?, ?)", (name, bell[0]))
    session.bells += 1


def stop_listening(session: Session, name: str) -> None:
    """Take a listener's mailbox away, with what is in it."""
    session.execute("DELETE FROM listeners WHERE name = ? AND instance = ?", (name, session.instance))
    session.execute("DELETE FROM letters WHERE name = ? AND instance = ?", (name, session.instance))
    session.bells += 1


def leave(session: Session, instance: str) -> None:
    """Take an instance out, with its private mailboxes."""
    for table in ("bells", "interests", "listeners", "letters"):
        session.execute(f"DELETE FROM {table} WHERE instance = ?", (instance,))  # noqa: S608 - names from above
    session.bells += 1
