"""What goes wrong with NATS if one does not know it: each is known here, and has a test."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from typing import Any

import nats
import pytest

from tertulia import Message, Space, connect
from tertulia.engines import _nats_keys, _nats_open
from tertulia.engines._nats_open import check_level
from tertulia.engines._nats_store import MAX_MEMBERS
from tertulia.engines._nats_stream import Write
from tertulia.engines._nats_subjects import Subjects
from tertulia.engines._nats_url import settings_of
from tertulia.engines.base import Check, CheckFailed, Commit, MailboxOptions, Publish, Put, Send
from tertulia.errors import (
    EngineError,
    EngineUnavailableError,
    IncompatibleFormatError,
    UnsupportedError,
    ValueTooLargeError,
    WatchLaggedError,
)
from tertulia.records import ChangeKind
from tests.nats.server import Server, call, fresh_space, remove_space, shared_server

PATIENCE = 10.0  # seconds for what should happen at once


async def soon(work: Any) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await work


def engine_of(space: Space) -> Any:
    return space.engine


# --- versions and servers ---


class OldServer:
    """Answers as a server before 2.12 does."""

    server_version = "v2.11.4"

    async def call(self, *_: Any, **__: Any) -> Any:
        answer = {"type": "io.nats.jetstream.api.v1.account_info_response", "api": {"level": 1, "total": 0}}
        return type("Answer", (), {"data": json.dumps(answer).encode()})


async def test_a_server_below_api_level_2_is_refused_with_what_is_needed():
    with pytest.raises(UnsupportedError, match=r"level 1; atomic commits need 2, which nats-server has since 2\.12"):
        await check_level(OldServer(), settings_of("nats://127.0.0.1/team", {}))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


async def test_a_server_without_jetstream_is_refused_with_what_is_needed(tmp_path: Any):
    config = tmp_path / "plain.conf"
    config.write_text("")
    with PlainServer() as server, pytest.raises(UnsupportedError, match="start it with -js"):
        await connect(f"{server.url}/team", timeout=2.0)


class PlainServer(Server):
    """A server without JetStream."""

    def _lines(self) -> list[str]:
        return [line for line in super()._lines() if not line.startswith("jetstream")]


async def test_where_nobody_listens_the_error_names_the_address_and_comes_in_time():
    with pytest.raises(EngineUnavailableError, match=r"no NATS server answers at nats://127\.0\.0\.1:1\b"):
        await soon(connect("nats://127.0.0.1:1/team", timeout=0.5))


# --- the stream ---


async def test_the_stream_is_made_as_the_promises_need_it(url: str):
    async with connect(url):
        client = await nats.connect(shared_server().url)
        info = await call(client, f"STREAM.INFO.{Subjects(url.rpartition('/')[2]).stream}")
        await client.close()
    config = info["config"]
    assert config["max_msgs_per_subject"] == 1
    assert (config["allow_atomic"], config["allow_msg_ttl"], config["allow_direct"]) == (True, True, True)
    for dangerous in ("allow_rollup_hdrs", "allow_msg_schedules", "subject_delete_marker_ttl"):
        assert not config.get(dangerous), dangerous


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"allow_rollup_hdrs": True}, "allow_rollup_hdrs is on"),
        ({"max_msgs_per_subject": 5}, "max_msgs_per_subject is 5, not 1"),
        ({"allow_atomic": False}, "allow_atomic is off"),
        ({"max_age": 60_000_000_000}, "max_age is limited"),
        ({"republish": None}, "republish is None"),
        ({"max_msgs": 10}, "max_msgs is limited"),
    ],
    ids=lambda one: "" if isinstance(one, dict) else one,
)
async def test_a_stream_that_cannot_keep_the_promises_is_refused_by_name(change: dict[str, Any], words: str):
    name = fresh_space()
    url = f"{shared_server().url}/{name}"
    client = await nats.connect(shared_server().url)
    config = _nats_open.stream_config(Subjects(name), settings_of(url, {})) | change
    assert "error" not in await call(client, f"STREAM.CREATE.{config['name']}", config)
    await client.close()
    with pytest.raises(UnsupportedError, match=words):
        await connect(url)
    await remove_space(url)


@pytest.mark.parametrize(
    ("mark", "words"), [(None, "was not made by Tertulia"), ("99", "format 99, written by a newer Tertulia")]
)
async def test_a_stream_of_somebody_else_or_of_the_future_is_left_alone(mark: str | None, words: str):
    name = fresh_space()
    url = f"{shared_server().url}/{name}"
    client = await nats.connect(shared_server().url)
    config = _nats_open.stream_config(Subjects(name), settings_of(url, {}))
    config["metadata"] = {} if mark is None else {_nats_open.MARK: mark}
    await call(client, f"STREAM.CREATE.{config['name']}", config)
    with pytest.raises(IncompatibleFormatError, match=words):
        await connect(url)
    assert (await call(client, f"STREAM.INFO.{config['name']}"))["state"]["messages"] == 0
    await client.close()
    await remove_space(url)


async def test_settings_that_are_asked_for_and_not_so_are_refused_and_others_taken_as_they_are(url: str):
    async with connect(url + "?storage=memory"):
        pass
    async with connect(url) as space:
        assert await space.memory.read("k", reader="ada") is None
    with pytest.raises(UnsupportedError, match="storage is 'memory', and 'file' is asked for"):
        await connect(url + "?storage=file")


async def test_servers_that_do_not_know_each_other_yet_are_waited_for(url: str, monkeypatch: pytest.MonkeyPatch):
    ask, said = _nats_open._ask, 0  # noqa: SLF001 - what servers say that have just started
    no_peers = _nats_open._Answer({"code": 400, "err_code": 10005, "description": "no suitable peers"})  # noqa: SLF001

    def say_so(times: float) -> None:
        async def asked(wire: Any, settings: Any, name: str, *request: Any) -> Any:
            nonlocal said
            if name.startswith("STREAM.CREATE") and said < times:
                said += 1
                return no_peers
            return await ask(wire, settings, name, *request)

        monkeypatch.setattr(_nats_open, "_ask", asked)

    say_so(math.inf)
    with pytest.raises(EngineError, match="no suitable peers"):
        await connect(url, timeout=0.2)
    said = 0
    say_so(10)
    async with connect(url):
        assert said == 10


# --- batches ---


async def test_a_publication_to_more_mailboxes_than_a_batch_holds_is_refused_whole(url: str):
    async with connect(url) as space:
        store = engine_of(space)._store  # noqa: SLF001
        before = await store.last_sequence()
        writes = [Write(store.subjects.key(f"k{number}"), b"") for number in range(MAX_MEMBERS + 1)]
        with pytest.raises(UnsupportedError, match="at most 1,000 writes; this needs 1,001"):
            await store.write_all(writes, "batch")
        assert await store.last_sequence() == before
        assert await store.write_all(writes[:-1], "batch") == before + MAX_MEMBERS


async def test_too_many_open_batches_are_waited_for(url: str):
    name = url.rpartition("/")[2]
    async with connect(url) as space:
        client = await nats.connect(shared_server().url)
        for number in range(50):
            headers = {"Nats-Batch-Id": f"open-{number}", "Nats-Batch-Sequence": "1"}
            await client.request(f"tertulia.{name}.kv.open-{number}", b"", headers=headers)
        refused = await client.request(
            f"tertulia.{name}.kv.more", b"", headers={"Nats-Batch-Id": "more", "Nats-Batch-Sequence": "1"}
        )
        assert json.loads(refused.data)["error"]["err_code"] == 10210
        work = asyncio.create_task(space.engine.commit(Commit(puts=(Put("a", b"", "ada"), Put("b", b"", "ada")))))
        await asyncio.sleep(0.2)
        assert not work.done()
        headers = {"Nats-Batch-Id": "open-0", "Nats-Batch-Sequence": "9", "Nats-Batch-Commit": "1"}
        await client.request(f"tertulia.{name}.kv.open-0", b"", headers=headers)  # ends that batch, as incomplete
        assert len((await soon(work)).records) == 2
        await client.close()


async def test_a_check_on_a_key_that_is_not_written_guards_every_kind_of_commit(url: str):
    async with connect(url) as space:
        engine = space.engine
        record = await engine.put(Put("guard", b"", "ada"))
        await engine.open_mailbox("ada", MailboxOptions())
        await engine.put(Put("guard", b"moved", "ada"))
        for commit in (
            Commit(puts=(Put("k", b"", "ada"),)),
            Commit(sends=(Send("ada", "m", b""),)),
            Commit(puts=(Put("k", b"", "ada"),), sends=(Send("ada", "m", b""),)),
        ):
            with pytest.raises(CheckFailed):
                await engine.commit(
                    Commit((Check("guard", revision=record.revision),), commit.settles, commit.puts, (), commit.sends)
                )
        assert (await engine.get("k"), await engine.browse("ada")) == (None, [])


async def test_a_check_that_fails_on_what_this_handle_remembers_is_judged_anew(url: str):
    async with connect(url) as one, connect(url) as two:
        first = await one.engine.put(Put("k", b"1", "ada"))
        await two.engine.put(Put("k", b"2", "bob"))
        with pytest.raises(CheckFailed) as failed:  # as `one` remembers it, the check would hold
            await one.engine.commit(Commit(checks=(Check("k", revision=first.revision),), puts=(Put("x", b"", "ada"),)))
        assert failed.value.record is not None
        assert failed.value.record.body == b"2"
        done = await one.engine.commit(Commit(checks=(Check("k", version=2),), puts=(Put("k", b"3", "ada"),)))
        assert done.records[0].version == 3


# --- deduplication ---


async def test_an_id_is_stored_once_however_late_it_comes_again(url: str):
    async with connect(url) as space:
        await space.broker.register_agent("ada")
        sent = Message(sender="bob", receiver="ada", content=1)
        await space.broker.send(sent)
        await asyncio.sleep(1.2)  # past the window in which the server itself would know a repeated id
        assert (await space.broker.send(sent)).duplicate


# --- reads ---


@pytest.mark.parametrize("count", [1_500])
async def test_more_keys_than_one_request_reads_are_listed_as_they_were_at_one_moment(url: str, count: int):
    async with connect(url) as space, connect(url) as other:
        engine = space.engine
        for start in range(0, count, 300):
            await engine.commit(
                Commit(puts=tuple(Put(f"k:{number:04}", b"0", "ada") for number in range(start, start + 300)))
            )
        first, last = "k:0000", f"k:{count - 1:04}"
        stop = False

        async def write() -> None:
            number = 0
            while not stop:
                number += 1
                body = str(number).encode()
                await other.engine.commit(Commit(puts=(Put(first, body, "ada"), Put(last, body, "ada"))))

        writing = asyncio.create_task(write())
        for _ in range(8):
            revision, records = await engine.scan("k:")
            assert len(records) == count
            assert records[0].body == records[-1].body, "half of a commit"
            assert max(record.revision for record in records) <= revision
        stop = True
        await writing


# --- watching ---


async def test_a_live_watch_sees_every_revision_of_a_key_that_is_written_in_a_hurry(url: str):
    async with connect(url) as space, connect(url) as other:
        stream = await other.engine.watch("k")
        for number in range(500):
            await space.engine.put(Put("k", str(number).encode(), "ada"))
        seen = [(await soon(anext(stream))).record for _ in range(500)]
        assert [record.body for record in seen if record] == [str(number).encode() for number in range(500)]


async def test_a_change_that_the_feed_lost_is_read_from_the_history(url: str):
    async with connect(url) as space, connect(url) as other:
        stream: Any = await other.engine.watch("*")
        heard = stream._on_fed  # noqa: SLF001
        lose = (b"<2>", b"<3>")

        def forgetful(message: Any) -> None:
            if not any(body in message.data for body in lose):
                heard(message)

        stream._subscription._handler = forgetful  # noqa: SLF001
        for number in range(1, 6):
            await space.engine.put(Put("k", b"<%d>" % number, "ada"))
        seen = [(await soon(anext(stream))).record for _ in range(5)]
        assert [record.body for record in seen if record] == [b"<%d>" % number for number in range(1, 6)]


async def test_a_change_that_is_lost_for_good_is_announced_and_never_skipped(url: str):
    async with connect(url, history=0) as space, connect(url, history=0) as other:
        stream: Any = await other.engine.watch("*")
        heard = stream._on_fed  # noqa: SLF001
        stream._subscription._handler = lambda message: None if b"<2>" in message.data else heard(message)  # noqa: SLF001
        first = await space.engine.put(Put("k", b"<1>", "ada"))
        for body in (b"<2>", b"<3>"):
            await space.engine.put(Put("k", body, "ada"))
        assert (await soon(anext(stream))).revision == first.revision
        with pytest.raises(WatchLaggedError) as lagged:
            await soon(anext(stream))
        assert lagged.value.last_revision == first.revision


async def test_a_watch_cannot_resume_over_what_may_have_gone_without_a_trace(url: str, monkeypatch: pytest.MonkeyPatch):
    async with connect(url) as space:
        first = await space.engine.put(Put("a", b"", "ada"))
        await asyncio.sleep(0.3)
        await space.engine.put(Put("b", b"", "ada"))
        await space.engine.put(Put("c", b"", "ada"))
        stream = await space.engine.watch("*", after=first.revision)
        assert (await soon(anext(stream))).key == "b"
        monkeypatch.setattr("tertulia.engines._nats_watch.KEEP_GONE", 0.1)
        stream = await space.engine.watch("*", after=first.revision - 1)
        with pytest.raises(WatchLaggedError):
            await soon(anext(stream))


# --- lifetimes ---


async def test_a_lifetime_is_kept_to_a_fraction_of_a_second(url: str):
    async with connect(url) as space:
        await space.memory.write("k", 1, owner="ada", ttl=0.3)
        assert await space.memory.read("k", reader="ada") == 1
        await asyncio.sleep(0.35)
        assert await space.memory.read("k", reader="ada") is None
        assert await space.memory.list_keys() == []


async def test_the_server_removes_what_no_process_is_left_to_remove(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_nats_keys, "SWEEP_AFTER", 0)
    async with connect(url) as space:
        await space.memory.write("k", 1, owner="ada", ttl=0.5)
        subject = engine_of(space)._subjects.key("k")  # noqa: SLF001
    async with connect(url) as space:
        store = engine_of(space)._store  # noqa: SLF001
        assert await store.get(subject) is not None
        async with asyncio.timeout(PATIENCE):
            while await store.get(subject) is not None:  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.1)
        assert await space.memory.read("k", reader="ada") is None
        entry = await space.memory.write("k", 2, owner="ada")
        assert entry.version == 1


async def test_the_end_of_a_key_is_announced_though_its_writer_is_gone(url: str):
    async with connect(url) as space:
        await space.memory.write("before", 1, owner="ada", ttl=0.5)
    async with connect(url) as watcher:
        stream = await watcher.engine.watch("*")
        async with connect(url) as space:
            await space.memory.write("after", 1, owner="ada", ttl=0.4)
        changes = [await soon(anext(stream)) for _ in range(3)]
        ends = {change.key for change in changes if change.kind is ChangeKind.EXPIRE}
        assert ends == {"before", "after"}


# --- limits ---


async def test_values_are_limited_by_what_the_server_takes():
    with Server("max_payload: 131072") as server:
        async with connect(f"{server.url}/team") as space:
            limit = space.engine.capabilities.max_value_bytes
            assert 64 * 1024 < limit < 131_072
            with pytest.raises(ValueTooLargeError):
                await space.memory.write("k", b"x" * limit, owner="ada")
            await space.memory.write("k", b"x" * (limit - 16), owner="ada")
            await space.broker.register_agent("ada", max_attempts=50)
            await space.broker.send(Message(sender="bob", receiver="ada", content=b"x" * (limit - 400)))
            for _ in range(20):  # notes with tracebacks do not grow beyond what goes with the message
                delivery = await space.broker.receive("ada", timeout=PATIENCE, lease=60)
                assert delivery is not None
                await space.engine.release(delivery._claimed, counted=False, note=b"n" * 4096)  # noqa: SLF001


# --- connections ---


async def test_a_connection_that_stopped_reading_is_made_anew(url: str):
    async with connect(url) as space:
        await space.memory.write("k", 1, owner="ada")
        engine_of(space)._wire._client._reading_task.cancel()  # noqa: SLF001
        assert await soon(space.memory.read("k", reader="ada")) == 1


async def test_a_connection_that_the_server_ended_for_good_is_made_anew(url: str, caplog: pytest.LogCaptureFixture):
    async with connect(url) as space:
        stream = await space.engine.watch("k")
        await space.memory.write("k", 1, owner="ada")
        with caplog.at_level(logging.ERROR):
            await engine_of(space)._wire._client.close()  # noqa: SLF001
        await soon(space.memory.write("k", 2, owner="ada"))
        assert [(await soon(anext(stream))).kind for _ in range(2)] == [ChangeKind.PUT] * 2


async def test_credentials_are_in_no_error_and_no_representation(caplog: pytest.LogCaptureFixture):
    secret = "s3cret-word"  # noqa: S105
    with Server(f'authorization {{ user: "ada", password: "{secret}" }}') as server:
        address = server.url.removeprefix("nats://")
        async with connect(f"nats://ada:{secret}@{address}/team") as space:
            await space.memory.write("k", 1, owner="ada")
            shown = repr(space) + repr(engine_of(space)._settings) + repr(space.engine)  # noqa: SLF001
        errors: list[str] = []
        for url in (
            f"nats://ada:{secret}x@{address}/team",
            f"nats://ada:{secret}@{address}/no/such/space",
            f"nats://ada:{secret}@{address}/team?nonsense=1",
            f"natz://ada:{secret}@{address}/team",
        ):
            try:
                await soon(connect(url, timeout=3.0))
            except Exception as error:  # noqa: BLE001 - whichever it is
                errors.append(f"{error} {error!r} {error.args}")
        assert len(errors) == 4
    assert secret not in shown + "".join(errors) + caplog.text


async def test_a_password_that_is_wrong_is_told_at_once():
    with Server('authorization { user: "ada", password: "right" }') as server:
        started = time.monotonic()
        with pytest.raises(PermissionError, match="may not connect to"):
            await connect(f"{server.url.replace('//', '//ada:wrong@')}/team", timeout=60.0)
        assert time.monotonic() - started < 30.0  # it did not try for the whole minute


def restricted(space: str, *denied: str) -> str:
    publish = ", ".join(f'"{subject}"' for subject in denied)
    return (
        'authorization { users: [ { user: "ada", password: "x", permissions: {'
        f' publish: {{ deny: [{publish}] }}, subscribe: {{ allow: ["own.>", "tertulia-feed.{space}.>",'
        f' "tertulia-live.{space}.>"] }} }} }} ] }}'
    )


async def test_a_publish_that_the_server_denies_is_an_error_at_once_and_an_inbox_can_be_ones_own():
    with Server(restricted("team", "tertulia.team.kv.secret.>")) as server:
        url = f"{server.url.replace('//', '//ada:x@')}/team?inbox=own.ada&timeout=60"
        async with connect(url) as space:
            await space.memory.write("open:k", 1, owner="ada")
            started = time.monotonic()
            with pytest.raises(PermissionError, match=r"may not publish to 'tertulia\.team\.kv\.secret\.k'"):
                await space.memory.write("secret:k", 1, owner="ada")
            assert time.monotonic() - started < 30.0
            assert await space.memory.read("open:k", reader="ada") == 1


async def test_a_watch_that_the_server_denies_is_an_error():
    with Server(restricted("other")) as server:
        url = f"{server.url.replace('//', '//ada:x@')}/team?inbox=own.ada"
        async with connect(url) as space:
            await space.memory.write("k", 1, owner="ada")
            with pytest.raises(PermissionError, match="may not subscribe to"):
                await soon(space.engine.watch("k"))


async def test_publications_count_who_subscribed_a_moment_ago_elsewhere(url: str):
    async with connect(url) as one, connect(url) as two:
        await one.engine.send(Publish("news", "0", b""))  # so that it knows all subscriptions there are
        for number in range(20):
            await two.engine.open_mailbox(f"box-{number}", MailboxOptions())
            await two.engine.subscribe(f"box-{number}", "news")
            assert (await one.engine.send(Publish("news", f"m{number}", b""))).delivered == number + 1


async def test_doctor_says_what_a_power_cut_may_take(url: str):
    async with connect(url) as space:
        findings = {finding.subject: finding for finding in await space.doctor()}
    assert "power cut" in findings["durability"].detail
    assert findings["replicas"].level == "note"
    assert "rollups" in findings["stream"].detail
    assert "API level" in findings["server"].detail


async def test_what_a_handle_wrote_last_is_in_the_history_when_it_has_closed(url: str):
    async with connect(url) as watcher:
        async with connect(url) as writer:
            first = await writer.engine.put(Put("k", b"0", "ada"))
            for number in range(1, 250):
                await writer.engine.put(Put("k", b"%d" % number, "ada"))
        stream = await watcher.engine.watch("k", after=first.revision)
        seen = [(await soon(anext(stream))).record for _ in range(249)]
        assert [record.body for record in seen if record] == [b"%d" % number for number in range(1, 250)]


async def test_changes_that_are_too_large_to_go_together_or_at_all_are_kept_as_far_as_they_can_be(url: str):
    sizes = (40_000, 40_000, 70_000, 10, 62_000, 3_000)
    async with connect(url) as writer:
        for number, size in enumerate(sizes):
            await writer.engine.put(Put(f"k{number}", bytes([number]) * size, "ada"))
    async with connect(url) as reader:
        kept = await engine_of(reader)._history.after(0)  # noqa: SLF001
    assert [len(state.body) for _, (_, state) in sorted(kept.items())] == [one for one in sizes if one < 64 * 1024]


@pytest.mark.parametrize("heir", [None, "heir"])
async def test_what_is_left_of_a_closed_mailbox_is_swept_and_never_what_a_new_one_of_its_name_holds(
    url: str, heir: str | None, monkeypatch: pytest.MonkeyPatch
):
    async with connect(url) as space:
        engine = space.engine
        for name in ("ada", "heir"):
            await engine.open_mailbox(name, MailboxOptions())
        closing: Any = engine_of(space)._closing  # noqa: SLF001
        look, sweep, made = closing._items, closing.sweep, 0  # noqa: SLF001

        async def later(*_: Any) -> None: ...

        monkeypatch.setattr(closing, "sweep", later)
        await engine.close_mailbox("ada", heir=heir)

        async def look_late(mailbox: str) -> Any:
            nonlocal made
            made += 1
            await engine.open_mailbox("ada", MailboxOptions())
            await engine.send(Send("ada", "to the new one", b""))
            return await look(mailbox)

        monkeypatch.setattr(closing, "_items", look_late)
        await soon(sweep("ada", heir, b""))
        assert made == 1
        assert [one.message_id for one in await engine.browse("ada")] == ["to the new one"]
        assert await engine.browse("heir") == []
