"""What a `nats://` URL and its options say. Credentials stay out of every error, log line and representation."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tertulia._names import check_name
from tertulia.engines._nats_subjects import SPACE_NAME, token
from tertulia.errors import InvalidInputError, InvalidURLError

DEFAULT_PORT = 4222
STORAGES = ("file", "memory")
CONSISTENCIES = ("leader", "eventual")
REPLICAS = (1, 2, 3, 4, 5)  # what the server takes
MAX_HISTORY = 1_000_000
FORM = "it is `nats://[USER:PASSWORD@]HOST[:PORT][,HOST[:PORT]]/SPACE`"
_YES, _NO = ("1", "true", "yes"), ("0", "false", "no")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where a space is, who asks, and how.

    `replicas` and `storage` are None where the URL leaves them to whoever made the space (1 and "file" for a new one).
    `timeout`: seconds that a call tries to reach the server. `history`: changes that a watch can resume over. `agent`:
    who this is, where the server grants each agent what it needs and no more.
    """

    servers: tuple[str, ...]
    space: str
    replicas: int | None = None
    storage: str | None = None
    consistency: str = "leader"
    history: int = 1_000
    timeout: float = 10.0
    agent: str = ""
    inbox: str = "_INBOX"
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    nkey: str | None = field(default=None, repr=False)
    creds: str | None = field(default=None, repr=False)


def settings_of(url: str, options: dict[str, Any]) -> Settings:
    """Return what a URL and the arguments beside it say; an argument outweighs the URL.

    Raises InvalidURLError, InvalidInputError for an argument.
    """
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    known = {one.name for one in fields(Settings)} - {"servers", "space"}
    found: dict[str, Any] = dict(_login(login))
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in known or name in ("user", "password", "token"):
            raise InvalidURLError(url, f"it has no option {name!r}; there are {', '.join(sorted(known))}")
        found[name] = value
    if unknown := set(options) - known:
        raise InvalidInputError(f"a nats:// space has no option {min(unknown)!r}; there are {', '.join(sorted(known))}")
    found |= {name: value for name, value in options.items() if value is not None}
    tls = _tls(found.pop("tls", parts.scheme == "tls"))
    if "agent" in found and "inbox" not in found:
        found["inbox"] = own_inbox(str(found["agent"]))
    try:
        checked = {name: _CHECKS[name](name, value) for name, value in found.items()}
    except InvalidInputError as error:
        if options:
            raise
        raise InvalidURLError(url, str(error)) from None
    return Settings(servers=_servers(url, hosts), space=_space(url, parts.path), tls=tls, **checked)


def own_inbox(agent: str) -> str:
    """Return where an agent of its own permissions gets answers: nobody else may listen there."""
    return f"_INBOX_{token(agent)}"


def _login(login: str) -> dict[str, str]:
    user, colon, password = login.partition(":")
    if not user:
        return {}
    return {"user": unquote(user), "password": unquote(password)} if colon else {"token": unquote(user)}


def _servers(url: str, hosts: str) -> tuple[str, ...]:
    found = hosts.split(",")
    if not all(found):
        raise InvalidURLError(url, FORM)
    return tuple([_server(url, host) for host in found])


def _server(url: str, host: str) -> str:
    try:
        parts = urlsplit(f"//{host}")
        port = parts.port or DEFAULT_PORT
    except ValueError:
        raise InvalidURLError(url, f"{host!r} is no host and port") from None
    if not parts.hostname:
        raise InvalidURLError(url, FORM)
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"nats://{name}:{port}"


def _space(url: str, path: str) -> str:
    name = path.removeprefix("/")
    if not SPACE_NAME.fullmatch(name):
        raise InvalidURLError(url, "it names a space by 1 to 64 letters, digits, '-' or '_': nats://HOST/team")
    return name


def _tls(value: object) -> ssl.SSLContext | None:
    if isinstance(value, ssl.SSLContext):
        return value
    if isinstance(value, bool) or (isinstance(value, str) and value.lower() in (*_YES, *_NO)):
        wanted = value if isinstance(value, bool) else value.lower() in _YES
        return ssl.create_default_context() if wanted else None
    raise InvalidInputError("tls must be true, false, or an ssl.SSLContext")


# --- one check for each option ---


def _choice(choices: tuple[str, ...]) -> Any:
    def check(name: str, value: object) -> str:
        if value not in choices:
            raise InvalidInputError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
        return str(value)

    return check


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidInputError(f"{name} must be a string that is not empty")
    return value


def _agent(name: str, value: object) -> str:
    return check_name(_text(name, value))


def _path(name: str, value: object) -> str:
    return _text(name, str(value))


def _replicas(name: str, value: object) -> int:
    count = _whole(name, value)
    if count not in REPLICAS:
        raise InvalidInputError(f"{name} must be one of {', '.join(map(str, REPLICAS))}, not {value!r}")
    return count


def _history(name: str, value: object) -> int:
    count = _whole(name, value)
    if not 0 <= count <= MAX_HISTORY:
        raise InvalidInputError(f"{name} must be a number of changes from 0 to {MAX_HISTORY:,}, not {value!r}")
    return count


def _whole(name: str, value: object) -> int:
    try:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise ValueError  # noqa: TRY301, TRY004 - told as below
        return int(value)
    except ValueError:
        raise InvalidInputError(f"{name} must be a whole number, not {value!r}") from None


def _seconds(name: str, value: object) -> float:
    try:
        seconds = float(value) if isinstance(value, (int, float, str)) else 0.0
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600.0:  # noqa: PLR2004 - as said
        raise InvalidInputError(f"{name} must be from 0.1 to 3600 seconds, not {value!r}")
    return seconds


_CHECKS: dict[str, Any] = {
    "replicas": _replicas,
    "storage": _choice(STORAGES),
    "consistency": _choice(CONSISTENCIES),
    "history": _history,
    "timeout": _seconds,
    "agent": _agent,
    "inbox": _text,
    "user": _text,
    "password": _text,
    "token": _text,
    "nkey": _path,
    "creds": _path,
}
