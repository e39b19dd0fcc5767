"""The configuration by which a NATS server holds each agent of a space to what it may do.

Each agent has an account of its own, into which the subjects that it may use are imported from the space's account, and
a user who may use those and no others. Permissions alone would not do: a server answers wherever a request says that it
wants its answer, with no look at whether the asker may write there, so within one account any reader could have it
write over others' keys. In an account of its own an answer reaches nobody else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from tertulia.engines._nats_subjects import Subjects, key_tokens, token
from tertulia.engines._nats_team import AgentGrants, Login, Team
from tertulia.engines._nats_url import own_inbox
from tertulia.engines.base import DEAD_LETTERS
from tertulia.errors import InvalidInputError
from tertulia.records import MemoryAccessMode

ANSWER = (
    "1m"  # how long after a message was handed over its receiver may say so: sixty times as long as it is waited for
)
_READS = "$JS.API.DIRECT.GET"
_INFO = "$JS.API.INFO"
_HEAD = """\
# What each agent of the space {space!r} may do, for nats-server 2.12 or later.
# Written by `tertulia nats permissions`; better written anew than changed by hand.
#
# Into the server's configuration, beside `jetstream {{ store_dir: "..." }}`:
#
#     include "{file}"
#
# The operator opens the space once, which makes it:
#     tertulia doctor --url nats://{operator}:PASSWORD@HOST/{space}
# An agent then connects by its name:
#     nats://NAME:PASSWORD@HOST/{space}?agent=NAME
"""


class _Grant:
    """The subjects that one agent may use. `imports`: from which account those that are not its own come."""

    def __init__(self) -> None:
        self.publish: dict[str, str] = {}  # subject: the account that has it, "" for its own
        self.subscribe: dict[str, str] = {}


class _Writer:
    """Works out the subjects of one team."""

    def __init__(self, team: Team) -> None:
        self.team = team
        self.subjects = subjects = Subjects(team.space)
        self.root, self.live = subjects.root, subjects.live
        self.space_account = f"tertulia/{team.space}"
        self._info = f"$JS.API.STREAM.INFO.{subjects.stream}"
        self._history_info = f"$JS.API.STREAM.INFO.{subjects.history_stream}"

    def account(self, agent: str) -> str:
        """Return the account of an agent; of one that is not described, the space's: the operator looks after it."""
        return f"{self.space_account}/{token(agent)}" if agent in self.team.agents else self.space_account

    # --- what an agent may do ---

    def grant(self, agent: str) -> _Grant:
        """Return all that an agent may do."""
        grant, grants = _Grant(), self.team.agents[agent]
        for subject in (_INFO, self._info, self._history_info):
            grant.publish[subject] = self.space_account
        for kind in ("reg", "chk"):
            self._write(grant, f"{self.root}.{kind}")
        for kind in ("reg", "chk", "box.*", "lsn.*.*.*"):
            self._read(grant, f"{self.root}.{kind}")
        self._grant_own(grant, agent)
        for receiver in self.team.receivers(agent):
            self._grant_sending(grant, agent, receiver)
        self._grant_answering(grant, agent)
        self._grant_memory(grant, grants)
        grant.publish, grant.subscribe = _widest(grant.publish), _widest(grant.subscribe)
        return grant

    def _grant_own(self, grant: _Grant, agent: str) -> None:
        me, root = token(agent), self.root
        for mailbox in (me, token(DEAD_LETTERS + agent)):
            self._write(grant, f"{root}.box.{mailbox}")
            self._write(grant, f"{root}.mbx.{mailbox}.*.*")
            self._read(grant, f"{root}.mbx.{mailbox}.*.*")
        self._write(grant, f"{root}.lsn.rep.{me}.*")
        self._write(grant, f"{root}.ltr.rep.{me}.*.*.*")
        self._read(grant, f"{root}.ltr.rep.{me}.*.*.*")
        for subject in self.heard(agent):
            grant.subscribe[subject] = ""
        grant.publish[f"{own_inbox(agent)}.>"] = grant.subscribe[f"{own_inbox(agent)}.>"] = ""

    def heard(self, agent: str) -> tuple[str, str]:
        """Return where an agent hears what is handed to it: messages that are not stored, and replies."""
        return f"{self.live}.now.{token(agent)}.=.*", f"{self.live}.rep.{token(agent)}.*.*"

    def _grant_sending(self, grant: _Grant, agent: str, receiver: str) -> None:
        me = token(agent)
        for mailbox in (receiver, DEAD_LETTERS + receiver):  # the latter where a message goes in circles
            self._write(grant, f"{self.root}.mbx.{token(mailbox)}.{me}.*")
            self._read(grant, f"{self.root}.mbx.{token(mailbox)}.{me}.*")
        self._hand(grant, agent, receiver, f"now.{token(receiver)}.=.{me}")

    def _grant_answering(self, grant: _Grant, agent: str) -> None:
        me = token(agent)
        for asker in ["", *[one for one in self.team.agents if agent in self.team.receivers(one)]]:
            self._write(grant, f"{self.root}.ltr.rep.{token(asker)}.*.{me}.*")
            self._hand(grant, agent, asker, f"rep.{token(asker)}.*.{me}")

    def _hand(self, grant: _Grant, agent: str, to: str, tail: str) -> None:
        grant.publish[f"{self.live}.{tail}"] = "" if to == agent else self.account(to)

    def _grant_memory(self, grant: _Grant, grants: AgentGrants) -> None:
        modes = MemoryAccessMode
        for region, mode in grants.regions.items():
            self._read(grant, self._keys(f"_tertulia:region:{region}:*"))
            if mode is modes.EXCLUSIVE:
                self._write_keys(grant, f"_tertulia:region:{region}:exclusive")
            self._grant_keys(grant, f"region:{region}:*", mode)
        for pattern, mode in grants.keys.items():
            self._grant_keys(grant, pattern, mode)

    def _grant_keys(self, grant: _Grant, pattern: str, mode: MemoryAccessMode) -> None:
        self._read(grant, self._keys(pattern))  # a write states what it replaces, so it needs to see that
        if mode is not MemoryAccessMode.READ:
            self._write_keys(grant, pattern)

    def _write_keys(self, grant: _Grant, pattern: str) -> None:
        self._write(grant, self._keys(pattern))
        self._write(grant, _tokens(f"{self.subjects.history}.", pattern))

    def _keys(self, pattern: str) -> str:
        return _tokens(f"{self.root}.kv.", pattern)

    def _write(self, grant: _Grant, subject: str) -> None:
        grant.publish[subject] = self.space_account

    def _read(self, grant: _Grant, subject: str) -> None:
        grant.publish[f"{_READS}.{self.subjects.stream}.{subject}"] = self.space_account
        grant.subscribe[self.subjects.fed(subject)] = self.space_account

    # --- the configuration ---

    def configuration(self, file: str) -> str:
        """Return the whole file."""
        team = self.team
        head = _HEAD.format(space=team.space, file=file, operator=team.operator.name)
        accounts = [self._space_account(), *[self._agent_account(agent) for agent in team.agents]]
        return head + "accounts {\n" + "".join(accounts) + "}\n"

    def _space_account(self) -> str:
        subjects, team = self.subjects, self.team
        everybody = [self.account(agent) for agent in team.agents]
        services = (
            _INFO,
            self._info,
            self._history_info,
            f"{_READS}.{subjects.stream}.>",
            f"{self.root}.>",
            subjects.all_changes,
            f"{self.live}.now.>",
            f"{self.live}.rep.{token('')}.>",
        )
        exports = [_export("service", one, everybody) for one in services]
        exports.append(_export("stream", f"{subjects.feed}.>", everybody))
        imports = [_import("service", one, self.account(agent)) for agent in team.agents for one in self.heard(agent)]
        user = _user(team.operator.name, team.operator)
        return _account(self.space_account, ["jetstream: enabled"], [user], exports, imports)

    def _agent_account(self, agent: str) -> str:
        grant = self.grant(agent)
        others = [self.space_account, *[self.account(one) for one in self.team.agents if one != agent]]
        exports = [_export("service", one, others) for one in self.heard(agent)]
        imports = [_import("service", one, account) for one, account in grant.publish.items() if account]
        imports += [_import("stream", one, account) for one, account in grant.subscribe.items() if account]
        permissions = (
            f"permissions: {{\n        publish: {{ allow: {_list(grant.publish, 10)} }}\n"
            f"        subscribe: {{ allow: {_list(grant.subscribe, 10)} }}\n"
            f"        allow_responses: {{ max: 1, expires: {_quoted(ANSWER)} }}\n      }}"
        )
        user = _user(agent, self.team.agents[agent], permissions)
        return _account(self.account(agent), [], [user], exports, imports)


