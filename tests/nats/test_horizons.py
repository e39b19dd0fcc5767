"""What a killed server brings back of a key: nothing that was deleted, replaced or over."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any

import pytest

from tertulia import connect
from tertulia.engines import _nats_keys
from tertulia.engines._nats_format import key_state
from tests.nats.server import START_LIMIT, Server

PAST = 0.5  # seconds of a key's time


async def test_a_key_that_is_gone_stays_gone_when_its_server_is_killed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_nats_keys, "KEEP_GONE", 1)
    monkeypatch.setattr(_nats_keys, "SWEEP_AFTER", 0)
    with Server() as server:
        async with connect(f"{server.url}/team") as space:
            memory, engine = space.memory, space.engine
            await memory.write("deleted", 1, owner="ada")
            await memory.delete("deleted", requester="ada")
            await memory.write("deleted early", 1, owner="ada", ttl=600)
            await memory.delete("deleted early", requester="ada")
            async with space.transaction() as transaction:
                transaction.write("deleted in a commit", 1, owner="ada")
            async with space.transaction() as transaction:
                transaction.delete("deleted in a commit", requester="ada")
            await memory.write("short", 1, owner="ada", ttl=PAST)
            await memory.write("shortened", 1, owner="ada")
            await memory.write("shortened", 2, owner="ada", ttl=PAST)
            assert await kept(engine) == {"deleted", "deleted early", "deleted in a commit", "short", "shortened"}
            async with asyncio.timeout(START_LIMIT):
                while "short" in await kept(engine):  # noqa: ASYNC110 - the server tells nobody that it removed it
                    await asyncio.sleep(0.1)
            for _ in range(2):  # the second time nothing is left of what the first one brought back
                server.kill()
                server.start()
                assert await memory.list_keys() == []
            async with connect(f"{server.url}/team") as other:
                assert await other.memory.list_keys() == []
                assert (await other.memory.write("deleted", 1, owner="ada")).version == 1


async def kept(engine: Any) -> set[str]:
    found, _ = await engine._store.many((engine._subjects.all_keys,))  # noqa: SLF001 - as the server shows it
    return {engine._subjects.key_of(one.subject) for one in found}  # noqa: SLF001


async def test_what_marks_the_end_of_a_key_lasts_as_long_as_what_it_has_replaced_could(url: str):
    async with connect(url) as space:
        memory, engine = space.memory, space.engine
        subjects, store = engine._subjects, engine._store  # type: ignore[attr-defined] # noqa: SLF001

        async def horizon(key: str) -> float:
            found = await store.get(subjects.key(key))
            assert found is not None
            return key_state(key, found.data).horizon

        await memory.write("k", 1, owner="ada", ttl=100)
        assert await horizon("k") == 0
        entry = await memory.write("k", 2, owner="ada", ttl=1)
        assert entry.expires_at is not None
        expires = entry.expires_at.timestamp()
        assert await horizon("k") > expires
        await memory.delete("k", requester="ada")
        longest = await horizon("k")
        assert expires < longest < inf
        await memory.write("k", 3, owner="ada")
        assert await horizon("k") == longest
        await memory.write("k", 4, owner="ada", ttl=1)
        assert await horizon("k") == inf
