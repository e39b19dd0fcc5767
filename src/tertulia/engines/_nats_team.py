"""Who is in a space on NATS and may do what there: the description that a server's permissions are made from.

It is TOML, or made of the same parts by a program:

    space = "team"

    [operator]                                # may do everything in the space, makes it, grants access to regions
    name = "operator"

    [agents.ada]
    sends = ["bob"]                           # whose mailboxes it may send to; "*": those of all agents
    regions = { plans = "read_write" }        # read, write, read_write, exclusive
    keys = { "shared:*" = "read" }            # a key, or all below a level; read, write, read_write
    nkey = "UCNGL4W5QX66CFX6A6DCBVDH5VOHMI7B2UZZU7TXAUQQSI2JPHULCKBR"

Each user logs in with an `nkey`, with a password whose bcrypt hash is `password_hash`, or, without either, with a
password that the server takes from its environment: passwords themselves are written nowhere.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable

import msgspec
from msgspec import Struct

from tertulia._names import check_name, is_pattern, text_fault
from tertulia.engines._nats_subjects import SPACE_NAME
from tertulia.errors import InvalidInputError
from tertulia.records import MemoryAccessMode

OPERATOR = "operator"
EVERYBODY = "*"
MAX_AGENTS = 500  # each has an account on the server, which knows of all others' that it may send to
_NKEY = re.compile(r"U[A-Z2-7]{55}")  # of a user; its seed begins with SU, and stays with the user
_BCRYPT = re.compile(r"\$2[abxy]\$\d\d\$[./A-Za-z0-9]{53}")  # what the server takes for a hash and not for a password
_KEY = re.compile(r"(?:[^*?\[]+:)?\*|[^*?\[]+")
_MAX_KEY_BYTES = 512


class Login(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a user proves who it is; with neither, by a password from the server's environment."""

    nkey: str | None = None
    password_hash: str | None = None


class Operator(Login, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may do everything in the space."""

    name: str = OPERATOR


class AgentGrants(Login, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an agent may do besides what concerns its own mailbox."""

    sends: tuple[str, ...] = ()
    regions: dict[str, MemoryAccessMode] = msgspec.field(default_factory=dict[str, MemoryAccessMode])
    keys: dict[str, MemoryAccessMode] = msgspec.field(default_factory=dict[str, MemoryAccessMode])


class Team(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A space and its users. Checked by `checked`."""

    space: str
    operator: Operator = Operator()
    agents: dict[str, AgentGrants] = msgspec.field(default_factory=dict[str, AgentGrants])

    def receivers(self, agent: str) -> list[str]:
        """Return whose mailboxes an agent may send to: its own, too, and `*` stands for all agents."""
        sends = self.agents[agent].sends
        names = [one for one in sends if one != EVERYBODY] + (list(self.agents) if EVERYBODY in sends else [])
        return sorted({agent, *names})


def read_team(text: str) -> Team:
    """Return the team that a TOML text describes. Raises InvalidInputError, with the place of what is wrong."""
    try:
        return checked(msgspec.convert(tomllib.loads(text), Team))
    except tomllib.TOMLDecodeError as error:
        raise InvalidInputError(f"the description is no TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise InvalidInputError(f"the description is not as it should be: {error}") from error


def checked(team: Team) -> Team:
    """Return the team. Raises InvalidInputError for what no server could be told."""
    if not SPACE_NAME.fullmatch(team.space):
        raise InvalidInputError(f"a space is named by 1 to 64 letters, digits, '-' or '_', not {team.space!r}")
    if not team.agents:
        raise InvalidInputError("the description names no agents")
    if len(team.agents) > MAX_AGENTS:
        raise InvalidInputError(f"there may be {MAX_AGENTS:,} agents, not {len(team.agents):,}")
    if team.operator.name in team.agents:
        raise InvalidInputError(f"{team.operator.name!r} is both the operator and an agent")
    _check_login(check_name(team.operator.name), team.operator)
    for name, grants in team.agents.items():
        _check_login(check_name(name), grants)
        for receiver in grants.sends:
            if receiver != EVERYBODY:
                check_name(receiver)
        for region in grants.regions:
            check_name(region)
        _check_keys(name, grants.keys.items())
    return team


def _check_login(name: str, login: Login) -> None:
    if login.nkey is not None and login.password_hash is not None:
        raise InvalidInputError(f"{name!r} logs in with an nkey or with a password, not with both")
    if login.nkey is not None and not _NKEY.fullmatch(login.nkey):
        raise InvalidInputError(f"the nkey of {name!r} is not the public key of a user, which begins with U")
    if login.password_hash is not None and not _BCRYPT.fullmatch(login.password_hash):
        raise InvalidInputError(f"the password_hash of {name!r} is not a bcrypt hash, as $2a$11$… ")


def _check_keys(name: str, keys: Iterable[tuple[str, MemoryAccessMode]]) -> None:
    for pattern, mode in keys:
        fault = text_fault(pattern, _MAX_KEY_BYTES)
        if fault or not _KEY.fullmatch(pattern) or is_pattern(pattern.removesuffix("*")):
            raise InvalidInputError(
                f"what {name!r} may do with {pattern!r} cannot be granted: {fault or 'a server knows keys, and all below a level: `a:b`, `a:*`, `*`'}"  # noqa: E501
            )
        if mode is MemoryAccessMode.EXCLUSIVE:
            raise InvalidInputError(f"{pattern!r} is no region, so {name!r} cannot hold it exclusively")
