"""The client library: how it is set up, what it means by its errors, and what has to be done for it.

It is used here and in the two modules that send and subscribe with it; its exceptions go no further.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from importlib import import_module
from pathlib import Path
from typing import Any

from nats import errors as foreign
from nats.js.api import Header

from tertulia._background import logger
from tertulia.engines._nats_patience import ATTEMPT
from tertulia.engines._nats_url import Settings
from tertulia.errors import InvalidInputError, MissingExtraError

RECONNECT_WAIT = 0.1  # seconds between attempts at one server: well within the 2 s in which watches are to resume
PING_INTERVAL = 10  # seconds; a connection that nobody calls on is found dead after three of them
STATUS, DESCRIPTION = Header.STATUS.value, Header.DESCRIPTION  # the library's own keys: one is text, one is not
_DENIED = re.compile(r"permissions violation for (publish|subscription) to \"([^\"]+)\"", re.IGNORECASE)


def options_of(settings: Settings) -> dict[str, Any]:
    """Return what the client is to connect with."""
    options: dict[str, Any] = {
        "servers": list(settings.servers),
        "name": f"tertulia {settings.space}",
        "connect_timeout": max(1, round(min(settings.timeout, 5.0))),
        "reconnect_time_wait": RECONNECT_WAIT,
        "max_reconnect_attempts": -1,
        "ping_interval": PING_INTERVAL,
        "flush_timeout": ATTEMPT,  # else a call waits for ever where the connection takes no more bytes
        "inbox_prefix": settings.inbox,
        "user": settings.user,
        "password": settings.password,
        "token": settings.token,
        "nkeys_seed": settings.nkey,
        "user_credentials": settings.creds,
        "tls": settings.tls,
    }
    return {name: value for name, value in options.items() if value is not None}


def check_login(settings: Settings) -> None:
    """See that what the user logs in with can be used. Raises MissingExtraError, InvalidInputError."""
    if settings.nkey is None and settings.creds is None:
        return
    try:
        nkeys: Any = import_module("nkeys")
    except ImportError as error:
        raise MissingExtraError("logging in with an nkey or credentials", "nkeys") from error
    if settings.nkey is not None:
        try:
            nkeys.from_seed(bytearray(Path(settings.nkey).read_bytes().strip())).wipe()
        except (OSError, ValueError, nkeys.NkeysError) as error:
            raise InvalidInputError(f"the nkey at {settings.nkey!r} cannot be used: {said(error)}") from error


async def drop(client: Any) -> None:
    """Close a client and wait until nothing of it runs any more."""
    if client is None:
        return
    try:
        await client.close()
    except (foreign.Error, OSError, AttributeError, AssertionError) as error:  # the last two: it never had a socket
        logger.debug("closing the NATS connection: %s", said(error))


def abort(client: Any) -> None:
    """Drop a client's socket, with what has not been sent."""
    client._pending, client._pending_data_size = [], 0  # noqa: SLF001 - the client itself always waits for it
    writer = getattr(getattr(client, "_transport", None), "_io_writer", None)
    if writer is not None:
        writer.transport.abort()


async def ended(task: Awaitable[Any]) -> None:
    """Cancel a task and wait for its end."""
    future = asyncio.ensure_future(task)
    future.cancel()
    await asyncio.wait([future])
    if not future.cancelled() and future.exception() is not None:
        logger.debug("a task of the NATS connection ended", exc_info=future.exception())


def denial_in(text: str) -> tuple[str, str] | None:
    """Return what a server's error says that it denies: publishing or a subscription, and the subject."""
    found = _DENIED.search(text)
    return None if found is None else (found.group(1).lower(), found.group(2))


def said(error: BaseException | None) -> str:
    """Return an error in words."""
    return "" if error is None else (str(error) or type(error).__name__)
