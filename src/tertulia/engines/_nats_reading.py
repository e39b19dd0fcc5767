"""Reading a space's stream: from its leader, or from whichever replica is known to have come far enough.

Everything is tried again while no server answers, for as long as the settings say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from tertulia.engines._nats_client import STATUS
from tertulia.engines._nats_patience import ATTEMPT, Patience, Unanswered
from tertulia.engines._nats_stream import (
    NO_STREAM,
    NOT_FOUND,
    Found,
    StreamInfo,
    check_nothing,
    decode_got,
    decode_info,
    encode_request,
    failure_of,
    found_in,
)
from tertulia.engines._nats_subjects import Subjects
from tertulia.engines._nats_subscription import Handler, Subscription
from tertulia.engines._nats_url import Settings
from tertulia.engines._nats_wire import Wire
from tertulia.errors import EngineUnavailableError, OutcomeUnknownError

PAGE = 1_000  # messages read at once where there are more
PAGE_BYTES = 4 * 2**20  # and their bytes: a server cuts off clients with 64 MiB to read
PAUSE = 0.05  # seconds between two tries of a call that got no answer; an election takes many of them
STALE = 100  # such tries for which a leader may have less than is known: five seconds; then servers have lost something
SINGLY = 100  # messages read from the leader, one at a time, until a replica is asked again for all that there are
CHASED = 20  # messages read behind those who write all the time: more than is stored while a replica answers


class Lagging(Unanswered):
    """A replica has answered that has not come as far as it has to."""

    def __init__(self) -> None:
        super().__init__("a replica of the stream lags behind", sent=False)


class Reader:
    """The stream of a space, to be read."""

    def __init__(self, wire: Wire, subjects: Subjects, settings: Settings) -> None:
        self.wire = wire
        self.subjects = subjects
        self.single = False  # one replica, which answers every read itself
        self.reached = 0  # a sequence that the stream has certainly reached
        self._timeout = settings.timeout
        self._stream = subjects.stream
        self._eventual = settings.consistency == "eventual"
        self._direct = f"$JS.API.DIRECT.GET.{self._stream}"

    @property
    def exact(self) -> bool:
        """Whether `after` and `many` return all that there is at a moment, whichever replicas answer."""
        return True

    async def get(self, subject: str, *, now: bool = True, patience: Patience | None = None) -> Found | None:
        """Return what a subject holds. Without `now` a replica may answer that has not heard of the last writes."""
        patience = patience or Patience(self._timeout)
        while True:
            try:
                if self.single or (self._eventual and not now):
                    return await self._get_directly(subject, patience)
                return await self._get_from_leader({"last_by_subj": subject})
            except Unanswered as lost:
                await self._retry_read(patience, lost)

    async def _get_directly(self, subject: str, patience: Patience) -> Found | None:
        answer = await self.wire.call(f"{self._direct}.{subject}", timeout=self._time_for(patience))
        headers: dict[str, str] = answer.headers or {}
        if STATUS in headers:
            return check_nothing(headers)
        found = found_in(answer)
        self.reached = max(self.reached, found.seq)
        return found

    async def _get_from_leader(self, request: dict[str, Any], stream: str = "") -> Found | None:
        subject = f"$JS.API.STREAM.MSG.GET.{stream or self._stream}"
        answer = await self.wire.call(subject, encode_request(request))
        got = decode_got(answer.data)
        if got.message is not None:
            if not stream:
                self.reached = max(self.reached, got.message.seq)
            return Found(got.message.subject, got.message.seq, got.message.data)
        if got.error is not None and got.error.err_code == NOT_FOUND:
            return None
        raise failure_of(got.error)

    async def last_sequence(self) -> int:
        """Return the stream's last sequence, by its leader.

        With several replicas a server that was stopped may answer for a moment as if it still led: then it has less
        than this handle knows to be stored, and is asked again.
        """
        known = self.reached
        last = (await self.info()).state.last_seq
        for _ in range(0 if self.single else STALE):
            if last >= known:
                return last
            await asyncio.sleep(PAUSE)
            last = (await self.info()).state.last_seq
        if self.reached == known > last:
            self.reached = last
        return last

    async def info(self, stream: str = "") -> StreamInfo:
        """Return what the server tells of a stream; `error` is set where there is none."""
        patience = Patience(self._timeout)
        while True:
            try:
                info = decode_info((await self.api(f"STREAM.INFO.{stream or self._stream}")).data)
                if info.error is None or info.error.err_code == NO_STREAM:
                    return info
                raise failure_of(info.error)
            except Unanswered as lost:
                await self._retry_read(patience, lost)

    async def api(self, name: str, request: dict[str, Any] | None = None) -> Any:
        """Return the answer to a call of the server's interface. Raises Unanswered."""
        return await self.wire.call(f"$JS.API.{name}", b"" if request is None else encode_request(request))

    async def many(self, filters: Sequence[str], *, patience: Patience | None = None) -> tuple[list[Found], int]:
        """Return what all subjects that match hold at one moment, and a sequence that it is the state of."""
        patience = patience or Patience(self._timeout)
        newest = 0 if self.single else await self.last_sequence()
        while True:
            try:
                found = await self._at_once(filters, newest, patience)
                if found is None:
                    return await self._in_pages(filters)
                if self.single or len(filters) > 1 or await self._next_by_leader(found[1], filters[0]) is None:
                    return found
                states = {one.subject: one for one in [*found[0], *await self.after(found[1], filters[0])]}
                return list(states.values()), max([found[1], *(one.seq for one in states.values())])
            except Unanswered as lost:
                await self._retry_read(patience, lost)

    async def _at_once(
        self, filters: Sequence[str], newest: int, patience: Patience, *, after: int = 0
    ) -> tuple[list[Found], int] | None:
        """Return what they hold that was stored after a sequence, and the sequence that this is the state of.

        None where that is too much for one answer. The check subject is always there, and so is an answer. Raises
        Unanswered where whoever answers has not come as far as `newest`.
        """
        request: dict[str, Any] = {"multi_last": [*filters, self.subjects.check], "max_bytes": PAGE_BYTES}
        if after:
            request["seq"] = after + 1
        answers = await self._collect(self._direct, request, patience)
        end = answers.pop().headers
        if end[STATUS] == "413" or end.get("Nats-Num-Pending", "0") != "0":
            return None
        if end[STATUS] != "204":
            check_nothing(end)
            raise Unanswered("a replica of the stream has nothing yet", sent=False)
        upto = int(end.get("Nats-UpTo-Sequence", 0))
        if upto < newest:
            raise Lagging
        return [found_in(answer) for answer in answers if answer.headers["Nats-Subject"] != self.subjects.check], upto

    async def _in_pages(self, filters: Sequence[str]) -> tuple[list[Found], int]:
        """Read everything in the order of sequences until nothing is left.

        What is overwritten while this reads comes again under a later sequence, so at the end every subject's state is
        known as it was at that moment.
        """
        states: dict[str, Found] = {}
        upto = 0
        for one in filters:
            for found in await self.after(0, one):
                states[found.subject] = found
                upto = max(upto, found.seq)
        return list(states.values()), upto

    async def after(self, sequence: int, one: str, *, reach: int = 0, stream: str = "") -> list[Found]:
        """Return all that is stored after a sequence under subjects that match, in that order, to the very end.

        With several replicas that is the end as the leader knows it when this begins, or at least as far as `reach`: a
        leader that is new, or does not know that it no longer is one, may have less than was acknowledged. `stream`:
        another one, of which it is enough what any replica has.
        """
        patience = Patience(self._timeout)
        found: list[Found] = []
        more = True
        while more and (self.single or stream):
            try:
                page, more = await self._page(sequence, one, stream or self._stream, patience)
            except Unanswered as lost:
                await self._retry_read(patience, lost)
            else:
                found += page
                sequence = page[-1].seq if page else sequence
                patience = Patience(self._timeout)
        return found if self.single or stream else await self._after_by_replicas(sequence, one, reach)

    async def _after_by_replicas(self, sequence: int, one: str, reach: int) -> list[Found]:
        """The same where each request may be answered by another replica, which has come more or less far.

        Nor does a replica that catches up have all that the stream held where it has come to: what was written over
        since is left out for it, so until it has come to what replaced that it has neither. The leader has, and so all
        has been read once the leader has nothing later. Who writes all the time is chased for a while, not for ever.
        Where a replica lags, the leader is read alone, one message at a time.
        """
        patience = Patience(self._timeout)
        found: list[Found] = []
        more, singly = False, 0
        reach = reach or await self.last_sequence()
        while True:
            try:
                if not singly:
                    tail = None if more else await self._at_once((one,), max(reach, sequence), patience, after=sequence)
                    if tail is None:
                        more = False
                        page, more = await self._some(sequence, one, patience)
                        found += page
                        sequence = page[-1].seq
                        patience = Patience(self._timeout)
                        if more:
                            continue
                    else:
                        found += tail[0]
                        sequence = tail[1]
                    singly = CHASED if sequence >= reach else SINGLY
                last = await self._next_by_leader(sequence, one)
                if last is None or (singly == 1 and sequence >= reach):
                    return found
                found.append(last)
                sequence = last.seq
                singly -= 1
            except Lagging:
                singly = SINGLY
            except Unanswered as lost:
                await self._retry_read(patience, lost)

    async def _some(self, sequence: int, one: str, patience: Patience) -> tuple[list[Found], bool]:
        """Return the next messages, of which there are some, and whether there are more; a replica may answer."""
        page, more = await self._page(sequence, one, self._stream, patience)
        if not page:
            raise Lagging
        return page, more

    async def _next_by_leader(self, sequence: int, one: str) -> Found | None:
        """Return what is stored next after a sequence where subjects match, by a leader that has come so far."""
        found = await self._get_from_leader({"seq": sequence + 1, "next_by_subj": one})
        if found is None and await self.last_sequence() < sequence:
            raise Unanswered("the leader of the stream has not come so far", sent=False)
        return found

    async def first(self, one: str, count: int) -> list[Found]:
        """Return the first messages, by sequence, under subjects that match; a replica may answer."""
        patience = Patience(self._timeout)
        while True:
            try:
                return (await self._page(0, one, self._stream, patience))[0][:count]
            except Unanswered as lost:
                await self._retry_read(patience, lost)

    async def is_older(self, sequence: int, seconds: float, one: str) -> bool:  # noqa: ARG002 - all can be seen here
        """Tell whether what was stored after a sequence, where subjects match, may have been stored so long ago."""
        info = await self.info()
        oldest = datetime.fromisoformat(info.ts) - timedelta(seconds=seconds)
        if datetime.fromisoformat(info.created) > oldest:
            return False
        request = {"start_time": oldest.isoformat(), "batch": 1, "next_by_subj": f"{self.subjects.root}.>"}
        patience = Patience(self._timeout)
        while True:
            try:
                answers = await self._collect(self._direct, request, patience)
            except Unanswered as lost:
                await self._retry_read(patience, lost)
            else:
                return len(answers) == 1 or int(answers[0].headers["Nats-Sequence"]) > sequence + 1

    async def _page(self, sequence: int, one: str, stream: str, patience: Patience) -> tuple[list[Found], bool]:
        """Return the next messages after a sequence, and whether there are more."""
        request = {"seq": sequence + 1, "batch": PAGE, "max_bytes": PAGE_BYTES, "next_by_subj": one}
        answers = await self._collect(f"$JS.API.DIRECT.GET.{stream}", request, patience)
        end = answers.pop().headers
        if end[STATUS] != "204":
            check_nothing(end)
        return [found_in(answer) for answer in answers], end.get("Nats-Num-Pending", "0") != "0"

    async def _collect(self, subject: str, request: dict[str, Any], patience: Patience) -> list[Any]:
        return await self.wire.collect(subject, encode_request(request), timeout=self._time_for(patience))

    def _time_for(self, patience: Patience) -> float:
        """Return how long to wait for an answer: not long where another replica may be asked next."""
        return ATTEMPT if self.single else patience.brief

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> Subscription:
        """Hand the messages of a subject to a handler, from when this returns; also after a reconnect.

        Raises AccessDeniedError, EngineUnavailableError.
        """
        patience = Patience(self._timeout)
        subscription: Subscription | None = None
        while True:
            try:
                if subscription is None:
                    subscription = await self.wire.subscribe(subject, handler, queue=queue)
                await self.wire.flush()
            except Unanswered as lost:
                await self._retry_read(patience, lost)
            else:
                break
        if subscription.denied is not None:
            await subscription.stop()
            raise subscription.denied
        return subscription

    async def _retry_read(self, patience: Patience, lost: Unanswered) -> None:
        try:
            await patience.after(lost, self.wire, PAUSE)
        except OutcomeUnknownError as error:
            raise EngineUnavailableError(f"nothing was read: {patience.why}") from error
