"""The grammar of keys, agent names and topics, and of the patterns over them.

Keys are UTF-8, 1 to 512 bytes, with `:` between levels by convention. A key pattern is a shell glob over
the whole key (`*`, `?`, `[seq]`, `[!seq]`); without a wildcard it is that exact key. `literal` quotes a key
that holds wildcard characters. Topics are levels separated by `.`; in a topic pattern `*` is one level and a
last `>` is one or more levels.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import translate
from functools import lru_cache

from tertulia.errors import InvalidKeyError, InvalidNameError, InvalidTopicError

MAX_KEY_BYTES = 512  # fits a NATS subject (4 KiB) even when every byte is escaped as three
MAX_NAME_BYTES = 128  # names are parts of keys and subjects
MAX_TOPIC_BYTES = 256
MAX_TOPIC_LEVELS = 16  # keeps matching cheap; deeper trees are better carried in the content
RESERVED = "_"  # names that start with it are the library's own
RESERVED_KEYS = "_tertulia:"  # and keys that start with this
REGION_KEYS = "region:"  # keys of regions, reached through MemoryRegion only

_CACHE = 4096  # a team's working set of names; a miss costs under a microsecond
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_WILDCARD = re.compile(r"[*?\[]")
_SPACE = re.compile(r"\s")


def check_key(key: str) -> str:
    """Return the key, or raise InvalidKeyError."""
    try:
        return _checked_key(key)
    except TypeError:  # not hashable, so not a string
        raise InvalidKeyError(key, text_fault(key, MAX_KEY_BYTES)) from None


@lru_cache(_CACHE)
def _checked_key(key: str) -> str:
    reason = text_fault(key, MAX_KEY_BYTES)
    if not reason and key.startswith(RESERVED_KEYS):
        reason = f"keys that start with {RESERVED_KEYS!r} are reserved"
    if reason:
        raise InvalidKeyError(key, reason)
    return key


def check_name(name: str) -> str:
    """Return a name of an agent, region or workspace, or raise InvalidNameError.

    Names that start with `_` are the library's own; `:` separates the levels of keys.
    """
    try:
        return _checked_name(name)
    except TypeError:  # not hashable, so not a string
        raise InvalidNameError(name, text_fault(name, MAX_NAME_BYTES)) from None


@lru_cache(_CACHE)
def _checked_name(name: str) -> str:
    reason = text_fault(name, MAX_NAME_BYTES)
    if not reason and ":" in name:
        reason = "':' separates the levels of keys"
    if not reason and name.startswith(RESERVED):
        reason = f"names that start with {RESERVED!r} are reserved"
    if not reason and name != name.strip():
        reason = "it starts or ends with white space"
    if reason:
        raise InvalidNameError(name, reason)
    return name


def check_topic(topic: str) -> str:
    """Return a topic that can be published to, or raise InvalidTopicError."""
    levels = _topic_levels(topic)
    if "*" in levels or ">" in levels:
        raise InvalidTopicError(topic, "wildcards are for subscribing only")
    return topic


def check_topic_pattern(pattern: str) -> str:
    """Return a topic pattern that can be subscribed to, or raise InvalidTopicError."""
    levels = _topic_levels(pattern)
    if ">" in levels[:-1]:
        raise InvalidTopicError(pattern, "'>' stands for the rest, so it comes last")
    return pattern


def topic_of(kind: str, name: str) -> str:
    """Return the topic `kind.name`, with what a topic's level cannot hold written as `%HEX`; InvalidNameError."""
    level = "".join(f"%{ord(char):02X}" if char in ".*>%" or char.isspace() else char for char in name)
    try:
        return check_topic(f"{kind}.{level}")
    except InvalidTopicError:
        raise InvalidNameError(name, "it is too long for a topic, with its characters escaped") from None


def literal(key: str) -> str:
    """Return a pattern that matches exactly this key, whatever characters it has."""
    return _WILDCARD.sub(lambda found: f"[{found.group()}]", key)


def is_pattern(pattern: str) -> bool:
    """Tell whether a key pattern has a wildcard."""
    return _WILDCARD.search(pattern) is not None


def literal_prefix(pattern: str) -> str:
    """Return what every key that matches the pattern starts with."""
    found = _WILDCARD.search(pattern)
    return pattern if found is None else pattern[: found.start()]


def key_matcher(pattern: str) -> Callable[[str], object]:
    """Return a function that is truthy for keys that match the glob.

    Raises InvalidKeyError for a pattern that is no string, empty, too long or has control characters.
    """
    try:
        return _key_matcher(pattern)
    except TypeError:  # not hashable, so not a string
        raise InvalidKeyError(pattern, text_fault(pattern, MAX_KEY_BYTES)) from None


@lru_cache(_CACHE)
def _key_matcher(pattern: str) -> Callable[[str], object]:
    reason = text_fault(pattern, MAX_KEY_BYTES * 3)  # every character may be quoted as `[c]`
    if reason:
        raise InvalidKeyError(pattern, reason)
    if pattern == "*":
        return _always
    if not is_pattern(pattern):
        return pattern.__eq__
    head, star, tail = pattern.partition("*")
    if star and not tail and not is_pattern(head):
        return _prefix_matcher(head)
    return re.compile(translate(pattern)).match


@lru_cache(_CACHE)
def topic_matcher(pattern: str) -> Callable[[str], object]:
    """Return a function that is truthy for topics that match the (checked) topic pattern."""
    if pattern == ">":
        return _always
    levels = pattern.split(".")
    if "*" not in levels and ">" not in levels:
        return pattern.__eq__
    rest = levels[-1] == ">"
    parts = ["[^.]+" if level == "*" else re.escape(level) for level in levels]
    if rest:
        parts[-1] = ".+"
    return re.compile(r"\.".join(parts) + r"\Z").match


def _always(_: str) -> bool:
    return True


def _prefix_matcher(prefix: str) -> Callable[[str], bool]:
    return lambda key: key.startswith(prefix)


def _topic_levels(topic: str) -> list[str]:
    reason = text_fault(topic, MAX_TOPIC_BYTES)
    levels = topic.split(".") if not reason else []
    if not reason and _SPACE.search(topic):
        reason = "it has white space"
    if not reason and "" in levels:
        reason = "it has an empty level"
    if not reason and len(levels) > MAX_TOPIC_LEVELS:
        reason = f"it has more than {MAX_TOPIC_LEVELS} levels"
    if not reason and any(len(level) > 1 and (">" in level or "*" in level) for level in levels):
        reason = "'*' and '>' stand for whole levels"
    if reason:
        raise InvalidTopicError(topic, reason)
    return levels


def text_fault(text: object, limit: int) -> str:
    """Return what is wrong with a name of any kind, or an empty string."""
    if not isinstance(text, str):
        return f"it is {type(text).__name__}, not a string"
    if not text:
        return "it is empty"
    if len(text) > limit or len(text.encode(errors="replace")) > limit:
        return f"it takes more than {limit} bytes"
    found = _CONTROL.search(text)
    return f"it has the control character {found.group()!r}" if found else ""
