"""Reading the space's stream with permissions of one agent: only by calls that a server can grant per subject.

The calls that read many subjects at once, and the leader's, name them in the request's body, which no server looks at
when it judges whether a user may make it; nor can it judge what a consumer is made to do. So the names of what is there
come from the stream's description, and each subject is read by a call of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct

from tertulia.engines._nats_doubt import Fate, Verdict
from tertulia.engines._nats_patience import Patience, Unanswered
from tertulia.engines._nats_store import Store, Trial
from tertulia.engines._nats_stream import Found, Write
from tertulia.errors import EngineError, EngineUnavailableError, UnsupportedError

AT_ONCE = 64  # reads under way at once: enough to keep a connection busy, few enough to stay within its buffers
TRIES = 100  # times that many subjects are read until nothing was written meanwhile: some seconds
NOBODY = "="  # a token that no name and no level of a key has: what is asked there is whether one may ask


class _State(Struct, frozen=True):
    last_seq: int = 0
    subjects: dict[str, int] = {}


class _Listing(Struct):
    state: _State = _State()
    total: int = 0
    error: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Listing).decode


class RestrictedStore(Store):
    """The stream of a space, for an agent that may see parts of it."""

    @property
    def exact(self) -> bool:
        return self.single

    async def get(self, subject: str, *, now: bool = True, patience: Patience | None = None) -> Found | None:  # noqa: ARG002 - there is only one way
        """Return what a subject holds. On several replicas one may answer that has not heard of the last writes."""
        patience = patience or Patience(self._timeout)
        while True:
            try:
                return await self._get_directly(subject, patience)
            except Unanswered as lost:
                await self._retry_read(patience, lost)

    async def many(self, filters: Sequence[str], *, patience: Patience | None = None) -> tuple[list[Found], int]:
        """Return what all subjects that match hold at one moment, and a sequence that it is the state of.

        What is read is of that moment if nothing of it was stored after its names were listed. Raises AccessDeniedError
        also where nothing matches; EngineUnavailableError when it is written all the time.
        """
        await asyncio.gather(*[self.get(_probe(one)) for one in filters if _probe(one) != one])
        for _ in range(TRIES):
            subjects, upto = await self._names(filters, patience or Patience(self._timeout))
            found = await self._get_all(subjects)
            if all(one.seq <= upto for one in found):
                return found, upto
        raise EngineUnavailableError("what is read is written by too many others at once")

    async def after(self, sequence: int, one: str, *, reach: int = 0, stream: str = "") -> list[Found]:
        """Return all that is stored after a sequence under subjects that match, in that order, to the very end."""
        if stream:
            raise UnsupportedError("the history of a space cannot be granted in parts, so this agent cannot read it")
        found, upto = await self.many((one,))
        if upto < reach:
            raise EngineUnavailableError("the leader of the stream has not come so far")
        return sorted([each for each in found if each.seq > sequence], key=lambda each: each.seq)

    async def first(self, one: str, count: int) -> list[Found]:
        """Return the first messages, by sequence, under subjects that match."""
        return (await self.after(0, one))[:count]

    async def is_older(self, sequence: int, seconds: float, one: str) -> bool:
        """Tell whether what was stored after a sequence may have been stored so long ago.

        It was not if something that was stored before it, or is the first of it, is younger.
        """
        info = await self.info()
        oldest = datetime.fromisoformat(info.ts) - timedelta(seconds=seconds)
        if datetime.fromisoformat(info.created) > oldest:
            return False
        stored = [datetime.fromisoformat(each.at) for each in await self.after(0, one) if each.seq <= sequence + 1]
        return not stored or max(stored) < oldest

    async def _names(self, filters: Sequence[str], patience: Patience) -> tuple[list[str], int]:
        """Return the subjects that match, and the stream's last sequence before they were listed."""
        while True:
            try:
                upto = await self.last_sequence()
                names: dict[str, None] = {}
                for one in filters:
                    names |= dict.fromkeys([one] if _probe(one) == one else await self._listed(one))
            except Unanswered as lost:
                await self._retry_read(patience, lost)
            else:
                return list(names), upto

    async def _listed(self, one: str) -> list[str]:
        names: list[str] = []
        while True:
            request = {"subjects_filter": one, "offset": len(names)}
            listing = _decode((await self.api(f"STREAM.INFO.{self._stream}", request)).data)
            if listing.error is not None:
                raise EngineError(f"the NATS server refused it: {listing.error.get('description')}")
            names += listing.state.subjects
            if not listing.state.subjects or len(names) >= listing.total:
                return names

    async def _get_all(self, subjects: Sequence[str]) -> list[Found]:
        found: list[Found] = []
        for start in range(0, len(subjects), AT_ONCE):
            reads = [self.get(one) for one in subjects[start : start + AT_ONCE]]
            results = await asyncio.gather(*reads, return_exceptions=True)
            for one in results:
                if isinstance(one, BaseException):
                    raise one
                if one is not None:
                    found.append(one)
        return found

    async def _verdict(self, batch: Sequence[Write], trial: Trial) -> Verdict:
        """Find out whether these writes were stored; a replica that lags cannot tell that they were not."""
        verdict = await super()._verdict(batch, trial)
        return Verdict(Fate.UNKNOWN) if verdict.fate is Fate.NOT_STORED and not self.single else verdict


def _probe(one: str) -> str:
    """Return a subject that a filter matches and that nothing is stored under; a subject without wildcards itself."""
    return ".".join([NOBODY if token in {"*", ">"} else token for token in one.split(".")])
