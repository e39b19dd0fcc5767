"""`tertulia doctor` on NATS: what it sees of servers that are not as they should be."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import nats
import pytest
from typer.testing import CliRunner

from tertulia import Space, connect
from tertulia.cli.app import app
from tertulia.engines._nats_doctor import _replicas  # pyright: ignore[reportPrivateUsage]
from tertulia.engines._nats_open import history_config, stream_config
from tertulia.engines._nats_stream import StreamInfo
from tertulia.engines._nats_subjects import Subjects
from tertulia.engines._nats_url import settings_of
from tertulia.records import Finding
from tertulia.testing import ManualClock
from tests.nats.server import Cluster, Server, call, fresh_space, remove_space, shared_cluster, shared_server
from tests.profile import campaign

PATIENCE = 30.0  # seconds for what takes one
TOLD = """
accounts {
  SYS: { users: [{ user: "sys", password: "x" }], exports: [{ service: "$SYS.REQ.SERVER.PING.JSZ" }] }
  ONE: {
    jetstream: { max_store: 200000, max_mem: 1000000 }, users: [{ user: "one", password: "x" }]
    imports: [{ service: { account: SYS, subject: "$SYS.REQ.SERVER.PING.JSZ" } }]
  }
}
system_account: SYS
"""


class Synced(Server):
    """A server that syncs at its own pace, and tells the account ONE of it."""

    def __init__(self, interval: str) -> None:
        super().__init__(TOLD)
        self._interval = interval

    def _lines(self) -> list[str]:
        return [
            line.replace("jetstream {", f"jetstream {{ sync_interval: {self._interval},")
            if line.startswith("jetstream")
            else line
            for line in super()._lines()
        ]


async def findings(space: Space) -> dict[str, Finding]:
    return {finding.subject: finding for finding in await space.doctor()}


async def test_a_space_on_a_server_with_defaults_has_no_problems_and_says_what_to_know(url: str):
    async with connect(url) as space:
        found = await findings(space)
    assert [one.subject for one in found.values() if one.level == "problem"] == []
    notes = {one.subject for one in found.values() if one.level == "note"}
    assert notes == {"replicas", "durability", "permissions"}
    assert "JetStream API level" in found["server"].detail
    assert "every 2 minutes by default (what it is set to is not told)" in found["durability"].detail
    assert found["connection"].detail == "reconnects for ever, each 0.1 s, to 1 server; a call is tried for 10 s"
    assert "1,000 changes" in found["history"].detail


@pytest.mark.parametrize(
    ("interval", "level", "words"),
    [("always", "ok", "survives power cuts"), ('"7s"', "note", "sync to the disk every 7 s, so a power cut may take")],
)
async def test_how_often_the_server_syncs_is_said_where_it_tells(interval: str, level: str, words: str):
    with Synced(interval) as server:
        async with connect(f"{server.url.replace('//', '//one:x@')}/team") as space:
            found = await findings(space)
    assert found["durability"].level == level
    assert words in found["durability"].detail


async def test_an_account_that_is_nearly_full_is_a_problem_before_writes_fail():
    with Synced("always") as server:
        async with connect(f"{server.url.replace('//', '//one:x@')}/team") as space:
            assert (await findings(space))["room"].level == "ok"
            await space.memory.write("large", b"x" * 185_000, owner="ada")
            found = await findings(space)
    assert found["room"].level == "problem"
    assert "of 200,000 bytes that this account may store: writes will fail soon" in found["room"].detail


@pytest.mark.parametrize("history", [False, True], ids=["of the space", "of its history"])
async def test_a_stream_that_was_opened_to_rollups_is_a_problem_and_the_command_fails(url: str, history: bool):  # noqa: FBT001
    subjects, settings = Subjects(url.rpartition("/")[2]), settings_of(url, {})
    config = history_config(subjects, settings, 1, "file") if history else stream_config(subjects, settings)
    async with connect(url) as space:
        client = await nats.connect(shared_server().url)
        changed = {**config, "allow_rollup_hdrs": True}
        assert "error" not in await call(client, f"STREAM.UPDATE.{config['name']}", changed)
        found = await findings(space)
        if history:  # the command opens the space, which refuses a stream that is so
            result = await asyncio.to_thread(CliRunner().invoke, app, ["doctor", "--url", url, "--json"])
            assert result.exit_code == 1
            assert {"problem"} == {
                one["level"]
                for one in map(json.loads, result.stdout.splitlines())
                if "allow_rollup_hdrs" in one["detail"]
            }
        assert "error" not in await call(client, f"STREAM.UPDATE.{config['name']}", config)
        await client.close()
    assert found["stream"].level == "problem"
    assert found["stream"].detail == ("of the history, " if history else "") + "allow_rollup_hdrs is on"


async def test_a_clock_that_is_off_is_a_problem(url: str):
    async with connect(url, clock=ManualClock()) as space:
        assert (await findings(space))["clock"].level == "problem"


async def test_an_agent_that_the_server_does_not_hold_to_anything_is_a_problem(url: str):
    async with connect(url):
        pass
    async with connect(url, agent="ada") as space:
        found = await findings(space)
    assert found["permissions"].level == "problem"
    assert "lets 'ada' read everything" in found["permissions"].detail


async def test_replicas_that_keep_up_are_said_and_servers_that_the_url_does_not_name():
    cluster, name = shared_cluster(), fresh_space()
    async with connect(f"{cluster.url}/{name}?replicas=3") as space:
        found = await findings(space)
        assert found["replicas"].level == "ok"
        assert found["replicas"].detail.endswith(f"survives the loss of 1; {await _leader(space)} leads")
        assert found["connection"].level == "ok"
    await remove_space(f"{cluster.url}/{name}")


@pytest.mark.parametrize(
    ("replica", "words"),
    [
        ({"name": "n2", "current": False, "offline": True, "active": 9_000_000_000, "lag": 3}, "n2 is offline"),
        ({"name": "n2", "current": False, "active": 1_000_000}, "n2 is 0 writes behind"),
        ({"name": "n2", "current": True, "active": 1_000_000, "lag": 50_000}, "n2 is 50,000 writes behind"),
    ],
)
def test_a_replica_that_does_not_keep_up_is_a_problem(replica: dict[str, Any], words: str):
    good = {"name": "n1", "current": True, "active": 1_000_000}
    info = StreamInfo(cluster={"leader": "n0", "replicas": [good, replica]})
    found = _replicas(info, 3)
    assert (found.level, found.detail) == ("problem", f"3, of which {words}: another loss may stop all writes")


@pytest.mark.campaign
@pytest.mark.skipif(not campaign(), reason="servers take ten seconds to miss one of them: left to campaigns")
async def test_a_replica_that_is_killed_is_a_problem():
    with Cluster() as cluster:
        async with connect(f"{cluster.url}/team?replicas=3") as space:
            leader = await _leader(space)
            lost = next(one for one in cluster.servers if one.name != leader and not _leads_all(one))
            lost.kill()
            async with asyncio.timeout(PATIENCE):
                while not (one := (await findings(space)).get("replicas")) or one.level != "problem":
                    pass  # it asks the servers each time
            assert one.detail.startswith(f"3, of which {lost.name} is ")


def _leads_all(server: Server) -> bool:
    """Tell whether a server says that it leads the cluster: without it, all else takes an election longer."""
    return server.log.rpartition("metadata leader")[0].endswith("Self is new JetStream cluster ")


async def _leader(space: Any) -> str:
    return (await space.engine._store.info()).cluster["leader"]  # noqa: SLF001 - it is told nowhere else