def server_configuration(team: Team, *, file: str = "permissions.conf") -> str:
    """Return the configuration, to be included as `file` by the server's own.

    Raises InvalidInputError where two users' passwords would have one name in the server's environment.
    """
    names = [team.operator.name, *team.agents]
    logins: list[Login] = [team.operator, *team.agents.values()]
    unset = [password_variable(name) for name, one in zip(names, logins, strict=True) if _is_open(one)]
    for variable in unset:
        if unset.count(variable) > 1:
            raise InvalidInputError(f"two users' passwords would be ${variable}: give one an nkey or a password_hash")
    return _Writer(team).configuration(file)


def password_variable(name: str) -> str:
    """Return the variable of the server's environment that has a user's password."""
    return "TERTULIA_PASSWORD_" + re.sub(r"[^A-Z0-9]", "_", name.upper())


def _is_open(login: Login) -> bool:
    return login.nkey is None and login.password_hash is None


def _tokens(prefix: str, pattern: str) -> str:
    """Return the subject of a key, or a filter for all below a level."""
    if pattern == "*":
        return f"{prefix}>"
    if pattern.endswith(":*"):
        return f"{prefix}{key_tokens(pattern[:-2])}.>"
    return prefix + key_tokens(pattern)


def _widest(subjects: dict[str, str]) -> dict[str, str]:
    """Return those that no other covers: what is imported twice comes twice."""
    return {one: account for one, account in subjects.items() if not any(_covers(other, one) for other in subjects)}


