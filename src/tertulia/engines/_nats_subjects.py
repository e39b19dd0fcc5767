"""Where everything of a space lies: the names of its streams and subjects, and how keys and names become tokens.

A subject's tokens hold letters, digits, `-`, `_` and `/`; every other byte is written `=XX`, and an empty level `=`. A
key's levels are tokens of their own, so that a prefix of keys is a filter on the server, and can be granted there. Who
sends a message is a token, too, so that a server can hold each agent to its own name.
"""

from __future__ import annotations

import re
from functools import lru_cache

from tertulia.engines.base import DEAD_LETTERS, REPLIES

SPACE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what a stream's name, a token and a file's name on any server take
_SAFE = re.compile(r"[-/_a-zA-Z0-9]+")
_UNSAFE = re.compile(rb"[^-/_a-zA-Z0-9]")
_ESCAPED = re.compile(r"=([0-9A-F]{2})")
_ROLL = "=-"  # a token that no text has
_CACHE = 8192  # a team's working set of names; a miss costs two microseconds


def _escaped(text: str) -> str:
    if _SAFE.fullmatch(text) is not None:
        return text
    return _UNSAFE.sub(lambda found: b"=%02X" % found.group()[0], text.encode()).decode() or "="


@lru_cache(_CACHE)
def token(text: str) -> str:
    """Return a text as one token; no two texts have the same."""
    return _escaped(text)


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


def mail_key(author: str, message_id: str) -> str:
    """Return what tells a message from all others in its mailbox; ids have no line breaks."""
    return f"{author}\n{message_id}" if author else message_id


def split_mail_key(key: str) -> tuple[str, str]:
    """Return the author and the id of a message."""
    author, _, message_id = key.rpartition("\n")
    return author, message_id


@lru_cache(_CACHE)
def _message(mailbox: str, key: str) -> str:
    """Return three tokens for a message. Its id is no part of what `token` remembers: there are too many ids."""
    author, message_id = split_mail_key(key)
    return f"{token(mailbox)}.{token(author)}.{_escaped(message_id)}"


@lru_cache(_CACHE)
def _address(mailbox: str) -> str:
    """Return three tokens for where a mailbox's owner listens: for what, whose it is, which of theirs."""
    if not mailbox.startswith(REPLIES):
        return f"now.{token(mailbox)}.="
    owner, _, rest = mailbox.removeprefix(REPLIES).rpartition(":")
    return f"rep.{token(owner)}.{token(rest)}"


class Subjects:
    """The subjects of one space, as `identity` may use them ("" for everybody).

    Stored in the stream: `kv` keys, `mbx` messages, `box` mailboxes, `reg` what changes whenever a mailbox or a
    subscription does, `ltr` letters to listeners, `lsn` listeners, `chk` members of a batch that only check. The feed
    repeats what is stored, the moment it is. Live subjects are stored nowhere.
    """

    def __init__(self, space: str, identity: str = "") -> None:
        self._identity = identity
        self._own = ("", identity, DEAD_LETTERS + identity) if identity else ()
        self.stream = f"tertulia_{space}"
        self.history_stream = f"tertulia-history_{space}"
        self.root = root = f"tertulia.{space}"
        self.feed = f"tertulia-feed.{space}"
        self.live = f"tertulia-live.{space}"
        self.history = f"tertulia-history.{space}"
        self.registry = f"{root}.reg"
        self.check = f"{root}.chk"
        self.all_keys = f"{root}.kv.>"
        self.some_changes = f"{self.history}.="  # there is no key "", so it is nobody's
        self.all_changes = f"{self.history}.>"
        self.all_boxes = f"{root}.box.*"
        self.all_mail = f"{root}.mbx.>"
        self._keys = f"{root}.kv."
        self._mail = f"{root}.mbx."

    @property
    def stored(self) -> list[str]:
        """The subjects that the stream takes."""
        root = self.root
        kinds = ("kv.>", "mbx.*.*.*", "box.*", "reg", "ltr.*.*.*.*.*", "lsn.*.*.*", "chk")
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

    def changes(self, key: str) -> str:
        """Return the subject of a key's changes in the history; of all keys' where the identity may write all."""
        return self.changes_of(key) if self._identity else self.some_changes

    def changes_of(self, key: str) -> str:
        """Return the subject of one key's changes in the history, which only who may write the key can write."""
        return f"{self.history}.{key_tokens(key)}"

    def message(self, mailbox: str, key: str) -> str:
        """Return the subject of a message; see `mail_key`."""
        return self._mail + _message(mailbox, key)

    def messages(self, mailbox: str) -> str:
        """Return a filter for the messages of a mailbox, or for those of them that the identity may see."""
        author = "*" if not self._own or mailbox in self._own else token(self._identity)
        return f"{self._mail}{token(mailbox)}.{author}.*"

    def messages_called(self, mailbox: str, message_id: str) -> str:
        """Return a filter for the messages of an id, whoever sent them; see `messages`."""
        return f"{self.messages(mailbox)[:-1]}{token(message_id)}"

    def roll(self, mailbox: str) -> str:
        """Return the subject of a mailbox's roll; that of no message, since no author has this token."""
        return f"{self._mail}{token(mailbox)}.{_ROLL}.{_ROLL}"

    def message_of(self, subject: str) -> tuple[str, str]:
        """Return the mailbox of a message's subject, and what tells it from all others there."""
        mailbox, author, message_id = subject[len(self._mail) :].split(".")
        return untoken(mailbox), mail_key(untoken(author), untoken(message_id))

    def box(self, mailbox: str) -> str:
        """Return the subject of a mailbox."""
        return f"{self.root}.box.{token(mailbox)}"

    def last(self, subject: str) -> str:
        """Return the text that a subject's last token stands for."""
        return untoken(subject.rpartition(".")[2])

    def listener(self, mailbox: str) -> str:
        """Return the subject under which a listener is registered."""
        return f"{self.root}.lsn.{_address(mailbox)}"

    def letter(self, mailbox: str, author: str, message_id: str) -> str:
        """Return the subject of a letter to a listener."""
        return f"{self.root}.ltr.{_address(mailbox)}.{token(author)}.{token(message_id)}"

    def letters(self, mailbox: str) -> str:
        """Return a filter for the letters to a listener."""
        return f"{self.root}.ltr.{_address(mailbox)}.*.*"

    def author_of_letter(self, subject: str) -> str:
        """Return who sent a letter."""
        return untoken(subject.rsplit(".", 2)[1])

    def fed(self, stored: str) -> str:
        """Return where the feed repeats what is stored under a subject or filter."""
        return self.feed + stored[len(self.root) :]

    def unfed(self, fed: str) -> str:
        """Return the stored subject that a subject of the feed repeats."""
        return self.root + fed[len(self.feed) :]

    def handed(self, mailbox: str, author: str | None = None) -> str:
        """Return where what an author sends is handed to a mailbox's consumers or its listener; None: any author."""
        return f"{self.live}.{_address(mailbox)}.{'*' if author is None else token(author)}"
