"""A message to an idle mailbox is claimed by its sender for the one process that waits: not lost, not held twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tertulia.engines._file_bell import RING, Bell, Rung
from tertulia.engines.base import DEFAULT_LEASE, Claimed, Engine, MailboxOptions, Send, Settle
from tertulia.engines.file import FileEngine
from tertulia.errors import SpaceClosedError
from tertulia.testing import ManualClock
from tests.file.apart import apart, two_processes

PATIENCE = 10.0  # seconds; only a hang meets it
Claim = asyncio.Task[list[Claimed]]


@asynccontextmanager
async def waiting(
    tmp_path: Path, *, ordered: bool = False, lease: float = DEFAULT_LEASE, **options: object
) -> AsyncIterator[tuple[FileEngine, FileEngine, Claim]]:
    """Have a claimant in one process wait for a mailbox, and another process that can send to it."""
    async with two_processes(tmp_path, **options) as (here, there):
        await there.open_mailbox("ada", MailboxOptions(ordered=ordered))
        claim = asyncio.create_task(here.claim("ada", lease=lease, wait=None))
        await until_it_waits(here)
        yield here, there, claim
        claim.cancel()
        with suppress(asyncio.CancelledError, SpaceClosedError):
            await claim


async def until_it_waits(engine: FileEngine) -> None:
    async with asyncio.timeout(PATIENCE):
        while not engine._hub.claimants.get("ada"):  # noqa: SLF001, ASYNC110 - a claimant that waits tells nobody
            await asyncio.sleep(0.001)


def deafen(engine: FileEngine) -> None:
    """Let the bell ring unheard."""
    hub = engine._hub  # noqa: SLF001 - as when the event loop is busy
    assert hub.bell is not None
    hub.loop.remove_reader(hub.bell.socket.fileno())


async def states(engine: Engine) -> list[str]:
    return [message.state for message in await engine.browse("ada")]


def ids(claimed: list[Claimed]) -> list[tuple[str, int, int]]:
    return [(one.message_id, one.attempt, one.failures) for one in claimed]


async def claim_now(engine: Engine) -> list[Claimed]:
    async with asyncio.timeout(PATIENCE):
        return await engine.claim("ada", wait=None)


# --- what is handed over, and what is not ---


async def test_a_message_to_an_idle_mailbox_is_claimed_by_the_commit_that_stores_it(tmp_path: Path):
    async with waiting(tmp_path) as (here, there, claim):
        await there.send(Send("ada", "m", b"body", notes=(b"note",)))
        before_anybody_heard = await states(there)
        (one,) = await claim
        left = one.lease_until - here._clock.monotonic()  # noqa: SLF001
        await here.settle(Settle("ada", "m", one.sequence))
        after = await states(there)

    assert (before_anybody_heard, after) == (["leased"], [])
    assert (one.message_id, one.body, one.notes, one.attempt, one.failures) == ("m", b"body", (b"note",), 1, 0)
    assert one.max_attempts == 5
    assert 0 < left <= DEFAULT_LEASE


async def test_messages_behind_the_one_that_was_handed_over_wait_for_anybody(tmp_path: Path):
    async with waiting(tmp_path) as (_, there, claim):
        for name in ("m1", "m2", "m3"):
            await there.send(Send("ada", name, b""))
        stored = await states(there)
        first = await claim
        rest = await there.claim("ada", limit=5)

    assert stored == ["leased", "waiting", "waiting"]
    assert ids(first) == [("m1", 1, 0)]
    assert ids(rest) == [("m2", 1, 0), ("m3", 1, 0)]


async def test_where_two_processes_wait_neither_is_preferred(tmp_path: Path):
    async with waiting(tmp_path) as (_, there, claim), await apart(f"file:{tmp_path}/space.db") as third:
        other = asyncio.create_task(third.engine.claim("ada", wait=None))
        assert isinstance(third.engine, FileEngine)
        await until_it_waits(third.engine)
        await there.send(Send("ada", "m", b""))
        stored = await states(there)
        done, _ = await asyncio.wait({claim, other}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        other.cancel()
        with suppress(asyncio.CancelledError):
            await other

    assert stored == ["waiting"]
    assert len(done) == 1


async def test_a_delayed_message_is_not_handed_over(tmp_path: Path):
    async with waiting(tmp_path) as (_, there, claim):
        await there.send(Send("ada", "m", b"", delay=0.05))
        stored = await states(there)
        claimed = await claim

    assert (stored, ids(claimed)) == (["delayed"], [("m", 1, 0)])


async def test_nothing_is_handed_over_from_an_ordered_mailbox(tmp_path: Path):
    async with waiting(tmp_path, ordered=True) as (_, there, claim):
        await there.send(Send("ada", "m", b""))
        stored = await states(there)
        claimed = await claim

    assert (stored, ids(claimed)) == (["waiting"], [("m", 1, 0)])


async def test_a_message_too_large_for_a_bell_is_not_handed_over(tmp_path: Path):
    async with waiting(tmp_path) as (_, there, claim):
        await there.send(Send("ada", "m", b"x" * 100_000))
        stored = await states(there)
        claimed = await claim

    assert (stored, ids(claimed)) == (["waiting"], [("m", 1, 0)])


@pytest.mark.parametrize("lease", [7.0, DEFAULT_LEASE])
async def test_the_lease_is_the_one_that_was_asked_for(tmp_path: Path, lease: float):
    clock = ManualClock()
    async with waiting(tmp_path, lease=lease, clock=clock) as (_, there, claim):
        await there.send(Send("ada", "m", b""))
        stored = await states(there)
        (one,) = await claim
        await clock.advance(lease - 0.1)
        held = await states(there)
        await clock.advance(0.2)
        again = await there.claim("ada")

    assert (stored, held) == (["leased"], ["leased"])
    assert one.lease_until == pytest.approx(clock.monotonic() - 0.1)
    assert ids(again) == [("m", 2, 1)]


async def test_claims_that_ask_for_different_leases_are_made_one_by_one(tmp_path: Path):
    async with waiting(tmp_path, lease=7.0) as (here, there, claim):
        other = asyncio.create_task(here.claim("ada", lease=9.0, wait=None))
        async with asyncio.timeout(PATIENCE):
            while len(here._hub.claimants["ada"]) < 2:  # noqa: SLF001, ASYNC110 - they tell nobody
                await asyncio.sleep(0.001)
        for name in ("m1", "m2"):
            await there.send(Send("ada", name, b""))
        stored = await states(there)
        now = here._clock.monotonic()  # noqa: SLF001
        (first,), (second,) = await claim, await other

    assert stored == ["waiting", "waiting"]
    assert {first.message_id, second.message_id} == {"m1", "m2"}
    assert first.lease_until - now == pytest.approx(7.0, abs=1.0)
    assert second.lease_until - now == pytest.approx(9.0, abs=1.0)


async def test_what_was_handed_over_for_one_lease_is_held_for_the_one_that_is_asked_for_now(tmp_path: Path):
    clock = ManualClock()
    async with waiting(tmp_path, lease=7.0, clock=clock) as (here, there, claim):
        deafen(here)
        await there.send(Send("ada", "m", b""))
        claim.cancel()
        with suppress(asyncio.CancelledError):
            await claim
        other = asyncio.create_task(here.claim("ada", lease=9.0, wait=None))
        await until_it_waits(here)
        here._hub._on_rung()  # noqa: SLF001 - at last
        (one,) = await other
        await clock.advance(8.0)
        held = await states(there)

    assert one.lease_until == clock.monotonic() + 1.0
    assert held == ["leased"]


# --- what goes wrong on the way ---


async def test_what_comes_for_a_claimant_that_went_away_is_given_back(tmp_path: Path):
    async with waiting(tmp_path) as (here, there, claim):
        await there.send(Send("ada", "m", b""))
        claim.cancel()
        with suppress(asyncio.CancelledError):
            await claim
        claimed = await claim_now(here)

    assert ids(claimed) == [("m", 1, 0)]


@pytest.mark.parametrize("durability", ["process", "power"])
async def test_a_process_takes_what_it_was_handed_and_has_not_heard_of_before_all_that_came_later(
    tmp_path: Path, durability: str
):
    async with waiting(tmp_path, durability=durability) as (here, there, claim):
        claim.cancel()
        with suppress(asyncio.CancelledError):
            await claim
        deafen(here)
        for name in ("m1", "m2", "m3"):
            await there.send(Send("ada", name, b""))
        stored = await states(there)
        taken = [ids(await claim_now(here))[0] for _ in range(3)]
        here._hub._on_rung()  # noqa: SLF001 - at last
        nothing_more = await here.claim("ada")

    assert stored == ["leased", "waiting", "waiting"]
    assert taken == [("m1", 1, 0), ("m2", 1, 0), ("m3", 1, 0)]
    assert nothing_more == []


async def test_a_ring_that_is_heard_late_does_not_bring_a_second_time_what_was_handled_meanwhile(tmp_path: Path):
    async with waiting(tmp_path) as (here, there, claim):
        claim.cancel()
        with suppress(asyncio.CancelledError):
            await claim
        deafen(here)
        taken: list[tuple[str, int, int]] = []
        for names in (("m1", "m2"), ("m3", "m4")):  # the first of each is handed over, and found by who claims
            for name in names:
                await there.send(Send("ada", name, b""))
            assert await states(there) == ["leased", "waiting"]
            for _ in names:
                (one,) = await claim_now(here)
                await here.settle(Settle("ada", one.message_id, one.sequence))
                taken += ids([one])
        again = asyncio.create_task(here.claim("ada", wait=None))
        await until_it_waits(here)
        for _ in range(4):
            here._hub._on_rung()  # noqa: SLF001 - at last
        await asyncio.sleep(0)
        brought = again.done()
        again.cancel()
        with suppress(asyncio.CancelledError):
            await again

    assert not brought
    assert taken == [(name, 1, 0) for name in ("m1", "m2", "m3", "m4")]


async def test_what_comes_back_counts_as_tried_when_a_later_one_may_have_been_taken_before_it(tmp_path: Path):
    async with two_processes(tmp_path) as (here, there):
        await there.open_mailbox("ada", MailboxOptions())
        await there.send(Send("ada", "m1", b""))
        held = await here.claim("ada")
        await there.send(Send("ada", "m2", b""))
        later = await there.claim("ada")
        here._hub.unclaim(held)  # noqa: SLF001 - as when nobody is there who could be handed it
        back = await claim_now(there)

    assert (ids(held), ids(later), ids(back)) == ([("m1", 1, 0)], [("m2", 1, 0)], [("m1", 2, 0)])


async def test_what_comes_when_nobody_waits_any_more_can_be_claimed_elsewhere(tmp_path: Path):
    async with waiting(tmp_path) as (_, there, claim):
        claim.cancel()
        with suppress(asyncio.CancelledError):
            await claim
        await there.send(Send("ada", "m", b""))
        stored = await states(there)
        claimed = await claim_now(there)

    assert (stored, ids(claimed)) == (["leased"], [("m", 1, 0)])


async def test_the_next_claimant_gets_what_one_that_was_cancelled_had_been_woken_for(tmp_path: Path):
    async with waiting(tmp_path) as (here, there, claim):
        second = asyncio.create_task(here.claim("ada", wait=None))
        async with asyncio.timeout(PATIENCE):
            while len(here._hub.claimants["ada"]) < 2:  # noqa: SLF001, ASYNC110 - they tell nobody
                await asyncio.sleep(0.001)
        await there.send(Send("ada", "m", b""))
        here._hub._on_rung()  # noqa: SLF001 - the first is woken, and cancelled before it can take anything
        claim.cancel()
        async with asyncio.timeout(PATIENCE):
            claimed = await second

    assert ids(claimed) == [("m", 1, 0)]


async def test_a_space_that_closes_gives_back_what_it_has_not_heard_of(tmp_path: Path):
    url = f"file:{tmp_path}/space.db"
    async with await apart(url) as there:
        await there.engine.open_mailbox("ada", MailboxOptions())
        here = await apart(url)
        assert isinstance(here.engine, FileEngine)
        claim = asyncio.create_task(here.engine.claim("ada", wait=None))
        await until_it_waits(here.engine)
        deafen(here.engine)
        await there.engine.send(Send("ada", "m", b""))
        stored = await states(there.engine)
        await here.aclose()
        with pytest.raises(SpaceClosedError):
            await claim
        claimed = await claim_now(there.engine)

    assert (stored, ids(claimed)) == (["leased"], [("m", 1, 0)])


@pytest.mark.parametrize("rung", [Rung.FULL, Rung.NO, Rung.GONE])
async def test_what_cannot_be_handed_over_is_given_back_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rung: Rung
):
    async with waiting(tmp_path) as (_, there, claim):
        ring = Bell.ring
        monkeypatch.setattr(
            Bell, "ring", lambda self, path, datagram=RING: rung if datagram else ring(self, path, datagram)
        )
        await there.send(Send("ada", "m", b""))
        stored = await states(there)
        async with asyncio.timeout(PATIENCE):
            claimed = await claim

    assert (stored, ids(claimed)) == (["waiting"], [("m", 1, 0)])


async def test_what_its_sender_could_not_ring_for_before_it_was_killed_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with waiting(tmp_path) as (_, there, claim):
        monkeypatch.setattr(Bell, "ring", lambda *_: Rung.YES)
        await there.send(Send("ada", "m", b"", notes=(b"note",)))
        stored = await states(there)
        async with asyncio.timeout(PATIENCE):
            (one,) = await claim

    assert (stored, ids([one]), one.notes) == (["leased"], [("m", 1, 0)], (b"note",))


async def test_what_has_come_is_not_found_again(tmp_path: Path):
    async with waiting(tmp_path) as (here, there, claim):
        await there.send(Send("ada", "m", b""))
        (one,) = await claim
        hub = here._hub  # noqa: SLF001 - as when it looks by itself
        again = asyncio.create_task(here.claim("ada", wait=None))
        await until_it_waits(here)
        for _ in range(2):
            hub.handed.find(hub.execute, hub.time, hub.instance)
        await asyncio.sleep(0)
        found = again.done()
        await here.settle(Settle("ada", "m", one.sequence))
        again.cancel()
        with suppress(asyncio.CancelledError):
            await again

    assert not found


async def test_what_was_found_is_not_taken_again_when_its_ring_is_heard(tmp_path: Path):
    async with waiting(tmp_path) as (here, there, claim):
        await there.send(Send("ada", "m", b""))
        hub = here._hub  # noqa: SLF001 - it looks by itself before it hears
        hub.handed.find(hub.execute, hub.time, hub.instance)
        (one,) = await claim
        again = asyncio.create_task(here.claim("ada", wait=None))
        await until_it_waits(here)
        await asyncio.sleep(0.02)  # for the bell
        found = again.done()
        again.cancel()
        with suppress(asyncio.CancelledError):
            await again

    assert (ids([one]), found) == ([("m", 1, 0)], False)


async def test_a_ring_that_is_heard_after_the_lease_hands_nothing_over(tmp_path: Path):
    clock = ManualClock()
    async with waiting(tmp_path, clock=clock) as (here, there, claim):
        deafen(here)
        await there.send(Send("ada", "m", b""))
        await clock.advance(DEFAULT_LEASE + 1.0)
        here._hub._on_rung()  # noqa: SLF001 - at last
        async with asyncio.timeout(PATIENCE):
            claimed = await claim

    assert ids(claimed) == [("m", 2, 1)]


async def test_what_was_given_back_and_claimed_elsewhere_is_not_taken_for_what_was_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with waiting(tmp_path) as (here, there, claim):
        deafen(here)
        ring = Bell.ring
        monkeypatch.setattr(Bell, "ring", lambda *_: Rung.NO)
        await there.send(Send("ada", "m", b""))
        monkeypatch.setattr(Bell, "ring", ring)
        elsewhere = await there.claim("ada")
        hub = here._hub  # noqa: SLF001 - as when it looks by itself
        hub.handed.find(hub.execute, hub.time, hub.instance)
        await asyncio.sleep(0)
        taken = claim.done()

    assert (ids(elsewhere), taken) == ([("m", 1, 0)], False)
