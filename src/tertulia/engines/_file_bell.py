"""Doorbells: how processes that share a file wake each other, and hand over what is stored nowhere."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from contextlib import suppress
from enum import Enum
from itertools import islice
from pathlib import Path

import msgspec

from tertulia.engines._file_format import encode
from tertulia.engines.base import Claimed

MAX_PATH = 100  # bytes; a socket's address has room for 108 on Linux and 104 on macOS
MAX_DATAGRAM = 64 * 1024  # bytes; what is larger is not for a doorbell: half of the smallest usual buffer
MAX_RINGS = 256  # read at once, so that a noisy neighbour cannot keep the event loop busy
MAX_CLEARED = 256  # left-over sockets looked at when a bell is hung up: some milliseconds, and the next one goes on
RING = b""

_read_carried = msgspec.msgpack.Decoder(tuple[str, str, bytes, int, float, int, tuple[bytes, ...]]).decode


class Rung(Enum):
    """What became of a ring."""

    YES = "yes"
    FULL = "full"  # rung already, and not heard yet
    GONE = "gone"  # nobody is there any more
    NO = "no"


class Bell:
    """This process's doorbell for one space."""

    def __init__(self, directory: Path, name: str) -> None:
        path = directory / name
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self.socket.bind(self.path)
        except OSError:
            self.socket.close()
            raise

    def ring(self, path: str, datagram: bytes = RING) -> Rung:
        """Ring another's bell; never waits."""
        try:
            self.socket.sendto(datagram, path)
        except BlockingIOError:
            return Rung.FULL
        except (ConnectionRefusedError, FileNotFoundError):
            with suppress(OSError):
                os.unlink(path)  # noqa: PTH108 - what is left of a process that was killed
            return Rung.GONE
        except OSError:
            return Rung.NO
        return Rung.YES

    def next(self) -> bytes | None:
        """Return the datagram that came first, or None."""
        try:
            return self.socket.recv(MAX_DATAGRAM)
        except (BlockingIOError, ConnectionError):
            return None

    def heard(self) -> list[bytes]:
        """Return the datagrams that came since."""
        found: list[bytes] = []
        with suppress(BlockingIOError, ConnectionError):
            while len(found) < MAX_RINGS:
                found.append(self.socket.recv(MAX_DATAGRAM))
        return found

    def take_down(self) -> list[bytes]:
        """Let nobody find the bell any more; return what was not heard. Others can still be rung."""
        with suppress(OSError):
            os.unlink(self.path)  # noqa: PTH108 - a socket, not a file
        return self.heard()

    def close(self) -> None:
        """Take the bell down for good."""
        self.take_down()
        self.socket.close()


def runtime_directory() -> Path | None:
    """Return a short private directory for sockets, or None where there is none to be had."""
    user = os.geteuid()
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    for candidate in (*([Path(given) / "tertulia"] if given else []), Path(tempfile.gettempdir()) / f"tertulia-{user}"):
        try:
            candidate.mkdir(mode=0o700, exist_ok=True)
            found = candidate.lstat()
        except OSError:
            continue
        mine = stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & 0o077
        if mine and len(os.fsencode(candidate)) + 56 <= MAX_PATH:
            return candidate
    return None


def clear_away(directory: Path, prefix: str) -> None:
    """Remove the sockets of a space's processes that were killed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe, suppress(OSError):
        for path in islice(directory.glob(f"{prefix}*"), MAX_CLEARED):
            try:
                probe.connect(str(path))  # without ringing
            except (ConnectionRefusedError, FileNotFoundError):
                path.unlink(missing_ok=True)


def pack_carried(claimed: Claimed, due: float = 0.0) -> bytes | None:
    """Return a datagram that carries a message, or None where it is too large.

    `due` is when the lease ends, on the shared time, of one that is handed over with a lease. Without it, a message
    with a place in the order of the space's is stored too, for a listener; one without is stored nowhere.
    """
    datagram = encode(
        (
            claimed.mailbox, claimed.message_id, claimed.body, claimed.sequence, due, claimed.max_attempts,
            claimed.notes,
        )
    )  # fmt: skip
    return datagram if len(datagram) <= MAX_DATAGRAM else None


def unpack_carried(datagram: bytes) -> tuple[Claimed, float] | None:
    """Return the message that a datagram carries, and when its lease ends; None for a mere ring."""
    if not datagram:
        return None
    try:
        mailbox, message_id, body, sequence, due, max_attempts, notes = _read_carried(datagram)
    except msgspec.MsgspecError:
        return None
    return Claimed(mailbox, message_id, body, sequence, notes=notes, max_attempts=max_attempts), due
