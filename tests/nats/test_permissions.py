"""What `tertulia nats permissions` writes, enforced by a real server against honest and dishonest programs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import nats
import nkeys
import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from tertulia import (
    DeliveryMode,
    MemoryAccessMode,
    MemoryRegion,
    Message,
    MessagePassingAgent,
    Space,
    connect,
)
from tertulia.cli.app import app
from tertulia.engines._nats_permissions import server_configuration
from tertulia.engines._nats_team import read_team
from tertulia.engines.base import Commit, Put, Send
from tertulia.errors import (
    AccessDeniedError,
    EngineError,
    InvalidInputError,
    MailboxFullError,
    MissingExtraError,
    RemoteError,
    UnknownAgentError,
)
from tests.nats.server import Cluster, Server

PATIENCE = 30.0  # seconds for what should happen at once: half of what the handles would try for
TEAM = """
space = "team"

[agents.ada]
sends = ["bob", "planner"]
regions = { plans = "read_write", notes = "exclusive" }
keys = { "shared:*" = "read_write", "status" = "read" }

[agents.bob]
sends = ["ada"]
regions = { plans = "read", notes = "read_write" }

[agents.mallory]
sends = ["bob"]
"""
PASSWORDS = {"operator": "o-1", "ada": "a-1", "bob": "b-1", "mallory": "m-1"}


NKEY = "UCNGL4W5QX66CFX6A6DCBVDH5VOHMI7B2UZZU7TXAUQQSI2JPHULCKBR"
HASH = "$2b$04$.M1LfyWSU4FybFIKxsXGceom4Srqq.QGb4vl/l8gAAsauyG2YrFQW"  # of "right", made for this test


async def soon(work: Any) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await work


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        for name, password in PASSWORDS.items():
            patch.setenv(f"TERTULIA_PASSWORD_{name.upper()}", password)
        with Server(server_configuration(read_team(TEAM))) as server:
            yield server


def url_of(server: Server, name: str) -> str:
    return f"{server.url.replace('//', f'//{name}:{PASSWORDS[name]}@')}/team"


def as_agent(server: Server, name: str) -> Any:
    return connect(f"{url_of(server, name)}?agent={name}&timeout=60")


@pytest.fixture
async def operator(server: Server) -> Any:
    async with connect(url_of(server, "operator")) as space:
        for region in ("plans", "notes"):
            await MemoryRegion(region, space.memory).grant_access("ada", MemoryAccessMode.READ_WRITE)
        await MemoryRegion("plans", space.memory).grant_access("bob", MemoryAccessMode.READ)
        yield space


# --- what is allowed -----------------------------------------------------------------------------


async def test_agents_share_memory_as_far_as_they_may(server: Server, operator: Space):
    async with as_agent(server, "ada") as ada, as_agent(server, "bob") as bob:
        plans, seen = MemoryRegion("plans", ada.memory), MemoryRegion("plans", bob.memory)
        async with seen.watch(agent_id="bob") as changes:
            await plans.write("today", "swim", agent_id="ada")
            await plans.update("today", "run", agent_id="ada", expected_version=1)
            assert [(await soon(anext(changes))).value for _ in range(2)] == ["swim", "run"]
        assert await seen.read("today", agent_id="bob") == "run"
        assert await seen.list_keys(agent_id="bob") == ["today"]
        for number in range(100):
            await ada.memory.write(f"shared:{number:02}", number, owner="ada")
        assert len(await ada.memory.list_keys("shared:*")) == 100
        await operator.memory.write("status", "open", owner="operator")
        assert await ada.memory.read("status", reader="ada") == "open"
        async with ada.transaction() as tx:
            tx.write("shared:00", "one", owner="ada")
            tx.write("shared:01", "commit", owner="ada")
        assert await operator.memory.read("shared:01", reader="operator") == "commit"
        assert await plans.delete("today", agent_id="ada")


async def test_a_watch_resumes_where_it_was(server: Server, operator: Space):
    async with as_agent(server, "ada") as ada:
        first = await ada.memory.write("shared:x", 0, owner="ada")
        await operator.memory.write("shared:y", 1, owner="operator")
        await ada.memory.write("shared:z", 2, owner="ada")
        async with ada.memory.watch("shared:*", after=first.revision) as changes:
            assert [(await soon(anext(changes))).key for _ in range(2)] == ["shared:y", "shared:z"]


async def test_an_exclusive_region_is_free_again_for_those_who_may_not_end_its_holders_lease(
    server: Server, operator: Space
):
    await MemoryRegion("notes", operator.memory).grant_access("bob", MemoryAccessMode.READ_WRITE)
    async with as_agent(server, "ada") as ada:
        notes = MemoryRegion("notes", ada.memory)
        await notes.grant_access("ada", MemoryAccessMode.EXCLUSIVE, lease=0.5)
        await notes.write("k", "held", agent_id="ada")
    async with as_agent(server, "bob") as bob, asyncio.timeout(PATIENCE):
        notes = MemoryRegion("notes", bob.memory)
        while (refusal := await _refusal(notes.write("k", "free", agent_id="bob"))) is not None:
            assert refusal.why == "'ada' holds it exclusively"
            await asyncio.sleep(0.05)  # until the lease is over
        assert await notes.read("k", agent_id="bob") == "free"


@pytest.mark.usefixtures("operator")
async def test_agents_send_ask_and_answer_as_far_as_they_may(server: Server):
    async with as_agent(server, "ada") as ada, as_agent(server, "bob") as bob:
        helper = MessagePassingAgent("bob", bob.broker)

        @helper.on_message("add")
        async def add(message: Message) -> int:
            return message.content["a"] + message.content["b"]

        @helper.on_message("fail")
        async def fail(_: Message) -> None:
            raise ValueError("no")

        asker = MessagePassingAgent("ada", ada.broker)
        async with helper, asker:
            for mode in DeliveryMode:
                question = {"type": "add", "a": 1, "b": len(mode.value)}
                assert await soon(asker.request("bob", question, delivery_mode=mode)) == 1 + len(mode.value)
            with pytest.raises(RemoteError, match="'bob' failed with ValueError: no"):
                await soon(asker.request("bob", {"type": "fail"}))
            assert [one.message.sender for one in await bob.broker.dead_letters("bob")] == ["ada"]
            with pytest.raises(UnknownAgentError):
                await soon(asker.send("planner", "nobody looks after this mailbox"))


async def test_the_operators_own_agents_are_reached_and_reach_others(server: Server, operator: Space):
    async with as_agent(server, "ada") as ada:
        planner, asker = MessagePassingAgent("planner", operator.broker), MessagePassingAgent("ada", ada.broker)

        @planner.on_message("plan")
        async def plan(message: Message) -> str:
            return f"for {message.sender}"

        @asker.on_message("ask")
        async def answer(message: Message) -> str:
            return f"to {message.sender}"

        async with planner, asker:
            for mode in (DeliveryMode.AT_MOST_ONCE, DeliveryMode.AT_LEAST_ONCE):
                assert await soon(asker.request("planner", {"type": "plan"}, delivery_mode=mode)) == "for ada"
                assert await soon(planner.request("ada", {"type": "ask"}, delivery_mode=mode)) == "to planner"
        await operator.broker.unregister_agent("planner")


@pytest.mark.usefixtures("operator")
async def test_a_message_comes_back_is_rejected_and_redelivered_in_its_senders_name(server: Server):
    async with as_agent(server, "ada") as ada, as_agent(server, "bob") as bob:
        await bob.broker.register_agent("bob", max_attempts=2)
        await ada.broker.send(Message(id="same", sender="ada", receiver="bob", content=1))
        async with as_agent(server, "mallory") as mallory:  # the id of another's message does not touch it
            await mallory.broker.send(Message(id="same", sender="mallory", receiver="bob", content=2))
        first, second = [await soon(bob.broker.receive("bob")) for _ in range(2)]
        assert [(one.message.sender, one.message.content) for one in (first, second)] == [("ada", 1), ("mallory", 2)]
        await second.acknowledge()
        await first.release()
        again = await soon(bob.broker.receive("bob"))
        assert (again.message.sender, again.attempt) == ("ada", 2)
        await again.reject("not now")
        assert await bob.broker.redeliver("bob", "same") == 1
        last = await soon(bob.broker.receive("bob"))
        assert last.message.sender == "ada"
        await bob.broker.acknowledge("bob", "same")
        assert await bob.broker.peek("bob") == []


@pytest.mark.usefixtures("operator")
async def test_a_sender_waits_for_room_that_it_can_see(server: Server):
    async with as_agent(server, "ada") as ada, as_agent(server, "bob") as bob:
        await bob.broker.register_agent("bob", max_queue_size=2)
        for number in range(2):
            await ada.broker.send(Message(sender="ada", receiver="bob", content=number))
        with pytest.raises(MailboxFullError):
            await ada.broker.send(Message(sender="ada", receiver="bob", content=2))
        await bob.broker.register_agent("bob", max_queue_size=1000)
        while (delivery := await bob.broker.receive("bob", timeout=0)) is not None:
            await delivery.acknowledge()


async def _refusal(call: Awaitable[object]) -> AccessDeniedError | None:
    try:
        await call
    except AccessDeniedError as error:
        return error
    return None


# --- what is not ---------------------------------------------------------------------------------


async def test_what_is_not_granted_is_refused_at_once(server: Server, operator: Space):
    await MemoryRegion("secrets", operator.memory).grant_access("mallory", MemoryAccessMode.READ_WRITE)
    async with as_agent(server, "mallory") as space:
        secrets, memory, broker = MemoryRegion("secrets", space.memory), space.memory, space.broker
        refused = {
            "a message in another's name": lambda: broker.send(Message(sender="ada", receiver="bob", content=1)),
            "the same, not stored": lambda: broker.send(
                Message(sender="ada", receiver="bob", content=1, delivery_mode=DeliveryMode.AT_MOST_ONCE)
            ),
            "the same, in one commit": lambda: space.engine.commit(_two_sends()),
            "another's mailbox": lambda: broker.send(Message(sender="mallory", receiver="ada", content=1)),
            "taking from it": lambda: broker.receive("bob", timeout=0),
            "looking into it": lambda: broker.peek("bob"),
            "changing it": lambda: broker.register_agent("bob", max_queue_size=1),
            "closing it": lambda: broker.unregister_agent("bob"),
            "a region, though the library would": lambda: secrets.write("k", 1, agent_id="mallory"),
            "reading it": lambda: secrets.read("k", agent_id="mallory"),
            "a region's permissions": lambda: secrets.grant_access("mallory", MemoryAccessMode.READ),
            "a key": lambda: memory.write("shared:k", 1, owner="mallory"),
            "reading a key": lambda: memory.read("shared:k", reader="mallory"),
            "listing": lambda: memory.list_keys("shared:nothing:is:here:*"),
            "listing all": memory.list_keys,
            "figures of all": memory.get_stats,
            "watching": lambda: space.engine.watch("shared:*"),
            "watching all": lambda: space.engine.watch("*"),
        }
        async with as_agent(server, "bob") as bob:
            await bob.broker.register_agent("bob")
        for what, call in refused.items():
            refusal = await _refusal(soon(call()))
            assert refusal is not None, f"{what} was not refused"
            assert refusal.agent_id == "mallory", what


def _two_sends() -> Any:
    return Commit(sends=(Send("bob", "1", b"", author="mallory"), Send("bob", "2", b"", author="ada")))


# --- programs that do not use the library --------------------------------------------------------


@pytest.fixture
async def raw(server: Server) -> Any:
    """Mallory, with a client of her own."""
    errors: list[str] = []

    async def on_error(error: Exception) -> None:
        errors.append(str(error))

    options: Any = {"user": "mallory", "password": PASSWORDS["mallory"], "error_cb": on_error}
    client = await nats.connect(server.url, inbox_prefix="_INBOX_mallory", **options)
    client.__dict__["errors"] = errors
    yield client
    await client.close()


async def denied(raw: Any, subject: str, payload: bytes = b"") -> bool:
    """Tell whether the server refuses a message on a subject."""
    raw.errors.clear()
    await raw.publish(subject, payload)
    await raw.request("$JS.API.INFO")  # what is answered after that; a ping of this client may overtake what it sent
    return any("permissions violation" in one and subject.lower() in one for one in raw.errors)


async def test_the_sender_of_a_message_is_who_the_server_let_send_it_whatever_the_message_says(
    server: Server, operator: Space, raw: Any
):
    await operator.broker.register_agent("bob")
    async with as_agent(server, "bob") as bob, as_agent(server, "mallory") as mallory:
        forged = operator.broker.outbox.send_of(Message(id="forged", sender="ada", receiver="bob", content="pay her"))
        await mallory.engine.send(replace(forged, author="mallory"))
        await mallory.broker.register_agent("mallory")  # so that what follows is no race for a subscription
        delivery = await soon(bob.broker.receive("bob"))
        assert (delivery.message.sender, delivery.message.content) == ("mallory", "pay her")
        await delivery.acknowledge()
    assert await denied(raw, "tertulia.team.mbx.bob.ada.forged")
    assert not await denied(raw, "tertulia.team.mbx.bob.mallory.own")


@pytest.mark.usefixtures("operator")
async def test_the_server_refuses_what_could_reach_further_than_a_subject(raw: Any):
    stream = "tertulia_team"
    for subject in (
        "tertulia.team.kv.shared.k",
        "tertulia.team.box.bob",
        f"$JS.API.STREAM.MSG.GET.{stream}",  # any message, by the request's body
        f"$JS.API.DIRECT.GET.{stream}",  # the same
        f"$JS.API.DIRECT.GET.{stream}.tertulia.team.kv.shared.k",
        f"$JS.API.DIRECT.GET.{stream}.tertulia.team.mbx.bob.ada.x",
        f"$JS.API.CONSUMER.CREATE.{stream}.c.tertulia.team.mbx.mallory.>",  # it may deliver to any subject
        f"$JS.API.STREAM.PURGE.{stream}",
        f"$JS.API.STREAM.UPDATE.{stream}",
        f"$JS.API.STREAM.MSG.DELETE.{stream}",
        f"$JS.API.STREAM.DELETE.{stream}",
        "tertulia-feed.team.kv.shared.k",
        "tertulia-live.team.now.bob.=.ada",
        "tertulia-history.team.shared.k",
        "_INBOX_bob.x",
    ):
        assert await denied(raw, subject), subject


async def test_an_answer_cannot_be_had_written_where_its_asker_may_not_write(operator: Space, raw: Any):
    await operator.memory.write("shared:k", "as it was", owner="operator")
    before = await operator.memory.read_with_metadata("shared:k", reader="operator")
    assert before is not None
    async with operator.memory.watch("shared:*") as changes:
        for reply in ("tertulia.team.kv.shared.k", "tertulia-feed.team.kv.shared.k"):
            for request in (
                "tertulia.team.mbx.bob.mallory.own",
                "$JS.API.DIRECT.GET.tertulia_team.tertulia.team.reg",
                "$JS.API.STREAM.INFO.tertulia_team",
            ):
                await raw.publish(request, b"", reply=reply)
        await raw.request("$JS.API.INFO", b"")  # answered after those before it
        await operator.memory.write("shared:end", 1, owner="operator")
        assert (await soon(anext(changes))).key == "shared:end"
    assert await operator.memory.read_with_metadata("shared:k", reader="operator") == replace(before, access_count=2)


async def test_what_is_told_of_others_is_names_and_sizes(operator: Space, raw: Any):
    """As docs/howto/nats-permissions.md says; this is not what one would wish, but what a server can do."""
    await operator.memory.write("shared:name-is-seen", "content is not", owner="operator")
    answer = await raw.request("$JS.API.STREAM.INFO.tertulia_team", json.dumps({"subjects_filter": ">"}).encode())
    assert b"name-is-seen" in answer.data
    assert b"content is not" not in answer.data


# --- what is written -----------------------------------------------------------------------------


def test_no_password_is_written_and_each_user_logs_in_as_described():
    team = read_team(
        TEAM.replace("[agents.ada]", f'[agents.ada]\nnkey = "{NKEY}"').replace(
            "[agents.bob]", f"[agents.bob]\npassword_hash = '{HASH}'"
        )
    )
    text = server_configuration(team)
    assert f'nkey: "{NKEY}"' in text
    assert f'password: "{HASH}"' in text
    assert "password: $TERTULIA_PASSWORD_MALLORY" in text
    assert "password: $TERTULIA_PASSWORD_OPERATOR" in text
    assert "TERTULIA_PASSWORD_ADA" not in text


async def test_a_hash_lets_its_password_in_and_no_other(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERTULIA_PASSWORD_OPERATOR", "o-1")
    text = f'space = "team"\n[agents."odd name/1"]\npassword_hash = \'{HASH}\'\nkeys = {{ "*" = "read_write" }}'
    with Server(server_configuration(read_team(text))) as server:
        async with connect(f"{server.url.replace('//', '//operator:o-1@')}/team"):
            pass
        mine = f"{server.url.replace('//', '//odd%20name%2F1:{}@')}/team?agent=odd%20name/1"
        async with connect(mine.format("right")) as space:
            await space.memory.write("any:key", 1, owner="odd name/1")
            assert await space.memory.list_keys() == ["any:key"]
            await space.broker.register_agent("odd name/1")
            await space.broker.send(Message(sender="odd name/1", receiver="odd name/1", content="to myself"))
            delivery = await soon(space.broker.receive("odd name/1"))
            assert delivery.message.content == "to myself"
        with pytest.raises(AccessDeniedError, match="may not connect"):
            await connect(mine.format("wrong"))


@pytest.fixture
def seeds(tmp_path: Path) -> list[tuple[Path, str]]:
    """Files with the seeds of two users, and their public keys."""
    made: list[tuple[Path, str]] = []
    for number in range(2):
        seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
        path = tmp_path / f"{number}.nk"
        path.write_bytes(seed + b"\n")
        pair: Any = nkeys.from_seed(bytearray(seed))
        made.append((path, pair.public_key.decode()))
    return made


async def test_an_nkey_lets_its_owner_in_and_no_other(
    monkeypatch: pytest.MonkeyPatch, seeds: list[tuple[Path, str]], tmp_path: Path
):
    monkeypatch.setenv("TERTULIA_PASSWORD_OPERATOR", "o-1")
    (mine, public), (other, _) = seeds
    broken = tmp_path / "broken.nk"
    broken.write_text("SUNOTASEED")
    text = f'space = "team"\n[agents.ada]\nnkey = "{public}"\nkeys = {{ "*" = "read_write" }}'
    with Server(server_configuration(read_team(text))) as server:
        async with connect(f"{server.url.replace('//', '//operator:o-1@')}/team"):
            pass
        url = f"{server.url}/team?agent=ada&nkey="
        async with connect(f"{url}{mine}") as space:
            await space.memory.write("any:key", 1, owner="ada")
            assert await space.memory.list_keys() == ["any:key"]
        with pytest.raises(AccessDeniedError, match="may not connect"):
            await connect(f"{url}{other}")
        for unusable in (broken, tmp_path / "none.nk"):
            with pytest.raises(InvalidInputError, match="cannot be used"):
                await connect(f"{url}{unusable}")
        monkeypatch.setitem(sys.modules, "nkeys", None)
        with pytest.raises(MissingExtraError, match=r"tertulia\[nkeys\]"):
            await connect(f"{url}{mine}")


async def test_agents_keep_to_their_permissions_on_three_replicas(monkeypatch: pytest.MonkeyPatch):
    for name, password in PASSWORDS.items():
        monkeypatch.setenv(f"TERTULIA_PASSWORD_{name.upper()}", password)
    with Cluster(server_configuration(read_team(TEAM))) as cluster:
        servers: Any = cluster  # whose URL is made from as that of one
        async with connect(f"{url_of(servers, 'operator')}?replicas=3&timeout=60") as operator:
            await MemoryRegion("plans", operator.memory).grant_access("ada", MemoryAccessMode.READ_WRITE)
            await MemoryRegion("plans", operator.memory).grant_access("bob", MemoryAccessMode.READ)
            async with as_agent(servers, "ada") as ada, as_agent(servers, "bob") as bob:
                await MemoryRegion("plans", ada.memory).write("today", "swim", agent_id="ada")
                assert await MemoryRegion("plans", bob.memory).read("today", agent_id="bob") == "swim"
                with pytest.raises(AccessDeniedError):
                    await bob.engine.put(Put("region:plans:today", b"", "bob"))
                await bob.broker.register_agent("bob")
                for mode in (DeliveryMode.AT_LEAST_ONCE, DeliveryMode.EXACTLY_ONCE):
                    await ada.broker.send(Message(sender="ada", receiver="bob", content=mode.value, delivery_mode=mode))
                    delivery = await soon(bob.broker.receive("bob"))
                    assert delivery.message.content == mode.value
                    await delivery.acknowledge()
                assert await bob.broker.peek("bob") == []
                with pytest.raises(AccessDeniedError):
                    await bob.engine.send(Send("mallory", "x", b"", author="bob"))


async def test_an_agent_cannot_make_the_space_and_says_who_can(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERTULIA_PASSWORD_OPERATOR", "o-1")
    monkeypatch.setenv("TERTULIA_PASSWORD_ADA", "a-1")
    with (
        Server(server_configuration(read_team('space = "team"\n[agents.ada]'))) as server,
        pytest.raises(EngineError, match="no space 'team' yet: its operator has to open it first"),
    ):
        await connect(f"{server.url.replace('//', '//ada:a-1@')}/team?agent=ada")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("space = ", "is no TOML"),
        ('space = "a b"\n[agents.x]', "a space is named by"),
        ('space = "team"', "names no agents"),
        ('space = "team"\n[agents.x]\nsend = ["y"]', r"unknown field `send` - at `\$.agents\[...\]`"),
        ('space = "team"\n[agents.x]\nregions = { a = "all" }', "Invalid enum value 'all'"),
        ('space = "team"\n[agents.x]\nkeys = { "a*" = "read" }', "cannot be granted"),
        ('space = "team"\n[agents.x]\nkeys = { "a:*" = "exclusive" }', "is no region"),
        ('space = "team"\n[agents.x]\nnkey = "SUAA"', "is not the public key of a user"),
        ('space = "team"\n[agents.x]\npassword_hash = "secret"', "is not a bcrypt hash"),
        ('space = "team"\n[agents."a:b"]', "':' separates the levels"),
        ('space = "team"\n[agents.operator]', "both the operator and an agent"),
        ('space = "team"\n[agents."a b"]\n[agents."a-b"]', "two users' passwords would be"),
    ],
)
def test_a_description_that_is_wrong_is_refused_with_what_is_wrong(text: str, words: str):
    with pytest.raises(InvalidInputError, match=words):
        server_configuration(read_team(text))


def test_a_subject_is_imported_once_however_often_it_is_granted():
    """What is imported twice comes twice: a message would be stored, or a change be seen, two times."""
    text = 'space = "team"\n[agents.x]\nkeys = { "*" = "read_write", "region:a:*" = "read" }\nregions = { a = "read" }'
    configuration = server_configuration(read_team(text))
    imported = re.findall(r"(?:service|stream): \{ account: \"tertulia/team\", subject: \"([^\"]+)\"", configuration)
    assert "tertulia.team.kv.>" in imported
    for one in imported:
        shadows = [other for other in imported if other != one and other.endswith(">") and one.startswith(other[:-1])]
        assert not shadows, one
    assert len(imported) == len(set(imported))


def test_the_command_writes_the_same_from_a_description_and_from_options(tmp_path: Path):
    (tmp_path / "team.toml").write_text(
        'space = "team"\n[agents.ada]\nsends = ["*"]\nregions = { plans = "read_write", notes = "read" }\n'
        '[agents.bob]\nsends = ["*"]\nregions = { plans = "read_write" }\nkeys = { "a=b:*" = "read" }'
    )
    options = ["--space", "team", "--agent", "ada", "--agent", "bob", "--region", "plans", "--region", "notes=ada:read"]
    options += ["--key", "a=b:*=bob:read", "--output", str(tmp_path / "permissions.conf")]
    described = CliRunner().invoke(app, ["nats", "permissions", str(tmp_path / "team.toml")])
    asked = CliRunner().invoke(app, ["nats", "permissions", *options])
    assert (described.exit_code, asked.exit_code, asked.stdout) == (0, 0, "")
    assert described.stdout == (tmp_path / "permissions.conf").read_text()
    assert 'subject: "tertulia.team.kv.region.plans.>"' in described.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "describe the space in a FILE"),
        (["--space", "team", "--agent", "ada", "--region", "plans=bob:read"], "'bob' is not an --agent"),
        (["--space", "team", "--agent", "ada", "--region", "plans=ada:all"], "MODE is one of read, write"),
        (["--space", "team", "--agent", "ada", "--nkey", "bob=U"], "there is no user 'bob'"),
        (["no-such.toml"], "No such file"),
        (["no-such.toml", "--space", "team"], "FILE describes the space"),
    ],
)
def test_the_command_says_what_it_was_not_told(options: list[str], words: str):
    result = CliRunner().invoke(app, ["nats", "permissions", *options])
    assert result.exit_code == 2
    assert words in result.stderr


async def test_doctor_sees_that_the_server_holds_an_agent_to_what_it_may_do(server: Server, operator: Space):
    async with as_agent(server, "mallory") as mallory:
        findings = {one.subject: one for one in await mallory.doctor()}
    assert findings["permissions"].detail == "the server holds 'mallory' to what it may do"
    assert {one.level for one in findings.values()} == {"ok", "note"}
    assert {one.subject: one for one in await operator.doctor()}["permissions"].level == "note"
