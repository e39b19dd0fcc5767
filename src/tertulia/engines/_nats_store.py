"""The space's stream on the server: reading it, and writing to it by compare-and-set, one subject or several at once.

Everything is tried again while the server cannot be reached or has no leader, for as long as the settings say. A write
that lost its acknowledgement is never taken for failed: the subject is read, and the id of the operation in it tells.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct

from tertulia.engines._nats_format import decode_head
from tertulia.engines._nats_subjects import Subjects
from tertulia.engines._nats_url import Settings
from tertulia.engines._nats_wire import DESCRIPTION, STATUS, Handler, Patience, Subscription, Unanswered, Wire
from tertulia.errors import EngineError, EngineUnavailableError, OutcomeUnknownError, UnsupportedError

MAX_MEMBERS = 1_000  # of a batch, by the server
MAX_FOUND = 1_024  # subjects that the server reads at one moment for one request
PAGE = 1_000  # messages read at once where there are more
PAGE_BYTES = 4 * 2**20  # and their bytes: a server cuts off clients with 64 MiB to read
OPEN_BATCHES = 8  # of this handle at once: the server takes 50 of all
PAUSE = 0.05  # seconds between two tries of a call that got no answer; an election takes longer than a few of them
BUSY = 0.002  # seconds, about, until a write in flight beside this one is over

_WRONG_SEQUENCE, _IN_FLIGHT = 10071, 10164
_TRY_AGAIN = (10210, 10176, 10008, 10023)  # too many open batches, a batch that lost a member, no leader, no resources
_NOT_FOUND, _NO_STREAM = 10037, 10059
_LAST = re.compile(r"wrong last sequence: (\d+)")


class Found(Struct, gc=False):
    """A stored message."""

    subject: str
    seq: int
    data: bytes


class Write(Struct, gc=False):
    """One message to be stored. `expected`: the sequence that its subject must be at, 0 for none, None for any.

    With `check` the message only carries that expectation for this other subject. `ttl`: whole seconds until the server
    removes it.
    """

    subject: str
    data: bytes
    op: str = ""
    expected: int | None = None
    check: str = ""
    ttl: int = 0

    def headers(self) -> dict[str, str] | None:
        """Return the headers that say so."""
        if self.expected is None and not self.ttl:
            return None
        headers: dict[str, str] = {}
        if self.expected is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(self.expected)
        if self.check:
            headers["Nats-Expected-Last-Subject-Sequence-Subject"] = self.check
        if self.ttl:
            headers["Nats-TTL"] = str(self.ttl)
        return headers


class WrongSequence(Exception):  # noqa: N818 - a signal between the engine's modules
    """A subject is not where a write expected it; nothing was stored. `busy`: another write to it is in flight."""

    def __init__(self, *, busy: bool = False, last: int = -1) -> None:
        super().__init__("a subject has moved on")
        self.busy = busy
        self.last = last


class _Error(Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Ack(Struct):
    seq: int = 0
    error: _Error | None = None


class _Message(Struct):
    subject: str
    seq: int
    data: bytes = b""


class _Got(Struct):
    message: _Message | None = None
    error: _Error | None = None


class StreamState(Struct, frozen=True):
    """Part of what the server tells of a stream."""

    last_seq: int = 0
    first_seq: int = 0
    messages: int = 0
    bytes: int = 0
    num_subjects: int = 0


class StreamInfo(Struct):
    """What the server tells of a stream; `ts` is its own time."""

    config: dict[str, Any] = {}
    state: StreamState = StreamState()
    created: str = ""
    ts: str = ""
    error: _Error | None = None
    cluster: dict[str, Any] = {}


_decode_ack = msgspec.json.Decoder(_Ack).decode
_decode_got = msgspec.json.Decoder(_Got).decode
_decode_info = msgspec.json.Decoder(StreamInfo).decode
_encode = msgspec.json.Encoder().encode


class Store:
    """The stream of a space."""

    def __init__(self, wire: Wire, subjects: Subjects, settings: Settings) -> None:
        self.wire = wire
        self.subjects = subjects
        self.single = False  # one replica, which answers every read itself
        self._settings = settings
        self._stream = subjects.stream
        self._batches = asyncio.Semaphore(OPEN_BATCHES)
        self._eventual = settings.consistency == "eventual"
        self._direct = f"$JS.API.DIRECT.GET.{self._stream}"

    # --- reading ---

    async def get(self, subject: str, *, now: bool = True) -> Found | None:
        """Return what a subject holds. Without `now` a replica may answer that has not heard of the last writes."""
        patience = Patience(self._settings.timeout)
        while True:
            try:
                if self.single or (self._eventual and not now):
                    return await self._get_directly(subject)
                return await self._get_from_leader({"last_by_subj": subject})
            except Unanswered as lost:
                await self._retry_read(patience, lost)

    async def _get_directly(self, subject: str) -> Found | None:
        answer = await self.wire.call(f"{self._direct}.{subject}")
        headers: dict[str, str] = answer.headers or {}
        if STATUS in headers:
            return _nothing(headers)
        return Found(subject, int(headers["Nats-Sequence"]), answer.data)

    async def _get_from_leader(self, request: dict[str, Any], stream: str = "") -> Found | None:
        subject = f"$JS.API.STREAM.MSG.GET.{stream or self._stream}"
        answer = await self.wire.call(subject, _encode(request))
        got = _decode_got(answer.data)
        if got.message is not None:
            return Found(got.message.subject, got.message.seq, got.message.data)
        if got.error is not None and got.error.err_code == _NOT_FOUND:
            return None
        raise _failure(got.error)

    async def last_sequence(self) -> int:
        """Return the stream's last sequence, by its leader."""
        return (await self.info()).state.last_seq

    async def info(self, stream: str | None = None) -> StreamInfo:
        """Return what the server tells of a stream; `error` is set where there is none."""
        patience = Patience(self._settings.timeout)
        while True:
            try:
                info = _decode_info((await self.api(f"STREAM.INFO.{stream or self._stream}")).data)
                if info.error is None or info.error.err_code == _NO_STREAM:
                    return info
                raise _failure(info.error)
            except Unanswered as lost:
                await self._retry_read(patience, lost)

    async def api(self, name: str, request: dict[str, Any] | None = None) -> Any:
        """Return the answer to a call of the server's interface. Raises Unanswered."""
        return await self.wire.call(f"$JS.API.{name}", b"" if request is None else _encode(request))

    async def many(self, filters: Sequence[str]) -> tuple[list[Found], int]:
        """Return what all subjects that match hold at one moment, and a sequence that it is the state of."""
        patience = Patience(self._settings.timeout)
        while True:
            try:
                newest = 0 if self.single else await self.last_sequence()
                found = await self._at_once(filters, newest)
                return found if found is not None else await self._in_pages(filters)
            except Unanswered as lost:
                await self._retry_read(patience, lost)

    async def _at_once(self, filters: Sequence[str], newest: int) -> tuple[list[Found], int] | None:
        """Return them, or None where there are too many. The check subject is always there, and so is an answer."""
        wanted = [*filters, self.subjects.check]
        answers = await self.wire.collect(self._direct, _encode({"multi_last": wanted, "max_bytes": PAGE_BYTES}))
        end = answers.pop().headers
        if end[STATUS] == "413" or end.get("Nats-Num-Pending", "0") != "0":
            return None
        if end[STATUS] != "204":
            _nothing(end)
            raise Unanswered("a replica of the stream has nothing yet", sent=False)
        upto = int(end.get("Nats-UpTo-Sequence", 0))
        if upto < newest:
            raise Unanswered("a replica of the stream lags behind", sent=False)
        return [_found(answer) for answer in answers if answer.headers["Nats-Subject"] != self.subjects.check], upto

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

    async def after(self, sequence: int, one: str, *, stream: str = "") -> list[Found]:
        """Return all that is stored after a sequence under subjects that match, in that order, to the very end.

        Replicas answer, each as far as it has come; what comes after that, the leader. `stream`: another one.
        """
        patience = Patience(self._settings.timeout)
        found: list[Found] = []
        while True:
            try:
                page, more = await self._page(sequence, one, stream or self._stream)
                if not page and not self.single:
                    request = {"seq": sequence + 1, "next_by_subj": one}
                    last = await self._get_from_leader(request, stream)
                    page, more = ([], False) if last is None else ([last], True)
            except Unanswered as lost:
                await self._retry_read(patience, lost)
                continue
            found += page
            if page:
                sequence = page[-1].seq
                patience = Patience(self._settings.timeout)
            if not more and (self.single or not page):
                return found

    async def first(self, one: str, count: int) -> list[Found]:
        """Return the first messages, by sequence, under subjects that match; a replica may answer."""
        patience = Patience(self._settings.timeout)
        while True:
            try:
                return (await self._page(0, one, self._stream))[0][:count]
            except Unanswered as lost:
                await self._retry_read(patience, lost)

    async def is_older(self, sequence: int, seconds: float) -> bool:
        """Tell whether what was stored after a sequence may have been stored so long ago."""
        info = await self.info()
        oldest = datetime.fromisoformat(info.ts) - timedelta(seconds=seconds)
        if datetime.fromisoformat(info.created) > oldest:
            return False
        request = {"start_time": oldest.isoformat(), "batch": 1, "next_by_subj": f"{self.subjects.root}.>"}
        patience = Patience(self._settings.timeout)
        while True:
            try:
                answers = await self.wire.collect(self._direct, _encode(request))
            except Unanswered as lost:
                await self._retry_read(patience, lost)
            else:
                return len(answers) == 1 or int(answers[0].headers["Nats-Sequence"]) > sequence + 1

    async def _page(self, sequence: int, one: str, stream: str) -> tuple[list[Found], bool]:
        """Return the next messages after a sequence, and whether there are more."""
        request = {"seq": sequence + 1, "batch": PAGE, "max_bytes": PAGE_BYTES, "next_by_subj": one}
        answers = await self.wire.collect(f"$JS.API.DIRECT.GET.{stream}", _encode(request))
        end = answers.pop().headers
        if end[STATUS] != "204":
            _nothing(end)
        return [_found(answer) for answer in answers], end.get("Nats-Num-Pending", "0") != "0"

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "") -> Subscription:
        """Hand the messages of a subject to a handler, from when this returns; also after a reconnect.

        Raises AccessDeniedError, EngineUnavailableError.
        """
        patience = Patience(self._settings.timeout)
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

    # --- writing ---

    async def write(self, one: Write) -> int:
        """Store a message; return its sequence.

        Raises WrongSequence; OutcomeUnknownError, EngineUnavailableError.
        """
        patience = Patience(self._settings.timeout)
        while True:
            try:
                return await self._publish(one.subject, one.data, one.headers())
            except WrongSequence as wrong:
                if not patience.doubt:
                    raise
                if not await self._in_flight(wrong, patience):
                    return await self._settle_doubt(one, patience)
            except Unanswered as lost:
                await patience.after(lost, self.wire, PAUSE)

    async def write_all(self, batch: Sequence[Write], batch_id: str) -> int:
        """Store all messages, or none; return the last one's sequence. Raises as `write` does."""
        if len(batch) > MAX_MEMBERS:
            raise UnsupportedError(f"a commit on NATS takes at most {MAX_MEMBERS:,} writes; this needs {len(batch):,}")
        patience = Patience(self._settings.timeout)
        attempt = 0
        async with self._batches:
            while True:
                attempt += 1
                try:
                    return await self._publish_all(batch, f"{batch_id}-{attempt}")
                except WrongSequence as wrong:
                    if not patience.doubt:
                        raise
                    if await self._in_flight(wrong, patience):
                        continue
                    telling = next(one for one in reversed(batch) if one.op and one.expected is not None)
                    found = await self._settle_doubt(telling, patience)
                    return found + len(batch) - 1 - batch.index(telling)
                except Unanswered as lost:
                    await patience.after(lost, self.wire, PAUSE * random.uniform(0.5, 1.0))  # noqa: S311 - no secret

    async def _publish(self, subject: str, data: bytes, headers: dict[str, str] | None) -> int:
        answer = await self.wire.call(subject, data, headers)
        ack = _decode_ack(answer.data)
        if ack.error is None:
            return ack.seq
        raise _failure(ack.error)

    async def _publish_all(self, batch: Sequence[Write], batch_id: str) -> int:
        """Send the members one after the other, and wait for the last one's acknowledgement alone."""
        wire = self.wire
        await wire.wait_up(0.0)
        last = len(batch)
        for number, one in enumerate(batch[:-1], start=1):
            headers = {"Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(number), **(one.headers() or {})}
            await wire.publish(one.subject, one.data, headers)
        one = batch[-1]
        headers = {
            "Nats-Batch-Id": batch_id,
            "Nats-Batch-Sequence": str(last),
            "Nats-Batch-Commit": "1",
            **(one.headers() or {}),
        }
        return await self._publish(one.subject, one.data, headers)

    async def _in_flight(self, wrong: WrongSequence, patience: Patience) -> bool:
        """Wait a moment for a write in flight, which may be an earlier try at this one."""
        if not wrong.busy or patience.left <= 0:
            return False
        await asyncio.sleep(BUSY)
        return True

    async def _settle_doubt(self, one: Write, patience: Patience) -> int:
        """Find out whether an earlier try has stored a write after all; return its sequence.

        Raises WrongSequence when it has not, OutcomeUnknownError when others have written over what could tell.
        """
        found = await self.get(one.subject)
        if found is None:
            raise patience.given_up()
        head = decode_head(found.data)
        if head.op == one.op:
            return found.seq
        if head.prev == one.expected:
            raise WrongSequence
        raise patience.given_up()


def pause_for(conflict: WrongSequence, attempt: int) -> float:
    """Return how long to wait before the next try at something that others write, too."""
    if attempt <= 1 and not conflict.busy:
        return 0.0
    return BUSY * random.uniform(0.25, 1.0) * min(attempt, 16)  # noqa: S311 - not a secret


def _found(answer: Any) -> Found:
    headers = answer.headers
    return Found(headers["Nats-Subject"], int(headers["Nats-Sequence"]), answer.data)


def _nothing(headers: dict[str, str]) -> None:
    """Return None for an answer that says that there is nothing. Raises Unanswered for any other."""
    if headers[STATUS] != "404":
        raise Unanswered(f"the stream answers: {headers[STATUS]} {headers.get(DESCRIPTION, '')}", sent=False)


def _failure(error: _Error | None) -> Exception:
    """Return what an error of the server means."""
    if error is None:
        return EngineError("the NATS server's answer cannot be understood")
    if error.err_code == _WRONG_SEQUENCE:
        last = _LAST.search(error.description)
        return WrongSequence(last=int(last.group(1)) if last else -1)
    if error.err_code == _IN_FLIGHT:
        return WrongSequence(busy=True)
    if error.err_code in _TRY_AGAIN or error.code == 503:  # noqa: PLR2004 - not available
        return Unanswered(error.description, sent=False)
    if error.err_code == _NO_STREAM:
        return EngineError("the space's stream is gone from the NATS server")
    return EngineError(f"the NATS server refused it: {error.description} ({error.err_code})")
