"""Where everything of a space lies: the names of its streams and subjects, and how keys and names become tokens.

A subject's tokens hold letters, digits, `-`, `_` and `/`; every other byte is written `=XX`, and an empty level `=`. A
key's levels are tokens of their own, so that a prefix of keys is a filter on the server, and can be granted there.
"""

from __future__ import annotations

import re
from functools import lru_cache

SPACE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what a stream's name, a token and a file's name on any server take
_UNSAFE = re.compile(rb"[^-/_a-zA-Z0-9]")
_ESCAPED = re.compile(r"=([0-9A-F]{2})")
_CACHE = 8192  # a team's working set of names; a miss costs two microseconds


@lru_cache(_CACHE)
def token(text: str) -> str:
    """Return a text as one token; no two texts have the same."""
    return _UNSAFE.sub(lambda found: b"=%02X" % found.group()[0], text.encode()).decode() or "="


@lru_cache(_CACHE)
def untoken(token: str) -> str:
    """Return the text of a token."""
    if "=" not in token:
        return token
    if token == "=":  # noqa: S105 - a subject's token
        return ""
    return _ESCAPED.sub(lambda found: chr(int(found.group(1), 16)), token).encode("latin-1").decode()


@lru_cache(_CACHE)
def key_tokens(key: str) -> str:
    """Return the tokens of a key: one for each of its levels."""
    return ".".join([token(level) for level in key.split(":")])


@lru_cache(_CACHE)
def key_of(tokens: str) -> str:
    """Return the key of these tokens."""
    return ":".join([untoken(one) for one in tokens.split(".")])


class Subjects:
    """The subjects of one space.

    Stored in the stream: `kv` keys, `mbx` messages, `box` mailboxes, `reg` what changes whenever a mailbox or a
    subscription does, `ltr` letters to listeners, `lsn` listeners, `chk` members of a batch that only check. The feed
    repeats what is stored, the moment it is. Live subjects are stored nowhere.
    """

    def __init__(self, space: str) -> None:
        self.stream = f"tertulia_{space}"
        self.history_stream = f"tertulia-history_{space}"
        self.root = root = f"tertulia.{space}"
        self.feed = f"tertulia-feed.{space}"
        self.live = f"tertulia-live.{space}"
        self.history = f"tertulia-history.{space}"
        self.registry = f"{root}.reg"
        self.check = f"{root}.chk"
        self.all_keys = f"{root}.kv.>"
        self.all_boxes = f"{root}.box.*"
        self.all_mail = f"{root}.mbx.>"
        self._keys = f"{root}.kv."
        self._mail = f"{root}.mbx."

    @property
    def stored(self) -> list[str]:
        """The subjects that the stream takes."""
        root = self.root
        kinds = ("kv.>", "mbx.*.*", "box.*", "reg", "ltr.*.*", "lsn.*", "chk")
        return [f"{root}.{kind}" for kind in kinds]

    def key(self, key: str) -> str:
        """Return the subject of a key."""
        return self._keys + key_tokens(key)

    def keys(self, prefix: str) -> str:
        """Return a filter for at least the keys that start with a prefix."""
        levels, colon, _ = prefix.rpartition(":")
        return f"{self._keys}{key_tokens(levels)}.>" if colon else self.all_keys

    def key_of(self, subject: str) -> str:
        """Return the key that a subject is of."""
        return key_of(subject[len(self._keys) :])

    def message(self, mailbox: str, message_id: str) -> str:
        """Return the subject of a message."""
        return f"{self._mail}{token(mailbox)}.{token(message_id)}"

    def messages(self, mailbox: str) -> str:
        """Return a filter for the messages of a mailbox."""
        return f"{self._mail}{token(mailbox)}.*"

    def message_of(self, subject: str) -> tuple[str, str]:
        """Return the mailbox and the id of a message's subject."""
        mailbox, _, message_id = subject[len(self._mail) :].partition(".")
        return untoken(mailbox), untoken(message_id)

    def box(self, mailbox: str) -> str:
        """Return the subject of a mailbox."""
        return f"{self.root}.box.{token(mailbox)}"

    def last(self, subject: str) -> str:
        """Return the text that a subject's last token stands for."""
        return untoken(subject.rpartition(".")[2])

    def listener(self, mailbox: str) -> str:
        """Return the subject under which a listener is registered."""
        return f"{self.root}.lsn.{token(mailbox)}"

    def letter(self, mailbox: str, message_id: str) -> str:
        """Return the subject of a letter to a listener."""
        return f"{self.root}.ltr.{token(mailbox)}.{token(message_id)}"

    def letters(self, mailbox: str) -> str:
        """Return a filter for the letters to a listener."""
        return f"{self.root}.ltr.{token(mailbox)}.*"

    def fed(self, stored: str) -> str:
        """Return where the feed repeats what is stored under a subject or filter."""
        return self.feed + stored[len(self.root) :]

    def unfed(self, fed: str) -> str:
        """Return the stored subject that a subject of the feed repeats."""
        return self.root + fed[len(self.feed) :]

    def handed(self, mailbox: str) -> str:
        """Return where messages that are not stored are handed to a mailbox's consumers or its listener."""
        return f"{self.live}.now.{token(mailbox)}"
