"""Dead letters: messages that were given up, kept with their history until their owner decides."""

from __future__ import annotations

from contextlib import suppress

from tertulia._clock import instant
from tertulia.engines.base import DEAD_LETTERS, Claimed, Commit, MailboxOptions, Send, Settle, Stored
from tertulia.errors import AlreadySettledError, ContentGoneError, DecodeError
from tertulia.messaging import contents
from tertulia.messaging.delivery import message_of
from tertulia.messaging.outbox import Outbox, failures_of
from tertulia.messaging.pointers import has_pointer
from tertulia.records import DeadLetter, Message, WhenFull

MAX_DEAD_LETTERS = 10_000  # per agent: somebody should have looked by then; the oldest go first, and are logged
OPTIONS = MailboxOptions(max_size=MAX_DEAD_LETTERS, when_full=WhenFull.DROP_OLDEST)


async def list_dead_letters(outbox: Outbox, agent_id: str, limit: int, kept: contents.Contents) -> list[DeadLetter]:
    """Return the oldest dead letters of an agent, with the contents that they point at, where those are still there."""
    stored = await outbox.engine.browse(DEAD_LETTERS + agent_id, limit=limit)
    return [_dead_letter(agent_id, item, await _whole(agent_id, item, kept)) for item in stored]


async def redeliver(outbox: Outbox, agent_id: str, message_id: str | None) -> int:
    """Move one dead letter, or all, back to the agent's mailbox, with no failures counted.

    One whose id is in the mailbox again stays: there it would be taken for a duplicate.
    """
    moved = 0
    for item in await _chosen(outbox, agent_id, message_id):
        original = legible(agent_id, item).id
        if any(one.author == item.author for one in await outbox.engine.browse(agent_id, message_id=original)):
            continue
        commit = Commit(
            settles=(_settle_of(item),),
            sends=(Send(agent_id, original, item.body, notes=item.notes, author=item.author),),
        )
        moved += await _try(outbox, commit)
    return moved


async def purge(outbox: Outbox, agent_id: str, message_id: str | None) -> int:
    """Remove one dead letter, or all, for good."""
    gone = 0
    for item in await _chosen(outbox, agent_id, message_id):
        commit = Commit(settles=(_settle_of(item),))
        gone += await _try(outbox, commit, legible(agent_id, item))
    return gone


def _settle_of(item: Stored) -> Settle:
    return Settle(item.mailbox, item.message_id, item.sequence, item.author)


async def _chosen(outbox: Outbox, agent_id: str, message_id: str | None) -> list[Stored]:
    letters = await outbox.engine.browse(DEAD_LETTERS + agent_id, limit=MAX_DEAD_LETTERS)
    return [item for item in letters if message_id is None or legible(agent_id, item).id == message_id]


async def _try(outbox: Outbox, commit: Commit, purged: Message | None = None) -> bool:
    """Commit; return False when somebody else dealt with this letter first. What is purged needs no content more."""
    try:
        if purged is None:
            await outbox.commit(commit)
        else:
            await contents.settle(outbox, purged, commit)
    except AlreadySettledError:
        return False
    return True


async def _whole(agent_id: str, item: Stored, kept: contents.Contents) -> Message:
    message = legible(agent_id, item)
    if has_pointer(message):
        with suppress(ContentGoneError, DecodeError):  # then there is no more to show
            return await kept.fetch(Claimed(agent_id, item.message_id, item.body, notes=item.notes), message)
    return message


def _dead_letter(agent_id: str, item: Stored, message: Message) -> DeadLetter:
    history = failures_of(item.notes)
    last = history[-1] if history else None
    return DeadLetter(
        agent_id=agent_id,
        message=message,
        reason="" if last is None else last.reason,
        error="" if last is None else last.error,
        at=instant(item.stored_at),
        history=history,
    )


def legible(agent_id: str, item: Stored) -> Message:
    """Return a stored message, or of one that cannot be decoded all that can be read of it."""
    try:
        return message_of(Claimed(agent_id, item.message_id, item.body, notes=item.notes, author=item.author))
    except DecodeError as error:
        message_id = item.message_id.rpartition("#")[0] or item.message_id
        return Message(id=message_id, receiver=agent_id, headers={"undecodable": str(error)})
