"""Dead letters: messages that were given up, kept with their history until their owner decides."""

from __future__ import annotations

from tertulia._clock import instant
from tertulia.engines.base import DEAD_LETTERS, Claimed, Commit, MailboxOptions, Send, Settle, Stored
from tertulia.errors import AlreadySettledError, DecodeError
from tertulia.messaging.delivery import message_of
from tertulia.messaging.outbox import Outbox, failures_of
from tertulia.records import DeadLetter, Message, WhenFull

MAX_DEAD_LETTERS = 10_000  # per agent: somebody should have looked by then; the oldest go first, and are logged
OPTIONS = MailboxOptions(max_size=MAX_DEAD_LETTERS, when_full=WhenFull.DROP_OLDEST)


async def list_dead_letters(outbox: Outbox, agent_id: str, limit: int) -> list[DeadLetter]:
    """Return the oldest dead letters of an agent."""
    stored = await outbox.engine.browse(DEAD_LETTERS + agent_id, limit=limit)
    return [_dead_letter(agent_id, item) for item in stored]


async def redeliver(outbox: Outbox, agent_id: str, message_id: str | None) -> int:
    """Move one dead letter, or all, back to the agent's mailbox, with no failures counted."""
    moved = 0
    for item in await _chosen(outbox, agent_id, message_id):
        commit = Commit(
            settles=(Settle(item.mailbox, item.message_id, item.sequence),),
            sends=(Send(agent_id, item.message_id, item.body, notes=item.notes),),
        )
        moved += await _try(outbox, commit)
    return moved


async def purge(outbox: Outbox, agent_id: str, message_id: str | None) -> int:
    """Remove one dead letter, or all, for good."""
    gone = 0
    for item in await _chosen(outbox, agent_id, message_id):
        gone += await _try(outbox, Commit(settles=(Settle(item.mailbox, item.message_id, item.sequence),)))
    return gone


async def _chosen(outbox: Outbox, agent_id: str, message_id: str | None) -> list[Stored]:
    mailbox = DEAD_LETTERS + agent_id
    return list(await outbox.engine.browse(mailbox, limit=MAX_DEAD_LETTERS, message_id=message_id))


async def _try(outbox: Outbox, commit: Commit) -> bool:
    """Commit; return False when somebody else dealt with this letter first."""
    try:
        await outbox.commit(commit)
    except AlreadySettledError:
        return False
    return True


def _dead_letter(agent_id: str, item: Stored) -> DeadLetter:
    history = failures_of(item.notes)
    last = history[-1] if history else None
    try:
        message = message_of(Claimed(agent_id, item.message_id, item.body))
    except DecodeError as error:  # what is shown is all that can be read of it
        message = Message(id=item.message_id, receiver=agent_id, content=None, headers={"undecodable": str(error)})
    return DeadLetter(
        agent_id=agent_id,
        message=message,
        reason="" if last is None else last.reason,
        error="" if last is None else last.error,
        at=instant(item.stored_at),
        history=history,
    )
