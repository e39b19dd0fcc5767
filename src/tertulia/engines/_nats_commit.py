"""One commit: planned with what this handle knows, carried out by compare-and-set, planned anew where it was wrong.

A plan is a list of writes, each of which states what it takes its subject to be at. One write is one message; several
are one atomic batch, in which members that only check come first. A commit is refused only after everything that it
concerns was read anew: what this handle remembers may be old.
"""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from tertulia.engines._nats_boxes import Box
from tertulia.engines._nats_commit_draft import Draft, Outdated, Parts
from tertulia.engines._nats_commit_keys import KeyPlan
from tertulia.engines._nats_commit_mail import NOBODY, MailPlan
from tertulia.engines._nats_format import GONE, LIVE, Letter, MailState, encode
from tertulia.engines._nats_keeper import KEEP_SETTLED
from tertulia.engines._nats_mailbox import Item
from tertulia.engines._nats_stream import Write, WrongSequence, pause_for
from tertulia.engines.base import Commit, Committed, Publish, Record, Send, Sent
from tertulia.errors import EngineUnavailableError, OutcomeUnknownError, UnknownAgentError

TRIES = 1_000  # times that a commit is tried against others: a minute of them


class Committer:
    """Carries out the commits of one handle."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    async def commit(self, commit: Commit) -> Committed:
        """Apply all of a commit, or nothing of it."""
        if self.parts.live.setting_up:
            await self.parts.live.ready()
        fresh = False
        for attempt in range(1, TRIES + 1):
            plan = _Plan(self, commit, fresh=fresh)
            try:
                await plan.make()
                revision = await plan.carry_out()
            except Outdated:
                fresh = True
            except WrongSequence as wrong:
                fresh = True
                await asyncio.sleep(pause_for(wrong, attempt))
            else:
                return await self._finish(plan, revision)
        raise EngineUnavailableError("what the commit concerns is written by too many others at once")

    async def _finish(self, plan: _Plan, revision: int) -> Committed:
        """Do what follows from what was written. Where that cannot be done, it is not as if nothing had happened."""
        try:
            return await plan.finish(revision)
        except EngineUnavailableError as error:
            raise OutcomeUnknownError(f"it was written, but perhaps not to all whom it concerns: {error}") from error


class _Plan:
    """What a commit is to write. Made and carried out once."""

    def __init__(self, committer: Committer, commit: Commit, *, fresh: bool) -> None:
        self._ = committer.parts
        self._commit = committer.commit
        self.commit = commit
        self.draft = Draft(self._, commit, fresh=fresh)
        self.keys = KeyPlan(self.draft)
        self.mail = MailPlan(self.draft)

    async def make(self) -> None:
        """Judge everything, and gather the writes. Raises what the contract says, or Outdated."""
        commit = self.commit
        if commit.checks or commit.puts or commit.deletes:
            await self.keys.load()
            self.keys.judge_checks()
        if self.draft.fresh and (commit.settles or commit.sends):
            await self.mail.load()
        for settle in commit.settles:
            await self.mail.settle(settle)
        self.keys.plan()
        await self.mail.plan(self.keys.put)

    async def carry_out(self) -> int:
        """Write everything; return the sequence of the last write. Raises WrongSequence."""
        store, subjects = self._.store, self._.subjects
        if not self.draft.writes:
            if self.draft.checks and not self.draft.fresh:
                raise Outdated  # nothing to write is only right if all is as it seems
            return await store.last_sequence()
        if len(self.draft.writes) == 1 and not self.draft.checks:
            return await store.write(self.draft.writes[0])
        written = {one.subject for one in self.draft.writes}
        guards = {subject: seq for subject, seq in self.draft.checks.items() if subject not in written}
        if self.mail.topics:
            guards[subjects.registry] = self._.registry.seq
        for name, box in self.mail.boxes.items():
            if self.mail.growth.get(name, 0) > 0:
                guards[subjects.box(name)] = box.seq
        members = [Write(subjects.check, b"", expected=seq, check=subject) for subject, seq in guards.items()]
        return await store.write_all([*members, *self.draft.writes], self.draft.op)

    async def finish(self, last: int) -> Committed:
        """Take in what was written, and tell whom it concerns; return the outcome."""
        first = last - len(self.draft.writes) + 1
        place = {one.subject: first + number for number, one in enumerate(self.draft.writes)}
        records: list[Record] = []
        for key, state, write in self.keys.put:
            seq = place[write.subject]
            self._.keys.wrote(key, seq, state)
            self._.history.add(key, seq, write.data)
            if state.kind == LIVE:
                records.append(state.record(key, seq))
        for subject, (mailbox, message_id, state, _) in self.mail.planned.items():
            self._learn_mail(mailbox, message_id, state, place[subject])
        for letter in self.mail.letters:
            self._.live.listeners[letter.mailbox].take(replace(letter, sequence=last))
        self._.live.deliver_soon(self.mail.embedded)
        for number, letter, optional in self.mail.lone:
            await self._deliver(number, replace(letter, sequence=last), optional=optional)
        if len(self.draft.writes) == 1 and self.mail.boxes:
            await self._check_boxes(last)
        return Committed(last, tuple(records), tuple(self.keys.deleted), tuple(self.mail.sent))

    def _learn_mail(self, mailbox: str, message_id: str, state: MailState, seq: int) -> None:
        mail = self._.mail
        if (view := mail.known(mailbox)) is not None:
            view.learn(message_id, seq, state)
            view.sent += state.kind == LIVE
        if state.kind == LIVE and state.home:
            self._.live.expect_answer(self._.subjects.message(mailbox, message_id))

    async def _deliver(self, number: int, letter: Letter, *, optional: bool) -> None:
        if await self._.live.deliver(letter):
            return
        if not optional:
            raise UnknownAgentError(letter.mailbox)
        self.mail.sent[number] = NOBODY

    async def _check_boxes(self, last: int) -> None:
        """See that a single message was stored where it should be.

        What changed of mailboxes before it was stored is known by now: the feed comes before the acknowledgement.
        """
        registry = self._.registry
        for name, box in self.mail.boxes.items():
            now = registry.known(name)
            if now is None or now.created != box.created:
                await self._undo(name, box, last)
        if self.mail.topics and registry.seq < last:
            await self._reach_new_subscribers()

    async def _undo(self, name: str, box: Box, last: int) -> None:
        [(_, message_id, state, _)] = [one for one in self.mail.planned.values() if one[0] == name]
        item = Item(message_id, last, last, state)
        gone = MailState(GONE, self.draft.op, last, state.origin, last, self._.mail.time.now(), box=box.created)
        subject = self._.subjects.message(name, item.message_id)
        try:
            await self._.store.write(Write(subject, encode(gone), self.draft.op, last, ttl=KEEP_SETTLED))
        except WrongSequence:
            return  # it went to the heir
        raise UnknownAgentError(name)

    async def _reach_new_subscribers(self) -> None:
        """Store a publication for who subscribed between its planning and its storing."""
        for number, publish in enumerate(self.commit.sends):
            if not isinstance(publish, Publish):
                continue
            for name in await self._.registry.subscribers(publish.topic, fresh=False):
                if name not in self.mail.boxes:
                    send = Send(
                        name,
                        publish.message_id,
                        publish.body,
                        publish.delay,
                        publish.dedupe,
                        publish.notes,
                        optional=True,
                    )
                    more = (await self._commit(Commit(sends=(send,)))).sent[0]
                    sent = self.mail.sent[number]
                    self.mail.sent[number] = Sent(
                        sent.delivered + more.delivered,
                        sent.duplicate and more.duplicate,
                        (*sent.dropped, *more.dropped),
                    )
