"""The space's stream on the server: writing to it by compare-and-set, one subject or several at once.

Everything is tried again while the server cannot be reached or has no leader, for as long as the settings say. A write
that lost its acknowledgement is never taken for failed: its subjects are read, and the operation's id tells. Nor is
every refusal taken at its word where there are replicas: a server that was stopped, or cut off, answers for a moment as
if it still led the stream, while the one that does has stored what it refuses.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

from tertulia.engines._nats_doubt import Fate, Verdict, judge, telling
from tertulia.engines._nats_patience import Patience, Unanswered
from tertulia.engines._nats_reading import PAUSE, Reader
from tertulia.engines._nats_stream import BUSY, Write, WrongSequence, decode_ack, failure_of
from tertulia.engines._nats_subjects import Subjects
from tertulia.engines._nats_url import Settings
from tertulia.engines._nats_wire import Unanswerable, Wire
from tertulia.errors import EngineUnavailableError, UnsupportedError

MAX_MEMBERS = 1_000  # of a batch, by the server
OPEN_BATCHES = 8  # of this handle at once: the server takes 50 of all
BEHIND = 3  # times that a refusal by a server that is behind is not believed; then what is relied on has really gone


class Trial:
    """What has come of trying to store something so far. `suspect`: a refusal may have been a stale leader's."""

    __slots__ = ("attempts", "before", "behind", "patience", "suspect")

    def __init__(self, seconds: float, before: int) -> None:
        self.patience = Patience(seconds)
        self.before = before
        self.attempts = 0
        self.behind = 0
        self.suspect = False


class Store(Reader):
    """The stream of a space."""

    def __init__(self, wire: Wire, subjects: Subjects, settings: Settings) -> None:
        super().__init__(wire, subjects, settings)
        self._batches = asyncio.Semaphore(OPEN_BATCHES)

    async def write(self, one: Write) -> int:
        """Store a message; return its sequence.

        Raises WrongSequence; OutcomeUnknownError, EngineUnavailableError.
        """
        return await self._insist((one,), lambda _: self._publish(one.subject, one.data, one.headers()))

    async def write_all(self, batch: Sequence[Write], batch_id: str) -> int:
        """Store all messages, or none; return the last one's sequence. Raises as `write` does."""
        if len(batch) > MAX_MEMBERS:
            raise UnsupportedError(f"a commit on NATS takes at most {MAX_MEMBERS:,} writes; this needs {len(batch):,}")
        async with self._batches:
            return await self._insist(batch, lambda attempt: self._publish_all(batch, f"{batch_id}-{attempt}"))

    async def _insist(self, batch: Sequence[Write], publish: Callable[[int], Awaitable[int]]) -> int:
        """Publish until there is an answer that can be relied upon."""
        trial = Trial(self._timeout, self.reached)
        while True:
            trial.attempts += 1
            try:
                return await publish(trial.attempts)
            except Unanswered as lost:
                await trial.patience.after(lost, self.wire, PAUSE * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            except WrongSequence as wrong:
                if not await self._is_final(wrong, batch, trial):
                    continue
                if (last := await self._stored_after_all(batch, trial)) is not None:
                    return last
                raise

    async def _is_final(self, wrong: WrongSequence, batch: Sequence[Write], trial: Trial) -> bool:
        """Tell whether a refusal stands, or the same is to be tried again after a moment."""
        if wrong.busy and (trial.patience.doubt or not self.single):  # perhaps with an earlier try at this very write
            if trial.patience.left <= 0:
                raise trial.patience.given_up() from wrong
            trial.suspect = True
            await asyncio.sleep(min(BUSY * trial.attempts, PAUSE))
            return False
        if not self.single and trial.behind < BEHIND and _is_behind(wrong, batch):
            trial.behind += 1
            trial.suspect = True
            await asyncio.sleep(PAUSE * trial.behind)
            return False
        return True

    async def _stored_after_all(self, batch: Sequence[Write], trial: Trial) -> int | None:
        """Return the last sequence, if an earlier try was stored, or None if none was.

        Raises OutcomeUnknownError when others have written over what could tell.
        """
        in_doubt = trial.patience.doubt or trial.suspect
        if not in_doubt and (self.single or len(batch) == 1):
            return None
        verdict = await self._verdict(batch, trial)
        if in_doubt and not self.single and verdict.fate is Fate.NOT_STORED:
            await asyncio.sleep(PAUSE)  # and look again: whoever refused it may have answered this, too
            verdict = await self._verdict(batch, trial)
        if verdict.fate is Fate.UNKNOWN and trial.patience.doubt:
            raise trial.patience.given_up()
        return verdict.last or None

    async def _verdict(self, batch: Sequence[Write], trial: Trial) -> Verdict:
        """Find out from what is stored now whether these writes were."""
        patience = trial.patience
        subjects = [one.subject for one in telling(batch)]
        try:
            if len(subjects) == 1:
                one = await self.get(subjects[0], patience=patience)
                found = [] if one is None else [one]
            else:
                found, _ = await self.many(subjects, patience=patience)
        except EngineUnavailableError as error:
            patience.doubt = True
            raise patience.given_up() from error
        return judge(batch, {one.subject: one for one in found}, self.subjects, trial.before)

    async def _publish(
        self, subject: str, data: bytes, headers: dict[str, str] | None, before: Sequence[Unanswerable] = ()
    ) -> int:
        answer = await self.wire.call(subject, data, headers, before=before)
        ack = decode_ack(answer.data)
        if ack.error is None:
            self.reached = max(self.reached, ack.seq)
            return ack.seq
        raise failure_of(ack.error, alone=self.single)

    async def _publish_all(self, batch: Sequence[Write], batch_id: str) -> int:
        """Send the members one after the other, and wait for the last one's acknowledgement alone."""
        await self.wire.wait_up(0.0)
        members: list[Unanswerable] = []
        for number, one in enumerate(batch, start=1):
            headers = {"Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(number), **(one.headers() or {})}
            if number == len(batch):
                headers["Nats-Batch-Commit"] = "1"
            members.append((one.subject, one.data, headers))
        *before, last = members
        return await self._publish(*last, before)


def _is_behind(wrong: WrongSequence, batch: Sequence[Write]) -> bool:
    """Tell whether who refused these writes has not even seen what they rely on."""
    expected = [one.expected for one in batch if one.expected is not None]
    return wrong.last >= 0 and all(one > wrong.last for one in expected)
