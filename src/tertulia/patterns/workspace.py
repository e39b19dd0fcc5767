"""A collaborative workspace: who is there, what they share, and how they decide together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar, Unpack

from msgspec import Struct
from msgspec.structs import replace

from tertulia._arguments import check_count, check_seconds
from tertulia._commits import GuardedEngine, GuardFailed
from tertulia._names import check_key, check_name, topic_of
from tertulia.ballots import (
    NO,
    YES,
    Ballot,
    BallotResult,
    BallotState,
    Candidate,
    TermOptions,
)
from tertulia.engines.base import Check, CheckFailed, Commit, Send
from tertulia.errors import NotAMemberError
from tertulia.memory import SharedMemory
from tertulia.messaging.outbox import ROOM_TIMEOUT
from tertulia.patterns._races import MAX_RACES, lost
from tertulia.patterns._workspace_life import WorkspaceLife
from tertulia.patterns._workspace_owner import WorkspaceOwner
from tertulia.patterns.presence import DEFAULT_PRESENCE, Presence
from tertulia.patterns.vote_requests import VoteAnswers, request_votes
from tertulia.patterns.voting import Ballots
from tertulia.records import MemoryEntry, Message, new_id
from tertulia.space import Space
from tertulia.watching import GuardedWatch

T = TypeVar("T")

MAX_QUESTION = 600  # characters of the question that is made of a key: a key has fewer
MAX_VERSION = 2**63 - 1  # what engines count with


class BroadcastReceipt(Struct, frozen=True, kw_only=True):
    """To whom a broadcast went, in the order in which they had joined.

    `without_mailbox`: participants that got nothing since they have none. `dropped`: (agent, message id) of what had
    to go because an owner chose DROP_OLDEST.
    """

    message_id: str
    delivered: tuple[str, ...]
    without_mailbox: tuple[str, ...] = ()
    dropped: tuple[tuple[str, str], ...] = ()


class WorkspaceWatch(GuardedWatch):
    """A watch over shared data that ends with NotAMemberError once its reader is no participant any more."""


class CollaborativeWorkspace:
    """A place in a space where agents work on something together: `CollaborativeWorkspace("report", space)`.

    Its state is in the space: any number of handles and processes may use the same workspace at once, each through an
    object of its own. The first who joins makes it. Its shared data is reached through the workspace only, and by
    its participants only: the agents that are there now. Join in the process of the agent: it is there as long as that
    process and its handle of the space live, and for at most `presence_lease` seconds longer.

    With an `owner`, a workspace that this object makes is open no longer than its owner's process and handle of the
    space live, and for one and a half `presence_lease` longer: whoever looks after that finds it abandoned, which is
    archived by nobody. The first to find the owner missing is patient for half a lease.

    Raises, everywhere: InvalidNameError, InvalidKeyError for bad names; UnknownWorkspaceError when nobody has made
    the workspace, or it was removed; WorkspaceArchivedError for changes after `archive`, and WorkspaceAbandonedError,
    which is one, after the end of its owner; NotAMemberError for what only participants may do; EngineError when the
    engine fails.

    Cancellation: a cancelled read did nothing. A cancelled change either happened or did not.
    """

    def __init__(
        self, workspace_id: str, space: Space, *, presence_lease: float = DEFAULT_PRESENCE, owner: str | None = None
    ) -> None:
        self.workspace_id = check_name(workspace_id)
        self.space = space
        self.topic = topic_of("workspace", workspace_id)
        lease = check_seconds("presence_lease", presence_lease)
        self._life = WorkspaceLife(workspace_id, space.engine, space.clock, lease=lease)
        self._data = f"{self._life.prefix}data:"
        self._presence = Presence(
            space, f"{self._life.prefix}present:", lease=presence_lease, guard=self._may_act, on_tick=self._close_due
        )
        self._owner = None if owner is None else WorkspaceOwner(self._life, space, owner, presence_lease)
        self._ballots = Ballots(
            space,
            f"{self._life.prefix}ballot:",
            data=self._data,
            guard=self._may_act,
            present=self._presence.there,
            over=self._over,
            topic=self.topic,
            about={"workspace": workspace_id},
        )

    # --- members ---

    async def join(self, agent_id: str, *, create: bool = True) -> bool:
        """Be a participant from now on; return whether the agent was none before.

        The first to join makes the workspace, unless `create` is False: then UnknownWorkspaceError. Joining again is
        harmless. Nothing is registered: an agent that wants messages needs a mailbox of its own.
        """
        check_name(agent_id)
        if create and self._owner is not None:
            await self._owner.found()
        elif create:
            await self._life.create(agent_id)
        await self._life.fence()
        return await self._presence.enter(agent_id, puts=(self._life.member_put(agent_id),))

    async def leave(self, agent_id: str) -> None:
        """Be a participant no longer, in all processes that joined as this agent.

        Raises NotAMemberError when the agent was not there, so also for leaving twice.
        """
        check_name(agent_id)
        await self._life.is_archived()
        if not await self._presence.leave(agent_id):
            raise self._not_here(agent_id, "leave")

    async def participants(self) -> list[str]:
        """Return the agents that are really there, in the order in which they came; of an archived workspace, none."""
        return [] if await self._life.is_archived() else await self._presence.there()

    # --- shared data ---

    async def set_shared_data(
        self, key: str, value: object, *, setter: str, expected_version: int | None = None
    ) -> MemoryEntry:
        """Write a value that all participants see; return the entry as stored.

        With `expected_version` only if the key is at that version, 0 meaning that it is not there. Raises
        VersionConflictError, KeyNotFoundError, KeyExistsError when it is elsewhere.
        """
        if expected_version is None:
            return await self._change(setter, "write", lambda data: data.write(key, value, owner=setter))
        if expected_version == 0 and expected_version.__class__ is int:
            return await self._change(setter, "write", lambda data: data.create(key, value, owner=setter))
        check_count("expected_version", expected_version, MAX_VERSION)
        return await self._change(
            setter,
            "write",
            lambda data: data.update(key, value, updater=setter, expected_version=expected_version),
        )

    async def get_shared_data(self, key: str, *, getter: str, default: Any = None, type: Any = None) -> Any:
        """Return a copy of a shared value, or `default` when the key is absent. See SharedMemory.read.

        Of an archived workspace, all who were ever members may read.
        """
        await self._may_read(getter)
        return await self._view().read(key, reader=getter, default=default, type=type)

    async def get_shared_entry(self, key: str, *, getter: str, type: Any = None) -> MemoryEntry | None:
        """Return a shared value with its version and the rest, or None when the key is absent."""
        await self._may_read(getter)
        return await self._view().read_with_metadata(key, reader=getter, type=type)

    async def list_shared_data(self, pattern: str = "*", *, getter: str) -> list[str]:
        """Return the keys of the shared data that match the glob, in order."""
        await self._may_read(getter)
        return await self._view().list_keys(pattern)

    async def delete_shared_data(self, key: str, *, requester: str, expected_version: int | None = None) -> bool:
        """Remove a shared value; return whether it was there. Raises VersionConflictError."""
        return await self._change(
            requester,
            "delete",
            lambda data: data.delete(key, requester=requester, expected_version=expected_version),
        )

    def watch(self, pattern: str = "*", *, getter: str, after: int | None = None) -> WorkspaceWatch:
        """Return a watch over the shared data, for a participant, also while it runs; see SharedMemory.watch."""
        check_name(getter)
        return WorkspaceWatch(self._view().watch(pattern, after=after), lambda: self._may_read(getter))

    # --- messages ---

    async def broadcast(
        self, sender: str, content: object, *, headers: dict[str, str] | None = None, timeout: float = ROOM_TIMEOUT
    ) -> BroadcastReceipt:
        """Send a message to every other participant that has a mailbox: to all of them or, on an error, to none.

        All get the same message id, and the workspace's topic. `timeout` bounds the wait for room where a
        mailbox's owner chose WhenFull.WAIT. Raises MailboxFullError when one is full whose owner chose to reject.
        """
        check_name(sender)
        outbox = self.space.broker.outbox
        message = Message(
            id=new_id(), sender=sender, content=content, sent=outbox.time(), topic=self.topic, headers=headers
        )
        for _ in range(MAX_RACES):
            guards = await self._guards(sender, "broadcast to")
            others = [agent for agent in await self._presence.there() if agent != sender]
            sends = tuple(self._optional(replace(message, receiver=agent)) for agent in others)
            try:
                committed = await outbox.commit(Commit(checks=guards, sends=sends), timeout=timeout)
            except CheckFailed:
                continue
            outbox.log_commit([message])
            sent = dict(zip(others, committed.sent, strict=True))
            return BroadcastReceipt(
                message_id=message.id,
                delivered=tuple(agent for agent, one in sent.items() if one.delivered),
                without_mailbox=tuple(agent for agent, one in sent.items() if not one.delivered),
                dropped=tuple(drop for one in committed.sent for drop in one.dropped),
            )
        raise lost(f"workspace {self.workspace_id!r}")

    def _optional(self, message: Message) -> Send:
        send = self.space.broker.outbox.send_of(message)
        return Send(send.mailbox, send.message_id, send.body, notes=send.notes, optional=True, author=send.author)

    # --- decisions ---

    async def propose_change(
        self,
        proposer: str,
        key: str,
        new_value: object,
        *,
        reason: str = "",
        expected_version: int | None = None,
        proposal_id: str | None = None,
        **terms: Unpack[TermOptions],
    ) -> Ballot:
        """Ask the participants whether a shared value shall become `new_value`; return the open ballot.

        It is a question, answered by "yes" or "no", whose terms are pinned now; see TermOptions. Without an
        `electorate` it is all who are participants now, the proposer too. If it passes, the value is written in the
        commit that closes the ballot, provided that the key is still at the version that it has now; otherwise
        the result is PASSED all the same, `applied` is False, and `superseded` says which version is there.

        With `expected_version` the key must be at that version now, 0 meaning absent: VersionConflictError. Raises
        what Ballots.open raises.
        """
        check_key(key)
        options = (Candidate(name=YES, key=key, value=new_value, version=expected_version), NO)
        question = f"change {key}"[:MAX_QUESTION]
        return await self.open_ballot(proposer, question, options, reason=reason, proposal_id=proposal_id, **terms)

    async def open_ballot(
        self,
        proposer: str,
        question: str,
        options: Sequence[str | Candidate] = (YES, NO),
        *,
        reason: str = "",
        proposal_id: str | None = None,
        **terms: Unpack[TermOptions],
    ) -> Ballot:
        """Put a question, or a choice between several options, to the participants; see Ballots.open.

        A Candidate stands for a shared value at its version, or for a value that a key is set to if it wins.
        """
        if "electorate" not in terms:
            await self._life.fence()
            terms["electorate"] = await self.participants()
        return await self._ballots.open(proposer, question, options, reason=reason, ballot_id=proposal_id, **terms)

    async def vote(self, voter: str, proposal_id: str, choice: object, *, reason: str = "") -> Ballot:
        """Cast a participant's vote, or change it; return the ballot, closed if this decided it. See Ballots.vote."""
        return await self._ballots.vote(voter, proposal_id, choice, reason=reason)

    async def request_votes(
        self, asker: str, proposal_id: str, *, voters: Iterable[str] | None = None, timeout: float | None = None
    ) -> VoteAnswers:
        """Ask voters by message and cast what they reply; return what came of it.

        Each voter, by default all but the asker who have not voted, gets a request of type "vote_request" with the
        ballot, question, reason, options, candidates and deadline. Its reply is the vote: a choice, or a dict with
        "choice" and "reason". Ends when all have answered, after `timeout` seconds, or when the ballot is closed.
        Who does not answer, or with what is no vote, is named in `failed`; asking again is harmless.
        """
        await self._life.is_archived()
        return await request_votes(
            self.space,
            self._ballots,
            asker,
            proposal_id,
            voters=voters,
            timeout=timeout,
            about={"workspace": self.workspace_id},
        )

    async def proposal(self, proposal_id: str) -> Ballot:
        """Return a ballot as it is now; a sealed one shows its votes once it is closed."""
        await self._life.is_archived()
        return await self._ballots.get(proposal_id)

    async def proposals(self, *, state: BallotState | str | None = None) -> list[Ballot]:
        """Return the ballots, or those that are "open" or "closed", in the order of their opening."""
        await self._life.is_archived()
        return await self._ballots.proposals(state=state)

    async def history(self, *, limit: int = 100) -> list[Ballot]:
        """Return the ballots that were closed last, with results, votes, reasons and dissent; the latest comes last."""
        await self._life.is_archived()
        return await self._ballots.history(limit=limit)

    async def result(self, proposal_id: str) -> BallotResult | None:
        """Return a ballot's result, or None while it is open."""
        return (await self.proposal(proposal_id)).result

    async def wait(self, proposal_id: str, *, timeout: float | None = None) -> BallotResult | None:
        """Wait until a ballot is closed, at its deadline at the latest; return None if it is open after `timeout` s."""
        await self._life.is_archived()
        return await self._ballots.wait(proposal_id, timeout=timeout)

    # --- the end ---

    async def archive(self, requester: str) -> bool:
        """Let nothing change any more; return whether it was open. All who were ever members can still read.

        Nothing is decided from then on: open ballots end as EXPIRED. Anybody who has ever been a member may do this, so
        that one survivor of a crash can.
        """
        await self._check_was_member(requester, "archive")
        archived = await self._life.archive(requester)
        await self._ballots.close_due()
        return archived

    async def remove(self, requester: str) -> None:
        """Remove the workspace with everything in it, archived or not. Whoever joins next makes a new one.

        Anybody who has ever been a member may do this. When the process dies half-way nothing of the workspace can be
        reached any more, and the next who joins or removes completes it.
        """
        try:
            await self._check_was_member(requester, "remove")
            await self._life.remove(requester)
        finally:
            if self._owner is not None:
                await self._owner.end(requester)

    # --- inside ---

    async def _may_act(self, agent_id: str | None = None) -> tuple[Check, ...]:
        """Return the checks under which an agent may take part in decisions, or without one anything may happen."""
        return await self._life.fence() if agent_id is None else await self._guards(agent_id, "decide in")

    async def _over(self) -> str | None:
        return await self._life.why_closed()

    async def _close_due(self) -> None:
        await self._ballots.close_due()

    async def _guards(self, agent_id: str, operation: str) -> tuple[Check, ...]:
        """Return what must still hold when a participant's change is committed."""
        fence = await self._life.fence()
        there = await self._presence.check_of(agent_id)
        if there is None:
            raise self._not_here(agent_id, operation)
        return *fence, there

    async def _may_read(self, agent_id: str) -> None:
        if await self._life.is_archived():
            await self._life.check_was_member(check_name(agent_id), "read")
        elif not await self._presence.is_there(agent_id):
            raise self._not_here(agent_id, "read")

    async def _check_was_member(self, agent_id: str, operation: str) -> None:
        check_name(agent_id)
        await self._life.is_archived()  # raises where there is no such workspace
        await self._life.check_was_member(agent_id, operation)

    def _not_here(self, agent_id: str, operation: str) -> NotAMemberError:
        return NotAMemberError(agent_id, operation, self.workspace_id, "it is not there")

    async def _change(self, agent_id: str, operation: str, call: Callable[[SharedMemory], Awaitable[T]]) -> T:
        """Make a call on the shared data for a participant; again, if its presence or the workspace has changed."""
        check_name(agent_id)
        for _ in range(MAX_RACES):
            guarded = GuardedEngine(self.space.engine, await self._guards(agent_id, operation))
            try:
                return await call(self._view(guarded))
            except GuardFailed:
                continue
        raise lost(f"workspace {self.workspace_id!r}")

    def _view(self, engine: Any = None) -> SharedMemory:
        space = self.space
        return SharedMemory(engine or space.engine, space.clock, space.background, prefix=self._data)
