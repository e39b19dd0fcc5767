"""What kind of content a message has, where MessagePack does not tell."""

from __future__ import annotations

TYPE_HEADER = "tertulia-type"  # the class of the content
_PLAIN = {dict, list, tuple, set, str, bytes, int, float, bool, type(None)}


def type_headers(content: object) -> dict[str, str] | None:
    """Return the header that tells an object's class, or None for plain content."""
    kind = content.__class__
    return None if kind in _PLAIN else {TYPE_HEADER: kind.__name__}