def _covers(wide: str, narrow: str) -> bool:
    """Tell whether one pattern of subjects takes in all of another one."""
    if wide == narrow:
        return False
    these, those = wide.split("."), narrow.split(".")
    for number, level in enumerate(these):
        if level == ">":
            return len(those) > number
        if number >= len(those) or those[number] == ">" or level not in ("*", those[number]):
            return False
    return len(these) == len(those)


# --- the server's language -----------------------------------------------------------------------


def _quoted(text: str) -> str:
    """Return a string as the server reads it."""
    return json.dumps(text, ensure_ascii=False)


def _list(items: Iterable[str], indent: int) -> str:
    lines = [f"\n{' ' * indent}{_quoted(one)}" for one in items]
    return f"[{','.join(lines)}\n{' ' * (indent - 2)}]"


def _user(name: str, login: Login, permissions: str = "") -> str:
    if login.nkey is not None:
        said = [f"nkey: {_quoted(login.nkey)}"]
    elif login.password_hash is not None:
        said = [f"user: {_quoted(name)}", f"password: {_quoted(login.password_hash)}"]
    else:
        said = [f"user: {_quoted(name)}", f"password: ${password_variable(name)}"]
    return "{ " + ", ".join(said) + (f"\n      {permissions}" if permissions else "") + " }"


def _export(kind: str, subject: str, accounts: Iterable[str]) -> str:
    return f"{{ {kind}: {_quoted(subject)}, accounts: [{', '.join(map(_quoted, accounts))}] }}"


def _import(kind: str, subject: str, account: str) -> str:
    return f"{{ {kind}: {{ account: {_quoted(account)}, subject: {_quoted(subject)} }} }}"


def _account(name: str, lines: list[str], users: list[str], exports: list[str], imports: list[str]) -> str:
    parts = list(lines)
    for title, items in (("users", users), ("exports", exports), ("imports", imports)):
        parts.append(f"{title}: [" + "".join(f"\n      {one}" for one in items) + "\n    ]")
    return f"  {_quoted(name)}: {{" + "".join(f"\n    {one}" for one in parts) + "\n  }\n"
